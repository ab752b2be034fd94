"""MLflow: the server that MLFLOW_TRACKING_URI names, or a local database `mlflow.db` beside the run folders."""

from __future__ import annotations

import logging
import os
import re
import shlex
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from prefloop.tracking.record import START, Line, Mark, Run
from prefloop.tracking.trackers import Sent

SENT = "prefloop.sent"  # tag with the last line: what a killed process has sent but not noted
METRICS, PARAMS, TEXT = 1000, 100, 6000  # MLflow's limits: of one request, and of the characters of a value
STATUS = {0: "FINISHED", 129: "KILLED", 130: "KILLED", 143: "KILLED"}


def place(run: Run) -> str:
    return f"{_uri(run)}, experiment {run.project}"


def look(run: Run) -> str:
    return f"`mlflow ui --backend-store-uri {shlex.quote(_uri(run))}`"


def open_run(run: Run, earlier: Sent | None) -> Experiment:
    """The run that was begun before, or a new one with its configuration."""
    return Experiment(run, earlier)


class Experiment:
    """Writes batches through a client of its own, so that a run that the user has open in MLflow is not touched."""

    def __init__(self, run: Run, earlier: Sent | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when the library is imported
        self._entities: Any = import_module("mlflow.entities")
        for name in ("mlflow", "alembic"):  # they report every table that they create
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client: Any = import_module("mlflow.tracking").MlflowClient(_uri(run))
        self.id, self.sent = (earlier.id, self._stored(earlier.id)) if earlier else (self._new(run), START)
        if earlier:
            self._client.set_terminated(self.id, "RUNNING")

    def _stored(self, run_id: str) -> Mark:
        told = self._client.get_run(run_id).data.tags.get(SENT)
        return START if told is None else Mark(int(told.split()[0]), told.endswith("evaluation"))

    def _new(self, run: Run) -> str:
        found = self._client.get_experiment_by_name(run.project)
        experiment = found.experiment_id if found else self._client.create_experiment(run.project)
        created = str(self._client.create_run(experiment, run_name=run.name, tags={"prefloop.id": run.id}).info.run_id)
        params = [self._entities.Param(_key(key), str(value)[:TEXT]) for key, value in run.config.items()]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(created, params=params[start : start + PARAMS])
        return created

    def log(self, lines: Sequence[Line]) -> None:
        batch: list[Any] = []
        for i, (mark, values) in enumerate(lines):
            now = int(time.time() * 1000)
            batch += [self._entities.Metric(_key(key), x, now, mark.step) for key, x in values.items()]
            if i + 1 == len(lines) or len(batch) + len(lines[i + 1].values) > METRICS:
                told = f"{mark.step} {'evaluation' if mark.evaluation else 'step'}"
                self._client.log_batch(self.id, metrics=batch, tags=[self._entities.RunTag(SENT, told)])
                batch = []

    def close(self, code: int) -> None:
        self._client.set_terminated(self.id, STATUS.get(code, "FAILED"))


def _uri(run: Run) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder.resolve().parent / 'mlflow.db'}"


def _key(name: str) -> str:
    """A name with what MLflow allows in one."""
    return re.sub(r"[^\w. :/-]", "_", name)
