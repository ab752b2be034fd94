"""What a run says before its first step: how long it will take, and what it will be evaluated on."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

import tiny
from prefloop.cli.main import main
from prefloop.runs import experiment, start
from prefloop.runs import speed as speed_module
from prefloop.runs.config import Config, load
from prefloop.runs.progress import Progress
from prefloop.runs.speed import expected, quick, seconds
from prefloop.runs.world import resolved

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = [w for w in tiny.WORDS if w.isalpha()]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"prompt": f"{a} {b}", "chosen": f"yes {a}", "rejected": f"no {b} c"} for a in WORDS for b in WORDS]
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(model: Path, out: Path, *more: str) -> Config:
    sizes = ["--training.steps=6", "--training.batch=8", "--training.minibatch=8", "--sampling.max_new_tokens=8"]
    flags = [f"--model.path={model}", f"--output={out}", "--model.autocast=false", "--evaluation.max_cut=1"]
    return load(None, [*flags, *sizes, *more])


REWARD = ("--method=online_dpo", "--reward.name=length_min")


@pytest.mark.parametrize("kind", ["labels", "reward"])
def test_the_time_of_a_long_run_is_said_before_the_reference_is_evaluated(
    model: Path, tmp_path: Path, pairs: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = config(model, tmp_path, *(REWARD if kind == "reward" else (f"--data.train={pairs}",)))
    said: list[str] = []
    monkeypatch.setattr(start, "LONG", math.inf)  # a short run needs no forecast
    experiment.prepare([one], say=said.append, forecast=True)
    assert not any("in all" in line for line in said)
    monkeypatch.setattr(start, "LONG", 0.0)
    said.clear()
    experiment.prepare([one], say=said.append, forecast=True)
    when = next(i for i, line in enumerate(said) if line.startswith("about ") and " in all" in line)
    assert when < said.index("evaluating the untrained model on held-out data")
    said.clear()
    experiment.prepare([one], say=said.append)
    assert not any("in all" in line for line in said)


def test_the_prediction_is_of_the_steps_that_are_left(model: Path, tmp_path: Path, pairs: Path) -> None:
    one = resolved(config(model, tmp_path, f"--data.train={pairs}", "--training.steps=4000", "--evaluation.greedy=0"))
    world = experiment.prepare([one], say=lambda _: None).world
    speed = quick(one, world)
    assert speed.training > 0 and speed.forward > 0 and speed.opening == 0
    whole, half = seconds(one, speed), expected(one, world, done=3000)
    assert 0 < half < whole  # a quarter of the steps, timed again on a machine with other work


def test_prompts_are_read_once_however_long_answers_are(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five seconds for answers of 8 tokens to 4 prompts, two of which read the prompts and write the first token."""
    monkeypatch.setattr(speed_module, "QUICK", {"prompts": 4, "tokens": 8, "groups": 2})
    long = resolved(config(model, tmp_path, *REWARD, "--sampling.max_new_tokens=31"))
    world, took = experiment.prepare([long], say=lambda _: None).world, iter((5.0, 2.0, 1.0, 1.0))
    timed = speed_module._timed
    monkeypatch.setattr(speed_module, "_timed", lambda work, device: (next(took), timed(work, device)[1]))
    assert quick(long, world).sampling == pytest.approx((2.0 + 30 * (5.0 - 2.0) / 7) / 4)


def test_a_resumed_run_counts_its_own_steps_only() -> None:
    now = 0.0
    console = Console(file=io.StringIO(), force_terminal=False)
    with Progress(100, "dpo", done=50, console=console, clock=lambda: now) as bar:
        assert bar.seconds_left() is None
        now = 10.0
        bar.advance()
        assert bar.seconds_left() == pytest.approx(490.0)


def test_train_says_what_it_opens_before_anything_heavy_is_loaded(
    model: Path, tmp_path: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--model.path={model}", f"--output={tmp_path}", f"--data.train={pairs}", "--training.steps=1"]
    flags += ["--training.batch=8", "--training.minibatch=8", "--evaluation.greedy=0"]
    assert main(["train", *flags]) == 0
    assert " ".join(capsys.readouterr().out.split()).startswith(f"opening {model} and {pairs} ")


def test_runs_on_labels_are_evaluated_on_a_share_of_their_file(model: Path, tmp_path: Path, pairs: Path) -> None:
    """The built-in prompts have no labels: nothing would be measured."""
    said: list[str] = []
    begun = experiment.prepare([config(model, tmp_path, f"--data.train={pairs}")], say=said.append)
    assert begun.world.data.options.held_out == "split" and "eval/rewards/accuracies" in begun.baseline.metrics
    held, whole = len(begun.world.data.held_out), len(WORDS) ** 2
    assert f"{pairs}: {held} of {whole} examples are held out (data.held_out=split)" in said


def test_fresh_answers_to_other_prompts_than_those_of_the_file_are_said(
    model: Path, tmp_path: Path, pairs: Path
) -> None:
    said: list[str] = []
    one = config(model, tmp_path, f"--data.train={pairs}", *REWARD, "--evaluation.prompts=2", "--evaluation.greedy=0")
    begun = experiment.prepare([one], say=said.append)
    assert begun.world.data.options.held_out == "builtin"
    assert any("built-in held-out prompts, not prompts of" in line and "held_out=split" in line for line in said)
