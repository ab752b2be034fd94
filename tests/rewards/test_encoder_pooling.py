"""Encoders whose states are pooled: by hand from transformers' own states, after reloading, and within their length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_encoder_training import ENCODERS, TRAINED, folder_of, pairs
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification

import tiny
from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.policies import pretrained
from prefloop.policies.conversation import template_of
from prefloop.rewards.bradley_terry import disk as saved
from prefloop.rewards.bradley_terry import start
from prefloop.rewards.bradley_terry.fit import fit, pooling_of
from prefloop.rewards.bradley_terry.model import BradleyTerry
from prefloop.rewards.bradley_terry.options import FitOptions, Pooling
from prefloop.rewards.bradley_terry.whole import Whole, template_for

pytestmark = pytest.mark.usefixtures("one_thread")


def fitted(folder: Path, **options: Any) -> BradleyTerry:
    base = start.load(str(folder))
    return fit(base.model, template_for(base.tokenizer), pairs(), FitOptions(**options))


def by_hand(model: BradleyTerry, encoder: Any, question: str, answer: str, pooling: str) -> float:
    """One pair alone through transformers' own forward, its states pooled in Python."""
    made = model.tokenizer(question, answer, return_tensors="pt")
    with torch.no_grad():
        states = encoder(**made).last_hidden_state[0]
    of_answer = [state for state, side in zip(states, made.sequence_ids(0), strict=True) if side == 1] + [states[-1]]
    mean = torch.stack(of_answer).mean(0)
    read = {"mean": mean, "cls": states[0], "last": states[-1], "both": torch.cat([states[-1], mean])}[pooling]
    return float(read @ model.head.weight[0] + model.head.bias[0])


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "both"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_pooled_encoders_score_by_hand_alone_in_a_batch_and_reloaded(
    kind: str, pooling: Pooling, tmp_path: Path
) -> None:
    """Rows of different lengths: neither padding nor a row beside it changes a score."""
    typed = tiny.TYPED if kind in ("bert", "albert", "electra") else ()
    base = folder_of(kind, tmp_path / "base", AutoModel, tiny.encoder_tokenizer(inputs=typed))
    model = fitted(base, pooling=pooling)
    encoder = AutoModel.from_pretrained(base).eval()
    expected = [by_hand(model, encoder, g.prompt[0].content, x, pooling) for g in pairs() for x in g.responses]
    scores = model.score_groups(pairs()).score
    torch.testing.assert_close(scores, torch.tensor(expected), atol=2e-5, rtol=1e-4)
    assert scores.std() > 1e-3 and model.pooling == pooling
    saved.save(model, tmp_path / "rm")
    again = saved.load(tmp_path / "rm")
    assert torch.equal(again.score_groups(pairs()).score, scores) and again.pooling == pooling and again.paired
    assert {p.name for p in (tmp_path / "rm").iterdir()} >= {"model.safetensors", "reward.json", "config.json"}


def test_the_attention_is_bidirectional_and_the_sides_have_types(tmp_path: Path) -> None:
    """The state of the first token depends on the last word of the answer, and on which side a word stands."""
    base = folder_of("bert", tmp_path / "base", AutoModel, tiny.encoder_tokenizer(inputs=tiny.TYPED))
    model = fitted(base, pooling="cls")
    rows = model.encode(pairs()).rows[:2]
    first, second = (model.features([row])[0] for row in rows)
    assert not torch.allclose(first, second)
    seen: list[Tensor] = []
    assert isinstance(model.backbone, Whole)
    model.backbone.model.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["token_type_ids"]), with_kwargs=True
    )
    model.features(rows[:1])
    theirs = model.tokenizer("a", "yes yes a", return_tensors="pt")
    assert torch.equal(seen[0], theirs["token_type_ids"]) and set(seen[0][0].tolist()) == {0, 1}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_whole_encoder_learns_and_trains_what_it_reads_only(pooling: str, tmp_path: Path) -> None:
    base = folder_of("bert", tmp_path / "base", AutoModel)
    model = fitted(base, **TRAINED, pooling=pooling)
    before = AutoModel.from_pretrained(base).state_dict()
    changed = [
        n for n, x in model.backbone.state_dict().items() if not torch.equal(x, before[n.removeprefix("model.")])
    ]
    assert len(changed) > 5 and not any("pooler" in name for name in model.backbone.state_dict())
    saved.save(model, tmp_path / "rm")
    scores = model.score_groups(pairs()).score
    assert torch.equal(saved.load(tmp_path / "rm").score_groups(pairs()).score, scores)
    assert model.compare(pairs()).margin.mean() > 0


def test_the_default_is_by_architecture(tmp_path: Path) -> None:
    encoder = start.load(str(folder_of("bert", tmp_path / "encoder", AutoModel))).model
    one = {"num_labels": 1}
    classifier = start.load(str(folder_of("bert", tmp_path / "rm", AutoModelForSequenceClassification, **one))).model
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), tmp_path / "llama", "")
    decoder = start.load(str(tmp_path / "llama")).model
    assert [pooling_of(model, "auto") for model in (encoder, classifier, decoder)] == ["mean", "head", "last"]
    assert [pooling_of(model, "mean") for model in (encoder, classifier, decoder)] == ["mean"] * 3
    for pooling, why in (("cls", "sees nothing of the answer"), ("head", "no layers of a head")):
        with pytest.raises(UserError, match=f"cannot be {pooling} for a language model: .*{why}"):
            fit(decoder, template_of(tiny.tokenizer()), pairs(), FitOptions(pooling=pooling))


def test_a_classifier_can_be_read_by_its_states_too(tmp_path: Path) -> None:
    base = folder_of("roberta", tmp_path / "base", AutoModelForSequenceClassification, num_labels=1)
    model = fitted(base, pooling="mean")
    saved.save(model, tmp_path / "rm")
    assert torch.equal(saved.load(tmp_path / "rm").score_groups(pairs()).score, model.score_groups(pairs()).score)


def test_longer_texts_are_cut_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = folder_of("bert", tmp_path / "base", AutoModel, max_position_embeddings=12)
    data, rm = tmp_path / "data.jsonl", tmp_path / "rm"
    rows = [
        {"prompt": f"{q} {p}", "chosen": "yes " * n, "rejected": "no"} for q in "abc" for p, n in (("a", 3), ("b", 20))
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed = ["--model", str(base), "--held-out", "none", "--autocast", "false", "--json"]
    assert main(["reward", "train", str(data), "--out", str(rm), *fixed]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any(note.startswith("3 of 12 responses are longer than 12 tokens") for note in notes)
    assert any("the mean of its states over the answer (--pooling mean)" in note for note in notes)
    assert main(["reward", "score", str(rm), str(data), "--out", str(tmp_path / "s"), "--autocast", "false"]) == 0
    assert "3 of 12 responses are longer than 12 tokens" in capsys.readouterr().out
