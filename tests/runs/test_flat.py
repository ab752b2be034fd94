"""A training with nothing to learn from stops with the reason, and one that is too short for that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefloop.cli.main import main
from prefloop.runs.flat import Step, reason
from prefloop.runs.folder import read, runs
from prefloop.runs.progress import step_note

SOME = Step(1, 1.0, (0.0, 1.0), False)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(2, 0.0, (0.5, 0.5), True), "every response scored 0.5"),
        (Step(2, 0.7, (0.5, 0.5), False), "every response scored 0.5"),  # one response to a prompt, and noise
        (Step(2, 0.7, (0.0, 1.0), True), "alike"),
        (Step(2, 0.0), "gradient was exactly 0"),
    ],
)
def test_steps_teach_nothing_only_if_none_of_them_does(step: Step, words: str) -> None:
    found = reason([step, step])
    assert found is not None and words in found.what
    assert reason([step, SOME]) is None


def test_the_score_may_change_from_step_to_step_without_ties() -> None:
    assert reason([Step(1, 1.0, (0.0, 0.0)), Step(2, 1.0, (1.0, 1.0))]) is None
    assert reason([Step(1, 1.0, (0.0, 0.0), True), Step(2, 1.0, (1.0, 1.0), True)]) is not None


def flags(model: Path, output: Path, method: str, *more: str) -> list[str]:
    fixed = [
        "--sampling.max_new_tokens=6",
        "--evaluation.prompts=4",
        "--evaluation.max_cut=1",
        "--model.autocast=false",
    ]
    fixed += ["--training.batch=8", "--training.minibatch=8", "--training.steps=5", "--evaluation.greedy=0"]
    return ["train", f"--model.path={model}", f"--output={output}", f"--method={method}", *fixed, *more]


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "flat_rewards.py").write_text("def nothing(prompt, response):\n    return 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "--reward.name=flat_rewards:nothing"


@pytest.mark.parametrize("method", ["online_dpo", "rloo", "best_of_n", "reinforce"])
def test_a_constant_reward_stops_with_state_and_reason(
    model: Path, tmp_path: Path, nothing: str, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs"
    assert main(flags(model, output, method, nothing, "--training.stop_if_flat=3", "--quiet")) == 3
    err = capsys.readouterr().err
    (run,) = runs(output)
    assert "every response scored 0" in err and "steps 1 to 3" in err and "training.stop_if_flat=0" in err
    assert f"--resume {run}" in err and (run / "checkpoints" / "step-00000003").is_dir()
    assert len([line for line in read(run, "metrics") if line["kind"] == "step"]) == 3


def test_a_run_too_short_to_be_stopped_says_it_before_and_after(
    model: Path, tmp_path: Path, nothing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(model, tmp_path / "runs", "rloo", nothing, "--json")
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    before, after = result["notes"][-2:]
    assert before.startswith("all 4 answers of the untrained model score 0")
    assert after == "nothing was learnt in 5 steps: every response scored 0"
    manifest = json.loads((Path(result["run"]) / "manifest.json").read_text())
    assert before in manifest["notes"]


def test_zero_never_stops(model: Path, tmp_path: Path, nothing: str) -> None:
    assert main(flags(model, tmp_path, "rloo", nothing, "--training.stop_if_flat=0", "--quiet")) == 0


def test_a_step_on_given_pairs_shows_accuracy_and_margin_not_the_mean_of_its_labels() -> None:
    line = {"loss": 0.7, "reward": 0.5, "rewards/accuracies": 0.75, "rewards/margins": 0.0123}
    assert step_note(line, fresh=False) == "loss 0.7000  accuracy 0.750  margin 0.012"
    assert step_note(line, fresh=True) == "loss 0.7000  reward 0.500"
    plain = {"loss": 0.7, "reward": 0.5, "logps/chosen": -40.0, "logps/rejected": -41.25}
    assert step_note(plain, fresh=False) == "loss 0.7000  log-prob chosen − rejected 1.2"
    assert step_note({"loss": 0.7, "reward": 1.0}, fresh=False) == "loss 0.7000"
