"""Tables for other programs: CSV, Markdown, and LaTeX with booktabs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from prefloop.analysis.numbers import cell, is_part
from prefloop.report import markdown
from prefloop.report.data import Run

FORMATS = ("csv", "md", "latex")
SUFFIXES = {"latex": "tex"}  # of files, where the format has another name
SYMBOLS = {  # what LaTeX reads otherwise
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "π": r"$\pi$", "‖": r"$\|$", "−": "$-$", "×": r"$\times$",
    "β": r"$\beta$", "τ": r"$\tau$", "λ": r"$\lambda$", "∞": r"$\infty$", "±": r"$\pm$", "→": r"$\to$", "≥": r"$\geq$",
    "≤": r"$\leq$", "–": "--", "…": r"\ldots{}", "\u00a0": "~", "½": r"$\frac{1}{2}$", "Σ": r"$\Sigma$", "²": "$^2$",
}  # fmt: skip


def written(head: Sequence[str], rows: Sequence[Sequence[Any]], format: str) -> str:
    """A table in one of FORMATS, without a line end.

    Args:
        head: titles of the columns.
        rows: numbers, words, or None for what is missing.
    """
    if format == "csv":
        return _csv(head, rows)
    return markdown.grid(head, rows) if format == "md" else _latex(head, rows)


def of_runs(runs: Sequence[Run], format: str) -> str:
    """The last evaluation of every run, a row each, in one of FORMATS; as CSV with errors and ends of intervals."""
    ends = [run.evaluations[-1] if run.evaluations else {} for run in runs]
    last = [{key: value for key, value in line.items() if key.startswith("eval/")} for line in ends]
    known = dict.fromkeys(key for line in last for key in line)
    keys = [key for key in known if format == "csv" or not is_part(key)]
    rows = [
        [run.label, run.method, end.get("step"), *(line.get(k) if format == "csv" else cell(line, k) for k in keys)]
        for run, end, line in zip(runs, ends, last, strict=True)
    ]
    return written(["run", "method", "step", *(key.removeprefix("eval/") for key in keys)], rows, format)


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Numbers with all their digits; empty where there is none."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    return out.getvalue().removesuffix("\n")


def _latex(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A tabular between rules of booktabs; columns of numbers are right-aligned."""
    aligned = "".join("r" if rows and all(_number(row[i]) for row in rows) else "l" for i in range(len(head)))
    lines = [" & ".join(escaped(markdown.plain(x)) for x in line) + r" \\" for line in (head, *rows)]
    whole = [rf"\begin{{tabular}}{{{aligned}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
    return "\n".join([*whole, r"\bottomrule", r"\end{tabular}"])


def escaped(text: str) -> str:
    """A text as LaTeX prints it."""
    return "".join(SYMBOLS.get(letter, letter) for letter in text)


def _number(value: Any) -> bool:
    """Whether a cell is a number, also one that is written out: `0.584 [0.570, 0.589]`."""
    return markdown.is_number(value) or (isinstance(value, str) and value[:1] in "0123456789−–")
