"""Atomic writes of files and folders, hashes, and conversion to JSON. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError

TEMPORARY = ".tmp-"  # prefix of files and folders that are not complete yet
NUMBERS = count()  # so that two threads never share a temporary name


# ---- atomic writes -------------------------------------------------------------------------------------------------


def write(path: Path, data: bytes | str) -> None:
    """Write a file atomically, text as UTF-8: a reader sees either the old file or the complete new one.

    Raises:
        OSError: the disk is full or fails; an existing file is untouched.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write to; it replaces `path` atomically if the body succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A temporary folder that atomically becomes `folder` (empty or absent before) if the body succeeds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(folder)
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_temporary(folder: Path) -> None:
    """Delete incomplete files left by a crash; no other process may be writing to the folder."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sibling(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}-{next(NUMBERS)}")


# ---- hashes -------------------------------------------------------------------------------------------------------


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """20 hexadecimal digits that identify a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


def short(text: str) -> str:
    """12 hexadecimal digits that identify a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


# ---- JSON ---------------------------------------------------------------------------------------------------------

Undefined = Callable[[float, str], Any]  # (nan or ±infinity, its path) -> the JSON value that replaces it


def null(x: float, place: str) -> None:
    """For pages and printed records: nan and ±infinity become null."""


def refuse(x: float, place: str) -> None:
    """For records of runs: refuse nan and ±infinity.

    Raises:
        DataError: always.
    """
    raise DataError(f"`{place}` is {x}", where=place, fix="results must be finite: check where this value comes from")


def plain(value: Any, undefined: Undefined = null, place: str = "value") -> Any:
    """Convert a value to JSON types: tensors and arrays become numbers or lists, keys become text.

    Args:
        undefined: replaces or refuses nan and ±infinity, which JSON lacks.
        place: path of the value, for messages.

    Raises:
        DataError: it contains something that is not a number, text, list or mapping.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float) and not math.isfinite(value):
        return undefined(value, place)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v, undefined, f"{place}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, undefined, f"{place}[{i}]") for i, v in enumerate(value)]
    raise DataError(f"`{place}` is a {type(value).__name__}, which cannot be stored in a record", where=place)


def to_json(value: Any, undefined: Undefined = null, *, place: str = "value", **layout: Any) -> str:
    """The value as JSON text; `layout` is passed to `json.dumps`, for example `indent=1`.

    Raises:
        DataError: see `plain`.
    """
    text = json.dumps(plain(value, undefined, place), ensure_ascii=False, allow_nan=False, **layout)
    return text.encode("utf-8", "backslashreplace").decode(
        "utf-8"
    )  # a lone surrogate as its escape, which JSON has too
