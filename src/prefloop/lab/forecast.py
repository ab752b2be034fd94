"""What a sweep will take: a few steps of each kind of stack, timed in a worker like those that will run it."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch

from prefloop.lab.setting import Setting
from prefloop.lab.stack import run_stack

STEPS = 3  # timed per probe, after as many that are not
SIZES = (1, 4, 8, 16, 32)  # stack sizes that `best_size` tries


@dataclass(frozen=True)
class Probe:
    """Measured on one stack."""

    runs: int
    build: float  # seconds before the first step: fitting the reference, drawing data
    step: float  # seconds per step of the whole stack, its share of evaluations included
    peak: int  # bytes of the worker process at its largest so far


def probe(settings: Sequence[Setting]) -> Probe:
    """Time a stack on one thread."""
    torch.set_num_threads(1)
    row = settings[0].row
    span = row.reuse * settings[0].batch // settings[0].minibatch
    length = span * -(-STEPS // span)  # whole collections, so that sampling has its true share
    start = time.perf_counter()
    run_stack([replace(s, steps=length, evaluate=length) for s in settings])
    once = time.perf_counter() - start
    start = time.perf_counter()  # the reference is in memory now
    run_stack([replace(s, steps=length, evaluate=length) for s in settings])
    again = time.perf_counter() - start
    start = time.perf_counter()
    run_stack([replace(s, steps=2 * length, evaluate=2 * length) for s in settings])
    step = max(1e-6, time.perf_counter() - start - again) / length
    evaluation = max(0.0, again - step * length) / 2  # one before, one after
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Probe(len(settings), max(0.0, once - again), step + evaluation / settings[0].evaluate, peak)


@dataclass(frozen=True)
class Forecast:
    """Of a whole sweep."""

    runs: int
    stacks: int
    seconds: float
    bytes: int


def forecast(jobs: Sequence[Sequence[Setting]], workers: int) -> Forecast:
    """Predicted wall time and memory of the jobs on this machine, from one probe per kind of stack."""
    if not jobs:
        return Forecast(0, 0, 0.0, 0)
    kinds: dict[str, Sequence[Setting]] = {}
    for job in jobs:
        key = replace(job[0], steps=1).stack
        if len(job) > len(kinds.get(key, ())):
            kinds[key] = job
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as worker:
        start = time.perf_counter()
        worker.submit(abs, 0).result()
        spawn = time.perf_counter() - start
        seen = dict(zip(kinds, worker.map(probe, kinds.values()), strict=True))
    busy = build = 0.0
    for job in jobs:
        p = seen[replace(job[0], steps=1).stack]
        busy += p.step * len(job) / p.runs * job[0].steps
        build += p.build / max(1, len(jobs) // len(kinds))  # references are kept between stacks of the same seeds
    seconds = spawn + (busy + build) / min(workers, len(jobs))
    return Forecast(
        sum(map(len, jobs)), len(jobs), seconds, min(workers, len(jobs)) * max(p.peak for p in seen.values())
    )


def best_size(setting: Setting) -> tuple[int, dict[int, float]]:
    """The stack size with the least time per run and step, and that time by size."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as worker:
        stacks = [[replace(setting, seed=i) for i in range(n)] for n in SIZES]
        cost = {p.runs: p.step / p.runs for p in worker.map(probe, stacks)}
    return min(cost, key=cost.__getitem__), cost
