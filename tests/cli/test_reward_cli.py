"""`prefloop reward` from files to folders on a tiny model, runs against reward models, and every mistake in words."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from paths import HUMAN_PAIRS, real
from prefloop.cli.main import main
from prefloop.cli.reward import card
from prefloop.core.errors import UserError
from prefloop.core.metric_table import METRICS, metric
from prefloop.data.formats import load_usable
from prefloop.data.records import Group, Message
from prefloop.policies import pretrained
from prefloop.rewards.bradley_terry import disk as saved
from prefloop.rewards.bradley_terry.ensemble import Ensemble
from prefloop.rewards.bradley_terry.model import known
from prefloop.runs import config as configuration
from prefloop.runs import experiment
from prefloop.runs.folder import read
from prefloop.worlds.text import open_reward
from prefloop.worlds.text.open_data import open_data
from prefloop.worlds.text.spec import DataOptions

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = [word for word in tiny.WORDS if word.isalpha()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, pairs in which `yes` wins, ratings, and a reward model fitted to a part of the pairs."""
    folder = tmp_path_factory.mktemp("reward")
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), folder / "tiny", "a tiny model")
    asked = [f"{a} {b}" for a in WORDS for b in WORDS]
    rows = [{"prompt": q, "chosen": f"yes {a}", "rejected": f"no {a} {a}"} for q in asked for a in ("a", "b")]
    write(folder / "pairs.jsonl", rows)
    rated = [{"prompt": f"{q} c", "responses": ["yes", "a", "a b", "no"], "scores": [3, 1, 1, 0]} for q in asked[:12]]
    write(folder / "rated.jsonl", rated)
    assert run("train", folder / "pairs.jsonl", "--out", folder / "rm", *base(folder), "--quiet") == 0
    return folder


@pytest.fixture(scope="module")
def second(home: Path) -> Path:
    """Another reward model of the same vocabulary, fitted to ratings."""
    more = ("--rating-margin", 0.5, "--quiet")
    assert run("train", home / "rated.jsonl", "--out", home / "rated-rm", *base(home), *more) == 0
    return home / "rated-rm"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def base(home: Path) -> tuple[str, ...]:
    return ("--model", str(home / "tiny"), "--freeze-backbone", "--autocast", "false")


def run(verb: str, *words: object) -> int:
    return main(["reward", verb, *map(str, words)])


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    return dict(json.loads(out))


# --------------------------------------------------------------------------------------------------- train and card


def test_training_says_how_good_the_model_is_and_keeps_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    more = ("--held-out-share", 0.3, "--seed", 1, "--split-seed", 1, "--centring", 0.01, "--ties", "half")
    assert run("train", home / "pairs.jsonl", "--out", home / "rm1", *base(home), *more, "--json") == 0
    found = told(capsys)
    assert found["facts"]["held_out_accuracy"] == 1.0 and found["facts"]["centring"] == 0.01
    assert found["facts"]["train_pairs"] + found["facts"]["held_out_pairs"] == 128
    manifest = json.loads((home / "rm1" / "manifest.json").read_text())
    assert manifest["objective"]["ties"] == "half" and manifest["notes"] == [*found["notes"], found["held_out"]]
    assert manifest["model"]["sha256"] == pretrained.model_hash(str(home / "tiny"))
    kept = saved.load(home / "rm1")
    assert kept.facts == found["facts"] and len(kept.trained_on) == found["facts"]["train_questions"]


def test_the_backbone_is_trained_and_progress_is_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", home / "tiny", "--autocast", "false", "--no-freeze-backbone")
    words = (*words, "--steps", 3, "--lr", 1e-3, "--batch", 4)
    assert run("train", home / "pairs.jsonl", "--out", home / "full", *words, "--limit", 40) == 0
    shown = capsys.readouterr()
    assert "held-out pairs" in shown.out and "next: prefloop reward card" in shown.out and "loss" in shown.err
    tensors = [saved.load(home / name).backbone.state_dict()["layers.0.mlp.up_proj.weight"] for name in ("rm", "full")]
    assert not torch.equal(*tensors)


def test_the_split_is_that_of_a_run_and_does_not_change_with_the_seed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--held-out-share", 0.3)
    for name, seeds in {"a": (), "b": ("--seed", 5), "c": ("--split-seed", 5)}.items():
        capsys.readouterr()
        assert run("train", home / "pairs.jsonl", "--out", home / f"split-{name}", *base(home), *more, *seeds) == 0
        shown = capsys.readouterr().out
        assert 0 < shown.index("forecast: about") < shown.index("fitted to")
    a, b, c = (saved.load(home / f"split-{name}").trained_on for name in "abc")
    assert a == b and a != c
    data = open_data(DataOptions(str(home / "pairs.jsonl"), held_out="split", held_out_share=0.3))
    assert all(known(g, a) for g in data.train) and not any(known(g, a) for g in data.held_out)
    assert json.loads((home / "split-c" / "manifest.json").read_text())["seeds"] == {"run": 0, "split": 5}


def test_held_out_questions_that_are_trained_on_are_left_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (home / "pairs.jsonl").read_text().splitlines()]
    write(home / "train.jsonl", rows[:40])
    write(home / "test.jsonl", rows[30:60])
    capsys.readouterr()
    files = (home / "train.jsonl", "--held-out", home / "test.jsonl")
    assert run("train", *files, "--out", home / "apart", *base(home), "--json") == 0
    assert told(capsys)["facts"]["held_out_pairs"] == 20
    assert run("train", files[0], "--held-out", files[0], "--out", home / "same", *base(home)) == 3
    assert "on questions outside the training data" in capsys.readouterr().err


def test_one_question_in_other_words_is_not_held_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (home / "pairs.jsonl").read_text().splitlines()][:40]
    named = [row | {"qid": i // 2} for i, row in enumerate(rows)]
    write(home / "named.jsonl", named[:30])
    write(home / "reworded.jsonl", [row | {"prompt": f"{row['prompt']} c"} for row in named[20:]])
    files = (home / "named.jsonl", "--held-out", home / "reworded.jsonl", "--group-by", "qid")
    capsys.readouterr()
    assert run("train", *files, "--out", home / "by-key", *base(home)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "10 of 20 held-out rows are excluded: their questions are in the training data" in shown
    assert saved.load(home / "by-key").facts["held_out_pairs"] == 10
    assert run("card", home / "by-key", files[2], "--group-by", "qid", "--out", home / "key-card", "--json") == 0
    assert told(capsys)["pairs"] == 10


def test_a_member_of_unknown_training_questions_is_remarked(home: Path) -> None:
    traced = saved.load(home / "rm")
    groups = load_usable(home / "pairs.jsonl").groups
    mixed = Ensemble((traced, replace(traced, trained_on=frozenset())))
    remarks = card._unseen(mixed, groups, home / "pairs.jsonl")[1]
    assert [("excluded" in text, "unknown" in text) for text in remarks] == [(True, False), (False, True)]


def test_a_card_leaves_out_the_questions_that_were_fitted_to(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("card", home / "rm", home / "pairs.jsonl", "--out", home / "card", "--gold", "length_min") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "rows are excluded: the model was fitted to their questions" in shown and "README.md" in shown
    record = json.loads((home / "card" / "card.json").read_text(encoding="utf-8"))
    assert record["questions"] + len(saved.load(home / "rm").trained_on) == 64
    assert record["accuracy"]["value"] == 1.0 and record["about"]["gold"] == "length_min"
    assert record["gold"]["within"]["value"] > 0.8  # `yes` wins, and is the shorter
    assert {p.name for p in (home / "card").glob("*.svg")} == {"calibration.svg", "gap.svg", "margins.svg"}


def test_ratings_are_gold_where_the_data_have_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run("card", home / "rm", home / "rated.jsonl", "--out", home / "card", "--json") == 0  # over another card
    found = told(capsys)
    assert found["gold"]["within"]["value"] > 0 and found["pairs"] == 12 * 5


def test_scores_stand_beside_the_responses_and_are_read_back(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    out = home / "scores.jsonl"
    assert run("score", home / "rm", home / "rated.jsonl", "--out", out, "--autocast", "false", "--json") == 0
    assert told(capsys)["responses"] == 48
    first = json.loads(out.read_text().splitlines()[0])
    assert first["responses"] == ["yes", "a", "a b", "no"] and first["ratings"] == [3, 1, 1, 0]
    again = load_usable(out)
    assert again.format == "rated" and again.groups[0].scores == tuple(first["scores"])
    groups = load_usable(home / "rated.jsonl").groups
    torch.testing.assert_close(
        torch.tensor([s for g in again.groups for s in g.scores or ()]),
        saved.load(home / "rm").score_groups(groups).score,
    )


def test_scores_keep_the_columns_of_a_row(home: Path) -> None:
    write(home / "more.jsonl", [{"prompt": "a", "responses": ["yes", "no"], "id": 7, "topic": "b"}])
    assert run("score", home / "rm", home / "more.jsonl", "--out", home / "more-scored.jsonl", "-q") == 0
    scored = json.loads((home / "more-scored.jsonl").read_text())
    assert (scored["id"], scored["topic"], scored["row"], scored["responses"]) == (7, "b", 1, ["yes", "no"])


def test_several_models_score_as_one(home: Path, second: Path) -> None:
    both = f"{home / 'rm'},{second}"
    for how in ("mean", "min"):
        assert run("score", both, home / "rated.jsonl", "--out", home / f"{how}.jsonl", "--combine", how, "-q") == 0
    for name in ("rm", second.name):
        assert run("score", home / name, home / "rated.jsonl", "--out", home / f"{name}.jsonl", "-q") == 0

    def scores(name: str) -> torch.Tensor:
        lines = (home / f"{name}.jsonl").read_text().splitlines()
        return torch.tensor([json.loads(line)["scores"] for line in lines])

    each = torch.stack([scores("rm"), scores(second.name)])
    torch.testing.assert_close(scores("mean"), each.mean(0))
    assert torch.equal(scores("min"), each.amin(0))


def test_responses_that_were_cut_are_counted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, pairs = home / "short", home / "pairs.jsonl"
    assert run("train", pairs, "--out", short, *base(home), "--max-tokens", 4, "--limit", 40, "--quiet") == 0
    capsys.readouterr()
    assert run("score", short, pairs, "--out", home / "short.jsonl", "--limit", 2) == 0
    assert "4 of 4 responses are longer than 4 tokens" in capsys.readouterr().out
    assert run("card", f"{short},{home / 'rm'}", pairs, "--combine", "mean", "--out", home / "cut-card", "--json") == 0
    assert "longer than 4 or 64 tokens" in told(capsys)["remarks"][-1]
    assert run("score", home / "rm", pairs, "--out", home / "whole.jsonl", "--limit", 2, "--json") == 0
    assert told(capsys)["remarks"] == []


# --------------------------------------------------------------------------------------------------------- mistakes

MISTAKES: dict[str, tuple[str, int, str]] = {
    "no data": ("train nowhere.jsonl --out x", 3, "does not exist"),
    "no model": ("train pairs.jsonl --out x --model /nowhere/at/all", 2, "the model folder does not exist"),
    "out exists": ("train pairs.jsonl --out rm", 2, "the folder already exists"),
    "frozen steps": ("train pairs.jsonl --out x --steps 3", 2, "no effect with a frozen backbone"),
    "negative steps": ("train pairs.jsonl --out x --steps -3", 2, "`steps` cannot be -3"),
    "share": ("train pairs.jsonl --out x --held-out-share 1", 2, "`held_out_share` cannot be 1"),
    "smoothing": ("train pairs.jsonl --out x --label-smoothing 0.7", 2, "`label_smoothing` cannot be 0.7"),
    "column map": ("train pairs.jsonl --out x --columns chosen", 2, "`columns` must be a section"),
    "too few": ("train pairs.jsonl --out x --limit 1", 3, "no held-out preferences"),
    "only ties": ("train ties.jsonl --out x --ties half", 3, "no training preferences"),
    "bad row": ("train bad.jsonl --out x", 3, "row 2"),
    "prompts only": ("score rm prompts.jsonl --out x.jsonl", 3, "no responses to score"),
    "no reward model": ("score nowhere rated.jsonl --out x.jsonl", 2, "prefloop reward train"),
    "a base model": ("score tiny rated.jsonl --out x.jsonl", 3, "not a reward model"),
    "file exists": ("score rm rated.jsonl --out pairs.jsonl", 2, "the file already exists"),
    "no combination": ("score rm,rm rated.jsonl --out x.jsonl", 2, "several reward models need --combine"),
    "one of one": ("score rm rated.jsonl --out x.jsonl --combine min", 2, "nothing to combine"),
    "all seen": ("card rm seen.jsonl --out x", 3, "was fitted to every question"),
    "no preference": ("card rm unpaired.jsonl --out x", 3, "no preferences"),
    "foreign folder": ("card rm pairs.jsonl --out tiny", 2, "the folder already exists"),
    "no such gold": ("card rm rated.jsonl --out x --gold lenght_min", 2, "did you mean `length_min`"),
    "gold option": ("card rm rated.jsonl --out x --gold length_mode --gold-option target=few", 2, "must be a number"),
    "option without gold": (
        "card rm pairs.jsonl --out x --gold-option target=20",
        2,
        "needs a gold reward with options",
    ),
    "option of ratings": (
        "card rm rated.jsonl --out x --gold ratings --gold-option a=1",
        2,
        "needs a gold reward with options",
    ),
    "ratings of pairs": ("card rm pairs.jsonl --out x --gold ratings", 3, "the data have no ratings"),
    "two lengths": ("train pairs.jsonl --out x --no-freeze-backbone --steps 2 --epochs 1", 2, "both say how long"),
    "epochs of nothing": ("train pairs.jsonl --out x --epochs 1", 2, "`epochs` has no effect with a frozen backbone"),
    "schedule": ("train pairs.jsonl --out x --no-freeze-backbone --schedule cosin", 2, "did you mean `cosine`"),
    "warm-up": ("train pairs.jsonl --out x --no-freeze-backbone --warmup 1.5", 2, "`warmup` cannot be 1.5"),
    "rate": ("train pairs.jsonl --out x --lr nan", 2, "`lr` must be a number, not 'nan'"),
    "seed": ("train pairs.jsonl --out x --freeze-backbone --seed -1", 2, "`seed` cannot be -1"),
    "split seed": ("train pairs.jsonl --out x --split-seed -1", 2, "`split_seed` cannot be -1"),
    "seed of a card": ("card rm pairs.jsonl --out x --seed -1", 2, "`seed` cannot be -1"),
    "limit": ("train pairs.jsonl --out x --limit -1", 2, "`limit` cannot be -1"),
    "limit of scores": ("score rm rated.jsonl --out x.jsonl --limit -1", 2, "`limit` cannot be -1"),
    "scores in a file": ("score rm rated.jsonl --out pairs.jsonl/s.jsonl", 2, "is a file, not a folder"),
    "model in a file": ("train pairs.jsonl --out pairs.jsonl/a/rm", 2, "is a file, not a folder"),
    "gold of pairs": ("card rm rated.jsonl --out x --gold length_mode", 2, "needs the option `target`"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_and_leave_nothing_behind(
    case: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = saved.load(home / "rm").trained_on
    monkeypatch.chdir(home)
    rows = [json.loads(line) for line in (home / "pairs.jsonl").read_text().splitlines()]
    groups = load_usable(home / "pairs.jsonl").groups
    write(home / "seen.jsonl", [row for row, g in zip(rows, groups, strict=True) if known(g, seen)])
    write(home / "ties.jsonl", [{"prompt": q, "responses": ["a", "b"], "scores": [1, 1]} for q in "abcdef"])
    write(home / "bad.jsonl", [rows[0], rows[0] | {"chosen": ""}])
    write(home / "prompts.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    write(home / "unpaired.jsonl", [{"prompt": "a", "completion": "yes", "label": True}])
    words, code, what = MISTAKES[case]
    capsys.readouterr()
    model = ["--model", "tiny"] if words.startswith("train") and "--model" not in words else []
    assert main(["reward", *words.split(), *model]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and what in shown.err and "Traceback" not in shown.err
    assert not (home / "x").exists() and not (home / "x.jsonl").exists()


def test_epochs_and_schedule_are_those_of_training(home: Path, tmp_path: Path) -> None:
    """An epoch is every pair once; schedule and warm-up reach the optimiser."""
    flags = (*base(home)[:2], "--no-freeze-backbone", "--autocast", "false", "--batch", "16", "--lr", "1e-3", "--quiet")
    pairs = home / "pairs.jsonl"
    more = {"epochs": ("--epochs", 0.5), "cosine": ("--epochs", 0.5, "--schedule", "cosine", "--warmup", 0.5)}
    for name, own in more.items():
        assert run("train", pairs, "--out", tmp_path / name, *flags, *own) == 0
    facts = {name: saved.load(tmp_path / name).facts for name in more}
    steps = facts["epochs"]["steps"]
    assert steps == math.ceil(0.5 * facts["epochs"]["train_pairs"] / 16)
    same = ("--steps", steps, "--schedule", "linear")
    assert run("train", pairs, "--out", tmp_path / "steps", *flags, *same) == 0
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("epochs", "steps", "cosine")}
    assert weights["epochs"] == weights["steps"] != weights["cosine"]
    assert (facts["cosine"]["schedule"], facts["cosine"]["warmup"]) == ("cosine", round(steps / 2))


def test_help_is_quick() -> None:
    code = (
        "import sys\nfrom prefloop.cli.main import main\n"
        "try:\n    main(['reward', 'train', '--help'])\nexcept SystemExit:\n    print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--freeze-backbone" in shown
    assert not {"torch", "transformers", "numpy", "matplotlib"} & set(shown.rstrip().rpartition("\n")[2].split())


# ------------------------------------------------------------------------------------------------------------- runs


def start(home: Path, *more: str) -> experiment.Result:
    fixed = ["--sampling.max_new_tokens=8", "--evaluation.prompts=4", "--evaluation.max_cut=1", "--training.steps=2"]
    fixed += [f"--model.path={home / 'tiny'}", f"--output={home / 'runs'}", "--method=rloo", "--model.autocast=false"]
    fixed += [
        "--training.batch=4",
        "--training.minibatch=4",
        "--evaluation.pairs=20",
        f"--data.train={home / 'pairs.jsonl'}",
    ]
    return experiment.run(
        configuration.load(None, [*fixed, "--data.held_out=split", "--reward.name=bradley_terry", *more]), quiet=True
    )


def test_a_run_trains_against_an_ensemble_and_measures_gold_at_evaluations(home: Path, second: Path) -> None:
    paths = f"--reward.options={{path: [{home / 'rm'}, {second}], combine: min}}"
    result = start(home, paths, "--reward.gold=length_min", "--reward.gold_options={scale: 1}", "--evaluation.every=1")
    lines = read(result.folder, "metrics")
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    assert [line["step"] for line in evaluations] == [0, 1, 2]
    for line in evaluations:  # gold is −tokens at scale 1, on the very responses whose length is measured
        assert line["eval/gold"] == pytest.approx(-line["eval/length"], abs=1e-5)
        assert line["eval/gold_se"] == pytest.approx(line["eval/length_se"], abs=1e-5)
    written = {row.key for line in evaluations for key in line if (row := metric(key))} - {"step"}
    labels = {key for key in METRICS if key.startswith("eval/labels/")}
    labels |= {"eval/loss", "eval/perplexity", "eval/demonstrations"}  # of data without preferences
    lab = {"eval/kl_reverse_exact", "eval/kl_forward_exact", "eval/entropy", "eval/mass/*", "eval/length/*"}
    several = {"eval/reward/best", "eval/gold/best", "eval/distinct_2", "eval/overlap"}  # answers to a prompt
    probe = {"eval/probe", "eval/probe/*"}
    known = {key for key in METRICS if key.startswith("eval/")} - lab - labels - several - probe
    assert written == known  # pairs and answers, all in the table
    assert all(metric(key) for line in lines for key in line if key != "kind")
    assert not any("gold" in key for line in lines if line["kind"] == "step" for key in line)
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["objective"]["gold"] == {"name": "length_min", "scale": 1}
    assert "accuracy" in result.note
    plain = start(home, paths)
    steps = [[line for line in read(r.folder, "metrics") if line["kind"] == "step"] for r in (result, plain)]
    assert steps[0] == steps[1]


def test_pairs_are_counted_whatever_the_groups_hold() -> None:
    rated = [((2.0, 1.0, 1.0), "a"), ((1.0, 1.0), "b"), ((1.0, 0.0), "a"), ((1.0, 0.0), "c"), ((1.0, 0.0), "d")]
    groups = [Group((Message("user", q),), ("yes",) * len(s), s, q, i) for i, (s, q) in enumerate(rated)]
    groups += [Group((Message("user", "e"),), (), None, "e", 9)]
    found = {n: [g.row for g in open_reward.first_pairs(groups, n)] for n in (1, 3, 9)}
    assert found == {1: [0], 3: [0, 3], 9: [0, 3, 4, 2]}  # two pairs in row 0, none in row 1
    assert [g.row for g in open_reward.first_pairs(groups, 4, "half")] == [0, 1]


OPTIONS: dict[str, tuple[str, str]] = {
    "unknown": ("{pats: rm}", "unknown option `pats`"),
    "kind": ("{path: 3}", "`path` must be a folder or a list of folders"),
    "empty": ("{path: []}", "`path` must be a folder or a list of folders"),
    "combine": ("{path: [a, b], combine: max}", "`combine` must be mean or min"),
    "alone": ("{path: [a], combine: min}", "needs more than one reward model"),
    "nothing to combine": ("{combine: min}", "`combine` applies to saved models"),
    "both": ("{path: a, pairs: 20}", "`pairs` applies to a fitted model"),
    "frozen": ("{steps: 5}", "has no effect with a frozen backbone"),
    "pairs": ("{pairs: true}", "`pairs` must be a whole number above 1"),
    "steps": ("{freeze_backbone: false, steps: true}", "`steps` must be a whole number above 0"),
    "rate": ("{freeze_backbone: false, lr: true}", "`lr` must be a number, not True"),
    "smoothing": ("{label_smoothing: 2}", "`label_smoothing` cannot be 2"),
    "no folder": ("{path: nowhere}", "the reward model does not exist"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_wrong_options_of_a_run_are_named(case: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    options, what = OPTIONS[case]
    with pytest.raises(UserError, match=what):
        start(home, f"--reward.options={options}")


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--reward.gold=length_mim"], "did you mean `length_min`"),
        (["--reward.gold=length_mode"], "needs the option `target`"),
        (["--reward.gold_options={scale: 1}"], "without a gold reward"),
        (
            ["--reward.gold=length_min", "--reward.name=labels", "--method=dpo"],
            "no fresh responses to measure gold on",
        ),
    ],
)
def test_wrong_gold_rewards_are_named(more: list[str], what: str, home: Path) -> None:
    with pytest.raises(UserError, match=what) as error:
        start(home, f"--reward.options={{path: {home / 'rm'}}}", *more)
    assert error.value.where.startswith("reward.gold")


# ---------------------------------------------------------------------------------------------- real model and data


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_smollm2_on_human_preferences_from_file_to_card(
    tmp_path: Path, preference_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, measured and reloaded through the command line; transformers gives the same scores."""
    data = real(preference_data, HUMAN_PAIRS)
    shared = ("--columns", "prompt=question", "--group-by", "qid", "--limit", 260, "--json")
    more = ("--held-out-share", 0.35, "--max-tokens", 320)
    assert run("train", data, "--out", tmp_path / "rm", "--freeze-backbone", *more, *shared) == 0
    trained = told(capsys)
    assert trained["facts"]["validation_nll"] < 0.6931 and trained["facts"]["held_out_pairs"] > 40
    assert run("card", tmp_path / "rm", data, "--out", tmp_path / "card", "--gold", "length_min", *shared) == 0
    card = told(capsys)
    assert card["accuracy"]["value"] == pytest.approx(trained["facts"]["held_out_accuracy"], abs=0.02)
    assert card["questions"] == trained["facts"]["held_out_questions"]
    assert run("score", tmp_path / "rm", data, "--out", tmp_path / "scores.jsonl", *shared[:-2], 3, "--json") == 0
    capsys.readouterr()
    from transformers import AutoModelForSequenceClassification

    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    own = saved.load(tmp_path / "rm")
    groups = load_usable(data, columns={"prompt": "question"}, limit=3).groups
    made = own.template.answered(groups[0])
    ids = torch.cat([made.prompt, made.answers[0]])[None]
    with torch.no_grad():
        logit = theirs(ids, attention_mask=torch.ones_like(ids)).logits[0, 0]
    torch.testing.assert_close(logit + own.head.bias[0], own.score_groups(groups).score[0], atol=1e-4, rtol=0)
