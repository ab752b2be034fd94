"""Predicted time and memory of a sweep: a few steps of each kind of stack, timed in a worker."""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

import torch

from prefloop.analysis.numbers import duration
from prefloop.lab.climb import Mark
from prefloop.lab.pool import compute_on
from prefloop.lab.setting import Setting
from prefloop.lab.stack import Watch, build, run_stack
from prefloop.lab.summary import TUNING
from prefloop.lab.tuning import Ask, Point, Search, Tuned, each, explore, outcome, placed

STEPS = 3  # minimum number of timed steps per probe
HEARTBEAT = 8.0  # maximum seconds without a word
SIZES = (1, 4, 8, 16, 32)  # stack sizes that `best_size` tries


@dataclass(frozen=True)
class Probe:
    """Measurements on one stack."""

    runs: int
    fit: float  # seconds to fit the reference, once per worker and set of seeds
    build: float  # seconds per stack outside its steps
    step: float  # seconds per step of the whole stack, its share of evaluations included
    peak: int  # peak memory of the worker process so far, in bytes


def probe(settings: Sequence[Setting]) -> Probe:
    """Time a stack on one thread: fit, setup, an evaluation, and a few steps in whole collections."""
    torch.set_num_threads(1)
    span = settings[0].resolved_method.reuse * settings[0].batch // settings[0].minibatch
    steps = span * -(-STEPS // span)  # whole collections, so that sampling has its proper share
    first, _ = timed(lambda: build(settings))
    again, training = timed(lambda: build(settings))  # the fitted reference is now in memory
    evaluation, _ = timed(Watch(training, settings[0]).state)
    loop = training.loop
    last, _ = timed(lambda: training.evaluate(loop.policy, loop.reference, loop.rng["evaluation"]))
    short = [replace(s, steps=steps, evaluate=steps, spacing="even") for s in settings]
    whole, _ = timed(lambda: run_stack(short))
    step = max(1e-6, whole - again - evaluation - last) / steps
    step += evaluation * (len(settings[0].evaluations) - 1) / settings[0].steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Probe(len(settings), max(0.0, first - again), again + evaluation + last, step, peak)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    out = work()
    return time.perf_counter() - start, out


@dataclass(frozen=True)
class Forecast:
    """The prediction for a whole sweep."""

    runs: int
    stacks: int
    seconds: float
    bytes: int


def forecast(
    jobs: Sequence[Sequence[Setting]], workers: int, say: Callable[[str], object] = str, device: str = "cpu"
) -> Forecast:
    """Predicted wall time and memory of the jobs on this machine, from one probe per kind of stack.

    Args:
        say: told what is timed, at once and every HEARTBEAT seconds.
        device: where the workers compute; the memory is that of the CPU.
    """
    if not jobs:
        return Forecast(0, 0, 0.0, 0)
    kinds: dict[str, Sequence[Setting]] = {}
    for job in jobs:
        key = replace(job[0], steps=1).stack
        if len(job) > len(kinds.get(key, ())):
            kinds[key] = job
    with _worker(device) as worker:
        start = time.perf_counter()
        worker.submit(abs, 0).result()
        spawn = time.perf_counter() - start
        seen = {}
        for n, (key, job) in enumerate(kinds.items(), 1):
            what = f"timing {n} of {len(kinds)}: {len(job)} runs of {job[0].method} on {job[0].problem}"
            seen[key] = _awaited(worker.submit(probe, job), what, say)
    used = [seen[replace(job[0], steps=1).stack] for job in jobs]
    busy = sum(p.build + p.step * len(j) / p.runs * j[0].steps for p, j in zip(used, jobs, strict=True))
    seconds = spawn + max(p.fit for p in used) + busy / min(workers, len(jobs))
    return Forecast(
        sum(map(len, jobs)), len(jobs), seconds, min(workers, len(jobs)) * max(p.peak for p in seen.values())
    )


def foreseen(
    cells: Sequence[Setting],
    search: Search | Sequence[Search],
    known: Callable[[Setting], Mark | None] = lambda setting: None,
) -> tuple[list[Setting], list[Tuned]]:
    """The runs that tuning needs if what is not known yet has its best in the middle, and its outcome then."""
    searches, wanted = each(cells, search), list[Setting]()

    def measure(asks: list[Ask]) -> list[Mark]:
        some = [placed(cells[a.cell], searches[a.cell], a.point, TUNING + a.seed) for a in asks]
        wanted.extend(some)
        return [known(s) or _imagined(searches[a.cell], a.point) for s, a in zip(some, asks, strict=True)]

    every = explore(searches, measure)
    return wanted, [outcome(cell, one, tried) for cell, one, tried in zip(cells, searches, every, strict=True)]


def _imagined(search: Search, point: Point) -> Mark:
    middle, knob = search.rates[len(search.rates) // 2], search.knob
    moved = knob is not None and point.knob != knob.start
    return Mark(-abs(math.log(point.rate / middle)) - moved, False)


def _awaited(work: Future[Probe], what: str, say: Callable[[str], object]) -> Probe:
    """The result of work in another process, with signs of life."""
    say(what)
    start = time.monotonic()
    while not wait([work], HEARTBEAT).done:
        say(f"{what}: {duration(time.monotonic() - start)} so far; a reference is fitted once and kept")
    return work.result()


def _worker(device: str) -> Executor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), compute_on, (device,))


def best_size(
    setting: Setting, say: Callable[[str], object] = str, device: str = "cpu"
) -> tuple[int, dict[int, float]]:
    """The stack size with the least time per run and step, and the times by size."""
    with _worker(device) as worker:
        stacks = [[replace(setting, seed=i) for i in range(n)] for n in SIZES]
        seen = [_awaited(worker.submit(probe, stack), f"timing stacks of {len(stack)}", say) for stack in stacks]
    cost = {p.runs: p.step / p.runs for p in seen}
    return min(cost, key=cost.__getitem__), cost
