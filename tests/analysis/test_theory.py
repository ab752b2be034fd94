"""The theory's closed forms against autograd, differences, real steps and integrals; both studies at size smoke."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor

from prefloop.analysis import theory
from prefloop.core.kl import exact
from prefloop.studies import kl_modes
from prefloop.studies import theory as theory_study
from prefloop.studies.study import Outcome, Study
from toys import F64

P0, Q = torch.tensor([0.3, 0.3, 0.1, 0.3], dtype=F64), torch.tensor([0.2, 0.1, 0.6, 0.1], dtype=F64)
GRADIENTS = {"forward": theory.forward_gradient, "reverse": theory.reverse_gradient}


@dataclass(frozen=True)
class Size:
    size: str = "smoke"


def divergence(name: str, logits: Tensor, q: Tensor) -> Tensor:
    """By the definition, summed over everything."""
    p = torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)
    return (q * torch.log(q / p)).sum() if name == "forward" else (p * torch.log(p / q)).sum()


def slope(name: str, p: Tensor, q: Tensor) -> Tensor:
    leaf = p.log().requires_grad_()
    return torch.autograd.grad(divergence(name, leaf, q), leaf)[0]


def simplex(seed: int, n: int, categories: int, concentration: float = 1.0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.dirichlet(np.full(categories, concentration), size=n))


def change(p: Tensor, gradient: Tensor, step: float) -> Tensor:
    """log p'(1)/p(1) − log p'(2)/p(2) of the first two categories, from probabilities after a step."""
    after = torch.softmax(p.log() - step * gradient, -1)
    return torch.log(after[:, 0] / p[:, 0]) - torch.log(after[:, 1] / p[:, 1])


# ---- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize(("categories", "concentration"), [(3, 0.3), (7, 1.0), (20, 3.0)])
def test_gradients_equal_autograd(name: str, categories: int, concentration: float) -> None:
    p, q = simplex(1, 500, categories, concentration), simplex(2, 500, categories, concentration)
    assert_allclose(GRADIENTS[name](p.log(), q.log()), slope(name, p, q), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal_central_differences(name: str) -> None:
    p, q, h = simplex(3, 1, 6), simplex(4, 1, 6), 1e-5
    ends = [[divergence(name, p.log() + sign * h * row, q) for row in torch.eye(6, dtype=F64)] for sign in (1, -1)]
    differences = [(float(up) - float(down)) / (2 * h) for up, down in zip(*ends, strict=True)]
    assert_allclose(GRADIENTS[name](p.log(), q.log())[0], differences, rtol=0, atol=1e-8)


def test_the_case_study_by_hand() -> None:
    forward, reverse = (-GRADIENTS[name](P0.log(), Q.log()) for name in ("forward", "reverse"))
    assert forward.tolist() == pytest.approx([-0.1, -0.2, 0.5, -0.2], abs=1e-12)
    assert [round(x, 3) for x in reverse.tolist()] == [0.059, -0.149, 0.239, -0.149]


# ---- Lemma 6.1 ------------------------------------------------------------------------------------------------------

NUMBERS = st.floats(-4, 4)


@given(
    st.integers(2, 6).flatmap(lambda v: st.tuples(*[st.lists(NUMBERS, min_size=v, max_size=v)] * 3)), st.floats(0.1, 10)
)
def test_regularised_reward_is_a_reverse_kl(rows: tuple[list[float], list[float], list[float]], beta: float) -> None:
    pi, ref, reward = (torch.tensor(x, dtype=F64) for x in rows)
    parts = (pi.log_softmax(-1), ref.log_softmax(-1), reward, beta)
    left, right = theory.regularised_reward(*parts), theory.reverse_kl_form(*parts)
    assert abs(float(left - right)) <= 1e-12 * max(1.0, abs(float(left)))


def test_regularised_reward_and_its_optimum_by_hand() -> None:
    ref, reward = torch.tensor([0.5, 0.5], dtype=F64).log(), torch.tensor([np.log(9.0), 0.0], dtype=F64)
    star, log_z = theory.optimum(ref, reward, 2.0)  # exp(r/β) = (3, 1), so Z = 2
    assert star.exp().tolist() == pytest.approx([0.75, 0.25]) and float(log_z) == pytest.approx(np.log(2.0))
    value = 0.75 * np.log(9) - 2 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert float(theory.regularised_reward(star, ref, reward, 2.0)) == pytest.approx(value)
    assert value == pytest.approx(2 * np.log(2.0))


def test_beta_may_differ_by_row() -> None:
    pi, ref, reward = simplex(5, 2, 4).log(), simplex(6, 2, 4).log(), torch.arange(8, dtype=F64).view(2, 4)
    both = theory.reverse_kl_form(pi, ref, reward, torch.tensor([0.5, 3.0], dtype=F64))
    alone = [float(theory.reverse_kl_form(pi[i], ref[i], reward[i], b)) for i, b in enumerate((0.5, 3.0))]
    assert both.tolist() == pytest.approx(alone, abs=1e-13)


# ---- Lemma 6.2 ------------------------------------------------------------------------------------------------------

WINNER, LOSER = torch.zeros(1000, dtype=torch.long), torch.ones(1000, dtype=torch.long)


def score(p: Tensor, category: int) -> Tensor:
    leaf = p.log().requires_grad_()
    return torch.autograd.grad(leaf.log_softmax(-1)[:, category].sum(), leaf)[0]


@pytest.mark.parametrize(("categories", "concentration"), [(3, 0.3), (10, 1.0), (20, 0.5)])
def test_pushing_the_loser_down_lifts_the_winner_where_their_gradients_oppose(
    categories: int, concentration: float
) -> None:
    p = simplex(7, 1000, categories, concentration)
    g_w, g_l = score(p, 0), score(p, 1)
    assert torch.equal(theory.push_down_lifts_winner(p.log(), WINNER, LOSER), (g_w * g_l).sum(-1) <= 0)


def test_the_condition_is_what_a_small_step_does() -> None:
    """Second-order terms are below step · |g_l|² ≤ 2 · step; closer calls are left out."""
    p, step = simplex(8, 1000, 6), 1e-6
    moved = (((p.log() - step * score(p, 1)).log_softmax(-1) - p.log()) / step)[:, 0]
    clear = moved.abs() > 2e-6
    assert clear.sum() > 990
    assert torch.equal(theory.push_down_lifts_winner(p.log(), WINNER, LOSER)[clear], moved[clear] > 0)


def test_rare_responses_beside_a_peak_fall_together() -> None:
    logp = torch.tensor([[0.9, 0.06, 0.04]], dtype=F64).log().expand(2, -1)
    winner, loser = torch.tensor([1, 0]), torch.tensor([2, 2])
    assert theory.push_down_lifts_winner(logp, winner, loser).tolist() == [False, True]


# ---- Theorem 6.5 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRADIENTS)
def test_relative_change_is_exact_for_any_step(name: str) -> None:
    p, q = simplex(10, 1000, 5), simplex(11, 1000, 5)
    want = change(p, slope(name, p, q), 2.0)
    assert_allclose(theory.relative_change(GRADIENTS[name](p.log(), q.log()), WINNER, LOSER, 2.0), want, atol=1e-11)


def lead(p: Tensor, q: Tensor) -> Tensor:
    """Δ^reverse − Δ^forward of a real step; instances closer than rounding are never drawn by these seeds."""
    ahead = change(p, slope("reverse", p, q), 0.5) - change(p, slope("forward", p, q), 0.5)
    assert ahead.abs().min() > 1e-12
    return ahead


def level(x: Tensor) -> Tensor:
    return torch.cat([x[:, :2].mean(-1, keepdim=True).expand(-1, 2), x[:, 2:]], -1)


def descending(x: Tensor) -> Tensor:
    return torch.cat([x[:, :2].sort(-1, descending=True).values, x[:, 2:]], -1)


@pytest.mark.parametrize(("categories", "concentration"), [(3, 1.0), (6, 0.5), (15, 3.0)])
def test_part_1_holds_exactly_above_the_log_mean(categories: int, concentration: float) -> None:
    p = level(simplex(12, 4000, categories, concentration))
    q = descending(simplex(13, 4000, categories, concentration))
    said = theory.reverse_moves_more(p[:, 0], q[:, 0], q[:, 1])
    assert torch.equal(said, lead(p, q) > 0)
    assert 0.1 < said.double().mean() < 0.9  # both answers occur


@pytest.mark.parametrize(("categories", "concentration"), [(3, 1.0), (6, 0.5), (15, 3.0)])
def test_parts_2_and_3_meet_at_the_identric_mean(categories: int, concentration: float) -> None:
    p = descending(simplex(14, 4000, categories, concentration))
    q = level(simplex(15, 4000, categories, concentration))
    kl, ahead = exact(p.log(), q.log()), lead(p, q)
    said = theory.reverse_favours_likelier(p[:, 0], p[:, 1], q[:, 0], kl)
    assert torch.equal(said, ahead > 0)
    above, below = q[:, 0] >= p[:, 0], q[:, 0] <= p[:, 1] * torch.exp(-kl)
    assert above.sum() > 100 and below.sum() > 20
    assert (ahead[above] > 0).all() and (ahead[below] < 0).all()


POSITIVE = st.floats(1e-6, 10)


@given(POSITIVE, POSITIVE)
def test_the_two_means_are_integrals(a: float, b: float) -> None:
    """Log-mean ∫ aᵗ b¹⁻ᵗ dt; log of the identric mean ∫ log(t a + (1 − t) b) dt."""
    node, weight = np.polynomial.legendre.leggauss(80)
    t, x, y = (node + 1) / 2, torch.tensor(a, dtype=F64), torch.tensor(b, dtype=F64)
    assert float(theory.log_mean(x, y)) == pytest.approx((a**t * b ** (1 - t)) @ weight / 2, rel=1e-9)
    low, high = sorted((a, b))
    u, jacobian = t**4, 4 * t**3  # crowds the nodes where the logarithm is steep
    integral = (jacobian * np.log(low + u * (high - low))) @ weight / 2
    assert float(theory.identric_mean(x, y).log()) == pytest.approx(integral, rel=1e-6, abs=1e-6)


@given(POSITIVE, st.floats(-1e-9, 1e-9))
def test_means_of_almost_equal_numbers_lie_between_them(a: float, apart: float) -> None:
    x, y = torch.tensor(a, dtype=F64), torch.tensor(a * (1 + apart), dtype=F64)
    for mean in (theory.log_mean, theory.identric_mean):
        assert float(mean(x, y)) == pytest.approx((a + float(y)) / 2, rel=1e-12)
    assert float(theory.log_mean(x, x)) == a


# ---- the descents of kl-modes ---------------------------------------------------------------------------------------

TORCH = {
    "sgd": lambda p, rate: torch.optim.SGD(p, lr=rate),
    "momentum": lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.9),
    "adam": lambda p, rate: torch.optim.Adam(p, lr=rate),
}


def instances(n: int, contexts: int) -> kl_modes.Instances:
    return kl_modes.Instances(simplex(16, n, 5), simplex(17, n * contexts, 5).view(n, contexts, 5))


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("where", kl_modes.MODELS)
def test_descents_are_those_of_torch(where: str, name: str) -> None:
    at = instances(3, 1 if where == "logits" else kl_modes.CONTEXTS)
    got = kl_modes.descend((where, name), at, 25, torch.tensor([1.0, 1.0, 1.0], dtype=F64))
    parameters, log_probs = kl_modes.MODELS[where](at.start)
    optimiser, length = TORCH[name](parameters, kl_modes.RATES[where][name]), torch.zeros(6, dtype=F64)
    for _ in range(25):
        p, before = log_probs().exp(), [w.detach().clone() for w in parameters]
        loss = sum(
            divergence(objective, p[row, c].log(), at.target[row % 3, c]) / p.shape[1]
            for row, objective in enumerate(["forward"] * 3 + ["reverse"] * 3)
            for c in range(p.shape[1])
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimiser.step()
        length += sum(
            (w - b).detach().flatten(1).square().sum(-1) for w, b in zip(parameters, before, strict=True)
        ).sqrt()  # type: ignore[union-attr]
    assert_allclose(got.logp[:, -1].flatten(0, 1), log_probs().detach(), rtol=0, atol=1e-9)
    assert_allclose(got.length[:, -1].flatten(), length, rtol=1e-9)


def test_each_row_has_its_own_learning_rate() -> None:
    at = kl_modes.Instances(simplex(18, 1, 4).expand(2, -1), simplex(19, 1, 4).expand(2, -1)[:, None])
    both = kl_modes.descend(("logits", "sgd"), at, 10, torch.tensor([1.0, 0.5], dtype=F64))
    first = both.logp[:, 1] - both.logp[:, 0]
    raw = first - first.mean(-1, keepdim=True)  # of the logits, up to a constant
    assert_allclose(raw[:, 1], raw[:, 0] / 2, atol=1e-14)


def test_the_network_starts_near_p0_and_serves_contexts_apart() -> None:
    at = instances(4, kl_modes.CONTEXTS)
    paths = kl_modes.descend(("network", "adam"), at, 200)
    start, end = paths.logp[:, 0], paths.logp[:, -1]
    assert torch.equal(start[0], start[1])
    assert (start.exp() - at.start[:, None]).abs().max() < 0.02
    assert (kl_modes.left(paths, at)[:, -1] < 0.5).all()
    assert (end[:, :, 0] - end[:, :, 1]).abs().amax(-1).min() > 0.1


# ---- the measures of kl-modes ---------------------------------------------------------------------------------------


def test_progress_is_found_between_steps() -> None:
    remains = np.array([[[1.0, 1.0], [0.6, 0.9], [0.4, 0.8]]] * 2)
    values = np.array([[[0.0, 0.0], [10.0, 1.0], [20.0, 2.0]]] * 2)
    assert_allclose(kl_modes.at_progress(values, remains, 0.5), [[15.0, np.nan]] * 2)
    assert_allclose(kl_modes.at_progress(values, remains, 0.8), [[5.0, 2.0]] * 2)
    assert_allclose(kl_modes.at_progress(values, remains, 1.0), [[0.0, 0.0]] * 2)
    assert kl_modes.lead(np.array([[1.0, np.nan, 3.0], [4.0, 5.0, np.nan]])).tolist() == [3.0]


def test_equal_paths_are_those_of_the_slower() -> None:
    steps = np.arange(kl_modes.EARLY + 11, dtype=float)
    length = np.stack([steps, 3 * steps])[..., None]  # the first is slower: 30 at step 30
    values = np.stack([steps, steps**2])[..., None]
    assert_allclose(kl_modes.at_path(values, length), [[30.0], [100.0]])


def test_targets_with_two_modes() -> None:
    at, modes = kl_modes.two_modes(np.random.default_rng(0), 30, 3)
    assert at.start.shape == (30, kl_modes.CATEGORIES) and at.start.max() <= kl_modes.MODE_START
    assert_allclose(at.target.sum(-1), 1.0)
    assert_allclose(at.target.gather(-1, modes), kl_modes.MODE)
    mass = at.start[:, None].expand(-1, 3, -1).gather(-1, modes)
    assert (mass[..., 0] > mass[..., 1]).all()
    assert (at.target > 0.1).sum(-1).eq(2).all()


@pytest.mark.parametrize("exchanged", [False, True])
def test_the_labels_are_judged_by_the_fit(exchanged: bool) -> None:
    """Runs that pass through the printed values at step 7 fit them, whichever way round they are."""
    printed = np.array(kl_modes.PRINTED)[:: -1 if exchanged else 1]
    paths = np.full((2, 9, 3, 4), 0.25)
    paths[:, 7, 2] = printed + 0.001
    best = kl_modes.fits({("logits", "sgd"): paths, ("network", "sgd"): paths})
    assert list(best) == ["sgd"]
    error, factor, step = best["sgd"][int(exchanged)]
    assert (round(error, 9), factor, step) == (0.001, kl_modes.FACTORS[2], 7)
    assert best["sgd"][int(not exchanged)][0] > 0.05


def test_effects_speak_for_the_paper_when_they_are_positive() -> None:
    """Reverse ahead by 0.1 in mass, 0.2 in share and 0.3 nats below in entropy; printed labels fit better by 0.4."""

    def pair(forward: float, reverse: float) -> np.ndarray:
        return np.array([[forward] * 2, [reverse] * 2])

    over_time = np.repeat(pair(0.5, 0.6)[:, None], kl_modes.EARLY + 1, 1)
    seen = {
        "mass": over_time,
        "mass_path": pair(0.5, 0.6),
        "share": over_time + np.array([0.0, 0.1])[:, None, None],
        "share_progress": pair(0.5, 0.7),
        "entropy_path": pair(1.3, 1.0),
    }
    case = np.zeros((2, kl_modes.EARLY + 1, 4))
    case[0, -1], case[1, -1] = [0.35, 0.2, 0.2, 0.25], [0.2, 0.2, 0.4, 0.2]
    keys = [(where, name) for where in kl_modes.RATES for name in ("sgd", "adam")]
    fitted = {"sgd": ((0.1, 1.0, 5), (0.5, 1.0, 9))}
    got = kl_modes.effects(dict.fromkeys(keys, seen), dict.fromkeys(keys, case), fitted)
    want = {"printed": 0.4, "category-0": 0.05, "category-2": 0.2, "faster": 0.1, "entropy": 0.3, "mode-": 0.2}
    assert set(got) == {claim.name for claim in kl_modes.CLAIMS}
    for name, values in got.items():
        assert_allclose(values, next(x for part, x in want.items() if part in name), atol=1e-12)


# ---- both studies ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[theory_study.STUDY, kl_modes.STUDY], ids=lambda s: s.name)
def studied(request: pytest.FixtureRequest) -> tuple[Study, Outcome]:
    return request.param, request.param.run(Size())


def test_studies_judge_their_claims_in_order(studied: tuple[Study, Outcome]) -> None:
    study, outcome = studied
    assert [f.claim for f in outcome.findings] == list(study.claims)
    assert len({c.name for c in study.claims}) == len(study.claims)
    for finding in outcome.findings:
        interval = finding.decision.interval
        assert np.isfinite([interval.value, interval.low, interval.high]).all()


def test_studies_draw_numbers(studied: tuple[Study, Outcome]) -> None:
    charts = [chart for figure in studied[1].figures.values() for chart in figure]
    assert charts
    for line in (line for chart in charts for line in chart.lines):
        assert len(line.x) == len(np.asarray(line.y)) > 0
        assert np.isfinite(np.asarray(line.y)).all()
    for table in studied[1].tables:
        assert table.rows and all(len(row) == len(table.head) for row in table.rows)


def test_what_is_exact_holds_on_every_instance() -> None:
    whole = theory_study.measure("smoke")
    exactly = ["forward-gradient", "reverse-gradient", "one-step", "lemma-6.1", "lemma-6.1-gradient"]
    exactly += ["lemma-6.2-margin", *(f"theorem-6.5-{part}" for part in ("1-exact", "2", "3-enough", "23-exact"))]
    for cell in whole.values():
        assert all((cell[name] == 1).all() and len(cell[name]) >= 160 for name in exactly)


def test_the_same_seed_gives_the_same_numbers() -> None:
    once, again = (kl_modes.measure(("network", "adam"), 3, 35) for _ in range(2))
    assert all(np.array_equal(once[k], again[k], equal_nan=True) for k in once)
    first, second = (theory_study.pushed(np.random.default_rng(5), 50, 4, 1.0) for _ in range(2))
    assert all(np.array_equal(first[k], second[k]) for k in first)
