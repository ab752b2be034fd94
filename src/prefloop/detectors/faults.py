"""Faults of known kinds, planted into runs of the lab: in their settings, data, rewards, samplers or references.

Each names the checks of `analysis.checks` that would find it for the right reason, and the sound settings (`BASES`) in
which it has an effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.protocols import no_op
from prefloop.core.streams import Stream
from prefloop.lab.setting import Setting, changed, make
from prefloop.worlds.rewarded import Rewarded
from prefloop.worlds.spec import Built, Stack

HELD = 0.5  # share of the offline groups that are held out
PAIRS: Mapping[str, Any] = {"responses": 2, "data": 600, "batch": 64, "minibatch": 64}
FRESH: Mapping[str, Any] = {"responses": 8, "batch": 128, "minibatch": 128}
SIZE: Mapping[str, Any] = {"steps": 200, "evaluate": 20, "lr": 1e-3}
BANDIT: Mapping[str, Any] = {**SIZE, "mass": 0.1}
WORDS: Mapping[str, Any] = {"steps": 120, "evaluate": 20, "lr": 1e-3, "peak": 50.0}


def bases() -> dict[str, Setting]:
    """Sound settings: methods of all families, offline and on-policy, on bandits, sequences and variable lengths."""
    return {
        "dpo": make("dpo", "rotated", {"beta": 0.3}, **PAIRS, **BANDIT),
        "dpo, far": make("dpo", "rotated", {"beta": 0.3}, **PAIRS, **{**BANDIT, "mass": 0.03}),
        "ipo": make("ipo", "rotated", **PAIRS, **BANDIT),
        "online dpo": make("online_dpo", "rotated", {"beta": 0.3}, responses=2, batch=64, minibatch=64, **BANDIT),
        "grpo": make("grpo", "rotated", **FRESH, **BANDIT),
        "ppo": make("ppo_critic_free", "rotated", {"reuse": 2}, **{**FRESH, "minibatch": 64}, **BANDIT),
        "grpo, learned reward": make("grpo", "rotated", scorer="proxy", data=500, **FRESH, **{**BANDIT, "steps": 100}),
        "dpo, sequences": make("dpo", "sequences", {"beta": 0.3}, **PAIRS, **{**SIZE, "steps": 120, "centre": 20.0}),
        "dpo, lengths": make("dpo", "lengths", **PAIRS, **WORDS),
        "pref_ft, lengths": make("pref_ft", "lengths", **PAIRS, **WORDS),
        "rloo, lengths": make("rloo", "lengths", responses=4, batch=64, minibatch=64, **{**WORDS, "steps": 60}),
    }


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Args:
        held: offline groups that are not trained on; None for methods without offline data.
        sampler: writes the responses; None: the policy itself.
        learned: whether the reward that is trained on differs from gold.
    """

    built: Built
    held: Batch | None = None
    sampler: Any = None
    learned: bool = False

    def with_data(self, change: Callable[[Batch], Batch]) -> Parts:
        """The same change of all offline data, also of those that are held out."""
        problem, held = self.built.problem, self.held
        data = None if problem.data is None else change(problem.data)
        built = replace(self.built, problem=replace(problem, data=data))
        return replace(self, built=built, held=None if held is None else change(held))


def parts(stack: Stack) -> Parts:
    """The sound parts of a stack, with some of the offline groups held out."""
    built = stack.world.build(stack)
    problem = built.problem
    learned = getattr(stack.world, "scorer", "") == "proxy"
    if problem.data is None or stack.method.on_policy == 1:
        return Parts(built, learned=learned)
    groups = problem.data.mask.shape[1]
    first = torch.arange(groups).expand(len(stack.seeds), groups)
    train, held = (problem.data[rows] for rows in first.split((groups - int(HELD * groups), int(HELD * groups)), -1))
    size = int(train.mask.shape[1]) * stack.method.responses
    return Parts(replace(built, problem=replace(problem, data=train), offline=size), held, learned=learned)


# ---- data ------------------------------------------------------------------------------------------------------------


def swapped(own: Parts, stack: Stack, *, share: float) -> Parts:
    """Reverse the order of the responses in a share of the groups."""
    rng = Stream("swapped", stack.seeds, stacked=True)

    def swap(data: Batch) -> Batch:
        assert data.scores is not None
        flip = rng.rand(data.mask.shape[1]) < share
        return replace(data, scores=torch.where(flip[..., None], -data.scores, data.scores))

    return own.with_data(swap)


def noisy(own: Parts, stack: Stack, *, share: float) -> Parts:
    """Reverse pairs with the probability of a Bradley-Terry annotator whose temperature makes `share` of them wrong."""
    rng = Stream("noisy", stack.seeds, stacked=True)

    def annotate(data: Batch) -> Batch:
        assert data.scores is not None
        gap = _gap(data.scores).double()
        flip = rng.rand(data.mask.shape[1]) < _wrong(gap, _temperature(gap, share))
        return replace(data, scores=torch.where(flip[..., None], -data.scores, data.scores))

    return own.with_data(annotate)


def _gap(scores: Float[Tensor, "S N C"]) -> Float[Tensor, "S N"]:
    return scores.amax(-1) - scores.amin(-1)


def _wrong(gap: Float[Tensor, "S N"], temperature: Float[Tensor, " S"]) -> Float[Tensor, "S N"]:
    """Probability that an annotator reverses each pair; ties have no order to reverse."""
    return torch.where(gap > 0, torch.sigmoid(-gap / temperature[:, None]), 0.0)


def _temperature(gap: Float[Tensor, "S N"], share: float) -> Float[Tensor, " S"]:
    """The temperature at which a share of the pairs is expected to be reversed; by bisection, share < ½."""
    low, high = gap.new_full((len(gap),), 1e-30), gap.new_full((len(gap),), 1e4)
    for _ in range(100):
        middle = (low * high).sqrt()
        more = _wrong(gap, middle).mean(-1) < share
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return high


def cut(own: Parts, stack: Stack, *, tokens: int | None) -> Parts:
    """Take the end from the responses of the data: all but the first `tokens` tokens of longer ones, or only END."""
    end = own.built.policy.end

    def shorten(data: Batch) -> Batch:
        if tokens is None:
            return replace(data, mask=data.mask & ((data.responses != end) | (data.lengths == 1)[..., None]))
        return replace(data, mask=data.mask & (torch.arange(data.mask.shape[-1]) < tokens))

    return own.with_data(shorten)


def duplicated(own: Parts, stack: Stack, *, share: float) -> Parts:
    """Put training groups into a share of the held-out ones."""
    data = own.built.problem.data
    assert own.held is not None and data is not None
    held, groups = own.held, own.held.mask.shape[1]
    count = int(share * groups)
    joined = {
        name: torch.cat([getattr(data, name)[:, :count], getattr(held, name)[:, : groups - count]], 1)
        for name in ("prompts", "responses", "mask", "scores")
    }
    mixed = Batch(**joined)
    return replace(own, held=mixed)


# ---- rewards ---------------------------------------------------------------------------------------------------------


def by_length(own: Parts, stack: Stack) -> Parts:
    """Train on the length of the responses instead of gold."""
    problem, evaluate = own.built.problem, own.built.evaluate

    def measured(policy: Any, reference: Any, rng: Stream) -> dict[str, Tensor]:
        seen = evaluate(policy, reference, rng)
        return {**seen, "eval/reward": seen["eval/length"], "eval/reward_se": seen["eval/length_se"]}

    built = replace(own.built, problem=replace(problem, proxy=_length), evaluate=measured, glance=None)
    changed_data = replace(own, built=built, learned=True)
    return changed_data.with_data(lambda data: replace(data, scores=_length(data)))


def _length(batch: Batch) -> Float[Tensor, "S P G"]:
    return batch.lengths.float()


def of_other_data(own: Parts, stack: Stack, **fields: Any) -> Parts:
    """Train on a reward model fitted to the preferences of another world.

    Args:
        fields: in which it differs from that of the stack, such as where its reward peaks.
    """
    worlds = [replace(w, **fields) for w in stack.worlds]
    other = parts(replace(stack, worlds=worlds)).built
    evaluate, theirs = own.built.evaluate, other.evaluate

    def measured(policy: Any, reference: Any, rng: Stream) -> dict[str, Tensor]:
        by_proxy = theirs(policy, reference, rng)
        named = ("eval/reward", "eval/reward_se")
        return {**evaluate(policy, reference, rng), **{name: by_proxy[name] for name in named}}

    problem = replace(own.built.problem, proxy=other.problem.proxy)
    return replace(own, built=replace(own.built, problem=problem, evaluate=measured, glance=None), learned=True)


@dataclass(frozen=True, kw_only=True)
class Levelled(Rewarded):
    """Gives all responses of a share of the groups their mean score."""

    share: float
    rng: Stream

    def score(self, batch: Batch) -> Batch:
        done = super().score(batch)
        assert done.scores is not None
        level = (self.rng.rand(done.mask.shape[1]) < self.share)[..., None]
        mean = done.scores.mean(-1, keepdim=True).expand_as(done.scores)
        return replace(done, scores=torch.where(level, mean, done.scores))


def levelled(own: Parts, stack: Stack, *, share: float) -> Parts:
    """Zero variance in a share of the groups."""
    rng = Stream("levelled", stack.seeds, stacked=True)
    problem = Levelled(**vars(own.built.problem), share=share, rng=rng)
    return replace(own, built=replace(own.built, problem=problem))


# ---- samplers --------------------------------------------------------------------------------------------------------


@dataclass
class Stale:
    """Samples with the policy as it is, and records the log-probs of the one `lag` collections before."""

    policy: Any
    lag: int
    past: list[Any] = field(default_factory=list)

    @property
    def exact_sampler(self) -> bool:
        return True

    def sync(self, version: int) -> None:
        self.past = [*self.past, self.policy.frozen()][-1 - self.lag :]

    def draw(self, prompts: Any, responses: int, rng: Stream, poll: Callable[[], None] = no_op) -> Batch:
        drawn = self.policy.draw(prompts, responses, rng, poll)
        logp = self.past[0].evaluate(drawn).logp.detach()
        return replace(drawn, logp_behaviour=logp, logp_proximal=logp.clone())


def stale(own: Parts, stack: Stack, *, lag: int) -> Parts:
    """Stale behaviour log-probs."""
    return replace(own, sampler=Stale(own.built.policy, lag))


@dataclass
class Engine:
    """Samples from a copy of the policy whose weights have a relative error, as of low precision or a stale head."""

    policy: Any
    error: float
    rng: Stream
    copy: Any = None

    @property
    def exact_sampler(self) -> bool:
        return True

    def sync(self, version: int) -> None:
        self.copy = self.policy.frozen()
        for name, weight in self.copy.weights.items():
            noise = self.rng.randn(*weight.shape[1:], dtype=weight.dtype)
            self.copy.weights[name] = weight * (1 + self.error * noise)

    def draw(self, prompts: Any, responses: int, rng: Stream, poll: Callable[[], None] = no_op) -> Batch:
        drawn = self.copy.draw(prompts, responses, rng, poll)
        return replace(drawn, logp_proximal=self.policy.evaluate(drawn).logp.detach())


def engine(own: Parts, stack: Stack, *, error: float) -> Parts:
    """A sampler that is not the trained model."""
    rng = Stream("engine", stack.seeds, stacked=True)
    return replace(own, sampler=Engine(own.built.policy, error, rng))


# ---- the table -------------------------------------------------------------------------------------------------------


def same(setting: Setting) -> Setting:
    return setting


def untouched(own: Parts, stack: Stack) -> Parts:
    return own


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Args:
        reasons: the checks that name it.
        bases: the sound settings that it is planted into.
        change: changes the setting.
        plant: changes the parts.
    """

    reasons: frozenset[str]
    bases: tuple[str, ...]
    change: Callable[[Setting], Setting] = same
    plant: Callable[[Parts, Stack], Parts] = untouched


def _fault(reasons: str, bases: tuple[str, ...], **how: Any) -> Fault:
    return Fault(frozenset(reasons.split()), bases, **how)


def tiny_beta(setting: Setting) -> Setting:
    return replace(setting, override={**setting.override, "beta": 1e-6})


def faster(setting: Setting, times: float = 30.0) -> Setting:
    return replace(setting, lr=times * setting.lr)


def with_dropout(setting: Setting) -> Setting:
    return changed(setting, defect="reference_dropout")


SOUND = Fault(frozenset(), tuple(bases()))
OFFLINE, RATIO, LENGTHS = ("dpo", "dpo, far", "ipo"), ("grpo", "ppo"), ("pref_ft, lengths",)
FAULTS: Mapping[str, Fault] = {
    "labels swapped, 10 %": _fault("labels", OFFLINE, plant=partial(swapped, share=0.1)),
    "labels swapped, 30 %": _fault("labels", OFFLINE, plant=partial(swapped, share=0.3)),
    "labels noisy, 10 %": _fault("labels memorised", OFFLINE, plant=partial(noisy, share=0.1)),
    "labels noisy, 30 %": _fault("labels memorised", OFFLINE, plant=partial(noisy, share=0.3)),
    "reward is length": _fault("hacking length_reward length", ("rloo, lengths",), plant=by_length),
    "stale log-probs": _fault("mismatch staleness", RATIO, plant=partial(stale, lag=8)),
    "engine mismatch": _fault("mismatch", RATIO, plant=partial(engine, error=0.1)),
    "β is 0": _fault("beta", ("dpo", "dpo, far", "dpo, sequences"), change=tiny_beta),
    "rate × 30": _fault("rate hasty", ("dpo", "ppo", "dpo, sequences"), change=faster),
    "data truncated": _fault("ends", LENGTHS, plant=partial(cut, tokens=8)),
    "end lost": _fault("ends", LENGTHS, plant=partial(cut, tokens=None)),
    "duplicates": _fault("duplicates", OFFLINE, plant=partial(duplicated, share=0.3)),
    "zero variance": _fault("groups", RATIO, plant=partial(levelled, share=0.9)),
    "proxy of other data": _fault("hacking", ("grpo, learned reward",), plant=partial(of_other_data, mass=0.003)),
    "dropout in the reference": _fault("reference", ("dpo, sequences",), change=with_dropout),
}
