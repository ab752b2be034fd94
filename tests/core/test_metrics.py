"""Metrics of a step against numbers by hand, and the table: one function per key, one key per function."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.core import metrics
from prefloop.core.batch import DATASET, Batch, Signal
from prefloop.core.loop import Plan, Record
from prefloop.core.methods import METHODS, Method
from prefloop.core.metric_table import METRICS, TABLE, metric, warning
from prefloop.core.metrics import DRIFT, MEASURES, coefficient_mass, drift, mean, run_metrics, step_metrics
from toys import F64, make_loop, stack

LN2, LN3 = math.log(2), math.log(3)
RLOO, DPO = METHODS["rloo"], METHODS["dpo"]


def tensor(x: Any) -> Tensor:
    return torch.tensor(x, dtype=F64)


def record(batch: Batch, **changes: Any) -> Record:
    """A step on a batch; numbers that a test does not name are 0."""
    zeros = torch.zeros(batch.mask.shape, dtype=F64)
    fields: dict[str, Any] = dict.fromkeys(("step", "iteration", "pass_", "samples", "sampled_tokens"), 0)
    fields |= {"trained_tokens": 0, "queries": 0, "lr": 0.1, "grad_norm": tensor(0.0)}
    fields |= {"loss": torch.zeros(batch.mask.shape[:-3], dtype=F64), "regularisers": {}}
    fields |= {"signal": Signal(), "logp": zeros, "coefficient": zeros}
    return Record(batch=batch, used=batch, **{**fields, **changes})


def answers(scores: Any = None, tokens: int = 1, **fields: Any) -> Batch:
    """Groups of responses of equal length."""
    scores = None if scores is None else tensor(scores)
    shape = fields.pop("shape", None) or scores.shape
    mask = fields.pop("mask", torch.ones(*shape, tokens, dtype=torch.bool))
    return Batch(torch.zeros(shape[:-1]), torch.zeros(mask.shape, dtype=torch.long), mask, scores=scores, **fields)


def measured(step: Record, method: Method = RLOO) -> dict[str, float]:
    return step_metrics(step, method)


# ------------------------------------------------------------------------------------------------ the table is whole


def test_the_keys_of_the_table_and_of_the_functions_are_the_same() -> None:
    """`lab.stack` adds four, the evaluations those under `eval/`."""
    steps = [key for keys in MEASURES for key in keys]
    lab = {"passes", "diverged", "rest/log_ratio"}
    assert len(steps) == len(set(steps))
    assert set(steps) == {key for key in METRICS if not key.startswith("eval/")} - lab


def test_a_function_gives_a_value_for_each_of_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEASURES, ("one", "two"), lambda step, method: (1.0,))
    with pytest.raises(ValueError, match="zip"):
        measured(record(answers(shape=(1, 2))))


def test_every_row_says_what_it_means_and_a_check_has_a_red_flag() -> None:
    rows = list(itertools.chain.from_iterable(TABLE.values()))
    assert len(rows) == len(METRICS)
    for row in rows:
        assert row.meaning.endswith("."), row.key
        assert row.check is None or row.red_flag != "–", row.key


@pytest.mark.parametrize("name", METHODS)
def test_every_method_writes_keys_of_the_table_only(name: str) -> None:
    c = METHODS[name].responses
    loop = make_loop(name, Plan(steps=3, batch=4 * c, minibatch=2 * c, lr=0.1))
    for step in loop:
        written = step_metrics(step, loop.method)
        assert written.keys() <= METRICS.keys()
        assert {"loss", "grad_norm", "push/up", "push/down", "reward", "learning_rate"} <= written.keys()
        assert all(math.isfinite(x) for x in written.values())


def test_some_method_writes_each_key() -> None:
    """Rows and switches that between them turn on every term of the loop."""
    full = RLOO.override(kl=0.1, kl_in="loss", entropy=0.1, sft=0.1)
    cases = [full, METHODS["ppo"], METHODS["online_dpo"], METHODS["rwr"]]
    written: set[str] = set()
    for row in cases:
        loop = make_loop(row, Plan(steps=1, batch=4 * row.responses, minibatch=4 * row.responses, lr=0.1))
        written |= step_metrics(next(iter(loop)), row).keys()
    assert written == {key for keys in MEASURES for key in keys}


def test_a_key_of_an_error_or_an_interval_belongs_to_its_number() -> None:
    assert metric("eval/reward_se") is metric("eval/reward") is METRICS["eval/reward"]
    assert metric("eval/rewards/accuracies_low") is METRICS["eval/rewards/accuracies"]
    assert metric("eval/length/17") is METRICS["eval/length/*"] and metric("eval/mass/peak") is METRICS["eval/mass/*"]
    assert metric("eval/length") is METRICS["eval/length"] and metric("eval/mood") is None


# ---------------------------------------------------------------------------------------------- weights of responses


def test_the_effective_number_of_responses_of_supervised_methods() -> None:
    """Kish: (Σw)²/Σw², (1 + 2 + 1)²/(1 + 4 + 1) = 8/3."""
    weight = tensor([[1.0, 2.0], [1.0, 0.0]])
    step = record(answers(shape=(2, 2)), signal=Signal(weight=weight))
    assert measured(step, METHODS["rwr"])["responses/effective"] == pytest.approx(8 / 3)
    assert "responses/effective" not in measured(step, RLOO)
    own = replace(METHODS["rwr"], objective=lambda *_: step.logp)  # a user's loss does not say what it is
    assert "responses/effective" not in measured(step, own)
    assert "responses/effective" not in measured(record(answers(shape=(2, 2))), METHODS["rwr"])


# ------------------------------------------------------------------------------------------------- scores of a group


def test_spread_of_scores_by_hand() -> None:
    """Groups 1, 3 and 2, 6: sample deviations √2 and √8, not the population's 1 and 2."""
    found = measured(record(answers([[1.0, 3.0], [2.0, 6.0]])))
    assert found["reward"] == 3 and found["frac_reward_zero_std"] == 0
    assert found["reward_std"] == pytest.approx((math.sqrt(2) + math.sqrt(8)) / 2, abs=1e-15)


def test_spread_of_ragged_groups_counts_who_is_there() -> None:
    """Scores 1, 2, 6 (variance 7); 4, 4 and an empty place; one response, in which nothing can differ."""
    there = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()
    found = measured(record(answers([[1.0, 2.0, 6.0], [4.0, 4.0, 99.0], [5.0, 99.0, 99.0]], valid=there)))
    assert found["reward"] == pytest.approx((9 + 8 + 5) / 6)
    assert found["reward_std"] == pytest.approx(math.sqrt(7) / 2, abs=1e-15)
    assert found["frac_reward_zero_std"] == 0.5


def test_spread_of_stacked_runs_is_their_own() -> None:
    """Three prompts of two responses; in the second run no two scores differ."""
    scores = tensor([[[1.0, 3.0], [2.0, 6.0], [0.0, 0.0]], [[4.0, 4.0], [5.0, 5.0], [6.0, 6.0]]])
    found = run_metrics(record(answers(scores.tolist())), RLOO)
    spread, equal = found["reward_std"], found["frac_reward_zero_std"]
    assert isinstance(spread, Tensor) and isinstance(equal, Tensor)
    assert spread.tolist() == pytest.approx([(math.sqrt(2) + math.sqrt(8)) / 3, 0], abs=1e-15)
    assert equal.tolist() == pytest.approx([1 / 3, 1], abs=1e-15)


def test_single_responses_have_no_spread() -> None:
    found = measured(record(answers([[1.0], [2.0]])))
    assert found["reward"] == 1.5 and not {"reward_std", "frac_reward_zero_std"} & found.keys()


@given(st.floats(-1e6, 1e6), st.integers(2, 9))
def test_a_constant_reward_is_seen_whatever_it_is(score: float, size: int) -> None:
    """Also where the mean of equal scores is not that score to the last bit."""
    found = measured(record(answers([[score] * size, [score + 1, *[score] * (size - 1)]])))
    assert found["frac_reward_zero_std"] == 0.5


def test_without_scores_nothing_is_said_of_them() -> None:
    assert not {"reward", "reward_std"} & measured(record(answers(shape=(2, 2)))).keys()


# ------------------------------------------------------------------------------------------------------------- pairs


def pairs(gaps: list[float], weight: list[float] | None = None) -> Record:
    """One pair per prompt, winner in place 1; log π/π_ref of the winner is the gap, of the loser −1."""
    n = len(gaps)
    batch = answers(shape=(n, 2), logp_reference=torch.zeros(n, 2, 1, dtype=F64))
    logp = torch.stack([torch.full((n,), -1.0, dtype=F64), tensor(gaps) - 1], -1)[..., None]
    signal = Signal(pairs=torch.tensor([[[1, 0]]]).expand(n, 1, 2), pair_weight=tensor(weight or [1.0] * n)[:, None])
    return record(batch, logp=logp, signal=signal)


def test_pairs_by_hand() -> None:
    """Margins 3, −1 and 0 in nats, β = 2: two thirds of a pair and a half are right."""
    found = measured(pairs([3.0, -1.0, 0.0]), DPO.override(beta=2.0))
    assert found["rewards/accuracies"] == pytest.approx((1 + 0 + 0.5) / 3, abs=1e-15)  # ties count ½
    assert found["rewards/margins"] == pytest.approx(2 * 2 / 3, abs=1e-15)
    assert found["rewards/chosen"] == pytest.approx(2 * (2 - 2 - 1) / 3, abs=1e-15)
    assert found["rewards/rejected"] == -2
    assert found["logps/chosen"] == pytest.approx(-1 / 3, abs=1e-15) and found["logps/rejected"] == -1
    assert found["kl"] == pytest.approx((-1 / 3 - 1) / 2, abs=1e-15)


def test_pairs_without_weights_are_not_measured() -> None:
    step = pairs([3.0, -1.0])
    bare = replace(step, signal=replace(step.signal, pair_weight=None))
    assert not {"logps/chosen", "rewards/chosen"} & measured(bare, DPO).keys()


def test_without_a_beta_rewards_are_in_nats() -> None:
    """And a margin below 1 is right too."""
    found = measured(pairs([0.5, -0.25]), METHODS["ipo"])
    assert (found["rewards/margins"], found["rewards/accuracies"]) == (0.125, 0.5)


def test_at_the_reference_half_of_the_pairs_are_right() -> None:
    found = measured(pairs([0.0, 0.0]), DPO)
    assert (found["rewards/accuracies"], found["rewards/margins"]) == (0.5, 0)


def test_pairs_of_weight_zero_do_not_count() -> None:
    found = measured(pairs([3.0, -1.0], [1.0, 0.0]), DPO.override(beta=1.0))
    assert (found["rewards/accuracies"], found["rewards/margins"], found["logps/chosen"]) == (1, 3, 2)
    assert "rewards/margins" not in measured(pairs([3.0], [0.0]), DPO)


# ---------------------------------------------------------------------------------------- up, down, lengths and source


def test_mass_up_and_down() -> None:
    up, down = coefficient_mass(tensor([[[[1.0, -2.0], [0.5, 0.0]]], [[[-1.0, -1.0], [0.0, 0.0]]]]))
    assert up.tolist() == [1.5, 0] and down.tolist() == [2, 2]
    found = measured(record(answers(shape=(1, 2), tokens=2), coefficient=tensor([[[1.0, -2.0], [0.5, 0.0]]])))
    assert (found["push/up"], found["push/down"]) == (1.5, 2)


def test_counters_and_terms_are_the_records() -> None:
    counts = {"step": 7, "iteration": 3, "pass_": 1, "samples": 5, "sampled_tokens": 6, "trained_tokens": 8}
    terms = {name: tensor(x) for name, x in (("kl", 0.1), ("entropy", -0.2), ("sft", 0.3), ("value", 0.4))}
    step = record(
        answers(shape=(1, 1)), **counts, queries=9, loss=tensor(1.5), regularisers=terms, grad_norm=tensor(2.5)
    )
    want: dict[str, float] = {
        "step": 7,
        "iteration": 3,
        "pass": 2,
        "samples": 5,
        "tokens/sampled": 6,
        "tokens/trained": 8,
    }
    want |= {"reward_queries": 9, "loss": 1.5, "grad_norm": 2.5, "learning_rate": 0.1}
    want |= {"loss/kl": 0.1, "loss/entropy": -0.2, "loss/sft": 0.3, "loss/value": 0.4}
    found = measured(step)
    assert {key: found[key] for key in want} == want


def test_length_is_that_of_the_responses_that_are_there() -> None:
    mask = torch.tensor([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [1, 1, 1]]]).bool()
    batch = answers(shape=(2, 2), mask=mask, valid=torch.tensor([[1, 1], [1, 0]]).bool())
    assert measured(record(batch))["completions/mean_length"] == 2


def test_staleness_is_that_of_what_the_policy_wrote() -> None:
    batch = answers(shape=(4, 1), source=torch.tensor([DATASET, 2, 4, DATASET]))
    found = measured(record(batch, step=8))
    assert found["on_policy"] == 0.5 and found["staleness"] == 4  # before step 8: 5 and 3 steps old
    found = measured(record(replace(batch, source=torch.full((4,), DATASET)), step=8))
    assert found["on_policy"] == 0 and "staleness" not in found


def test_a_mean_keeps_to_its_mask() -> None:
    x, where = tensor([[1.0, math.nan], [math.inf, 5.0]]), torch.tensor([[True, False], [False, False]])
    assert mean(x, where, -1)[0] == 1 and bool(mean(x, where, -1)[1].isnan())
    assert mean(torch.tensor([1, 2]), torch.tensor([True, True]), -1) == 1.5


# ------------------------------------------------------------------------------------------------------------- drift


def moved(d: Tensor, mask: Tensor | None = None, valid: Tensor | None = None) -> dict[str, Tensor]:
    """Of a policy whose token log-probs are d above those at collection."""
    old = torch.linspace(-3, -1, d.numel(), dtype=F64).view(d.shape)
    mask = torch.ones_like(d, dtype=torch.bool) if mask is None else mask
    shape = d.shape[:-2]
    batch = Batch(torch.zeros(shape), torch.zeros(d.shape, dtype=torch.long), mask, logp_proximal=old, valid=valid)
    return dict(zip(DRIFT, drift(old + d, batch), strict=True))


def test_a_policy_that_has_not_moved_is_not_stale() -> None:
    found = moved(torch.zeros(2, 3, 4, 2, dtype=F64))
    assert {k: v.tolist() for k, v in found.items()} == {
        "kl/collection": [0, 0],
        "ess": [1, 1],
        "ratio/max": [1, 1],
        "ratio/p99": [1, 1],
    }


def test_drift_by_hand() -> None:
    """Run 0: sequence ratios 2, 1, ½, ½, token ratios at most 4; run 1 twice ratio 3 and twice ratio 1."""
    d = tensor([[[[4.0, 0.5], [1.0, 1.0]], [[0.5, 1.0], [0.25, 2.0]]]]).log()
    other = tensor([[[[3.0, 1.0], [1.0, 1.0]], [[1.0, 3.0], [2.0, 0.5]]]]).log()
    found = moved(torch.cat([d, other]))
    assert found["ess"].tolist() == pytest.approx([4.0**2 / (4 * 5.5), 8.0**2 / (4 * 20)])
    assert found["kl/collection"].tolist() == pytest.approx([LN2 / 4, -LN3 / 2])
    assert found["ratio/max"].tolist() == pytest.approx([4, 3])
    assert found["ratio/p99"].tolist() == pytest.approx([2 + 0.93 * 2, 3])  # 0.99 · 7 = 6.93: between 2 and 4; 3 and 3


def test_padding_and_huge_ratios_do_not_break_it() -> None:
    d = tensor([[[[1.0, 9.0], [0.0, 0.0]]]])
    found = moved(d, torch.tensor([[[[True, False], [True, True]]]]))
    assert float(found["kl/collection"]) == pytest.approx(-0.5) and float(found["ratio/max"]) == pytest.approx(math.e)
    assert float(found["ess"]) == pytest.approx((math.e + 1) ** 2 / (2 * (math.e**2 + 1)))
    huge = moved(tensor([[[[900.0, 900.0], [0.0, 0.0]]]]))
    assert float(huge["ratio/max"]) == pytest.approx(math.exp(20)) and float(huge["ess"]) == pytest.approx(0.5)
    assert float(huge["kl/collection"]) == pytest.approx(-10)


def test_shrinking_ratios_have_a_maximum_below_one() -> None:
    assert float(moved(tensor([[[[0.5, 0.25]]]]).log())["ratio/max"]) == pytest.approx(0.5)
    padded = moved(tensor([[[[0.5, 0.25]]]]).log(), torch.tensor([[[[False, True]]]]))
    assert float(padded["ratio/max"]) == pytest.approx(0.25)


def test_of_more_tokens_than_torch_sorts_the_percentile_is_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    assert metrics.QUANTILE_LIMIT == 16_777_216
    d = tensor([[[[4.0, 1.0], [1.0, 1.0]]]]).log()
    for limit, want in ((4, 4 - 0.03 * 3), (3, 4.0)):
        monkeypatch.setattr(metrics, "QUANTILE_LIMIT", limit)
        assert float(moved(d)["ratio/p99"]) == pytest.approx(want)


def test_an_empty_place_is_no_response() -> None:
    there = torch.tensor([[True, True, False]])
    found = moved(tensor([[[1.0], [0.0], [5.0]]]), valid=there)
    assert float(found["ess"]) == pytest.approx((math.e + 1) ** 2 / (2 * (math.e**2 + 1)))
    assert float(found["ratio/max"]) == pytest.approx(math.e) and float(found["kl/collection"]) == pytest.approx(-0.5)


# -------------------------------------------------------------------------------------------------- clip and mismatch


def clipped(ratios: list[float], advantages: list[float] | None, **changes: Any) -> float:
    """Share of clipped tokens of responses of one token."""
    n = len(ratios)
    old = torch.zeros(n, 1, 1, dtype=F64)
    batch = answers(shape=(n, 1), logp_proximal=old, logp_behaviour=old)
    signal = Signal(weight=None if advantages is None else tensor(advantages)[:, None])
    step = record(batch, logp=tensor(ratios).log().view(n, 1, 1), signal=signal)
    return measured(step, METHODS["ppo_critic_free"].override(**changes))["clip_ratio/region_mean"]


def test_the_clip_takes_out_what_would_move_further() -> None:
    """Ratios 1.3 and 0.7 under clip 0.2: only upwards with a positive, downwards with a negative advantage."""
    assert clipped([1.3, 1.3, 0.7, 0.7], [1, -1, 1, -1]) == 0.5
    assert clipped([1.3, 0.7], [1, -1]) == 1 and clipped([1.3, 0.7], [-1, 1]) == 0 == clipped([1.3, 0.7], [0, 0])
    assert clipped([1.1, 0.9], [1, -1]) == 0 and clipped([1.1, 0.9], [1, -1], clip=0.05) == 1
    assert clipped([1.3, 0.7], [1, -1], clip_high=0.4) == 0.5  # below it is still 0.2


def test_a_ratio_at_the_edge_of_the_clip_is_inside() -> None:
    assert clipped([2.0], [1], clip=1.0) == 0 == clipped([0.5], [-1], clip=0.5)


def test_without_a_clip_the_range_is_a_fifth_and_padding_is_no_token() -> None:
    """Ratio 1.3 on one of two tokens that are there; two more are padding."""
    mask = torch.tensor([[[True, True], [False, False]]])
    batch = answers(shape=(1, 2), mask=mask, logp_proximal=torch.zeros(1, 2, 2, dtype=F64))
    step = record(batch, logp=tensor([[[1.3, 1.0], [1.0, 1.0]]]).log(), signal=Signal(weight=tensor([[1.0, 1.0]])))
    assert measured(step)["clip_ratio/region_mean"] == 0.5


def test_without_an_advantage_the_clip_counts_who_is_outside() -> None:
    assert clipped([1.3, 0.7, 1.1, 1.0], None) == 0.5


def test_mismatch_by_hand() -> None:
    """Token ratios of trainer to sampler 2, 1 and, in an empty place, 8."""
    mask = torch.tensor([[[True, True], [True, False]]])
    old = tensor([[[-2.0, -1.0], [-3.0, torch.nan]]])
    new = old + tensor([[[2.0, 1.0], [1.5, 8.0]]]).log()
    step = record(answers(shape=(1, 2), mask=mask, logp_behaviour=old, logp_proximal=new), logp=new)
    found = measured(step)
    assert found["mismatch/mean"] == pytest.approx(1.5) and found["mismatch/max"] == pytest.approx(2)
    logs = [math.log(2), 0.0, math.log(1.5)]
    assert found["mismatch/kl"] == pytest.approx(-sum(logs) / 3)
    assert found["sampling/sampling_logp_difference/mean"] == pytest.approx(sum(logs) / 3)
    assert found["mismatch/std"] == pytest.approx(((4 + 1 + 2.25) / 3 - 1.5**2) ** 0.5)
    assert "mismatch/mean" not in measured(step, DPO)
    low = replace(step.used, logp_proximal=old - LN2)
    assert measured(record(low, logp=old))["mismatch/max"] == pytest.approx(0.5)


def test_stacked_runs_have_numbers_of_their_own() -> None:
    """Two runs stacked give what each gives alone."""
    own = [pairs([3.0, -1.0]), pairs([0.0, 4.0])]
    signal, logp = stack([r.signal for r in own]), torch.stack([r.logp for r in own])
    both = record(stack([r.batch for r in own]), logp=logp, signal=signal)
    found = run_metrics(both, DPO)
    for i, alone in enumerate(own):
        for key, value in measured(alone, DPO).items():
            got = torch.as_tensor(found[key], dtype=F64)
            assert float(got[i] if got.ndim else got) == pytest.approx(value, abs=1e-12), key


# ---------------------------------------------------------------------------------------------------------- warnings


@pytest.mark.parametrize(
    ("key", "values", "warns"),
    [
        ("grad_norm", [1.0, 2.0, 0.0, 0.0], True),
        ("grad_norm", [0.0, 0.0, 0.0, 1.0], False),
        ("frac_reward_zero_std", [0.0, 0.1, 0.2, 0.8], True),
        ("frac_reward_zero_std", [0.9, 0.9, 0.9, 0.7], False),
        ("ess", [1.0, 0.9, 0.5, 0.05], True),
        ("ess", [0.05, 0.05, 0.05, 0.1], False),
        ("mismatch/mean", [1.0, 1.2], True),
        ("mismatch/mean", [1.0, 1.1], False),
        ("diverged", [0.0, 1.0, 0.0, 0.0, 0.0], True),
        ("diverged", [0.0, 0.0], False),
        ("clip_ratio/region_mean", [0.0] * 8 + [0.1, 0.5, 0.6, 0.5], True),
        ("clip_ratio/region_mean", [0.6] * 8 + [0.1, 0.5, 0.3, 0.2], False),  # one spike is no trend
    ],
)
def test_a_red_flag_at_the_end_of_a_run_warns(key: str, values: list[float], warns: bool) -> None:
    said = warning(key, values)
    assert (said is not None) == warns
    if said is not None:
        assert said.startswith(f"`{key}` is ") and METRICS[key].red_flag in said


def test_what_is_not_finite_warns_of_any_metric() -> None:
    assert warning("loss", [1.0, math.inf, math.nan]) == "`loss` is not finite in 2 of 3 values."
    assert warning("loss", [1.0, 2.0]) is None is warning("ess", []) is warning("mood", [math.nan])
