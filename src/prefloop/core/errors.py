"""User errors: what went wrong, where, and how to fix it. The command line prints them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

COLUMNS = 80  # of a terminal
ROWS = {"what": 13, "where": 3, "fix": 6}  # of each part of a message, which together fit on a screen of 24


class UserError(ValueError):
    """A wrong command, configuration or setting; what does not fit on a screen is cut.

    Args:
        what: what is wrong, in one sentence.
        where: file, row, key.
        fix: how to fix it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what = fitted(what, ROWS["what"])
        self.where, self.fix = fitted(where, ROWS["where"]), fitted(fix, ROWS["fix"])
        lines = (self.what, f"  where: {self.where}" if where else "", f"  fix:   {self.fix}" if fix else "")
        super().__init__("\n".join(line for line in lines if line))


class DataError(UserError):
    """Data, a model or a reward that cannot be used."""

    exit_code = 3


EXCERPT = 80  # characters of a text shown in a message


def excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def shown(value: object) -> str:
    """A value as Python writes it, shortened, for use in a sentence."""
    try:
        return excerpt(repr(value))
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return "a number of thousands of digits"


def fitted(text: str, rows: int) -> str:
    """The beginning and the end of a text that would fill more than so many rows of a terminal."""
    room = rows * COLUMNS
    if len(text) > room:
        text = f"{text[: room * 3 // 4 - 3]} … {text[len(text) - room // 4 :]}"
    lines = text.split("\n")
    if _rows(lines) <= rows:
        return text
    while len(lines) > 1 and _rows(lines) > max(rows - 1, 2):
        lines.pop(-2 if len(lines) > 2 else -1)
    if len(lines) == 1:  # the first line alone fills the room
        return f"{lines[0][: (rows - 1) * COLUMNS]} …"
    return "\n".join([*lines[:-1], "…", lines[-1]])


def _rows(lines: Iterable[str]) -> int:
    return sum(max(1, -(-len(line) // COLUMNS)) for line in lines)


def raised(error: BaseException) -> str:
    """Type and message of an exception, for use in a sentence."""
    return f"{type(error).__name__}: {excerpt(str(error))}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, or list them all; of equally near ones, that with the same first letter."""
    names, wanted = {name.lower(): name for name in sorted(known)}, excerpt(name.lower())
    close = difflib.get_close_matches(wanted, names, cutoff=0.5)
    if not close:
        return f"choose one of: {', '.join(names.values())}"
    likeness = {c: (difflib.SequenceMatcher(None, c, wanted).ratio(), c[:1] == wanted[:1]) for c in close}
    return f"did you mean `{names[max(close, key=likeness.__getitem__)]}`?"
