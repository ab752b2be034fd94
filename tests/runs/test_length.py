"""The length of a run: epochs, a share of warm-up and the default of evaluations as steps; a run of no step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from prefloop.cli.main import main
from prefloop.core.methods import METHODS
from prefloop.runs import config as configuration
from prefloop.runs import experiment
from prefloop.runs.config import Config, EvaluationConfig, TrainingConfig
from prefloop.runs.folder import read, read_manifest
from prefloop.runs.length import notes_on_length, with_steps

WORDS = [w for w in tiny.WORDS if w.isalpha()]


def training(**changes: object) -> Config:
    return Config(training=TrainingConfig(batch=8, minibatch=8, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "epochs", "prompts", "steps"),
    [
        (METHODS["dpo"], 1.0, 40, 10),  # 4 pairs a step
        (METHODS["dpo"], 1.0, 41, 11),  # the last step begins the next epoch
        (METHODS["dpo"], 2.5, 40, 25),
        (METHODS["dpo"], 0.01, 40, 1),
        (METHODS["dpo"].override(reuse=3), 1.0, 40, 30),
        (METHODS["rloo"], 1.0, 40, 20),  # 2 prompts a step, 4 answers each
        (METHODS["sft"], 3.0, 16, 6),
    ],
)
def test_an_epoch_collects_every_prompt_once(method: object, epochs: float, prompts: int, steps: int) -> None:
    given = training(epochs=epochs)
    sized = with_steps(given, method, prompts)  # type: ignore[arg-type]
    assert (sized.training.steps, sized.training.epochs) == (steps, None)
    assert with_steps(sized, method, 7) == sized  # type: ignore[arg-type]
    (note,) = notes_on_length(given, method, prompts)  # type: ignore[arg-type]
    assert f"{prompts} training prompts = {steps} steps" in note


@pytest.mark.parametrize(
    ("warmup", "steps", "want", "note"),
    [
        (0.1, 50, 5, ""),
        (0.999, 10, 10, ""),
        (10.0, 50, 10, ""),
        (1.0, 50, 1, ""),
        (0.0, 50, 0, ""),
        (10.0, 10, 10, ""),
        (
            10.0,
            4,
            10,
            "the warm-up of 10 steps is longer than the run: the learning rate reaches only 40% of training.lr",
        ),
        (10.0, 0, 10, ""),
    ],
)
def test_a_warm_up_is_steps_or_a_share_of_them(warmup: float, steps: int, want: int, note: str) -> None:
    given = training(warmup=warmup, steps=steps)
    assert with_steps(given, METHODS["dpo"], 1).training.warmup == want
    assert notes_on_length(given, METHODS["dpo"], 1) == ((note,) if note else ())


@pytest.mark.parametrize(
    ("steps", "every", "want"), [(100, None, 25), (6, None, 2), (1, None, 1), (0, None, 1), (100, 0, 0), (100, 7, 7)]
)
def test_by_default_a_quarter_of_the_steps_is_between_two_evaluations(steps: int, every: int | None, want: int) -> None:
    given = Config(training=TrainingConfig(steps=steps), evaluation=EvaluationConfig(every=every))
    assert with_steps(given, METHODS["dpo"], 1).evaluation.every == want


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [{"prompt": f"{a} {b}", "chosen": WORDS[0], "rejected": WORDS[1]} for a in WORDS for b in WORDS]
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def flags(model: Path, output: Path, pairs: Path, *more: str) -> list[str]:
    fixed = ["--method=dpo", "--reward.name=labels", "--data.held_out=split", f"--data.train={pairs}"]
    fixed += ["--training.batch=8", "--training.minibatch=8", "--training.lr=1e-2", "--model.autocast=false"]
    fixed += ["--sampling.max_new_tokens=6", "--evaluation.max_cut=1"]
    return [f"--model.path={model}", f"--output={output}", *fixed, *more]


def start(model: Path, output: Path, pairs: Path, *more: str) -> experiment.Result:
    return experiment.run(configuration.load(None, flags(model, output, pairs, *more)), quiet=True)


def contents(run: Path) -> dict[str, bytes]:
    names = ("config.yaml", "metrics.jsonl", "samples.jsonl", "final/model.safetensors")
    return {name: (run / name).read_bytes() for name in names}


def evaluations(run: Path) -> list[int]:
    return [line["step"] for line in read(run, "metrics") if line["kind"] == "evaluation"]


def test_epochs_give_the_bytes_of_their_steps(model: Path, tmp_path: Path, pairs: Path) -> None:
    shape = "--training.schedule=cosine"
    epochs = start(model, tmp_path, pairs, "--training.epochs=0.5", "--training.warmup=0.25", shape)
    (note,) = [note for note in read_manifest(epochs.folder)["notes"] if "epochs" in note]
    steps = int(note.split(" = ")[1].split()[0])
    assert note in epochs.notes and steps > 4 and evaluations(epochs.folder)[-1] == steps
    length = [f"--training.steps={steps}", f"--training.warmup={round(steps / 4)}", shape]
    assert contents(start(model, tmp_path, pairs, *length).folder) == contents(epochs.folder)
    rates = [line["learning_rate"] for line in read(epochs.folder, "metrics") if line["kind"] == "step"]
    assert max(rates) == 1e-2 and rates[0] < 1e-2 and rates[-1] < 1e-3


def test_about_five_evaluations_by_default(model: Path, tmp_path: Path, pairs: Path) -> None:
    run = start(model, tmp_path, pairs, "--training.steps=8").folder
    assert evaluations(run) == [0, 2, 4, 6, 8]
    assert configuration.load(run / "config.yaml").evaluation.every == 2


def test_no_step_evaluates_only(model: Path, tmp_path: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *flags(model, tmp_path, pairs, "--training.steps=0", "--json")]) == 0
    result = json.loads(capsys.readouterr().out)
    run = Path(result["run"])
    assert result["before"] == result["after"] and "eval/rewards/accuracies" in result["after"]
    assert evaluations(run) == [0] and not (run / "final").exists() and not (run / "checkpoints").exists()
    assert experiment.is_finished(run, configuration.load(run / "config.yaml"))
    assert main(["report", str(run), "--quiet"]) == 0


def test_seeds_share_the_held_out_examples(model: Path, tmp_path: Path, pairs: Path) -> None:
    questions = []
    for seeds in (["--seed=0"], ["--seed=1"], ["--seed=1", "--data.split_seed=1"]):
        run = start(model, tmp_path, pairs, "--training.steps=0", *seeds).folder
        questions.append(sorted(line["question"] for line in read(run, "pairs")))
    assert questions[0] == questions[1] != questions[2]
