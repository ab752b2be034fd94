"""Encoders are fitted to preferences, saved, read back, and score as transformers' own forward does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

import architectures
import tiny
from prefloop.cli.main import main
from prefloop.core.errors import DataError
from prefloop.data.records import Group, Message
from prefloop.rewards.bradley_terry import disk as saved
from prefloop.rewards.bradley_terry import start
from prefloop.rewards.bradley_terry.fit import fit
from prefloop.rewards.bradley_terry.model import BradleyTerry
from prefloop.rewards.bradley_terry.options import FitOptions
from prefloop.rewards.bradley_terry.whole import template_for

pytestmark = pytest.mark.usefixtures("one_thread")

ENCODERS = ["bert", "roberta", "deberta-v2", "electra", "distilbert", "albert", "modernbert", "ibert", "fnet"]
TRAINED = {"freeze_backbone": False, "steps": 3, "lr": 1e-3, "batch": 4}
WITH_HEAD = {**TRAINED, "pooling": "head"}
CHAT = "[CLS] {% for m in messages %}{{ m['role'] }} : {{ m['content'] }} [SEP] {% endfor %}"


def pairs() -> list[Group]:
    texts = [("yes yes a", "no yes a"), ("yes b", "no b"), ("c yes yes", "c no no"), ("yes yes", "a no")]
    return [Group((Message("user", q),), pair, (1.0, 0.0), q, i) for i, q in enumerate("abc") for pair in texts]


def folder_of(kind: str, folder: Path, auto: Any = AutoModelForMaskedLM, tokenizer: Any = None, **options: Any) -> Path:
    """An encoder as its own training leaves it."""
    tokenizer = tokenizer or tiny.encoder_tokenizer()
    config = architectures.config(kind, pad_token_id=tokenizer.pad_token_id, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def fitted(folder: Path, template: str = "auto", **options: Any) -> BradleyTerry:
    base = start.load(str(folder))
    return fit(base.model, template_for(base.tokenizer, template), pairs(), FitOptions(**options))


def theirs(folder: Path, *inputs: Any) -> list[float]:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return [float(model(**x).logits[0, 0]) for x in inputs]


def pair_inputs(folder: Path) -> list[Any]:
    tokenizer = saved.load(folder).tokenizer
    return [tokenizer(g.prompt[0].content, x, return_tensors="pt") for g in pairs() for x in g.responses]


def same_here_and_there(model: BradleyTerry, folder: Path, inputs: list[Any]) -> None:
    """After saving, reloading and in transformers."""
    again = saved.load(folder)
    scores = model.score_groups(pairs()).score
    exact = (
        {"atol": 1e-4, "rtol": 1e-5} if model.backbone.apart else {"atol": 0, "rtol": 0}
    )  # a Fourier transform rounds
    torch.testing.assert_close(again.score_groups(pairs()).score, scores, **exact)
    assert scores.std() > 1e-3
    offset = json.loads((folder / "reward.json").read_text())["offset"]
    torch.testing.assert_close(torch.tensor(theirs(folder, *inputs)) + offset, scores, atol=2e-5, rtol=1e-4)
    assert again.trained_on == model.trained_on and again.max_tokens == model.max_tokens


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_trains_and_scores_as_transformers_does(kind: str, tmp_path: Path) -> None:
    base = folder_of(kind, tmp_path / "base")
    model = fitted(base, **WITH_HEAD)
    before = dict(start.load(str(base)).model.named_parameters())
    changed = [not torch.equal(x, before[name]) for name, x in model.backbone.named_parameters()]
    assert sum(changed) > len(changed) / 2 and model.paired and model.whole
    saved.save(model, tmp_path / "rm")
    same_here_and_there(model, tmp_path / "rm", pair_inputs(tmp_path / "rm"))
    assert model.compare(pairs()).margin.mean() > 0


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification])
def test_a_frozen_encoder_is_not_changed_whatever_it_was_saved_as(auto: Any, tmp_path: Path) -> None:
    base = folder_of("bert", tmp_path / "base", auto, tiny.encoder_tokenizer(inputs=tiny.TYPED), num_labels=1)
    loaded = start.load(str(base))
    model = fitted(base, pooling="head")
    assert all(torch.equal(x, loaded.model.state_dict()[name]) for name, x in model.backbone.state_dict().items())
    pooler = [name for name in loaded.new if "pooler" in name]
    assert bool(pooler) == (auto is AutoModelForMaskedLM) == bool(loaded.new)
    assert ("stay random with a frozen backbone" in loaded.note(True, "head")) == bool(pooler)
    saved.save(model, tmp_path / "rm")
    same_here_and_there(model, tmp_path / "rm", pair_inputs(tmp_path / "rm"))


def test_new_weights_depend_on_the_seed_only(tmp_path: Path) -> None:
    base = str(folder_of("roberta", tmp_path / "base"))
    first, again, other = (start.load(base, seed=seed).model.state_dict() for seed in (0, 0, 1))
    new = start.load(base).new
    assert new and all(torch.equal(x, again[name]) for name, x in first.items())
    assert {name for name, x in first.items() if not torch.equal(x, other[name])} == {
        f"model.{n}" for n in new if "weight" in n
    }


def test_an_encoder_with_a_chat_template_reads_the_rendered_conversation(tmp_path: Path) -> None:
    tokenizer = tiny.encoder_tokenizer(CHAT)
    tokenizer.eos_token = "[SEP]"
    base = folder_of("modernbert", tmp_path / "base", tokenizer=tokenizer)
    model = fitted(base, **WITH_HEAD)
    saved.save(model, tmp_path / "rm")
    said = [
        [{"role": "user", "content": g.prompt[0].content}, {"role": "assistant", "content": x}]
        for g in pairs()
        for x in g.responses
    ]
    rendered = [tokenizer.apply_chat_template(x, return_dict=True, return_tensors="pt") for x in said]
    assert not model.paired
    same_here_and_there(model, tmp_path / "rm", rendered)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_reward_model_is_trained_further(kind: str, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer() if kind == "llama" else tiny.encoder_tokenizer()
    base = folder_of(kind, tmp_path / "rm", AutoModelForSequenceClassification, tokenizer, num_labels=1)
    model = fitted(base, **TRAINED)
    saved.save(model, tmp_path / "more")
    assert torch.equal(saved.load(tmp_path / "more").score_groups(pairs()).score, model.score_groups(pairs()).score)


def test_from_the_command_line_to_card_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = folder_of("bert", tmp_path / "base", tokenizer=tiny.encoder_tokenizer(inputs=tiny.TYPED))
    data, rm = tmp_path / "data.jsonl", tmp_path / "rm"
    rows = [{"prompt": f"{q} {p}", "chosen": f"yes {q}", "rejected": f"no {p}"} for q in "abc" for p in "abc"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed = ["--model", str(base), "--held-out-share", "0.4", "--autocast", "false"]
    more = ["--no-freeze-backbone", "--steps", "2", "--pooling", "head", "--json"]
    assert main(["reward", "train", str(data), "--out", str(rm), *fixed, *more]) == 0
    record = json.loads(capsys.readouterr().out)
    assert "a pair of texts" in record["notes"][0] and "start at random" in record["notes"][1]
    assert set(record["notes"]) <= set(json.loads((rm / "manifest.json").read_text())["notes"])
    card = ["--out", str(tmp_path / "card"), "--gold", "length_min", "--json"]
    assert main(["reward", "card", str(rm), str(data), *card]) == 0
    assert json.loads(capsys.readouterr().out)["responses"] == 2 * record["facts"]["held_out_pairs"]
    scores = tmp_path / "scores.jsonl"
    assert main(["reward", "score", str(rm), str(data), "--out", str(scores), "--autocast", "false"]) == 0
    first = json.loads(scores.read_text().splitlines()[0])
    inputs = [saved.load(rm).tokenizer("a a", x, return_tensors="pt") for x in ("yes a", "no a")]
    assert first["scores"] == pytest.approx(theirs(rm, *inputs), abs=1e-4)


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kind", "auto"), [("bart", AutoModelForSequenceClassification), ("t5", AutoModel), ("bart", AutoModel)]
)
def test_an_encoder_with_a_decoder_is_refused(
    kind: str, auto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = folder_of(kind, tmp_path / "base", auto, num_labels=1, eos_token_id=1)
    monkeypatch.setattr(auto, "from_pretrained", None)
    with pytest.raises(DataError, match="cannot become a reward model: it has an encoder and a decoder"):
        start.load(str(base))


def test_an_encoder_that_needs_more_than_text_is_refused(tmp_path: Path) -> None:
    base = folder_of("xmod", tmp_path / "base")
    with pytest.raises(DataError, match=r"XmodForSequenceClassification cannot be run on text alone: .*language"):
        start.load(str(base))


def test_more_labels_and_lost_layers_are_refused(tmp_path: Path) -> None:
    labels = folder_of("bert", tmp_path / "labels", AutoModelForSequenceClassification, num_labels=3)
    with pytest.raises(DataError, match="has 3 labels"):
        start.load(str(labels))
    base = folder_of("bert", tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    lost = next(name for name in weights if "encoder.layer.1." in name)
    save_file({k: x for k, x in weights.items() if k != lost}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="lacks its weights"):
        start.load(str(base))
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    config = AutoConfig.from_pretrained(base)
    config.num_hidden_layers = 1
    config.save_pretrained(base)
    with pytest.raises(DataError, match="does not have"):
        start.load(str(base))
