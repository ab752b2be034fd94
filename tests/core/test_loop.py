"""The loop on a tabular world: exact resumption, stacking, mixtures, anchors, refusals, accounting."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.core import kl
from prefloop.core.batch import DATASET, Batch
from prefloop.core.errors import UserError
from prefloop.core.loop import Diverged, Loop, Plan, Record, train
from prefloop.core.methods import METHODS, Method
from prefloop.core.optim import StackedAdam
from prefloop.core.protocols import no_op
from prefloop.core.streams import Stream
from prefloop.policies.categorical import Categorical
from toys import F64, Arms, make_loop, rewards, tabular

PLAN = Plan(steps=8, batch=16, minibatch=8, lr=0.05, warmup=3, max_grad_norm=0.5)


def unlike(a: Any, b: Any) -> list[str]:
    """The names of fields that are not bit for bit the same."""
    found = []
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, Batch) or f.name == "signal":
            found += [f"{f.name}.{n}" for n in unlike(x, y)]
        elif isinstance(x, dict):
            found += [f"{f.name}.{k}" for k in x.keys() | y.keys() if not torch.equal(x[k], y[k])]
        elif isinstance(x, Tensor):
            found += [] if torch.equal(x, y) else [f.name]
        else:
            found += [] if x == y else [f.name]
    return found


def assert_same(got: list[Record], want: list[Record]) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert unlike(a, b) == []


def parameters(loop: Loop) -> Tensor:
    return torch.cat([p.detach().flatten() for p in loop.policy.parameters()])


ROWS = {
    "dpo": METHODS["dpo"].override(reuse=2),
    "online_dpo": METHODS["online_dpo"].override(reuse=2),
    "ppo": METHODS["ppo"],
    "rwr": METHODS["rwr"].override(reuse=2),
    "reinforce": METHODS["reinforce"].override(kl=0.1),
    "rso": METHODS["rso"].override(on_policy=0.5),
    "kto": METHODS["kto"].override(reuse=2),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("cut", "minibatch"), [(1, 8), (3, 8), (4, 8), (6, 8), (3, 16)])
def test_resumption_is_exact(name: str, cut: int, minibatch: int) -> None:
    """8 steps = `cut` steps + state + the rest, inside a pass, between passes and between collections."""
    plan = replace(PLAN, minibatch=minibatch)
    whole = make_loop(ROWS[name], plan)
    want = list(whole)
    first = make_loop(ROWS[name], plan)
    start = [record for _, record in zip(range(cut), first, strict=False)]
    saved = copy.deepcopy(first.state())
    again = make_loop(ROWS[name], plan)
    again.restore(saved)
    assert_same(start + list(again), want)
    assert torch.equal(parameters(again), parameters(whole))


@pytest.mark.parametrize("name", ROWS)
def test_same_seed_same_bytes_and_another_seed_another_run(name: str) -> None:
    assert_same(list(make_loop(ROWS[name], PLAN)), list(make_loop(ROWS[name], PLAN)))
    a, b = make_loop(ROWS[name], PLAN), make_loop(ROWS[name], PLAN, seed=1)
    list(a), list(b)
    assert not torch.equal(parameters(a), parameters(b))


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(make_loop(ROWS["ppo"], PLAN))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", [*ROWS, "grpo", "best_of_n", "ipo"])
def test_stacked_runs_equal_each_alone(name: str) -> None:
    """Three seeds with their own logits, rewards and hyper-parameters; 20 updates of Adam, clipped per run."""
    row, plan = ROWS.get(name, METHODS[name]), replace(PLAN, steps=20, lr=0.02)
    tables = torch.stack([rewards(seed=s) for s in (1, 2, 3)])
    negative = torch.tensor([1.0, 0.5, 0.0], dtype=F64)
    policies = [tabular(seed=s) for s in (4, 5, 6)]
    stacked = make_loop(
        row.override(negative=negative),
        plan,
        policy=Categorical(torch.stack([p.logits.detach() for p in policies]), 2),
        problem=Arms(tables, 3, 2, runs=3),
        seed=[0, 1, 2],
    )
    records = list(stacked)
    for run, policy in enumerate(policies):
        one = row.override(negative=float(negative[run]))
        alone = make_loop(one, plan, policy=policy, problem=Arms(tables[run], 3, 2), seed=run)
        for got, want in zip(records, alone, strict=True):
            assert torch.allclose(got.loss[run], want.loss, atol=1e-10)
            assert torch.allclose(got.grad_norm[run], want.grad_norm, atol=1e-10)
            missing = got.coefficient.shape[2] - want.coefficient.shape[1]  # a stack is as wide as its widest run
            alone_c = torch.nn.functional.pad(want.coefficient, (0, 0, 0, missing)).sort(1).values
            assert torch.allclose(got.coefficient[run].sort(1).values, alone_c, atol=1e-10)
        for a, b in zip(stacked.policy.parameters(), policy.parameters(), strict=True):
            assert torch.allclose(a[run], b, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_leaving_out_what_the_loss_does_not_use_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = METHODS[name].override(responses=max(4, METHODS[name].responses))
    plan = replace(PLAN, minibatch=row.responses * 2, batch=row.responses * 4)
    narrowed = make_loop(row, plan)
    records = list(narrowed)
    monkeypatch.setattr(Method, "used", lambda self, batch, signal: batch.present)
    whole = make_loop(row, plan)
    for got, want in zip(records, whole, strict=True):
        assert torch.allclose(got.loss, want.loss, atol=1e-12)
        assert torch.allclose(got.coefficient.sum(), want.coefficient.sum(), atol=1e-12)
        assert torch.equal(got.batch.responses, want.batch.responses)
    assert torch.allclose(parameters(narrowed), parameters(whole), atol=1e-10)
    few = {"best_of_n", "best_of_n_offline", "pref_ft", "dpo", "online_ipo", "simpo", "rest", "best_of_n_negative"}
    if name in few:
        assert any(got.used.mask.shape[-2] < row.responses for got in records)


def stacked_loop(lr: Tensor, limit: Tensor, row: Method | None = None) -> Loop:
    """Three runs with a learning rate and a norm limit of their own."""
    plan = Plan(steps=6, batch=16, minibatch=16, lr=lr, max_grad_norm=limit)
    policy = Categorical(torch.stack([tabular(seed=s).logits.detach() for s in (4, 5, 6)]), 2)
    problem = Arms(torch.stack([rewards(seed=s) for s in (1, 2, 3)]), 3, 2, runs=3)
    adam = StackedAdam(policy.parameters(), lr=lr)
    row = METHODS["rloo"] if row is None else row
    return Loop(row, policy, problem, plan, reference=policy.reference(), optimizer=adam, seed=[0, 1, 2])


def test_learning_rates_and_norm_limits_are_a_runs_own() -> None:
    lr, limit = torch.tensor([0.1, 0.01, 0.3], dtype=F64), torch.tensor([1.0, 0.05, 0.2], dtype=F64)
    stacked = stacked_loop(lr, limit)
    list(stacked)
    for run in range(3):
        plan = Plan(steps=6, batch=16, minibatch=16, lr=float(lr[run]), max_grad_norm=float(limit[run]))
        problem = Arms(rewards(seed=run + 1), 3, 2)
        alone = make_loop("rloo", plan, policy=tabular(seed=4 + run), problem=problem, seed=run)
        list(alone)
        for a, b in zip(stacked.policy.parameters(), alone.policy.parameters(), strict=True):
            assert torch.allclose(a[run], b, atol=1e-9, rtol=0)


def test_a_stacked_run_that_diverges_stands_still_and_the_others_go_on() -> None:
    def explode(logp: Tensor, signal: Any, batch: Batch) -> Tensor:
        moved = logp - logp.detach()  # 0, and run 0 takes its root: the gradient is infinite
        return torch.cat([moved[:1].abs().sqrt(), -moved[1:]])

    lr, limit = torch.tensor([0.1, 0.1, 0.1], dtype=F64), torch.tensor([1.0, 1.0, 1.0], dtype=F64)
    loop = stacked_loop(lr, limit, Method(explode))
    before = parameters(loop).clone()
    records = list(loop)
    assert len(records) == 6 and loop.diverged is not None and loop.diverged.tolist() == [True, False, False]
    logits = loop.policy.parameters()[0].detach()
    assert torch.equal(logits[0].flatten(), before[: logits[0].numel()])
    assert bool(torch.isfinite(logits).all())
    assert not torch.equal(logits[1:].flatten(), before[logits[0].numel() : logits.numel()])
    assert isinstance(records[-1].lr, Tensor) and records[-1].lr.tolist() == [0.0, 0.1, 0.1]
    again = stacked_loop(lr, limit, Method(explode))
    again.restore(copy.deepcopy(loop.state()))
    assert again.diverged is not None and again.diverged.tolist() == [True, False, False]


# ------------------------------------------------------------------------------------------------- who wrote what


@pytest.mark.parametrize(("share", "fresh"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
@pytest.mark.parametrize("name", ["dpo", "rloo"])
def test_mixtures_go_by_whole_groups(name: str, share: float, fresh: int) -> None:
    row = METHODS[name].override(on_policy=share, responses=2)
    loop = make_loop(row, replace(PLAN, steps=2, minibatch=16))
    for k, record in enumerate(loop):
        assert record.batch.source is not None
        assert sorted(record.batch.source.tolist()) == [DATASET] * (8 - fresh) + [k] * fresh
        assert record.samples == 2 * fresh * (k + 1) and record.sampled_tokens == 4 * fresh * (k + 1)


def test_a_mixture_is_scored_by_one_scorer() -> None:
    class Noisy(Arms):
        def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
            known = super().dataset(start, count, responses, rng)
            return replace(known, scores=torch.full_like(known.scores, 99.0))

    problem = Noisy(rewards(), 3, 2)
    for record in make_loop(METHODS["rloo"].override(on_policy=0.5), PLAN, problem=problem):
        assert record.batch.scores is not None and record.batch.scores.max() < 9


def test_dataset_groups_of_a_ratio_row_start_at_ratio_one() -> None:
    """Nobody knows who wrote them: the policy at collection stands in."""
    row = METHODS["rloo"].override(on_policy=0.0)
    record = next(iter(make_loop(row, replace(PLAN, minibatch=16))))
    want = torch.where(record.batch.mask, record.signal.weight[..., None] / 16, 0.0)  # type: ignore[index]
    assert torch.allclose(record.coefficient, want, atol=1e-15)


class Skewed(Categorical):
    """A sampler whose reported behaviour and proximal log-probs are off, as those of another engine are."""

    def draw(self, *args: Any, **options: Any) -> Batch:
        drawn = super().draw(*args, **options)
        assert drawn.logp_behaviour is not None
        return replace(drawn, logp_behaviour=drawn.logp_behaviour - 0.5, logp_proximal=drawn.logp_behaviour + 1e-3)


def skewed() -> Skewed:
    return Skewed(tabular().logits.detach(), 2)


class Truncated(Skewed):
    """The same, and it admits to it."""

    exact_sampler = False  # type: ignore[assignment]


def test_the_first_pass_has_ratio_exactly_one() -> None:
    row = METHODS["ppo_critic_free"].override(clip=1e-12)
    for record in make_loop(row, replace(PLAN, minibatch=16), policy=skewed()):
        want = torch.where(record.batch.mask, record.signal.weight[..., None] / 16, 0.0)  # type: ignore[index]
        if record.pass_ == 0:
            assert torch.equal(record.coefficient, want)
        else:
            assert not torch.allclose(record.coefficient, want)


def test_later_passes_are_anchored_at_the_first() -> None:
    records = list(make_loop(METHODS["ppo_critic_free"], replace(PLAN, steps=4, minibatch=16), policy=skewed()))
    first = records[0]
    order = first.batch.prompts
    assert first.batch.logp_proximal is not None and order is not None
    for record in records[1:]:
        assert record.batch.logp_proximal is not None
        key = [float(v) for v in record.batch.logp_proximal.flatten(1).sum(1).sort().values]
        assert key == pytest.approx([float(v) for v in first.logp.flatten(1).sum(1).sort().values], abs=1e-14)


def test_minibatches_after_an_update_keep_the_anchor_of_the_collection() -> None:
    before = tabular(contexts=1)
    policy = Skewed(before.logits.detach(), 2)
    loop = make_loop(METHODS["ppo_critic_free"], PLAN, policy=policy, problem=Arms(rewards(1), 3, 2))
    records = [r for _, r in zip(range(2), loop, strict=False)]
    for record in records:
        at_collection = before.evaluate(record.batch).logp
        assert record.batch.logp_proximal is not None
        assert torch.allclose(record.batch.logp_proximal, at_collection, atol=1e-14)
    assert torch.allclose(records[0].logp, records[0].batch.logp_proximal, atol=1e-14)  # type: ignore[arg-type]
    assert not torch.allclose(records[1].logp, records[1].batch.logp_proximal, atol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("cap", "factor"), [(10.0, 1.6487212707001282), (1.25, 1.25)])
def test_the_mismatch_weight_is_truncated(cap: float, factor: float) -> None:
    """The sampler says e^−0.5 of the trainer's probability: the weight is e^0.5 = 1.6487, or the cap."""
    row = METHODS["rloo"].override(mismatch_cap=cap)
    policy = Truncated(tabular().logits.detach(), 2)
    record = next(iter(make_loop(row, replace(PLAN, minibatch=16), policy=policy)))
    plain = torch.where(record.batch.mask, record.signal.weight[..., None] / 16, 0.0)  # type: ignore[index]
    assert torch.allclose(record.coefficient, factor * plain, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("batch", "minibatch"), [(16, 6), (12, 8), (8, 16), (0, 4), (16, 2)])
def test_portions_that_do_not_divide_are_refused(batch: int, minibatch: int) -> None:
    with pytest.raises(UserError, match="must divide"):
        make_loop("rloo", replace(PLAN, batch=batch, minibatch=minibatch))


def test_senseless_combinations_are_refused() -> None:
    with pytest.raises(UserError, match="refuses on_policy"):
        make_loop(METHODS["sft"].override(on_policy=0.5), PLAN)
    make_loop(METHODS["sft"].override(on_policy=1.0), PLAN)  # senseless too, but not a mixture
    with pytest.raises(UserError, match="KL inside the reward"):
        make_loop(METHODS["dpo"].override(kl=0.1), PLAN)
    make_loop(METHODS["dpo"].override(kl=0.1, kl_in="loss"), PLAN)
    truncated = Truncated(tabular().logits.detach(), 2)
    with pytest.raises(UserError, match="tempered or truncated"):
        make_loop("rloo", PLAN, policy=truncated)
    make_loop("online_dpo", PLAN, policy=truncated)
    make_loop(METHODS["rloo"].override(mismatch_cap=2.0), PLAN, policy=truncated)


class Broken(Arms):
    """A reward function that returns NaN for one response."""

    def score(self, batch: Batch) -> Batch:
        scored = super().score(batch)
        assert scored.scores is not None
        return replace(scored, scores=scored.scores.index_fill(-1, torch.tensor([0]), torch.nan))


@pytest.mark.parametrize("name", ["rloo", "ppo", "rwr", "grpo"])
def test_a_reward_that_is_not_a_number_leaves_the_weights_untouched(name: str) -> None:
    loop = make_loop(name, PLAN, problem=Broken(rewards(), 3, 2))
    before = parameters(loop)
    with pytest.raises((Diverged, UserError)):
        list(loop)
    assert torch.equal(parameters(loop), before) and loop.step == 0 and not loop.optimizer.state


def test_a_gradient_that_is_not_a_number_leaves_the_weights_untouched() -> None:
    def explode(logp: Tensor, signal: Any, batch: Batch) -> Tensor:
        return (logp - logp.detach()).abs().sqrt()  # value 0, gradient infinite

    loop = make_loop(Method(explode), PLAN)
    before = parameters(loop)
    with pytest.raises(Diverged, match="step 1"):
        list(loop)
    assert torch.equal(parameters(loop), before) and not loop.optimizer.state


# ------------------------------------------------------------------------------------------ terms beside, accounting


def test_observers_that_draw_random_numbers_change_nothing() -> None:
    def run(noisy: bool) -> tuple[list[Record], Loop]:
        records: list[Record] = []

        def observe(record: Record, loop: Loop) -> None:
            records.append(record)
            if noisy:
                loop.policy.draw(loop.problem.prompts(0, 2, loop.rng["evaluation"]), 3, loop.rng["evaluation"])
                torch.rand(3)

        policy = tabular()
        loop = train(ROWS["ppo"], policy, Arms(rewards(), 3, 2), PLAN, observers=[observe])
        return records, loop

    quiet, noisy = run(False), run(True)
    assert_same(quiet[0], noisy[0])
    assert torch.equal(parameters(quiet[1]), parameters(noisy[1]))


def test_warmup_and_accounting() -> None:
    records = list(make_loop(METHODS["rloo"], replace(PLAN, steps=4)))
    assert [r.lr for r in records] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05, 0.05])
    assert [(r.step, r.iteration, r.pass_) for r in records] == [(1, 0, 0), (2, 0, 0), (3, 1, 0), (4, 1, 0)]
    assert [r.samples for r in records] == [16, 16, 32, 32] == [r.queries for r in records]
    assert [r.trained_tokens for r in records] == [16, 32, 48, 64]


def test_the_learning_rate_decays_over_the_plan() -> None:
    for schedule, falling in {
        "linear": [1, 0.75, 0.5, 0.25],
        "cosine": [1, 0.8535533905932737, 0.5, 0.1464466094],
    }.items():
        plan = replace(PLAN, steps=6, warmup=2, schedule=schedule)
        rates = [r.lr for r in make_loop(METHODS["rloo"], plan)]
        assert rates == pytest.approx([0.05 * share for share in (0.5, 1, *falling)])


def test_every_group_is_seen_once_per_pass_in_another_order() -> None:
    loop = make_loop(METHODS["rloo"].override(responses=2, reuse=2), replace(PLAN, steps=4))
    records = list(loop)
    keys = [[tuple(row) for row in r.batch.responses.flatten(1).tolist()] for r in records]
    assert sorted(keys[0] + keys[1]) == sorted(keys[2] + keys[3]) and keys[0] + keys[1] != keys[2] + keys[3]


@pytest.mark.parametrize("estimator", ["k2", "k3", "k2_token", "k3_token", "exact"])
def test_the_kl_loss_stands_beside_the_method(estimator: str) -> None:
    row = METHODS["rloo"].override(kl=0.7, kl_in="loss", kl_estimator=estimator, entropy=0.2, sft=0.3)
    policy, other = tabular(), tabular(seed=9)
    loop = make_loop(row, replace(PLAN, minibatch=16, steps=1), policy=policy)
    loop.reference, policy.anchor = other, other.logits.detach()
    start = Categorical(policy.logits.detach(), 2, policy.anchor)
    record = next(iter(loop))
    seen = start.evaluate(record.batch, entropy=True)
    per_response = start.exact_kl(record.batch) if estimator == "exact" else kl.loss(seen.logp, record.batch, estimator)
    got = record.regularisers
    assert float(got["kl"]) == pytest.approx(0.7 * float(per_response.mean().detach()))
    assert seen.entropy is not None and record.batch.scores is not None
    assert float(got["entropy"]) == pytest.approx(-0.2 * float(seen.entropy.sum(-1).mean().detach()))
    best = record.batch.scores.argmax(-1, keepdim=True)
    assert float(got["sft"]) == pytest.approx(-0.3 * float(seen.logp.sum(-1).gather(-1, best).sum().detach()) / 16)


def test_the_value_loss_is_half_the_mean_squared_error() -> None:
    record = next(iter(make_loop(METHODS["ppo"].override(kl=0.0, lam=1.0, value_weight=0.4), PLAN)))
    assert record.batch.scores is not None  # the critic starts at 0 and the target is the score
    want = 0.4 * float((record.batch.scores**2).mean()) / 2
    assert float(record.regularisers["value"]) == pytest.approx(want)


def test_gradient_norms_are_clipped() -> None:
    clipped = make_loop("rloo", replace(PLAN, steps=1, lr=1.0, warmup=0), optimizer=torch.optim.SGD)
    before = parameters(clipped)
    record = next(iter(clipped))
    moved = float((parameters(clipped) - before).norm())
    assert moved == pytest.approx(min(0.5, float(record.grad_norm)), rel=1e-5)


class Engine:
    """A sampler of its own: a copy of the policy that follows its weights when the loop says so."""

    def __init__(self, policy: Categorical) -> None:
        self.policy, self.copy = policy, tabular()
        self.versions: list[int] = []

    @property
    def exact_sampler(self) -> bool:
        return True

    def sync(self, version: int) -> None:
        self.versions.append(version)
        self.copy.restore(self.policy.state())

    def draw(self, prompts: Tensor, responses: int, rng: Stream, poll: Callable[[], None] = no_op) -> Batch:
        return self.copy.draw(prompts, responses, rng, poll)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_a_sampler_is_synchronised_before_every_collection_that_draws(share: float) -> None:
    """With the policy's weights in it, nothing else changes."""
    row, plan = METHODS["rwr"].override(reuse=2, on_policy=share), replace(PLAN, steps=8)
    policy, plain = tabular(), make_loop(row, plan)
    engine = Engine(policy)
    adam = torch.optim.Adam(policy.parameters(), lr=plan.lr)
    reference = policy.reference()
    loop = Loop(row, policy, Arms(rewards(), 3, 2), plan, reference=reference, optimizer=adam, sampler=engine)
    for mine, theirs in zip(loop, plain, strict=True):
        assert torch.equal(mine.loss, theirs.loss) and torch.equal(mine.batch.responses, theirs.batch.responses)
    per_collection = 2 * plan.batch // plan.minibatch
    assert engine.versions == (list(range(0, 8, per_collection)) if share else [])


def test_a_policy_that_cannot_write_needs_a_sampler() -> None:
    class Mute:
        """Evaluates and trains, and writes nothing."""

        def __init__(self, policy: Categorical) -> None:
            for name in ("evaluate", "micro_batches", "parameters", "reference", "state", "restore"):
                setattr(self, name, getattr(policy, name))

    policy = tabular()
    mute, adam = Mute(policy), torch.optim.Adam(policy.parameters(), lr=PLAN.lr)
    given = {"reference": policy.reference(), "optimizer": adam}
    with pytest.raises(UserError, match=r"(?s)cannot write.*sampler"):
        Loop(METHODS["rwr"], mute, Arms(rewards(), 3, 2), PLAN, **given)  # type: ignore[arg-type]
    Loop(METHODS["rwr"], mute, Arms(rewards(), 3, 2), PLAN, sampler=Engine(policy), **given)  # type: ignore[arg-type]


def test_an_error_inside_the_step_of_the_optimiser_leaves_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere in a step the state is that of the last boundary."""
    loop, calls = make_loop(METHODS["online_dpo"], PLAN), 0
    whole = type(loop.optimizer).step

    def torn(*args: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        whole(*args, **options)
        if calls == 2:
            raise MemoryError

    monkeypatch.setattr(type(loop.optimizer), "step", torn)
    steps = iter(loop)
    next(steps)
    assert loop.state()["counters"]["step"] == 1
    with pytest.raises(MemoryError):
        next(steps)
    with pytest.raises(RuntimeError, match="not finished"):
        loop.state()
