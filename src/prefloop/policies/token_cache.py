"""Rendered conversations on disk: the token ids of a row, found by a hash of all that determines them.

One SQLite file, which several processes may read and write. Every value has a checksum; a file that cannot be used is
removed, and then, or where the folder cannot be written, rows are rendered as without it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prefloop.data.records import Group
from prefloop.policies.cache import cache_root
from prefloop.policies.conversation import Answered, Template
from prefloop.policies.token_ids import hashed

FOLDER = "PREFLOOP_TOKENS"  # environment variable: another folder than `cache_root()`; empty: nothing is cached
LARGEST = 4 << 30  # bytes; a larger file is started again
CHECK = 8  # bytes of a checksum
DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
PORTION = 500  # keys that are read together
MODULES = ("agreement", "conversation", "rendering", "token_cache", "token_ids")  # code that determines the ids
WAIT = 10.0  # seconds for another process to finish writing


def answered_all(template: Template, groups: Sequence[Group]) -> list[Answered]:
    """As `Template.answered_all`, with what was rendered before, in this process or another.

    Raises:
        DataError: see there.
    """
    identity, store = template.identity if groups else None, _store(_file())
    if identity is None or store is None:
        return template.answered_all(groups)
    before = hashed(identity, _code())
    keys = [hashed(before, repr((g.prompt, g.tools, g.responses, g.more)).encode()) for g in groups]
    found = store.read(keys)
    new = {key: group for key, group in zip(keys, groups, strict=True) if key not in found}
    made = dict(zip(new, template.answered_all(list(new.values())), strict=True))
    store.write({key: _packed(one) for key, one in made.items()})
    return [made[key] if key in made else _unpacked(found[key]) for key in keys]


@cache
def _code() -> bytes:
    """What determines the ids besides template and row: the code that renders."""
    here = Path(__file__).parent
    versions = "".join(version(name) for name in ("transformers", "tokenizers", "jinja2"))
    return hashed(versions.encode(), *((here / f"{name}.py").read_bytes() for name in MODULES))


def _packed(made: Answered) -> bytes:
    """Sizes and ids; what is rendered is kept as what it has in common with the answer, and the rest."""
    same = [_common(a, r) for a, r in zip(made.answers, made.rendered, strict=True)]
    rest = [r[n:] for r, n in zip(made.rendered, same, strict=True)]
    sizes = [len(made.prompt), *map(len, made.answers), *same, *map(len, rest)]
    whole = torch.cat([torch.tensor([len(sizes), *sizes]), made.prompt, *made.answers, *rest])
    return whole.to(torch.int32).numpy().tobytes()


def _unpacked(data: bytes) -> Answered:
    flat = torch.from_numpy(np.frombuffer(data, dtype=np.int32).astype(np.int64))
    count = int(flat[0])
    prompt, *sizes = flat[1 : 1 + count].tolist()
    n = len(sizes) // 3
    asked, *parts = flat[1 + count :].split([prompt, *sizes[:n], *sizes[2 * n :]])
    answers, rest = parts[:n], parts[n:]
    rendered = [torch.cat([a[:same], r]) for a, same, r in zip(answers, sizes[n : 2 * n], rest, strict=True)]
    return Answered(asked, tuple(answers), tuple(rendered))


def _common(answer: torch.Tensor, rendered: torch.Tensor) -> int:
    size = min(len(answer), len(rendered))
    other = (answer[:size] != rendered[:size]).nonzero()
    return int(other[0]) if len(other) else size


# ---- the file -------------------------------------------------------------------------------------------------------


class _Store:
    """Values by keys in a SQLite file; after any failure it holds nothing."""

    def __init__(self, file: Path, opened: sqlite3.Connection) -> None:
        self.file = file
        self.opened: sqlite3.Connection | None = opened

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values that are known and whole."""
        known: dict[bytes, bytes] = {}
        for start in range(0, len(keys), PORTION):
            some = keys[start : start + PORTION]
            rows = self._run(f"SELECT key, value FROM rows WHERE key IN ({','.join('?' * len(some))})", some)
            known |= {key: value[CHECK:] for key, value in rows if value[:CHECK] == _check(key, value[CHECK:])}
        return known

    def write(self, values: dict[bytes, bytes]) -> None:
        rows = [(key, _check(key, value) + value) for key, value in values.items()]
        if rows:
            self._run("INSERT OR REPLACE INTO rows VALUES (?, ?)", rows, many=True)

    def _run(self, statement: str, values: Sequence[Any], *, many: bool = False) -> list[Any]:
        if self.opened is None:
            return []
        try:
            with self.opened:
                return (self.opened.executemany if many else self.opened.execute)(statement, values).fetchall()
        except sqlite3.Error as error:
            self.opened = None
            _remove_damaged(self.file, error)
            return []


def _remove_damaged(file: Path, error: sqlite3.Error) -> None:
    """Remove a file that cannot be read, but not one that is locked, on a full disk or without permission."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED:
        with suppress(OSError):
            file.unlink()


def _check(key: bytes, value: bytes) -> bytes:
    return hashed(key, value)[:CHECK]


def _file() -> Path | None:
    named = os.environ.get(FOLDER)
    return None if named == "" else Path(named or cache_root()).expanduser() / "tokens.sqlite"


@cache
def _store(file: Path | None) -> _Store | None:
    """The open file, made anew if it is too large; None if there can be none."""
    if file is None:
        return None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.stat().st_size > LARGEST:
            file.unlink()
        opened = sqlite3.connect(file, timeout=WAIT)
        opened.execute("PRAGMA synchronous = OFF")
        opened.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB)")
    except OSError:
        return None
    except sqlite3.Error as error:
        _remove_damaged(file, error)
        return None
    return _Store(file, opened)
