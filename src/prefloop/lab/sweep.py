"""A sweep: many settings, in stacks, on workers; what a folder already holds is not computed again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefloop.core.errors import DataError, UserError
from prefloop.core.files import digest, remove_temporary, write
from prefloop.lab.pool import Pool
from prefloop.lab.setting import Setting, stacks
from prefloop.lab.stack import Run
from prefloop.lab.table import read
from prefloop.runs.interrupt import Interrupt
from prefloop.runs.progress import Progress

STACKS = {
    "arms": 32,
    "categorical": 32,
    "sequences": 16,
    "lengths": 8,
}  # runs per stack where none is asked for: see benchmarks
COSTS = {"sequences": 9.0, "lengths": 40.0}  # per response, in tokens of the smallest GPT
SUFFIX = ".parquet"


@dataclass
class Store:
    """A folder of Parquet files, one per stack; a file appears whole or not at all."""

    path: Path

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        remove_temporary(self.path)
        self._runs: dict[str, Run] = {}
        for file in sorted(self.path.glob(f"*{SUFFIX}")):
            self._runs |= {run.setting.run: run for run in read(file)}

    def __contains__(self, setting: Setting) -> bool:
        return setting.run in self._runs

    def __getitem__(self, setting: Setting) -> Run:
        return self._runs[setting.run]

    def add(self, settings: Sequence[Setting], table: bytes) -> None:
        """Keep a stack's runs."""
        file = self.path / f"{digest([s.run for s in settings])}{SUFFIX}"
        write(file, table)
        self._runs |= {run.setting.run: run for run in read(file)}


def missing(settings: Iterable[Setting], store: Store) -> list[Setting]:
    """Each setting that the store lacks, once."""
    return list({s.run: s for s in settings if s not in store}.values())


def jobs_of(settings: Sequence[Setting], size: int | None) -> list[list[Setting]]:
    """Stacks, the longest first so that no worker is left waiting at the end."""
    stacked = []
    for problem, default in STACKS.items():
        own = [s for s in settings if s.problem == problem]
        stacked += stacks(own, size or default)
    return sorted(stacked, key=lambda job: -len(job) * cost(job[0]))


def cost(setting: Setting) -> float:
    """Relative time of one run, for the order of jobs."""
    per_step = setting.minibatch * COSTS.get(setting.problem, 0.1)
    return setting.steps * (20 + per_step)


def sweep(
    settings: Sequence[Setting],
    store: Store,
    pool: Pool,
    *,
    stack: int | None = None,
    label: str = "",
    quiet: bool = False,
) -> list[Run]:
    """All runs, in the order of their settings; those that the store has are read from it.

    Args:
        stack: runs per stack; see STACKS where None.

    Raises:
        UserError: a bad setting, before anything runs.
        DataError: some stacks failed; the others are kept.
    """
    for setting in settings:
        setting.check()
    if stack is not None and stack < 1:
        raise UserError(f"a stack of {stack} runs is empty", fix="--stack 1 or more")
    jobs = jobs_of(missing(settings, store), stack)
    failed: list[str] = []
    for problem in STACKS:  # one after the other, so that the time left is foretold from runs of the same kind
        own = [job for job in jobs if job[0].problem == problem]
        failed += _run(own, store, pool, " ".join(filter(None, (label, problem))), quiet) if own else []
    if failed:
        raise DataError(f"{len(failed)} of {len(jobs)} stacks failed; the others are kept", where=failed[0])
    return [store[s] for s in settings]


def _run(jobs: list[list[Setting]], store: Store, pool: Pool, label: str, quiet: bool) -> list[str]:
    """Run the jobs; the messages of those that failed."""
    failed, start = [], time.monotonic()
    runs, total = sum(map(len, jobs)), sum(len(job) * job[0].steps for job in jobs)
    with Interrupt(quiet=quiet) as interrupt, Progress(total, label, quiet=quiet) as progress:

        def tick(steps: int) -> None:
            interrupt.poll()
            done = runs * (progress.done + steps) / total
            if steps:
                progress.advance(steps, f"{done:.0f} of {runs} runs, {done / (time.monotonic() - start):.2f} runs/s")

        for done in pool.run(jobs, tick):
            if done.error:
                failed.append(done.error)
            else:
                store.add(jobs[done.job], done.table)
    return failed
