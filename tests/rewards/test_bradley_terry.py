"""The Bradley-Terry reward model: known scores recovered, exact symmetry, padding, saving, and real preferences."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize

import tiny
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.data.records import Group, Message
from prefloop.policies.conversation import template_of
from prefloop.policies.pretrained import load as load_model
from prefloop.rewards.bradley_terry import disk as saved
from prefloop.rewards.bradley_terry.accuracy import reward_accuracy
from prefloop.rewards.bradley_terry.fit import fit as fit_model
from prefloop.rewards.bradley_terry.logistic import PairFeatures, fit_linear, minimise, pair_features
from prefloop.rewards.bradley_terry.loss import pair_loss
from prefloop.rewards.bradley_terry.model import BradleyTerry, known
from prefloop.rewards.bradley_terry.options import FitOptions, PairLoss, Pooling


def group(prompt: str, responses: tuple[str, ...], scores: tuple[float, ...] | None, key: str, row: int = 0) -> Group:
    return Group((Message("user", prompt),), responses, scores, key, row)


def prefer_yes() -> list[Group]:
    """In every pair the answer with more `yes` wins, whatever else stands there."""
    texts = [("yes yes a", "no yes a"), ("yes b", "no b"), ("c yes yes", "c no no"), ("yes yes", "a no")]
    return [group(q, pair, (1.0, 0.0), q, i) for i, q in enumerate("abc") for pair in texts]


def fit(groups: list[Group], **options: Any) -> BradleyTerry:
    return fit_model(
        tiny.llama(dtype=torch.float32),
        template_of(tiny.tokenizer()),
        groups,
        FitOptions(**{"pooling": "both"} | options),
    )


def strict(difference: torch.Tensor) -> PairFeatures:
    """Pairs of which the first side was preferred."""
    return pair_features(difference, torch.zeros_like(difference), torch.ones(len(difference)), PairLoss())


def as_batch(groups: list[Group]) -> Batch:
    """What a text problem makes of groups: right-padded ids."""
    template = template_of(tiny.tokenizer())
    prompts = [template.prompt(g.prompt) for g in groups]
    ids = [template.answered(g).answers for g in groups]
    mask = torch.zeros(len(ids), len(ids[0]), 7, dtype=torch.bool)
    responses = torch.zeros(mask.shape, dtype=torch.long)
    for p, row in enumerate(ids):
        for g, x in enumerate(row):
            mask[p, g, : len(x)], responses[p, g, : len(x)] = True, x
    return Batch(prompts, responses, mask)


# ----------------------------------------------------------------------------------------------- the linear regression


def test_nll_by_hand_and_by_finite_differences() -> None:
    m = torch.tensor([0.0, 2.0, -3.0], dtype=torch.float64, requires_grad=True)
    expected = [0.6931471805599453, 0.12692801104297263, 3.048587351573742]
    torch.testing.assert_close(pair_loss(m), torch.tensor(expected, dtype=torch.float64))
    mixed = 0.9 * torch.tensor(expected) + 0.1 * torch.tensor([0.6931472, 2.1269280, 0.0485874])
    torch.testing.assert_close(pair_loss(m, flip=0.1).float(), mixed)
    assert torch.autograd.gradcheck(lambda x: pair_loss(x, flip=0.1), m)


def test_known_scores_are_recovered() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([1.5, -0.7, 0.0, 0.03], dtype=torch.float64)
    x = torch.randn(6000, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.1, 30.0])
    won = torch.rand(6000, generator=generator, dtype=torch.float64) < torch.sigmoid(x @ truth)
    found = fit_linear(torch.where(won[:, None], x, -x), [i // 3 for i in range(6000)], seed=0)
    scored, known = x @ found.weight, x @ truth
    assert (scored - known).square().mean() / known.square().mean() < 0.01
    assert found.penalty <= 0.01
    assert found.validation_nll == pytest.approx(float(pair_loss(torch.where(won, known, -known)).mean()), abs=0.01)


def test_minimum_agrees_with_scipy() -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.3
    own = minimise(strict(x), torch.zeros(3, dtype=torch.float64), penalty=0.2)

    def objective(w: Any) -> float:
        v = torch.as_tensor(w)
        return float((1 + (-x @ v).exp()).log().mean() + 0.1 * v @ v)

    torch.testing.assert_close(own, torch.as_tensor(minimize(objective, [0.0] * 3, tol=1e-12).x), atol=1e-5, rtol=0)


def test_units_of_features_do_not_matter_and_noise_is_shrunk() -> None:
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x[:, 4] = 0.0  # a feature that never differs
    units = torch.tensor([1.0, 10.0, 0.1, 5.0, 1.0], dtype=torch.float64)
    found, scaled = fit_linear(x, list(range(200)), seed=0), fit_linear(x * units, list(range(200)), seed=0)
    torch.testing.assert_close(scaled.weight * units, found.weight)
    free = minimise(strict(x[:, :4]), torch.zeros(4, dtype=torch.float64), penalty=0.0)
    assert found.weight[:4].norm() < 0.2 * free.norm() and found.weight[4] == 0
    with pytest.raises(DataError, match="two questions"):
        fit_linear(x, ["q"] * 200, seed=0)


# -------------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("pooling", ["last", "mean", "both"])
def test_learns_a_visible_preference_and_pools_by_the_mask(pooling: Pooling) -> None:
    groups = prefer_yes()
    model = fit(groups, pooling=pooling)
    seen = reward_accuracy(model, groups)
    assert seen.accuracy.value >= 0.9 and (seen.pairs, seen.questions) == (12, 3)
    batch = as_batch(groups)
    scores = model.score_batch(batch)
    torch.testing.assert_close(scores[:, 0] - scores[:, 1], model.compare(groups).margin, atol=1e-5, rtol=0)
    state = _hidden(model, batch, 0, 0)
    prompt = len(batch.prompts[0])
    parts = {"last": state[-1:], "mean": state[prompt:].mean(0, keepdim=True)}
    features = torch.cat([parts[k] for k in (("last", "mean") if pooling == "both" else (pooling,))], -1)
    torch.testing.assert_close(scores[0, 0], model.head(features).squeeze(), atol=1e-5, rtol=0)


def _hidden(model: BradleyTerry, batch: Batch, p: int, g: int) -> torch.Tensor:
    """Hidden states of one unpadded sequence."""
    ids = torch.cat([batch.prompts[p], batch.responses[p, g][batch.mask[p, g]]])
    with torch.no_grad():
        return model.backbone(ids[None]).last_hidden_state[0]


def test_swapping_a_pair_negates_its_margin_exactly() -> None:
    groups = prefer_yes()
    model, batch = fit(groups), as_batch(groups)
    swapped = replace(batch, responses=batch.responses.flip(1), mask=batch.mask.flip(1))
    one, two = model.score_batch(batch), model.score_batch(swapped)
    assert torch.equal(one[:, 0] - one[:, 1], -(two[:, 0] - two[:, 1]))
    turned = [replace(g, scores=(0.0, 1.0)) for g in groups]
    assert torch.equal(model.compare(groups).margin, -model.compare(turned).margin)
    assert torch.equal(model.compare(groups).longer, -model.compare(turned).longer)


def test_padding_order_and_portions_change_nothing() -> None:
    groups = prefer_yes()
    model, batch = fit(groups), as_batch(groups)
    scores = model.score_batch(batch)
    torch.testing.assert_close(replace(model, micro_tokens=1).score_batch(batch), scores, atol=1e-5, rtol=0)
    garbage = replace(batch, responses=torch.where(batch.mask, batch.responses, 5))
    assert torch.equal(model.score_batch(garbage), scores)
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.score_batch(batch[order]), scores[order], atol=1e-5, rtol=0)
    empty = replace(batch, valid=torch.tensor([[True, False]] * len(scores)))
    assert (model.score_batch(empty)[:, 1] == 0).all()


def test_groups_of_four_give_all_strict_preferences() -> None:
    groups = [group(q, ("yes", "a", "b", "no"), (2.0, 1.0, 1.0, 0.0), q) for q in "ab"]
    seen = fit(groups).compare(groups)
    assert len(seen.keys) == 2 * 5 and seen.keys.count("a") == 5


def test_long_prompts_lose_their_beginning() -> None:
    groups = prefer_yes()
    model = fit(groups, max_tokens=5)
    assert model.facts["cut_responses"] > 0
    short, long = (model.compare([group(f"{x}b c", ("yes a", "no"), (1.0, 0.0), "q")]).margin for x in ("", "c c c c "))
    torch.testing.assert_close(short, long, atol=1e-6, rtol=0)


def test_lengths_are_those_of_whole_answers_and_what_was_cut_is_counted() -> None:
    groups = [*prefer_yes(), group("a", ("yes yes yes a", "no"), (1.0, 0.0), "a")]
    texts = [(g.key, r) for g in groups for r in g.responses]
    lengths = [len(r.split()) + 1 for _, r in texts]
    whole = [len(template_of(tiny.tokenizer()).prompt([Message("user", "a")])) + n for n in lengths]
    for most in (2, max(whole) - 1, max(whole)):
        model = fit(groups, max_tokens=most)
        scored = model.score_groups(groups)
        assert scored.length.tolist() == lengths and scored.cut.tolist() == [n > most for n in whole]
        assert model.facts["cut_responses"] == sum(n > most for n in dict(zip(texts, whole, strict=True)).values())
        assert model.compare(groups).longer[-1] == 3


def test_no_more_tokens_than_the_model_has_positions_for(tmp_path: Path) -> None:
    groups = [*prefer_yes(), group("a " * 70, ("yes", "no"), (1.0, 0.0), "long")]
    model = fit_model(tiny.gpt2(dtype=torch.float32), template_of(tiny.tokenizer()), groups, FitOptions(pooling="both"))
    saved.save(model, tmp_path / "rm")
    assert saved.load(tmp_path / "rm").max_tokens == model.max_tokens == 64


def test_a_question_is_known_by_its_prompt_or_by_its_key() -> None:
    named = [replace(g, key=f"q{g.key}") for g in prefer_yes()]
    model = fit(named)
    assert known(group("b", (), None, "other"), model.trained_on)
    assert known(group("in other words", (), None, "qb"), model.trained_on)
    assert not known(group("qb", (), None, "b"), model.trained_on)
    assert len(model.trained_on) == 6 and len(fit(prefer_yes()).trained_on) == 3


def test_the_mean_score_over_the_training_pairs_stays_0() -> None:
    model = fit(prefer_yes(), freeze_backbone=False, steps=8, lr=1e-2)
    assert float(model.score_groups(prefer_yes()).score.mean()) == pytest.approx(0.0, abs=1e-5)


def test_a_tokenizer_without_an_eos_is_refused() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="defines no token that ends an answer"):
        fit_model(tiny.llama(dtype=torch.float32), template_of(tokenizer), prefer_yes())


def test_training_everything_lowers_the_loss_and_leaves_the_given_model_alone() -> None:
    groups = prefer_yes()
    given = tiny.llama(dtype=torch.float32)
    before = {k: v.clone() for k, v in given.state_dict().items()}
    settings = FitOptions(freeze_backbone=False, lr=3e-3, steps=12, batch=6)
    head_only = fit(groups, pooling="last")
    runs = [
        fit_model(given, template_of(tiny.tokenizer()), groups, replace(settings, micro_tokens=m), seed=1)
        for m in (8192, 8192, 30)
    ]
    nll = [float(pair_loss(m.compare(groups).margin).mean()) for m in (head_only, *runs)]
    assert nll[1] < nll[0] and nll[1] == nll[2] and nll[3] == pytest.approx(nll[1], abs=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in given.state_dict().items())
    assert all(p.requires_grad for p in given.parameters())
    assert not any(p.requires_grad for p in (*runs[0].head.parameters(), *runs[0].backbone.parameters()))


def test_saving_and_loading(tmp_path: Path) -> None:
    groups = prefer_yes()
    model = replace(fit(groups), facts={"held_out_accuracy": 0.75})
    saved.save(model, tmp_path / "rm")
    loaded = saved.load(tmp_path / "rm")
    assert torch.equal(loaded.score_batch(as_batch(groups)), model.score_batch(as_batch(groups)))
    assert torch.equal(loaded.compare(groups).margin, model.compare(groups).margin)
    assert loaded.facts == {"held_out_accuracy": 0.75}
    with pytest.raises(UserError, match="already exists"):
        saved.save(model, tmp_path / "rm")
    with pytest.raises(UserError, match="does not exist"):
        saved.load(tmp_path / "rn")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda w: w.pop("head.weight"), "has no head: head.weight is missing"),
        (lambda w: w.pop("backbone.norm.weight"), "do not match the reward"),
        (lambda w: w.update({"head.weight": w["head.weight"][:, :-1].clone()}), "do not match the reward"),
    ],
)
def test_loading_refuses_what_is_incomplete(tmp_path: Path, change: Any, what: str) -> None:
    saved.save(fit(prefer_yes()), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=what):
        saved.load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "reward.json"])
def test_loading_refuses_broken_files(tmp_path: Path, name: str) -> None:
    saved.save(fit(prefer_yes()), tmp_path)
    (tmp_path / name).write_bytes(b"{]")
    with pytest.raises(DataError, match=r"cannot be read|is incomplete, or no safetensors file"):
        saved.load(tmp_path)


def test_groups_without_a_preference_are_refused() -> None:
    for scores in (None, (1.0, 1.0)):
        with pytest.raises(DataError, match="no preference"):
            fit([group("a", ("yes", "no"), scores, "a")])


# ---------------------------------------------------------------------------------------------- real preferences


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_frozen_smollm2_on_human_preferences(preference_data: Path) -> None:
    """Better than chance on unseen questions; among short answers people prefer the longer, which does as well."""
    with gzip.open(preference_data / "fine_grained_rlhf" / "pairs_human.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rows = [r for r in rows if len(r["chosen"] + r["rejected"]) < 700]  # the short ones: minutes on one core
    told = [(r["question"], (r["chosen"], r["rejected"]), str(r["qid"])) for r in rows]
    groups = [group(question, answers, (1.0, 0.0), key, i) for i, (question, answers, key) in enumerate(told)]
    train = [g for g in groups if int(g.key) % 3]
    held_out = [g for g in groups if not int(g.key) % 3]
    model, tokenizer = load_model("smollm2")
    fitted = fit_model(model, template_of(tokenizer), train, FitOptions(pooling="both"), autocast=True)
    seen = reward_accuracy(fitted, held_out)
    print(f"\n{fitted.facts}\n{seen}")
    assert fitted.facts["validation_nll"] < 0.6931
    assert seen.accuracy.low > 0.5
