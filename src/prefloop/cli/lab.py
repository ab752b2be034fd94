"""`prefloop lab`: a grid of runs on problems with a known reward, as a table with intervals, Parquet and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prefloop.cli.lab_grid import Options, grid
from prefloop.cli.lab_result import readable, records, show, table, write

if TYPE_CHECKING:  # torch is imported only to run something, so that --help is fast
    from prefloop.lab.setting import Setting
    from prefloop.lab.stack import Run
    from prefloop.lab.summary import Cell
    from prefloop.lab.tuning import Tuned

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Run the grid, or predict its cost.

    Raises:
        UserError: an invalid grid, before any run starts.
    """
    from prefloop.lab.store import Store, missing
    from prefloop.lab.sweep import jobs_of

    options, cells = _on_a_device(options), grid(options)
    for setting in _with(cells, [cells[0].lr] if options.auto else options.rates, [0]):
        setting.check()
    store = Store(options.out / "runs")
    size = _stack(options, cells[0])
    if options.plan:
        wanted = _wanted(options, cells, store)
        return _plan(options, jobs_of(missing(wanted, store), size), len(wanted))
    results, searched = _run(options, cells, store, size)
    rows = records(results, searched)
    files = write(results, rows, options.out, pdf=options.pdf)
    about = cells[0].world.about()
    shown = rows if options.format == "csv" else readable(results, rows)
    options.show(lambda: {"out": str(options.out), "cells": rows}, lambda: _print(options, shown, files, about))
    return 0


def _on_a_device(options: Options) -> Options:
    """The options with the name of the device, which is said unless it is the CPU.

    Raises:
        UserError: it is not there.
    """
    from prefloop.core import devices

    device = devices.chosen(options.device, "--device")
    if device != devices.CPU:
        options.say(devices.said(device, options.device))
    return replace(options, device=str(device))


def _wanted(options: Options, cells: Sequence[Setting], store: Any) -> list[Setting]:
    """All runs of the grid; the learning rates of the comparison are known once the tuning runs are done."""
    from prefloop.lab.forecast import foreseen
    from prefloop.lab.scores import GOLD_OVER_TRAINING
    from prefloop.lab.store import missing
    from prefloop.lab.summary import TUNING, tuned
    from prefloop.lab.tuning import Search

    if options.auto:
        wanted, ends = foreseen(cells, Search(), lambda s: GOLD_OVER_TRAINING(store[s]) if s in store else None)
        return [*wanted, *(replace(one.setting, seed=s) for one in ends for s in range(options.seeds))]
    tuning = _with(cells, options.rates, range(TUNING, TUNING + options.tuning)) if len(options.rates) > 1 else []
    chosen = [replace(c, lr=options.rates[0]) for c in cells]
    if not missing(tuning, store):
        chosen = [
            c.setting for c in tuned(cells, options.rates, [], options.tuning, lambda s: [store[one] for one in s])
        ]
    return [*tuning, *(replace(c, seed=s) for c in chosen for s in range(options.seeds))]


def _with(cells: Sequence[Setting], rates: Sequence[float], seeds: Sequence[int]) -> list[Setting]:
    return [replace(c, lr=lr, seed=s) for c in cells for lr in rates for s in seeds]


def _stack(options: Options, first: Setting) -> int | None:
    """Runs per stack: a number, the problem's default, or the fastest size in a probe."""
    if options.stack != "auto":
        return int(options.stack) if options.stack else None
    from prefloop.lab.forecast import best_size

    size, cost = best_size(first, options.say, options.device)
    each = ", ".join(f"{n}: {1000 * s:.2f} ms per run and step" for n, s in cost.items())
    options.say(f"stack size: {each} → {size}")
    return size


def _plan(options: Options, jobs: list[list[Setting]], wanted: int) -> int:
    """Print the predicted cost of the grid."""
    from prefloop.analysis.numbers import duration, gibibytes
    from prefloop.lab.forecast import forecast

    seen = forecast(jobs, options.workers, options.say, options.device)
    record = {
        "runs": wanted,
        "to_compute": seen.runs,
        "stacks": seen.stacks,
        "seconds": seen.seconds,
        "bytes": seen.bytes,
    }
    size = f"{seen.runs} not computed yet, in {seen.stacks} stacks on {options.workers} workers"
    time = f"predicted from a few steps of each: {duration(seen.seconds)} and {gibibytes(seen.bytes)}"
    more = f"\n{AT_LEAST}" if options.auto else ""
    options.show(lambda: record, lambda: print(f"{wanted} runs, {size}\n{time}{more}"))
    return 0


AT_LEAST = "at least: where the best learning rate is at an edge or in doubt, --lr auto runs more"


def _run(options: Options, cells: list[Setting], store: Any, size: int | None) -> tuple[list[Cell], list[Tuned]]:
    """The cells over the seeds of the comparison, and how auto found their learning rates."""
    from prefloop.lab.summary import tuned
    from prefloop.lab.sweep import sweep
    from prefloop.lab.tuning import Search, compared, tune
    from prefloop.scale.workers import pool_for

    pool, seeds = pool_for(options.workers, options.ray, options.device), range(options.seeds)

    def each(settings: Sequence[Setting]) -> list[Run]:
        return sweep(settings, store, pool, stack=size, label="lab", quiet=options.silent)

    try:
        if not options.auto:
            return tuned(cells, options.rates, seeds, options.tuning, each), []
        searched = tune(cells, Search(), each)
        return compared(searched, seeds, each), searched
    finally:
        pool.close()


def _print(options: Options, rows: Sequence[Mapping[str, Any]], files: Sequence[str], about: str) -> None:
    if options.format:
        print(table(rows, options.format))
        return
    show(rows)
    print(f"files: {options.out / files[0]}, {', '.join(files[1:])}")
    print(about, end="\n" if about else "")
