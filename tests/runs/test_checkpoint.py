"""Checkpoints: exact round trips, and every way a disk or a crash can spoil one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prefloop.core import files
from prefloop.core.errors import DataError, UserError
from prefloop.runs import checkpoint


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit: types, key order, dtypes, shapes and NaNs too."""
    if isinstance(a, Tensor):
        alike = isinstance(b, Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return alike and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
tensors = st.builds(
    lambda shape, dtype, seed: (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 9 - 4).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)
leaves = tensors | st.integers() | st.floats() | st.text() | st.booleans() | st.none()
keys = st.text().filter(lambda k: not k.startswith("$"))
states = st.dictionaries(
    keys,
    st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)),
    max_size=4,
)


@given(states)
@settings(max_examples=60)
def test_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]) -> None:
    root = tmp_path_factory.mktemp("run")
    assert same(checkpoint.load(checkpoint.save(root, 3, state)), state)


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((4,), float(step)), "prompts": [torch.arange(3), torch.arange(5)]}


def test_tensors_that_share_memory_and_views_are_kept(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    given = {"a": whole, "tied": whole, "row": whole[1], "column": whole[:, 2], "leaf": whole.clone().requires_grad_()}
    loaded = checkpoint.load(checkpoint.save(tmp_path, 0, given))
    assert all(torch.equal(loaded[k], given[k].detach()) for k in given)
    assert whole.data_ptr() == given["tied"].data_ptr()


@pytest.mark.parametrize("bad", [(1, 2), {1: 2}, {"$tensor": "x"}, object(), {1.5}, Path("x")])
def test_what_json_would_change_is_refused_by_name(tmp_path: Path, bad: object) -> None:
    with pytest.raises(TypeError, match=r"state\.inner"):
        checkpoint.save(tmp_path, 0, {"inner": bad})
    assert list(tmp_path.iterdir()) == []


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 5, 100, 20000000000):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    assert [checkpoint.step_of(p) for p in checkpoint.checkpoints(tmp_path)] == [20000000000, 100]
    path, loaded = checkpoint.restore(tmp_path)
    assert same(loaded, state(20000000000)) and [path] == list(checkpoint.checkpoints(tmp_path))[:1]


def test_the_same_step_can_be_written_again(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 1, state(2))
    assert checkpoint.restore(tmp_path)[1]["step"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


class Killed(BaseException):
    """The process ends here: no handler of the product runs."""


OPERATIONS = [(checkpoint, "_put"), (checkpoint, "sync"), (files, "sync"), (checkpoint, "save_file"), (os, "replace")]


def spoil(patch: pytest.MonkeyPatch, at: int, error: BaseException, half: bool) -> Callable[[], int]:
    """Let the file operation number `at` fail, before it is done or, for `_put`, when half is written.

    After a kill nothing is cleaned up.
    """
    done, remove = 0, shutil.rmtree

    def wrapped(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def operation(*args: Any) -> Any:
            nonlocal done
            done += 1
            if done != at:
                return real(*args)
            if half and name == "_put":
                real(args[0], args[1][: len(args[1]) // 2])
            raise error

        return operation

    for module, name in OPERATIONS:
        patch.setattr(module, name, wrapped(getattr(module, name), name))
    killed = isinstance(error, Killed) and at > 0
    patch.setattr(shutil, "rmtree", lambda *a, **k: None if killed and done >= at else remove(*a, **k))
    return lambda: done


def operations(root: Path) -> int:
    """File operations of one save."""
    with pytest.MonkeyPatch.context() as patch:
        count = spoil(patch, 0, Killed(), False)
        checkpoint.save(root, 1, state(1), keep=1)
        checkpoint.save(root, 2, state(2), keep=1)
        return count()


@pytest.mark.parametrize("half", [False, True])
def test_a_kill_at_any_point_leaves_a_whole_checkpoint(tmp_path: Path, half: bool) -> None:
    total = operations(tmp_path / "count")
    assert total > 20
    for at in range(1, total + 1):
        root = tmp_path / str(at)
        last = 0
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            spoil(patch, at, Killed(), half)
            for last in (1, 2):
                checkpoint.save(root, last, state(last), keep=1)
        try:
            newest, _ = checkpoint.restore(root)
        except UserError:  # none is complete
            assert last == 1
        else:
            step = checkpoint.step_of(newest)
            assert step in (last - 1, last)
            assert same(checkpoint.load(newest), state(step))
        checkpoint.save(root, 3, state(3), keep=1)
        assert [p.name for p in root.iterdir()] == ["step-00000003"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_or_broken_disk_is_a_message_and_leaves_the_older_one(tmp_path: Path, code: int) -> None:
    for at in range(1, operations(tmp_path / "count") // 2):
        root = tmp_path / str(at)
        checkpoint.save(root, 1, state(1))
        with pytest.MonkeyPatch.context() as patch:
            spoil(patch, at, OSError(code, os.strerror(code)), True)
            with pytest.raises(DataError) as caught:
                checkpoint.save(root, 2, state(2))
        assert ("the disk is full" in caught.value.what) is (code == errno.ENOSPC)
        assert not list(root.glob(".tmp-*"))
        restored = checkpoint.restore(root)[1]
        assert same(restored, state(restored["step"]))


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.TREE, checkpoint.SUMS, checkpoint.COMPLETE])
def test_a_flipped_byte_names_the_file_and_falls_back_only_when_asked(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    file = checkpoint.save(tmp_path, 2, state(2)) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        checkpoint.restore(tmp_path)
    blamed = checkpoint.SUMS if name == checkpoint.COMPLETE else name  # its only contents is the hash of that file
    assert blamed in caught.value.where
    said: list[str] = []
    path, loaded = checkpoint.restore(tmp_path, fallback=True, say=said.append)
    assert same(loaded, state(1)) and checkpoint.step_of(path) == 1
    assert len(said) == 1 and "step-00000002 is damaged" in said[0] and "step-00000001" in said[0]


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.TREE, checkpoint.SUMS, checkpoint.COMPLETE])
def test_an_incomplete_folder_is_skipped_aloud(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    broken = checkpoint.save(tmp_path, 2, state(2))
    (broken / name).unlink()
    said: list[str] = []
    older, _ = checkpoint.restore(tmp_path, say=said.append)
    assert checkpoint.step_of(older) == 1
    assert said == ["step-00000002 is incomplete and was skipped"]
    with pytest.raises(DataError):
        checkpoint.load(broken)


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="no complete checkpoint"):
            checkpoint.restore(root)


def test_a_lone_damaged_checkpoint_is_an_error_even_with_fallback(tmp_path: Path) -> None:
    file = checkpoint.save(tmp_path, 1, state(1)) / checkpoint.TREE
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DataError, match="has changed"):
        checkpoint.restore(tmp_path, fallback=True)
