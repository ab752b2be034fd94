"""A row by hand: its defaults, what it refuses, which responses it uses, and what its sums are divided by."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.core import objectives, pairs, weights
from prefloop.core.batch import Batch, MissingNeed, Signal, reads
from prefloop.core.errors import UserError
from prefloop.core.method import switch
from prefloop.core.methods import METHODS, Method
from toys import F64, make_batch, make_logp, signal_rng, stack

DPO, RLOO, SFT = METHODS["dpo"], METHODS["rloo"], METHODS["sft"]


# ------------------------------------------------------------------------------------------------------ configuration


def test_a_row_is_on_policy_unswitched_and_unregularised_by_default() -> None:
    row = Method(objectives.nll)
    got = {name: getattr(row, name) for name in ("on_policy", "reuse", "negative", "responses", "horizon", "critic")}
    assert got == {"on_policy": 1, "reuse": 1, "negative": 1, "responses": 4, "horizon": 256, "critic": False}
    assert (row.kl, row.entropy, row.sft, row.value_weight) == (0, 0, 0, 0.1) and row.mismatch_cap is None


def test_a_row_cannot_be_changed_and_is_equal_to_itself_alone() -> None:
    with pytest.raises(FrozenInstanceError):
        SFT.kl = 1.0  # type: ignore[misc]
    assert replace(SFT) != SFT == SFT  # fields may be tensors, which have no truth value
    assert replace(DPO, negative=torch.ones(2)) != replace(DPO, negative=torch.ones(2))


def test_reductions_and_baselines_that_make_no_sense_are_refused() -> None:
    for row in (DPO, METHODS["kto"]):
        with pytest.raises(UserError, match=r"averaged over (pairs|responses)"):
            row.override(reduction="token")
    with pytest.raises(UserError, match="critic=True"):
        METHODS["reinforce"].override(baseline="values")
    assert METHODS["reinforce"].override(baseline="values", critic=True).needs == {"scores", "behaviour", "values"}
    assert METHODS["reinforce"].override(reduction="token").reduction == "token"


def test_an_unknown_option_suggests_fields_and_hyper_parameters() -> None:
    with pytest.raises(UserError, match="did you mean `reuse`"):
        DPO.override(reus=2)
    with pytest.raises(UserError, match="did you mean `smoothing`"):
        DPO.override(smooting=0.1)


def test_a_whole_number_is_a_fraction_where_one_is_expected() -> None:
    assert isinstance(DPO.override(beta=1).defaults["beta"], float) and isinstance(DPO.override(kl=1).kl, float)
    assert isinstance(DPO.override(reuse=2).reuse, int) and DPO.override(beta=0.5, reuse=3).defaults["beta"] == 0.5
    assert METHODS["ppo"].override(critic=False).critic is False


def test_parts_are_named_by_their_home_and_must_say_what_they_read() -> None:
    assert DPO.override(pairs="all_pairs").pairs is pairs.all_pairs
    assert RLOO.override(weight="group_zscore").weight is weights.group_zscore
    for place, name in (("weight", "per_run"), ("pairs", "reads"), ("objective", "sequence"), ("pairs", "dpo")):
        with pytest.raises(UserError, match=f"unknown {place} `{name}`"):
            METHODS["rloo"].override(**{place: name})
    with pytest.raises(UserError, match=r"@reads"):
        DPO.override(objective="math:hypot")
    assert RLOO.override(objective="prefloop.core.objectives:clipped").objective is objectives.clipped


def test_log_probs_at_collection_stand_in_for_those_of_the_writer() -> None:
    batch = make_batch(5, responses=3)
    RLOO.check(replace(batch, logp_behaviour=None))
    with pytest.raises(MissingNeed, match="logp_behaviour"):
        RLOO.check(replace(batch, logp_behaviour=None, logp_proximal=None))
    with pytest.raises(MissingNeed, match="scores"):
        RLOO.check(replace(batch, scores=None))


def test_only_a_kl_above_0_or_one_per_run_needs_the_reference() -> None:
    assert SFT.needs == frozenset()
    assert SFT.override(kl=0.5).needs == SFT.override(kl=torch.zeros(2)).needs == {"reference"}


def test_it_compares_responses_by_pairs_by_baseline_or_by_groups() -> None:
    assert Method(objectives.nll, weights.group_zscore).compares and not SFT.compares
    assert METHODS["reinforce"].override(baseline="prompt").compares and METHODS["simpo"].compares


# ----------------------------------------------------------------------------------------------------- used responses


def scored(ragged: bool = False) -> Batch:
    return make_batch(3, prompts=2, responses=3, ragged=ragged)


def used(row: Method, batch: Batch, **signal: Tensor) -> list[list[bool]]:
    return row.used(batch, Signal(**signal)).tolist()


def test_responses_of_weight_0_are_not_used() -> None:
    batch, weight = scored(), torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0]], dtype=F64)
    assert used(SFT, batch, weight=weight) == [[True, False, True], [False] * 3]
    per_token = torch.zeros_like(batch.mask, dtype=F64)
    per_token[0, 2, 1], per_token[1, 0, 0] = -0.5, 1.0
    assert used(SFT, batch, weight=per_token) == [[False, False, True], [True, False, False]]
    absent = replace(batch, valid=torch.tensor([[True, True, False], [True] * 3]))
    assert used(SFT, absent, weight=weight) == [[True, False, False], [False] * 3]


def test_responses_in_a_pair_are_used_and_those_in_several_too() -> None:
    index = torch.tensor([[[0, 1], [0, 2]], [[2, 1], [0, 0]]])
    weight = torch.tensor([[1.0, 0.5], [1.0, 0.0]], dtype=F64)
    batch = scored()
    assert used(DPO, batch, pairs=index, pair_weight=weight) == [[True] * 3, [False, True, True]]
    assert used(DPO, batch, pairs=index, pair_weight=0 * weight) == [[False] * 3] * 2 == used(DPO, batch, pairs=index)
    assert used(DPO, batch, pairs=index, pair_weight=2 * weight) == [[True] * 3, [False, True, True]]
    more = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=F64)  # a weight beside the pairs
    assert used(DPO, batch, weight=more, pairs=index, pair_weight=weight) == [[True] * 3, [True] * 3]
    stacked = DPO.used(stack([batch, batch]), stack([Signal(pairs=index, pair_weight=weight)] * 2))
    assert stacked.tolist() == [[[True] * 3, [False, True, True]]] * 2


def test_a_bandit_with_one_response_uses_it() -> None:
    batch = Batch(torch.zeros(2), torch.zeros(2, 1, 1, dtype=torch.long), torch.ones(2, 1, 1, dtype=torch.bool))
    index = torch.zeros(2, 1, 2, dtype=torch.long)
    assert used(DPO, batch, pairs=index, pair_weight=torch.tensor([[1.0], [0.0]])) == [[True], [False]]


@pytest.mark.parametrize("amount", [0.5, 2.0])
def test_all_responses_are_used_where_terms_stand_beside(amount: float) -> None:
    batch, weight = scored(ragged=True), torch.zeros(2, 3, dtype=F64)
    everywhere = batch.present.tolist()
    changes: list[dict[str, Any]] = [{"sft": amount}, {"entropy": amount}, {"kl": amount, "kl_in": "loss"}]
    for change in [*changes, {"kl": torch.zeros(1)}, {"critic": True}]:
        assert used(SFT.override(**change), batch, weight=weight) == everywhere, change
    assert used(RLOO, batch, weight=weight) == everywhere  # a ratio
    assert used(SFT, batch) == everywhere  # neither weights nor pairs
    assert used(SFT, batch, weight=weight) == [[False] * 3] * 2


# ------------------------------------------------------------------------------------------------ signals, denominators


def test_stacked_runs_have_noise_of_their_own_and_one_run_that_of_seed_0() -> None:
    row, batch = METHODS["rso"].override(beta=2.0), make_batch(0, prompts=4, responses=6)
    alone = row.signal(batch)
    assert alone.pairs is not None and torch.equal(alone.pairs, row.signal(batch, rng=signal_rng(0)).pairs)
    assert not torch.equal(alone.pairs, row.signal(batch, rng=signal_rng(1)).pairs)
    stacked = row.signal(stack([batch, batch]))
    assert torch.equal(stacked.pairs, row.signal(stack([batch, batch]), rng=signal_rng([0, 1])).pairs)
    assert not torch.equal(stacked.pairs[0], stacked.pairs[1])


def test_value_targets_of_rows_without_gae_are_the_returns() -> None:
    """λ and the discount are 1 where the row has none; the advantage is not whitened."""
    row, batch = METHODS["reinforce"].override(critic=True, baseline="values"), make_batch(14)
    assert batch.scores is not None
    target = row.signal(batch).value_target
    assert target is not None and torch.allclose(target, torch.where(batch.mask, batch.scores[..., None], 0.0))
    assert RLOO.signal(batch).value_target is None  # values in the batch, no critic
    assert SFT.override(critic=True).signal(replace(batch, values=None)).value_target is None


def test_denominators_by_hand() -> None:
    batch = replace(scored(), valid=torch.tensor([[True, True, False], [True] * 3]))
    weight = torch.tensor([[0.25, 0.5, 0.0], [0.0, 0.0, 0.0]], dtype=F64)
    signal = Signal(weight=weight)
    assert float(SFT.denominator(batch, signal)) == 0.75  # below 1, and no less: the weights of a supervised method
    assert float(SFT.denominator(batch, Signal(weight=0 * weight))) == 1
    assert float(RLOO.denominator(batch, signal)) == 5 == float(SFT.denominator(batch, Signal()))
    assert float(METHODS["rwr"].denominator(batch, signal)) == 5  # the size of its weights counts
    tokens = float(batch.lengths[batch.present].sum())
    assert float(METHODS["awr"].override(reduction="token").denominator(batch, signal)) == tokens
    assert float(RLOO.override(reduction="token").denominator(batch, signal)) == tokens
    assert float(RLOO.override(reduction="constant", horizon=8.0).denominator(batch, signal)) == 40
    assert float(DPO.denominator(batch, Signal(pair_weight=weight))) == 0.75
    two, both = stack([batch, replace(batch, valid=batch.valid | True)]), torch.stack([weight, 4 * weight])  # type: ignore[operator]
    assert RLOO.denominator(two, Signal()).tolist() == [5, 6]
    assert SFT.denominator(two, Signal(weight=both)).tolist() == [0.75, 3.0]
    assert DPO.denominator(two, Signal(pair_weight=both)).tolist() == [0.75, 3.0]


def test_one_loss_per_response_cannot_be_averaged_over_tokens() -> None:
    batch, loss = scored(), torch.ones(2, 3, dtype=F64)
    with pytest.raises(UserError, match="averaged over responses"):
        RLOO.override(reduction="mean").reduce(loss, batch, Signal())
    assert float(RLOO.reduce(loss, batch, Signal())) == 6


def test_token_means_survive_responses_without_a_token() -> None:
    batch = scored()
    batch = replace(batch, mask=batch.mask.index_fill(1, torch.tensor([1]), False))
    loss = torch.where(batch.mask, 1.0, torch.nan).double()
    assert float(RLOO.override(reduction="mean").reduce(loss, batch, Signal())) == pytest.approx(4)


def test_pairs_of_small_weight_count_by_it() -> None:
    batch, loss = scored(), torch.tensor([[2.0, torch.inf], [3.0, 1.0]], dtype=F64)
    weight = torch.tensor([[0.5, 0.0], [1.0, 0.25]], dtype=F64)
    assert float(DPO.reduce(loss, batch, Signal(pair_weight=weight))) == 4.25


def test_a_loss_that_the_policy_cannot_change_has_coefficients_0() -> None:
    @reads()
    def deaf(logp: Tensor, signal: Signal, batch: Batch) -> Tensor:
        return torch.ones_like(batch.scores).requires_grad_()  # type: ignore[arg-type]

    batch = scored()
    assert Method(deaf).coefficients(make_logp(batch), batch).abs().sum() == 0


def test_the_smallest_push_down_is_scaled_and_0_is_kept() -> None:
    x = torch.zeros(3, dtype=F64, requires_grad=True)
    (got,) = torch.autograd.grad(switch(x, 0.5), x, torch.tensor([0.25, -0.25, 3.0], dtype=F64))
    assert got.tolist() == [0.125, -0.25, 1.5]
