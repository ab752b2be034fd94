"""Checkpoints: a nested dict as safetensors and JSON, written atomically, verified by SHA-256. No pickle.

A checkpoint `step-NNNNNNNN/` holds state.safetensors, state.json, SHA256SUMS and, written last, COMPLETE (the hash of
SHA256SUMS). It is written under a temporary name and renamed at the end: a crash leaves older ones untouched.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.core.errors import DataError, UserError
from prefloop.core.files import TEMPORARY, published, remove_temporary, sha256, sync

TENSORS, TREE, SUMS, COMPLETE = "state.safetensors", "state.json", "SHA256SUMS", "COMPLETE"
TENSOR, FLOAT = "$tensor", "$float"  # JSON keys for tensors and for floats that JSON lacks

Say = Callable[[str], None]


def silent(text: str) -> None:
    """Default: prints nothing."""


def save(root: str | Path, step: int, state: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Write and verify a checkpoint, then delete all but the `keep` newest; before, if the disk is full.

    Args:
        root: folder of the run's checkpoints.
        state: nested dicts with text keys; tensors, numbers, text, booleans, None and lists of these.

    Raises:
        DataError: the disk is full or fails; the newest complete checkpoint is untouched.
        TypeError: the state contains something else.
    """
    root, tensors = Path(root), dict[str, Tensor]()
    encoded = _encoded(state, "state", tensors)
    try:
        try:
            return _save(root, step, encoded, tensors, keep)
        except (OSError, SafetensorError) as error:
            spare = [path for path in checkpoints(root) if path != newest(root)]
            if not (_is_full(error) and spare):
                raise
            for old in spare:
                _remove(old)
            return _save(root, step, encoded, tensors, keep)
    except (OSError, SafetensorError) as error:
        remove_temporary(root)
        reason = "the disk is full" if _is_full(error) else str(error)
        fix = "free some space; the newest checkpoint is untouched" if _is_full(error) else "check the disk"
        raise DataError(f"cannot write the checkpoint: {reason}", where=str(root), fix=fix) from error


def newest(root: str | Path) -> Path | None:
    """The newest complete checkpoint; its hashes are not verified."""
    return next((path for path in checkpoints(root) if _is_complete(path, silent)), None)


def remove(root: str | Path, step: int) -> None:
    """Delete the checkpoint of a step, if there is one."""
    path = _path(Path(root), step)
    if path.exists():
        _remove(path)


def load(path: str | Path) -> dict[str, Any]:
    """The state of one checkpoint, after verifying its hashes.

    Raises:
        DataError: a file is missing or its bytes have changed.
    """
    path = Path(path)
    verify(path)
    return dict(_decoded(tree(path), load_file(path / TENSORS)))


def tree(path: Path) -> dict[str, Any]:
    """The state of a checkpoint without its tensors, which are names."""
    return dict(json.loads((path / TREE).read_text(encoding="utf-8")))


def restore(root: str | Path, *, fallback: bool = False, say: Say = silent) -> tuple[Path, dict[str, Any]]:
    """The newest complete checkpoint and its state.

    Args:
        fallback: if it is damaged, report this and use the previous one.

    Raises:
        UserError: there is no complete checkpoint.
        DataError: it is damaged, and fallback is off or none is left.
    """
    complete = [path for path in checkpoints(root) if _is_complete(path, say)]
    if not complete:
        raise UserError("no complete checkpoint to resume from", where=str(root), fix="start a new run")
    for path, older in zip(complete, [*complete[1:], None], strict=True):
        try:
            return path, load(path)
        except DataError as error:
            if not fallback or older is None:
                raise
            say(f"{path.name} is damaged ({error.what}, {error.where}): resuming from {older.name}")
    raise AssertionError("unreachable: the last one returns or raises")


def checkpoints(root: str | Path) -> Iterator[Path]:
    """Checkpoint folders, newest step first, complete or not."""
    named = (path for path in Path(root).glob("step-*") if path.name[5:].isdecimal())
    return iter(sorted(named, key=step_of, reverse=True))


def step_of(path: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(path.name.removeprefix("step-"))


def verify(path: Path) -> None:
    """Compare every file with its recorded SHA-256.

    Raises:
        DataError: names the missing or changed file.
    """
    fix = "delete this checkpoint and resume from an older one"
    if not (path / COMPLETE).is_file():
        raise DataError("the checkpoint is incomplete", where=str(path), fix=fix)
    sums = path / SUMS
    expected = {SUMS: (path / COMPLETE).read_text(encoding="utf-8", errors="replace").strip()}
    if sums.is_file() and sha256(sums) == expected[SUMS]:
        lines = sums.read_text(encoding="utf-8").splitlines()
        expected.update({name: digest for digest, name in (line.split("  ", 1) for line in lines)})
    for name, digest in expected.items():
        file = path / name
        if not file.is_file():
            raise DataError("a checkpoint file is missing", where=str(file), fix=fix)
        if sha256(file) != digest:
            raise DataError("a checkpoint file has changed", where=str(file), fix=fix)


def _is_complete(path: Path, say: Say) -> bool:
    complete = all((path / name).is_file() for name in (COMPLETE, SUMS, TREE, TENSORS))
    if not complete:
        say(f"{path.name} is incomplete and was skipped")
    return complete


# ---- writing ------------------------------------------------------------------------------------------------------


def _path(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def _save(root: Path, step: int, state: Any, tensors: dict[str, Tensor], keep: int) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    remove_temporary(root)  # safe because of the run folder's lock
    path = _path(root, step)
    with published(path) as temporary:
        _write(temporary, state, tensors)
        if path.exists():  # left by a fallback to an older one
            _remove(path)
    verify(path)
    for old in list(checkpoints(root))[keep:]:
        _remove(old)
    return path


def _is_full(error: Exception) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)


def _write(folder: Path, state: Any, tensors: dict[str, Tensor]) -> None:
    save_file(_separate(tensors), folder / TENSORS)
    _put(folder / TREE, json.dumps(state, ensure_ascii=False, allow_nan=False).encode())
    _put(folder / SUMS, "".join(f"{sha256(folder / name)}  {name}\n" for name in (TENSORS, TREE)).encode())
    for name in (TENSORS, TREE, SUMS):
        sync(folder / name)
    _put(folder / COMPLETE, sha256(folder / SUMS).encode() + b"\n")
    sync(folder / COMPLETE)
    sync(folder)


def _put(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _remove(path: Path) -> None:
    """Rename, then delete: a half-deleted folder has a temporary name and is not a checkpoint."""
    doomed = path.with_name(f"{TEMPORARY}old-{path.name}-{os.getpid()}")
    os.replace(path, doomed)
    shutil.rmtree(doomed)


# ---- the nested dict ----------------------------------------------------------------------------------------------


def _encoded(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON, with its tensors moved to `tensors`."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}:{key}"
        tensors[name] = value.detach().cpu().contiguous()
        return {TENSOR: name}
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: repr(value)}
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) and not k.startswith("$") for k in value):
            raise TypeError(f"{key}: keys must be text that does not start with $")
        return {k: _encoded(v, f"{key}.{k}", tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_encoded(v, f"{key}.{i}", tensors) for i, v in enumerate(value)]
    raise TypeError(f"{key}: a checkpoint cannot contain a {type(value).__name__}")


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without shared memory, as safetensors requires; only those that share it are copied."""
    seen, out = set[int](), dict[str, Tensor]()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        out[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return out


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return tensors[value[TENSOR]]
    if FLOAT in value:
        return float(value[FLOAT])
    return {k: _decoded(v, tensors) for k, v in value.items()}
