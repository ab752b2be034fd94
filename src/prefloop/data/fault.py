"""Rows that cannot be used: where they are, why, and how to mend them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LONGEST = 300  # characters of an explanation: it may quote a value of any length
VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:[.,e+-]\d+)*")
REASONS = 8  # reasons that are counted one by one


class FileRow(int):
    """A row of one of several files; as text it is `5 of part-2.jsonl`."""

    file: str

    def __new__(cls, row: int, file: str = "") -> FileRow:
        self = super().__new__(cls, row)
        self.file = file
        return self

    def __str__(self) -> str:
        return f"{int(self)} of {self.file}"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be used, or one of its answers."""

    row: int  # from 1
    what: str
    fix: str = ""
    part: bool = False  # only one of its answers; the row can be used without it

    def __post_init__(self) -> None:
        if len(self.what) > LONGEST:
            object.__setattr__(self, "what", self.what[: LONGEST - 1] + "…")

    def __str__(self) -> str:
        return f"row {self.row}: {self.what}"

    @property
    def reason(self) -> str:
        """The explanation without what differs from row to row: values, numbers, and details after a colon."""
        return VALUE.sub("…", re.split(r"[:;] ", self.what, maxsplit=1)[0])

    @property
    def record(self) -> dict[str, Any]:
        """The fault for JSON."""
        file = {"file": self.row.file} if isinstance(self.row, FileRow) else {}
        return {**file, "row": int(self.row), "what": self.what, **({"part": True} if self.part else {})}


def counted(faults: Iterable[Fault], usable: int) -> str:
    """How many rows, of these and the usable ones, and how many answers of usable rows the faults are about."""
    parts = [fault.part for fault in faults]
    rows, answers = len(parts) - sum(parts), sum(parts)
    words = [f"{rows:,} of {rows + usable:,} rows"] if rows or not answers else []
    return " and ".join([*words, *([f"{answers:,} answer{'s' * (answers > 1)} of usable rows"] if answers else [])])


def by_reason(faults: Iterable[Fault]) -> dict[str, int]:
    """How many rows cannot be used for each reason, the most frequent first; rare reasons are counted together."""
    counts = Counter(fault.reason for fault in faults).most_common()
    rest = sum(n for _, n in counts[REASONS:])
    return dict(counts[:REASONS]) | ({"other reasons": rest} if rest else {})
