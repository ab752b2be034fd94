"""The loss of a pair: hand values, gradients, ties, leads, centring; and known scores found again as pairs grow."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from prefloop.core.errors import DataError, UserError
from prefloop.data.records import Group, Message
from prefloop.rewards.bradley_terry.encoding import preferences
from prefloop.rewards.bradley_terry.logistic import fit_linear, fit_pairs, minimise, pair_features
from prefloop.rewards.bradley_terry.loss import judged, pair_loss
from prefloop.rewards.bradley_terry.options import PairLoss

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# winner, loser, q, d, c, loss by hand
HAND = [
    (1.0, -1.0, 0.0, 0.0, 0.0, 0.126928011042972),  # −log σ(2)
    (1.0, -1.0, 0.5, 0.0, 0.0, 1.126928011042972),  # a tie: ½(0.1269 + 2.1269)
    (1.0, -1.0, 0.1, 0.0, 0.0, 0.326928011042972),  # 0.9·0.1269 + 0.1·2.1269
    (1.0, -1.0, 0.0, 2.0, 0.0, 0.693147180559945),  # the lead is just reached: log 2
    (2.0, 0.5, 0.0, 0.5, 0.0, 0.313261687518223),  # −log σ(1)
    (2.0, 0.5, 0.0, 0.0, 0.01, 0.263913278),  # −log σ(1.5) + 0.01·2.5²
    (-1.0, 2.0, 0.2, 0.5, 0.1, 2.939578281),  # 0.8·3.529750 + 0.2·0.078890 + 0.1·1²
]


@pytest.mark.parametrize(("winner", "loser", "q", "d", "c", "loss"), HAND)
def test_the_loss_by_hand(winner: float, loser: float, q: float, d: float, c: float, loss: float) -> None:
    w, other = torch.tensor([winner], **DOUBLE), torch.tensor([loser], **DOUBLE)
    found = pair_loss(w - other, w + other, flip=q, lead=d, centring=c)
    m, t = winner - loser, winner + loser
    expected = -(1 - q) * log_sigmoid(m - d) - q * log_sigmoid(-m - d) + c * t * t
    assert float(found) == pytest.approx(expected, abs=1e-12)
    assert float(found) == pytest.approx(loss, abs=1e-8)


def test_the_gradient_is_that_of_the_formula_and_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    m, t, d = torch.randn(3, 6, generator=generator, **DOUBLE).unbind(0)
    q = torch.tensor([0.0, 0.1, 0.5, 0.5, 0.2, 0.0], **DOUBLE)
    m.requires_grad_(True), t.requires_grad_(True)
    pair_loss(m, t, flip=q, lead=d.abs(), centring=0.3).sum().backward()
    assert m.grad is not None and t.grad is not None
    by_hand = -(1 - q) * torch.sigmoid(d.abs() - m) + q * torch.sigmoid(d.abs() + m)
    torch.testing.assert_close(m.grad, by_hand)
    torch.testing.assert_close(t.grad, 2 * 0.3 * t)
    assert torch.autograd.gradcheck(lambda a, b: pair_loss(a, b, flip=q, lead=d.abs(), centring=0.3), (m, t))


def test_scores_that_are_swapped_negate_the_margin_and_turn_the_loss() -> None:
    m = torch.randn(50, generator=torch.Generator().manual_seed(1), **DOUBLE)
    torch.testing.assert_close(pair_loss(-m, flip=0.2), pair_loss(m, flip=0.8), rtol=0, atol=1e-15)
    tie = pair_loss(m, flip=0.5)
    assert torch.equal(tie, pair_loss(-m, flip=0.5)) and bool((tie >= math.log(2)).all())


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"label_smoothing": 0.5}, "`label_smoothing` cannot be 0.5"),
        ({"rating_margin": -1.0}, "`rating_margin` cannot be"),
        ({"centring": float("inf")}, "`centring` cannot be"),
        ({"label_smoothing": float("nan")}, "`label_smoothing` cannot be nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], what: str) -> None:
    with pytest.raises(UserError, match=what):
        PairLoss(**settings)


def test_ties_and_ratings_become_pairs() -> None:
    group = Group((Message("user", "q"),), ("a", "b", "c"), (3.0, 1.0, 3.0), "q", 1)
    strict = preferences([group], [(0, 1, 2)])
    assert strict.index.tolist() == [[0, 1], [2, 1]] and strict.gap.tolist() == [2.0, 2.0]
    whole = preferences([group], [(0, 1, 2)], "half")
    assert whole.index.tolist() == [[0, 1], [0, 2], [2, 1]] and whole.gap.tolist() == [2.0, 0.0, 2.0]
    flip, lead = judged(whole.gap, PairLoss(label_smoothing=0.1, rating_margin=0.25))
    torch.testing.assert_close(flip, torch.tensor([0.1, 0.5, 0.1]))
    torch.testing.assert_close(lead, torch.tensor([0.5, 0.0, 0.5]))
    with pytest.raises(DataError, match="no preferences"):
        preferences([replace(group, scores=(1.0, 1.0, 1.0))], [(0, 1, 2)], "half")


# ------------------------------------------------------------------------------------------------- the linear fit


def drawn(n: int, seed: int, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of five items, and n comparisons of two of them (winner and loser, one-hot) drawn from Bradley-Terry."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.tensor([1.0, 0.4, 0.0, -0.4, -1.0], **DOUBLE) / temperature
    sides = torch.rand(n, 5, generator=generator).argsort(-1)[:, :2]
    first = torch.rand(n, generator=generator, **DOUBLE) < torch.sigmoid(truth[sides[:, 0]] - truth[sides[:, 1]])
    winner = torch.where(first, sides[:, 0], sides[:, 1])
    hot = torch.eye(5, **DOUBLE)
    return truth, hot[winner], hot[sides.sum(-1) - winner]


def test_fitted_differences_converge_to_the_truth_as_pairs_grow() -> None:
    """The error falls as 1/√n: with error bars over ten draws, and within Cramér and Rao's bound times 1.5."""
    means, bars = [], []
    sizes = (250, 1000, 4000)
    for n in sizes:
        errors = []
        for seed in range(10):
            truth, winner, loser = drawn(n, seed)
            pairs = pair_features(winner, loser, torch.ones(n), PairLoss())
            weight = minimise(pairs, torch.zeros(5, **DOUBLE), penalty=1e-4)
            errors.append(float(((weight - weight.mean()) - (truth - truth.mean())).square().mean().sqrt()))
        means.append(float(np.mean(errors)))
        bars.append(float(np.std(errors, ddof=1) / math.sqrt(len(errors))))
    print("\nerror by n:", {n: f"{m:.3f} ± {b:.3f}" for n, m, b in zip(sizes, means, bars, strict=True)})
    for k in (0, 1):  # four times the pairs, half the error
        assert means[k] / means[k + 1] == pytest.approx(2.0, abs=0.7)
        assert means[k] - 2 * bars[k] > means[k + 1] + 2 * bars[k + 1]
    assert means[-1] < 1.5 * cramer_rao(sizes[-1])


def cramer_rao(n: int) -> float:
    """Root mean squared error of the five centred scores that no unbiased estimate from n pairs can fall below."""
    truth = drawn(1, 0)[0]
    gap = truth[:, None] - truth[None]
    weight = torch.sigmoid(gap) * torch.sigmoid(-gap) * n / 10  # ten pairs of items, equally often
    weight.fill_diagonal_(0)
    information = torch.diag(weight.sum(-1)) - weight
    return math.sqrt(float(torch.linalg.pinv(information).trace()) / 5)


def test_ties_and_smoothing_pull_differences_together_and_a_lead_pushes_them_apart() -> None:
    _, winner, loser = drawn(2000, 0)
    gap, none = torch.ones(2000), torch.zeros(1)

    def spread(loss: PairLoss, tied: int = 0) -> float:
        more = torch.arange(tied) % 2000
        w, other = torch.cat([winner, winner[more]]), torch.cat([loser, loser[more]])
        pairs = pair_features(w, other, torch.cat([gap, none.expand(tied)]), loss)
        found = minimise(pairs, torch.zeros(5, **DOUBLE), penalty=1e-4)
        return float(found.max() - found.min())

    plain = spread(PairLoss())
    assert plain == pytest.approx(2.0, abs=0.25)
    assert spread(PairLoss(), tied=2000) < 0.7 * plain  # twice the pairs, half of which say nothing
    assert spread(PairLoss(label_smoothing=0.2)) < 0.7 * plain
    assert spread(PairLoss(rating_margin=1.0)) > 1.3 * plain


def test_a_half_weighted_tie_equals_half_a_preference_either_way() -> None:
    _, winner, loser = drawn(300, 2)
    tied = pair_features(winner, loser, torch.zeros(300), PairLoss())
    one, two = (pair_features(*sides, torch.ones(300), PairLoss()) for sides in ((winner, loser), (loser, winner)))
    w = torch.tensor([0.3, -0.2, 0.5, 0.0, -1.0], **DOUBLE)
    torch.testing.assert_close(tied.nll(w), (one.nll(w) + two.nll(w)) / 2)


def test_centring_agrees_with_an_independent_minimum_over_weights_and_bias() -> None:
    generator = torch.Generator().manual_seed(3)
    winner, loser = torch.randn(2, 60, 3, generator=generator, **DOUBLE) + torch.tensor([2.0, 0.0, -1.0], **DOUBLE)
    pairs = pair_features(winner, loser, torch.ones(60), PairLoss(centring=0.2))
    own = minimise(pairs, torch.zeros(3, **DOUBLE), penalty=0.1, centring=0.2)

    def objective(x: Any) -> float:
        w, b = torch.as_tensor(x[:3]), float(x[3])
        sw, sl = winner @ w + b, loser @ w + b
        return float((1 + (sl - sw).exp()).log().mean() + 0.2 * ((sw + sl) ** 2).mean() + 0.05 * w @ w)

    best = minimize(objective, [0.0] * 4, tol=1e-12)
    torch.testing.assert_close(own, torch.as_tensor(best.x[:3]), atol=1e-5, rtol=0)
    bias = -float(((winner + loser) @ own).mean()) / 2
    assert bias == pytest.approx(float(best.x[3]), abs=1e-4)


def test_centring_shrinks_the_sums_and_keeps_the_order() -> None:
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(400, 1, generator=generator, **DOUBLE)  # a prompt's own level, of no use in a comparison
    good = torch.rand(400, 2, generator=generator, **DOUBLE).sort(-1, descending=True).values
    winner, loser = (torch.cat([base + good[:, k : k + 1], good[:, k : k + 1]], -1) for k in (0, 1))
    sums = {}
    for centring in (0.0, 0.5):
        pairs = pair_features(winner, loser, torch.ones(400), PairLoss(centring=centring))
        found = fit_pairs(pairs, list(range(400)), centring=centring, penalties=(1e-3,))
        assert float((pairs.difference @ found.weight).min()) > 0
        sums[centring] = float((pairs.total @ found.weight).square().mean())
    assert sums[0.5] < 0.05 * sums[0.0]


def test_the_plain_case_of_the_two_fits_is_the_same() -> None:
    _, winner, loser = drawn(200, 5)
    keys = [i // 4 for i in range(200)]
    whole = fit_pairs(pair_features(winner, loser, torch.ones(200), PairLoss()), keys, seed=3)
    plain = fit_linear(winner - loser, keys, seed=3)
    assert torch.equal(whole.weight, plain.weight) and whole.penalty == plain.penalty
