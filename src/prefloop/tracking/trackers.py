"""The table of trackers, and the interface of their adapters."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from prefloop.core.errors import UserError, nearest
from prefloop.tracking.record import Line, Mark


class Sent(NamedTuple):
    """What has been sent before, as the run folder remembers it."""

    id: str  # of the run in the tracker
    mark: Mark


class Tracker(Protocol):
    """One run in a tracker: what `open_run(run, earlier)` of an adapter returns.

    `earlier` is what was sent to the same place before, None if nothing was. Nothing is sent before `open_run`.
    """

    id: str  # of the run in the tracker
    sent: Mark  # the last line that the tracker has

    def log(self, lines: Sequence[Line]) -> None:
        """Store lines in order; what could not be stored is an error."""

    def close(self, code: int) -> None:
        """End with the exit code of the run: 0 finished, 129, 130 or 143 stopped, others failed."""


PACKAGES = {"trackio": "trackio", "tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


def check(names: Sequence[str], where: str = "tracking.to") -> None:
    """Refuse trackers that are unknown, given twice, or not installed; imports none of them.

    Raises:
        UserError: with the command that installs it.
    """
    known(names, where)
    for name in names:
        if find_spec(PACKAGES[name]) is None:
            what = f"tracking to `{name}` needs the package {PACKAGES[name]}, which is not installed"
            raise UserError(what, where=where, fix=f"pip install 'prefloop[{name}]'")


def known(names: Sequence[str], where: str = "tracking.to") -> None:
    """Refuse trackers that are unknown or given twice.

    Raises:
        UserError: with the nearest name.
    """
    for name in names:
        if name not in PACKAGES:
            raise UserError(f"unknown tracker `{name}`", where=where, fix=nearest(name, PACKAGES))
    if len(set(names)) < len(names):
        raise UserError("a tracker is named twice", where=where, fix="name each once")


def adapter(name: str) -> Any:
    """The module of an adapter: `place(run)`, where it keeps the run, `look(run)`, how to see it (neither needs the
    library), and `open_run(run, earlier)`."""
    return import_module(f"prefloop.tracking.{name}")
