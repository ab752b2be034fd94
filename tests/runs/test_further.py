"""A finished run is trained further: the bytes of a run that was as long at once, or a refusal that says what to do."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.core.loop import Loop, Record
from prefloop.runs import checkpoint, experiment, records
from prefloop.runs import config as configuration
from prefloop.runs.folder import read
from prefloop.runs.interrupt import Interrupted

ROWS = {
    "online_dpo": ["--override.reuse=2", "--training.batch=8", "--training.minibatch=4"],
    "rloo": ["--training.batch=8", "--training.minibatch=8", "--override.kl=0.1"],
    "rwr": ["--override.on_policy=0.5", "--training.batch=16", "--training.minibatch=8"],
    "ppo": ["--training.batch=8", "--training.minibatch=8", "--training.weight_decay=0.1", "--training.warmup=2"],
}


def flags(model: Path, output: Path, method: str, *more: str) -> list[str]:
    fixed = ["--sampling.max_new_tokens=6", "--evaluation.prompts=4", "--evaluation.max_cut=1", *ROWS[method]]
    fixed += [
        "--reward.name=length_min",
        "--training.lr=1e-2",
        "--model.autocast=false",
        "--evaluation.every=2",
        "--evaluation.greedy=2",
    ]
    return [f"--model.path={model}", f"--output={output}", f"--method={method}", *fixed, *more]


def start(model: Path, output: Path, method: str, *more: str) -> Path:
    return experiment.run(configuration.load(None, flags(model, output, method, *more)), quiet=True).folder


def contents(run: Path) -> dict[str, bytes]:
    names = ("config.yaml", "metrics.jsonl", "samples.jsonl", "final/model.safetensors", "final/README.md")
    return {name: (run / name).read_bytes() for name in names}


def further(run: Path, steps: int) -> Path:
    return experiment.resume(run, steps=steps, quiet=True).folder


@pytest.mark.parametrize("method", [method for method in ROWS if method != "rwr"])
def test_a_run_that_is_trained_further_has_the_bytes_of_one_that_was_as_long_at_once(
    model: Path, tmp_path: Path, method: str
) -> None:
    at_once = contents(start(model, tmp_path, method, "--training.steps=7"))
    run = start(model, tmp_path, method, "--training.steps=3")
    short = (run / "final" / "model.safetensors").read_bytes()
    assert contents(further(run, 7)) == at_once
    assert (run / "final-step-3" / "model.safetensors").read_bytes() == short != at_once["final/model.safetensors"]
    kinds = [line["event"] for line in read(run, "events")]
    assert kinds == ["lengthened", "resume"]
    with pytest.raises(UserError, match="this run is finished") as caught:
        experiment.resume(run, quiet=True)
    assert "--training.steps N" in caught.value.fix


def test_an_interrupted_run_becomes_longer_too_and_may_be_interrupted_again(model: Path, tmp_path: Path) -> None:
    def stop(record: Record, loop: Loop) -> None:
        if record.step in (2, 4):
            raise Interrupted(signal.SIGINT)

    at_once = contents(start(model, tmp_path, "online_dpo", "--training.steps=7"))
    config = configuration.load(None, flags(model, tmp_path, "online_dpo", "--training.steps=3"))
    with pytest.raises(experiment.Stopped) as first:
        experiment.run(config, quiet=True, observers=[stop])
    run = first.value.folder
    with pytest.raises(experiment.Stopped):
        experiment.resume(run, steps=7, quiet=True, observers=[stop])
    experiment.resume(run, quiet=True)
    assert contents(run) == at_once


def test_a_periodic_checkpoint_is_enough(model: Path, tmp_path: Path) -> None:
    more = ["--save.state=false", "--save.every=2"]
    at_once = start(model, tmp_path, "online_dpo", "--training.steps=7", *more)
    run = start(model, tmp_path, "online_dpo", "--training.steps=3", *more)
    assert contents(further(run, 7)) == contents(at_once)


def test_an_evaluation_becomes_a_run(model: Path, tmp_path: Path) -> None:
    run = start(model, tmp_path, "online_dpo", "--training.steps=0")
    assert contents(further(run, 3)) == contents(start(model, tmp_path, "online_dpo", "--training.steps=3"))


@pytest.mark.parametrize(
    ("more", "steps", "what", "fix"),
    [
        ([], 2, "a run of 3 steps cannot become one of 2", "start a new run"),
        (["--training.schedule=linear"], 6, "first 3 steps of a run of 6 have other learning rates", "start a new run"),
        (["--save.state=false"], 6, "the state of the optimiser was not kept", "--model.path"),
        (["--save.final=false"], 6, "the state of the optimiser was not kept", "(the same result)"),
    ],
)
def test_what_cannot_be_trained_further_stays_as_it_is(
    model: Path, tmp_path: Path, more: list[str], steps: int, what: str, fix: str
) -> None:
    run = start(model, tmp_path, "online_dpo", "--training.steps=3", *more)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        further(run, steps)
    assert what in caught.value.what and fix in caught.value.fix
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_offline_responses_of_the_reference_are_drawn_for_the_whole_run(model: Path, tmp_path: Path) -> None:
    run = start(model, tmp_path, "rwr", "--training.steps=2")  # one collection
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(UserError, match="trains on 4 groups of offline responses instead of 2") as caught:
        further(run, 3)
    assert "start a new run" in caught.value.fix and (run / "config.yaml").read_bytes() == before
    assert (run / "final").exists()
    begun = start(model, tmp_path, "rwr", "--training.steps=1")
    assert contents(further(begun, 2)) == contents(run)


def test_only_the_number_of_steps_may_change_on_the_command_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(model, tmp_path, "online_dpo", "--training.steps=3")
    for more in (["--training.lr=1"], ["--training.steps=4", "--seed=1"], ["--training.epochs=2"]):
        assert main(["train", "--resume", str(run), *more]) == 2
        assert "keeps its configuration" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--training.steps", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == str(run)
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(run / "checkpoints")] == [4]


def test_own_code_that_has_changed_since_the_start_is_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "sources", lambda config: {"mine:reward": "before"})
        run = start(model, tmp_path, "online_dpo", "--training.steps=1")
        patch.setattr(records, "sources", lambda config: {"mine:reward": "after"})
        assert main(["train", "--resume", str(run), "--training.steps=2", "--json"]) == 0
    (note,) = [note for note in json.loads(capsys.readouterr().out)["notes"] if "mine:reward" in note]
    assert "`mine:reward` has changed since the run was started" in note
    assert read(run, "events")[-1]["notes"] == [note]


def test_a_run_stands_for_its_final_model(model: Path, tmp_path: Path) -> None:
    first = start(model, tmp_path, "online_dpo", "--training.steps=2")
    second, third = (start(path, tmp_path, "online_dpo", "--training.steps=2") for path in (first, first / "final"))
    names = ("metrics.jsonl", "samples.jsonl", "final/model.safetensors")
    assert all((second / name).read_bytes() == (third / name).read_bytes() for name in names)
    unsaved = start(model, tmp_path, "online_dpo", "--training.steps=1", "--save.final=false")
    with pytest.raises(UserError, match="this run has no final model") as caught:
        start(unsaved, tmp_path, "online_dpo", "--training.steps=1")
    assert "--resume" in caught.value.fix
