"""`prefloop demo`: the study's 2×2 on a real language model, out of one row and two switches.

The reward (shorter is better) peaks far from what the model does. The study predicts that on-policy sampling and the
negative gradient each help there. The rule was fixed before any run: a prediction holds in a comparison of two cells
if the 95 % interval of the paired difference of gold reward on the held-out prompts lies above 0, is contradicted if
it lies below 0, and is open otherwise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefloop.core.errors import UserError, nearest
from prefloop.runs import config as configuration

CONFIGS = Path(__file__).parent / "demo_configs"
GRID = ("online_dpo", "offline_dpo", "online_positive", "offline_positive")  # the slowest first, for the prediction
EXTRA = ("pref_ft", "best_of_n")
LABELS = {
    "online_dpo": "on-policy, negative gradient",
    "offline_dpo": "offline, negative gradient",
    "online_positive": "on-policy, positive only",
    "offline_positive": "offline, positive only",
    "pref_ft": "Pref-FT (offline, supervised)",
    "best_of_n": "best-of-4 (on-policy, supervised)",
}
PREDICTIONS = (  # (better, worse, what the study says of a reward peak that is far away)
    ("online_dpo", "offline_dpo", "on-policy sampling helps, with the negative gradient"),
    ("online_positive", "offline_positive", "on-policy sampling helps, without it"),
    ("online_dpo", "online_positive", "the negative gradient helps, on-policy"),
    ("offline_dpo", "offline_positive", "the negative gradient helps, offline"),
)

ROWS = (
    "gold reward before",
    "gold reward after",
    "KL(π‖ref), nats",
    "KL(ref‖π), nats",
    "on-policy share",
    "passes",
    "pushed down",
    "tokens sampled",
    "tokens trained",
    "minutes",
)
CAPTION = (
    "KL: mean log-ratio of whole responses on samples of the first-named distribution, nats. pushed down: coefficient"
    " mass, summed over steps. minutes: training steps. Offline cells train on answers of the reference, drawn once."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cells, print the table and the verdicts, write one HTML page.

    Raises:
        UserError, DataError: before anything is trained.
    """
    args = _parser().parse_args(argv)
    names = tuple(args.cells or (*GRID, *(EXTRA if args.extra else ())))
    for name in names:
        if name not in LABELS:
            raise UserError(f"the demo has no cell `{name}`", fix=nearest(name, LABELS))
    flags = [f"--seed={args.seed}", f"--output={args.output}"]
    flags += [] if args.steps is None else [f"--training.steps={args.steps}"]
    configs = {name: configuration.load(CONFIGS / f"{name}.yaml", flags) for name in names}

    from prefloop.runs.grid import grid  # torch and transformers load here

    quiet, clock = args.quiet or args.json, time.monotonic()
    forecast = _Forecast(sum(c.training.steps for c in configs.values()), len(names), clock, quiet)
    folders = grid({LABELS[name]: config for name, config in configs.items()}, quiet=quiet, observers=(forecast,))
    _tell({name: folders[LABELS[name]] for name in names}, Path(args.output), time.monotonic() - clock, args)
    return 0


class _Forecast:
    """After two steps, how long everything will take."""

    def __init__(self, steps: int, cells: int, start: float, quiet: bool) -> None:
        self.steps, self.cells, self.start, self.quiet = steps, cells, start, quiet
        self.times: list[float] = []

    def __call__(self, record: Any, loop: Any) -> None:
        self.times.append(time.monotonic())
        if len(self.times) == 2 and not self.quiet:
            one, before = self.times[1] - self.times[0], self.times[0] - self.start
            total = before + self.steps * one + self.cells * before / 2
            print(f"about {total / 60:.0f} minutes in all; --steps N shortens it", flush=True)


def _tell(folders: dict[str, Path], output: Path, seconds: float, args: argparse.Namespace) -> None:
    from prefloop.report import page
    from prefloop.report.data import load

    places, labels = list(folders.values()), [LABELS[name] for name in folders]
    runs = dict(zip(folders, load(places, labels), strict=True))
    verdicts = [verdict(runs[a], runs[b], claim) for a, b, claim in PREDICTIONS if a in runs and b in runs]
    lines = [_sentence(v) for v in verdicts]
    title = "Which half of the gradient, and whose samples?"
    where = page.write(places, output / "demo.html", title=title, verdict=lines, labels=labels)
    if args.json:
        ends = {"before": 0, "after": -1}
        cells = {n: {"run": str(r.path), **{k: r.evaluations[i] for k, i in ends.items()}} for n, r in runs.items()}
        print(json.dumps({"cells": cells, "verdicts": verdicts, "page": str(where), "seconds": seconds}))
    elif not args.quiet:
        _print(runs, lines, where, seconds)


def verdict(better: Any, worse: Any, claim: str) -> dict[str, Any]:
    """The rule of this file: a paired bootstrap over held-out prompts."""
    from prefloop.analysis.statistics import bootstrap

    a, b = ({s["prompt"]: s["score"] for s in run.samples if s["step"] > 0} for run in (better, worse))
    found = bootstrap([a[p] - b[p] for p in a], seed=0)
    word = "holds" if found.low > 0 else "contradicted" if found.high < 0 else "open"
    return {"claim": claim, "verdict": word, "difference": found.value, "low": found.low, "high": found.high}


def _sentence(v: dict[str, Any]) -> str:
    interval = f"{v['difference']:+.2f}, 95 % {v['low']:+.2f} to {v['high']:+.2f}"
    return f"{v['claim']}: {v['verdict']} ({interval})"


def _print(runs: dict[str, Any], verdicts: list[str], where: Path, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="On held-out prompts: gold reward (−tokens/10), mean ± standard error", title_justify="left")
    table.add_column("")
    for run in runs.values():
        table.add_column(run.label.replace(", ", ",\n"), justify="right")
    for row in zip(ROWS, *(_cells(run) for run in runs.values()), strict=True):
        table.add_row(*row)
    console.print(table)
    console.print(CAPTION, highlight=False)
    console.print("\nThe study's predictions for a reward peak that is far away:")
    for line in verdicts:
        console.print(f"  {line}", highlight=False)
    _answers(console, runs)
    console.print(f"\n{seconds / 60:.1f} minutes in all. Curves and all answers: {where}")


def _cells(run: Any) -> list[str]:
    down = sum(line["push/down"] for line in run.steps)
    return [
        _pm(run.before("eval/reward")),
        _pm(run.after("eval/reward")),
        _pm(run.after("eval/kl_reverse")),
        _pm(run.after("eval/kl_forward")),
        f"{run.mean('on_policy'):.0%}",
        f"{run.last('pass'):.0f}",
        f"{down:.1f}",
        f"{run.last('tokens/sampled'):.0f}",
        f"{run.last('tokens/trained'):.0f}",
        f"{run.seconds / 60:.1f}",
    ]


def _answers(console: Any, runs: dict[str, Any]) -> None:
    console.print("\nThe same held-out prompts, before and after:")
    first = next(iter(runs.values()))
    for sample in [s for s in first.samples if s["step"] == 0][:3]:
        console.print(f"\n[bold]{_short(sample['prompt'])}[/]")
        console.print(f"  before: {_short(sample['response'])}", markup=False, highlight=False)
        for run in runs.values():
            after = next(s for s in run.samples if s["step"] > 0 and s["prompt"] == sample["prompt"])
            console.print(f"  {run.label}: {_short(after['response'])}", markup=False, highlight=False)


def _pm(value: Any) -> str:
    return "–" if value is None else f"{value.value:.2f} ± {value.se:.2f}"


def _short(text: str, limit: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prefloop demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, help="optimiser steps per cell; fewer are faster")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="runs", help="where the run folders and demo.html go")
    parser.add_argument("--cells", nargs="+", metavar="CELL", help=f"some of: {', '.join(LABELS)}")
    parser.add_argument("--extra", action="store_true", help="Pref-FT and best-of-N as further lines")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    return parser
