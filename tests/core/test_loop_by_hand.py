"""The loop by hand: what a plan allows, what is evaluated and counted, and the statistics of a collection."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.core.batch import Batch, reads
from prefloop.core.errors import DataError, UserError
from prefloop.core.loop import Diverged, Loop, Plan, _seen, train
from prefloop.core.methods import METHODS, Method
from prefloop.core.optim import StackedAdam
from prefloop.core.protocols import Evaluation
from prefloop.core.streams import Stream, streams
from prefloop.policies.categorical import Categorical
from toys import Arms, make_batch, make_loop, rewards, stack, tabular

PLAN = Plan(steps=4, batch=16, minibatch=16, lr=0.05)


# ------------------------------------------------------------------------------------------------------------- the plan


def test_a_plan_has_no_warmup_and_the_norm_limit_1() -> None:
    assert (PLAN.warmup, PLAN.max_grad_norm, PLAN.schedule) == (0, 1.0, "constant")
    assert [r.lr for r in make_loop("rloo", PLAN)] == [0.05] * 4
    assert [r.lr for r in make_loop("rloo", replace(PLAN, warmup=1))] == [0.05] * 4


def test_plans_and_records_cannot_be_changed() -> None:
    record = next(iter(make_loop("rloo", PLAN)))
    for frozen, name in ((PLAN, "steps"), (record, "step")):
        with pytest.raises(FrozenInstanceError):
            setattr(frozen, name, 9)
    assert Diverged.exit_code == 4


SIZES = [  # batch, minibatch, responses: the sizes suggested instead
    ((16, 6, 4), (16, 4)),
    ((12, 8, 4), (8, 8)),
    ((8, 16, 4), (16, 16)),
    ((16, 2, 4), (16, 4)),
    ((0, 4, 4), (4, 4)),
    ((16, 0, 4), (16, 4)),
    ((-4, -8, 3), (3, 3)),
    ((23, 7, 2), (18, 6)),
]


@pytest.mark.parametrize(("given", "wanted"), SIZES)
def test_sizes_that_do_not_divide_are_answered_with_some_that_do(
    given: tuple[int, int, int], wanted: tuple[int, int]
) -> None:
    batch, minibatch, responses = given
    row = METHODS["reinforce"].override(responses=responses)
    with pytest.raises(UserError) as caught:
        Plan(4, batch, minibatch, 0.1).check(row)
    found = re.search(r"minibatch=(\d+), batch=(\d+)", str(caught.value))
    assert found and (int(found[2]), int(found[1])) == wanted
    Plan(4, *wanted, 0.1).check(row)


def test_the_smallest_plans() -> None:
    Plan(1, 1, 1, 0.1).check(METHODS["sft"])
    Plan(1, 2, 2, 0.1).check(METHODS["rloo"].override(responses=2))
    Plan(1, 2, 2, 0.1).check(METHODS["kto"])
    Plan(1, 2, 1, 0.1).check(METHODS["kto"].override(z_over="collection"))
    for name, batch, changes in (("rloo", 1, {"responses": 1}), ("kto", 1, {}), ("kto", 3, {"responses": 3})):
        with pytest.raises(UserError, match="only one"):
            Plan(1, batch, batch, 0.1).check(METHODS[name].override(**changes))
    with pytest.raises(UserError, match=r"(?s)only one.*minibatch=6, or z_over=collection with batch=6"):
        Plan(1, 6, 3, 0.1).check(METHODS["kto"].override(responses=3))
    with pytest.raises(UserError, match="only one"):
        Plan(1, 1, 1, 0.1).check(METHODS["kto"].override(z_over="collection"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5, 0.8, 0.9, 1.0])
def test_a_mixture_has_groups_of_both_kinds(share: float) -> None:
    plan, row = Plan(1, 16, 16, 0.1), METHODS["rloo"].override(on_policy=share)
    if share in (0.1, 0.9):  # of four groups none, or all
        with pytest.raises(UserError, match="is not a mixture"):
            plan.check(row)
    else:
        plan.check(row)
    if 0 < share < 1:
        with pytest.raises(UserError, match="refuses on_policy"):
            plan.check(METHODS["sft"].override(on_policy=share))
    else:
        plan.check(METHODS["sft"].override(on_policy=share))


def test_where_a_kl_may_stand() -> None:
    PLAN.check(METHODS["rloo"].override(kl=0.1))
    PLAN.check(METHODS["dpo"].override(kl=0.0))
    PLAN.check(METHODS["dpo"].override(kl=torch.zeros(2), kl_in="loss"))
    with pytest.raises(UserError, match="policy-gradient"):
        PLAN.check(METHODS["dpo"].override(kl=torch.zeros(2)))


def test_an_exact_kl_needs_a_policy_that_can_sum() -> None:
    class Sampled:
        """As a language model: it cannot sum over all responses."""

        def __init__(self, policy: Categorical) -> None:
            for name in ("evaluate", "micro_batches", "parameters", "reference", "state", "restore", "draw", "sync"):
                setattr(self, name, getattr(policy, name))
            self.exact_sampler = True

    policy = Sampled(tabular())
    exact = METHODS["rloo"].override(kl=0.1, kl_in="loss", kl_estimator="exact")
    with pytest.raises(UserError, match="kl_estimator=k2"):
        make_loop(exact, PLAN, policy=policy)
    make_loop(exact, PLAN)
    make_loop(exact.override(kl_estimator="k3"), PLAN, policy=policy)
    make_loop(exact.override(kl=0.0), PLAN, policy=policy)


# ---------------------------------------------------------------------------------------------- what is evaluated


class Counting(Categorical):
    """Counts its evaluations of whole batches, and what was asked for beside log-probs."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.whole, self.asked = 0, set[str]()

    def micro_batches(self, batch: Batch) -> list[Tensor]:
        self.whole += 1
        return super().micro_batches(batch)

    def evaluate(self, batch: Batch, *, entropy: bool = False, values: bool = False) -> Evaluation:
        self.asked |= ({"entropy"} if entropy else set()) | ({"values"} if values else set())
        return super().evaluate(batch, entropy=entropy, values=values)


RATIO = METHODS["rloo"]
EVALUATIONS = [  # row, minibatch -> evaluations of policy and of reference in two steps on two collections, and more
    (RATIO, 16, 2, 0, set()),  # the first pass is the collection's own
    (RATIO, 8, 3, 0, set()),  # an anchor for the second minibatch
    (RATIO.override(mismatch_cap=2.0), 16, 4, 0, set()),
    (RATIO.override(on_policy=0.0), 16, 4, 0, set()),  # nobody knows who wrote it
    (RATIO.override(on_policy=0.5), 16, 4, 0, set()),  # of the offline half
    (RATIO.override(kl=0.1), 16, 2, 2, set()),
    (RATIO.override(entropy=0.1), 16, 2, 0, {"entropy"}),
    (METHODS["ppo"].override(kl=0.0, reuse=1), 16, 4, 0, {"values"}),
    (METHODS["rwr"], 8, 2, 0, set()),
    (METHODS["dpo"], 16, 2, 2, set()),
    (METHODS["dpo"].override(on_policy=0.5), 16, 2, 2, set()),  # no ratio: who wrote what does not matter
    (METHODS["kto"], 16, 4, 4, set()),
    (METHODS["kto"], 8, 4, 3, set()),  # the drift of each minibatch; the reference's log-probs once
    (METHODS["kto"].override(z_over="collection"), 8, 3, 2, set()),
]


@pytest.mark.parametrize(("row", "minibatch", "own", "theirs", "asked"), EVALUATIONS)
def test_only_what_a_row_needs_is_evaluated(
    row: Method, minibatch: int, own: int, theirs: int, asked: set[str]
) -> None:
    logits = tabular().logits.detach()
    policy, reference = Counting(logits, 2), Counting(logits, 2)
    adam = torch.optim.Adam(policy.parameters(), lr=0.1)
    plan = replace(PLAN, steps=2, minibatch=minibatch)
    list(Loop(row, policy, Arms(rewards(), 3, 2), plan, reference=reference, optimizer=adam))
    assert (policy.whole, reference.whole) == (own, theirs)
    assert (policy.asked, reference.asked) == (asked, set())


@pytest.mark.parametrize("name", ["ppo", "kto", "dpo"])
def test_micro_batches_change_nothing(name: str) -> None:
    class Split(Categorical):
        def micro_batches(self, batch: Batch) -> list[Tensor]:
            (every,) = super().micro_batches(batch)
            return [every[:1], every[1:]]

    def made(kind: type[Categorical]) -> Categorical:
        policy = kind(tabular().logits.detach(), 2)
        policy.critic.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        return policy

    row = METHODS[name].override(responses=2)
    want = list(make_loop(row, replace(PLAN, minibatch=8), policy=made(Categorical)))
    for got, known in zip(make_loop(row, replace(PLAN, minibatch=8), policy=made(Split)), want, strict=True):
        for field in ("loss", "logp", "coefficient", "grad_norm"):
            assert torch.allclose(getattr(got, field), getattr(known, field), atol=1e-12), field
    if name == "ppo":
        values = made(Categorical).evaluate(want[0].batch, values=True).values
        assert torch.equal(want[0].batch.values, values)  # type: ignore[arg-type]


def test_a_policy_may_say_more_than_it_is_asked() -> None:
    class Generous(Categorical):
        def evaluate(self, batch: Batch, *, entropy: bool = False, values: bool = False) -> Evaluation:
            return super().evaluate(batch, entropy=True, values=True)

    plan = replace(PLAN, minibatch=8)
    for got, want in zip(
        make_loop(RATIO, plan, policy=Generous(tabular().logits.detach(), 2)), make_loop(RATIO, plan), strict=True
    ):
        assert torch.equal(got.loss, want.loss) and got.regularisers == {} and got.batch.values is None


def test_every_pass_has_the_next_order_of_the_shuffle() -> None:
    row, world = RATIO.override(reuse=2), Arms(rewards(8), 3, 2)
    orders = [streams(0)["shuffle"].epoch(4, k) for k in range(4)]
    for k, record in enumerate(make_loop(row, PLAN, policy=tabular(8), problem=world)):
        assert record.batch.prompts.tolist() == (4 * record.iteration + orders[k]).tolist()


def test_scores_that_came_with_the_data_are_not_asked_for() -> None:
    class Known(Arms):
        def score(self, batch: Batch) -> Batch:
            return super().score(batch) if batch.scores is None else batch

    world = Known(rewards(), 3, 2)
    assert [r.queries for r in make_loop(METHODS["dpo"], PLAN, problem=world)] == [0] * 4
    assert [r.queries for r in make_loop(METHODS["online_dpo"], PLAN, problem=world)] == [16, 32, 48, 64]


def test_prompts_of_a_mixture_are_answered_once_by_the_policy_or_by_the_data() -> None:
    class Asked(Arms):
        def prompts(self, start: int, count: int, rng: Stream) -> Tensor:
            asked.append((start, count))
            return super().prompts(start, count, rng)

    asked: list[tuple[int, int]] = []
    records = list(make_loop(RATIO.override(on_policy=0.75), PLAN, problem=Asked(rewards(), 3, 2)))
    assert asked == [(0, 3), (3, 1), (4, 3), (7, 1), (8, 3), (11, 1), (12, 3), (15, 1)]
    assert [r.queries for r in records] == [16, 32, 48, 64]


@pytest.mark.parametrize("absent", [True, False])
def test_a_score_that_is_not_finite_is_refused_where_there_is_a_response(absent: bool) -> None:
    class Holed(Arms):
        """The last response of each group has no score, and may be absent."""

        def score(self, batch: Batch) -> Batch:
            last = torch.arange(batch.mask.shape[-2]) == batch.mask.shape[-2] - 1
            scored = super().score(batch)
            assert scored.scores is not None
            holed = replace(scored, scores=scored.scores.masked_fill(last, torch.nan))
            return replace(holed, valid=(~last).expand(scored.scores.shape)) if absent else holed

    loop = make_loop("rwr", PLAN, problem=Holed(rewards(), 3, 2))
    if absent:
        assert [r.queries for r in loop] == [12, 24, 36, 48]
    else:
        with pytest.raises(DataError, match="collection 0"):
            list(loop)


def test_a_fresh_collection_is_where_the_policy_is_whatever_its_sampler_says() -> None:
    class Shifted(Categorical):
        def draw(self, *args: Any, **options: Any) -> Batch:
            drawn = super().draw(*args, **options)
            return replace(drawn, logp_proximal=drawn.logp_proximal + 1e-3)  # type: ignore[operator]

    for name in ("rwr", "rloo", "best_of_n"):
        record = next(iter(make_loop(name, PLAN, policy=Shifted(tabular().logits.detach(), 2))))
        assert torch.equal(record.used.logp_proximal, record.logp), name  # type: ignore[arg-type]


def test_tokens_of_present_responses_are_counted() -> None:
    class Ragged(Arms):
        """Every second response is absent; those that are there have one token of two."""

        def score(self, batch: Batch) -> Batch:
            mask = torch.tensor([True, False]).expand(batch.mask.shape)
            valid = (torch.arange(batch.mask.shape[-2]) % 2 == 0).expand(batch.mask.shape[:-1])
            return replace(super().score(batch), mask=mask, valid=valid)

    loop = make_loop(METHODS["rwr"].override(sft=0.1), PLAN, problem=Ragged(rewards(), 3, 2))
    records = list(loop)
    assert [r.trained_tokens for r in records] == [8, 16, 24, 32] == [r.queries for r in records]
    assert loop.moments["count"] == 32


# ------------------------------------------------------------------------------------------------- what an update does


def test_a_loss_that_is_not_finite_stops_the_run_though_its_gradient_is() -> None:
    @reads()
    def lost(logp: Tensor, signal: Any, batch: Batch) -> Tensor:
        return logp + torch.inf

    loop = make_loop(Method(lost), PLAN)
    with pytest.raises(Diverged, match="step 1: "):
        list(loop)
    assert loop.step == 0 and not loop.optimizer.state


def test_a_stacked_run_whose_extra_term_is_not_finite_stands_still() -> None:
    class Torn(Categorical):
        """The entropy of the second run is not defined in the first update."""

        updates = 0

        def evaluate(self, batch: Batch, *, entropy: bool = False, values: bool = False) -> Evaluation:
            seen = super().evaluate(batch, entropy=entropy, values=values)
            self.updates += torch.is_grad_enabled()
            if self.updates != 1 or seen.entropy is None:
                return seen
            return replace(seen, entropy=seen.entropy.detach() + torch.tensor([0.0, torch.inf, 0.0]).view(3, 1, 1, 1))

    policy = Torn(torch.stack([tabular().logits.detach()] * 3), 2)
    row, world = METHODS["rloo"].override(entropy=0.1), Arms(rewards(), 3, 2, runs=3)
    loop = make_loop(row, PLAN, policy=policy, problem=world, optimizer=StackedAdam, seed=[0, 1, 2])
    list(loop)
    assert loop.diverged is not None and loop.diverged.tolist() == [False, True, False]
    moved = [not torch.equal(run, tabular().logits) for run in policy.logits.detach()]
    assert moved == [True, False, True]


def test_a_parameter_without_a_gradient_is_not_moved_by_an_earlier_one() -> None:
    class Once(Categorical):
        """Its critic takes part in the first update only."""

        updates = 0

        def evaluate(self, batch: Batch, *, entropy: bool = False, values: bool = False) -> Evaluation:
            seen = super().evaluate(batch, entropy=entropy, values=values)
            if not torch.is_grad_enabled() or self.updates > 0:
                return seen
            self.updates += 1
            return replace(seen, logp=seen.logp + self._at(self.critic, batch.prompts, self._nodes(batch.responses)))

    policy = Once(tabular().logits.detach(), 2)
    loop = make_loop("rwr", PLAN, policy=policy)
    steps = iter(loop)
    next(steps)
    moved = policy.critic.detach().clone()
    next(steps)
    assert moved.abs().sum() > 0 and torch.equal(policy.critic, moved)


def test_one_response_alone_is_its_own_mean() -> None:
    row = METHODS["sft"].override(kl=1.0, kl_in="loss")
    policy, other = tabular(), tabular(seed=3)
    loop = make_loop(row, Plan(1, 1, 1, 0.1), policy=policy)
    loop.reference = other
    record = next(iter(loop))
    d = record.logp.sum() - other.evaluate(record.batch).logp.sum()
    assert float(record.regularisers["kl"]) == pytest.approx(float(d.detach() ** 2 / 2))


# ------------------------------------------------------------------------------------------- statistics of a collection


def drift(policy: Categorical, reference: Categorical, batch: Batch) -> float:
    """KTO's z by loops: mean log π/π_ref of a prompt with the responses to the one before it, at least 0."""
    found = []
    count = batch.mask.shape[0]
    for p in range(count):
        for g in range(batch.mask.shape[1]):
            if batch.present[(p - 1) % count, g]:
                n = int(batch.lengths[(p - 1) % count, g])
                one = Batch(
                    batch.prompts[p : p + 1],
                    *(x[(p - 1) % count, g][None, None] for x in (batch.responses, batch.mask)),
                )
                d = policy.evaluate(one).logp - reference.evaluate(one).logp
                found.append(float(d[0, 0, :n].sum().detach()))
    return max(0.0, sum(found) / max(1, len(found)))


def crossed(seed: int, valid: list[list[bool]] | None) -> Batch:
    batch = make_batch(seed, prompts=3, responses=2, tokens=2)
    place = None if valid is None else torch.tensor(valid)
    return Batch(torch.tensor([0, 1, 2]), batch.responses % 3, batch.mask, valid=place)


VALID = [
    None,
    [[True, False], [True, True], [False, True]],
    [[False] * 2, [False] * 2, [True, False]],
    [[False] * 2] * 3,
]


@pytest.mark.parametrize("valid", VALID)
def test_the_drift_of_kto_is_that_of_each_prompt_with_its_neighbours_responses(valid: list[list[bool]] | None) -> None:
    policy, reference = tabular(seed=1), tabular(seed=2)
    loop = make_loop("kto", PLAN, policy=policy)
    signs = set()
    for seed in range(4):
        for loop.reference, other in ((reference, reference), (policy, policy)):
            got, want = float(loop._mismatched_kl(crossed(seed, valid))), drift(policy, other, crossed(seed, valid))
            assert got == pytest.approx(want, abs=1e-12)
            signs.add(want > 0)
    assert signs == ({True, False} if valid is None or any(map(any, valid)) else {False})


@pytest.mark.parametrize("over", ["minibatch", "collection"])
def test_the_drift_is_that_of_each_minibatch_before_its_update_or_of_the_collection(over: str) -> None:
    """As published, z follows the policy through two passes over two minibatches; the option keeps the first."""
    policy, plan = tabular(seed=1), replace(PLAN, steps=8, minibatch=8, lr=0.3)
    loop = make_loop(METHODS["kto"].override(responses=2, reuse=2, on_policy=1.0, z_over=over), plan, policy=policy)
    loop.reference = tabular(seed=5)
    steps, seen, want = iter(loop), [], []
    for k in range(8):
        before = Categorical(policy.logits.detach().clone(), 2)
        record = next(steps)
        if over == "minibatch":
            want.append(drift(before, loop.reference, record.batch))
        else:
            kept = loop.collection
            want.append(drift(before, loop.reference, kept) if k % 4 == 0 and kept is not None else want[-1])
        seen.append(float(record.batch.z))
    assert seen == pytest.approx(want, abs=1e-12)
    distinct = {round(z, 9) for z in seen if z > 0}
    assert len(distinct) == 1 if over == "collection" else len(distinct) > 2


def test_the_drift_is_a_runs_own() -> None:
    policies, references = ([tabular(seed=s) for s in seeds] for seeds in ((1, 4), (2, 7)))
    batches = [crossed(0, VALID[1]), crossed(1, [[True] * 2] * 3)]
    stacked = make_loop("kto", PLAN, policy=Categorical(torch.stack([p.logits.detach() for p in policies]), 2))
    stacked.reference = Categorical(torch.stack([p.logits.detach() for p in references]), 2)
    got = stacked._mismatched_kl(stack(batches))
    want = [drift(p, r, b) for p, r, b in zip(policies, references, batches, strict=True)]
    assert got.tolist() == pytest.approx(want, abs=1e-12)


def test_running_moments_are_those_of_all_scores_so_far() -> None:
    batches = [make_batch(s, prompts=2, responses=3, ragged=True) for s in range(3)]
    moments: dict[str, Tensor] = {}
    for k, batch in enumerate(batches):
        moments = _seen(moments, batch)
        scores = torch.cat([b.scores[b.present] for b in batches[: k + 1]])  # type: ignore[index]
        assert float(moments["count"]) == len(scores) and float(moments["mean"]) == pytest.approx(float(scores.mean()))
    assert _seen(moments, replace(batches[0], scores=None)) is moments
    lonely = replace(batches[0], valid=torch.tensor([[True, False, False], [False] * 3]))
    empty = _seen({}, replace(lonely, valid=torch.zeros(2, 3, dtype=torch.bool)))
    for before in ({}, empty):
        assert _seen(before, lonely)["mean"] == lonely.scores[0, 0]  # type: ignore[index]
    both = _seen(_seen({}, stack(batches[:2])), stack(batches[1:]))
    for run in range(2):
        alone = _seen(_seen({}, batches[run]), batches[run + 1])
        assert all(torch.allclose(both[k][run], alone[k]) for k in ("count", "mean"))


def test_one_score_is_its_mean_and_none_changes_nothing() -> None:
    one = make_batch(1, prompts=1, responses=1)
    none = replace(one, valid=torch.tensor([[False]]))
    empty = _seen({}, none)
    assert (float(empty["count"]), float(empty["mean"])) == (0, 0)
    for moments in (_seen({}, one), _seen(empty, one), _seen(_seen({}, one), none), _seen(empty | {}, one)):
        assert float(moments["mean"]) == pytest.approx(float(one.scores[0, 0]))  # type: ignore[index]
    assert float(_seen(empty, none)["mean"]) == 0


# ------------------------------------------------------------------------------------------------------------ the ends


def test_a_loop_begins_at_0_with_the_streams_of_seed_0() -> None:
    loop = make_loop("rloo", PLAN)
    plain = Loop(loop.method, loop.policy, loop.problem, PLAN, reference=loop.reference, optimizer=loop.optimizer)
    assert plain.rng["signal"].seeds == (0,)
    counters = (loop.step, loop.samples, loop.sampled_tokens, loop.trained_tokens, loop.queries)
    assert counters == (0,) * 5


def test_train_takes_what_it_is_given() -> None:
    world = Arms(rewards(), 3, 2)
    plain = train(METHODS["rloo"], tabular(), world, PLAN)
    assert plain.rng["signal"].seeds == (0,) and type(plain.optimizer) is torch.optim.Adam
    assert torch.equal(plain.reference.logits, tabular().logits)  # type: ignore[attr-defined]
    policy, reference = tabular(), tabular(seed=5)
    sgd = torch.optim.SGD(policy.parameters(), lr=1.0)
    given = train(METHODS["rloo"], policy, world, PLAN, reference=reference, optimizer=sgd, seed=3)
    assert given.reference is reference and given.optimizer is sgd and given.rng["signal"].seeds == (3,)
    many = Categorical(torch.stack([tabular().logits.detach()] * 2), 2)
    stacked = train(METHODS["rloo"], many, Arms(rewards(), 3, 2, runs=2), PLAN, seed=[0, 1])
    assert type(stacked.optimizer) is StackedAdam
