"""Bytes of data files: decompressed, limited to what fits into memory, and the same from beginning to end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError, excerpt

PACKED = (".gz", ".bz2", ".xz", ".zst")  # compressions, by suffix
GIB = 2**30
EXPANSION = 200  # text rarely shrinks to a twentieth; what expands more than this was made to fill a memory
BUFFER = 2**20
MARKS = {  # byte order marks of text that is not UTF-8
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


class Budget:
    """Bytes that may still be read into memory."""

    def __init__(self, total: int | None = None) -> None:
        self.total = available() // 2 if total is None else total
        self.left = self.total

    def spend(self, count: int, path: Path) -> None:
        """Note that `count` more bytes were read.

        Raises:
            DataError: they are more than half of the free memory.
        """
        self.left -= count
        if self.left < 0:
            raise DataError(
                f"the data do not fit into memory: they have more than {self.total / GIB:.1f} GiB",
                where=str(path),
                fix="use a part of them, for example a limit of rows",
            )


class Limited(io.RawIOBase):
    """A stream that takes its bytes from a budget, and at most `most` of them."""

    def __init__(self, inner: Any, path: Path, budget: Budget, most: int | None) -> None:
        self.inner, self.path, self.budget, self.most = inner, path, budget, most
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.inner.readinto(buffer) or 0
        self.count += count
        self.budget.spend(count, self.path)
        if self.most is not None and self.count > self.most:
            what = f"the compressed data file expands to more than {self.most / GIB:.1f} GiB"
            fix = f"it is {EXPANSION} times its size on disk: decompress it yourself if it is what you expect"
            raise DataError(what, where=str(self.path), fix=fix)
        return count

    def close(self) -> None:
        self.inner.close()
        super().close()


@contextmanager
def opened(path: Path, budget: Budget) -> Iterator[io.BufferedReader[Limited]]:
    """The decompressed bytes of a file.

    Raises:
        DataError: it cannot be read, does not fit into memory, or has changed meanwhile.
    """
    with readable(path), unchanged(path):
        packed = path.suffix.lower() in PACKED
        most = max(GIB, EXPANSION * path.stat().st_size) if packed else None
        with io.BufferedReader(Limited(_stream(path), path, budget, most), BUFFER) as stream:
            yield stream


def text(
    stream: io.BufferedReader[Limited], path: Path, errors: str = "strict"
) -> io.TextIOWrapper[io.BufferedReader[Limited]]:
    """The stream as UTF-8 text without its byte order mark; ends of lines are left as they are.

    Raises:
        DataError: it is in another encoding, by its byte order mark.
    """
    check_encoding(stream, path)
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors=errors, newline="")


def check_encoding(stream: io.BufferedReader[Limited], path: Path) -> None:
    """Refuse text whose byte order mark is not that of UTF-8.

    Raises:
        DataError: with the encoding.
    """
    start = stream.peek(4)[:4]
    for mark, name in MARKS.items():
        if start.startswith(mark):
            raise DataError(f"the data file is {name} text, not UTF-8", where=str(path), fix="save it as UTF-8")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Errors of reading as errors about this file."""
    import pyarrow

    broken = (OSError, EOFError, zlib.error, lzma.LZMAError, pyarrow.ArrowException)
    try:
        yield
    except UnicodeDecodeError as error:
        what = f"the data file is not UTF-8 text: {error.reason}"
        raise DataError(what, where=str(path), fix="save it as UTF-8") from error
    except broken as error:
        what = f"the data file cannot be read: {excerpt(str(error))}"
        raise DataError(what, where=str(path), fix="check that it is complete, and what its name says") from error


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Refuse a file that was written to in the meantime.

    Raises:
        DataError: its size or time is another one.
    """
    before = _stamp(path)
    yield
    if _stamp(path) != before:
        what = "the data file changed while it was read"
        raise DataError(what, where=str(path), fix="wait until it is complete, and try again")


def available() -> int:
    """Free memory in bytes; all memory where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _stream(path: Path) -> Any:
    kind = path.suffix.lower()
    if kind == ".gz":
        return gzip.open(path)
    if kind == ".bz2":
        return bz2.open(path)
    if kind == ".xz":
        return lzma.open(path)
    if kind == ".zst":
        import pyarrow

        return pyarrow.input_stream(str(path), compression="zstd")
    return path.open("rb", buffering=0)
