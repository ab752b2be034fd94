"""Reward models as sequence classifiers of transformers: written, read back, read from others, refused; ensembles."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import tiny
from prefloop.core.errors import DataError, UserError
from prefloop.data.records import Group, Message
from prefloop.policies import pretrained
from prefloop.policies.conversation import template_of
from prefloop.rewards.bradley_terry import classifier as sequence_classifier
from prefloop.rewards.bradley_terry import disk as saved
from prefloop.rewards.bradley_terry.encoding import make_row
from prefloop.rewards.bradley_terry.ensemble import Ensemble
from prefloop.rewards.bradley_terry.fit import fit as fit_model
from prefloop.rewards.bradley_terry.model import BradleyTerry
from prefloop.rewards.bradley_terry.options import FitOptions, PairLoss, Pooling
from prefloop.worlds.text.problem import TextProblem

CHATML = (  # writes an `a` behind every EOS, as ChatML does a line break
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} <eos> a {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
TURNS = CHATML.replace("<eos> a", "c a")  # closes a turn with `c a`, as Gemma does with another token than the EOS
BARE = tiny.TEMPLATE  # writes nothing behind an answer


def pairs() -> list[Group]:
    texts = [("yes yes a", "no yes a"), ("yes b", "no b"), ("c yes yes", "c no no"), ("yes yes", "a no")]
    return [Group((Message("user", q),), pair, (1.0, 0.0), q, i) for i, q in enumerate("abc") for pair in texts]


def fit(seed: int = 0, **options: Any) -> BradleyTerry:
    model = options.pop("model", None) or tiny.llama(dtype=torch.float32, seed=seed)
    return fit_model(model, template_of(tiny.tokenizer()), pairs(), FitOptions(**options))


@cache
def frozen(pooling: Pooling = "last", seed: int = 0) -> BradleyTerry:
    return fit(seed, pooling=pooling)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved.save(frozen(), tmp_path / "rm")
    return tmp_path / "rm"


# ------------------------------------------------------------------------------------------------ written and read


@pytest.mark.parametrize("make", [tiny.llama, tiny.qwen, tiny.gpt2])
def test_what_is_saved_scores_the_same_here_and_in_transformers(make: Callable[..., Any], tmp_path: Path) -> None:
    model = fit(model=make(dtype=torch.float32), freeze_backbone=False, steps=3, lr=1e-3)
    saved.save(model, tmp_path / "rm")
    again = saved.load(tmp_path / "rm")
    batch = TextProblem(pairs(), template_of(tiny.tokenizer())).batch_of(pairs())
    assert torch.equal(again.score_batch(batch), model.score_batch(batch))
    assert again.facts == model.facts and again.trained_on == model.trained_on
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    assert theirs.config.num_labels == 1
    ids = torch.cat([batch.prompts[0], batch.responses[0, 0][batch.mask[0, 0]]])
    padded = torch.stack([ids, torch.cat([ids[:-3], torch.full((3,), theirs.config.pad_token_id)])])
    own = make_row(ids, ids[:0], 1024), make_row(ids[:-3], ids[:0], 1024)
    logits = theirs(padded, attention_mask=torch.ones_like(padded)).logits[:, 0] + model.head.bias
    torch.testing.assert_close(logits, model.scores(own), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["last", "mean", "both"])
def test_texts_score_the_same_after_reloading(pooling: Pooling, tmp_path: Path) -> None:
    model = frozen(pooling)
    saved.save(model, tmp_path / "rm")
    layout = json.loads((tmp_path / "rm" / "reward.json").read_text())["layout"]
    assert layout == ("sequence_classification" if pooling == "last" else "prefloop")
    assert torch.equal(saved.load(tmp_path / "rm").score_groups(pairs()).score, model.score_groups(pairs()).score)


def test_padding_is_never_the_eos(folder: Path) -> None:
    """Transformers scores at the last token that is not padding, which would be the one before the EOS."""
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] not in (None, tiny.EOS)
    assert saved.load(folder).tokenizer.pad_token_id != tiny.EOS


def test_a_base_model_a_causal_model_and_a_classifier_give_the_same_fit(folder: Path) -> None:
    causal = tiny.llama(dtype=torch.float32)
    classifier = classifier_of(causal.config)
    classifier.model.load_state_dict(causal.model.state_dict())
    scores = [fit(model=m).score_groups(pairs()).score for m in (causal.model, classifier)]
    assert all(torch.equal(frozen().score_groups(pairs()).score, found) for found in scores)


def test_swapping_a_pair_negates_its_margin_through_the_network() -> None:
    model = fit(freeze_backbone=False, steps=2, lr=1e-3)
    turned = [replace(g, responses=g.responses[::-1], scores=(1.0, 0.0)) for g in pairs()]
    torch.testing.assert_close(model.compare(turned).margin, -model.compare(pairs()).margin, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------------ models of others


def classifier_of(config: Any, labels: int = 1) -> Any:
    config = copy.deepcopy(config)
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return AutoModelForSequenceClassification.from_config(config).eval()


def external(folder: Path, template: str = tiny.TEMPLATE, labels: int = 1) -> Any:
    """A classifier as another library would save it."""
    model = classifier_of(tiny.llama(dtype=torch.float32).config, labels)
    model.save_pretrained(folder)
    tokenizer = tiny.tokenizer(template)
    if template == TURNS:
        tokenizer.add_special_tokens({"additional_special_tokens": ["c"]})
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize(("template", "closing"), [(CHATML, "<eos> a"), (TURNS, "c a"), (BARE, "")])
def test_a_model_of_others_scores_as_its_own_forward_does(template: str, closing: str, tmp_path: Path) -> None:
    theirs = external(tmp_path, template)
    model = saved.load(tmp_path)
    assert model.template.closing == tuple(tiny.tokenizer().encode(closing, add_special_tokens=False))
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "yes"}]
    whole = model.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    with torch.no_grad():
        expected = theirs(torch.tensor([whole])).logits[0, 0]
    scored = model.score_groups([Group((Message("user", "a"),), ("yes",), None, "a", 1)])
    torch.testing.assert_close(scored.score[0], expected, atol=1e-5, rtol=0)
    assert model.trained_on == frozenset() and model.max_tokens == 64


@pytest.mark.parametrize("template", [CHATML, TURNS])
def test_a_response_that_was_cut_is_not_ended_by_the_template(template: str, tmp_path: Path) -> None:
    external(tmp_path, template)
    model = saved.load(tmp_path)
    prompt, cut = torch.tensor([3, 6, 9]), torch.tensor([7, 7])
    for end in (tiny.EOS, model.template.closing[0]):
        assert model._row(prompt, torch.tensor([7, end])).ids.tolist() == [3, 6, 9, 7, *model.template.closing]
    assert model._row(prompt, cut).ids.tolist() == [3, 6, 9, 7, 7]


def causal_only(folder: Path) -> None:
    pretrained.save(tiny.llama(dtype=torch.float32), tiny.tokenizer(), folder, "a causal model")


def headless(folder: Path) -> None:
    external(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def holed(folder: Path) -> None:
    external(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    model = external(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def foreign_code(folder: Path) -> None:
    external(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('this code was run')\n")


def no_template(folder: Path) -> None:
    external(folder)
    (folder / "chat_template.jinja").unlink()


def endless(folder: Path) -> None:
    external(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "causal": (causal_only, "not a reward model: its architecture is LlamaForCausalLM"),
    "labels": (lambda folder: external(folder, labels=2), "the model has 2 labels; a reward model must have one"),
    "headless": (headless, "lacks its head: score.weight would be newly initialised"),
    "holed": (holed, "lacks its weights: model.norm.weight would be newly initialised"),
    "pickled": (pickled, "its weights are pickles .pytorch_model.bin., which are never loaded"),
    "foreign code": (foreign_code, "the reward model cannot be loaded"),
    "template": (no_template, "no chat template"),
    "changed": (
        lambda folder: external(folder, tiny.TEMPLATE.replace(" : ", " ")),
        "does not render an answered conversation",
    ),
    "endless": (endless, "defines no token that ends an answer"),
    "empty": (lambda folder: folder.mkdir(exist_ok=True), "the reward model cannot be loaded: it has no config.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_reward_model_is_refused(case: str, tmp_path: Path) -> None:
    make, what = REFUSED[case]
    make(tmp_path / "rm")
    with pytest.raises(UserError, match=what) as error:
        saved.load(tmp_path / "rm")
    renderings = 2 if case == "changed" else 0  # lines below the sentence
    assert error.value.what.count("\n") == renderings and len(error.value.what.splitlines()[0]) < 300


def test_incomplete_facts_are_refused(folder: Path) -> None:
    (folder / "reward.json").write_text('{"pooling": "last"}')
    with pytest.raises(DataError, match="facts of the reward model are incomplete"):
        saved.load(folder)


def test_a_backbone_in_bfloat16_is_read_back_as_such(tmp_path: Path) -> None:
    model = fit(model=tiny.llama(dtype=torch.bfloat16))
    saved.save(model, tmp_path / "rm")
    assert torch.equal(saved.load(tmp_path / "rm").score_groups(pairs()).score, model.score_groups(pairs()).score)


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> bool:
        raise OSError("the disk is full")

    monkeypatch.setattr(sequence_classifier, "write", fails)
    with pytest.raises(OSError, match="full"):
        saved.save(frozen(), tmp_path / "rm")
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_without_a_class_keeps_our_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_classifier, "empty", lambda config: None)
    saved.save(frozen(), tmp_path / "rm")
    monkeypatch.undo()
    assert json.loads((tmp_path / "rm" / "reward.json").read_text())["layout"] == "prefloop"
    assert torch.equal(saved.load(tmp_path / "rm").score_groups(pairs()).score, frozen().score_groups(pairs()).score)


# ------------------------------------------------------------------------------------------------------- ensembles


def test_an_ensemble_is_the_mean_or_the_lowest_of_its_members() -> None:
    members = tuple(frozen("last", seed) for seed in (0, 1, 2))
    batch = TextProblem(pairs(), template_of(tiny.tokenizer())).batch_of(pairs())
    each = torch.stack([m.score_batch(batch) for m in members])
    mean, least = Ensemble(members), Ensemble(members, "min")
    assert torch.equal(mean.score_batch(batch), each.mean(0)) and torch.equal(least.score_batch(batch), each.amin(0))
    scored = least.score_groups(pairs())
    torch.testing.assert_close(scored.score, least.score_batch(batch).flatten(), atol=1e-5, rtol=0)
    winner, loser = scored.score.view(-1, 2).unbind(-1)
    assert torch.equal(least.compare(pairs()).margin, winner - loser)
    assert mean.trained_on == members[0].trained_on and mean.is_traced
    mixed = Ensemble((members[0], replace(members[1], trained_on=frozenset(), max_tokens=2)))
    assert mixed.trained_on and not mixed.is_traced
    assert mixed.score_groups(pairs()).cut.all() and not scored.cut.any()


def test_token_ids_for_members_of_other_vocabularies_and_none_at_all_are_refused() -> None:
    model, tokenizer = frozen(), tiny.tokenizer()
    tokenizer.add_tokens(["more"])
    batch = TextProblem(pairs(), template_of(tiny.tokenizer())).batch_of(pairs())
    with pytest.raises(UserError, match="reward models of the ensemble have different tokenizers"):
        Ensemble((model, replace(model, template=template_of(tokenizer)))).score_batch(batch)
    with pytest.raises(UserError, match="at least one"):
        Ensemble(())


# ------------------------------------------------------------------------------------------------- training options


LOSSES = {
    "plain": PairLoss(),
    "ties": PairLoss(ties="half"),
    "smoothed": PairLoss(label_smoothing=0.2),
    "lead": PairLoss(rating_margin=3.0),
    "centred": PairLoss(centring=0.5),
}


@pytest.mark.parametrize("name", LOSSES)
def test_ties_margins_and_centring_reach_the_training_of_the_backbone(name: str) -> None:
    """The first step's loss, by hand from the scores of the head that training everything starts at."""
    tied = [*pairs(), Group((Message("user", "a"),), ("b a", "c a"), (1.0, 1.0), "a", 99)]
    given, observed = (tiny.llama(dtype=torch.float32), template_of(tiny.tokenizer()), tied), []
    start = fit_model(*given, FitOptions(loss=LOSSES[name]))
    one_step = FitOptions(freeze_backbone=False, steps=1, batch=13, loss=LOSSES[name])
    fitted = fit_model(*given, one_step, observe=lambda step, loss: observed.append(loss))
    assert fitted.facts["train_ties"] == (name == "ties")
    scores = start.score_groups(tied).score.double().view(-1, 2)
    won, lost = torch.log1p((scores[:, 1] - scores[:, 0]).exp()), torch.log1p((scores[:, 0] - scores[:, 1]).exp())
    by_hand = {
        "plain": lambda: won[:12],
        "ties": lambda: torch.cat([won[:12], (won[12:] + lost[12:]) / 2]),
        "smoothed": lambda: 0.8 * won[:12] + 0.2 * lost[:12],
        "lead": lambda: torch.log1p((3 + scores[:12, 1] - scores[:12, 0]).exp()),
        "centred": lambda: won[:12] + 0.5 * scores[:12].sum(-1) ** 2,
    }
    assert observed == [pytest.approx(float(by_hand[name]().mean()), abs=1e-5)]
