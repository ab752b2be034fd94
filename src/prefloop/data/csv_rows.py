"""Rows of CSV and TSV files. Cells are text; columns of numbers and of JSON are recognised by all of their cells."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefloop.core.errors import DataError
from prefloop.data.fault import Fault
from prefloop.data.json_rows import LONGEST, Decoder, Rows
from prefloop.data.opening import Budget, opened, text

Kind = Literal["text", "number", "json", "chat"]

NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,300})(?:\.\d+)?(?:[eE][+-]?\d{1,3})?|true|false", re.I)
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
NUMERIC = re.compile(r"score|rating|rank|label|preference|margin|tag$|_id$", re.I)  # columns of numbers
TEXT = re.compile(  # columns of text, though all their cells may look like numbers
    r"prompt|question|instruction|input|query|chosen|reject|complet|respons|answer|output|text|content|system|message",
    re.I,
)
CHAT = re.compile(r'\[\s*\{\s*"(?:role|content|from|value)"\s*:')  # a list of messages
PYTHON = re.compile(r"\[\s*(?:\{\s*)?'")  # a list as Python prints it


@dataclass(frozen=True)
class Table:
    """How the cells of a file are read."""

    separator: str
    header: tuple[str, ...]
    kinds: tuple[Kind, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed."""
        parsed = [f"`{n}`" for n, kind in zip(self.header, self.kinds, strict=True) if kind in ("json", "chat")]
        numbers = [f"`{n}`" for n, kind in zip(self.header, self.kinds, strict=True) if kind == "number"]
        return (
            *([f"the cells of {', '.join(parsed)} are read as JSON"] if parsed else []),
            *([f"the cells of {', '.join(numbers)} are read as numbers, true or false"] if numbers else []),
            *([f"the cells are separated by {SEPARATORS[self.separator]}"] if self.separator in ";|" else []),
        )


def table(path: Path) -> Table:
    """Separator, header and kinds of columns; reads the whole file once.

    Raises:
        DataError: the file cannot be read, or its header is no list of different names.
    """
    separator = _separator(path)
    records = _records(path, separator, Budget())
    header = _header(path, next(records, (1, []))[1])
    kinds: dict[int, set[Kind]] = {i: set() for i in range(len(header))}
    settled: set[int] = set()  # columns with a cell that is neither JSON nor a number
    for _, cells in records:
        if isinstance(cells, list) and len(cells) == len(header):
            for i, cell in enumerate(cells):
                if cell and i not in settled:
                    kinds[i].add(_kind(header[i], cell))
                    if "text" in kinds[i]:
                        settled.add(i)
                elif i in settled and CHAT.match(cell):
                    kinds[i].add("chat")
    return Table(separator, header, tuple(_settle(kinds[i]) for i in range(len(header))))


def rows(path: Path, found: Table, budget: Budget) -> Rows:
    """The rows, numbered as in a spreadsheet: the header is row 1.

    Raises:
        DataError: the file cannot be read.
    """
    records = _records(path, found.separator, budget)
    next(records, None)
    decoder = Decoder()
    for number, cells in records:
        if isinstance(cells, Fault):
            yield number, cells
        elif cells:
            yield number, _row(number, cells, found, decoder)


def _row(number: int, cells: Sequence[str], found: Table, decoder: Decoder) -> dict[str, Any] | Fault:
    if len(cells) != len(found.header):
        fix = "put cells that hold the separator or ends of lines in quotes"
        return Fault(number, f"{len(cells)} cells, but the header has {len(found.header)}", fix)
    made: dict[str, Any] = {}
    for name, cell, kind in zip(found.header, cells, found.kinds, strict=True):
        value = _value(number, name, cell, kind, decoder)
        if isinstance(value, Fault):
            return value
        made[name] = value
    return made


def _value(number: int, name: str, cell: str, kind: Kind, decoder: Decoder) -> Any:
    if PYTHON.match(cell) and TEXT.search(name):
        fix = "write such cells as JSON, or save the table as Parquet or JSON Lines"
        return Fault(number, f"`{name}` is a list as Python prints it, not JSON", fix)
    if kind == "text":
        return cell
    if not cell.strip():
        return None
    value = decoder.row(number, cell.lower() if kind == "number" else cell)
    if isinstance(value, Fault):
        return Fault(number, f"in `{name}`, {value.what}", value.fix)
    if kind == "chat" and not isinstance(value, list):
        return Fault(number, f"`{name}` is not a list of messages as JSON, as it is in other rows")
    return value


# ---- guesses ------------------------------------------------------------------------------------------------------


def _separator(path: Path) -> str:
    """The usual one; the one that splits the header if the usual one does not."""
    usual = "\t" if ".tsv" in path.name.lower() else ","
    _, header = next(_records(path, usual, Budget()), (1, []))
    if isinstance(header, Fault) or len(header) != 1:
        return usual
    return max(SEPARATORS, key=lambda s: (header[0].count(s), s == usual))


def _header(path: Path, cells: Sequence[str] | Fault) -> tuple[str, ...]:
    if isinstance(cells, Fault):
        raise DataError(f"the header cannot be read: {cells.what}", where=f"row 1 of {path}", fix=cells.fix)
    names = [cell.strip() or f"column {i}" for i, cell in enumerate(cells, 1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two columns are called `{twice}`", where=f"row 1 of {path}", fix="rename one of them")
    return tuple(names)


def _kind(name: str, cell: str) -> Kind:
    if CHAT.match(cell):
        return "chat"
    if cell[0] in "[{":
        try:
            json.loads(cell)
        except (ValueError, RecursionError):
            return "text"
        return "json"
    number = NUMBER.fullmatch(cell) and (NUMERIC.search(name) or not TEXT.search(name))
    return "number" if number else "text"


def _settle(kinds: set[Kind]) -> Kind:
    """One kind for a column: conversations if some cell is one; otherwise what all cells are."""
    if "chat" in kinds:
        return "chat"
    return kinds.copy().pop() if len(kinds) == 1 else "text"


# ---- cells --------------------------------------------------------------------------------------------------------


def _records(path: Path, separator: str, budget: Budget) -> Iterator[tuple[int, list[str] | Fault]]:
    """Records of the file with their numbers, from 1; blank ones count, and are empty."""
    csv.field_size_limit(LONGEST)
    with opened(path, budget) as stream:
        source = csv.reader(text(stream, path, errors="surrogateescape"), delimiter=separator, strict=True)
        number = 0
        try:
            for cells in source:
                number += 1
                yield number, _decoded(number, cells)
        except csv.Error as error:
            fix = "is a quotation mark missing? Inside a cell in quotes, write two for one"
            raise DataError(
                f"the table cannot be read: {error}", where=f"row {number + 1} of {path}", fix=fix
            ) from None


def _decoded(number: int, cells: list[str]) -> list[str] | Fault:
    line = "".join(cells)
    if "\0" in line:
        return Fault(number, "the row has NUL bytes", "save the file as UTF-8 text; is it complete?")
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return Fault(number, "not UTF-8 text", "save the file as UTF-8")
    return cells
