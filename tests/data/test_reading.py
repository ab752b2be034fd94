"""Rows of files of every kind, one or many, compressed or not; what is broken is named, without a traceback."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from prefloop.core.errors import DataError
from prefloop.data import json_rows, opening
from prefloop.data.fault import Fault, FileRow, by_reason
from prefloop.data.reading import data_hash, open_rows, rows

ROWS = [{"prompt": f"é \u2028 {i}", "responses": ["a", "b"], "scores": [1.5, i]} for i in range(5)]


def as_lines(items: Sequence[Any]) -> bytes:
    return "".join(json.dumps(item) + "\n" for item in items).encode()


def as_csv(items: Sequence[dict[str, Any]], separator: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(items[0])
    writer.writerows([v if isinstance(v, str) else json.dumps(v) for v in item.values()] for item in items)
    return out.getvalue().encode()


def as_parquet(items: Sequence[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(items)), out, row_group_size=2)
    return out.getvalue()


def as_arrow(items: Sequence[dict[str, Any]], new: Callable[..., Any] = ipc.new_file) -> bytes:
    out, table = io.BytesIO(), pyarrow.Table.from_pylist(list(items))
    with new(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return out.getvalue()


FILES: dict[str, bytes] = {
    "a.jsonl": as_lines(ROWS),
    "a.ndjson": as_lines(ROWS),
    "crlf.jsonl": as_lines(ROWS).replace(b"\n", b"\r\n"),
    "mark.jsonl": b"\xef\xbb\xbf" + as_lines(ROWS),
    "a.json": json.dumps(ROWS).encode(),
    "indented.json": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=4).encode(),
    "under_a_key.json": json.dumps({"version": 1, "authors": ["x"], "data": ROWS, "end": None}).encode(),
    "a.csv": as_csv(ROWS),
    "a.tsv": as_csv(ROWS, "\t"),
    "semicolons.csv": b"\xef\xbb\xbf" + as_csv(ROWS, ";"),
    "a.parquet": as_parquet(ROWS),
    "a.arrow": as_arrow(ROWS),
    "stream.arrow": as_arrow(ROWS, ipc.new_stream),
    "a.jsonl.gz": gzip.compress(as_lines(ROWS)),
    "a.json.bz2": bz2.compress(json.dumps(ROWS).encode()),
    "a.csv.xz": lzma.compress(as_csv(ROWS)),
    "A.JSONL": as_lines(ROWS),
}


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_has_the_same_rows(tmp_path: Path, name: str) -> None:
    found = list(rows(written(tmp_path, name, FILES[name])))
    assert [row for _, row in found] == ROWS
    first = 2 if ".csv" in name or ".tsv" in name else 1  # the header of a table is its row 1
    assert [n for n, _ in found] == list(range(first, first + len(ROWS)))


def test_zstandard_is_read_by_arrow(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with pyarrow.output_stream(str(path), compression="zstd") as stream:
        stream.write(as_lines(ROWS))
    assert [row for _, row in rows(path)] == ROWS


def test_long_files_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "CHUNK", 7)
    items = [*ROWS, 12345678901, -1.25e-7, True, None, "text", [], {}, [[1, {"a": "\U0001f600"}]]]
    for ascii in (True, False):
        path = written(tmp_path, "a.json", json.dumps(items, ensure_ascii=ascii).encode())
        assert [row for _, row in rows(path)] == items


# ---- several files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["part-*.jsonl", "", "part-?.jsonl"])
def test_shards_are_one_data_set_and_rows_name_their_file(tmp_path: Path, given: str) -> None:
    for i in (1, 0):
        written(tmp_path, f"part-{i}.jsonl", as_lines(ROWS[2 * i : 2 * i + 2]) + b"{\n" * i)
    for other in ("README.md", ".hidden.csv", "dataset_info.json"):
        written(tmp_path, other, b"{}")
    source = open_rows(tmp_path / given)
    found = list(source)
    assert [row for _, row in found[:4]] == ROWS[:4]
    assert [str(n) for n, _ in found] == [f"{n} of part-{i}.jsonl" for i, n in ((0, 1), (0, 2), (1, 1), (1, 2), (1, 3))]
    fault = found[-1][1]
    assert isinstance(fault, Fault) and str(fault).startswith("row 3 of part-1.jsonl: invalid JSON")
    assert fault.record == {"file": "part-1.jsonl", "row": 3, "what": fault.what}
    assert source.notes == ("2 files: part-0.jsonl to part-1.jsonl",)
    assert int(FileRow(3, "x")) == 3 and json.dumps(FileRow(3, "x")) == "3"


@pytest.mark.parametrize(
    ("names", "given", "what"),
    [
        (("a.csv", "b.jsonl"), "", "files of 2 kinds: .csv, .jsonl"),
        (("a.csv", "a.txt"), "a.*", "unsupported file extension"),
        (("train-0.csv", "test-0.csv"), "", "different names: test, train"),
        (("train/0.csv", "test/0.csv"), "", "name one of its folders: test, train"),
        (("a.csv",), "*.jsonl", "no file has a name like this"),
        (("notes.txt",), "", "without data files"),
    ],
)
def test_folders_and_patterns_that_are_not_clear(tmp_path: Path, names: Sequence[str], given: str, what: str) -> None:
    for name in names:
        written(tmp_path, name, b"a\n1\n")
    with pytest.raises(DataError, match=what):
        open_rows(tmp_path / given)


def test_a_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "one", num_shards=2)
    assert [row for _, row in rows(tmp_path / "one")] == ROWS
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match="has the splits test, train"):
        rows(tmp_path / "both")
    assert len(list(rows(tmp_path / "both" / "test"))) == 5
    next((tmp_path / "one").glob("*-00001-*.arrow")).unlink()
    with pytest.raises(DataError, match="is missing"):
        rows(tmp_path / "one")


def test_the_hash_covers_all_files(tmp_path: Path) -> None:
    for i in range(2):
        written(tmp_path, f"{i}.jsonl", as_lines(ROWS))
    before = data_hash(str(tmp_path))
    assert data_hash(str(tmp_path / "*.jsonl")) == before
    written(tmp_path, "1.jsonl", as_lines(ROWS[1:]))
    assert data_hash(str(tmp_path)) != before and len(before) == 64


# ---- the hub ------------------------------------------------------------------------------------------------------


def hub(monkeypatch: pytest.MonkeyPatch, version: str = "4.0.0", **splits: Path) -> list[Any]:
    """A stand-in for `datasets` with cached splits; returns the list of its calls."""
    calls: list[Any] = []

    def load_dataset(*given: Any, **options: Any) -> Any:
        calls.append((given, options))
        if not splits:
            raise ConnectionError("Couldn't reach the hub\n" + "x" * 5000)
        return {k: types.SimpleNamespace(cache_files=[{"filename": str(path)}]) for k, path in splits.items()}

    fake = types.SimpleNamespace(__version__=version, load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", fake)  # type: ignore[arg-type]
    return calls


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "cache.arrow", as_arrow(ROWS, ipc.new_stream))
    calls = hub(monkeypatch, train=path, test=path)
    assert [row for _, row in rows("hub:owner/name:config:test")] == ROWS
    assert calls == [(("owner/name", "config"), {})]  # nothing that would allow code of the hub
    with pytest.raises(DataError, match="has the splits test, train: name one") as error:
        rows("hub:owner/name")
    assert "hub:owner/name::train" in error.value.fix
    assert len(list(rows("hub:owner/name::train"))) == 5
    hub(monkeypatch, train=path)
    assert len(list(rows(Path("hub:owner/name")))) == 5


def test_the_hub_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch)
    with pytest.raises(DataError, match="cannot be loaded: ConnectionError: Couldn't reach the hub") as error:
        rows("hub:owner/name")
    assert "HF_HUB_OFFLINE is set" in error.value.fix and len(str(error.value)) < 500
    hub(monkeypatch, version="3.6.0")
    with pytest.raises(DataError, match="may run code of the hub"):
        rows("hub:owner/name")
    with pytest.raises(DataError, match="an owner and a name"):
        rows("hub:name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"prefloop\[hub\]"):
        rows("hub:owner/name")


# ---- rows that cannot be used -------------------------------------------------------------------------------------

DEEP = "[" * 200 + "]" * 200


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (b'{"a": ' + b"9" * 5000 + b"}", "a number has 5,000 digits"),
        (b'{"a": -1' + b"0" * 400 + b"}", "a number has 402 digits"),
        (b'{"ok": "\\ud83d\\ude00", "a": ["x \\ud83d."]}', "`a` has half a character"),
        (b'{"a": 1, "b": {"a": 1, "a": 2}}', "the key `a` occurs twice"),
        (b'{"a": ' + DEEP.encode() + b"}", "more than 100 lists"),
        (b'{"a": ' + b"[" * 100_000, "more than 100 lists|invalid JSON"),
        (b'{"a": "\0"}', "NUL bytes"),
        (b'{"a": "\x01"}', "invalid JSON"),
        (b'{"a": "\xe9"}', "not UTF-8 text"),
        (b'{"a": 1} {"a": 2}', "more follows at character"),
        (b'{"a": 1e}', "invalid JSON"),
        (b"x" * 100_000, "invalid JSON: Expecting value at character 1"),
        (b'{"a": "' + b"x" * 2000 + b'"}', "longer than 1,000 bytes"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, row: bytes, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what.startswith("longer"):
        monkeypatch.setattr(json_rows, "LONGEST", 1000)
    path = written(tmp_path, "a.jsonl", b'{"a": 0}\n' + row + b'\n\n{"a": NaN}\n')
    (_, first), (second, fault), (fourth, last) = rows(path)
    assert (first, second, fourth, str(last["a"])) == ({"a": 0}, 2, 4, "nan")
    assert isinstance(fault, Fault) and fault.row == 2 and len(fault.what) <= 300
    assert re.search(what, fault.what)


@pytest.mark.parametrize(
    ("item", "what"),
    [
        ('{"a": ' + "9" * 5000 + "}", "5,000 digits"),
        ('{"a": "\\ud83d"}', "`a` has half a character"),
        ('{"a": 1, "a": 2}', "occurs twice"),
        (DEEP, "more than 100 lists"),
    ],
)
def test_an_item_that_is_no_row_is_named(tmp_path: Path, item: str, what: str) -> None:
    found = list(rows(written(tmp_path, "a.json", f'[{{"a": 0}}, {item}, {{"a": 2}}]'.encode())))
    assert [n for n, _ in found] == [1, 2, 3] and (found[0][1], found[2][1]) == ({"a": 0}, {"a": 2})
    assert isinstance(found[1][1], Fault) and what in found[1][1].what


def test_faults_are_counted_by_reason() -> None:
    faults = [Fault(1, "`a` is empty"), Fault(2, "invalid JSON: x"), Fault(3, "invalid JSON: y at 7")]
    faults += [Fault(9, f"invalid `label` '{i}'") for i in range(3)]
    assert by_reason(faults) == {"invalid `label` …": 3, "invalid JSON": 2, "`a` is empty": 1}
    many = by_reason([Fault(i, f"`{chr(97 + i)}` is empty") for i in range(20)])
    assert len(many) == 9 and many["other reasons"] == 12 and sum(many.values()) == 20


# ---- files that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.json", b'[{"a": 1}, {"a": }]', "not valid JSON in item 2: Expecting value"),
        ("a.json", b'[{"a": 1},]', "a comma before the end"),
        ("a.json", b'[{"a": 1}', "`,` is expected"),
        ("a.json", b"[1, 2] 3", "more follows the end"),
        ("a.json", b'["abc', "Unterminated string"),
        ("a.json", b"[" * 100_000, "inside each other"),
        ("a.json", b'[{"a": "\xe9"}]', "not UTF-8"),
        ("a.json", b"3", "contains a int, not a list"),
        ("a.json", b'{"a": [1], "b": 2}', "no list under data, .* only the keys a, b"),
        ("a.json", b'{"data": [], "rows": []}', "lists under `data` and `rows`"),
        ("a.json", '[{"a": 1}]'.encode("utf-16"), "UTF-16 text"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "UTF-16 text"),
        ("a.csv", "a,b".encode("utf-32"), "UTF-32 text"),
        ("a.csv", b'a,b\n1,"2\n3,4\n', "row 2 of .*a.csv"),
        ("a.csv", b"a,a\n1,2\n", "two columns are called `a`"),
        ("a.jsonl.gz", gzip.compress(b"{}\n" * 99, mtime=0)[:-9], "cannot be read"),
        ("a.jsonl.bz2", b"BZh91AY", "cannot be read"),
        ("a.jsonl.xz", b"\xfd7zXZ", "cannot be read"),
        ("a.jsonl.zst", b"(\xb5/\xfd", "cannot be read"),
        ("a.parquet", FILES["a.parquet"][:-40], "not readable Parquet"),
        ("a.parquet", b"", "not readable Parquet"),
        ("a.arrow", FILES["a.arrow"][:300], "not readable Arrow"),
        ("a.arrow", b"", "not readable Arrow"),
    ],
)
def test_files_that_are_broken_are_refused_in_words(tmp_path: Path, name: str, data: bytes, what: str) -> None:
    path = written(tmp_path, name, data)
    with pytest.raises(DataError, match=what) as error:
        list(rows(path))
    assert name in error.value.where and len(str(error.value)) < 1000


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name in ("a\0b.jsonl", "x" * 5000 + ".jsonl", "/dev/null"):
        with pytest.raises(DataError) as error:
            rows(name)
        assert len(str(error.value)) < 500
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="no regular file"):
        rows(tmp_path / "pipe.jsonl")


def test_a_bomb_and_a_file_larger_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "GIB", 2**20)
    bomb = written(tmp_path, "bomb.jsonl.gz", gzip.compress(b" " * 2**27))
    with pytest.raises(DataError, match="expands to more than"):
        list(rows(bomb))
    assert len(list(rows(written(tmp_path, "a.jsonl.gz", FILES["a.jsonl.gz"])))) == 5
    monkeypatch.setattr(opening, "available", lambda: 200)
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        with pytest.raises(DataError, match="do not fit into memory") as error:
            list(rows(written(tmp_path, name, FILES[name])))
        assert "limit" in error.value.fix


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet"):
        path = written(tmp_path, name, FILES[name])
        found = rows(path)
        next(found)
        os.utime(path, ns=(1, 1))
        with pytest.raises(DataError, match="changed while it was read"):
            list(found)


# ---- tables of cells ----------------------------------------------------------------------------------------------


def test_cells_are_text_unless_the_column_says_otherwise(tmp_path: Path) -> None:
    table = b"id,prompt,chosen,label,score_chosen,code\n007,2+2,4,True,,[1]\n8,3+3,6,0,1e3,x\n"
    path = written(tmp_path, "a.csv", table)
    first, second = (row for _, row in rows(path))
    assert first == {
        "id": "007",
        "prompt": "2+2",
        "chosen": "4",
        "label": True,
        "score_chosen": None,
        "code": "[1]",
    }
    assert (second["id"], second["label"], second["score_chosen"]) == ("8", 0, 1000.0)
    assert open_rows(path).notes == ("the cells of `label`, `score_chosen` are read as numbers, true or false",)


def test_cells_with_conversations_are_json_or_faults(tmp_path: Path) -> None:
    said = '"[{""role"": ""user"", ""content"": ""q, or\\n\n\nr""}]"'
    path = written(tmp_path, "a.csv", f"prompt,chosen\nplain,a\n{said},b\n\"['x']\",c\n1,2,3\n".encode())
    found = [row for _, row in rows(path)]
    whole = [row for _, row in rows(written(tmp_path, "b.csv", f"prompt\n{said}\n".replace("\\n\n\n", "").encode()))]
    assert whole == [{"prompt": [{"role": "user", "content": "q, orr"}]}]
    assert open_rows(path).notes == ("the cells of `prompt` are read as JSON",)
    assert isinstance(found[1], Fault) and "Invalid control character" in found[1].what  # an end of line in a string
    faults = [fault.what for fault in found if isinstance(fault, Fault)]
    assert faults == [
        "in `prompt`, invalid JSON: Expecting value at character 1",
        "in `prompt`, invalid JSON: Invalid control character at character 38",
        "`prompt` is a list as Python prints it, not JSON",
        "3 cells, but the header has 2",
    ]


# ---- fuzzing ------------------------------------------------------------------------------------------------------

SCRAPS = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\n", b"\r\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9"),
    *(b"\\ud83d", b"\\u", b"1e999", b"-", b"NaN", b"Infinity", b"true", b"null", b"9" * 400, b'"data":', b"'", b";"),
    *(b'{"prompt": "q", "chosen": "a", "rejected": "b"}\n', b"prompt,chosen,rejected\n", b"[" * 300),
)
jumble = st.lists(st.sampled_from(SCRAPS) | st.binary(max_size=6), max_size=12).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of some kind: a good one with parts cut, doubled or replaced, or scraps."""
    name = draw(st.sampled_from(sorted(FILES)))
    data = draw(st.just(FILES[name]) | jumble) if draw(st.booleans()) else FILES[name]
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted(draw(st.integers(0, max(len(data), 1))) for _ in range(2))
        data = data[:start] + draw(jumble) + data[end if draw(st.booleans()) else start :]
    return name, data


def survives(folder: Path, name: str, data: bytes) -> None:
    """The file is read or refused in words, and no message is longer than a screen."""
    try:
        faults = [row for _, row in rows(written(folder, name, data)) if isinstance(row, Fault)]
        assert all(len(str(fault)) < 400 for fault in faults)
    except DataError as error:
        assert len(str(error)) < 2000


calm = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@given(file=damaged())
@settings(calm, max_examples=300)
def test_no_file_ends_in_a_traceback(tmp_path: Path, file: tuple[str, bytes]) -> None:
    survives(tmp_path, *file)


@pytest.mark.slow
@given(file=damaged())
@settings(calm, max_examples=6000)
def test_no_file_of_thousands_ends_in_a_traceback(tmp_path: Path, file: tuple[str, bytes]) -> None:
    survives(tmp_path, *file)


def test_columns_of_bytes_are_refused_unless_they_are_empty(tmp_path: Path) -> None:
    for value, refused in ((b"\x89PNG", True), (None, False)):
        table = pyarrow.table({"prompt": ["a"], "picture": pyarrow.array([value], pyarrow.binary())})
        parquet.write_table(table, tmp_path / "rows.parquet")
        if refused:
            with pytest.raises(DataError, match="the column `picture` holds bytes"):
                list(open_rows(tmp_path / "rows.parquet"))
        else:
            assert [row for _, row in open_rows(tmp_path / "rows.parquet")] == [{"prompt": "a", "picture": None}]
