"""`prefloop track`: finished runs to a tracker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tracking.doubles import DOUBLES, Double
from tests.tracking.test_feed import expected, lines

import run_folders
from prefloop.cli.main import execute, main
from prefloop.core.errors import DataError, UserError
from prefloop.runs.folder import RunFolder
from prefloop.tracking import trackers


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    DOUBLES["trackio"](monkeypatch)
    return DOUBLES["wandb"](monkeypatch)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [run_folders.make(tmp_path, name, steps=12, every=4) for name in ("first", "second")]


def test_runs_are_sent_once(two: list[Path], double: Double, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["track", *map(str, two), "--to", "wandb,trackio"]
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("16 lines") == 4 and "wandb sync" in shown and "trackio show" in shown
    assert main([*words, "--json"]) == 0
    assert [sent["lines"] for sent in json.loads(capsys.readouterr().out)] == [0] * 4
    assert all(double.rows[path.name] == expected(lines(path)) for path in two)


def test_names_of_project_and_run(two: list[Path], double: Double) -> None:
    assert main(["track", str(two[0]), "--to", "wandb", "--project", "p", "--name", "n", "-q"]) == 0
    (begun,) = double.named("init")
    assert (begun["project"], begun["name"], begun["id"]) == ("p", "n", "first")
    with pytest.raises(UserError, match="one name for several runs"):
        execute(["track", *map(str, two), "--to", "wandb", "--name", "n"])


def test_a_failure_is_an_error_and_the_rest_follows(two: list[Path], double: Double) -> None:
    double.broken = True
    with pytest.raises(DataError, match="wandb failed: OSError") as failed:
        execute(["track", str(two[0]), "--to", "wandb"])
    assert failed.value.exit_code == 3
    double.broken = False
    assert main(["track", str(two[0]), "--to", "wandb", "-q"]) == 0
    assert double.rows["first"] == expected(lines(two[0]))


def test_what_is_refused(two: list[Path], double: Double, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--to is missing"):
        execute(["track", str(two[0])])
    with pytest.raises(UserError, match="not a run folder"):
        execute(["track", str(tmp_path), "--to", "wandb"])
    with pytest.raises(UserError, match="did you mean `wandb`"):
        execute(["track", str(two[0]), "--to", "wandbs"])
    with RunFolder.open(two[0]), pytest.raises(UserError, match="is using this run"):
        execute(["track", str(two[0]), "--to", "wandb"])
    assert double.calls == []
