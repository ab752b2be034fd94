"""Runs as Parquet: one row per evaluation of a run, the run's name and its whole setting in the row."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prefloop.core.errors import DataError
from prefloop.lab.setting import Setting
from prefloop.lab.stack import Run

FIELDS = {f.name for f in fields(Setting)}


def to_bytes(runs: Sequence[Run]) -> bytes:
    """A Parquet file of some runs; the same runs give the same bytes."""
    columns: dict[str, list[pa.Array]] = {}
    for run in runs:
        rows = len(run.curves["step"])
        told = {"run": run.setting.run, "setting": json.dumps(asdict(run.setting), sort_keys=True)}
        for name, text in told.items():
            columns.setdefault(name, []).append(pa.repeat(pa.scalar(text), rows))
        for name, curve in run.curves.items():
            columns.setdefault(name, []).append(pa.array(curve))
    table = pa.table({name: pa.chunked_array(parts) for name, parts in columns.items()})
    out = io.BytesIO()
    pq.write_table(table, out, use_dictionary=["run", "setting"], compression="zstd")
    return out.getvalue()


def read(path: Path) -> list[Run]:
    """The runs of a file, but for those that another version of the package knew by another name.

    Raises:
        DataError: no Parquet file of runs.
    """
    try:
        table = pq.read_table(path)
        columns = {
            n: table[n].to_numpy(zero_copy_only=False) for n in table.column_names if n not in ("run", "setting")
        }
        names = table["run"].to_pylist()
        settings = table["setting"].to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(
            "this is no table of runs", where=str(path), fix="delete it; its runs are computed again"
        ) from error
    starts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    ends = [*starts[1:], len(names)]
    runs = []
    for a, b in zip(starts, ends, strict=True):
        told = json.loads(settings[a])
        if told.keys() <= FIELDS and Setting(**told).run == names[a]:
            runs.append(Run(Setting(**told), {k: np.asarray(v[a:b]) for k, v in columns.items()}))
    return runs
