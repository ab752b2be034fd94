"""A sweep: many settings, in stacks, on workers; runs that are already in a store are not computed again."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prefloop.core.errors import DataError, UserError
from prefloop.lab.pool import InProcess, Pool
from prefloop.lab.setting import Setting, stacks
from prefloop.lab.stack import Run
from prefloop.lab.store import Store, missing
from prefloop.runs.interrupt import Interrupt
from prefloop.runs.progress import Progress


def jobs_of(settings: Sequence[Setting], size: int | None) -> list[list[Setting]]:
    """Stacks, the longest first so that workers finish at about the same time."""
    return sorted(stacks(settings, size), key=lambda job: -len(job) * cost(job[0]))


def cost(setting: Setting) -> float:
    """Relative time of one run, for the order of jobs."""
    return setting.steps * (20 + setting.minibatch * setting.world.cost)


def sweep(
    settings: Sequence[Setting],
    store: Store,
    pool: Pool,
    *,
    stack: int | None = None,
    label: str = "",
    quiet: bool = False,
) -> list[Run]:
    """All runs, in the order of their settings; those in the store are read from it.

    Args:
        stack: runs per stack; None for each world's default.

    Raises:
        UserError: an invalid setting, before anything runs.
        DataError: some stacks failed; the runs of the others are stored.
    """
    for setting in settings:
        setting.check()
    if stack is not None and stack < 1:
        raise UserError("`stack` must be at least 1", fix="use --stack 1 or more")
    jobs = jobs_of(missing(settings, store), stack)
    failed: list[str] = []
    for problem in dict.fromkeys(
        s.problem for s in settings
    ):  # one by one, so that the remaining time is predicted from similar runs
        own = [job for job in jobs if job[0].problem == problem]
        name = " ".join(filter(None, (label, problem)))
        for group, place in ((False, pool), (True, InProcess())):  # what only this session defines runs in it
            some = [job for job in own if job[0].in_session == group]
            failed += _run(some, store, place, name, quiet) if some else []
    if failed:
        what = f"{len(failed)} of {len(jobs)} stacks failed; the runs of the others are stored"
        raise DataError(what, where=failed[0])
    return [store[s] for s in settings]


def _run(jobs: list[list[Setting]], store: Store, pool: Pool, label: str, quiet: bool) -> list[str]:
    """Run the jobs; returns the error messages of those that failed."""
    failed, start = [], time.monotonic()
    runs, total = sum(map(len, jobs)), sum(len(job) * job[0].steps for job in jobs)
    with Interrupt(quiet=quiet) as interrupt, Progress(total, label, quiet=quiet) as progress:

        def tick(steps: int) -> None:
            interrupt.poll()
            done = runs * (progress.done + steps) / total
            rate = f"{done / (time.monotonic() - start):.2f} runs/s" if done else "starting"
            progress.advance(steps, f"{done:.0f} of {runs} runs, {rate}")

        for done in pool.run(jobs, tick):
            if done.error:
                failed.append(done.error)
            else:
                store.add(jobs[done.job], done.table)
    return failed
