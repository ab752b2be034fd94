"""The held-out examples of a run stay the same; those of runs from before `data.split_seed` are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from prefloop.core.errors import DataError
from prefloop.report.cells import columns
from prefloop.report.findings import findings
from prefloop.runs import experiment
from prefloop.runs.config import Config, load
from prefloop.runs.folder import read_manifest
from prefloop.runs.grid import finished
from run_folders import labelled

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = [w for w in tiny.WORDS if w.isalpha()]


def config(model: Path, out: Path, *more: str) -> Config:
    path = out / "pairs.jsonl"
    rows = [{"prompt": f"{a} {b}", "chosen": f"yes {a}", "rejected": f"no {b}"} for a in WORDS for b in WORDS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sizes = ["--training.steps=1", "--training.batch=4", "--training.minibatch=4", "--evaluation.greedy=0"]
    flags = [f"--model.path={model}", f"--output={out / 'runs'}", f"--data.train={path}", "--model.autocast=false"]
    return load(None, [*flags, *sizes, "--seed=1", *more])


def without_record(folder: Path) -> None:
    """As a run from before `data.split_seed` left it."""
    manifest = read_manifest(folder)
    del manifest["held_out"], manifest["seeds"]["split"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    kept = (line for line in (folder / "config.yaml").read_text().splitlines() if "split_seed" not in line)
    (folder / "config.yaml").write_text("\n".join(kept) + "\n")


def test_a_run_is_not_continued_on_other_held_out_examples(model: Path, tmp_path: Path) -> None:
    folder = experiment.run(config(model, tmp_path), quiet=True).folder
    recorded = read_manifest(folder)["held_out"]
    assert recorded["examples"] > 0 and len(recorded["digest"]) == 20
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("held_out_share: 0.2", "held_out_share: 0.5"))
    with pytest.raises(DataError, match="are others than the") as error:
        experiment.resume(folder, steps=2, quiet=True)
    assert str(folder) in error.value.where and "data" in error.value.fix
    (folder / "config.yaml").write_text(text)
    assert experiment.resume(folder, steps=2, quiet=True).folder == folder


def test_an_old_run_with_another_seed_is_not_continued_or_reused_silently(model: Path, tmp_path: Path) -> None:
    """Its split was drawn with its seed, that of today with data.split_seed."""
    one = config(model, tmp_path)
    folder = experiment.run(one, quiet=True).folder
    assert finished({"a": one}) == {"a": folder}
    without_record(folder)
    assert finished({"a": one}) == {}
    with pytest.raises(DataError, match=r"drawn with the seed 1; now data\.split_seed is 0") as error:
        experiment.resume(folder, steps=2, quiet=True)
    assert f"write `split_seed: 1` under `data` in {folder / 'config.yaml'}" in error.value.fix
    (said,) = [line for line in findings(columns([folder])) if "before data.split_seed" in line]
    assert folder.name in said and "(seed 1)" in said
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("  held_out: split", "  held_out: split\n  split_seed: 1"))
    assert not any("before data.split_seed" in line for line in findings(columns([folder])))


def supervised(root: Path, name: str, held_out: str, values: dict[str, Any]) -> Path:
    """A run of which the last evaluation has these values."""
    run = labelled(root, name, method="sft", right=[1.0], longer=[1.0])
    lines = [{"kind": "evaluation", "step": step, **values} for step in (0, 20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "pairs.jsonl").unlink()
    manifest = read_manifest(run) | {"held_out": {"examples": 80, "digest": held_out}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


SHOWN = {"eval/loss": 1.25, "eval/loss_se": 0.05, "eval/perplexity": 3.49, "eval/demonstrations": 80}
JUDGED = {"eval/labels/auc": 0.7, "eval/labels/count": 80, "eval/labels/longer": 0.5}
BOTH = {"eval/labels/accuracy/good": 0.75, "eval/labels/accuracy/bad": 0.5}


def test_losses_on_the_same_demonstrations_stand_side_by_side(tmp_path: Path) -> None:
    runs = [supervised(tmp_path, name, "same", SHOWN | {"eval/loss": x}) for name, x in (("a", 1.25), ("b", 1.5))]
    said = findings(columns(runs, labels=["a", "b"]))[-1]
    assert said.startswith("On the same 80 held-out demonstrations, loss in nats per token: A 1.25")
    assert "B 1.5" in said and "not tested" in said


def test_accuracies_by_label_stand_side_by_side(tmp_path: Path) -> None:
    runs = [supervised(tmp_path, name, "same", JUDGED | BOTH) for name in "ab"]
    said = findings(columns(runs, labels=["a", "b"]))[-1]
    assert said == (
        "On the same 80 held-out labels, share judged right of the good and of the bad ones: A 0.750 and 0.500,"
        " B 0.750 and 0.500 (side by side; not tested)."
    )


def test_other_held_out_examples_and_nothing_in_common_are_said(tmp_path: Path) -> None:
    a, b = supervised(tmp_path, "a", "these", SHOWN), supervised(tmp_path, "b", "those", SHOWN)
    said = findings(columns([a, b], labels=["a", "b"]))
    assert "B and A were evaluated on different held-out demonstrations, so they are not compared" in said[-1]
    assert not any("side by side" in line for line in said)
    c = supervised(tmp_path, "c", "these", JUDGED | BOTH)
    said = findings(columns([a, c], labels=["a", "c"]))
    assert said[-1] == "A shares no held-out measurement with B."
