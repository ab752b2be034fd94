"""Golden values of every objective, from formulas in plain Python, and gradients at the places that matter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefloop.core import objectives as o
from prefloop.core.batch import Batch, MissingNeed, Signal

F64 = torch.float64
# two prompts, two responses each, up to three tokens, lengths 3, 2, 1, 3; garbage where the mask is off
LOGP = [[[-0.5, -1.0, -0.25], [-2.0, -0.125, 99.0]], [[-0.75, 77.0, -55.0], [-0.1, -0.2, -0.3]]]
REF = [[[-1.5, -0.5, -0.75], [-1.0, -1.125, 5e8]], [[-0.5, -6e8, 1.0], [-0.4, -0.8, -0.1]]]
OLD = [[[-0.6, -0.9, -1.25], [-1.0, -0.125, -9e8]], [[-1.75, 3.0, 3.0], [-0.1, -2.2, -0.35]]]
LENGTHS = [[3, 2], [1, 3]]
SCORES = [[1.0, -0.5], [-2.0, 0.25]]
WEIGHT = [[0.5, -2.0], [3.0, -0.25]]
PAIRS = [[0, 1], [1, 0]]  # winner, loser of each prompt
PLACES = [(p, i) for p in range(2) for i in range(2)]


def record(**changes: object) -> Batch:
    lengths = torch.tensor(LENGTHS)
    given = {
        "prompts": torch.arange(2),
        "responses": torch.zeros(2, 2, 3, dtype=torch.long),
        "mask": torch.arange(3) < lengths[..., None],
        "scores": torch.tensor(SCORES, dtype=F64),
        "labels": torch.tensor(SCORES, dtype=F64).sign(),
        "logp_reference": torch.tensor(REF, dtype=F64),
        "logp_behaviour": torch.tensor(OLD, dtype=F64),
        "logp_proximal": torch.tensor(OLD, dtype=F64),
        "z": torch.tensor(0.3, dtype=F64),
    }
    return Batch(**{**given, **changes})


def signal(**changes: object) -> Signal:
    given = {
        "weight": torch.tensor(WEIGHT, dtype=F64),
        "pairs": torch.tensor(PAIRS)[:, None],
        "pair_weight": torch.ones(2, 1, dtype=F64),
    }
    return Signal(**{**given, **changes})


def logp() -> Tensor:
    return torch.tensor(LOGP, dtype=F64).requires_grad_()


def total(x: list[list[list[float]]], p: int, i: int) -> float:
    return sum(x[p][i][: LENGTHS[p][i]])


def gain(p: int, i: int) -> float:
    return total(LOGP, p, i) - total(REF, p, i)


def mean(p: int, i: int) -> float:
    return total(LOGP, p, i) / LENGTHS[p][i]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def margins() -> list[float]:
    return [gain(p, w) - gain(p, loser) for p, (w, loser) in enumerate(PAIRS)]


def on_mask(x: Tensor) -> list[float]:
    return x[record().mask].tolist()


def test_the_margins_by_hand() -> None:
    # prompt 0: winner −1.75 + 2.75 = 1; loser −2.125 + 2.125 = 0. prompt 1: winner −0.6 + 1.3 = 0.7; loser −0.25
    assert margins() == pytest.approx([1.0, 0.95])
    h = o.margin(o.implicit_reward(logp(), record()), signal())
    assert h[:, 0].tolist() == pytest.approx([1.0, 0.95], abs=1e-14)
    assert o.sequence(logp(), record()).flatten().tolist() == pytest.approx([-1.75, -2.125, -0.75, -0.6])
    assert o.token_mean(logp(), record()).flatten().tolist() == pytest.approx([-1.75 / 3, -2.125 / 2, -0.75, -0.2])


def test_the_mean_of_an_empty_response_is_zero() -> None:
    empty = record(mask=torch.zeros(2, 2, 3, dtype=torch.bool))
    assert o.token_mean(logp(), empty).abs().sum() == 0


def test_nll_is_minus_weight_times_logp() -> None:
    got = on_mask(o.nll(logp(), signal(), record()))
    want = [-WEIGHT[p][i] * LOGP[p][i][t] for p, i in PLACES for t in range(LENGTHS[p][i])]
    assert got == pytest.approx(want)
    per_token = torch.arange(12, dtype=F64).view(2, 2, 3)
    got = on_mask(o.nll(logp(), signal(weight=per_token), record()))
    assert got == pytest.approx([-(6 * p + 3 * i + t) * LOGP[p][i][t] for p, i in PLACES for t in range(LENGTHS[p][i])])


def test_policy_gradient_is_minus_advantage_times_ratio() -> None:
    got = on_mask(o.policy_gradient(logp(), signal(), record()))
    places = [(p, i, t) for p, i in PLACES for t in range(LENGTHS[p][i])]
    assert got == pytest.approx([-WEIGHT[p][i] * math.exp(LOGP[p][i][t] - OLD[p][i][t]) for p, i, t in places])
    whole = o.policy_gradient(logp(), signal(), record(), level="sequence").flatten().tolist()
    assert whole == pytest.approx([-WEIGHT[p][i] * math.exp(total(LOGP, p, i) - total(OLD, p, i)) for p, i in PLACES])


@pytest.mark.parametrize(("clip", "clip_high"), [(0.2, None), (0.1, 0.5), (0.9, 4.0)])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_clipped_is_the_pessimistic_surrogate(clip: float, clip_high: float | None, level: str) -> None:
    def surrogate(advantage: float, d: float) -> float:
        rho, high = math.exp(d), clip if clip_high is None else clip_high
        return -min(advantage * rho, advantage * min(max(rho, 1 - clip), 1 + high))

    got = o.clipped(logp(), signal(), record(), clip=clip, clip_high=clip_high, level=level)
    if level == "token":
        places = [(p, i, t) for p, i in PLACES for t in range(LENGTHS[p][i])]
        want = [surrogate(WEIGHT[p][i], LOGP[p][i][t] - OLD[p][i][t]) for p, i, t in places]
        assert on_mask(got) == pytest.approx(want)
    else:
        want = [surrogate(WEIGHT[p][i], total(LOGP, p, i) - total(OLD, p, i)) for p, i in PLACES]
        assert got.flatten().tolist() == pytest.approx(want)


def test_clipped_by_hand_on_the_default_range() -> None:
    # ratios e^0.1 (inside), e^-0.1 (inside), e^1 (above: held at 1.2), all at A = 0.5
    got = o.clipped(logp(), signal(), record())[0, 0].tolist()
    assert got == pytest.approx([-0.5 * math.exp(0.1), -0.5 * math.exp(-0.1), -0.6])
    # A = −2 at ratio e^−1 = 0.37: held at 0.8, so the loss is 1.6
    assert float(o.clipped(logp().detach(), signal(), record())[0, 1, 0]) == pytest.approx(1.6)
    # A = 3 at ratio e^1: no more than 1.2
    assert float(o.clipped(logp().detach(), signal(), record())[1, 0, 0]) == pytest.approx(-3.6)


def test_clipped_has_no_gradient_beyond_its_range() -> None:
    x = logp()
    torch.where(record().mask, o.clipped(x, signal(), record()), 0.0).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0, 2] == 0 and x.grad[0, 1, 0] == 0 and x.grad[1, 0, 0] == 0
    assert float(x.grad[0, 0, 0]) == pytest.approx(-0.5 * math.exp(0.1))
    assert float(x.grad[1, 1, 1]) == pytest.approx(0.25 * math.exp(2.0))  # A < 0 and ρ high: the bad side is kept


def test_ratios_prefer_the_policy_at_collection_and_fall_back_on_the_writer() -> None:
    writer = record(logp_behaviour=torch.tensor(REF, dtype=F64))
    assert torch.equal(o.log_ratio(logp(), writer), o.log_ratio(logp(), record()))
    alone = record(logp_behaviour=torch.tensor(REF, dtype=F64), logp_proximal=None)
    assert float(o.log_ratio(logp(), alone)[0, 0, 0].detach()) == pytest.approx(1.0)
    with pytest.raises(MissingNeed, match="logp_behaviour"):
        o.log_ratio(logp(), record(logp_behaviour=None, logp_proximal=None))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_log_ratios_are_clamped_at_twenty(sign: float) -> None:
    far = torch.tensor(OLD, dtype=F64) + sign * 30.0
    assert o.log_ratio(far, record())[record().mask].tolist() == pytest.approx([sign * 20.0] * 9)
    rho, _ = o.ratio(torch.tensor(OLD, dtype=F64) + sign * 15.0, signal(), record(), "sequence")
    assert rho.flatten().log().tolist() == pytest.approx([sign * 20.0, sign * 20.0, sign * 15.0, sign * 20.0])


def test_a_sequence_ratio_refuses_token_weights() -> None:
    with pytest.raises(MissingNeed, match="per response"):
        o.ratio(logp(), signal(weight=torch.ones(2, 2, 3, dtype=F64)), record(), "sequence")
    with pytest.raises(MissingNeed, match="per response"):
        o.ratio(logp(), signal(weight=None), record(), "sequence")


@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (1.0, 0.0), (2.0, 0.25), (0.5, 0.5)])
def test_dpo(beta: float, smoothing: float) -> None:
    got = o.dpo(logp(), signal(), record(), beta=beta, smoothing=smoothing)[:, 0].tolist()
    keep, flip = 1 - smoothing, smoothing
    want = [-keep * math.log(sigma(beta * h)) - flip * math.log(sigma(-beta * h)) for h in margins()]
    assert got == pytest.approx(want)


def test_dpo_by_hand() -> None:
    # h = 1 and β = 1: log(1 + 1/e) = 0.31326168751822286
    assert float(o.dpo(logp().detach(), signal(), record(), beta=1.0)[0, 0]) == pytest.approx(
        0.31326168751822286, abs=1e-15
    )
    assert float(o.dpo(logp().detach(), signal(), record())[0, 0]) == pytest.approx(
        math.log1p(math.exp(-0.1)), abs=1e-15
    )


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_ipo(tau: float) -> None:
    got = o.ipo(logp(), signal(), record(), tau=tau)[:, 0].tolist()
    assert got == pytest.approx([(h - 1 / (2 * tau)) ** 2 for h in margins()], abs=1e-14)


def test_ipo_by_hand() -> None:
    assert o.ipo(logp(), signal(), record())[:, 0].tolist() == pytest.approx([16.0, 4.05**2])  # 1/(2·0.1) = 5


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.02])
def test_hinge_norm(beta: float) -> None:
    got = o.hinge_norm(logp(), signal(), record(), beta=beta)[:, 0].tolist()
    assert got == pytest.approx([max(0.0, 1 - beta * h) for h in margins()], abs=1e-14)
    assert float(o.hinge_norm(logp().detach(), signal(), record())[0, 0]) == pytest.approx(0.9)


@pytest.mark.parametrize(("delta", "keep"), [(1.0, 0.1), (0.2, 0.0), (3.0, 2.0)])
@pytest.mark.parametrize("pairs", [PAIRS, [[1, 0], [0, 1]]])
def test_slic(delta: float, keep: float, pairs: list[list[int]]) -> None:
    """SLiC-HF, eq. 5, by loops: a hinge on plain sequence log-probs, and the likelihood of the target."""
    got = o.slic(logp(), signal(pairs=torch.tensor(pairs)[:, None]), record(), delta=delta, keep=keep)[:, 0].tolist()
    want = []
    for p, (w, loser) in enumerate(pairs):
        hinge = max(0.0, delta - total(LOGP, p, w) + total(LOGP, p, loser))
        want.append(hinge - keep * total(LOGP, p, w))
    assert got == pytest.approx(want, abs=1e-14)


def test_slic_by_hand() -> None:
    # winner −1.75, loser −2.125: hinge 1 − 0.375, likelihood 0.1 · 1.75; winner −0.6, loser −0.75: 0.85 + 0.06
    got = o.slic(logp().detach(), signal(), record(logp_reference=None))[:, 0].tolist()
    assert got == pytest.approx([0.625 + 0.175, 0.85 + 0.06])


@pytest.mark.parametrize(("beta", "keep"), [(0.1, 50.0), (1.0, 2.0), (0.5, 0.0)])
@pytest.mark.parametrize("pairs", [PAIRS, [[1, 0], [0, 1]]])
def test_dpop(beta: float, keep: float, pairs: list[list[int]]) -> None:
    got = o.dpop(logp(), signal(pairs=torch.tensor(pairs)[:, None]), record(), beta=beta, keep=keep)[:, 0].tolist()
    want = []
    for p, (w, loser) in enumerate(pairs):
        h = gain(p, w) - gain(p, loser) - keep * max(0.0, -gain(p, w))
        want.append(-math.log(sigma(beta * h)))
    assert got == pytest.approx(want)


def test_dpop_by_hand() -> None:
    # prompt 1 with response 0 as winner: gain −0.25, margin −0.95, penalty 50·0.25: h = −13.45, β = 0.1
    got = o.dpop(logp().detach(), signal(pairs=torch.tensor([[1, 0], [0, 1]])[:, None]), record())[1, 0]
    assert float(got) == pytest.approx(math.log1p(math.exp(1.345)))


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (10.0, 0.0), (0.5, -3.0)])
def test_simpo(beta: float, gamma: float) -> None:
    got = o.simpo(logp(), signal(), record(), beta=beta, gamma=gamma)[:, 0].tolist()
    want = [-math.log(sigma(beta * (mean(p, w) - mean(p, loser)) - gamma)) for p, (w, loser) in enumerate(PAIRS)]
    assert got == pytest.approx(want)


def test_simpo_by_hand() -> None:
    # prompt 1: 2·(−0.2 + 0.75) − 1 = 0.1
    assert float(o.simpo(logp().detach(), signal(), record())[1, 0]) == pytest.approx(math.log1p(math.exp(-0.1)))


@pytest.mark.parametrize("odds", [0.1, 1.0, 0.0])
def test_orpo(odds: float) -> None:
    def log_odds(p: int, i: int) -> float:
        return mean(p, i) - math.log(1 - math.exp(mean(p, i)))

    got = o.orpo(logp(), signal(), record(), odds=odds)[:, 0].tolist()
    want = []
    for p, (w, loser) in enumerate(PAIRS):
        h = log_odds(p, w) - log_odds(p, loser)
        want.append(-mean(p, w) - odds * math.log(sigma(h)))
    assert got == pytest.approx(want)
    assert torch.equal(o.orpo(logp(), signal(), record()), o.orpo(logp(), signal(), record(), odds=0.1))


@pytest.mark.parametrize(("beta", "up", "down"), [(0.1, 1.0, 1.0), (1.0, 1.5, 0.5), (2.0, 0.0, 3.0)])
@pytest.mark.parametrize("z", [0.0, 0.3])
def test_kto(beta: float, up: float, down: float, z: float) -> None:
    batch = record(z=torch.tensor(z, dtype=F64))
    got = o.kto(logp(), signal(), batch, beta=beta, desirable=up, undesirable=down).flatten().tolist()
    want = []
    for p, i in PLACES:
        value = beta * (gain(p, i) - z)
        want.append(up * (1 - sigma(value)) if SCORES[p][i] > 0 else down * (1 - sigma(-value)))
    assert got == pytest.approx(want)
    assert torch.equal(o.kto(logp(), signal(), batch), o.kto(logp(), signal(), batch, beta=0.1, desirable=1.0))
    assert torch.equal(o.kto(logp(), signal(), batch), o.kto(logp(), signal(), batch, undesirable=1.0))


def test_kto_counts_a_label_of_zero_as_undesirable() -> None:
    zero = record(labels=torch.zeros(2, 2, dtype=F64))
    assert o.kto(logp(), signal(), zero, desirable=0.0).abs().min() > 0


@pytest.mark.parametrize(("push", "gate"), [(0.1, 0.01), (1.0, 0.9), (0.5, 0.3)])
def test_nll_negative_counts_the_loser_only_above_the_gate(push: float, gate: float) -> None:
    x = logp()
    losses = o.nll_negative(x, signal(), record(), push=push, gate=gate)
    want = [-total(LOGP, p, w) + push * total(LOGP, p, loser) for p, (w, loser) in enumerate(PAIRS)]
    assert losses[:, 0].tolist() == pytest.approx(want)
    losses.sum().backward()
    assert x.grad is not None
    for p, (w, loser) in enumerate(PAIRS):
        active = total(LOGP, p, loser) - total(LOGP, p, w) > math.log(gate)
        assert x.grad[p, w, 0] == -1
        assert float(x.grad[p, loser, 0]) == pytest.approx(push if active else 0.0)
    # log-ratios are −0.375 and −0.15: both above log 0.01 and log 0.3, the first below log 0.9 = −0.105


def test_nll_negative_as_unlikelihood() -> None:
    for push in (0.1, 2.0, 0.0):
        got = o.nll_negative(logp(), signal(), record(), push=push, form="unlikelihood")[:, 0].tolist()
        want = []
        for p, (w, loser) in enumerate(PAIRS):
            rest = sum(math.log(1 - math.exp(v)) for v in LOGP[p][loser][: LENGTHS[p][loser]])
            want.append(-total(LOGP, p, w) - push * rest)
        assert got == pytest.approx(want)
    default = o.nll_negative(logp(), signal(), record())
    assert torch.equal(default, o.nll_negative(logp(), signal(), record(), push=0.1, gate=0.01, form="log"))


def test_nll_negative_at_the_gate_itself_does_not_push() -> None:
    same = torch.tensor([[[-0.5], [-0.5]]], dtype=F64).requires_grad_()
    one = torch.ones(1, 2, 1, dtype=torch.bool)
    pair = Signal(pairs=torch.tensor([[[0, 1]]]), pair_weight=torch.ones(1, 1))
    o.nll_negative(same, pair, Batch(torch.zeros(1), one.long(), one), gate=1.0).sum().backward()
    assert same.grad is not None and same.grad.flatten().tolist() == [-1.0, 0.0]


def test_nll_negative_default_gate_is_one_percent() -> None:
    batch = Batch(torch.zeros(1), torch.zeros(1, 2, 1, dtype=torch.long), torch.ones(1, 2, 1, dtype=torch.bool))
    pair = Signal(pairs=torch.tensor([[[0, 1]]]), pair_weight=torch.ones(1, 1))
    for gap, kept in ((math.log(0.011), 0.1), (math.log(0.009), 0.0)):
        x = torch.tensor([[[-0.5], [-0.5 + gap]]], dtype=F64).requires_grad_()
        o.nll_negative(x, pair, batch).sum().backward()
        assert x.grad is not None and x.grad.flatten().tolist() == pytest.approx([-1.0, kept])


def test_log1mexp_is_accurate_at_both_ends_and_finite_at_zero() -> None:
    for x in (-1e-5, -0.1, -0.6931, -0.6932, -2.0, -1.0):
        assert float(o.log1mexp(torch.tensor(x, dtype=F64))) == pytest.approx(math.log(-math.expm1(x)), rel=1e-13)
    assert float(o.log1mexp(torch.tensor(-50.0, dtype=F64))) == pytest.approx(-math.exp(-50.0), rel=1e-12)
    at_zero = torch.tensor([0.0, -1e-7], dtype=F64).requires_grad_()
    out = o.log1mexp(at_zero)
    assert out.tolist() == pytest.approx([math.log(-math.expm1(-1e-6))] * 2, rel=1e-12)
    out.sum().backward()
    assert at_zero.grad is not None and at_zero.grad.tolist() == [0.0, 0.0]
    x = torch.tensor([-1e-5, -0.3, -3.0, -40.0], dtype=F64).requires_grad_()
    o.log1mexp(x).sum().backward()
    want = [-math.exp(v) / -math.expm1(v) for v in x.tolist()]  # d/dx log(1 − e^x)
    assert x.grad is not None and x.grad.tolist() == pytest.approx(want, rel=1e-10)


def test_a_tie_has_no_preference() -> None:
    same = torch.tensor([[[0, 0]], [[1, 1]]])
    tie = signal(pairs=same)
    assert o.dpo(logp(), tie, record(), beta=3.0).flatten().tolist() == pytest.approx([math.log(2)] * 2)
    assert o.ipo(logp(), tie, record(), tau=0.5).flatten().tolist() == pytest.approx([1.0, 1.0])
    assert o.hinge_norm(logp(), tie, record()).flatten().tolist() == pytest.approx([1.0, 1.0])
    assert o.slic(logp(), tie, record(), delta=0.5, keep=0.0).flatten().tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", ["implicit_reward", "pair", "_weight", "kto", "kto_z"])
def test_what_is_missing_is_named(name: str) -> None:
    calls = {
        "implicit_reward": ("logp_reference", lambda: o.implicit_reward(logp(), record(logp_reference=None))),
        "pair": ("pairs", lambda: o.dpo(logp(), Signal(), record())),
        "_weight": ("weight", lambda: o.nll(logp(), Signal(), record())),
        "kto": ("labels", lambda: o.kto(logp(), Signal(), record(labels=None))),
        "kto_z": ("`z`", lambda: o.kto(logp(), Signal(), record(z=None))),
    }
    need, call = calls[name]
    with pytest.raises(MissingNeed, match=need):
        call()
