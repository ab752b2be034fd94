"""Runs on a local Ray are those of this process; an error of one does not end the others; finished ones are reused."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from prefloop.core.errors import UserError
from prefloop.policies import pretrained
from prefloop.runs import config as configuration
from prefloop.runs.folder import runs
from prefloop.runs.grid import grid
from prefloop.scale import ray_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'prefloop[ray]'"
    ),
]


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, configuration.Config]:
    monkeypatch.chdir(tmp_path)
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), Path("model"), "a tiny model")
    rows = [{"prompt": f"a {i}", "chosen": "yes " * (i % 3 + 1), "rejected": "no no"} for i in range(16)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["--data.train=pairs.jsonl", "--data.held_out=split", "--model.path=model", "--model.autocast=false"]
    words += ["--training.steps=2", "--training.batch=4", "--training.minibatch=4", "--sampling.max_new_tokens=6"]
    return {name: configuration.load(None, [*words, f"--method={name}"]) for name in ("dpo", "simpo")}


def test_runs_on_ray_are_the_runs_of_this_process(cells: dict[str, configuration.Config]) -> None:
    said: list[str] = []
    made = ray_runs.grid(cells, "local", say=said.append)
    assert [line.partition(":")[0] for line in sorted(said)] == ["dpo", "simpo"]
    here = grid({label: replace(config, output="here") for label, config in cells.items()}, quiet=True)
    for label, folder in made.items():
        for name in ("metrics.jsonl", "samples.jsonl", "final/model.safetensors"):
            assert (folder / name).read_bytes() == (here[label] / name).read_bytes()
    before = runs("runs")
    assert ray_runs.grid(cells, "local", say=said.append) == made and runs("runs") == before


def test_an_error_of_one_run_comes_after_the_others(cells: dict[str, configuration.Config]) -> None:
    wrong = replace(cells["dpo"], model=replace(cells["dpo"].model, path="absent"))
    with pytest.raises(UserError, match="absent"):
        ray_runs.grid({"wrong": wrong, **cells}, "local", say=lambda _: None)
    assert len(runs("runs")) == 2
