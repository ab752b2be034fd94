"""Runs as Parquet files in a folder: one row per evaluation, with the run's name and full setting."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prefloop.core.errors import DataError, UserError
from prefloop.core.files import digest, remove_temporary, write
from prefloop.lab.setting import Setting, from_dict, to_dict
from prefloop.lab.stack import Run

SUFFIX = ".parquet"


def to_bytes(runs: Sequence[Run]) -> bytes:
    """A Parquet file of runs; the same runs give the same bytes."""
    columns: dict[str, list[pa.Array]] = {}
    for run in runs:
        rows = len(run.curves["step"])
        names = {"run": run.setting.run, "setting": json.dumps(to_dict(run.setting), sort_keys=True)}
        for name, text in names.items():
            columns.setdefault(name, []).append(pa.repeat(pa.scalar(text), rows))
        for name, curve in run.curves.items():
            columns.setdefault(name, []).append(pa.array(curve))
    table = pa.table({name: pa.chunked_array(parts) for name, parts in columns.items()})
    out = io.BytesIO()
    pq.write_table(table, out, use_dictionary=["run", "setting"], compression="zstd")
    return out.getvalue()


def flat(runs: Sequence[Run]) -> bytes:
    """A Parquet file of runs for other programs: one row per evaluation, and one column per field of the settings.

    Switches have their values, also where a method's default was used; a field that a run has not is null. A field
    named like a metric is `setting.NAME`.
    """
    trees = [settings_of(run.setting) for run in runs]
    rows = [len(run.curves["step"]) for run in runs]
    metrics = list(dict.fromkeys(name for run in runs for name in run.curves))
    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for tree in trees for name in tree):
        values = [tree.get(name) for tree in trees]
        if _mixed(values):
            values = [None if v is None else str(v) for v in values]
        each = [v for v, count in zip(values, rows, strict=True) for _ in range(count)]
        columns[f"setting.{name}" if name in metrics else name] = pa.array(each)
    for name in metrics:
        empty = np.full(1, np.nan)
        parts = [run.curves[name] if name in run.curves else empty.repeat(n) for run, n in zip(runs, rows, strict=True)]
        columns[name] = pa.array(np.concatenate(parts))
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd")
    return out.getvalue()


def _mixed(values: Iterable[object]) -> bool:
    """Whether numbers, words and truth values are in one column."""
    return len({float if type(v) is int else type(v) for v in values if v is not None}) > 1


def settings_of(setting: Setting) -> dict[str, Any]:
    """The fields of a run in one mapping: its own, the problem's, the switches, and changed hyper-parameters."""
    tree, method = to_dict(setting), setting.resolved_method
    switches = {name: getattr(method, name) for name in ("on_policy", "reuse", "negative", "kl")}
    own = {k: v for k, v in tree.items() if k not in ("world", "override")}
    return {"run": setting.run, **own, **tree["world"], **switches, **setting.override}


def read(path: Path) -> list[Run]:
    """The runs of a file, except those whose name differs in this version of the package.

    Raises:
        DataError: not a Parquet file of runs.
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
            "not a table of runs", where=str(path), fix="delete it; its runs will be computed again"
        ) from error
    starts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    ends = [*starts[1:], len(names)]
    runs = []
    for a, b in zip(starts, ends, strict=True):
        setting = _known(names[a], settings[a])
        if setting is not None:
            runs.append(Run(setting, {k: np.asarray(v[a:b]) for k, v in columns.items()}))
    return runs


def _known(name: str, text: str) -> Setting | None:
    """The setting of a run, or None if this version of the package gives it another name."""
    try:
        setting = from_dict(json.loads(text))
    except (UserError, KeyError):  # fields of another version, or a world that is not installed
        return None
    return setting if setting.run == name else None


@dataclass
class Store:
    """A folder of Parquet files, one per stack, written atomically."""

    path: Path

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        remove_temporary(self.path)
        self._runs: dict[str, Run] = {}
        for file in sorted(self.path.glob(f"*{SUFFIX}")):
            self._runs |= {run.setting.run: run for run in read(file)}

    def __contains__(self, setting: Setting) -> bool:
        return setting.run in self._runs

    def __getitem__(self, setting: Setting) -> Run:
        return self._runs[setting.run]

    def add(self, settings: Sequence[Setting], table: bytes) -> None:
        """Store the runs of one stack."""
        file = self.path / f"{digest([s.run for s in settings])}{SUFFIX}"
        write(file, table)
        self._runs |= {run.setting.run: run for run in read(file)}


def missing(settings: Iterable[Setting], store: Store) -> list[Setting]:
    """The settings that the store lacks, without duplicates."""
    return list({s.run: s for s in settings if s not in store}.values())
