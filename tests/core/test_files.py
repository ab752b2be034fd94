"""Files appear whole or not at all, hashes are the published ones, JSON holds no nan."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.core import files
from prefloop.core.errors import DataError


def fail(*_: object) -> None:
    raise OSError("disk")


@pytest.mark.parametrize("place", ["replace", "fsync"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    files.write(tmp_path / "a", b"old")
    monkeypatch.setattr(os, place, fail)
    with pytest.raises(OSError):
        files.write(tmp_path / "a", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_a_file_is_written_with_its_folder_and_the_usual_permissions(tmp_path: Path) -> None:
    files.write(tmp_path / "deep" / "a", "ü\n")
    assert (tmp_path / "deep" / "a").read_bytes() == "ü\n".encode()
    (tmp_path / "usual").write_text("")
    assert stat.S_IMODE((tmp_path / "deep" / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_folders_above_are_made_all_of_them(tmp_path: Path) -> None:
    files.write(tmp_path / "a" / "b" / "c", b"")
    with files.published(tmp_path / "d" / "e" / "f"):
        pass
    assert (tmp_path / "a" / "b" / "c").is_file() and (tmp_path / "d" / "e" / "f").is_dir()


def test_a_body_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    files.write(tmp_path / "a", b"old")
    with pytest.raises(KeyError), files.replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_a_folder_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyError), files.published(tmp_path / "home" / "a") as temporary:
        (temporary / "half").touch()
        raise KeyError
    assert list((tmp_path / "home").iterdir()) == []
    with files.published(tmp_path / "home" / "a") as temporary:
        (temporary / "whole").touch()
        assert not (tmp_path / "home" / "a").exists()
    assert [p.name for p in (tmp_path / "home").rglob("*")] == ["a", "whole"]


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    with pytest.raises(OSError), files.published(tmp_path / "a") as temporary:
        (temporary / "other").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "mine"]


def test_only_what_is_not_whole_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-folder" / "in").mkdir(parents=True)
    (tmp_path / ".tmp-file").touch()
    (tmp_path / "whole").touch()
    files.remove_temporary(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("folder", [True, False])
def test_what_another_process_removed_first_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / ".tmp-gone"])
    monkeypatch.setattr(Path, "is_dir", lambda self: folder)
    files.remove_temporary(tmp_path)


def test_sha256_is_that_of_fips_180(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digest_names_a_value_whatever_the_order_of_its_keys() -> None:
    assert files.digest({"a": 1, "b": [2]}) == files.digest({"b": [2], "a": 1}) != files.digest({"a": 1, "b": [3]})
    assert len(files.digest(None)) == 20


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3),
    max_leaves=8,
)


def nulled(value: object) -> object:
    if isinstance(value, list):
        return [nulled(x) for x in value]
    if isinstance(value, dict):
        return {k: nulled(x) for k, x in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(VALUES)
def test_json_holds_every_value_and_null_for_what_is_not_finite(value: object) -> None:
    text = files.to_json(value)
    assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON")) == nulled(value)


def test_arrays_tensors_and_tuples_are_lists_and_numbers() -> None:
    value = {1: torch.tensor([1.0, math.nan]), "b": (np.int64(2), np.array([[True]])), "c": torch.tensor(3)}
    assert files.plain(value) == {"1": [1.0, None], "b": [2, [[True]]], "c": 3}


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_a_record_of_a_run_refuses_what_is_not_finite_by_its_place(x: float) -> None:
    with pytest.raises(DataError, match=r"`metrics.a\[1\]` is -?(nan|inf)"):
        files.plain({"a": [0.0, x]}, files.refuse, "metrics")


def test_what_json_lacks_can_be_said_in_words() -> None:
    assert files.plain([math.inf, 1.0], lambda x, place: f"{x} at {place}", "v") == ["inf at v[0]", 1.0]


def test_json_is_utf8_and_refuses_what_is_still_not_finite() -> None:
    assert files.to_json({"ü": "−"}, indent=None) == '{"ü": "−"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.to_json([math.nan], lambda x, place: x)


def test_what_is_no_value_is_refused_by_its_place() -> None:
    with pytest.raises(DataError, match=r"`value.a` is a set"):
        files.plain({"a": {1}})
