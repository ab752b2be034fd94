"""The method of CONTRIBUTING.md in a user's own file, wherever a method or a part of one is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

import tiny
from prefloop.analysis.decisions import Verdict
from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.core.methods import METHODS, method
from prefloop.lab.setting import make
from prefloop.lab.stack import build
from prefloop.policies import pretrained
from prefloop.runs.folder import read
from toys import make_batch, make_logp

NAME = "my_methods:squared_hinge"
TEXT = Path(__file__).parents[2].joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
MORE = """
from prefloop.core.weights import best_only

@reads("scores")
def my_pairs(batch):
    return best_vs_worst(batch)

@reads("scores")
def my_weight(batch, *, softness: Positive = 1.0):
    return best_only(batch) * softness

def unmarked(logp, signal, batch):
    return logp

METHODS["soft_best"] = Method(METHODS["sft"].objective, weight=my_weight)
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example as it stands in the document, in the current directory."""
    (tmp_path / "my_methods.py").write_text(TEXT.split("```python\n")[1].split("```")[0] + MORE, encoding="utf-8")
    (tmp_path / "broken_methods.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(METHODS)
    yield
    for name in set(METHODS) - before:
        del METHODS[name]
    for name in ("my_methods", "broken_methods", "hinge_study"):
        sys.modules.pop(name, None)


def train(tmp_path: Path, *words: str) -> Path:
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), tmp_path / "tiny", "a tiny model")
    fixed = ["--sampling.max_new_tokens=8", "--evaluation.prompts=4", "--evaluation.max_cut=1", "--training.steps=3"]
    fixed += [
        "--reward.name=length_min",
        "--training.batch=16",
        "--training.minibatch=16",
        "--training.lr=1e-2",
        "--model.autocast=false",
        "--quiet",
    ]
    (tmp_path / "run.yaml").write_text("seed: 0\n", encoding="utf-8")
    assert (
        main(
            ["train", "run.yaml", f"--model.path={tmp_path / 'tiny'}", f"--output={tmp_path / 'runs'}", *fixed, *words]
        )
        == 0
    )
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def test_methods_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", NAME]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "max(0, 1 − β h)²" in out and "Raises the margin until it reaches one" in out and "contrastive" in out
    assert main(["methods", NAME, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["negative"] and record["options"] == {"beta": 0.1, "threshold": 0.0}


def test_train_trains_with_it(tmp_path: Path) -> None:
    folder = train(tmp_path, f"--method={NAME}", "--override.beta=0.3")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["objective"]["formula"].startswith("max(0, 1 − β h)²")
    assert manifest["objective"]["hyperparameters"] == {"beta": 0.3, "threshold": 0.0}
    losses = [line["loss"] for line in read(folder, "metrics") if line["kind"] == "step"]
    assert losses[0] == 1.0 > losses[-1]


def test_train_takes_its_objective_alone(tmp_path: Path) -> None:
    folder = train(tmp_path, "--method=dpo", f"--override.objective={NAME}", "--override.pairs=my_methods:my_pairs")
    assert next(line["loss"] for line in read(folder, "metrics") if line["kind"] == "step") == 1.0


def test_lab_runs_it_in_its_workers(tmp_path: Path) -> None:
    words = f"lab --problem arms --policy tabular --contexts 4 --method {NAME},dpo --override.beta 0.1,0.5 --steps 4"
    words += " --responses 2 --batch 8 --minibatch 8 --data 8 --lr 1e-2 --seeds 2 --workers 1 --quiet --out lab"
    assert main(words.split()) == 0
    assert len({s.read_bytes() for s in tmp_path.glob("lab/**/*.parquet")}) >= 1


STUDY = """
from prefloop.lab.setting import make
from prefloop.lab.tuning import Scoring
from prefloop.studies.conduct import Condition, conduct, versus
from prefloop.studies.study import Claim, Outcome, Study

NAMES = ("my_methods:squared_hinge", "dpo")

def last(run):
    return run.last("eval/gold")

CLAIMS = (Claim("hinge-helps", "a squared hinge helps", "gold of the hinge minus that of DPO", 0.02, "gold reward",
                versus([NAMES[0]], [NAMES[1]], last)),)

def run(bench):
    size = {"steps": 4, "evaluate": 2, "responses": 2, "batch": 8, "minibatch": 8, "data": 8, "lr": 1e-2}
    conditions = {name: Condition(make(name, "arms", **size)) for name in NAMES}
    return Outcome(conduct(bench, conditions, CLAIMS, Scoring(last)).findings)

STUDY = Study("hinge", "Does a squared hinge help?", "mine", "", {"compared": "two methods on the arms"}, CLAIMS, run)
"""


def test_a_study_compares_it(tmp_path: Path) -> None:
    (tmp_path / "hinge_study.py").write_text(STUDY, encoding="utf-8")
    assert main(["study", "run", "hinge_study:STUDY", "--size", "smoke", "--workers", "1", "--quiet"]) == 0
    (claim,) = json.loads((tmp_path / "studies" / "hinge" / "result.json").read_text())["claims"]
    assert claim["name"] == "hinge-helps" and claim["verdict"] in get_args(Verdict)


def test_a_stack_holds_its_values_per_run_and_equals_each_alone() -> None:
    one = make(
        NAME, "arms", policy="tabular", contexts=3, responses=2, batch=4, minibatch=4, data=6, precision="float64"
    )
    runs = [replace(one, seed=i, override={"beta": b}) for i, b in enumerate((0.1, 0.9))]
    assert runs[0].stack == runs[1].stack
    together = [record.loss for record, _ in zip(build(runs).loop, range(3), strict=False)]
    for i, run in enumerate(runs):
        alone = [record.loss for record, _ in zip(build([run]).loop, range(3), strict=False)]
        torch.testing.assert_close(torch.stack(together)[:, i], torch.stack(alone)[:, 0], rtol=1e-10, atol=1e-12)


def test_a_run_is_another_when_its_file_changes(tmp_path: Path) -> None:
    override = {"objective": NAME}
    names = [make(NAME, "arms", responses=2).run, make("dpo", "arms", override, responses=2).run]
    plain = make("dpo", "arms").run
    with (tmp_path / "my_methods.py").open("a") as file:
        file.write("# changed\n")
    assert (
        make(NAME, "arms", responses=2).run != names[0] and make("dpo", "arms", override, responses=2).run != names[1]
    )
    assert make("dpo", "arms").run == plain


@pytest.mark.parametrize(("place", "base"), [("objective", "dpo"), ("pairs", "dpo"), ("weight", "rwr")])
def test_every_part_can_be_named(place: str, base: str) -> None:
    part = {"objective": "squared_hinge", "pairs": "my_pairs", "weight": "my_weight"}[place]
    row = METHODS[base].override(**{place: f"my_methods:{part}"})
    assert getattr(row, place).__name__ == part
    batch = make_batch(3, responses=2)
    assert torch.isfinite(row.coefficients(make_logp(batch), batch)).all()


@pytest.mark.parametrize("value", [-1.0, 0.0, float("inf"), "much", True])
def test_the_range_of_a_new_name_follows_from_its_type(value: object) -> None:
    row = method("my_methods:soft_best")
    assert "softness" in row.per_run
    with pytest.raises(UserError, match="`softness` must be"):
        row.override(softness=value)
    assert row.override(softness=torch.tensor([0.5, 2.0])).defaults["softness"].tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("my_method:squared_hinge", "(?s)no module named `my_method`.*did you mean `my_methods`"),
        (
            "my_methods:squared_hing",
            "(?s)does not add a method `squared_hing`.*did you mean `squared_hinge`",
        ),
        ("broken_methods:x", "importing `broken_methods` raised ZeroDivisionError"),
        ("dpoo", "(?s)unknown method `dpoo`.*did you mean `dpo`"),
    ],
)
def test_mistakes_in_the_name(name: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        method(name)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("my_methods:squared_hing", "(?s)has no function `squared_hing`.*did you mean `squared_hinge`"),
        ("my_methods:unmarked", "(?s)does not declare which batch fields it reads.*@reads"),
        ("nowhere:loss", "no module named `nowhere`"),
        (":loss", "must have the form module:function"),
    ],
)
def test_mistakes_in_a_part(name: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        METHODS["dpo"].override(objective=name)
