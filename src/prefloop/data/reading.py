"""Rows of a file as dictionaries: JSON Lines and JSON, gzipped or not, and Parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be used."""

    row: int  # from 1
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"row {self.row}: {self.what}"


def rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Number (from 1; blank lines count) and content of every row; a `Fault` for a line that is not valid JSON.

    Raises:
        DataError: no such file, an unsupported extension, or a file that cannot be read.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(f"the data file {what}", where=str(path), fix=_neighbours(path))
    if not path.name.endswith(SUFFIXES):
        raise DataError("unsupported file extension", where=str(path), fix=f"use {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        return _parquet(path)
    text = _text(path)
    return _lines(text) if ".jsonl" in path.suffixes else _array(text, path)


def _neighbours(path: Path) -> str:
    """Data files in the same folder."""
    files = sorted(p.name for p in path.parent.glob("*") if p.name.endswith(SUFFIXES)) if path.parent.is_dir() else []
    return f"{path.parent} has {', '.join(files[:5])}" if files else "check the path; it is relative to this folder"


def _text(path: Path) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what, fix = f"the data file is not UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8"
        raise DataError(what, where=str(path), fix=fix) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"the data file cannot be read: {error}", where=str(path)) from error


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON strings may hold other separators
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                yield number, Fault(number, f"invalid JSON: {error}", "one JSON object per line")


def _array(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    try:
        items = json.loads(text) if text.strip() else []
    except (json.JSONDecodeError, RecursionError) as error:
        fix = "a .json file must be one list of objects; use .jsonl for one object per line"
        raise DataError(f"the data file is not valid JSON: {error}", where=str(path), fix=fix) from error
    if not isinstance(items, list):
        kind = type(items).__name__
        raise DataError(f"the data file contains a {kind}, not a list of objects", where=str(path))
    return iter(enumerate(items, 1))


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        items = parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"the data file is not readable Parquet: {error}", where=str(path)) from error
    return iter(enumerate(items, 1))
