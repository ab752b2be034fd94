"""One table of properties that every row has, and the rules by which rows are written and changed."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prefloop.core import kl, objectives, pairs, weights
from prefloop.core.batch import Batch, MissingNeed, Signal
from prefloop.core.errors import UserError
from prefloop.core.method import switch
from prefloop.core.methods import METHODS, Method, method
from toys import (
    F64,
    batch_for,
    fixed,
    group_size,
    make_batch,
    make_logp,
    pad_garbage,
    per_run_values,
    signal_rng,
    stack,
)

ROWS = sorted(METHODS)
SEEDS = st.integers(0, 10**6)
every_row = pytest.mark.parametrize("name", ROWS)
some = settings(max_examples=5)


def same(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype
    assert torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def coefficients(row: Method, logp: Tensor, batch: Batch, signal: Signal, total: Tensor) -> Tensor:
    """−∂loss/∂logp with signal and denominator given."""
    leaf = logp.clone().requires_grad_()
    return -torch.autograd.grad(row.loss(leaf, batch, signal, total).sum(), leaf)[0]


# ---------------------------------------------------------------------------------------------------- the properties


@every_row
@pytest.mark.parametrize("ragged", [False, True])
def test_gradcheck(name: str, ragged: bool) -> None:
    """Autograd against finite differences; the gate of best_of_n_negative, a switch, is held open."""
    row = METHODS[name].override(**({"gate": 1e-12} if "gate" in METHODS[name].defaults else {}))
    batch = batch_for(name, 21, ragged=ragged, tokens=3)
    logp = make_logp(batch, 21).requires_grad_()
    signal, total = fixed(row, batch)
    assert torch.autograd.gradcheck(lambda x: row.loss(x, batch, signal, total), logp, atol=1e-7)


@every_row
@some
@given(seed=SEEDS, extra=st.integers(1, 3), garbage=st.sampled_from([0.0, 1e6, -1e6, 1e30, -1e30]))
def test_padding_changes_nothing(name: str, seed: int, extra: int, garbage: float) -> None:
    row, batch = METHODS[name], batch_for(name, seed)
    logp = make_logp(batch, seed)
    padded = pad_garbage(batch, extra, garbage)
    dirty = torch.where(padded.mask, torch.nn.functional.pad(logp, (0, extra)), garbage)
    same(row.loss(dirty, padded), row.loss(logp, batch))
    c = row.coefficients(dirty, padded)
    same(c[..., :-extra], row.coefficients(logp, batch))
    assert (c[~padded.mask] == 0).all()


@every_row
@some
@given(seed=SEEDS)
def test_absent_places_change_nothing(name: str, seed: int) -> None:
    """A group with one absent place, full of garbage, is a group of one response less."""
    row, size = METHODS[name], group_size(METHODS[name])
    batch = make_batch(seed, responses=size)
    logp = make_logp(batch, seed)
    signal, total = fixed(row, batch)

    def grow(x: Tensor, value: float) -> Tensor:
        return torch.cat([x, torch.full_like(x[:, :1], value)], 1)

    names = [f.name for f in fields(Batch) if f.name not in ("prompts", "mask", "valid", "z")]
    wide = {n: grow(getattr(batch, n), 1e3 if n != "responses" else 0) for n in names if getattr(batch, n) is not None}
    more = replace(batch, **wide, mask=grow(batch.mask, True), valid=grow(batch.mask[..., 0] | True, False))
    same_signal = name != "rso"  # its noise is drawn per place
    wider = row.signal(more) if same_signal else replace(signal)
    c = coefficients(row, grow(logp, -1.0), more, wider, row.denominator(more, wider))
    same(c[:, :-1], coefficients(row, logp, batch, signal, total))
    assert (c[:, -1] == 0).all()


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"rso"}))
@some
@given(seed=SEEDS, order=st.randoms(use_true_random=False))
def test_the_order_of_responses_does_not_matter(name: str, seed: int, order: object) -> None:
    row, batch = METHODS[name], batch_for(name, seed)
    logp, places = make_logp(batch, seed), list(range(group_size(METHODS[name])))
    order.shuffle(places)  # type: ignore[attr-defined]
    moved = {f.name: getattr(batch, f.name) for f in fields(Batch) if f.name not in ("prompts", "z")}
    moved = {k: v[:, places] for k, v in moved.items() if v is not None}
    same(row.coefficients(logp[:, places], replace(batch, **moved)), row.coefficients(logp, batch)[:, places])


@every_row
@some
@given(seed=SEEDS)
def test_the_order_of_prompts_does_not_matter(name: str, seed: int) -> None:
    row, batch = METHODS[name], batch_for(name, seed, prompts=4)
    logp, signal = make_logp(batch, seed), METHODS[name].signal(batch)
    rows = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    moved = row.coefficients(logp[rows], batch[rows], signal[rows] if name == "rso" else None)
    same(moved, row.coefficients(logp, batch)[rows])


@every_row
@some
@given(seed=SEEDS, cut=st.integers(1, 4), ragged=st.booleans())
def test_micro_batches_add_up_to_the_whole(name: str, seed: int, cut: int, ragged: bool) -> None:
    row, batch = METHODS[name], batch_for(name, seed, prompts=5, ragged=ragged)
    logp = make_logp(batch, seed)
    signal, total = fixed(row, batch)
    parts = [torch.arange(cut), torch.arange(cut, 5)]
    same(sum(row.loss(logp[i], batch[i], signal[i], total) for i in parts), row.loss(logp, batch, signal))
    pieces = [coefficients(row, logp[i], batch[i], signal[i], total) for i in parts]
    same(torch.cat(pieces), row.coefficients(logp, batch, signal))


@every_row
@some
@given(seed=SEEDS, ragged=st.booleans())
def test_stacked_runs_equal_each_alone(name: str, seed: int, ragged: bool) -> None:
    """Other data, hyper-parameters and negative in every run; each equals the run alone."""
    g = torch.Generator().manual_seed(seed)
    known = METHODS[name]
    given = per_run_values(known, g, 3)
    given["negative"] = torch.tensor([1.0, 0.3, 0.0], dtype=F64)
    alone = [batch_for(name, seed + i, ragged=ragged) for i in range(3)]
    logps = [make_logp(b, seed + i) for i, b in enumerate(alone)]
    row, batch, logp = known.override(**given), stack(alone), torch.stack(logps)
    signal = row.signal(batch, rng=signal_rng([5, 6, 7]))
    loss, c = row.loss(logp, batch, signal), row.coefficients(logp, batch, signal)
    for i in range(3):
        one = known.override(**{k: float(v[i]) for k, v in given.items()})
        own = one.signal(alone[i], rng=signal_rng(5 + i))
        same(loss[i], one.loss(logps[i], alone[i], own))
        same(c[i], one.coefficients(logps[i], alone[i], own))


@every_row
@some
@given(seed=SEEDS, keep=st.sampled_from([0.0, 0.3, 1.0]), ragged=st.booleans())
def test_the_switch_scales_exactly_what_pushes_down(name: str, seed: int, keep: float, ragged: bool) -> None:
    batch = batch_for(name, seed, ragged=ragged)
    logp = make_logp(batch, seed)
    whole = METHODS[name].coefficients(logp, batch)
    got = METHODS[name].override(negative=keep).coefficients(logp, batch)
    assert torch.equal(got, torch.where(whole < 0, keep * whole, whole))
    assert torch.equal(METHODS[name].override(negative=keep).loss(logp, batch), METHODS[name].loss(logp, batch))
    assert keep > 0 or got.min() >= 0


@every_row
def test_a_ledger_of_float32_is_finite_and_float32(name: str) -> None:
    batch = batch_for(name, 3, prompts=6)
    names = [f.name for f in fields(Batch) if f.name not in ("prompts", "responses", "mask", "valid")]
    batch = replace(batch, **{n: getattr(batch, n).float() for n in names if getattr(batch, n) is not None})
    c = METHODS[name].coefficients(make_logp(batch, 3).float(), batch)
    assert c.dtype == torch.float32 and torch.isfinite(c).all() and c.abs().sum() > 0


@every_row
def test_what_a_row_needs_is_what_it_reads(name: str) -> None:
    """With exactly its needs a row works; without any one of them it names what is missing."""
    row, batch = METHODS[name], batch_for(name, 4)
    logp = make_logp(batch, 4)
    stored = {"reference": "logp_reference", "behaviour": "logp_behaviour"}
    needed = {stored.get(n, n) for n in row.needs}
    optional = {"scores", "labels", "logp_behaviour", "logp_proximal", "logp_reference", "values", "z"}
    lean = replace(batch, **dict.fromkeys(optional - needed))
    assert torch.isfinite(row.coefficients(logp, lean)).all()
    for need in needed:
        with pytest.raises(MissingNeed, match=need):
            row.loss(logp, replace(lean, **{need: None}))


# ---------------------------------------------------------------------------------------------- reductions by hand


def reduction_batch() -> tuple[Batch, Tensor]:
    batch = make_batch(9, prompts=2, responses=3, ragged=True)
    return replace(batch, valid=torch.tensor([[True, True, False], [True, True, True]])), make_logp(batch, 9)


@pytest.mark.parametrize("reduction", ["sequence", "token", "mean", "constant"])
@pytest.mark.parametrize("supervised", [False, True])
def test_reductions_by_loops(reduction: str, supervised: bool) -> None:
    batch, logp = reduction_batch()
    objective = objectives.nll if supervised else lambda logp, signal, batch: -signal.weight[..., None] * logp
    row = Method(objective, reduction=reduction, horizon=7.0)
    weight = torch.tensor([[1.0, 2.0, 9.0], [0.5, 3.0, 0.25]], dtype=F64)
    signal = Signal(weight=torch.where(batch.present, weight, 0.0))
    top = bottom = 0.0
    for p, i in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]:
        n, v = int(batch.lengths[p, i]), float(weight[p, i])
        token_sum = -v * float(logp[p, i, :n].sum())
        top += token_sum / n if reduction == "mean" else token_sum
        unit = v if supervised else 1.0
        bottom += unit * {"token": n, "constant": 7.0}.get(reduction, 1.0)
    assert float(row.loss(logp, batch, signal)) == pytest.approx(top / bottom)


def test_pairs_divide_by_their_total_weight() -> None:
    batch = make_batch(10)
    row, logp = METHODS["dpo"].override(pairs=pairs.best_vs_rest, responses=4), make_logp(batch, 10)
    signal, total = fixed(row, batch)
    assert signal.pair_weight is not None and float(total) == pytest.approx(3.0)
    losses = objectives.dpo(logp, signal, batch)
    assert float(row.loss(logp, batch)) == pytest.approx(float((losses * signal.pair_weight).sum() / 3))


def test_a_batch_without_any_pair_has_loss_and_gradient_zero() -> None:
    batch = replace(make_batch(11, responses=2), scores=torch.zeros(3, 2, dtype=F64))
    assert float(METHODS["dpo"].loss(make_logp(batch), batch)) == 0
    assert METHODS["dpo"].coefficients(make_logp(batch), batch).abs().sum() == 0


# ------------------------------------------------------------------------------------------- how rows are configured


def test_override_reaches_fields_and_hyper_parameters() -> None:
    row = METHODS["dpo"].override(beta=0.7, on_policy=1.0, negative=0.0)
    assert (row.defaults["beta"], row.on_policy, row.negative) == (0.7, 1.0, 0.0)
    assert row.override(smoothing=0.2).defaults == {"beta": 0.7, "smoothing": 0.2, "threshold": 0.0}
    assert METHODS["dpo"].defaults["beta"] == 0.1 and METHODS["dpo"].negative == 1.0
    with pytest.raises(UserError, match="did you mean `beta`"):
        METHODS["dpo"].override(betta=0.5)
    with pytest.raises(UserError, match="has no `tau`"):
        METHODS["dpo"].override(tau=0.5)
    with pytest.raises(UserError, match="did you mean `online_dpo`"):
        method("onlin_dpo")
    assert method("dpo") is METHODS["dpo"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dpo", {"beta": 0.0}),
        ("dpo", {"beta": -1.0}),
        ("dpo", {"beta": torch.tensor([0.1, 0.0])}),
        ("dpo", {"beta": float("nan")}),
        ("dpo", {"beta": "0.1"}),
        ("dpo", {"beta": True}),
        ("ipo", {"tau": 0}),
        ("ppo", {"clip": 0.0}),
        ("ppo", {"kl": -0.1}),
        ("ppo", {"lam": 1.1}),
        ("dpo", {"on_policy": 1.5}),
        ("dpo", {"negative": -0.1}),
        ("dpo", {"negative": torch.tensor([0.0, 1.2])}),
        ("dpo", {"responses": 0}),
        ("dpo", {"reduction": "sum"}),
        ("rwr", {"normalise": "group"}),
        ("best_of_n_negative", {"form": "exp"}),
    ],
)
def test_values_out_of_range_are_refused(name: str, changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"`{next(iter(changes))}`"):
        METHODS[name].override(**changes)


def test_a_new_method_is_one_function_and_one_row() -> None:
    def hinge(logp: Tensor, signal: Signal, batch: Batch, *, room: float = 1.0) -> Tensor:
        return torch.relu(room - objectives.margin(objectives.sequence(logp, batch), signal))

    row = Method(hinge, pairs=pairs.best_vs_worst)
    batch = make_batch(12)
    assert row.override(room=50.0).defaults["room"] == 50.0
    c = row.override(room=50.0, negative=0.5).coefficients(make_logp(batch), batch)
    assert c.min() == pytest.approx(-0.5 / 3) and c.max() == pytest.approx(1 / 3)
    assert row.needs == {"scores"}


def test_the_switch_is_the_identity_forward() -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64).requires_grad_()
    assert torch.equal(switch(x, 0.0), x)
    g = torch.tensor([[1.0, -2.0, 0.0], [3.0, -4.0, 5.0]], dtype=F64)
    per_run = torch.tensor([0.5, 0.0], dtype=F64)
    got = torch.autograd.grad(switch(x, per_run), x, g)[0]
    assert got.tolist() == [[0.5, -2.0, 0.0], [0.0, -4.0, 0.0]]


def test_a_penalty_splits_the_advantage() -> None:
    """The switch sees the score's share; penalty_loss carries the rest, unswitched."""
    batch = make_batch(13)
    batch = replace(batch, penalty=kl.penalty(0.5, batch))
    row = METHODS["rloo"].override(kl=0.5, negative=0.0)
    signal, total = fixed(row, batch)
    assert signal.weight is not None and signal.kl_weight is not None
    assert torch.equal(signal.weight, weights.leave_one_out(replace(batch, penalty=None)))
    same(signal.weight + signal.kl_weight, weights.leave_one_out(batch))
    logp = make_logp(batch, 13).requires_grad_()
    (grad,) = torch.autograd.grad(row.penalty_loss(logp, batch, signal, total), logp)
    ratio = (logp - batch.logp_proximal).exp().detach()  # type: ignore[operator]
    same(-grad, torch.where(batch.mask, signal.kl_weight[..., None] * ratio / 12, 0.0))
    assert row.coefficients(logp, batch).min() >= 0 and grad.max() > 0


def test_value_targets_are_returns_for_lambda_one() -> None:
    batch = make_batch(14)
    signal = METHODS["ppo"].override(lam=1.0).signal(batch)
    assert signal.value_target is not None and batch.scores is not None
    want = torch.where(batch.mask, batch.scores[..., None], 0.0)
    same(signal.value_target, want)


def test_rows_that_compare_responses_to_one_prompt_say_so() -> None:
    assert all(METHODS[name].compares for name in ("rloo", "grpo", "grpo_no_std", "awr", "dpo", "best_of_n_negative"))
    assert not any(METHODS[name].compares for name in ("sft", "reinforce", "rwr", "kto"))
    assert METHODS["rwr"].override(normalise="prompt").compares
