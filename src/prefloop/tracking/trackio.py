"""trackio: its local database, which `trackio show` displays and `trackio sync` sends to a Space on request.

Lines go to the database itself, each under an identifier of its own: what is sent twice is there once, errors are not
hidden, and nothing asks the hub who the user is, as `trackio.init` does wherever a token is stored.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from prefloop.tracking.record import START, Line, Run
from prefloop.tracking.trackers import Sent


def place(run: Run) -> str:
    return f"{os.environ.get('TRACKIO_DIR') or 'the local database of trackio'}, project {run.project}"


def look(run: Run) -> str:
    return f"`trackio show --project {shlex.quote(run.project)}`"


def open_run(run: Run, earlier: Sent | None) -> Project:
    """The run in the database of its project; a database that has been deleted begins again."""
    return Project(run, earlier)


class Project:
    """Writes each batch in one transaction."""

    def __init__(self, run: Run, earlier: Sent | None) -> None:
        self._storage, self._run = _storage(), run
        self._storage.validate_project_name(run.project)
        self.id = earlier.id if earlier else run.id
        there = self._storage.get_last_step(run.project, run=run.name, run_id=self.id)
        self.sent = START if earlier is None or there is None else earlier.mark

    def log(self, lines: Sequence[Line]) -> None:
        self._storage.bulk_log(
            project=self._run.project,
            run=self._run.name,
            run_id=self.id,
            metrics_list=[values for _, values in lines],
            steps=[mark.step for mark, _ in lines],
            log_ids=[f"{self.id}:{mark.step}:{'evaluation' if mark.evaluation else 'step'}" for mark, _ in lines],
            config=self._run.config,
        )

    def close(self, code: int) -> None:
        """Nothing is left to write."""


def _storage() -> Any:
    return import_module("trackio.sqlite_storage").SQLiteStorage
