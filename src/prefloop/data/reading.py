"""Rows of data as dictionaries, one at a time: JSON Lines, JSON, CSV, Parquet and Arrow files, one or shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prefloop.data import arrow_rows, csv_rows, json_rows
from prefloop.data.fault import Fault, FileRow, by_reason
from prefloop.data.json_rows import Rows
from prefloop.data.opening import Budget
from prefloop.data.shards import data_hash, files_of, kind

__all__ = ["Fault", "FileRow", "Source", "by_reason", "data_hash", "open_rows", "rows"]

Reader = Callable[[Budget], Rows]


@dataclass(frozen=True)
class Source:
    """The files of a data set; iterating reads number and content of every row.

    Numbers are those of the file, from 1: lines of JSON Lines and CSV (blank ones and the header count), otherwise
    items; of several files they are `FileRow`s. The content of a row that cannot be read is a `Fault`.
    """

    files: tuple[Path, ...]
    readers: tuple[Reader, ...]  # of each file
    notes: tuple[str, ...]  # what was guessed about the files

    def __iter__(self) -> Rows:
        budget, alone = Budget(), len(self.files) == 1
        for path, reader in zip(self.files, self.readers, strict=True):
            yield from reader(budget) if alone else _placed(path, reader(budget))


def open_rows(name: str | Path) -> Source:
    """The rows of a file, of shards (`train-*.parquet`, or a folder), of a saved data set, or of `hub:owner/name`.

    Raises:
        DataError: no such files, unsupported ones, or several kinds.
    """
    files = files_of(str(name))
    opened = [_open(path) for path in files]
    shards = [f"{len(files)} files: {files[0].name} to {files[-1].name}"] if len(files) > 1 else []
    notes = dict.fromkeys(note for _, own in opened for note in own)
    return Source(files, tuple(reader for reader, _ in opened), (*shards, *notes))


def rows(name: str | Path) -> Rows:
    """Number and content of every row; see `Source`.

    Raises:
        DataError: no such files, unsupported ones, or files that cannot be read.
    """
    return iter(open_rows(name))


def _open(path: Path) -> tuple[Reader, tuple[str, ...]]:
    """How a file is read, and what was guessed about it."""
    found = kind(path)
    if found in (".jsonl", ".ndjson"):
        return partial(json_rows.lines, path), ()
    if found == ".json":
        key = json_rows.wrapped_in(path)
        return partial(json_rows.items, path), () if key is None else (f"the rows are the list under `{key}`",)
    if found in (".csv", ".tsv"):
        table = csv_rows.table(path)
        return partial(csv_rows.rows, path, table), table.notes
    return partial(arrow_rows.parquet if found == ".parquet" else arrow_rows.arrow, path), ()


def _placed(path: Path, numbered: Rows) -> Iterator[tuple[int, object]]:
    """The rows of one of several files, with the file's name in their numbers."""
    for number, row in numbered:
        place = FileRow(number, path.name)
        yield place, Fault(place, row.what, row.fix) if isinstance(row, Fault) else row
