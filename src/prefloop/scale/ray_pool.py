"""The lab's stacks as tasks of a Ray cluster, or of a local Ray of two workers; see `lab.pool` for the interface."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prefloop.core.errors import UserError
from prefloop.scale.ray_connection import connect, versions

if TYPE_CHECKING:  # the counter's process imports this module without torch
    from prefloop.lab.pool import Done
    from prefloop.lab.setting import Setting

POLL = 0.5  # seconds between reads of the counter


class RayPool:
    """Runs each stack as a task on one CPU; every node of the cluster needs the driver's Python and packages.

    Args:
        address: HOST:PORT of a cluster that this machine belongs to, `auto` to detect it, or LOCAL.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str) -> None:
        self._ray = connect(address)
        self.workers = max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def run(self, jobs: Sequence[Sequence[Setting]], tick: Callable[[int], None]) -> Iterator[Done]:
        """Results in order of completion; a stack whose worker died counts as failed."""
        ray = self._ray
        counter = ray.remote(num_cpus=0, max_restarts=-1)(Counter).remote()
        task = ray.remote(num_cpus=1, max_retries=0)(_task)  # a restarted sweep runs only what is missing
        here = versions()
        numbers = {task.remote(i, job, counter, here): i for i, job in enumerate(jobs)}
        reported, asked, waiting = [0] * len(jobs), counter.steps.remote(), list(numbers)
        try:
            while waiting:
                ready, waiting = ray.wait(waiting, timeout=POLL)
                results = [_result(ray, ref, numbers[ref], reported) for ref in ready]
                seen = {done.job: steps for done, steps in results}
                if ray.wait([asked], timeout=0)[0]:
                    seen = _counted(ray, asked) | seen
                    asked = counter.steps.remote()
                tick(_new(seen, reported))
                yield from (done for done, _ in results)
        finally:
            if ray.is_initialized():
                for ref in waiting:  # running stacks have nothing to save
                    ray.cancel(ref, force=True)
                ray.kill(counter)

    def close(self) -> None:
        """Disconnect from the cluster, which ends this process's tasks; a local Ray is stopped."""
        self._ray.shutdown()


class Counter:
    """Run-steps done by each running stack, reported by its worker."""

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}

    def report(self, job: int, steps: int) -> None:
        self._steps[job] = steps

    def steps(self) -> dict[int, int]:
        return self._steps


def _task(number: int, settings: Sequence[Setting], counter: Any, driver: str) -> tuple[Done, int]:
    """Run a stack in a worker; returns its result and the number of run-steps."""
    from prefloop.lab.pool import Done, run_job

    if versions() != driver:
        return Done(number, error=f"a worker on {socket.gethostname()} has {versions()}, not {driver}"), 0
    done, last = 0, time.monotonic()

    def tick(steps: int) -> None:
        nonlocal done, last
        done += steps
        if time.monotonic() - last > POLL:
            counter.report.remote(number, done)
            last = time.monotonic()

    return run_job(number, settings, tick), done


def _result(ray: Any, ref: Any, number: int, reported: Sequence[int]) -> tuple[Done, int]:
    """The result of a finished task; bugs in it are raised here, with their traceback."""
    from prefloop.lab.pool import Done

    try:
        result: tuple[Done, int] = ray.get(ref)
        return result
    except ray.exceptions.RayTaskError as error:
        if "failed to import on the worker" not in str(error):
            raise
        raise UserError(
            "a worker of the Ray cluster cannot import Prefloop", fix=f"install the same versions there: {versions()}"
        ) from error
    except ray.exceptions.RayError as error:  # the process or its node died
        lost = UserError(
            "a worker of the Ray cluster died",
            where=" ".join(str(error).split())[:300],
            fix="use a smaller --stack, if memory ran out; a restarted sweep runs only what is missing",
        )
        return Done(number, error=str(lost)), reported[number]


def _counted(ray: Any, asked: Any) -> dict[int, int]:
    """The counter's numbers; empty while it restarts, because they are for display only."""
    try:
        steps: dict[int, int] = ray.get(asked)
        return steps
    except ray.exceptions.RayActorError:
        return {}


def _new(seen: dict[int, int], reported: list[int]) -> int:
    """Number of newly reported run-steps; updates `reported`."""
    new = 0
    for job, steps in seen.items():
        new += max(0, steps - reported[job])
        reported[job] = max(steps, reported[job])
    return new
