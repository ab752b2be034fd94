"""Build the parts of a loop for the lengths problem: reference, preference data, gold reward and learned proxy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from prefloop.core import user
from prefloop.core.batch import Batch
from prefloop.core.files import digest
from prefloop.core.streams import Stream
from prefloop.policies.gpt import GPT
from prefloop.rewards import scorers
from prefloop.rewards.rules import off_target
from prefloop.worlds.lengths import law
from prefloop.worlds.lengths import learned as stacked
from prefloop.worlds.lengths.answers import END, fingerprint, vocabulary
from prefloop.worlds.lengths.cache import cached
from prefloop.worlds.lengths.law import Estimate, Law
from prefloop.worlds.lengths.problem import (
    decode,
    decode_prompts,
    evened,
    fit,
    prompt_tokens,
    prompts,
    target,
    toward,
    truncated,
    truncation,
)
from prefloop.worlds.lengths.spec import LENGTH, SIZES, VERSION, Lengths
from prefloop.worlds.measures import responses_of
from prefloop.worlds.rewarded import Rewarded, Score, Typical, labelled, noisy, ranked
from prefloop.worlds.spec import Built, Stack

EARLY = 32  # prompts of an evaluation before the last, and of the forward KL
FIXED = 8  # responses of the reference to every prompt, on which rewards that have no form are measured
OF_DATA = ("network", "gold", "peak", "width", "coverage", "data", "labels", "temperature", "seen")


@dataclass(frozen=True)
class Reference:
    """The starting point of every run.

    Args:
        policy: the policy of one run.
        lengths: lengths of its responses, equally many to every prompt.
        law: the probability of each length given each prompt, from the same responses.
        perplexity: per token, on held-out answers.
        cut: share of the answers that exceed the limit.
    """

    policy: GPT
    prompts: int
    lengths: Int[Tensor, " n"]
    law: Law
    perplexity: float
    cut: float
    name: str

    def __str__(self) -> str:
        return (
            f"reference: perplexity {self.perplexity:.1f} per token on held-out answers; {self.cut:.1%} of the answers"
            f" exceed {self.policy.tokens} tokens; mean length of its own answers: {self.lengths.double().mean():.1f}"
        )


@cache
def reference(network: str) -> Reference:
    """The fitted GPT of that size, cached."""
    size = SIZES[network]
    name = f"reference-{digest([VERSION, asdict(size), fingerprint()])}"

    def make() -> dict[str, Tensor]:
        fitted = fit(size)
        known = _words() + torch.arange(_prompts(fitted.policy.weights["token"]))
        rng = Stream("lengths of the reference", [0], stacked=True)
        parts, lengths = law.sample(fitted.policy, known, size.answers, rng)
        facts = {
            "law": parts,
            "lengths": lengths,
            "perplexity": torch.tensor(fitted.perplexity),
            "cut": torch.tensor(fitted.cut),
        }
        return {**fitted.policy.state(), **{f"fact.{k}": x for k, x in facts.items()}}

    state = cached(name, make)
    facts = {k.removeprefix("fact."): state.pop(k) for k in list(state) if k.startswith("fact.")}
    policy = GPT(state, size.heads, END)
    numbers = {k: float(facts[k]) for k in ("perplexity", "cut")}
    return Reference(policy, _prompts(state["token"]), facts["lengths"], Law(facts["law"]), **numbers, name=name)


def build(stack: Stack) -> Built:
    """Policy, reference, problem and evaluation of a stack of Lengths."""
    one, base = stack.world, reference(stack.world.network)
    policy = base.policy.take(torch.zeros(len(stack.seeds), dtype=torch.long))
    policy.weights = {k: x.detach().to(stack.dtype).requires_grad_() for k, x in policy.weights.items()}
    gold, offline = gold_reward(stack), stack.method.on_policy < 1
    proxy = reward_model(stack) if one.scorer == "proxy" else None
    typical = typical_score(stack) if "labels" in stack.method.needs else None
    ordinal = one.labels == "ordinal"
    data = labelled(preferences(stack, gold), gold, typical) if offline else None
    data = ranked(data) if data is not None and ordinal else data
    posed, theirs = evaluation_set(stack)
    judges: dict[str, Score] = {"eval/gold": gold} if proxy else {"eval/gold": gold, "eval/reward": gold}
    costly: dict[str, Score] = {"eval/reward": proxy} if proxy else {}
    limits = {"answers": one.answers, "tokens": one.tokens}

    def evaluate(policy: Any, reference: Any, rng: Stream) -> dict[str, Tensor]:
        return responses_of(policy, reference, posed, judges, costly, theirs, rng=rng, **limits)

    def glance(policy: Any, reference: Any, rng: Stream) -> dict[str, Tensor]:
        return responses_of(policy, reference, posed[:, :EARLY], judges, costly, theirs, rng=rng, **limits)

    problem = Rewarded(prompts(_words(), base.prompts), gold, proxy, data, typical, ordinal)
    size = one.data * stack.method.responses if offline else 0
    return Built(stack.method, policy, policy.reference(), problem, evaluate, size, glance)


def gold_reward(stack: Stack) -> Score:
    """The gold reward of each run."""
    one = stack.world
    if one.gold != LENGTH:
        return rule_score(one.gold)
    lengths = reference(one.network).lengths
    return toward(torch.tensor([target(w.peak, lengths) for w in stack.worlds]), stack.each("width"))


def by_length(one: Lengths) -> Float[Tensor, " T"] | None:
    """The gold reward of responses of 1, 2, … tokens; None if gold depends on their words."""
    if one.gold != LENGTH:
        return None
    peak = target(one.peak, reference(one.network).lengths)
    return off_target(torch.arange(1, one.tokens + 1), peak, one.width).double()


def optimum(one: Lengths, beta: float) -> Estimate | None:
    """The highest E[gold] − β KL(π‖π_ref) of any policy; None where gold has no form by length."""
    reward = by_length(one)
    if reward is None:
        return None
    return reference(one.network).law.estimate(lambda shares: law.optimum(shares, reward, beta))


def start(one: Lengths) -> Estimate:
    """E[gold] of the reference: from its law of lengths, or of FIXED responses to every prompt."""
    base, reward = reference(one.network), by_length(one)
    if reward is not None:
        return base.law.estimate(lambda shares: law.mean(shares, reward))
    prompts = _known(base)[None]
    name = f"responses-{digest([VERSION, base.name, 'all', FIXED])}"
    found = cached(name, lambda: _drawn(base, prompts, FIXED, Stream("responses to all prompts", [0], stacked=True)))
    scores = rule_score(one.gold)(_batch([found])).double()[0]
    return Estimate(float(scores.mean()), float(scores.var(1).mean() / scores.numel()) ** 0.5)


def rule_score(name: str) -> Score:
    """A rule of the table or a user's function, applied to texts of prompts and responses.

    Raises:
        UserError: unknown reward, or one that requires an option.
    """
    where = scorers.Where("gold", "gold", known=(LENGTH, "module:function"))
    return scorers.build(name, {}, decode=decode, decode_prompts=decode_prompts, where=where)


def typical_score(stack: Stack) -> Typical:
    """The mean of a scorer over 256 responses of the reference."""
    batch = reference_responses(stack, 256, 1)

    @cache
    def mean(scorer: Score) -> Float[Tensor, " S"]:
        return scorer(batch).mean((1, 2))

    return mean


def evaluation_set(stack: Stack) -> tuple[Int[Tensor, "S P"], Batch]:
    """Prompts, none twice before all occur once, and a response of the reference to each of the first EARLY."""
    base, rng = reference(stack.world.network), Stream("evaluation set", stack.seeds, stacked=True)
    epochs = range(-(-stack.evaluation // base.prompts))
    order = torch.cat([rng.epoch(base.prompts, e) for e in epochs], 1)[:, : stack.evaluation]
    posed, parts = _words() + order, []
    for seed, own in zip(stack.seeds, posed[:, :EARLY], strict=True):

        def make(seed: int = seed, own: Tensor = own) -> dict[str, Tensor]:
            return _drawn(base, own[None], 1, Stream("the reference, evaluation set", [seed], stacked=True))

        parts.append(cached(f"responses-{digest([VERSION, base.name, seed, 'evaluation set', own.numel()])}", make))
    return posed, _batch(parts)


def reference_responses(stack: Stack, prompts: int, group: int) -> Batch:
    """Groups of reference responses, drawn per seed; cached, because the cells of a sweep share seeds."""
    base, parts = reference(stack.world.network), []
    for seed in stack.seeds:

        def make(seed: int = seed) -> dict[str, Tensor]:
            rng = Stream(f"the reference, {prompts} × {group}", [seed], stacked=True)
            return _drawn(base, prompt_tokens(_words(), base.prompts, prompts, rng), group, rng)

        parts.append(cached(f"responses-{digest([VERSION, base.name, seed, prompts, group])}", make))
    return _batch(parts)


def _drawn(base: Reference, prompts: Int[Tensor, "1 P"], group: int, rng: Stream) -> dict[str, Tensor]:
    with torch.no_grad():
        drawn = base.policy.draw(prompts, group, rng)
    return {"prompts": drawn.prompts, "responses": drawn.responses.to(torch.int16), "mask": drawn.mask}


def _batch(parts: Sequence[Mapping[str, Tensor]]) -> Batch:
    """Stored responses, one part per run, as one batch."""
    longest = max(part["responses"].shape[-1] for part in parts)
    whole = {
        k: torch.cat([pad(part[k], (0, longest - part[k].shape[-1])) for part in parts]) for k in ("responses", "mask")
    }
    return Batch(torch.cat([part["prompts"] for part in parts]), whole["responses"].long(), whole["mask"])


def preferences(stack: Stack, gold: Score, *, even: bool = False) -> Batch:
    """Groups of reference responses with scores; all but a share `coverage` of the responses are shortened.

    Args:
        even: replace a share `seen` of the groups by texts of every length, as a reward model sees them.
    """
    one, base = stack.world, reference(stack.world.network)
    rng = Stream("data", stack.seeds, stacked=True)
    means = torch.tensor([truncation(w.coverage, base.lengths) for w in stack.worlds])
    whole = reference_responses(stack, one.data, stack.method.responses)
    data = truncated(whole, means, rng)
    if even:
        data = evened(data, whole, stack.each("seen"), one.tokens, Stream("seen", stack.seeds, stacked=True))
    scores = gold(data)
    if one.labels == "noisy":
        scores = noisy(scores, stack.each("temperature"), rng)
    return replace(data, scores=scores)


def data_law(stack: Stack) -> Float[Tensor, " T"]:
    """Share of preference data with 1, 2, … tokens, over all runs."""
    lengths = preferences(stack, gold_reward(stack)).lengths.flatten()
    return torch.bincount(lengths, minlength=stack.world.tokens + 1)[1:].double() / len(lengths)


def reward_model(stack: Stack) -> stacked.StackedReward:
    """A reward model per run, fitted to its preferences and cached separately, independent of the stack."""
    base, states = reference(stack.world.network), []
    for i in range(len(stack.seeds)):
        alone = stack.alone(i)
        made_of = {name: getattr(alone.world, name) for name in OF_DATA}
        made_of |= {"responses": stack.method.responses, "seed": alone.seeds[0]}
        own = [user.digest(alone.world.gold)] if ":" in alone.world.gold else []
        name = f"reward-{digest([VERSION, base.name, made_of, *own])}"
        states.append(cached(name, lambda alone=alone: _fitted(alone).state()))  # type: ignore[misc]
    return stacked.restored(base.policy, {k: torch.cat([state[k] for state in states]) for k in states[0]})


def _fitted(alone: Stack) -> stacked.StackedReward:
    """Fitted in a stack of one run, so that other runs cannot affect it."""
    data = preferences(alone, gold_reward(alone), even=True)
    policy = reference(alone.world.network).policy.take(torch.zeros(1, dtype=torch.long))
    return stacked.fit(policy, data, alone.seeds)


@cache
def _words() -> int:
    return int(vocabulary().get_vocab_size())


def _known(base: Reference) -> Int[Tensor, " P"]:
    """Every prompt."""
    return _words() + torch.arange(base.prompts)


def _prompts(table: Float[Tensor, "S V D"]) -> int:
    return table.shape[1] - _words()
