"""What trackers are told: a run in words, and the lines of its metrics in order. Imports no tracker and no torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

METRICS, CONFIG, MANIFEST = "metrics.jsonl", "config.yaml", "manifest.json"  # in a run folder
PROJECT = "prefloop"


class Mark(NamedTuple):
    """A place in the metrics of a run: a step's own line comes before that of the evaluation after it."""

    step: int
    evaluation: bool


START = Mark(-1, False)  # before the evaluation of the untrained model


class Line(NamedTuple):
    """One line of metrics: its place, and its numbers by name."""

    mark: Mark
    values: dict[str, float]


@dataclass(frozen=True)
class Run:
    """A run as trackers show it.

    Args:
        id: the name of its folder, which no other run has.
        name: how it is shown.
        config: everything that was set, by dotted keys, with the command and the versions.
    """

    folder: Path
    id: str
    name: str
    project: str
    config: dict[str, Any]


def described(folder: Path, project: str | None = None, name: str | None = None) -> Run:
    """The run of a folder.

    Args:
        project, name: by default those of its configuration, or `prefloop` and the name of the folder.
    """
    config = dict(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")) or {})
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    own, place = config.pop("tracking", None) or {}, folder.resolve().name
    told = {"command": shlex.join(map(str, manifest.get("command", []))), "versions": manifest.get("versions", {})}
    return Run(
        folder=folder,
        id=place,
        name=name or own.get("name") or place,
        project=project or own.get("project") or PROJECT,
        config=_flat({**config, **told}),
    )


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys; lists as text."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{above}{key}.")
        else:
            out[f"{above}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return out


class Tail:
    """The lines of a file that another thread or process may still be writing: each complete one once, in order."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def new(self) -> list[Line]:
        """The lines that were completed since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [parsed(json.loads(text)) for text in whole.splitlines()]


def parsed(record: Mapping[str, Any]) -> Line:
    """A line of metrics.jsonl; what is no number, and the step itself, is no metric."""
    numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    step = int(numbers.pop("step"))
    return Line(Mark(step, record.get("kind") == "evaluation"), {k: float(v) for k, v in numbers.items()})
