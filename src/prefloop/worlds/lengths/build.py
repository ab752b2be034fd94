"""The problem of lengths as parts of a loop: reference, preference data, gold reward and learned proxy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from prefloop.core.batch import Batch
from prefloop.core.files import digest
from prefloop.core.method import Method
from prefloop.core.streams import Stream
from prefloop.lab.setting import VERSION, Setting, per_run
from prefloop.policies.gpt import GPT
from prefloop.rewards import words
from prefloop.worlds.arms import problem as bandit
from prefloop.worlds.arms.defects import Parts
from prefloop.worlds.lengths import learned as stacked
from prefloop.worlds.lengths.answers import END, fingerprint, vocabulary
from prefloop.worlds.lengths.cache import kept
from prefloop.worlds.lengths.problem import (
    SIZES,
    Lengths,
    Score,
    fit,
    in_words,
    labelled,
    prompt_tokens,
    target,
    toward,
    truncated,
    truncation,
)
from prefloop.worlds.measures import responses_of

SAMPLED = 4096  # responses of the reference that its law of lengths is read off
JUDGES = {"keyword": lambda: words.keyword, "repetition": lambda: words.repetition, "sentiment": words.sentiment}
OF_DATA = ("network", "gold", "peak", "width", "coverage", "data", "responses", "labels", "temperature", "seed")


@dataclass(frozen=True)
class Reference:
    """What every run starts from.

    Args:
        policy: of one run.
        lengths: of its responses.
        perplexity: per token, on answers that it was not fitted to.
        cut: share of the answers that the limit cuts.
    """

    policy: GPT
    prompts: int
    lengths: Int[Tensor, " n"]
    perplexity: float
    cut: float
    name: str

    def __str__(self) -> str:
        return (
            f"reference: perplexity {self.perplexity:.1f} per token on held-out answers; {self.cut:.1%} of the answers"
            f" do not end within {self.policy.tokens} tokens; its own: {self.lengths.double().mean():.1f} in the mean"
        )


@cache
def reference(network: str) -> Reference:
    """The fitted GPT of that size, from the cache where it was fitted before."""
    size = SIZES[network]
    name = f"reference-{digest([VERSION, asdict(size), fingerprint()])}"

    def make() -> dict[str, Tensor]:
        found = fit(size)
        rng = Stream("lengths of the reference", [0], stacked=True)
        prompts = prompt_tokens(_words(), _prompts(found.policy.weights["token"]), SAMPLED // 4, rng)
        with torch.no_grad():
            lengths = found.policy.sample(prompts, 4, rng).lengths.flatten()
        facts = {"lengths": lengths, "perplexity": torch.tensor(found.perplexity), "cut": torch.tensor(found.cut)}
        return {**found.policy.state(), **{f"fact.{k}": x for k, x in facts.items()}}

    state = kept(name, make)
    facts = {k.removeprefix("fact."): state.pop(k) for k in list(state) if k.startswith("fact.")}
    policy = GPT(state, size.heads, END)
    numbers = {k: float(facts[k]) for k in ("perplexity", "cut")}
    return Reference(policy, _prompts(state["token"]), facts["lengths"], **numbers, name=name)


def limit(one: Setting) -> int:
    """The longest response."""
    return SIZES[one.network].limit


def parts(settings: Sequence[Setting], row: Method, dtype: torch.dtype) -> tuple[Parts, Any]:
    """What the loop runs with, and how its policy is evaluated."""
    one, seeds, base = settings[0], [s.seed for s in settings], reference(settings[0].network)
    policy = base.policy.take(torch.zeros(len(seeds), dtype=torch.long))
    policy.weights = {k: x.detach().to(dtype).requires_grad_() for k, x in policy.weights.items()}
    gold = gold_reward(settings)
    proxy = reward_model(settings) if one.scorer == "proxy" else None
    data = preferences(settings, gold) if row.on_policy < 1 else None
    typical = reference_responses(settings, 256, 1) if "labels" in row.needs else None
    data = None if data is None else labelled(data, typical, gold)
    theirs = reference_responses(settings, one.evaluation, 1)
    judges: dict[str, Score] = {"eval/reward": proxy or gold, "eval/gold": gold}

    def look(policy: Any, reference: Any, rng: Stream) -> dict[str, Tensor]:
        return responses_of(policy, reference, theirs.prompts, judges, theirs, tokens=limit(one), rng=rng)

    problem = Lengths(_words(), base.prompts, gold, proxy, data, typical)
    return Parts(row, policy, policy.reference(), problem), look


def gold_reward(settings: Sequence[Setting]) -> Score:
    """The true reward of each run."""
    one = settings[0]
    if one.gold != "length":
        return in_words(JUDGES[one.gold]())
    lengths = reference(one.network).lengths
    return toward(torch.tensor([target(s.peak, lengths) for s in settings]), per_run(settings, "width"))


def reference_responses(settings: Sequence[Setting], prompts: int, group: int) -> Batch:
    """Groups of the reference's responses, own ones of each seed; kept, because the cells of a sweep share seeds."""
    base, parts = reference(settings[0].network), []
    for s in settings:
        name = f"responses-{digest([VERSION, base.name, s.seed, prompts, group])}"
        parts.append(kept(name, lambda s=s: _drawn(base, s.seed, prompts, group)))  # type: ignore[misc]
    longest = max(part["responses"].shape[-1] for part in parts)
    whole = {
        k: torch.cat([pad(part[k], (0, longest - part[k].shape[-1])) for part in parts]) for k in ("responses", "mask")
    }
    return Batch(torch.cat([part["prompts"] for part in parts]), whole["responses"].long(), whole["mask"])


def _drawn(base: Reference, seed: int, prompts: int, group: int) -> dict[str, Tensor]:
    rng = Stream(f"the reference, {prompts} × {group}", [seed], stacked=True)
    with torch.no_grad():
        drawn = base.policy.sample(prompt_tokens(_words(), base.prompts, prompts, rng), group, rng)
    return {"prompts": drawn.prompts, "responses": drawn.responses.to(torch.int16), "mask": drawn.mask}


def preferences(settings: Sequence[Setting], gold: Score) -> Batch:
    """Groups of the reference's responses with their scores, of which the coverage dial shortens its share."""
    one, base = settings[0], reference(settings[0].network)
    rng = Stream("data", [s.seed for s in settings], stacked=True)
    means = torch.tensor([truncation(s.coverage, base.lengths) for s in settings])
    data = truncated(reference_responses(settings, one.data, one.responses), means, rng)
    scores = gold(data)
    if one.labels == "noisy":
        scores = bandit.noisy(scores, per_run(settings, "temperature"), rng)
    return replace(data, scores=scores)


def data_law(settings: Sequence[Setting]) -> Float[Tensor, " T"]:
    """Share of the preference data with 1, 2, … tokens, all runs together."""
    lengths = preferences(settings, gold_reward(settings)).lengths.flatten()
    return torch.bincount(lengths, minlength=limit(settings[0]) + 1)[1:].double() / len(lengths)


def reward_model(settings: Sequence[Setting]) -> stacked.StackedReward:
    """A reward model per run, fitted to its preferences; each is kept by itself, whatever stack it was fitted in."""
    base, states = reference(settings[0].network), []
    for i, s in enumerate(settings):
        told = [VERSION, base.name, {name: getattr(s, name) for name in OF_DATA}]
        states.append(kept(f"reward-{digest(told)}", lambda i=i: _fitted(settings[i : i + 1]).state()))  # type: ignore[misc]
    return stacked.restored(base.policy, {k: torch.cat([state[k] for state in states]) for k in states[0]})


def _fitted(alone: Sequence[Setting]) -> stacked.StackedReward:
    """In a stack of its own, so that no other run can change a bit of it."""
    data = preferences(alone, gold_reward(alone))
    return stacked.fit(reference(alone[0].network).policy.take(torch.zeros(1, dtype=torch.long)), data, [alone[0].seed])


@cache
def _words() -> int:
    return int(vocabulary().get_vocab_size())


def _prompts(table: Float[Tensor, "S V D"]) -> int:
    return table.shape[1] - _words()
