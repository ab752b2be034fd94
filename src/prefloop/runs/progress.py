"""Progress with remaining time: a bar on a terminal, plain lines elsewhere, nothing if quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from prefloop.analysis import numbers

SECONDS = 10.0  # maximum time between two plain lines
SHARE = 10  # a plain line at every tenth of the work, at most one per second


FRESH = {"reward": "reward"}
PAIRS = {"accuracy": "rewards/accuracies", "margin": "rewards/margins"}
LOGPS = ("logps/chosen", "logps/rejected")


def step_note(line: Mapping[str, Any], *, fresh: bool) -> str:
    """The loss of a step, and what tells whether it learns: the reward of fresh responses, or how pairs are ordered.

    Args:
        line: metrics of the step.
        fresh: whether the policy writes responses; the mean score of given ones says nothing.
    """
    shown = [f"{name} {line[key]:.3f}" for name, key in (FRESH if fresh else PAIRS).items() if key in line]
    if not fresh and not shown and all(key in line for key in LOGPS):
        shown = [f"log-prob chosen − rejected {numbers.fixed(line[LOGPS[0]] - line[LOGPS[1]], 1)}"]
    return "  ".join([f"loss {line['loss']:.4f}", *shown])


class Progress:
    """Counts up to `total`; use it as a context manager.

    Args:
        total: units of work.
        label: what is being done.
        done: units that were done before; they do not count for the rate.
        quiet: show nothing.
        console: output; standard error by default.
        clock: returns seconds, for tests.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        done: int = 0,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.label, self.done, self.note = total, label, done, ""
        self._before = done
        self._console = console or Console(stderr=True, soft_wrap=True)
        self._quiet, self._clock = quiet, clock
        self._start = self._spoken = clock()
        self._tenth = done * SHARE // max(1, total)
        self._bar = self._new_bar() if not quiet and self._console.is_terminal else None

    def _new_bar(self) -> Bar:
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        bar = Bar(*columns, console=self._console)
        bar.add_task(escape(self.label), total=self.total, completed=self.done, note="")
        return bar

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            with suppress(OSError):  # the terminal has gone
                self._bar.stop()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Record `units` more units; `note` shows a recent value, such as a loss."""
        self.done, self.note = self.done + units, note
        if self._bar:
            shown = f"{self.remaining()} left  {note}"
            self._bar.update(self._bar.task_ids[0], completed=self.done, total=self.total, note=escape(shown))
        elif not self._quiet and self._due():
            self._console.print(self.line(), markup=False, highlight=False)

    def seconds_left(self) -> float | None:
        """Remaining time at the mean rate so far; None before the first unit."""
        own = self.done - self._before
        return (self._clock() - self._start) / own * max(0, self.total - self.done) if own else None

    def remaining(self) -> str:
        """The remaining time as m:ss or h:mm:ss."""
        left = self.seconds_left()
        return "-:--" if left is None else numbers.clock(left)

    def line(self) -> str:
        """The state as one plain line."""
        finished, spent = self.done >= self.total, self._clock() - self._start
        end = f"{numbers.clock(spent)} in all" if finished else f"{self.remaining()} left"
        return "  ".join(filter(None, (self.label, f"{self.done}/{self.total}", end, self.note)))

    def _due(self) -> bool:
        now, tenth = self._clock(), self.done * SHARE // max(1, self.total)
        silent = now - self._spoken
        due = self.done >= self.total or silent >= SECONDS or (tenth > self._tenth and silent >= 1)
        if due:
            self._spoken, self._tenth = now, tenth
        return due
