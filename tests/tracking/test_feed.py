"""One run to one tracker: each line once and in order, however the run stops, goes on and is sent again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tracking.doubles import DOUBLES, Rows

import run_folders
from prefloop.core.errors import DataError, UserError
from prefloop.tracking import trackers
from prefloop.tracking.feed import Feed
from prefloop.tracking.record import Mark, Tail, described, parsed

Lines = list[bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return run_folders.make(tmp_path, "2026-01-05-dpo-abc123", steps=12, every=4)


def lines(folder: Path) -> Lines:
    return (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)


def put(folder: Path, some: Lines, torn: bytes = b"") -> None:
    (folder / "metrics.jsonl").write_bytes(b"".join(some) + torn)


def expected(some: Lines) -> Rows:
    return [(mark.step, values) for mark, values in map(parsed, map(json.loads, some))]


def send(folder: Path, to: str, **names: Any) -> int:
    feed = Feed(described(folder, **names), to)
    count = feed.send()
    feed.close(0)
    return count


def merged(rows: Rows) -> Rows:
    """MLflow has no rows: what it got for one step at one time is one."""
    out: Rows = []
    for step, values in rows:
        if out and out[-1][0] == step:
            out[-1] = (step, out[-1][1] | values)
        else:
            out.append((step, values))
    return out


def test_lines_of_a_growing_file_come_once_and_whole(folder: Path) -> None:
    whole, tail = lines(folder), Tail(folder / "metrics.jsonl")
    assert Tail(folder / "none.jsonl").new() == []
    put(folder, whole[:3], whole[3][:20])
    assert [line.mark.step for line in tail.new()] == [0, 1, 2]
    assert tail.new() == []
    put(folder, whole[:6])
    assert [line.mark for line in tail.new()] == [Mark(3, False), Mark(4, False), Mark(4, True)]


def test_only_numbers_are_metrics() -> None:
    line = parsed({"kind": "step", "step": 3, "loss": 1, "flag": True, "text": "a", "none": None, "list": [1.0]})
    assert line == (Mark(3, False), {"loss": 1.0})


def test_a_run_in_words(folder: Path) -> None:
    run = described(folder)
    assert (run.id, run.name, run.project) == ("2026-01-05-dpo-abc123", "2026-01-05-dpo-abc123", "prefloop")
    assert run.config["command"] == "prefloop train 'examples/two by two.yaml' --method dpo"
    assert run.config["override.negative"] == 1.0 and run.config["versions.torch"] == "2.13.0"
    (folder / "config.yaml").write_text("method: dpo\ntracking: {project: mine, name: first, to: [wandb]}\n")
    run = described(folder)
    assert (run.id, run.name, run.project) == ("2026-01-05-dpo-abc123", "first", "mine")
    assert "tracking.to" not in run.config and described(folder, "other", "second").name == "second"


@pytest.mark.parametrize("to", DOUBLES)
@pytest.mark.parametrize("stop", [1, 5, 6, 9, 15])
@pytest.mark.parametrize("back", [0, 1, 4])
def test_a_run_that_goes_on_from_an_earlier_step_has_each_line_once(
    folder: Path, to: str, stop: int, back: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, whole = DOUBLES[to](monkeypatch), lines(folder)
    put(folder, whole[:stop], whole[stop][:11])
    assert send(folder, to) == stop
    put(folder, whole[: max(0, stop - back)])
    assert send(folder, to) == 0
    put(folder, whole)
    assert send(folder, to) == len(whole) - stop and send(folder, to) == 0
    (rows,) = [rows for rows in double.rows.values() if rows]
    assert (merged(rows) == merged(expected(whole))) if to == "mlflow" else (rows == expected(whole))


@pytest.mark.parametrize("to", DOUBLES)
def test_a_longer_run_whose_last_evaluation_is_no_longer_in_its_records_lacks_no_step(
    folder: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, whole = DOUBLES[to](monkeypatch), lines(folder)
    put(folder, whole[:11])  # up to the evaluation at step 8
    send(folder, to)
    put(folder, whole[:10] + whole[11:])
    send(folder, to)
    (rows,) = [rows for rows in double.rows.values() if rows]
    assert merged(rows) == merged(expected(whole))


@pytest.mark.parametrize("to", ["trackio", "mlflow"])
def test_what_was_sent_but_not_noted_is_not_sent_twice(
    folder: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed between the two; W&B cannot say what it has."""
    double, note = DOUBLES[to](monkeypatch), folder / "tracking" / f"{to}.json"
    whole = lines(folder)
    put(folder, whole[:4])
    send(folder, to)
    before = note.read_text()
    put(folder, whole[:5])
    send(folder, to)
    note.write_text(before)
    put(folder, whole)
    send(folder, to)
    (rows,) = [rows for rows in double.rows.values() if rows]
    assert merged(rows) == merged(expected(whole))


@pytest.mark.parametrize("to", DOUBLES)
def test_another_project_is_another_place(folder: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    DOUBLES[to](monkeypatch)
    assert send(folder, to) == send(folder, to, project="other") == len(lines(folder))


def test_a_broken_note_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DOUBLES["wandb"](monkeypatch)
    send(folder, "wandb")
    (folder / "tracking" / "wandb.json").write_text("{")
    with pytest.raises(DataError, match="delete it"):
        send(folder, "wandb")


def test_wandb_is_offline_unless_the_user_says_otherwise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double = DOUBLES["wandb"](monkeypatch)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    monkeypatch.delenv("WANDB_ERROR_REPORTING", raising=False)
    assert "wandb sync" in trackers.adapter("wandb").look(described(folder))
    send(folder, "wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    assert send(folder, "wandb") == len(lines(folder))  # what is offline is not on the server
    offline, online = double.named("init")
    assert (offline["mode"], online["mode"]) == ("offline", "online")
    assert offline["id"] == online["id"] == folder.name and offline["dir"] == str(folder)
    assert {"name": "*", "step_metric": "step"} in double.named("define_metric")


def test_mlflow_has_a_local_database_and_the_outcome(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double = DOUBLES["mlflow"](monkeypatch)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for code in (0, 130, 4):
        feed = Feed(described(folder), "mlflow")
        feed.send()
        feed.close(code)
    assert {given["uri"] for given in double.named("client")} == {f"sqlite:///{folder.parent}/mlflow.db"}
    ends = [given["status"] for given in double.named("set_terminated")]
    assert ends == ["FINISHED", "RUNNING", "KILLED", "RUNNING", "FAILED"]
    assert double.config["m1"]["method"] == "dpo" and len(double.named("create_run")) == 1


def test_names_that_mlflow_refuses_are_rewritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double = DOUBLES["mlflow"](monkeypatch)
    put(folder, [b'{"kind":"evaluation","step":0,"eval/probe/na\xc3\xafve (x)+y":1.0}\n'])
    send(folder, "mlflow")
    assert double.rows["m1"] == [(0, {"eval/probe/naïve _x__y": 1.0})]


def test_unknown_and_absent_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean `wandb`") as unknown:
        trackers.check(["wandbb"])
    assert unknown.value.where == "tracking.to"
    with pytest.raises(UserError, match="named twice"):
        trackers.check(["wandb", "wandb"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    for name in trackers.PACKAGES:
        with pytest.raises(UserError) as absent:
            trackers.check([name])
        assert absent.value.fix == f"pip install 'prefloop[{name}]'"
