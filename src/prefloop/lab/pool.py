"""Jobs in other processes, one thread each: on this machine, or on a Ray cluster (see `scale.ray_pool`)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from prefloop.core.errors import UserError
from prefloop.lab.setting import Setting
from prefloop.lab.stack import run_stack
from prefloop.lab.store import to_bytes

WORKER = {  # one thread; and keep freed memory, which saves a page fault for every 4 KiB of every update
    "OMP_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}
POLL = 0.5  # seconds between reads of the counter
_counter: Any = None  # run-steps done by all workers, shared with them


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for processes that start inside; those set by the user are not changed."""
    added = {k: v for k, v in variables.items() if k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@dataclass(frozen=True)
class Done:
    """The result of a job: its table as Parquet bytes, or an error message."""

    job: int
    table: bytes = b""
    error: str = ""


@runtime_checkable
class Pool(Protocol):
    """Workers that run stacks."""

    workers: int

    def run(self, jobs: Sequence[Sequence[Setting]], tick: Callable[[int], None]) -> Iterator[Done]:
        """Results in order of completion; `tick` is called with the number of new run-steps."""

    def close(self) -> None:
        """End the workers."""


def run_job(number: int, settings: Sequence[Setting], tick: Callable[[int], None]) -> Done:
    """Run one stack in a worker; user errors become messages, bugs keep their traceback."""
    torch.set_num_threads(1)
    try:
        return Done(number, to_bytes(run_stack(settings, lambda steps: tick(steps * len(settings)))))
    except UserError as error:
        return Done(number, error=str(error))


class InProcess:
    """This process, one stack after the other: for what a notebook defines, which no worker can import."""

    workers = 1

    def run(self, jobs: Sequence[Sequence[Setting]], tick: Callable[[int], None]) -> Iterator[Done]:
        threads = torch.get_num_threads()
        try:
            yield from (run_job(number, job, tick) for number, job in enumerate(jobs))
        finally:
            torch.set_num_threads(threads)

    def close(self) -> None:
        """Nothing to end."""


class LocalPool:
    """Worker processes on this machine, started on first use and reused by later sweeps.

    Args:
        device: where the workers compute; several share a GPU.
    """

    def __init__(self, workers: int = 2, device: str = "cpu") -> None:
        if workers < 1:
            raise UserError(f"`workers` must be at least 1, not {workers}", fix="use --workers 1 or more")
        self.workers, self.device = workers, device
        self._executor: ProcessPoolExecutor | None = None
        context = multiprocessing.get_context("spawn")
        self._done = context.Value("q", 0)
        self._context = context

    def run(self, jobs: Sequence[Sequence[Setting]], tick: Callable[[int], None]) -> Iterator[Done]:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(self.workers, self._context, _start, (self._done, self.device))
        before, executor = self._steps(), self._executor
        with environment(WORKER):  # inherited by the workers
            waiting: set[Future[Done]] = {executor.submit(_job, i, job) for i, job in enumerate(jobs)}
        try:
            while waiting:
                ready, waiting = wait(waiting, POLL, FIRST_COMPLETED)
                now = self._steps()
                tick(now - before)
                before = now
                yield from (future.result() for future in ready)
        except BrokenProcessPool as error:
            self._executor = None
            raise UserError(
                "a worker process died", fix="use fewer --workers or a smaller --stack, if memory ran out"
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def _steps(self) -> int:
        """Read without the lock, which a killed worker may still hold."""
        return int(self._done.get_obj().value)

    def close(self) -> None:
        if self._executor is not None:
            processes = list((self._executor._processes or {}).values())
            self._executor.shutdown(wait=False, cancel_futures=True)
            for process in processes:  # running stacks have nothing to save
                process.terminate()
            self._executor = None


def _start(counter: Any, device: str) -> None:
    """Set up a worker: it has a device, ignores Ctrl-C, which the parent handles, and ends with its parent."""
    global _counter
    compute_on(device)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _counter = counter


def compute_on(device: str) -> None:
    """Make what this process creates from now on be on a device; nothing changes for the CPU."""
    if device != "cpu":
        torch.set_default_device(device)


def _end_with_parent() -> None:
    """End this worker if its parent is killed; otherwise it would wait for jobs forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _job(number: int, settings: Sequence[Setting]) -> Done:
    def tick(steps: int) -> None:
        with _counter.get_lock():
            _counter.value += steps

    return run_job(number, settings, tick)
