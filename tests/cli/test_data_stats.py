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


def test_rows_that_are_no_objects_are_one_column() -> None:
    (column,) = columns(["a", "bb"])
    assert column.name == "row" and column.lengths == (1, 1.5, 2)
