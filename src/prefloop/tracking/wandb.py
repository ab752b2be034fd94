"""W&B: offline, in the folder `wandb` of the run, unless WANDB_MODE says otherwise; `wandb sync` uploads it later."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from prefloop.tracking.record import START, Line, Run
from prefloop.tracking.trackers import Sent

OFFLINE = "offline"
QUIET = {  # nothing of the machine, the repository or the terminal is collected
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


def place(run: Run) -> str:
    """A later run of another mode sends everything: what is offline is not on the server."""
    return f"project {run.project}, {_mode()}"


def look(run: Run) -> str:
    if _mode() != OFFLINE:
        return f"on the server, because WANDB_MODE is {_mode()}"
    folder = shlex.quote(str(run.folder / "wandb"))
    return f"offline, unless WANDB_MODE says otherwise; to upload: `wandb sync {folder}/offline-run-*`"


def open_run(run: Run, earlier: Sent | None) -> Online:
    """The run of this id, which goes on if it exists."""
    return Online(run, earlier)


class Online:
    """Hands lines to W&B's own process. The axis is the metric `step`: W&B drops what comes late on its own axis."""

    def __init__(self, run: Run, earlier: Sent | None) -> None:
        mode = _mode()
        if mode == OFFLINE:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when the library is imported
        wandb: Any = import_module("wandb")
        self.id = earlier.id if earlier else run.id
        self.sent = earlier.mark if earlier else START
        self._run = wandb.init(
            project=run.project,
            id=self.id,
            name=run.name,
            config=run.config,
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            mode=mode,
            resume="allow",
            reinit="create_new",  # several runs of one process are several runs
            settings=wandb.Settings(**QUIET),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, lines: Sequence[Line]) -> None:
        for mark, values in lines:
            self._run.log({"step": mark.step, **values})

    def close(self, code: int) -> None:
        self._run.finish(exit_code=code)


def _mode() -> str:
    return os.environ.get("WANDB_MODE") or OFFLINE
