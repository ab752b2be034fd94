"""The best model by a metric is kept, patience ends a run, and both survive interruptions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.runs import config as configuration
from prefloop.runs import experiment
from prefloop.runs.best import Best, best_of, is_over, stopped_early
from prefloop.runs.config import Config, EvaluationConfig
from prefloop.runs.folder import read

pytestmark = pytest.mark.usefixtures("one_thread")


def kept(metric: str, patience: int | None = None) -> Config:
    return Config(evaluation=EvaluationConfig(keep_best=metric, patience=patience))


def lines(metric: str, values: Sequence[float]) -> list[dict[str, Any]]:
    evaluations = [{"kind": "evaluation", "step": 2 * i, f"eval/{metric}": value} for i, value in enumerate(values)]
    return [*evaluations, {"kind": "step", "step": 1}]


@pytest.mark.parametrize(
    ("metric", "values", "want"),
    [
        ("reward", [1.0, 3.0, 2.0, 3.0], Best("reward", 2, 3.0, 2)),
        ("loss", [1.0, 3.0, 0.5, 0.7], Best("loss", 4, 0.5, 1)),
        ("rewards/accuracies", [0.5, 0.5, 0.5], Best("rewards/accuracies", 0, 0.5, 2)),
        ("perplexity", [9.0, 8.0, 7.0], Best("perplexity", 4, 7.0, 0)),
        ("reward", [], None),
    ],
)
def test_the_best_is_the_first_of_equal_ones_and_the_untrained_model_counts(
    metric: str, values: Sequence[float], want: Best | None
) -> None:
    assert best_of(lines(metric, values), metric) == want
    assert best_of(lines(metric, values), None) is None


def test_patience_counts_evaluations_without_a_better_one() -> None:
    best, config = Best("reward", 2, 3.0, 2), kept("reward", 2)
    assert is_over(best, config) and not is_over(best, kept("reward", 3)) and not is_over(best, kept("reward"))
    assert not is_over(None, config)
    want = "stopped after step 6 of 100: 2 evaluations without a better `reward` than 3 of step 2"
    assert stopped_early(best, 6, config) == want
    assert stopped_early(best, 100, config) == stopped_early(best, 6, kept("reward", 3)) == ""
    assert "of the untrained model" in stopped_early(replace(best, step=0), 6, config)


@pytest.mark.parametrize(
    ("evaluation", "what", "fix"),
    [
        ({"keep_best": "rewrd"}, "`evaluation.keep_best` cannot be 'rewrd'", "did you mean `reward`"),
        ({"keep_best": "length"}, "`evaluation.keep_best` cannot be 'length'", ""),
        ({"patience": 2}, "`evaluation.patience` cannot be 2", "name a metric"),
        ({"patience": 0, "keep_best": "reward"}, "`evaluation.patience` cannot be 0", "above 0"),
        ({"patience": 2, "keep_best": "reward", "every": 0}, "`evaluation.patience` cannot be 2", "during training"),
    ],
)
def test_mistakes(evaluation: dict[str, Any], what: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        EvaluationConfig(**evaluation)
    assert what in caught.value.what and fix in caught.value.fix


def flags(model: Path, output: Path, *more: str) -> list[str]:
    fixed = ["--method=online_dpo", "--reward.name=length_min", "--sampling.max_new_tokens=6", "--evaluation.prompts=4"]
    fixed += ["--evaluation.max_cut=1", "--evaluation.every=1", "--evaluation.greedy=2", "--training.batch=8"]
    fixed += ["--training.minibatch=8", "--training.lr=1e-2", "--model.autocast=false", "--save.state=false"]
    return [f"--model.path={model}", f"--output={output}", *fixed, *more]


@contextmanager
def rewards(values: Sequence[float]) -> Iterator[None]:
    """The held-out reward after each step."""
    original = experiment.evaluate

    def scripted(*args: Any, **how: Any) -> experiment.Evaluation:
        done = original(*args, **how)
        at = values[scripted.calls % len(values)]  # type: ignore[attr-defined]
        scripted.calls += 1  # type: ignore[attr-defined]
        return replace(done, metrics={**done.metrics, "eval/reward": at})

    scripted.calls = 0  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "evaluate", scripted)
        yield


def start(model: Path, output: Path, *more: str) -> experiment.Result:
    return experiment.run(configuration.load(None, flags(model, output, *more)), quiet=True)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_best_model_is_that_of_its_step_and_the_final_one_that_of_the_last(model: Path, tmp_path: Path) -> None:
    with rewards([10.0, 30.0, 20.0]):
        result = start(model, tmp_path, "--training.steps=3", "--evaluation.keep_best=reward")
    assert result.best == Best("reward", 2, 30.0, 1)
    short, long = (start(model, tmp_path, f"--training.steps={n}").folder / "final" for n in (2, 3))
    assert weights(result.folder / "best") == weights(short) != weights(result.folder / "final") == weights(long)
    assert "best of the run by `reward`: 30 at step 2" in (result.folder / "best" / "README.md").read_text("utf-8")
    assert not list(result.folder.glob(".tmp-*"))
    assert main(["report", str(result.folder), "--quiet"]) == 0
    (page,) = result.folder.glob("*.html")
    assert "Best evaluation" in page.read_text("utf-8") and "reward 30 at step 2" in page.read_text("utf-8")


def test_no_better_model_than_the_untrained_one_is_said_and_none_is_kept(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rewards([-1e9]):
        words = flags(model, tmp_path, "--training.steps=2", "--evaluation.keep_best=reward")
        assert main(["train", *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["best"]["step"], result["best"]["model"]) == (0, None)
    assert not (Path(result["run"]) / "best").exists()


PATIENT = ["--training.steps=9", "--evaluation.keep_best=reward", "--evaluation.patience=2"]


def contents(run: Path) -> dict[str, bytes]:
    names = ("metrics.jsonl", "samples.jsonl", "best/model.safetensors", "final/model.safetensors", "final/README.md")
    return {name: (run / name).read_bytes() for name in names}


def test_patience_ends_a_run_which_is_then_finished(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rewards([10.0, 30.0, 20.0, 30.0]):
        assert main(["train", *flags(model, tmp_path, *PATIENT, "--json")]) == 0
    result = json.loads(capsys.readouterr().out)
    run = Path(result["run"])
    assert result["best"] == {"metric": "reward", "value": 30.0, "step": 2, "model": str(run / "best")}
    assert "stopped after step 4 of 9: 2 evaluations without a better `reward` than 30 of step 2" in result["notes"]
    assert [line["step"] for line in read(run, "metrics") if line["kind"] == "step"] == [1, 2, 3, 4]
    assert {line["step"] for line in read(run, "samples") if line.get("greedy")} == {0, 4}
    assert read(run, "events")[-1]["event"] == "stopped early"
    for steps, what in ((None, "this run is finished"), (12, "this run has ended by evaluation.patience")):
        with pytest.raises(UserError, match=what):
            experiment.resume(run, steps=steps, quiet=True)


@pytest.mark.parametrize("place", ["save_best", "save_final"])
def test_a_fault_while_a_model_is_saved_loses_nothing(model: Path, tmp_path: Path, place: str) -> None:
    values = [10.0, 30.0, 20.0, 30.0]
    with rewards(values):
        whole = contents(start(model, tmp_path / "whole", *PATIENT).folder)
    original, calls = getattr(experiment, place), 0

    def fails(*args: Any, **how: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == (2 if place == "save_best" else 1):
            raise MemoryError
        original(*args, **how)

    with rewards(values), pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(experiment, place, fails)
        start(model, tmp_path / "fault", *PATIENT)
    (run,) = (tmp_path / "fault").iterdir()
    with rewards(values[1:]):  # from the second evaluation on
        experiment.resume(run, quiet=True)
    assert contents(run) == whole


def test_a_metric_that_the_evaluations_lack_is_refused_before_the_first_step(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not measure `rewards/accuracies`") as caught:
        start(model, tmp_path / "runs", "--evaluation.keep_best=rewards/accuracies")
    assert "they measure reward, " in caught.value.fix and not (tmp_path / "runs").exists()
