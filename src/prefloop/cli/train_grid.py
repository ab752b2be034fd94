"""Several runs from one command line: every combination of the listed values, and what they gave over their seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.analysis.numbers import cell
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import word

if TYPE_CHECKING:
    from prefloop.report.data import Run

SHOWN = (  # the first COLUMNS of them that all runs have
    "eval/reward",
    "eval/rewards/accuracies",
    "eval/accuracy/mean_logp",
    "eval/labels/auc",
    "eval/loss",
    "eval/kl_reverse",
    "eval/tokens/length",
)
COLUMNS = 3


def labels(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each combination, from the values in which they differ: `dpo, beta 0.1, seed 0`."""
    flat = [dict(_leaves(tree)) for tree in trees]
    axes = [key for key in flat[0] if len({repr(one[key]) for one in flat}) > 1]
    return [", ".join(_named(key, one[key]) for key in axes) for one in flat]


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _named(key: str, value: Any) -> str:
    return word(value) if key == "method" else f"{key.rpartition('.')[2]} {word(value)}"


def results(folders: Mapping[str, Path]) -> tuple[list[Run], list[str]]:
    """The runs of a grid as in the report: the seeds of a cell as one; and what the held-out numbers say."""
    from prefloop.report.cells import columns
    from prefloop.report.findings import findings

    runs = columns(list(folders.values()))
    return runs, findings(runs)


def shown(runs: Sequence[Run]) -> list[str]:
    """The held-out numbers that every run has, the most telling first."""
    return [key for key in SHOWN if all(key in run.evaluations[-1] for run in runs)][:COLUMNS]


def record(runs: Sequence[Run], findings: Sequence[str]) -> dict[str, Any]:
    """The result for JSON: held-out numbers after training, each with its error or interval if there is one."""
    cells = [
        {
            "cell": run.label,
            "runs": [str(one.path) for one in run.members or (run,)],
            "after": {key: value for key, value in run.evaluations[-1].items() if key.startswith("eval/")},
        }
        for run in runs
    ]
    return {"cells": cells, "findings": list(findings)}


def show(runs: Sequence[Run], findings: Sequence[str], output: str) -> None:
    """Print one row for each cell and the findings, at most 80 columns wide."""
    from rich.console import Console
    from rich.table import Table

    keys = shown(runs)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("held-out, after training", overflow="fold")
    for key in keys:
        table.add_column(key.removeprefix("eval/"), justify="right", overflow="fold")
    for run in runs:
        table.add_row(run.label, *(cell(run.evaluations[-1], key) for key in keys))
    Console().print(table)
    for sentence in findings:
        print(wrapped(sentence))
    print(f"next: prefloop report {output}/*/")
