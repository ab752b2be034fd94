"""Several runs as one comparison: the bytes of single runs, nothing computed twice, every run resumable."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.core.loop import Loop, Record
from prefloop.policies import pretrained
from prefloop.runs import config as configuration
from prefloop.runs import experiment, grid
from prefloop.runs.config import Config
from prefloop.runs.folder import read, runs
from prefloop.runs.interrupt import Interrupted
from prefloop.runs.sources import sources

pytestmark = pytest.mark.usefixtures("one_thread")

CELLS = {
    "offline": ["--method=dpo"],
    "online": ["--method=dpo", "--override.on_policy=1"],
    "mixed, larger groups": ["--method=rwr", "--override.on_policy=0.5", "--training.batch=16"],
    "with a critic": ["--method=ppo"],
}


def cell(model: Path, output: Path, *more: str) -> Config:
    fixed = [
        "--reward.name=length_min",
        "--sampling.max_new_tokens=8",
        "--evaluation.prompts=5",
        "--evaluation.max_cut=1",
        "--evaluation.every=1",
    ]
    sizes = ["--training.steps=3", "--training.batch=8", "--training.minibatch=8", "--training.lr=1e-2"]
    where = [f"--model.path={model}", f"--output={output}", "--model.autocast=false"]
    return configuration.load(None, [*where, *fixed, *sizes, *more])


def cells(model: Path, output: Path, *more: str) -> dict[str, Config]:
    return {label: cell(model, output, *flags, *more) for label, flags in CELLS.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl", "final/model.safetensors")
    }


@pytest.mark.parametrize("adapters", ["--model.lora_rank=0", "--model.lora_rank=2"])
def test_cells_are_the_runs_that_they_are_alone(
    model: Path, tmp_path: Path, adapters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the model is loaded once and no cell sees what another one trained."""
    alone = {label: experiment.run(c, quiet=True).folder for label, c in cells(model, tmp_path / "a", adapters).items()}
    loaded: list[str] = []
    load = pretrained.load

    def counted(path: str, **options: Any) -> tuple[pretrained.Model, pretrained.Tokenizer]:
        loaded.append(path)
        return load(path, **options)

    monkeypatch.setattr(pretrained, "load", counted)
    together = grid.grid(cells(model, tmp_path / "b", adapters), quiet=True)
    assert list(together) == list(CELLS) and loaded == [str(model)]
    for label in CELLS:
        assert contents(together[label]) == contents(alone[label]), label


def test_what_is_finished_is_reused_wherever_it_lies(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "yes"}\n{"prompt": "no"}\n', encoding="utf-8")
    data = f"--data.train={prompts}"
    first = grid.grid(cells(model, tmp_path / "a", data), quiet=True)
    shutil.move(tmp_path / "a", tmp_path / "b")
    shutil.copytree(model, tmp_path / "model")
    moved = shutil.move(prompts, tmp_path / "moved.jsonl")
    again = cells(tmp_path / "model", tmp_path / "b", f"--data.train={moved}")
    assert grid.finished(again) == {label: tmp_path / "b" / folder.name for label, folder in first.items()}
    monkeypatch.setattr(experiment, "prepare", None)
    assert grid.grid(again, quiet=True) == grid.finished(again)


def test_a_run_of_epochs_is_found_again_by_its_steps(model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "{word}"}}\n' for word in ("yes", "no", "a", "b")), encoding="utf-8")
    of = tmp_path / "runs", f"--data.train={prompts}"
    one = cell(model, *of)
    epochs, more, steps = (
        {"one": replace(one, training=replace(one.training, steps=steps, epochs=epochs))}
        for steps, epochs in ((100, 0.5), (100, 3.0), (1, None))
    )
    done = grid.grid(epochs, quiet=True)
    assert grid.finished(epochs) == done == grid.finished(steps) and grid.finished(more) == {}


@pytest.mark.parametrize("change", ["--seed=1", "--training.lr=1e-3", "--reward.options.scale=5", "data", "model"])
def test_another_configuration_data_or_model_is_another_run(model: Path, tmp_path: Path, change: str) -> None:
    prompts, weights = tmp_path / "prompts.jsonl", tmp_path / "model"
    prompts.write_text('{"prompt": "yes"}\n{"prompt": "no"}\n', encoding="utf-8")
    shutil.copytree(model, weights)
    output, data = tmp_path / "runs", f"--data.train={prompts}"
    done = {"one": cell(weights, output, data)}
    grid.grid(done, quiet=True)
    assert grid.finished(done)
    if change == "data":
        prompts.write_text('{"prompt": "yes"}\n{"prompt": "yes no"}\n', encoding="utf-8")
    if change == "model":
        other, tokenizer = pretrained.load(str(weights))
        shutil.rmtree(weights)
        with torch.no_grad():
            next(iter(other.parameters())).add_(1.0)
        pretrained.save(other, tokenizer, weights, "another")
    flags = [change] if change.startswith("--") else []
    assert grid.finished({"one": cell(weights, output, data, *flags)}) == {}


OWN_REWARD = "def longer(prompt, response):\n    return {sign}len(response)\n"
OWN_METHOD = """from prefloop.core.methods import METHODS
METHODS["mine"] = METHODS["rloo"].override(kl={kl})
"""


def test_a_changed_file_of_the_user_is_another_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reward, gold, method and saved reward model: what was trained with the old one is not passed off as the new."""
    monkeypatch.chdir(tmp_path)
    names = {"reward": "grid_reward.py", "gold": "grid_gold.py", "method": "grid_method.py"}
    for name in ("reward", "gold"):
        (tmp_path / names[name]).write_text(OWN_REWARD.format(sign=""), encoding="utf-8")
    (tmp_path / names["method"]).write_text(OWN_METHOD.format(kl=0.0), encoding="utf-8")
    own = ["--method=grid_method:mine", "--reward.name=grid_reward:longer", "--reward.gold=grid_gold:longer"]
    configs = {"one": cell(model, tmp_path / "runs", *own)}
    grid.grid(configs, quiet=True)
    assert grid.finished(configs)
    changed = {
        "reward": OWN_REWARD.format(sign="-"),
        "gold": OWN_REWARD.format(sign="2 * "),
        "method": OWN_METHOD.format(kl=0.1),
    }
    for name, text in changed.items():
        before = (tmp_path / names[name]).read_text(encoding="utf-8")
        (tmp_path / names[name]).write_text(text, encoding="utf-8")
        assert grid.finished(configs) == {}, name
        (tmp_path / names[name]).write_text(before, encoding="utf-8")
    assert grid.finished(configs)


def test_a_changed_reward_model_is_seen(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rm"
    shutil.copytree(model, folder)
    config = cell(model, tmp_path, "--reward.name=bradley_terry", f"--reward.options.path={folder}")
    before = sources(config)
    (folder / "reward.json").write_text("{}", encoding="utf-8")
    assert sources(config).keys() == before.keys() == {str(folder)} and sources(config) != before


def test_training_and_held_out_files_do_not_change_places(model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        lines = [json.dumps({"prompt": f"{name} {word}"}) for word in ("yes", "no", "a")]
        (tmp_path / name).with_suffix(".jsonl").write_text("\n".join(lines), encoding="utf-8")

    def with_files(train: str, held_out: str) -> dict[str, Config]:
        files = [f"--data.train={tmp_path / train}.jsonl", f"--data.held_out={tmp_path / held_out}.jsonl"]
        return {"one": cell(model, tmp_path / "runs", *files, "--evaluation.prompts=2")}

    grid.grid(with_files("a", "b"), quiet=True)
    assert grid.finished(with_files("a", "b")) and not grid.finished(with_files("b", "a"))


def test_an_interrupted_comparison_continues_and_ends_in_the_same_bytes(model: Path, tmp_path: Path) -> None:
    whole = grid.grid(cells(model, tmp_path / "whole"), quiet=True)
    seen: list[int] = []

    def stop(record: Record, loop: Loop) -> None:
        seen.append(record.step)
        if len(seen) == 5:  # in the second cell
            raise Interrupted(signal.SIGINT)

    output = tmp_path / "runs"
    with pytest.raises(experiment.Stopped) as stopped:
        grid.grid(cells(model, output), quiet=True, observers=[stop])
    events = {folder: len(read(folder, "events")) for folder in runs(output)}  # made in one second: in no fixed order
    assert sorted(events.values()) == [0, 1] and events[stopped.value.folder] == 1
    rest: list[int] = []
    folders = grid.grid(cells(model, output), quiet=True, observers=[lambda record, loop: rest.append(record.step)])
    assert folders["online"] == stopped.value.folder and len(runs(output)) == len(CELLS)
    assert rest == [3, 1, 2, 3, 1, 2, 3]  # the second cell goes on after its second step
    assert {label: contents(folder) for label, folder in folders.items()} == {
        label: contents(folder) for label, folder in whole.items()
    }


def test_runs_that_share_nothing_are_prepared_apart(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds by two methods: one start per seed, with the answers of the reference sampled once for each."""
    prepared: list[list[int]] = []
    prepare = experiment.prepare

    def count(configs: list[Config], **options: Any) -> experiment.Start:
        prepared.append([config.seed for config in configs])
        return prepare(configs, **options)

    monkeypatch.setattr(experiment, "prepare", count)
    methods = [CELLS["offline"], CELLS["online"]]
    configs = {
        f"{i} {seed}": cell(model, tmp_path, *flags, f"--seed={seed}")
        for i, flags in enumerate(methods)
        for seed in (0, 1)
    }
    folders = grid.grid(configs, quiet=True)
    assert prepared == [[0, 0], [1, 1]] and list(folders) == list(configs)
    first = [read(folder, "samples")[0] for folder in folders.values()]
    assert first[0] == first[2] and first[1] == first[3]


def test_every_evaluation_has_reward_and_both_kls_with_errors_and_answers(model: Path, tmp_path: Path) -> None:
    """What a reward–KL frontier is drawn from."""
    (folder,) = grid.grid(
        {"one": cell(model, tmp_path, "--method=rloo", "--sampling.max_new_tokens=40")}, quiet=True
    ).values()
    evaluations = [line for line in read(folder, "metrics") if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [0, 1, 2, 3]
    keys = {f"eval/{name}{end}" for name in ("reward", "kl_reverse", "kl_forward", "length") for end in ("", "_se")}
    assert all(keys <= line.keys() for line in evaluations)
    assert all(line["eval/reward_se"] > 0 for line in evaluations)
    assert all(line["eval/kl_reverse_se"] > 0 < line["eval/kl_forward_se"] for line in evaluations[1:])
    answers = read(folder, "samples")
    sampled = [sum(row["step"] == step for row in answers if not row.get("greedy")) for step in range(4)]
    assert sampled == [5, 5, 5, 5]
    assert {row["step"] for row in answers if row.get("greedy")} == {0, 3}
