"""What is measured before training: the numbers by which the rule advises, each with its standard error.

The same function for bandits and language models: it reads samples of the reference, 64 to each prompt, and responses
of the data to the same prompts (`analysis.offer`). Units are those of the reference's own samples (standard deviations
within a prompt, percentiles), so that problems with different rewards can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from prefloop.analysis import coverage, geometry
from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.offer import Given, Samples
from prefloop.analysis.statistics import Mean, mean_se

Array: TypeAlias = NDArray[np.float64]
Value: TypeAlias = Mean | CannotTell

SAMPLES = 64  # to each prompt: what the rule is fitted to
SIZES = (4, 16, SAMPLES)  # of the best-of-n curve
TOP = 0.25  # share of the samples to a prompt, the best ones, on which two reward models are compared
NO_REWARD = CannotTell("no reward scores fresh responses")
NO_PAIRS = CannotTell("the data have no pairs of a better and a worse response")

UNFITTED = CannotTell("it needs reward models from two halves of the data")

FEATURES: dict[str, str] = {
    "reach": f"gain of the best of {SAMPLES} samples over their mean, in standard deviations within a prompt",
    "tail": f"gain from the best of {SIZES[1]} to {SIZES[2]}, per gain from the best of {SIZES[0]} to {SIZES[1]}",
    "pull": "log of the reward's standard deviation within a prompt over β: how far the optimum pulls",
    "beyond": "log of the smallest β whose optimum the samples can still show over β: above 0, it lies beyond them",
    "winner_reward": "share of the reference's samples that score below a preferred response of the data",
    "winner_short": f"how far preferred responses score below the best of {SAMPLES}, in standard deviations",
    "winner_logp": "share of the reference's samples that are less likely than a preferred response of the data",
    "winner_unlikely": "share of the preferred responses outside the reference's likely set",
    "votes": "share of the comparisons that a sample of the reference wins against a response of the data",
    "likelier": "share of the pairs whose preferred response is the likelier one under the reference",
    "alike": "share of tokens that the two responses of a pair have in common",
    "agrees": "share of the pairs that the reward orders as the labels do; of a learned reward, on held-out pairs",
    "top_agrees": f"share of pairs of the best {TOP:.0%} samples that reward models from two halves order alike",
    "learned": "1 if what scores fresh responses is learned from the data, 0 if it is given",
    "cardinal": "1 if the data have scores, 0 if only the order of the responses to a prompt",
    "group": "log2 of the number of responses to a prompt",
    "groups": "log10 of the number of prompts with responses in the data",
    "steps": "log2 of the budget of gradient steps",
    "passes": "log2 of the passes over the data in that budget",
    "fresh": "log2 of the share of the steps that may have fresh responses",
}
GEOMETRY = ("reach", "tail", "pull", "beyond")  # C1
COVERAGE = ("winner_reward", "winner_short", "winner_logp", "winner_unlikely", "votes", "likelier", "alike")  # C2


@dataclass(frozen=True)
class Facts:
    """What is known without sampling.

    Args:
        beta: of J_β.
        steps: budget of gradient steps.
        samples: budget of fresh responses.
        prompts: of a gradient step.
        groups: prompts with responses in the data.
        group: responses to each.
        cardinal: whether the data have scores.
        learned: whether the reward is learned from the data.
        agrees: accuracy of the reward on pairs, where it is known from elsewhere: of a learned one on held-out pairs.
        top_agrees: of a learned reward, see FEATURES.
    """

    beta: float
    steps: int
    samples: int
    prompts: int
    groups: int
    group: int
    cardinal: bool
    learned: bool
    agrees: Value = UNFITTED
    top_agrees: Value = UNFITTED


def features(given: Given | None, samples: Samples, facts: Facts) -> dict[str, Value]:
    """Every feature; what cannot be told has its reason."""
    found = dict[str, Value](dict.fromkeys(FEATURES, CannotTell("the data have no responses")))
    found |= _geometry(samples.reward, facts.beta)
    if given is not None and (given.side > 0).any():
        found |= _winners(given, samples) | _pairs(given)
    if isinstance(facts.agrees, Mean):
        found["agrees"] = facts.agrees
    if facts.learned:
        found["top_agrees"] = facts.top_agrees
    else:
        found["top_agrees"] = _known(1.0) if samples.reward is not None else NO_REWARD
    return found | _known_facts(facts)


# ------------------------------------------------------------------------------------------------------- the reward


def _geometry(reward: Array | None, beta: float) -> dict[str, Value]:
    if reward is None:
        return dict.fromkeys(GEOMETRY, NO_REWARD)
    if reward.shape[1] != SAMPLES:
        what = f"it is the number for {SAMPLES} samples to a prompt, and there are {reward.shape[1]}"
        return dict.fromkeys(GEOMETRY, CannotTell(what))
    variance = reward.var(1, ddof=1)
    if not variance.mean() > 0:
        return dict.fromkeys(GEOMETRY, CannotTell("all samples to a prompt score the same"))
    few, some, many = (geometry.best_of_each(reward, size) for size in SIZES)
    least = geometry.smallest_beta(reward)
    spread = mean_se(variance)
    return {
        "reach": in_deviations(many - reward.mean(1), variance),
        "tail": ratio(many - some, some - few),
        "pull": Mean(math.log(math.sqrt(spread.value) / beta), spread.se / (2 * spread.value), spread.units),
        "beyond": Mean(math.log(least / beta), math.nan, len(reward))
        if 0 < least < math.inf
        else CannotTell("no β is large enough for these samples to show its optimum"),
    }


def ratio(above: Array, below: Array) -> Value:
    """Ratio of two means over prompts, with the standard error of the delta method."""
    if not below.mean() > 0:
        return CannotTell("nothing is gained from more samples")
    value = float(above.mean() / below.mean())
    rest = mean_se(above - value * below)
    return Mean(value, rest.se / float(below.mean()), rest.units)


def in_deviations(gap: Array, variance: Array, prompt: NDArray[np.intp] | None = None) -> Mean:
    """Mean gap in units of the root of the mean variance within prompts, with the error of both (delta method).

    Args:
        gap: [N].
        variance: [P].
        prompt: [N], the prompt of each gap; by default one of each.
    """
    spread = math.sqrt(float(variance.mean()))
    value = float(gap.mean()) / spread
    own = np.arange(len(gap)) if prompt is None else prompt
    slope = value / (2 * float(variance.mean()))
    return Mean(value, mean_se(gap / spread - slope * variance[own], clusters=own).se, len(np.unique(own)))


# ---------------------------------------------------------------------------------------------------------- the data


def _winners(given: Given, samples: Samples) -> dict[str, Value]:
    rows = np.flatnonzero(given.side > 0)
    prompt, logp = given.prompt[rows], given.logp[rows]
    found: dict[str, Value] = {
        "winner_logp": mean_se(coverage.percentiles(logp, prompt, samples.logp), clusters=prompt),
        "winner_unlikely": coverage.unlikely(logp, prompt, samples.logp),
        "winner_reward": NO_REWARD,
        "winner_short": NO_REWARD,
        "votes": NO_REWARD,
    }
    if given.reward is None or samples.reward is None:
        return found
    reward, variance = given.reward[rows], samples.reward.var(1, ddof=1)
    found["votes"] = coverage.stage_boundary(given.reward, given.prompt, samples.reward).votes
    found["winner_reward"] = mean_se(coverage.percentiles(reward, prompt, samples.reward), clusters=prompt)
    size = min(SAMPLES, samples.reward.shape[1])
    if size == SAMPLES and variance.mean() > 0:
        best = geometry.best_of_each(samples.reward, size)
        found["winner_short"] = in_deviations(best[prompt] - reward, variance, prompt)
    else:
        found["winner_short"] = CannotTell(f"it needs {SAMPLES} samples to a prompt that do not all score the same")
    return found


def _pairs(given: Given) -> dict[str, Value]:
    if not len(given.pairs):
        return dict.fromkeys(("likelier", "alike", "agrees"), NO_PAIRS)
    chosen, rejected = given.pairs.T
    prompt = given.prompt[chosen]
    texts = [(given.tokens[a], given.tokens[b]) for a, b in given.pairs.tolist()]

    def higher(values: Array) -> Mean:
        gap = values[chosen] - values[rejected]
        return mean_se((gap > 0) + 0.5 * (gap == 0), clusters=prompt)

    return {
        "likelier": higher(given.logp),
        "alike": mean_se([coverage.shared_tokens(a, b) for a, b in texts], clusters=prompt),
        "agrees": NO_REWARD if given.reward is None else higher(given.reward),
    }


# ------------------------------------------------------------------------------------------------- known beforehand


def _known(value: float) -> Mean:
    """A number without an error."""
    return Mean(value, 0.0, 1)


def _known_facts(facts: Facts) -> dict[str, Value]:
    whole: Mapping[str, float] = {
        "learned": float(facts.learned),
        "steps": math.log2(facts.steps),
        "fresh": math.log2(max(facts.samples, 1) / (facts.steps * facts.prompts * max(facts.group, 1))),
    }
    if facts.groups:
        whole = {
            **whole,
            "cardinal": float(facts.cardinal),
            "group": math.log2(facts.group),
            "groups": math.log10(facts.groups),
            "passes": math.log2(facts.steps * facts.prompts / facts.groups),
        }
    return {name: _known(value) for name, value in whole.items()}


def top_agreement(one: Array, other: Array) -> Mean:
    """Share of pairs among the best quarter of the samples to a prompt that two rewards order alike; ties count half.

    Best by the sum of both, each in its own standard deviations. Mean and standard error over prompts.

    Args:
        one, other: [P, n].
    """
    scaled = [x / max(float(x.std()), 1e-12) for x in (one, other)]
    count = max(2, round(TOP * one.shape[1]))
    top = np.argsort(-(scaled[0] + scaled[1]), axis=1)[:, :count]
    a, b = (np.take_along_axis(x, top, 1) for x in scaled)
    first, second = np.triu_indices(count, 1)
    same = np.sign(a[:, first] - a[:, second]) * np.sign(b[:, first] - b[:, second])
    return mean_se(((1 + same) / 2).mean(1))
