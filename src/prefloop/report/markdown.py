"""Markdown: tables, cells and text with escaped `<`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from prefloop.analysis.numbers import NONE, minus
from prefloop.report.chart import Chart


def grid(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; columns of numbers are right-aligned."""
    right = [bool(rows) and all(is_number(row[i]) for row in rows) for i in range(len(head))]
    body = [[cell(x) for x in row] for row in rows]
    lines = [[cell(x) for x in head], ["--:" if numbers else "---" for numbers in right], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def is_number(value: Any) -> bool:
    """Whether a cell is a number, or a missing one."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def plain(value: Any) -> str:
    """A value in words or digits."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return minus(f"{value:.4g}") if isinstance(value, float) else str(value)


def cell(value: Any) -> str:
    """One cell of a Markdown table."""
    return prose(plain(value)).replace("|", "\\|")


def prose(text: str) -> str:
    """One line of Markdown in which `<` does not start HTML, but for `<br>` in cells."""
    return re.sub(r"<(?!br>)(?=[A-Za-z/!?])", r"\\<", " ".join(text.split()))


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def picture(charts: Sequence[Chart], file: str) -> str:
    """A figure, with titles and intervals as alternative text."""
    titles = "; ".join(dict.fromkeys(chart.title for chart in charts if chart.title))
    said = "; ".join(dict.fromkeys(chart.interval for chart in charts if chart.interval))
    words = f"{titles} ({said})" if said else titles
    return f"![{prose(words).replace('[', '(').replace(']', ')')}]({file})"
