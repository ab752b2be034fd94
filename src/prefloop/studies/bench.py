"""The environment of a study: its size, the store of finished runs, and the workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from prefloop.core.errors import UserError, nearest
from prefloop.lab.pool import Pool
from prefloop.lab.setting import Setting
from prefloop.lab.stack import Run
from prefloop.lab.store import Store, missing
from prefloop.lab.summary import Cell, over_training, tuned
from prefloop.lab.sweep import sweep
from prefloop.scale.workers import pool_for


@dataclass(frozen=True)
class Budget:
    """The settings of a size: seeds of the comparison and of tuning, updates, candidate learning rates."""

    seeds: int
    tuning: int
    arms: int  # updates of a run on arms
    sequences: int  # updates of a run on sequences
    lengths: int  # updates of a run on lengths
    rates: int  # number of learning rates, from the middle of the study's list
    evaluations: int  # per run


BUDGETS = {
    "smoke": Budget(seeds=2, tuning=1, arms=16, sequences=8, lengths=16, rates=1, evaluations=2),
    "small": Budget(seeds=10, tuning=2, arms=300, sequences=120, lengths=100, rates=5, evaluations=15),
    "paper": Budget(seeds=20, tuning=3, arms=1000, sequences=1000, lengths=600, rates=5, evaluations=50),
}


class Bench:
    """The environment in which studies run; a context manager that ends its workers.

    Args:
        size: a key of BUDGETS.
        out: folder of the studies; runs are stored in `out/runs` and shared between studies.
        workers: number of processes on this machine.
        stack: runs per stack.
        ray: address of a Ray cluster to use instead.
    """

    def __init__(
        self, size: str, out: Path, *, workers: int = 2, stack: int | None = None, ray: str = "", quiet: bool = False
    ) -> None:
        if size not in BUDGETS:
            raise UserError(f"unknown size `{size}`", fix=nearest(size, BUDGETS))
        self.size, self.budget, self.stack, self.quiet = size, BUDGETS[size], stack, quiet
        self.out = out
        self.store = Store(out / "runs")
        self.pool: Pool = pool_for(workers, ray)
        self.runs = self.computed = 0  # runs used so far, and how many of them were not in the store

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.close()

    @property
    def seeds(self) -> list[int]:
        return list(range(self.budget.seeds))

    def steps(self, problem: str) -> dict[str, int]:
        """`steps` and `evaluate` of a setting of that problem."""
        steps: int = getattr(self.budget, problem)
        return {"steps": steps, "evaluate": max(1, steps // self.budget.evaluations)}

    def sweep(self, settings: Sequence[Setting]) -> list[Run]:
        """All runs, in the order of their settings."""
        self.runs += len(settings)
        self.computed += len(missing(settings, self.store))
        return sweep(settings, self.store, self.pool, stack=self.stack, quiet=self.quiet)

    def tuned(
        self,
        cells: Sequence[Setting],
        rates: Sequence[float],
        score: Callable[[Run], float] = over_training,
        seeds: Sequence[int] | None = None,
    ) -> list[Cell]:
        """Each cell over the given seeds (default: the bench's), at the best of the middle rates on tuning seeds."""
        skip = max(0, len(rates) - self.budget.rates)
        tried = rates[skip // 2 : len(rates) - (skip + 1) // 2]
        return tuned(cells, tried, self.seeds if seeds is None else seeds, self.budget.tuning, self.sweep, score)
