"""`prefloop lab`: a grid of runs on the study's didactic problems, as a table with intervals, Parquet and SVG."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.errors import UserError

if TYPE_CHECKING:  # torch comes in only when there is something to run, so that --help is quick
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid, or say what it would take.

    Raises:
        UserError: a bad grid, before any run starts.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    options = _overrides(rest)
    from prefloop.lab.sweep import Store, jobs_of, missing

    cells = grid(args, options)
    rates, seeds = _values("lr", args.lr, float), list(range(args.seeds))
    from prefloop.lab.summary import TUNING

    final = _with(cells, rates[:1], seeds)
    tuning = _with(cells, rates, range(TUNING, TUNING + args.tuning_seeds)) if len(rates) > 1 else []
    for setting in (*tuning, *final):
        setting.check()
    store = Store(Path(args.out) / "runs")
    size = _stack(args.stack, cells[0], quiet=args.quiet or args.json)
    if args.plan:
        return _plan(args, jobs_of(missing([*tuning, *final], store), size), len(tuning) + len(final))
    found = _run(args, cells, rates, seeds, store, size)
    write(found, Path(args.out))
    _say(args, found)
    return 0


def grid(args: argparse.Namespace, options: dict[str, list[Any]]) -> list[Setting]:
    """One setting per place of the grid, seeds and learning rates apart.

    Raises:
        UserError: an empty list, or a value that is none.
    """
    from prefloop.lab.setting import REWARDS, Setting

    axes = {name: _values(name, getattr(args, name), kind) for name, (kind, _, _) in LISTS.items()}
    axes = {k: v for k, v in axes.items() if v} | options
    fixed = {k: getattr(args, k) for k in OPTIONS if getattr(args, k) is not None}
    cells = []
    for place in product(*axes.values()):
        at = dict(zip(axes, place, strict=True))
        override = {k: at.pop(k) for k in (*SWITCHES, *options) if k in at}
        reward = at.pop("reward")
        centre = REWARDS.get(reward)
        at["centre"] = _number("reward", reward, float) if centre is None else centre
        at.setdefault("batch", 10 * at["responses"])
        at.setdefault("minibatch", at["batch"])
        one = Setting(override=override, **at, **fixed)
        one.check()
        per_collection = one.row.reuse * one.batch // one.minibatch
        steps = args.steps or args.iterations * per_collection
        every = args.evaluate or max(1, steps // 20)
        cells.append(Setting(**{**vars(one), "steps": steps, "evaluate": every}))
    return cells


def _with(cells: Sequence[Setting], rates: Sequence[float], seeds: Sequence[int]) -> list[Setting]:
    from dataclasses import replace

    return [replace(c, lr=lr, seed=s) for c in cells for lr in rates for s in seeds]


def _values(name: str, text: str, kind: type) -> list[Any]:
    """A comma list; empty text is no axis, but an empty place in a list is a mistake."""
    if text == "" and name in LISTS and LISTS[name][1] == "":
        return []
    words = [w.strip() for w in text.split(",")]
    if not all(words):
        raise UserError(f"`--{name.replace('_', '-')} {text}` has an empty place", fix="values with commas between")
    return list(dict.fromkeys(_number(name, w, kind) for w in words))


def _number(name: str, word: str, kind: type) -> Any:
    try:
        return kind(word)
    except ValueError:
        what = {int: "a whole number", float: "a number"}[kind]
        raise UserError(f"`{word}` is not {what}", where=f"--{name.replace('_', '-')}") from None


def _overrides(rest: Sequence[str]) -> dict[str, list[Any]]:
    """--override.NAME V1,V2: hyper-parameters and parts of the row, as axes of the grid."""
    import yaml

    out: dict[str, list[Any]] = {}
    words = [part for word in rest for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(words) % 2 or not all(w.startswith("--override.") for w in words[::2]):
        odd = next((w for w in words[::2] if not w.startswith("--override.")), words[-1])
        raise UserError(f"there is no flag `{odd}`", fix="prefloop lab --help; hyper-parameters: --override.NAME VALUE")
    for flag, text in zip(words[::2], words[1::2], strict=True):
        values = [yaml.safe_load(v) for v in text.split(",")]
        if any(v is None for v in values):
            raise UserError(f"`{flag} {text}` has an empty place", fix="values with commas between")
        out[flag.removeprefix("--override.")] = values
    return out


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
    args: argparse.Namespace, cells: list[Setting], rates: list[float], seeds: list[int], store: Any, size: int | None
) -> list[Cell]:
    from prefloop.lab.summary import tuned
    from prefloop.lab.sweep import sweep
    from prefloop.lab.workers import pool_for

    pool = pool_for(args.workers, args.ray)
    try:
        return tuned(
            cells,
            rates,
            seeds,
            args.tuning_seeds,
            lambda settings: sweep(settings, store, pool, stack=size, label="lab", quiet=args.quiet or args.json),
        )
    finally:
        pool.close()


def records(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One flat record per cell: what tells it apart, the learning rate, and its numbers with intervals."""
    from prefloop.lab.summary import differences, interval

    out = []
    for cell, told in zip(cells, differences([c.setting for c in cells]), strict=True):
        one, end = cell.setting, interval(cell.last())
        numbers = {name: float(cell.last(name).mean()) for name in COLUMNS}
        out.append(
            {"method": one.method, **told, "lr": one.lr, "lr_at_edge": cell.at_edge, "steps": one.steps}
            | {"reward": end.value, "low": end.low, "high": end.high, "over_training": float(cell.mean().mean())}
            | numbers
            | {"seeds": len(cell.runs), "diverged": int(cell.last("diverged").sum())}
        )
    return out


COLUMNS = {  # at the end of training, mean over seeds: heading in the table, or none
    "kl": "KL(π‖ref)",
    "kl_forward": "KL(ref‖π)",
    "entropy": "",
    "ess": "ESS",
    "kl_collection": "",
    "clip_ratio": "clipped",
    "passes": "passes",
    "samples": "samples",
    "push_up": "",
    "push_down": "push down",
}


def write(cells: Sequence[Cell], out: Path) -> None:
    """`results.parquet` with every evaluation of every run, `summary.json`, and `reward.svg`."""
    from prefloop.lab.summary import band
    from prefloop.lab.table import to_bytes
    from prefloop.studies.plots import draw
    from prefloop.studies.study import Chart, Line

    (out / "results.parquet").write_bytes(to_bytes([run for cell in cells for run in cell.runs]))
    rows = records(cells)
    text = json.dumps(_finite(rows), indent=2, ensure_ascii=False)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    charts = []
    for x, title in (("step", "gradient steps"), ("samples", "responses sampled"), ("queries", "reward queries")):
        lines = []
        for cell, row in zip(cells, rows, strict=True):
            middle, low, high = band(cell.curve("reward"))
            lines.append(Line(label(row), cell.runs[0].curves[x].tolist(), middle, low, high))
        charts.append(Chart("Gold reward, mean and 95 %", title, "gold reward", lines, guides={"ceiling": 1.0}))
    draw({"reward": charts}, out)


def label(row: dict[str, Any]) -> str:
    """A cell in a few words: the method, and what else differs."""
    skip = {
        "method",
        "lr",
        "lr_at_edge",
        "steps",
        "reward",
        "low",
        "high",
        "over_training",
        "seeds",
        "diverged",
        *COLUMNS,
    }
    return " ".join([row["method"], *(f"{k}={v}" for k, v in row.items() if k not in skip)])


def _finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """JSON has no nan: null stands for it."""
    return [{k: None if isinstance(v, float) and v != v else v for k, v in row.items()} for row in rows]


def _say(args: argparse.Namespace, cells: Sequence[Cell]) -> None:
    if args.json:
        print(json.dumps({"out": args.out, "cells": _finite(records(cells))}, ensure_ascii=False))
    elif not args.quiet:
        _table(records(cells))
        print(f"files: {Path(args.out) / 'results.parquet'}, summary.json, reward.svg")


def _table(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from prefloop.cli.methods import PIPE

    console = Console()
    console = console if console.is_terminal else Console(width=PIPE)
    skip = {"lr", "lr_at_edge", "steps", "reward", "low", "high", "over_training", "seeds", "diverged", *COLUMNS}
    own = [k for k in rows[0] if k not in skip]
    shown = {k: v for k, v in COLUMNS.items() if v and any(row[k] == row[k] for row in rows)}
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in own:
        table.add_column(name, no_wrap=True)
    for title in ("lr", "steps", "reward, IQM [95 %]", "over training", *shown.values(), "seeds"):
        table.add_column(title, justify="right", no_wrap=title.startswith("reward"))
    for row in rows:
        lost = f" ({row['diverged']} diverged)" if row["diverged"] else ""
        table.add_row(
            *(str(row[k]) for k in own),
            f"{row['lr']:g}" + ("*" if row["lr_at_edge"] else ""),
            str(row["steps"]),
            f"{row['reward']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            f"{row['over_training']:.3f}",
            *("–" if row[k] != row[k] else f"{row[k]:.4g}" for k in shown),
            f"{row['seeds']}{lost}",
        )
    console.print(table)
    if any(row["lr_at_edge"] for row in rows):
        console.print("* the lowest or highest learning rate that was tried: try further ones", style="dim")


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
    length.add_argument("--iterations", type=int, default=100, help="collections (default 100)")
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
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    return parser
