"""`prefloop data stats`: kinds, lengths, ranges and values of every column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefloop.cli.main import main
from prefloop.data.columns import columns


@pytest.fixture
def file(tmp_path: Path) -> str:
    rows = [
        {"prompt": "ab", "score": 1, "tags": ["x"], "source": "web", "ok": True},
        {"prompt": "abcd", "score": 4.5, "tags": [], "source": "web", "ok": None},
        {"prompt": "abcdef", "score": None, "source": "book"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    return str(path)


def test_every_column_is_described(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", file, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["damaged"]) == (3, 1)
    by_name = {column["name"]: column for column in told["columns"]}
    assert list(by_name) == ["prompt", "score", "tags", "source", "ok"]
    assert by_name["prompt"]["lengths"] == [2, 4, 6] and by_name["prompt"]["kinds"] == {"text": 3}
    assert by_name["score"]["numbers"] == [1.0, 2.75, 4.5] and by_name["score"]["kinds"] == {"number": 2, "null": 1}
    assert by_name["tags"]["rows"] == 2 and by_name["tags"]["values"] is None
    assert by_name["source"]["values"] == {"web": 2, "book": 1}
    assert by_name["ok"]["kinds"] == {"true or false": 1, "null": 1}


def test_the_table_fits_and_names_what_cannot_be_read(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", file]) == 0
    shown = capsys.readouterr().out
    assert "3 rows, 1 that cannot be read" in shown and "web (2)," in shown


def test_length_bias_duplicates_and_ties_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = {"prompt": "q", "chosen": "a long one", "rejected": "short"}
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (pair, pair, {**pair, "preference": "tie"})))
    assert main(["data", "stats", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == "preference" and told["columns"][1]["long"] == 10
    assert [told["report"][key] for key in ("longer_wins", "duplicates", "ties")] == [1.0, 1, 1]
    assert main(["data", "stats", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "the longer response is preferred in 100.0%" in shown and "1 duplicate rows, 1 ties" in shown
    path.write_text('{"x": 1}\n')
    assert main(["data", "stats", str(path)]) == 0
    assert "no format fits these columns" in capsys.readouterr().out


def test_rows_that_are_no_objects_are_one_column() -> None:
    (column,) = columns(["a", "bb"])
    assert column.name == "row" and column.lengths == (1, 1.5, 2)
