"""The rotated bandit: where its peak lies, what turns with the context, how well reference and learned reward fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.core.errors import UserError
from prefloop.core.kl import exact
from prefloop.core.methods import METHODS
from prefloop.core.streams import Stream
from prefloop.lab.setting import Setting, changed, make, seeds
from prefloop.lab.stack import build, run_stack, stack_of
from prefloop.policies.mlp import MLP
from prefloop.worlds.measures import state_of
from prefloop.worlds.optimum import optimum
from prefloop.worlds.rotated import build as made
from prefloop.worlds.rotated import problem as circle
from prefloop.worlds.rotated.problem import ContextReward
from prefloop.worlds.rotated.spec import Rotated
from toys import F64, unchecked

SMALL: dict[str, Any] = {"responses": 4, "batch": 32, "minibatch": 32, "evaluation": 16, "data": 16}
ONE = make("rloo", "rotated", hidden=8, clusters=8, arms=50, mass=0.1, **SMALL)


def around(arms: int = 50, number: int = 8, noise: float = 0.3) -> circle.Clusters:
    return circle.clusters((0, 1), number, noise, arms, F64)


def contexts(of: circle.Clusters, count: int = 32) -> torch.Tensor:
    return of.each(count, Stream("contexts", (0, 1), True))


# ----------------------------------------------------------------------------------------- the peak and its distance


@given(st.floats(1e-4, 0.3), st.floats(2.0, 12.0), st.integers(50, 200))
def test_the_peak_lies_where_the_reference_has_the_mass(mass: float, width: float, arms: int) -> None:
    """Summed on a fine grid of the circle, in which every arm is an interval of length 1."""
    try:
        place = circle.distance(mass, width, arms)
    except UserError as error:
        assert "mass" in str(error)  # out of reach for this width
        return
    assert 0 <= place <= arms / 2
    fine = np.linspace(-arms, 2 * arms, 300_001)
    inside = fine[np.abs(fine - place) <= width]
    law = circle.reference_law(arms).numpy()
    total = law[np.round(inside).astype(int) % arms].sum() * (fine[1] - fine[0])
    assert total == pytest.approx(mass, rel=0.02)


@pytest.mark.parametrize(
    ("mass", "width", "arms", "fix"),
    [(1e-4, 12.0, 50, "mass from 0.0.*or another width"), (0.3, 2.0, 200, "mass from"), (0.1, 30.0, 100, "below 25")],
)
def test_a_mass_out_of_reach_is_refused_with_what_can_be_had(mass: float, width: float, arms: int, fix: str) -> None:
    with pytest.raises(UserError, match=f"(?s)no peak of width {width:g} on {arms} arms has mass {mass:g}.*{fix}"):
        changed(ONE, mass=mass, width=width, arms=arms).check()


@pytest.mark.parametrize("modes", [1, 2, 3])
def test_the_reward_has_its_peaks_and_one_of_them_is_the_highest(modes: int) -> None:
    table = circle.reward_table(31.4, 4.0, modes, 120).numpy()
    higher = (table > np.roll(table, 1)) & (table >= np.roll(table, -1)) & (table > 0.1)
    assert table.max() == 1.0 and table.argmax() == 31 and higher.sum() == modes
    assert sorted(table[higher].round(1)) == [0.8] * (modes - 1) + [1.0]
    apart = [int(i - 31) % 120 for i in np.flatnonzero(higher)]
    assert sorted(apart) == pytest.approx([k * 120 / modes for k in range(modes)], abs=1)


# ---------------------------------------------------------------------------------------------- what turns with what


def test_reward_and_reference_turn_together() -> None:
    one, of = changed(ONE, modes=2).world, around()
    table = made.tables(stack_of(seeds(replace(ONE, world=one), [0, 1])))
    law = circle.reference_law(50).expand(2, -1)
    x = contexts(of, 32)  # four contexts of each of the eight clusters, in order
    rewards, chances = of.turned(table)(x), of.turned(law)(x)
    for place in range(32):
        shift = place // 4 * 50 // 8
        assert torch.equal(rewards[0, place], table[0].roll(shift)) and torch.equal(
            chances[1, place], law[1].roll(shift)
        )
    assert torch.allclose((rewards * chances).sum(-1), torch.tensor(one.start(), dtype=F64))
    for beta in (0.02, 0.5):
        each = beta * torch.logsumexp(chances.log() + rewards / beta, -1)
        assert torch.allclose(each, torch.tensor(optimum(one, beta).best, dtype=F64))
        assert one.start() == optimum(one, beta).reference < optimum(one, beta).best < 1


def test_turning_everything_changes_nothing() -> None:
    """Rewards, reference and policy by the same number of arms, for policies that differ from context to context."""
    of = around()
    rng, x = Stream("evaluation", (0, 1), True), contexts(of)
    table = torch.rand(2, 50, generator=torch.Generator().manual_seed(0), dtype=F64)

    def measured(turn: int) -> dict[str, torch.Tensor]:
        g = torch.Generator().manual_seed(1)
        policies = []
        for _ in range(2):
            net = circle.network((0, 1), 50, 8, F64)
            moved = {k: w + 0.5 * torch.randn(w.shape, generator=g, dtype=F64) for k, w in net.weights.items()}
            last = f"layer{net.layers - 1}"
            moved |= {k: moved[k].roll(turn, -1) for k in (f"{last}.weight", f"{last}.bias")}
            policies.append(MLP(moved))
        where = {"eval/gold": of.turned(table.roll(turn, -1))(x)}
        return state_of(*policies, x, where, {}, tokens=1, rng=rng)

    still, turned = measured(0), measured(17)
    assert float(still["eval/kl_reverse_exact"].min()) > 0.1
    for name, value in still.items():
        assert torch.allclose(value, turned[name], atol=1e-12), name


def test_no_answer_is_good_in_every_context() -> None:
    """The best policy that does not read its context gets hardly more than one that chooses at random."""
    for world in (Rotated(), Rotated(clusters=64, arms=200), Rotated(clusters=8, arms=50, mass=0.1)):
        stack = stack_of([replace(ONE, world=world)])
        of = circle.clusters([0], world.clusters, world.noise, world.arms, F64)
        blind = of.turned(made.tables(stack))(of.each(world.clusters, Stream("x", [0], True))).mean(1).max()
        assert float(blind) < 0.25


def test_contexts_belong_to_the_cluster_that_they_were_drawn_around() -> None:
    of = around(number=64, arms=200)
    x = contexts(of, 256)
    want = torch.arange(64).repeat_interleave(4) * 200 // 64
    assert torch.equal(of.shift(x), want.expand(2, -1))
    drawn = of.shift(of.draw(0, 6400, Stream("x", (0, 1), True)))
    counts = torch.stack([torch.bincount(row, minlength=200) for row in drawn])[:, want[::4]]
    assert counts.sum() == 2 * 6400 and bool((counts > 50).all())


def test_skewed_data_are_skewed_relative_to_the_reference() -> None:
    one = changed(ONE, method="dpo", coverage=0.0, skew_centre=12.0, skew_width=2.0, data=200)
    loop = build(seeds(one, [0, 1])).loop
    data = loop.problem.data  # type: ignore[attr-defined]
    of = circle.clusters((0, 1), 8, 0.3, 50, torch.float32)
    away = circle.away(12.0, 50)[of.relative(data).responses]
    assert float(away.mean()) < 2 and float(away.max()) < 10
    assert torch.equal(of.relative(of.relative(data), sign=1).responses, data.responses)


# -------------------------------------------------------------------------------------------------------------- fits


@pytest.mark.parametrize("world", [Rotated(), Rotated(clusters=32, arms=200, width=10.0)])
def test_the_reference_is_the_law_also_where_it_is_rare(world: Rotated) -> None:
    with unchecked():
        policy = made.reference_policy(world, [0, 1], torch.float32)
    of = circle.clusters((0, 1), world.clusters, world.noise, world.arms, torch.float32)
    law = circle.reference_law(world.arms).float().expand(2, -1)
    x = of.each(8 * world.clusters, Stream("held-out contexts", (0, 1), True))
    with torch.no_grad():
        own, want = policy.distribution(x), of.turned(law)(x)
    assert float(exact(want.log(), own).mean(-1).max()) < 0.02
    for mass in (1e-4, 0.003, 0.1):
        place = circle.distance(mass, world.width, world.arms)
        inside = (circle.away(place, world.arms) <= world.width).float().expand(2, -1)
        there = [(p * of.turned(inside)(x)).sum(-1).mean(-1) for p in (own.exp(), want)]
        assert torch.allclose(there[0], there[1], rtol=0.2)


def test_a_learned_reward_orders_arms_in_contexts_that_it_has_not_seen() -> None:
    one = make("online_dpo", "rotated", scorer="proxy", mass=0.1, data=200, evaluation=16)
    with unchecked():
        problem: Any = build(seeds(one, [0, 1])).loop.problem
    assert isinstance(problem.proxy, ContextReward) and isinstance(problem.gold, ContextReward)
    fresh = problem.draw(0, 100, Stream("held-out contexts", (0, 1), True))
    drawn = made.reference_policy(one.world, [0, 1], torch.float32).draw(fresh, 10, Stream("answers", (0, 1), True))
    with torch.no_grad():
        gaps = [s[..., :, None] - s[..., None, :] for s in (problem.gold(drawn), problem.proxy(drawn))]
    right = (gaps[0].sign() == gaps[1].sign())[gaps[0].abs() > 0.05].float().mean()
    assert float(right) > 0.8
    seen = problem.proxy(problem.data)
    assert torch.allclose(seen.mean((1, 2)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(seen.flatten(1).std(1), torch.ones(2), atol=1e-4)


def test_a_learned_reward_is_fitted_once_to_each_world_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []

    def counted(data: Any, own: Any, arms: int, **more: Any) -> Any:
        fits.extend(own)
        return fit(data, own, arms, **more)

    fit = circle.learned_reward
    monkeypatch.setattr(circle, "learned_reward", counted)
    monkeypatch.setattr(made, "REWARDS", {})
    one = changed(ONE, scorer="proxy", seed=7)
    proxies: list[Any] = []
    for name, runs in (("rloo", (7, 8, 7)), ("online_dpo", (8,))):
        with unchecked():
            problem: Any = build(seeds(changed(one, method=name), runs)).loop.problem
        proxies.append(problem.proxy)
    assert fits == [7, 8]
    x = torch.randn(1, 5, circle.CONTEXT)
    both = proxies[0].of(x.expand(3, -1, -1))
    assert torch.equal(both[0], both[2]) and not torch.equal(both[0], both[1])
    torch.testing.assert_close(proxies[1].of(x)[0], both[1])
    with unchecked():
        build([changed(one, coverage=0.5), changed(one, width=4.0)])
    assert fits == [7, 8, 7, 7]  # of other data


# -------------------------------------------------------------------------------------------------------------- runs


def mates(name: str, **more: Any) -> list[Setting]:
    """Two runs of one stack, that differ in all that may differ."""
    one = changed(ONE, method=name, precision="float64", steps=6, evaluate=3, lr=1e-2, **more)
    return [one, changed(one, seed=3, lr=3e-2, mass=0.02, width=3.0, modes=3, coverage=0.5, skew_centre=5.0)]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("online_dpo", {}),
        ("rloo", {"labels": "ordinal"}),
        ("dpo", {"labels": "noisy"}),
        ("best_of_n", {"scorer": "proxy"}),
        ("kto", {"override": {"on_policy": 0.5}}),
    ],
)
def test_stacked_runs_equal_each_alone(name: str, more: dict[str, Any]) -> None:
    settings = mates(name, **more)
    assert settings[0].stack == settings[1].stack
    with unchecked():
        together = run_stack(settings)
        for run, setting in zip(together, settings, strict=True):
            (alone,) = run_stack([setting])
            for key, want in alone.curves.items():
                np.testing.assert_allclose(run.curves[key], want, rtol=0, atol=1e-5, err_msg=key)
    assert together[0].curves["eval/gold"][0] != together[1].curves["eval/gold"][0]


def test_the_first_row_is_the_reference_over_all_clusters() -> None:
    with unchecked():
        (run,) = run_stack([changed(ONE, hidden=64, steps=1, evaluation=80, precision="float64")])
    start = {key: float(curve[0]) for key, curve in run.curves.items()}
    assert start["eval/gold"] == start["eval/reward"] == pytest.approx(ONE.world.start(), rel=0.1)  # type: ignore[attr-defined]
    assert start["eval/mass/peak"] == pytest.approx(0.1, rel=0.2) and start["eval/kl_reverse_exact"] == 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_have_the_exact_kl_in_its_loss(name: str) -> None:
    """What all methods of a question can be given alike; the stronger, the nearer they stay."""
    kl = {"kl_in": "loss", "kl_estimator": "exact", "reuse": 1}
    base = changed(ONE, method=name, steps=8, evaluate=8, lr=1e-2)
    one = replace(base, override={**kl, "kl": 1e-3})
    with unchecked():
        weak, strong = run_stack([one, replace(one, override={**kl, "kl": 100.0})])
    near, far = (run.last("eval/kl_reverse_exact") for run in (strong, weak))
    assert 0 <= near < far / 2


@pytest.mark.slow
def test_the_network_learns_to_turn() -> None:
    with unchecked():
        (run,) = run_stack([changed(ONE, method="online_dpo", hidden=32, steps=200, evaluate=200, lr=1e-2)])
    assert run.curves["eval/gold"][0] < 0.2 and run.last("eval/gold") > 0.5
