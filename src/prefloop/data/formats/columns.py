"""Columns of a file: their names in other libraries, the format they stand for, and what to do if there is none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.core.errors import DataError, UserError, nearest
from prefloop.data.formats.row import Row, listed
from prefloop.data.formats.table import ALIASES, FORMATS, OPTIONAL, OWN

HINTS = {  # names of our columns in other libraries
    "prompt": ("query", "instruction", "input", "question"),
    "chosen": ("response", "accepted", "preferred", "winner", "better"),
    "rejected": ("rejected_response", "dispreferred", "loser", "worse"),
    "completion": ("response", "output", "answer", "chosen"),
    "label": ("kto_tag", "preferred", "feedback"),
    "responses": ("completions", "answers", "outputs"),
    "scores": ("ratings", "rewards"),
}
# a column with such a name contains responses or labels, so the file is not just a list of prompts
ANSWER = re.compile(r"chosen|reject|complet|respons|answer|output|accept|prefer|label|winner|loser|better|worse", re.I)
REFERENCE = re.compile(r"(reference|correct|final|gold|expected|target|ground_truth)_?(answer|response|output)s?", re.I)
RATING = re.compile(r"rating|score|reward|grade|rank", re.I)
KNOWN = {*OPTIONAL, *(column for format in FORMATS.values() for column in format.columns)}


@dataclass(frozen=True)
class Names:
    """Which columns of a file have which of our names."""

    mapped: Mapping[str, str]  # ours → theirs, as the user says; `answer.text` is a key of an object

    def __call__(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Theirs → ours, for the columns of this row that have another name; nothing is renamed to a name in use."""
        renamed = {their: our for our, their in self.mapped.items() if their in row}
        there = {our for our, their in self.mapped.items() if inside(row, their) is not None}
        for our, others in ALIASES.items():
            if our not in there and row.get(our) is None:
                their = next((o for o in others if row.get(o) is not None and o not in renamed), None)
                renamed |= {} if their is None else {their: our}
        return renamed

    def arranged(self, row: Mapping[str, Any], renamed: Mapping[str, str]) -> tuple[Row, dict[str, Any]]:
        """The row by our names, and the columns that had one of our names but are another column."""
        if not renamed and not self.mapped:
            return Row(row), {}
        taken = {*renamed.values(), *self.mapped}
        kept = {renamed.get(k, k): v for k, v in row.items() if k in renamed or k not in taken}
        kept |= {our: inside(row, their) for our, their in self.mapped.items() if their not in row}
        return Row(kept), {k: row[k] for k in taken if row.get(k) is not None and k not in renamed}


def inside(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or of a key of an object in it: `answer.text`."""
    if path in row or "." not in path:
        return row.get(path)
    column, _, rest = path.partition(".")
    inner = row.get(column)
    return inside(inner, rest) if isinstance(inner, dict) else None


def check_names(format: str, columns: Mapping[str, str]) -> None:
    """Refuse unknown formats and names of columns.

    Raises:
        UserError: there are some.
    """
    if format != "auto" and format not in FORMATS:
        raise UserError(f"unknown data format `{format}`", where="format", fix=nearest(format, ["auto", *FORMATS]))
    for name in columns:
        if name not in KNOWN:
            raise UserError(f"no format has a column `{name}`", where="columns", fix=nearest(name, KNOWN))


def check_mapped(where: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> None:
    """Every mapped column must be in the first row.

    Raises:
        DataError: it is not.
    """
    for column in columns.values():
        if column not in row and inside(row, column) is None:
            what = f"no column `{column}`; the columns are {listed(row)}"
            raise DataError(what, where=where, fix=nearest(column, row))


def detected(present: Collection[str], all: Iterable[str]) -> str | None:
    """The first format in the table whose columns are all there; None if none is, or if answers may be overlooked.

    Args:
        present: our names of the columns that are not null.
        all: our names of all columns.
    """
    found = fitting(present)
    return None if found is not None and overlooked(found, all) else found


def fitting(present: Collection[str]) -> str | None:
    """The first format in the table whose columns are all there."""
    return next((name for name, format in FORMATS.items() if all(c in present for c in format.columns)), None)


def overlooked(format: str, columns: Iterable[str]) -> list[str]:
    """Columns that may hold answers or labels, if the format uses none."""
    own = FORMATS[format].columns
    return [c for c in columns if c not in own and answers(c)] if FORMATS[format].bare else []


def answers(column: str) -> bool:
    """Whether a column of this name may hold answers to learn from, or labels of them."""
    return ANSWER.search(column) is not None and REFERENCE.fullmatch(column) is None


def check_needed(where: str, format: str, row: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """The columns of a format that the user chose must be in the first row.

    Raises:
        DataError: some are not.
    """
    if any(c not in row for c in FORMATS[format].columns):
        raise _missing(where, FORMATS[format].columns, row, first, f"the format `{format}` needs")


def unknown(where: str, row: Mapping[str, Any], first: Mapping[str, Any]) -> DataError:
    """The error about a first row in no known format.

    Args:
        where: row and file.
        row: its columns by our names.
        first: its columns as in the file.
    """
    for column, value in first.items():
        inner = detected({k for k, v in value.items() if v is not None}, value) if isinstance(value, dict) else None
        if inner is not None:
            fix = "map them: " + " ".join(f"{c}={column}.{c}" for c in FORMATS[inner].columns)
            return DataError(f"the columns of the format `{inner}` are inside `{column}`", where=where, fix=fix)
    found = fitting([k for k, v in row.items() if v is not None])
    needed = max((FORMATS[name].columns for name in OWN if name != found), key=lambda x: _nearness(x, row, first))
    if found is None:
        return _missing(where, needed, row, first, "the nearest format needs")
    what = f"the columns are {listed(first)}; it is unclear which of them are responses"
    fix = f"{_mapping(needed, row, first)}; format={found} uses {' and '.join(FORMATS[found].columns)} only"
    return DataError(what, where=where, fix=fix)


def _nearness(needed: Sequence[str], row: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[float, int]:
    """The share and the number of a format's columns that are there, or for which others may stand."""
    found = len(needed) - list(_stand_ins(needed, row, first).values()).count("?")
    return found / len(needed), found


def _missing(
    where: str, needed: Sequence[str], row: Mapping[str, Any], first: Mapping[str, Any], why: str
) -> DataError:
    return DataError(
        f"the columns are {listed(first) or 'none'}; {why} {', '.join(needed)}",
        where=where,
        fix=_mapping(needed, row, first),
    )


def _mapping(needed: Sequence[str], row: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """A suggestion that maps each missing column to the most similar unused one that can hold it."""
    stand_ins = _stand_ins(needed, row, first)
    if all(their == "?" for their in stand_ins.values()):
        return f"add the columns {', '.join(stand_ins)}"
    pairs = " ".join(f"{ours}={their}" for ours, their in stand_ins.items())
    return f"rename the columns, or map them, for example {pairs}"


def _stand_ins(needed: Sequence[str], row: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, str]:
    """Missing columns of a format and the most similar ones that are there; `?` if none is similar."""
    spare = {name: value for name, value in first.items() if name not in needed}
    return {c: _likely(c, [n for n, v in spare.items() if _fits(c, n, v)]) for c in needed if c not in row}


def _fits(column: str, name: str, value: Any) -> bool:
    """Whether a column may hold what ours holds: a rating is no answer, and no label either."""
    if column == "scores":
        return isinstance(value, list)
    if column == "label":
        return isinstance(value, bool) or (isinstance(value, int) and value in (-1, 0, 1) and not RATING.search(name))
    return isinstance(value, str | list | dict) and not RATING.search(name)


def _likely(column: str, spare: Sequence[str]) -> str:
    named = [c for c in HINTS.get(column, ()) if c in spare]
    close = difflib.get_close_matches(column, spare, n=1, cutoff=0.5)
    return [*named, *close, "?"][0]
