"""Methods that read labels on text: given ones as given, scores by a named threshold, and nothing by guess."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from prefloop.analysis.parts import separation_parts
from prefloop.core.batch import Batch, Signal, reads
from prefloop.core.errors import DataError, UserError
from prefloop.core.methods import METHODS, Method
from prefloop.core.objectives import implicit_reward
from prefloop.core.streams import streams
from prefloop.data.records import Group, Message
from prefloop.data.serving import label_threshold
from prefloop.policies.conversation import template_of
from prefloop.report.cells import columns
from prefloop.report.findings import findings
from prefloop.runs import config as configuration
from prefloop.runs import experiment
from prefloop.runs.folder import read
from prefloop.runs.grid import grid
from prefloop.runs.world import TextWorld
from prefloop.worlds.text.problem import TextProblem

RULE = "--reward.name=length_min"
BOTH = ("kto", "binary_feedme", "own_unpaired")


@reads("labels", "reference")
def unpaired(logp: Tensor, signal: Signal, batch: Batch) -> Tensor:
    """A user's own loss on single labelled responses."""
    assert batch.labels is not None
    return F.softplus(-batch.labels * implicit_reward(logp, batch))


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "own_unpaired", Method(unpaired, on_policy=0.0, responses=1))


def config(model: Path, tmp_path: Path, method: str, *more: str) -> configuration.Config:
    fixed = [
        "--sampling.max_new_tokens=10",
        "--evaluation.prompts=4",
        "--evaluation.max_cut=1",
        "--model.autocast=false",
        "--data.held_out=builtin",
    ]
    sizes = ["--training.steps=2", "--training.batch=4", "--training.minibatch=4"]
    flags = [f"--model.path={model}", f"--output={tmp_path / 'runs'}", f"--method={method}", *fixed, *sizes, *more]
    return configuration.load(None, flags)


def opened(config: configuration.Config) -> TextWorld:
    return experiment.prepare([config], say=lambda _: None).world


def file(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return f"--data.train={path}"


def unpaired_rows(*labels: object) -> list[dict[str, Any]]:
    return [{"prompt": f"a {i}", "completion": "yes" if i % 2 else "no no", "label": x} for i, x in enumerate(labels)]


def rated_rows(*scores: float) -> list[dict[str, Any]]:
    return [{"prompt": f"a {i}", "responses": ["yes"], "scores": [x]} for i, x in enumerate(scores)]


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("share", [0, 1])
def test_a_reward_without_a_threshold_is_refused_by_name(model: Path, tmp_path: Path, method: str, share: int) -> None:
    """`length_min` is never positive; nothing is written."""
    with pytest.raises(UserError, match=f"(?s)`{method}` reads labels.*`length_min`.*reward.label_threshold"):
        experiment.run(config(model, tmp_path, method, RULE, f"--override.on_policy={share}"), quiet=True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_threshold_makes_labels_of_every_group(model: Path, tmp_path: Path, method: str, share: float) -> None:
    more = (RULE, "--reward.label_threshold=-0.55", f"--override.on_policy={share}")
    parts = opened(config(model, tmp_path, method, *more))
    rng = streams(0)["sampling"]
    with torch.no_grad():
        drawn = parts.problem.score(parts.model.policy().draw(parts.problem.prompts(0, 4, rng), 2, rng))
    assert drawn.scores is not None and drawn.labels is not None and float(drawn.scores.max()) < 0
    assert torch.equal(drawn.labels, torch.where(drawn.scores > -0.55, 1.0, -1.0))
    result = experiment.run(config(model, tmp_path, method, *more), quiet=True)
    assert (result.folder / "final").is_dir()


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("kind", [(1, -1, -1, 1), (True, False, False, True), (1, 0, 0, 1)])
def test_given_labels_are_taken_as_given(model: Path, tmp_path: Path, method: str, kind: tuple[object, ...]) -> None:
    data = file(tmp_path, unpaired_rows(*kind))
    parts = opened(config(model, tmp_path, method, data, "--reward.name=labels"))
    batch = parts.problem.score(parts.problem.batch_of(parts.problem.train))
    assert batch.labels is not None and batch.labels.flatten().tolist() == [1.0, -1.0, -1.0, 1.0]


def test_the_two_of_a_pair_are_good_and_not(model: Path, tmp_path: Path) -> None:
    data = file(tmp_path, [{"prompt": f"a {i}", "chosen": "yes", "rejected": "no"} for i in range(4)])
    more = (data, "--reward.name=labels", "--override.responses=2")
    problem = opened(config(model, tmp_path, "kto", *more)).problem
    labels = problem.score(problem.batch_of(problem.train)).labels
    assert labels is not None and labels.tolist() == [[1.0, -1.0]] * 4


def test_ratings_are_no_labels_without_a_threshold(model: Path, tmp_path: Path) -> None:
    data = file(tmp_path, rated_rows(1.0, 2.0, 4.0, 5.0))
    with pytest.raises(UserError, match=r"(?s)`kto` reads labels.*ratings.*reward\.label_threshold"):
        opened(config(model, tmp_path, "kto", data, "--reward.name=labels"))
    more = (data, "--reward.name=labels", "--reward.label_threshold=3")
    problem = opened(config(model, tmp_path, "kto", *more)).problem
    batch = problem.score(problem.batch_of(problem.train))
    assert batch.labels is not None and batch.labels.flatten().tolist() == [-1.0, -1.0, 1.0, 1.0]


NEVER = {
    "labels": (unpaired_rows(0, 0, 0, 0), ()),
    "ratings": (rated_rows(1, 2, 3, 4), ("--reward.label_threshold=4",)),
}


@pytest.mark.parametrize("case", NEVER)
def test_data_without_a_positive_label_are_refused(model: Path, tmp_path: Path, case: str) -> None:
    rows, more = NEVER[case]
    with pytest.raises(DataError, match="no training response has a positive label"):
        opened(config(model, tmp_path, "kto", file(tmp_path, rows), "--reward.name=labels", *more))


def test_other_methods_need_no_threshold(model: Path, tmp_path: Path) -> None:
    problem = opened(config(model, tmp_path, "rloo", RULE)).problem
    assert problem.label_threshold is None
    drawn = Batch([torch.tensor([1])], torch.ones(1, 1, 2, dtype=torch.long), torch.ones(1, 1, 2, dtype=torch.bool))
    assert problem.score(drawn).labels is None


@pytest.mark.parametrize(
    ("scores", "want"),
    [((1, -1), 0.0), ((-1, -1), 0.0), ((1, 0), 0.0), ((1, 0, -1), None), ((0.5,), None), ((2, 1), None), ((), None)],
)
def test_which_scores_are_labels(scores: tuple[float, ...], want: float | None) -> None:
    groups = [Group((Message("user", "a"),), ("yes",), (float(x),), "a", 1) for x in scores]
    assert label_threshold([*groups, Group((Message("user", "b"),), (), None, "b", 2)]) == want


def test_a_problem_in_python_has_labels_by_its_threshold() -> None:
    group = Group((Message("user", "a"),), ("yes", "no"), (0.2, -3.0), "a", 1)
    problem = TextProblem([group], template_of(tiny.tokenizer()), label_threshold=-3.0)
    labels = problem.score(problem.batch_of([group])).labels
    assert labels is not None and labels.tolist() == [[1.0, -1.0]]


def test_a_rule_that_replaces_the_files_own_preferences_says_so(model: Path, tmp_path: Path) -> None:
    pairs = file(tmp_path, [{"prompt": f"a {i}", "chosen": "no no", "rejected": "yes"} for i in range(8)])
    said: list[str] = []
    experiment.prepare([config(model, tmp_path, "dpo", pairs, RULE)], say=said.append)
    assert any("`length_min` scores the responses: the file's own preferences are not used" in text for text in said)
    for flags in (["--data.train=builtin", RULE], [pairs, "--reward.name=labels", "--data.held_out=split"]):
        said.clear()
        world = experiment.prepare([config(model, tmp_path, "dpo", *flags)], say=said.append).world
        notes = [note for note in world.notes if not note.startswith("computing on") and "are held out" not in note]
        assert [note.partition(":")[0] for note in notes] == ["template"] and set(world.notes) < set(said)
        assert "evaluating the untrained model on held-out data" in said


def test_without_a_name_the_reward_is_the_labels_of_the_file_or_is_asked_for(model: Path, tmp_path: Path) -> None:
    pairs = file(tmp_path, [{"prompt": f"a {i}", "chosen": "no no", "rejected": "yes"} for i in range(12)])
    done = experiment.run(config(model, tmp_path, "dpo", pairs, "--data.held_out=split"), quiet=True)
    assert configuration.load(done.folder / "config.yaml").reward.name == "labels"
    assert "eval/rewards/accuracies" in done.after
    with pytest.raises(UserError, match=r"(?s)no reward is named.*cannot score the fresh.*bradley_terry"):
        experiment.run(config(model, tmp_path, "online_dpo", pairs), quiet=True)
    with pytest.raises(UserError, match=r"(?s)no reward is named.*built-in prompts have no preferences.*length_min"):
        grid({"a": config(model, tmp_path, "dpo")}, quiet=True)
    prompts = file(tmp_path, [{"prompt": f"a {i}"} for i in range(12)])
    with pytest.raises(UserError, match=r"prompts only, no labels"):
        experiment.run(config(model, tmp_path, "dpo", prompts), quiet=True)


def test_a_single_held_out_prompt_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    prompts = file(tmp_path, [{"prompt": f"a {i}"} for i in range(3)])
    flags = [prompts, "--data.held_out=split", "--data.held_out_share=0.3", RULE]
    with pytest.raises(DataError, match="single held-out prompt has no standard error"):
        experiment.run(config(tmp_path / "absent", tmp_path, "rloo", *flags), quiet=True)


def test_a_run_on_labels_measures_held_out_labels(model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"a {i}", "completion": ["yes", "no"][i % 2], "label": i % 2 == 0} for i in range(16)]
    data = file(tmp_path, rows)
    flags = ["--reward.name=labels", "--data.held_out=split", "--data.held_out_share=0.5", "--training.lr=0.01"]
    result = experiment.run(config(model, tmp_path, "kto", data, *flags), quiet=True)
    assert result.before["eval/labels/auc"] == 0.5 and result.before["eval/labels/good"] == 0.0
    assert result.after["eval/labels/count"] >= 4 and result.after["eval/labels/good"] != 0.0
    lines = [line for line in read(result.folder, "examples") if line["step"] == 2]
    assert len({line["example"] for line in lines}) == len(lines) == result.after["eval/labels/count"]
    moved, good = ([line[key] for line in lines] for key in ("moved", "good"))
    assert separation_parts(moved, good).mean() == pytest.approx(result.after["eval/labels/auc"])
    (said,) = [text for text in findings(columns([result.folder])) if "labelled good" in text]
    assert "Change from 0.500 before training: " in said and "Policy minus " in said


def test_labels_that_are_all_positive_are_refused(model: Path, tmp_path: Path) -> None:
    data = file(tmp_path, [{"prompt": f"a {i}", "completion": "yes", "label": True} for i in range(8)])
    with pytest.raises(DataError, match="no training response has a negative label"):
        experiment.prepare([config(model, tmp_path, "kto", data, "--reward.name=labels", "--data.held_out=split")])
