"""Whole runs with trackers: the same bytes as without, and each line once in the tracker."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tracking.doubles import DOUBLES, Double
from tests.tracking.test_feed import expected, lines

from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.core.loop import Loop, Record
from prefloop.core.processes import Alone
from prefloop.report.data import load, named
from prefloop.runs import config as configuration
from prefloop.runs import experiment, grid
from prefloop.runs.folder import read
from prefloop.runs.interrupt import Interrupted
from prefloop.tracking import trackers

pytestmark = pytest.mark.usefixtures("one_thread")


def config(model: Path, output: Path, *more: str) -> configuration.Config:
    words = [f"--model.path={model}", f"--output={output}", "--method=rloo", "--reward.name=length_min"]
    words += ["--sampling.max_new_tokens=10", "--evaluation.prompts=6", "--evaluation.max_cut=1", "--training.steps=4"]
    words += ["--training.batch=8", "--training.minibatch=8", "--model.autocast=false", "--evaluation.every=2"]
    return configuration.load(None, [*words, "--training.lr=1e-2", "--tracking.to=wandb", *more])


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    return DOUBLES["wandb"](monkeypatch)


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl", "final/model.safetensors")]


def test_a_tracked_run_is_the_same_run_and_is_told_whole(model: Path, tmp_path: Path, double: Double) -> None:
    tracked = experiment.run(config(model, tmp_path / "a"), quiet=True).folder
    plain = experiment.run(replace(config(model, tmp_path / "b"), tracking=configuration.TrackingConfig()), quiet=True)
    assert contents(tracked) == contents(plain.folder)
    assert double.rows[tracked.name] == expected(lines(tracked))
    assert double.config[tracked.name]["training.steps"] == 4 and double.named("finish") == [{"exit_code": 0}]
    assert not (plain.folder / "tracking").exists()


def stop(record: Record, loop: Loop) -> None:
    if record.step == 3:
        raise Interrupted(signal.SIGINT)


@pytest.mark.parametrize("killed", [False, True])
def test_a_resumed_run_goes_on_in_the_same_tracked_run(
    model: Path, tmp_path: Path, double: Double, killed: bool
) -> None:
    """A killed run has sent steps that come again: it has no checkpoint, and starts from its seed."""
    with pytest.raises(experiment.Stopped) as stopped:
        experiment.run(config(model, tmp_path), quiet=True, observers=[stop])
    folder = stopped.value.folder
    if killed:
        shutil.rmtree(folder / "checkpoints")
    experiment.resume(folder, quiet=True)
    assert list(double.rows) == [folder.name] and double.rows[folder.name] == expected(lines(folder))
    assert double.named("finish") == [{"exit_code": 130}, {"exit_code": 0}]
    experiment.resume(folder, steps=6, quiet=True)
    assert double.rows[folder.name] == expected(lines(folder)) and len(double.named("init")) == 3


def test_a_tracker_that_fails_leaves_the_run_as_it_is(
    model: Path, tmp_path: Path, double: Double, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = experiment.run(config(model, tmp_path / "a"), quiet=True).folder
    double.broken = True
    broken = experiment.run(config(model, tmp_path / "b")).folder
    assert contents(plain) == contents(broken)
    assert " ".join(capsys.readouterr().out.split()).count("tracking to wandb has stopped, not the run") == 1
    events = [event["to"] for event in read(broken, "events") if event["event"] == "tracking stopped"]
    assert events == ["wandb"]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package wandb") as absent:
        experiment.run(config(tmp_path / "no model", tmp_path), quiet=True)
    assert absent.value.fix == "pip install 'prefloop[wandb]'" and list(tmp_path.iterdir()) == []


def test_trackers_are_no_difference_between_runs(model: Path, tmp_path: Path, double: Double) -> None:
    first = config(model, tmp_path)
    done = grid.grid({"a": first}, quiet=True)["a"]
    other = replace(first, tracking=configuration.TrackingConfig(("wandb",), "another", "name"))
    assert grid.grid({"b": other}, quiet=True) == {"b": done}
    seeds = [grid.grid({"c": replace(other, seed=1)}, quiet=True)["c"], done]
    assert named(load(seeds)) == ["seed 1", "seed 0"]


def test_trackers_may_be_changed_when_a_run_is_resumed(model: Path, tmp_path: Path, double: Double) -> None:
    with pytest.raises(experiment.Stopped) as stopped:
        experiment.run(config(model, tmp_path, "--tracking.to="), quiet=True, observers=[stop])
    folder = stopped.value.folder
    assert main(["train", "--resume", str(folder), "--tracking.to", "wandb", "--tracking.name", "mine", "-q"]) == 0
    assert double.rows[folder.name] == expected(lines(folder)) and double.named("init")[0]["name"] == "mine"


def test_only_the_first_of_several_processes_tracks(model: Path, tmp_path: Path, double: Double) -> None:
    second = Alone(rank=1)
    experiment.run(config(model, tmp_path), quiet=True, processes=second)
    assert double.calls == []
