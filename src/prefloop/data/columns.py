"""What the columns of a file hold: kinds of values, lengths, ranges, the most frequent values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from prefloop.data.check import lengths

FEW = 5  # distinct values that are counted one by one
LONGEST = 40  # characters of a value that is counted


@dataclass(frozen=True)
class Column:
    """One column over all rows."""

    name: str
    rows: int  # rows that have it, null included
    kinds: dict[str, int]  # text, number, true or false, list, object, null → rows
    lengths: tuple[float, float, float] | None  # smallest, median and largest length of texts and lists
    long: float | None  # 95 % of these lengths are up to it
    numbers: tuple[float, float, float] | None  # smallest, median and largest number
    values: dict[str, int] | None  # short values and how often, if there are few different ones

    @property
    def sizes(self) -> tuple[float, ...] | None:
        """Smallest, median, 95 % and largest length."""
        if self.lengths is None or self.long is None:
            return None
        return (*self.lengths[:2], self.long, self.lengths[2])


def columns(rows: Iterable[Any]) -> list[Column]:
    """The columns of rows in the order in which they first occur; rows that are no objects are one column `row`."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in (row if isinstance(row, Mapping) else {"row": row}).items():
            found.setdefault(str(name), []).append(value)
    return [_column(name, values) for name, values in found.items()]


def _column(name: str, values: list[Any]) -> Column:
    sizes = [len(v) for v in values if isinstance(v, str | list)]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    short = [str(v) for v in values if v is None or isinstance(v, str | bool | int | float)]
    counts = Counter(v for v in short if len(v) <= LONGEST)
    few = len(short) == len(values) == sum(counts.values()) and len(counts) <= FEW
    return Column(
        name,
        len(values),
        dict(Counter(kind(v) for v in values).most_common()),
        _range(sizes),
        lengths(sizes).p95 if sizes else None,
        _range(numbers),
        dict(counts.most_common()) if few else None,
    )


def _range(x: list[Any]) -> tuple[float, float, float] | None:
    return (float(min(x)), float(median(x)), float(max(x))) if x else None


def kind(value: Any) -> str:
    """The kind of a value, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    named = {str: "text", int: "number", float: "number", list: "list", dict: "object"}
    return named.get(type(value), type(value).__name__)
