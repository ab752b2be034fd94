"""Rows of Parquet and Arrow files, one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.core.errors import DataError
from prefloop.data.json_rows import Rows
from prefloop.data.opening import Budget, readable, unchanged

if TYPE_CHECKING:
    import pyarrow

BATCH = 1000  # rows


def parquet(path: Path, budget: Budget) -> Rows:
    """The rows of a Parquet file, numbered from 1.

    Raises:
        DataError: the file cannot be read.
    """
    from pyarrow import parquet

    with _readable(path, "Parquet"), parquet.ParquetFile(path) as file:
        yield from _numbered(path, file.iter_batches(batch_size=BATCH), budget)


def arrow(path: Path, budget: Budget) -> Rows:
    """The rows of an Arrow file, or of an Arrow stream as `datasets` saves it, numbered from 1.

    Raises:
        DataError: the file cannot be read.
    """
    import pyarrow
    from pyarrow import ipc

    with _readable(path, "Arrow"), pyarrow.OSFile(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = ipc.open_file(source)
            yield from _numbered(path, (file.get_batch(i) for i in range(file.num_record_batches)), budget)
        else:
            source.seek(0)
            yield from _numbered(path, ipc.open_stream(source), budget)


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    with unchanged(path), readable(path):
        try:
            yield
        except DataError:
            raise
        except (OSError, ValueError, TypeError, OverflowError, NotImplementedError) as error:  # Arrow's are among them
            what = f"the data file is not readable {kind}: {str(error)[:200]}"
            raise DataError(what, where=str(path), fix="is the file complete?") from error


def _numbered(path: Path, batches: Iterator[pyarrow.RecordBatch], budget: Budget) -> Rows:
    number = 0
    for batch in batches:
        batch.validate(full=True)  # damaged offsets would end the process
        names = batch.schema.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"two columns are called `{twice}`", where=str(path), fix="rename one of them")
        budget.spend(batch.nbytes, path)
        for start in range(0, batch.num_rows, BATCH):
            for row in _plain(path, batch.slice(start, BATCH)).to_pylist():
                number += 1
                yield number, row


def _plain(path: Path, batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    """The batch with numbers, text, lists and structs only: decimals as numbers, times as text.

    Raises:
        DataError: a column of bytes, such as images, which cannot be read as text.
    """
    import pyarrow
    from pyarrow import types

    made: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if types.is_decimal(column.type):
            made[name] = column.cast(pyarrow.float64())
        elif types.is_temporal(column.type):
            made[name] = column.cast(pyarrow.string())
        elif (types.is_binary(column.type) or types.is_large_binary(column.type)) and column.null_count < len(column):
            fix = "save it as text, or leave the column out"
            raise DataError(f"the column `{name}` holds bytes, not text", where=str(path), fix=fix)
        else:
            made[name] = column
    return pyarrow.RecordBatch.from_pydict(made) if made else batch
