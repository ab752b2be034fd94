"""Doubles of the libraries of three trackers: the calls of the adapters, with the original signatures."""

from __future__ import annotations

import sys
from collections import defaultdict
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Rows = list[tuple[int, dict[str, float]]]


class Double:
    """What a library has stored, by run."""

    def __init__(self) -> None:
        self.rows: dict[str, Rows] = defaultdict(list)
        self.config: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.broken = False  # as after the disk has filled, or the network has gone

    def called(self, call: str, /, **given: Any) -> None:
        self.calls.append((call, given))
        if self.broken:
            raise OSError(28, "No space left on device")

    def named(self, name: str) -> list[dict[str, Any]]:
        return [given for call, given in self.calls if call == name]


def install(monkeypatch: pytest.MonkeyPatch, **modules: dict[str, Any]) -> None:
    """Put modules in place; `a__b` is a.b."""
    for name, content in modules.items():
        module = ModuleType(name.replace("__", "."))
        module.__dict__.update(content)
        module.__spec__ = SimpleNamespace(name=module.__name__)  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, module.__name__, module)


def trackio(monkeypatch: pytest.MonkeyPatch) -> Double:
    double, seen = Double(), set[str]()

    class SQLiteStorage:
        @staticmethod
        def validate_project_name(project: str) -> None:
            if project.startswith("registry-"):
                raise ValueError("reserved")

        @staticmethod
        def get_last_step(project: str, run: str | None = None, run_id: str | None = None) -> int | None:
            return max((step for step, _ in double.rows[str(run_id)]), default=None)

        @staticmethod
        def bulk_log(project: str, run: str, metrics_list: list[dict[str, float]], steps: list[int] | None = None,
                     timestamps: Any = None, config: Any = None, log_ids: list[str] | None = None,
                     space_id: Any = None, run_id: str | None = None) -> None:  # fmt: skip
            double.called("bulk_log", project=project, run=run, run_id=run_id)
            double.config[str(run_id)] = config
            for values, step, log_id in zip(metrics_list, steps or [], log_ids or [], strict=True):
                if log_id not in seen:  # INSERT OR IGNORE
                    double.rows[str(run_id)].append((step, values))
                    seen.add(log_id)

    install(monkeypatch, trackio={}, trackio__sqlite_storage={"SQLiteStorage": SQLiteStorage})
    return double


def wandb(monkeypatch: pytest.MonkeyPatch) -> Double:
    double = Double()

    class Run:
        def __init__(self, id: str) -> None:
            self.id = id

        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            double.called("define_metric", name=name, step_metric=step_metric)

        def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
            double.called("log", **data)
            values = dict(data)
            double.rows[self.id].append((values.pop("step"), values))

        def finish(self, exit_code: int | None = None, quiet: bool | None = None) -> None:
            double.called("finish", exit_code=exit_code)

    def init(*, project: str, id: str, name: str, config: dict[str, Any], dir: str, mode: str, resume: str,
             reinit: str, settings: Any) -> Run:  # fmt: skip
        double.called("init", project=project, id=id, name=name, dir=dir, mode=mode, resume=resume, reinit=reinit,
                      settings=settings)  # fmt: skip
        double.config[id] = config
        return Run(id)

    install(monkeypatch, wandb={"init": init, "Settings": lambda **given: given})
    return double


def mlflow(monkeypatch: pytest.MonkeyPatch) -> Double:
    double = Double()
    tags: dict[str, dict[str, str]] = defaultdict(dict)

    class MlflowClient:
        def __init__(self, tracking_uri: str | None = None) -> None:
            double.called("client", uri=tracking_uri)

        def get_experiment_by_name(self, name: str) -> Any:
            return SimpleNamespace(experiment_id="7") if double.named("create_experiment") else None

        def create_experiment(self, name: str) -> str:
            double.called("create_experiment", name=name)
            return "7"

        def create_run(self, experiment_id: str, start_time: Any = None, tags: Any = None,
                       run_name: str | None = None) -> Any:  # fmt: skip
            double.called("create_run", experiment_id=experiment_id, run_name=run_name, tags=tags)
            return SimpleNamespace(info=SimpleNamespace(run_id=f"m{len(double.named('create_run'))}"))

        def get_run(self, run_id: str) -> Any:
            return SimpleNamespace(data=SimpleNamespace(tags=dict(tags[run_id])))

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
            double.called("log_batch", metrics=len(metrics), params=len(params))
            assert len(metrics) <= 1000 and len(params) <= 100
            steps: dict[int, list[Any]] = {}
            for one in metrics:
                steps.setdefault(one.step, []).append(one)
            for step, some in steps.items():
                double.rows[run_id].append((step, {one.key: one.value for one in some}))
            double.config.setdefault(run_id, {}).update({one.key: one.value for one in params})
            self._tag(run_id, tags)

        def _tag(self, run_id: str, given: Any) -> None:
            tags[run_id].update({one.key: one.value for one in given})

        def set_terminated(self, run_id: str, status: str | None = None, end_time: Any = None) -> None:
            double.called("set_terminated", status=status)

    def record(*names: str) -> Any:
        return lambda *values: SimpleNamespace(**dict(zip(names, values, strict=True)))

    kinds = {"Metric": record("key", "value", "timestamp", "step"), "Param": record("key", "value"),
             "RunTag": record("key", "value")}  # fmt: skip
    install(monkeypatch, mlflow={}, mlflow__entities=kinds, mlflow__tracking={"MlflowClient": MlflowClient})
    return double


DOUBLES = {"trackio": trackio, "wandb": wandb, "mlflow": mlflow}
