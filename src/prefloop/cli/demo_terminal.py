"""The demo's result on a terminal of 80 columns: answer, table, verdicts, answers before and after."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from prefloop.analysis.compare import Difference
from prefloop.cli import demo_result as result
from prefloop.cli.demo_cells import BUDGET, LABELS
from prefloop.report.data import Run

SHOWN = 3  # prompts: the first of the held-out ones, none picked by hand

Row = tuple[str, Callable[[result.Cell], str]]
ROWS: tuple[Row, ...] = (
    ("reward before", lambda cell: _interval(result.reward(cell, last=False))),
    ("reward after", lambda cell: _interval(result.reward(cell))),
    ("temperature 0", lambda cell: f"{result.mean(cell, result.greedy):.2f}"),
    (f"KL(π‖ref) ≤ {BUDGET:g}", lambda cell: f"{result.mean(cell, result.distance):.1f}"),
    ("on-policy", lambda cell: f"{result.mean(cell, lambda run: run.mean('on_policy')):.0%}"),
    ("pushed down", lambda cell: f"{result.mean(cell, _pushed_down):.2f}"),
    ("tokens sampled", lambda cell: f"{result.mean(cell, lambda run: run.last('tokens/sampled')):.0f}"),
    ("minutes", lambda cell: f"{result.mean(cell, lambda run: run.seconds) / 60:.1f}"),
)


def show(cells: result.Cells, console: Console | None = None) -> None:
    """Print everything but the time."""
    console = console or Console(highlight=False)
    console.print()
    for sentence in result.answer(cells):
        console.print(sentence)
    console.print()
    console.print(table(cells))
    console.print(verdicts(cells))
    console.print(result.scope(cells))
    for prompt in list(result.answers(_first(cells), greedy=True))[:SHOWN]:
        console.print(answers(cells, prompt))


def table(cells: result.Cells) -> Table:
    """One column per cell."""
    out = Table(title="Reward of answers to held-out prompts, 0 to 1, with 95 % intervals", title_justify="left")
    out.add_column("")
    for name in cells:
        out.add_column(LABELS[name].replace(", ", ",\n").replace("negative ", "negative\n"), justify="right")
    for name, cell in ROWS:
        out.add_row(name, *(cell(runs) for runs in cells.values()))
    return out


def verdicts(cells: result.Cells) -> Table:
    """The paper's predictions and their verdicts."""
    out = Table(title="The paper's predictions", title_justify="left", box=None, show_header=False, pad_edge=False)
    for verdict in result.verdicts(cells):
        out.add_row(verdict.claim, verdict.word, verdict.numbers)
    return out


def answers(cells: result.Cells, prompt: str) -> Padding:
    """The answers at temperature 0 to one prompt: before on the first line, then each cell."""
    out = Table(title=escape(prompt), title_justify="left", title_style="bold", box=None, show_header=False)
    out.add_column(style="dim", width=20)
    out.add_column()
    out.add_row("before", escape(_line(result.answers(_first(cells), greedy=True, last=False)[prompt])))
    for name, cell in cells.items():
        out.add_row(LABELS[name], escape(_line(result.answers(cell[0], greedy=True)[prompt])))
    return Padding(out, (1, 0, 0, 0))


def _first(cells: result.Cells) -> Run:
    return next(iter(cells.values()))[0]


def _line(text: str) -> str:
    return " ".join(text.split())


def _interval(x: Difference) -> str:
    return f"{x.value:.2f}\n{x.low:.2f} to {x.high:.2f}"


def _pushed_down(run: Run) -> float:
    return sum(line["push/down"] for line in run.steps)
