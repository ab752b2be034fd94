"""`prefloop lab`: a grid of runs on problems with a known reward, as a table with intervals, Parquet and SVG."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.cli.lab_grid import ITERATIONS, LISTS, grid, number, overrides, values
from prefloop.cli.lab_result import records, show, write
from prefloop.cli.world_flags import add_world_flags
from prefloop.core import files
from prefloop.core.errors import UserError

if TYPE_CHECKING:  # torch comes in only when there is something to run, so that --help is quick
    from prefloop.lab.setting import Setting
    from prefloop.lab.summary import Cell

MOST_SEEDS = 1000  # from there on seeds are for tuning: see lab.summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid, or say what it would take.

    Raises:
        UserError: a bad grid, before any run starts.
    """
    parser = _parser(argv)
    args, rest = parser.parse_known_args(argv)
    options = overrides(rest, parser.format_help(), args)
    rates = values("lr", args.lr, float)
    _refuse(args, rates)
    from prefloop.lab.store import Store, missing
    from prefloop.lab.sweep import jobs_of

    cells = grid(args, options)
    for setting in _with(cells, rates, [0]):
        setting.check()
    store = Store(Path(args.out) / "runs")
    size = _stack(args.stack, cells[0], quiet=args.quiet or args.json)
    if args.plan:
        wanted = _wanted(args, cells, rates, store)
        return _plan(args, jobs_of(missing(wanted, store), size), len(wanted))
    found = _run(args, cells, rates, store, size)
    rows = records(found)
    write(found, rows, Path(args.out))
    _say(args, rows, "" if args.json or args.quiet else cells[0].world.about())
    return 0


def _refuse(args: argparse.Namespace, rates: Sequence[float]) -> None:
    """Mistakes that can be seen without torch."""
    for flag in ("workers", "seeds", *(["tuning_seeds"] if len(rates) > 1 else [])):
        count, shown = getattr(args, flag), flag.replace("_", "-")
        if count < 1:
            raise UserError(f"`{shown}` cannot be {count}", where=f"--{shown}", fix="use 1 or more")
    if args.seeds > MOST_SEEDS:
        raise UserError(f"{args.seeds} seeds would run into those of the tuning", where="--seeds", fix=f"{MOST_SEEDS}")
    if args.stack not in ("", "auto") and number("stack", args.stack, int) < 1:
        raise UserError(f"a stack of {args.stack} runs is empty", where="--stack", fix="1 or more, or auto")
    if Path(args.out).exists() and not Path(args.out).is_dir():
        raise UserError("the output folder is a file", where=args.out, fix="name a folder")


def _wanted(args: argparse.Namespace, cells: Sequence[Setting], rates: list[float], store: Any) -> list[Setting]:
    """All runs of the grid; which learning rates the comparison takes is known when the tuning runs are there."""
    from prefloop.lab.store import missing
    from prefloop.lab.summary import TUNING, tuned

    tuning = _with(cells, rates, range(TUNING, TUNING + args.tuning_seeds)) if len(rates) > 1 else []
    chosen = [replace(c, lr=rates[0]) for c in cells]
    if not missing(tuning, store):
        chosen = [c.setting for c in tuned(cells, rates, [], args.tuning_seeds, lambda s: [store[one] for one in s])]
    return [*tuning, *(replace(c, seed=s) for c in chosen for s in range(args.seeds))]


def _with(cells: Sequence[Setting], rates: Sequence[float], seeds: Sequence[int]) -> list[Setting]:
    return [replace(c, lr=lr, seed=s) for c in cells for lr in rates for s in seeds]


def _stack(text: str, first: Setting, *, quiet: bool) -> int | None:
    """Runs per stack: a number, the default of the problem, or what a probe finds fastest."""
    if text == "":
        return None
    if text != "auto":
        return int(number("stack", text, int))
    from prefloop.lab.forecast import best_size

    size, cost = best_size(first)
    if not quiet:
        print(
            "stack size: "
            + ", ".join(f"{n}: {1000 * s:.2f} ms per run and step" for n, s in cost.items())
            + f" → {size}"
        )
    return size


def _plan(args: argparse.Namespace, jobs: list[list[Setting]], wanted: int) -> int:
    """Say what the grid would take, and stop."""
    from prefloop.analysis.numbers import duration, gibibytes
    from prefloop.lab.forecast import forecast

    seen = forecast(jobs, args.workers)
    told = {
        "runs": wanted,
        "to_compute": seen.runs,
        "stacks": seen.stacks,
        "seconds": seen.seconds,
        "bytes": seen.bytes,
    }
    if args.json:
        print(json.dumps(told))
    elif not args.quiet:
        print(f"{wanted} runs, {seen.runs} still to be computed, in {seen.stacks} stacks on {args.workers} workers")
        print(f"predicted from a few steps of each: {duration(seen.seconds)} and {gibibytes(seen.bytes)}")
    return 0


def _run(
    args: argparse.Namespace, cells: list[Setting], rates: list[float], store: Any, size: int | None
) -> list[Cell]:
    from prefloop.lab.summary import tuned
    from prefloop.lab.sweep import sweep
    from prefloop.scale.workers import pool_for

    pool = pool_for(args.workers, args.ray)
    try:
        return tuned(
            cells,
            rates,
            range(args.seeds),
            args.tuning_seeds,
            lambda settings: sweep(settings, store, pool, stack=size, label="lab", quiet=args.quiet or args.json),
        )
    finally:
        pool.close()


def _say(args: argparse.Namespace, rows: Sequence[Mapping[str, Any]], about: str) -> None:
    if args.json:
        print(files.to_json({"out": args.out, "cells": rows}))
    elif not args.quiet:
        show(rows)
        print(f"files: {Path(args.out) / 'results.parquet'}, summary.json, reward.svg")
        print(about, end="\n" if about else "")


def _parser(argv: Sequence[str] | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefloop lab",
        description="Stacked runs on problems with a known reward. Every list is an axis of the grid: --batch 64,256.",
        epilog="Hyper-parameters of a method: --override.NAME V1,V2, for instance --override.beta 0.05,0.1.",
        allow_abbrev=False,
    )
    for name, (_, default, text) in LISTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, metavar="LIST", help=text)
    parser.add_argument("--lr", default="1e-3", metavar="LIST", help="of several, the best per cell on other seeds")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="optimiser steps")
    length.add_argument("--iterations", type=int, help=f"collections (default {ITERATIONS})")
    parser.add_argument("--seeds", type=int, default=10, help="runs per cell (default 10)")
    parser.add_argument("--tuning-seeds", type=int, default=3, help="runs per learning rate that is tried (default 3)")
    parser.add_argument("--precision", choices=("float32", "float64"))
    parser.add_argument("--evaluate", type=int, help="steps between evaluations")
    parser.add_argument("--out", default="lab", metavar="DIR", help="runs, tables, figures; existing runs are reused")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each (default 2)")
    parser.add_argument("--stack", default="", metavar="N|auto", help="runs per stack")
    parser.add_argument("--ray", default="", metavar="ADDRESS", help="of a Ray cluster; `local` starts one")
    parser.add_argument("--plan", action="store_true", help="say what the grid would take, and stop")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quiet", "-q", action="store_true", help="print nothing")
    add_world_flags(parser, argv)
    return parser
