"""Recipes: checked before anything is trained, run stage by stage, reused, and refused when their inputs change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.policies import pretrained
from prefloop.recipes import conduct, fitting
from prefloop.recipes.recipe import SHIPPED, Recipe, read
from prefloop.runs import schema, yaml12

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"batch": 4, "minibatch": 4, "lr": 0.01, "steps": 2}
RUN: dict[str, Any] = {
    "model": {"path": "@sft", "autocast": False},
    "data": {"train": "$pairs", "held_out": "split"},
    "training": SMALL,
    "sampling": {"max_new_tokens": 4},
    "evaluation": {"prompts": 4, "every": 0, "greedy": 0, "max_cut": 1.0},
}
TREE: dict[str, Any] = {
    "title": "Toy",
    "data": {"pairs": "preferences"},
    "stages": {
        "sft": {"kind": "train", "config": {**RUN, "method": "pref_ft", "model": {"path": "model", "lora_rank": 2}}},
        "reward": {"kind": "reward", "config": {"model": "@sft", "data": "$pairs"}},
        "methods": {
            "kind": "train",
            "config": {**RUN, "reward": {"name": "bradley_terry", "options": {"path": "@reward"}}},
            "cells": {"online": {"method": "online_dpo"}, "dpo": {"method": "dpo"}},
            "seeds": [0, 1],
            "tune": {"rates": [0.001, 0.01], "metric": "reward"},
        },
        "judged": {"kind": "eval", "of": ["methods"], "published": {"dpo": "+0.134"}, "source": "somewhere"},
    },
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of two layers and a file of pairs."""
    monkeypatch.chdir(tmp_path)
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), tmp_path / "model", "a tiny model")
    asked = [f"{a} {b}" for a in "abc" for b in "abc"]
    rows = [{"prompt": q, "chosen": f"yes {a}", "rejected": f"no {a} {a}"} for q in asked for a in "abc"]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def recipe(changes: dict[str, Any] | None = None) -> Recipe:
    Path("toy.yaml").write_text(yaml12.dump(schema.merged(TREE, changes or {})), encoding="utf-8")
    return read(Path("toy.yaml"), {"pairs": "pairs.jsonl"})


def stage(name: str, **keys: Any) -> dict[str, Any]:
    return {"stages": {name: keys}}


def call(*more: str) -> int:
    return main(["run", "toy.yaml", "--data.pairs", "pairs.jsonl", "--out", "out", *more])


def test_a_recipe_runs_is_reused_and_is_refused_when_its_inputs_change(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe()
    assert call("--plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)["stages"]
    assert list(plan) == ["sft", "reward", "methods", "judged"] and plan["methods"] > 0 and plan["reward"] is None
    assert not Path("out").exists()
    assert call("--json") == 0
    first = json.loads(capsys.readouterr().out)
    sft, _, methods, judged = first["stages"]
    assert (Path(sft["folder"]) / sft["output"] / "adapter").is_dir()
    assert len(methods["runs"]) == 4 and set(methods["rates"]) == {"online", "dpo"}
    for cell, tried in methods["tuned"].items():
        assert methods["rates"][cell] == max(tried, key=lambda one: one[1])[0]
    for row in judged["rows"]:
        runs = [Path(methods["folder"]) / one["run"] for one in methods["runs"] if one["cell"] == row["cell"]]
        ends = [_evaluations(run) for run in runs]
        assert [before["eval/kl_reverse"] for before, _ in ends] == [0.0, 0.0]  # the reference is the model of `sft`
        changes = [after["eval/reward"] - before["eval/reward"] for before, after in ends]
        assert row["change"]["value"] == pytest.approx(sum(changes) / 2)
    text = (Path("out") / "recipe.html").read_text(encoding="utf-8")
    assert "+0.134" in text and "somewhere" in text and "Learning rates" in text
    assert call() == 0
    assert capsys.readouterr().out.count("and reused") == 4
    recipe(stage("methods", seeds=[0, 1, 2]))
    assert call() == 2
    error = capsys.readouterr().err
    assert "`methods` is finished with other inputs: seeds: (0, 1)" in " ".join(error.split()).replace(
        "[0, 1]", "(0, 1)"
    )
    assert call("--rerun", "methods", "--json") == 0
    second = json.loads(capsys.readouterr().out)["stages"]
    assert len(second[2]["runs"]) == 6 and second[0] == first["stages"][0] and second[3]["folder"] != judged["folder"]


def _evaluations(run: Path) -> tuple[dict[str, float], dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if line["kind"] == "evaluation"]
    return found[0], found[-1]


@pytest.mark.parametrize(
    "changes, said",
    [
        (stage("methods", config={"training": {"step": 3}}), "unknown key `training.step`"),
        (stage("methods", cells={"dpo": {"override": 3}}), "`override` must be a section"),
        (stage("methods", kin="train"), "unknown key `kin`"),
        (stage("sft", config={"seed": 3}), "`seed` is set by the recipe"),
        ({"stage": {}}, "unknown key `stage`"),
    ],
)
def test_a_wrong_key_is_named_with_its_line(place: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(changes)
    assert said in error.value.what
    line = int(error.value.where.split("line ")[1].split(":")[0])
    assert said.split("`")[1].split(".")[-1] in Path("toy.yaml").read_text(encoding="utf-8").splitlines()[line - 1]


@pytest.mark.parametrize(
    "changes, said",
    [
        (stage("sft", config={"model": {"path": "@sft"}}), "stages wait for each other: sft → sft"),
        (stage("reward", config={"model": "@stf"}), "there is no stage `stf`"),
        (stage("reward", config={"model": "@methods"}), "wait for each other"),
        (stage("judged", scored_by="@sft"), "which is no reward model"),
        (stage("methods", config={"model": {"path": "@reward"}}), "which gives a reward model"),
        (stage("methods", config={"model": {"path": "@sft/adapter", "lora_rank": 2}}), "LoRA on an adapter"),
        (stage("methods", config={"model": {"path": "@sft/other"}}), "has no output `other`"),
        (stage("methods", config={"data": {"train": "$other"}}), "which is no data of the recipe"),
        (stage("methods", config={"training": {"minibatch": 3}}), "minibatch"),
        (stage("methods", tune={"seeds": [1]}), "seed 1 chooses the learning rate and is a seed of the runs"),
        (stage("sft", config={"save": {"final": False}}), "saves no model"),
        (stage("sft", seeds=[0, 1]), "stage `sft` trains several models"),
        (stage("judged", published={"ppo": "+1"}), "`published` names `ppo`"),
        (stage("methods", config={"reward": {"name": "labels", "options": {}}}), "labels of the data cannot score"),
    ],
)
def test_stages_that_do_not_fit_are_refused_before_training(place: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        fitting.check(recipe(changes))
    assert said in error.value.what and "line " in error.value.where


def test_a_reward_model_of_another_tokenizer_is_refused_unless_wanted(place: Path) -> None:
    other = tiny.tokenizer()
    other.add_tokens(["d"])
    pretrained.save(tiny.llama(len(tiny.WORDS) + 1, torch.float32), other, place / "other", "another one")
    with pytest.raises(UserError, match="another tokenizer"):
        fitting.check(recipe(stage("reward", config={"model": "other"})))
    wanted = {"stages": {"reward": {"config": {"model": "other"}}, "methods": {"other_tokenizer": True}}}
    assert "reads the text of answers" in fitting.check(recipe(wanted))[0]
    pretrained.save(
        tiny.llama(len(tiny.WORDS), torch.float32, seed=1), tiny.tokenizer(), place / "own", "of another seed"
    )
    assert "descends from own" in fitting.check(recipe(stage("reward", config={"model": "own"})))[0]


def test_data_of_a_recipe_are_needed_and_known(place: Path) -> None:
    recipe()
    with pytest.raises(UserError, match="needs a file `pairs`: preferences"):
        read(Path("toy.yaml"), {})
    with pytest.raises(UserError, match="has no data `pair`"):
        read(Path("toy.yaml"), {"pair": "pairs.jsonl", "pairs": "pairs.jsonl"})


def test_the_best_rate_is_the_best_that_did_not_diverge() -> None:
    assert conduct.best_rate({1e-5: 0.2, 1e-4: 0.5, 1e-3: None}, "reward") == 1e-4
    assert conduct.best_rate({1e-5: 0.2, 1e-4: 0.5}, "loss") == 1e-5
    assert conduct.best_rate({1e-4: 0.5, 1e-5: 0.5}, "reward") == 1e-5
    assert conduct.best_rate({1e-4: None}, "reward") is None


def test_new_answers_are_scored_where_runs_did_not(place: Path) -> None:
    labels = {"reward": {"name": "labels", "options": {}}}
    one = {"methods": {"cells": {"online": None, "dpo": labels}, "seeds": [0], "tune": {"rates": []}}}
    tree = schema.merged(TREE, {"stages": {**one, "judged": {"scored_by": "@reward", "prompts": 2}}})
    del tree["stages"]["methods"]["cells"]["online"]
    Path("toy.yaml").write_text(yaml12.dump(tree), encoding="utf-8")
    assert call("--quiet") == 0
    (done,) = Path("out/judged").glob("*/done.json")
    (row,) = json.loads(done.read_text(encoding="utf-8"))["rows"]
    assert row["change"]["low"] is None and row["reward"]["value"] != row["change"]["value"]


def _shipped() -> list[Any]:
    """The minis, and those of full size, which train more models."""
    names = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    return [name if name.endswith("-mini") else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _shipped())
def test_shipped_recipes_run_on_a_model_of_two_layers(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With their own stages, cells, seeds and learning rates; smaller models, batches and texts."""
    layers = [yaml12.read(SHIPPED / f"{name}.yaml")]
    if base := layers[0].pop("extends", None):
        layers.insert(0, yaml12.read(SHIPPED / base))
    model = {"path": "model", "trained_layers": None, "gradient_checkpointing": False, "dtype": "float32"}
    texts = {
        "template": "auto",
        "held_out_share": 0.3,
        "limit": None,
        "max_prompt_tokens": 20,
        "max_response_tokens": 8,
    }
    run = {
        "data": texts,
        "training": {"epochs": None, "steps": 2, "batch": 8, "minibatch": 8},
        "sampling": {"max_new_tokens": 4},
        "evaluation": {"prompts": 4, "pairs": 4, "every": 0, "greedy": 0},
    }
    fit = {"freeze_backbone": True, "epochs": None, "lr": None, "batch": None, "max_tokens": 32}
    toy = {
        "data": {"gold": None},
        "stages": {
            "sft": {"config": {**run, "method": "pref_ft", "model": model}},
            "reward": {"config": {"template": "auto", "limit": None, "held_out_share": 0.3, "fit": fit}},
            "methods": {
                "config": {**run, "model": {**model, "path": "@sft"}},
                "cells": {"ppo": {"training": {"batch": 8}}},
            },
            "judged": {"scored_by": "@reward", "prompts": 4},
        },
    }
    if name.endswith("-mini"):
        toy["stages"]["judged"]["scored_by"] = None
    else:
        toy["stages"]["methods"]["tune"] = {"prompts": 4, "rates": [1e-6, 1e-5]}
    whole: dict[str, Any] = {}
    for layer in [*layers, toy]:
        whole = schema.merged(whole, layer)
    Path("toy.yaml").write_text(yaml12.dump(whole), encoding="utf-8")
    assert call("--data.demonstrations", "pairs.jsonl", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["stages"][-1]["rows"]
    assert [row["seeds"] for row in rows] == [3] * 6
    assert {row["cell"] for row in rows} == {"pref_ft", "best_of_n", "rwr", "ppo", "dpo", "online_dpo"}
