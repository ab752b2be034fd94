"""`prefloop lab`: a grid of runs on problems with a known reward, as a table with intervals, Parquet and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prefloop.cli.lab_grid import Options, grid
from prefloop.cli.lab_result import readable, records, show, table, write

if TYPE_CHECKING:  # torch is imported only to run something, so that --help is fast
    from prefloop.lab.setting import Setting
    from prefloop.lab.summary import Cell

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Run the grid, or predict its cost.

    Raises:
        UserError: an invalid grid, before any run starts.
    """
    from prefloop.lab.store import Store, missing
    from prefloop.lab.sweep import jobs_of

    options, cells = _on_a_device(options), grid(options)
    for setting in _with(cells, options.lr, [0]):
        setting.check()
    store = Store(options.out / "runs")
    size = _stack(options, cells[0])
    if options.plan:
        wanted = _wanted(options, cells, store)
        return _plan(options, jobs_of(missing(wanted, store), size), len(wanted))
    results = _run(options, cells, store, size)
    rows = records(results)
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
    from prefloop.lab.store import missing
    from prefloop.lab.summary import TUNING, tuned

    tuning = _with(cells, options.lr, range(TUNING, TUNING + options.tuning_seeds)) if len(options.lr) > 1 else []
    chosen = [replace(c, lr=options.lr[0]) for c in cells]
    if not missing(tuning, store):
        chosen = [
            c.setting for c in tuned(cells, options.lr, [], options.tuning_seeds, lambda s: [store[one] for one in s])
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
    options.show(lambda: record, lambda: print(f"{wanted} runs, {size}\n{time}"))
    return 0


def _run(options: Options, cells: list[Setting], store: Any, size: int | None) -> list[Cell]:
    from prefloop.lab.summary import tuned
    from prefloop.lab.sweep import sweep
    from prefloop.scale.workers import pool_for

    pool = pool_for(options.workers, options.ray, options.device)
    try:
        return tuned(
            cells,
            options.lr,
            range(options.seeds),
            options.tuning_seeds,
            lambda settings: sweep(settings, store, pool, stack=size, label="lab", quiet=options.silent),
        )
    finally:
        pool.close()


def _print(options: Options, rows: Sequence[Mapping[str, Any]], files: Sequence[str], about: str) -> None:
    if options.format:
        print(table(rows, options.format))
        return
    show(rows)
    print(f"files: {options.out / files[0]}, {', '.join(files[1:])}")
    print(about, end="\n" if about else "")
