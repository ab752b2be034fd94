"""`prefloop train` with lists: planned, trained as run folders, reused, and compared over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
import torch

import tiny
from prefloop.analysis.compare import difference
from prefloop.analysis.diagnose import Diagnosis
from prefloop.cli import train_grid
from prefloop.cli.main import main
from prefloop.cli.train import _table
from prefloop.policies import pretrained
from prefloop.runs.experiment import Result
from prefloop.runs.folder import runs


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that trains two methods over two seeds."""
    monkeypatch.chdir(tmp_path)
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), tmp_path / "model", "a tiny model")
    rows = [{"prompt": f"a {i}", "chosen": "yes " * (i % 3 + 1), "rejected": "no no"} for i in range(24)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flags = {
        "method": "dpo,simpo",
        "seed": "0,1",
        "data.train": "pairs.jsonl",
        "data.held_out": "split",
        "model.path": "model",
        "model.autocast": "false",
        "training.steps": "2",
        "training.lr": "0.05",
        "training.batch": "4",
        "training.minibatch": "4",
        "sampling.max_new_tokens": "6",
    }
    return ["train", *(f"--{key}={value}" for key, value in flags.items())]


def test_a_grid_is_planned_trained_reused_and_compared(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["runs"] == ["dpo, seed 0", "dpo, seed 1", "simpo, seed 0", "simpo, seed 1"] and plan["seconds"] > 0
    assert not Path("runs").exists()
    assert main([*words, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    made = runs("runs")
    assert len(made) == 4 and ["dpo" in first["cells"][0]["cell"], "simpo" in first["cells"][1]["cell"]] == [True, True]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first and runs("runs") == made
    for cell in first["cells"]:
        values = [_last(Path(run))["eval/rewards/margins"] for run in cell["runs"]]
        over = difference(values, unit="seeds")  # Student's t, which is honest about two seeds
        after = cell["after"]
        assert after["eval/rewards/margins"] == pytest.approx(fmean(values))
        assert after["eval/rewards/margins_low"] == pytest.approx(over.low)
    assert first["findings"]


def _last(run: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "evaluation"][-1]


def test_the_table_fits_80_columns(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "about" in text and "held-out, after training" in text and "prefloop report runs/*/" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_names_of_cells() -> None:
    trees = [{"method": "dpo", "override": {"beta": b}, "seed": s, "output": "x"} for b in (0.1, None) for s in (0, 1)]
    assert train_grid.labels(trees) == [
        "beta 0.1, seed 0",
        "beta 0.1, seed 1",
        "beta null, seed 0",
        "beta null, seed 1",
    ]
    assert train_grid.labels([{"method": "dpo"}]) == [""]


def test_held_out_numbers_take_one_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("prefloop.cli.train._findings", lambda result: ["What it says."])
    monkeypatch.setattr("prefloop.cli.train._diagnosis", lambda result: Diagnosis("one", None, ()))
    after = {"eval/pairs": 40.0, "eval/questions": 38.0, "eval/rewards/accuracies": 0.625}
    after |= {
        "eval/rewards/accuracies_low": 0.476,
        "eval/rewards/accuracies_high": 0.754,
        "eval/rewards/margins": -0.04,
    }
    _table(Result(Path("runs/one"), dict.fromkeys(after, 0.5), after, 1.0, "", ()))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["held-out", "rewards/accuracies", "rewards/margins"]
    assert lines[1].rstrip().endswith("0.625 [0.476, 0.754]") and lines[3] == "on 40 pairs, 38 questions"
    assert all(len(line) <= 80 for line in lines)
