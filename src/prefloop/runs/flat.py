"""A training with nothing to learn from: scores that are all equal, groups that all tie, or no gradient."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from prefloop.core.batch import Batch
from prefloop.core.errors import DataError
from prefloop.core.loop import Loop, Record
from prefloop.core.method import Method

ON = "training.stop_if_flat=0 trains on regardless"


@dataclass(frozen=True)
class Reason:
    """Why a sequence of steps taught nothing, and how to mend it."""

    what: str
    fix: str


@dataclass(frozen=True)
class Step:
    """What one step had to learn from."""

    step: int
    grad_norm: float
    scores: tuple[float, ...] = ()  # the lowest and the highest; empty if the method reads none
    ties: bool = False  # whether there are groups of two or more, and all responses to a prompt score alike


class Flat:
    """An observer that stops a training whose last `limit` steps had nothing to learn from; 0 never stops."""

    def __init__(self, method: Method, limit: int) -> None:
        self._scored = "scores" in method.needs or ("labels" in method.needs and method.on_policy > 0)
        self._limit, self._last = limit, deque[Step](maxlen=limit)

    def __call__(self, record: Record, loop: Loop) -> None:
        """Look at a step.

        Raises:
            DataError: with the reason.
        """
        self._last.append(seen(record, self._scored))
        why = reason(self._last) if 0 < self._limit == len(self._last) else None
        if why is not None:
            where = f"steps {self._last[0].step} to {record.step}"
            raise DataError(f"nothing to learn: {why.what}", where=where, fix=f"{why.fix}; {ON}")

    @property
    def note(self) -> str:
        """What a reader of a run that was too short to be stopped must know; empty if nothing."""
        why = reason(self._last) if 0 < len(self._last) < self._limit else None
        return "" if why is None else f"nothing was learnt in {len(self._last)} steps: {why.what}"


def seen(record: Record, scored: bool) -> Step:
    """What a step had to learn from.

    Args:
        scored: whether the method reads scores.
    """
    spread, ties = _spread(record.batch) if scored else ((), False)
    return Step(record.step, float(record.grad_norm), spread, ties)


def reason(steps: Iterable[Step]) -> Reason | None:
    """Why the steps taught nothing; None if some of them did."""
    steps = list(steps)
    scores = {score for step in steps for score in step.scores}
    if len(scores) == 1 and all(step.scores for step in steps):
        what = f"every response scored {next(iter(scores)):g}"
        return Reason(what, "use a reward that tells responses apart, or prompts that only some responses solve")
    if all(step.ties for step in steps):
        fix = "use more responses to a prompt (override.responses), a finer reward, or other prompts"
        return Reason("all responses to one prompt scored alike, at every prompt", fix)
    if all(step.grad_norm == 0 for step in steps):
        return Reason("the gradient was exactly 0", "check the data and `override`: no pair or response has any weight")
    return None


def same_score(batch: Batch | None) -> str:
    """A sentence if all answers of the untrained model have the same score; otherwise empty."""
    spread = () if batch is None else _spread(batch)[0]
    if batch is None or not spread or spread[0] != spread[1]:
        return ""
    count = int(batch.present.sum())
    return (
        f"all {count} answers of the untrained model score {spread[0]:g}: a reward without differences teaches nothing"
    )


def _spread(batch: Batch) -> tuple[tuple[float, ...], bool]:
    """The lowest and the highest score, and whether all responses to each prompt have the same."""
    if batch.scores is None:
        return (), False
    scores, present = batch.scores, batch.present
    low, high = (torch.where(present, scores, side).double() for side in (torch.inf, -torch.inf))
    several = present.sum(-1) > 1
    tied = low.amin(-1)[several] == high.amax(-1)[several]
    return (float(low.min()), float(high.max())), bool(several.any() and tied.all())
