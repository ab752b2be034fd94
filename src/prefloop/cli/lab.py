"""`prefloop lab`: a grid of runs on the study's didactic problems, as a table with intervals, Parquet and SVG."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.errors import UserError

if TYPE_CHECKING:  # torch comes in only when there is something to run, so that --help is quick
    from rich.console import Console
    from rich.table import Table

    from prefloop.lab.setting import Setting
    from prefloop.lab.summary import Cell

SWITCHES = ("reuse", "negative", "on_policy", "kl")  # flags of their own that override the row
LISTS = {  # flag -> (what one value is, default, help); every flag takes a comma list, and the grid is their product
    "method": (str, "best_of_n,online_dpo", "rows of `prefloop methods`"),
    "reward": (str, "far", "far (centre 70), near (20), or a centre"),
    "width": (float, "10", "width of the reward's peak"),
    "responses": (int, "10", "responses per prompt (C)"),
    "batch": (int, "", "responses per collection (B); 10 prompts' where not given"),
    "minibatch": (int, "", "responses per optimiser step (M); the batch where not given"),
    "coverage": (float, "1", "share of the offline responses that the reference wrote"),
    "reuse": (int, "", "passes over a collection (T)"),
    "negative": (float, "", "share of the push-down gradient that is kept"),
    "on_policy": (float, "", "share of the prompt groups that the policy answers"),
    "kl": (float, "", "weight of the KL penalty"),
}
OPTIONS = ("problem", "policy", "contexts", "data", "labels", "temperature", "scorer", "precision", "evaluate")
ITERATIONS = 100
MOST_SEEDS = 1000  # from there on seeds are for tuning: see lab.summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid, or say what it would take.

    Raises:
        UserError: a bad grid, before any run starts.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    options = _overrides(rest, parser.format_help(), args)
    rates = _values("lr", args.lr, float)
    _refuse(args, rates)
    from prefloop.lab.sweep import Store, jobs_of, missing

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
    _say(args, rows)
    return 0


def _refuse(args: argparse.Namespace, rates: Sequence[float]) -> None:
    """Mistakes that are found without torch."""
    for flag in ("workers", "seeds", *(["tuning_seeds"] if len(rates) > 1 else [])):
        count, shown = getattr(args, flag), flag.replace("_", "-")
        if count < 1:
            raise UserError(f"`{shown}` cannot be {count}", where=f"--{shown}", fix="use 1 or more")
    if args.seeds > MOST_SEEDS:
        raise UserError(f"{args.seeds} seeds would run into those of the tuning", where="--seeds", fix=f"{MOST_SEEDS}")
    if args.stack not in ("", "auto") and _number("stack", args.stack, int) < 1:
        raise UserError(f"a stack of {args.stack} runs is empty", where="--stack", fix="1 or more, or auto")
    if Path(args.out).exists() and not Path(args.out).is_dir():
        raise UserError("the output folder is a file", where=args.out, fix="name a folder")


def grid(args: argparse.Namespace, options: dict[str, list[Any]]) -> list[Setting]:
    """One setting per place of the grid, seeds and learning rates apart.

    Raises:
        UserError: an empty list, or a value that is none.
    """
    from prefloop.lab.setting import Setting

    axes = {name: _values(name, getattr(args, name), kind) for name, (kind, _, _) in LISTS.items()}
    axes = {k: v for k, v in axes.items() if v} | options
    fixed = {k: getattr(args, k) for k in OPTIONS if getattr(args, k) is not None}
    cells = []
    for place in product(*axes.values()):
        at = dict(zip(axes, place, strict=True))
        override = {k: at.pop(k) for k in (*SWITCHES, *options) if k in at}
        at["centre"] = _centre(at.pop("reward"))
        at.setdefault("batch", 10 * at["responses"])
        at.setdefault("minibatch", at["batch"])
        one = Setting(override=override, **at, **fixed)
        one.check()
        per_collection = one.row.reuse * one.batch // one.minibatch
        steps = args.steps if args.steps is not None else _iterations(args) * per_collection
        every = max(1, steps // 20) if args.evaluate is None else args.evaluate
        cells.append(replace(one, steps=steps, evaluate=every))
    return list({cell.run: cell for cell in cells}.values())  # `far,70` is one place


def _iterations(args: argparse.Namespace) -> int:
    count = ITERATIONS if args.iterations is None else int(args.iterations)
    if count < 1:
        raise UserError(f"`iterations` cannot be {count}", where="--iterations", fix="use 1 or more")
    return count


def _centre(word: str) -> float:
    from prefloop.lab.setting import REWARDS

    try:
        return REWARDS[word] if word in REWARDS else float(word)
    except ValueError:
        known = ", ".join(REWARDS)
        raise UserError(f"`{word}` is no reward", where="--reward", fix=f"{known}, or the arm of its peak") from None


def _wanted(args: argparse.Namespace, cells: Sequence[Setting], rates: list[float], store: Any) -> list[Setting]:
    """All runs of the grid; which learning rates the comparison takes is known when the tuning runs are there."""
    from prefloop.lab.summary import TUNING, tuned
    from prefloop.lab.sweep import missing

    tuning = _with(cells, rates, range(TUNING, TUNING + args.tuning_seeds)) if len(rates) > 1 else []
    chosen = [replace(c, lr=rates[0]) for c in cells]
    if not missing(tuning, store):
        chosen = [c.setting for c in tuned(cells, rates, [], args.tuning_seeds, lambda s: [store[one] for one in s])]
    return [*tuning, *(replace(c, seed=s) for c in chosen for s in range(args.seeds))]


def _with(cells: Sequence[Setting], rates: Sequence[float], seeds: Sequence[int]) -> list[Setting]:
    return [replace(c, lr=lr, seed=s) for c in cells for lr in rates for s in seeds]


def _values(name: str, text: str, kind: type) -> list[Any]:
    """A comma list; empty text is no axis, but an empty place in a list is a mistake."""
    if text == "" and name in LISTS and LISTS[name][1] == "":
        return []
    words = _words(f"--{name.replace('_', '-')}", text)
    return list(dict.fromkeys(_number(name, w, kind) for w in words))


def _words(flag: str, text: str) -> list[str]:
    words = [w.strip() for w in text.split(",")]
    if not all(words):
        raise UserError(f"`{flag} {text}` has an empty place", fix="values with commas between")
    return words


def _number(name: str, word: str, kind: type) -> Any:
    try:
        return kind(word)
    except ValueError:
        what = {int: "a whole number", float: "a number"}[kind]
        raise UserError(f"`{word}` is not {what}", where=f"--{name.replace('_', '-')}") from None


def _overrides(rest: Sequence[str], page: str, args: argparse.Namespace) -> dict[str, list[Any]]:
    """--override.NAME V1,V2: hyper-parameters and parts of the row, as axes of the grid.

    Args:
        page: of help, for the names of the flags.
    """
    out: dict[str, list[Any]] = {}
    words = [part for word in rest for part in (word.split("=", 1) if word.startswith("--") else [word])]
    odd = [word for word in words[::2] if not word.startswith("--override.")]
    if odd:
        close = difflib.get_close_matches(odd[0], re.findall(r"--[a-z-]+", page), n=1)
        what = (
            f"did you mean `{close[0]}`?" if close else "prefloop lab --help; hyper-parameters: --override.NAME V1,V2"
        )
        raise UserError(f"there is no flag `{odd[0]}`", fix=what)
    if len(words) % 2:
        raise UserError(f"`{words[-1]}` has no value", fix=f"{words[-1]} V1,V2")
    for flag, text in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--override.")
        given = name not in SWITCHES or getattr(args, name) != ""  # a switch may be turned either way, but once
        if name in ("lr", *OPTIONS, *LISTS) and given:
            raise UserError(f"`{name}` has a flag of its own", where=flag, fix=f"--{name.replace('_', '-')} {text}")
        if name in out:
            raise UserError(f"`{flag}` is given twice", fix="values with commas between")
        out[name] = list(dict.fromkeys(_scalar(flag, word) for word in _words(flag, text)))
    return out


def _scalar(flag: str, word: str) -> Any:
    """As YAML reads it, but that 1e-3 is a number here."""
    import yaml

    try:
        value = float(word) if re.fullmatch(r"[+-]?[0-9.]+e[+-]?[0-9]+", word) else yaml.safe_load(word)
    except (yaml.YAMLError, ValueError):
        value = []
    if isinstance(value, list | dict):
        raise UserError(f"`{word}` is no value", where=flag)
    return value


def _stack(text: str, first: Setting, *, quiet: bool) -> int | None:
    """Runs per stack: a number, the default of the problem, or what a probe finds fastest."""
    if text == "":
        return None
    if text != "auto":
        return int(_number("stack", text, int))
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
    from prefloop.lab.forecast import forecast
    from prefloop.runs.progress import clock_text

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
        print(f"predicted from a few steps of each: {clock_text(seen.seconds)} and {seen.bytes / 2**30:.1f} GiB")
    return 0


def _run(
    args: argparse.Namespace, cells: list[Setting], rates: list[float], store: Any, size: int | None
) -> list[Cell]:
    from prefloop.lab.summary import tuned
    from prefloop.lab.sweep import sweep
    from prefloop.lab.workers import pool_for

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


def records(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One record per cell: what tells it apart (`differs`), the learning rate, and its numbers with intervals."""
    from prefloop.lab.summary import differences, interval

    out, settings = [], [c.setting for c in cells]
    same = all(one.minibatch == one.batch for one in settings)
    ignore = ("method", "seed", "lr", "steps", "evaluate", *(["minibatch"] if same else []))
    told = differences(settings, ignore=ignore)
    for cell, differs in zip(cells, told, strict=True):
        one, end = cell.setting, interval(cell.last())
        numbers = {name: float(cell.last(name).mean()) for name in COLUMNS}
        out.append(
            {"method": one.method, "differs": differs, "lr": one.lr, "lr_at_edge": cell.at_edge, "steps": one.steps}
            | {"reward": end.value, "low": end.low, "high": end.high, "over_training": float(cell.mean().mean())}
            | numbers
            | {"seeds": len(cell.runs), "diverged": int(cell.last("diverged").sum())}
        )
    return out


COLUMNS = {  # at the end of training, mean over seeds: heading in the table, or none
    "kl": "KL\n(π‖ref)",
    "samples": "samples",
    "passes": "passes",
    "push_down": "push\ndown",
    "clip_ratio": "clipped",
    "ess": "ESS",
    "kl_forward": "KL\n(ref‖π)",
    "entropy": "",
    "kl_collection": "",
    "push_up": "",
}


def write(cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """`results.parquet` with every evaluation of every run, `summary.json`, and `reward.svg`."""
    from prefloop.lab.summary import band
    from prefloop.lab.table import to_bytes
    from prefloop.studies.plots import draw
    from prefloop.studies.study import Chart, Line

    (out / "results.parquet").write_bytes(to_bytes([run for cell in cells for run in cell.runs]))
    (out / "summary.json").write_text(_json(rows, indent=2) + "\n", encoding="utf-8")
    charts = []
    for first in range(0, len(cells), LINES):
        for x, title in AXES.items():
            lines = []
            for cell, row in list(zip(cells, rows, strict=True))[first : first + LINES]:
                middle, low, high = band(cell.curve("reward"))
                if cell.runs[0].last(x) > 0:  # offline cells draw no samples
                    lines.append(Line(label(row), cell.runs[0].curves[x].tolist(), middle, low, high))
            if lines:
                charts.append(Chart("Gold reward, mean and 95 %", title, "gold reward", lines, guides={"ceiling": 1.0}))
    draw({"reward": charts}, out)


LINES = 8  # of a panel, at most
AXES = {"step": "gradient steps", "samples": "responses sampled", "queries": "reward queries"}


def label(row: Mapping[str, Any]) -> str:
    """A cell in a few words: the method, and what else differs."""
    return " ".join([row["method"], *(f"{k}={_short(v)}" for k, v in row["differs"].items())])


def _json(told: Any, **how: Any) -> str:
    """JSON has neither nan nor infinity: null stands for them."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(told), ensure_ascii=False, allow_nan=False, **how)


def _say(args: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> None:
    if args.json:
        print(_json({"out": args.out, "cells": rows}))
    elif not args.quiet:
        _table(rows)
        print(f"files: {Path(args.out) / 'results.parquet'}, summary.json, reward.svg")


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    """As many columns as the screen holds, so that no number is cut; on a narrow one, a cell's names share a column."""
    from rich.console import Console

    from prefloop.cli.methods import PIPE

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(width=PIPE, highlight=False)
    numbers = _columns(rows)
    names = {"method": [row["method"] for row in rows]}
    names |= {name: [_short(row["differs"][name]) for row in rows] for name in rows[0]["differs"]}
    whole = len(numbers)
    while len(numbers) > ALWAYS and _width(console, _grid(names, numbers)) > console.width:
        numbers.popitem()
    if _width(console, _grid(names, numbers)) > console.width:
        names = {"cell": [label(row) for row in rows]}
    console.print(_grid(names, numbers))
    if any(row["lr_at_edge"] for row in rows):
        console.print("* the lowest or highest learning rate that was tried: try further ones", style="dim")
    if len(numbers) < whole:
        console.print(f"{whole - len(numbers)} more columns: a wider screen, or summary.json", style="dim")


ALWAYS = 3  # columns of numbers that every screen gets


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The table's numbers by heading, the most wanted first."""
    lost = [f" ({row['diverged']} diverged)" if row["diverged"] else "" for row in rows]
    out = {
        "lr": [f"{row['lr']:g}" + ("*" if row["lr_at_edge"] else "") for row in rows],
        "reward, IQM [95 %]": [f"{row['reward']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in rows],
        "seeds": [f"{row['seeds']}{more}" for row, more in zip(rows, lost, strict=True)],
        "over\ntraining": [f"{row['over_training']:.3f}" for row in rows],
        "steps": [str(row["steps"]) for row in rows],
    }
    shown = {k: v for k, v in COLUMNS.items() if v and any(math.isfinite(row[k]) for row in rows)}
    return out | {title: [_short(row[k]) for row in rows] for k, title in shown.items()}


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else "–" if math.isnan(value) else f"{value:.3g}"


def _grid(names: Mapping[str, Sequence[str]], numbers: Mapping[str, Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for title in numbers:
        table.add_column(Text(title), justify="right", no_wrap=True)
    for row in zip(*names.values(), *numbers.values(), strict=True):
        table.add_row(*map(Text, row))
    return table


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefloop lab",
        description="Stacked runs on the study's didactic problems. Every list is an axis of the grid: --batch 64,256.",
        epilog="Hyper-parameters of a row: --override.NAME V1,V2, for instance --override.beta 0.05,0.1.",
        allow_abbrev=False,
    )
    parser.add_argument("--problem", choices=("arms", "sequences", "categorical"), default="arms")
    parser.add_argument("--policy", help="mlp, linear or tabular for arms; gpt for sequences")
    for name, (_, default, text) in LISTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, metavar="LIST", help=text)
    parser.add_argument("--lr", default="1e-3", metavar="LIST", help="of several, the best per cell on other seeds")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="optimiser steps")
    length.add_argument("--iterations", type=int, help=f"collections (default {ITERATIONS})")
    parser.add_argument("--seeds", type=int, default=10, help="runs per cell (default 10)")
    parser.add_argument("--tuning-seeds", type=int, default=3, help="runs per learning rate that is tried (default 3)")
    parser.add_argument("--contexts", type=int, help="fixed list of that many contexts; 0: fresh ones (default)")
    parser.add_argument("--data", type=int, help="groups in the offline data (default 100)")
    parser.add_argument("--labels", choices=("gold", "noisy"), help="of the offline data")
    parser.add_argument("--temperature", type=float, help="of noisy labels")
    parser.add_argument("--scorer", choices=("gold", "proxy"), help="what scores the policy's responses")
    parser.add_argument("--precision", choices=("float32", "float64"))
    parser.add_argument("--evaluate", type=int, help="steps between evaluations")
    parser.add_argument("--out", default="lab", metavar="DIR", help="runs, tables and figures; kept and gone on with")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each (default 2)")
    parser.add_argument("--stack", default="", metavar="N|auto", help="runs per stack")
    parser.add_argument("--ray", default="", metavar="ADDRESS", help="of a Ray cluster; `local` starts one")
    parser.add_argument("--plan", action="store_true", help="say what the grid would take, and stop")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quiet", "-q", action="store_true", help="print nothing")
    return parser
