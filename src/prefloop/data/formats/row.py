"""One row of a file while it is converted: readers take what they use out of it, and what is left is reported."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefloop.core.errors import excerpt, shown
from prefloop.data.records import Message

Prompt = tuple[Message, ...]
SHOWN_NAMES = 24  # columns that a message lists


class Unusable(Exception):
    """A row cannot be used."""

    def __init__(self, what: str, fix: str = "") -> None:
        self.what, self.fix = what, fix
        super().__init__(what)


class Row(dict[str, Any]):
    """The columns of a row by our names; `notes` are the guesses that were made about it."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        super().__init__(columns)
        self.notes: list[str] = []

    def take(self, name: str) -> Any:
        """The value of a column, which is then used; None if it is null or missing."""
        return self.pop(name, None)


@dataclass(frozen=True)
class Content:
    """What a format makes of a row: a prompt, answers to it, and their scores."""

    prompt: Prompt
    answers: tuple[Message, ...] = ()
    scores: tuple[float, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)  # what lists of answers say beside text and score
    faults: tuple[Unusable, ...] = ()  # answers of the row that cannot be used


def kind(value: Any) -> str:
    """The type of a value, in words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"an object with {listed(value)}" if value else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}"


def short(text: str, length: int) -> str:
    """The beginning of a text."""
    return text if len(text) <= length else text[: length - 1] + "…"


def listed(names: Iterable[Any]) -> str:
    """Column names, as many as a message can hold."""
    short = [excerpt(" ".join(str(name).split())) for name in names]  # a name may be of several lines
    more = f", … and {len(short) - SHOWN_NAMES} more" if len(short) > SHOWN_NAMES else ""
    return ", ".join(short[:SHOWN_NAMES]) + more


def number(value: Any, column: str) -> float:
    """A finite number.

    Raises:
        Unusable: it is none.
    """
    if isinstance(value, float | int) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
    raise Unusable(f"`{column}` contains {shown(value)}, which is not a finite number")


def text(value: Any, column: str) -> str:
    """Text that is not blank.

    Raises:
        Unusable: it is none.
    """
    if not isinstance(value, str):
        raise Unusable(f"`{column}` is {kind(value)}, not text")
    if not value or value.isspace():
        raise Unusable(f"`{column}` is empty")
    return value


def objects(value: Any, column: str, needed: str) -> list[Mapping[str, Any]]:
    """A list of objects that is not empty.

    Raises:
        Unusable: it is none.
    """
    if not isinstance(value, list) or not value:
        raise Unusable(f"`{column}` is {kind(value)}, not a list of objects with {needed}")
    for item in value:
        if not isinstance(item, dict):
            raise Unusable(f"`{column}` contains {kind(item)}, not an object with {needed}")
    return value


def beside(items: Sequence[Mapping[str, Any]], used: Collection[str]) -> dict[str, Any]:
    """What the objects of a list have beside the keys that are used: a list of values per key."""
    names = dict.fromkeys(str(key) for item in items for key in item if key not in used and item[key] is not None)
    return {name: [item.get(name) for item in items] for name in names}
