"""Rows that cannot be used and questions on both sides: refused in words, or left out and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefloop.core.errors import DataError
from prefloop.data.formats import load_usable
from prefloop.data.skipping import apart, kept
from prefloop.worlds.text.open_data import open_data
from prefloop.worlds.text.spec import DataOptions


def row(i: int, chosen: str = "yes", rejected: str = "no") -> dict[str, str]:
    return {"prompt": f"question {i}", "chosen": chosen, "rejected": rejected}


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def holed(tmp_path: Path) -> Path:
    return write(tmp_path / "holed.jsonl", [*map(row, range(8)), row(8, ""), row(9, "  "), row(10, "a", "a")])


def test_the_refusal_names_the_rows_and_the_way_on(holed: Path) -> None:
    with pytest.raises(DataError, match="3 of 11 rows cannot be used") as error:
        open_data(DataOptions(str(holed)))
    assert "row 9" in error.value.what and "faulty=skip" in error.value.fix


def test_skipped_rows_are_counted_by_reason(holed: Path) -> None:
    data = open_data(DataOptions(str(holed), held_out="split", faulty="skip"))
    assert len(data.train) + len(data.held_out) == 8
    (note,) = [note for note in data.notes if "left out" in note]
    assert note.startswith(str(holed)) and "3 of 11 rows are left out: `chosen` is empty (2), " in note


def test_half_of_a_file_is_not_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", [row(0), row(1, ""), row(2, "")])
    with pytest.raises(DataError, match="2 of 3 rows") as error:
        open_data(DataOptions(str(path), faulty="skip"))
    assert "faulty=skip" not in error.value.fix


def test_a_sound_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "sound.jsonl", [row(0), row(1)])
    loaded = load_usable(path)
    assert kept(path, loaded, "refuse") is loaded


def test_questions_on_both_sides_are_refused_or_not_trained_on(tmp_path: Path) -> None:
    train, held = (write(tmp_path / f"{n}.jsonl", list(map(row, r))) for n, r in (("a", range(6)), ("b", range(4, 9))))
    with pytest.raises(DataError, match="2 of 6 training rows ask questions that are held out too") as error:
        open_data(DataOptions(str(train), str(held)))
    assert "row 5" in error.value.where and "data.held_out=split" in error.value.fix
    data = open_data(DataOptions(str(train), str(held), faulty="skip"))
    assert [g.row for g in data.train] == [1, 2, 3, 4] and len(data.held_out) == 5
    assert any("2 of 6" in note and "not trained on" in note for note in data.notes)
    with pytest.raises(DataError, match="6 of 6"):
        open_data(DataOptions(str(train), str(train), faulty="skip"))


def test_a_question_is_known_by_its_key_too(tmp_path: Path) -> None:
    rows = [{**row(i), "question_id": f"q{i % 3}"} for i in range(6)]
    groups = load_usable(write(tmp_path / "keys.jsonl", rows), group_by="question_id").groups
    left, notes = apart(groups[:3], groups[3:5], "skip")
    assert [g.key for g in left] == ["q2"] and len(notes) == 1
