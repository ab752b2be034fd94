"""The run folder, which is only appended to and never overwritten, and functions that read it. Imports no torch.

`metrics.jsonl`, `samples.jsonl`, `scores.jsonl`, `pairs.jsonl` and `examples.jsonl` depend only on the seed, so that
the same seed gives the same bytes; times are in `timing.jsonl`, events of the process (start, resume, interruption) in
`events.jsonl`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from prefloop.core.errors import DataError, UserError, shown
from prefloop.core.files import refuse, remove_temporary, to_json, write

RECORDS = ("samples", "scores", "pairs", "examples", "metrics", "timing")  # truncated to the checkpoint on resume
LOGS = (*RECORDS, "events")
NOTHING: Mapping[str, str] = MappingProxyType({})
CONFIG, MANIFEST, FINAL, BEST, LOCK = "config.yaml", "manifest.json", "final", "best", ".lock"


class RunFolder:
    """One run on disk, locked by one process at a time; use it as a context manager.

    Layout: config.yaml · manifest.json · metrics.jsonl · samples.jsonl · scores.jsonl · pairs.jsonl ·
    examples.jsonl · timing.jsonl · events.jsonl · checkpoints/step-NNNNNNNN/ · final/ · best/
    """

    def __init__(self, path: Path) -> None:
        """Lock an existing folder; see `create` and `open`."""
        self.path = path
        self._lock = _locked(path / LOCK)
        remove_temporary(path)  # left by a killed process
        for name in LOGS:
            _repair(_log(path, name))
        self._files = {name: _log(path, name).open("ab", buffering=0) for name in LOGS}
        self._sizes = {name: _log(path, name).stat().st_size for name in LOGS}
        self._waiting = dict.fromkeys(LOGS, b"")  # lines that a full disk has not taken

    @classmethod
    def create(cls, output: str | Path, method: str, *, config: str, manifest: Mapping[str, Any]) -> RunFolder:
        """Create a folder `output/<date>-<method>-<id>` with its configuration (YAML) and manifest.

        Raises:
            UserError: the folder cannot be created.
            DataError: the manifest contains something other than finite numbers, text, lists and mappings.
        """
        record = to_json(manifest, refuse, place="manifest", indent=2) + "\n"
        path = _fresh(Path(output), method)
        write(path / CONFIG, config)
        write(path / MANIFEST, record)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing folder to continue its run; an incomplete last line left by a crash is removed.

        Raises:
            UserError: there is no run, or another process is using it.
        """
        return cls(existing(path))

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        return self.path / FINAL

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Append one line of results that depend only on the seed, such as `{"step": 1, "loss": 0.69}`.

        Raises:
            DataError: a value is NaN, infinite, or not a number, text, list or mapping.
        """
        self._append({"metrics": [record]})

    def timing(self, record: Mapping[str, Any]) -> None:
        """Append one line of times and rates, which differ from run to run."""
        self._append({"timing": [record]})

    def samples(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append responses, one line each."""
        self._append({"samples": records})

    def evaluation(
        self,
        record: Mapping[str, Any],
        answers: Iterable[Mapping[str, Any]],
        scores: Iterable[Mapping[str, Any]] = (),
        pairs: Iterable[Mapping[str, Any]] = (),
        examples: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Append the answers of an evaluation, the scores of its prompts, its judged pairs and its single responses,
        then its metrics, which mark it as complete."""
        lines = {"samples": answers, "scores": scores, "pairs": pairs, "examples": examples}
        self._append({**lines, "metrics": [record]})

    def event(self, kind: str, detail: Mapping[str, Any] | None = None) -> None:
        """Append an event of the process, with the time in UTC."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._append({"events": [{"time": now, "event": kind, **(detail or {})}]})

    def _append(self, records: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Append lines to several records, all or none of them; if the disk is full they wait.

        Raises:
            DataError: the disk is full or fails; no record ends in a part of a line.
        """
        lines = {name: b"".join(_line(record, name) for record in some) for name, some in records.items()}
        for name, data in lines.items():
            self._waiting[name] += data
        self._write()

    def _write(self) -> None:
        for name, data in self._waiting.items():
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[self._files[name].write(rest) :]
            except OSError as error:
                os.truncate(_log(self.path, name), self._sizes[name])
                fix = "free some space" if error.errno == errno.ENOSPC else "check the disk"
                raise DataError(f"cannot write: {error.strerror}", where=str(_log(self.path, name)), fix=fix) from error
            self._sizes[name] += len(data)
            self._waiting[name] = b""

    def offsets(self) -> dict[str, int]:
        """Sizes of the records in bytes, for a checkpoint."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: self._sizes[name] for name in RECORDS}

    def waiting(self) -> dict[str, str]:
        """Lines that could not be written, for a checkpoint."""
        return {name: self._waiting[name].decode("utf-8") for name in RECORDS}

    def rewind(self, offsets: Mapping[str, int], waiting: Mapping[str, str] = NOTHING) -> None:
        """Truncate the records to a checkpoint's offsets, so that resumed steps are not written twice.

        Args:
            waiting: lines that could not be written then.

        Raises:
            DataError: a record is shorter than at the checkpoint.
        """
        sizes = self.offsets()
        offsets = dict.fromkeys(RECORDS, 0) | dict(offsets)  # a checkpoint of an earlier version lacks new records
        for name in RECORDS:
            if sizes[name] < offsets[name]:
                where = str(_log(self.path, name))
                raise DataError(f"{offsets[name] - sizes[name]} bytes are missing since the checkpoint", where=where)
        for name in RECORDS:
            os.truncate(_log(self.path, name), offsets[name])
            self._sizes[name] = offsets[name]
            self._waiting[name] = waiting.get(name, "").encode()
        self._write()

    def close(self) -> None:
        """Release the folder."""
        for file in self._files.values():
            file.close()
        self._lock.close()


# ---- writing ------------------------------------------------------------------------------------------------------


def _fresh(output: Path, method: str) -> Path:
    """Create a new folder."""
    word = re.sub(r"[^A-Za-z0-9_.-]+", "-", method)
    while True:
        path = output / f"{date.today().isoformat()}-{word}-{secrets.token_hex(3)}"
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            if not path.exists():  # `output` is a broken link
                raise UserError("the output folder is not a folder", where=str(output)) from error
        except (OSError, ValueError) as error:  # a name with NUL is a ValueError
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot create the run folder: {reason}", where=shown(str(path))) from error
        else:
            return path


def _locked(path: Path) -> BinaryIO:
    """An exclusive lock that the system releases when the process ends in any way."""
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().decode(errors="replace").strip() or "another process"
        file.close()
        raise UserError(
            f"{owner} is using this run", where=str(path.parent), fix="wait until it finishes, or stop it"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}\n".encode())
    file.flush()
    return file


def _repair(path: Path) -> None:
    """Remove an incomplete last line."""
    data = path.read_bytes() if path.exists() else b""
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)


def _line(record: Mapping[str, Any], name: str) -> bytes:
    return (to_json(record, refuse, place=name, separators=(",", ":")) + "\n").encode()


# ---- reading ------------------------------------------------------------------------------------------------------


def existing(path: str | Path) -> Path:
    """The path of a run folder.

    Raises:
        UserError: not a run folder.
    """
    path = Path(path)
    if not (path / CONFIG).is_file() or not (path / MANIFEST).is_file():
        fix = f"give a folder that contains {CONFIG} and {MANIFEST}"
        if (path / CONFIG).is_file():
            fix = f"nothing was trained here; to start: prefloop train {path / CONFIG}"
        raise UserError("not a run folder", where=str(path), fix=fix)
    return path


def runs(output: str | Path) -> list[Path]:
    """The run folders inside `output`, oldest first by their manifests."""
    folders = [p.parent for p in Path(output).glob(f"*/{MANIFEST}") if (p.parent / CONFIG).is_file()]
    return sorted(folders, key=lambda p: (str(read_manifest(p).get("created", "")), p.name))


def read_manifest(path: str | Path) -> dict[str, Any]:
    """A run's manifest.

    Raises:
        UserError: not a run folder.
        DataError: the manifest is not JSON.
    """
    file = existing(path) / MANIFEST
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"the manifest is broken: {error}", where=str(file)) from None


def read(path: str | Path, name: str) -> list[dict[str, Any]]:
    """The lines of one of LOGS, such as `metrics`; an incomplete last line is ignored.

    Raises:
        UserError: not a run folder.
        DataError: a line is not JSON.
    """
    file = _log(existing(path), name)
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [_parsed(line, f"{file}:{number}") for number, line in enumerate(lines, 1)]


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        raise DataError("the line is not a JSON record", where=where) from None


def _log(path: Path, name: str) -> Path:
    return path / f"{name}.jsonl"
