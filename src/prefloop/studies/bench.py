"""The environment of a study: its size, the store of finished runs, and the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from prefloop.core.errors import UserError, nearest
from prefloop.lab.pool import Pool
from prefloop.lab.setting import Setting
from prefloop.lab.stack import Run
from prefloop.lab.store import Store, missing
from prefloop.lab.summary import Cell
from prefloop.lab.sweep import sweep
from prefloop.lab.tuning import Scoring, Search, Tuned, tune
from prefloop.scale.workers import pool_for

BLOCK = 4  # seeds that are added at a time
REPETITION = 100_000  # distance between the seeds of independent repetitions


@dataclass(frozen=True)
class Scale:
    """What the runs of one world cost at a size.

    Args:
        steps: gradient steps of a run.
        first, most: seeds of the comparison, before the first look and at most.
        rounds: of tuning; see `lab.tuning.Search`.
    """

    steps: int
    first: int
    most: int
    rounds: tuple[tuple[int, int], ...]


HALVING = ((7, 2), (3, 23), (1, 24))  # the choice of a rate and a knob is a part of the intervals
SHORT = ((5, 2), (3, 6), (1, 7))  # for worlds where a run takes seconds: the choice widens the intervals
BUDGETS: dict[str, dict[str, Scale]] = {
    "smoke": {
        "rotated": Scale(16, 4, 4, ((3, 1), (1, 2))),
        "arms": Scale(16, 4, 4, ((3, 1), (1, 2))),
        "sequences": Scale(8, 4, 4, ((3, 1), (1, 2))),
        "lengths": Scale(16, 4, 4, ((3, 1), (1, 2))),
    },
    "small": {
        "rotated": Scale(256, 12, 80, HALVING),
        "arms": Scale(256, 12, 80, HALVING),
        "sequences": Scale(128, 12, 20, SHORT),
        "lengths": Scale(128, 12, 20, SHORT),
    },
    "paper": {
        "rotated": Scale(1024, 12, 80, HALVING),
        "arms": Scale(1024, 12, 80, HALVING),
        "sequences": Scale(1024, 12, 40, HALVING),
        "lengths": Scale(512, 12, 40, HALVING),
    },
}


class Bench:
    """The environment in which studies run; a context manager that ends its workers.

    Args:
        size: a key of BUDGETS.
        out: folder of the studies; runs are stored in `out/runs` and shared between studies.
        workers: number of processes on this machine.
        stack: runs per stack.
        ray: address of a Ray cluster to use instead.
        problems: how many new problems of the advice may be measured; None for all of the size.
        repetition: another number gives other seeds for tuning and comparison: an independent repetition.
    """

    def __init__(
        self,
        size: str,
        out: Path,
        *,
        workers: int = 2,
        stack: int | None = None,
        ray: str = "",
        repetition: int = 0,
        problems: int | None = None,
        quiet: bool = False,
    ) -> None:
        if size not in BUDGETS:
            raise UserError(f"unknown size `{size}`", fix=nearest(size, BUDGETS))
        self.size, self.stack, self.repetition, self.quiet = size, stack, repetition, quiet
        self.out, self.problems = out, problems
        self.store = Store(out / "runs")
        self.pool: Pool = pool_for(workers, ray)
        self.runs = self.computed = self.tuning = 0  # runs used so far, of which not in the store, and for tuning

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.close()

    def scale(self, problem: str) -> Scale:
        """The budget of a world at this size."""
        return BUDGETS[self.size][problem]

    def sweep(self, settings: Sequence[Setting]) -> list[Run]:
        """All runs, in the order of their settings."""
        settings = [replace(s, seed=s.seed + REPETITION * self.repetition) for s in settings]
        self.runs += len(settings)
        self.computed += len(missing(settings, self.store))
        return sweep(settings, self.store, self.pool, stack=self.stack, quiet=self.quiet)

    def tune(self, settings: Sequence[Setting], searches: Sequence[Search], scoring: Scoring) -> list[Tuned]:
        """Each setting at the rate, and knob, that its search finds on tuning seeds."""
        before = self.runs
        tuned = tune(settings, searches, self.sweep, scoring)
        self.tuning += self.runs - before
        return tuned

    def cells(self, settings: Sequence[Setting], seeds: int) -> list[Cell]:
        """Each setting with the first seeds of the comparison, as it is."""
        runs = self.sweep([replace(s, seed=seed) for s in settings for seed in range(seeds)])
        return [Cell(s, runs[i * seeds : (i + 1) * seeds], {}) for i, s in enumerate(settings)]
