"""What data offer a model before training: all measures of coverage and geometry, by name, from the same numbers for
categorical policies and language models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prefloop.analysis import coverage, geometry
from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.coverage import Array, Places, Tokens
from prefloop.analysis.numbers import share
from prefloop.analysis.statistics import Mean, mean_se

Value: TypeAlias = Mean | CannotTell
CUT = 0.05  # share of cut samples up to which their rewards are compared with those of whole responses
SIDES = {"chosen": 1, "rejected": -1}
QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}
NO_REWARD = CannotTell("no reward scores fresh responses: give --reward NAME, or the folder of a reward model")
NO_LAW = CannotTell("max π/μ needs the probability with which the source of the data wrote each response")


@dataclass(frozen=True)
class Samples:
    """Samples of the reference: n to each of P prompts.

    Args:
        logp, length: log π_ref of each and its tokens, [P, n].
        tokens: [P][n], token ids.
        reward: [P, n], if a reward is given.
        cut: share of the samples that end at the limit of their length; the reward scores them unfinished.
    """

    logp: Array
    length: Array
    tokens: Sequence[Sequence[Tokens]]
    reward: Array | None = None
    cut: float = 0.0

    @property
    def sizes(self) -> list[int]:
        """1, 2, 4, … up to the number of samples to a prompt, and that number."""
        n = self.logp.shape[1]
        return sorted({*(2**k for k in range(n.bit_length())), n})


@dataclass(frozen=True)
class Given:
    """N responses of the data.

    Args:
        prompt: [N], which of the P prompts each answers.
        side: [N], 1 chosen (labelled good, or a demonstration), −1 rejected, 0 neither.
        logp, length: [N], as of samples.
        tokens: [N], token ids.
        mass: for each token of each response, the reference's probability of all likelier ones.
        pairs: [K, 2], rows of the chosen and the rejected response of a pair.
        state: [N, H], mean hidden state of the reference over each response, if known.
        reward: [N], if a reward is given.
    """

    prompt: Places
    side: NDArray[np.intp]
    logp: Array
    length: Array
    tokens: Sequence[Tokens]
    mass: Sequence[Array]
    pairs: NDArray[np.intp] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.intp))
    state: Array | None = None
    reward: Array | None = None


def measured(given: Given | None, samples: Samples, *, beta: float, target: float | None = None) -> dict[str, Value]:
    """Every measure by name; what cannot be told has its reason.

    Args:
        given: None if the data are prompts only.
        beta: strength of the KL penalty for which the optimum is estimated.
        target: a reward to reach; by default the top decile of the reference's own.
    """
    found: dict[str, Value] = {}
    if given is None or not len(given.prompt):
        found["coverage"] = CannotTell("the data have no responses")
    else:
        for name, sign in SIDES.items():
            found |= {f"coverage/{name}/{key}": x for key, x in _side(given, samples, given.side == sign)}
        found |= {f"coverage/pairs/{key}": x for key, x in _pairs(given)}
        found |= {"coverage/global": NO_LAW}
        found |= {"coverage/reference/novelty": coverage.own_novelty(samples.tokens)}
    if samples.reward is None:
        return found | {"geometry": NO_REWARD}
    found |= {f"geometry/{key}": x for key, x in _geometry(samples.reward, samples.sizes, beta, target)}
    if given is not None and given.reward is not None and len(given.prompt):
        unlike = unfinished(samples)
        boundary = coverage.stage_boundary(given.reward, given.prompt, samples.reward)
        found["boundary/votes"] = unlike or boundary.votes
        found["boundary/preference"] = unlike or boundary.preference
    return found


def unfinished(samples: Samples) -> CannotTell | None:
    """Why rewards of the samples cannot be compared with those of the data's responses, which are whole."""
    if samples.cut <= CUT:
        return None
    return CannotTell(f"{share(samples.cut)} of the samples are cut and scored unfinished: raise --max-new-tokens")


def record(measures: Mapping[str, Value]) -> dict[str, Any]:
    """For JSON: value, standard error and number of prompts, or why there is none."""
    return {
        key: {"cannot_tell": x.reason}
        if isinstance(x, CannotTell)
        else {"value": x.value, "se": x.se, "units": x.units}
        for key, x in measures.items()
    }


# ---- the data -------------------------------------------------------------------------------------------------------


def _side(given: Given, samples: Samples, of: NDArray[np.bool_]) -> Iterator[tuple[str, Value]]:
    """Measures of the chosen or of the rejected responses; none if there are none."""
    rows = np.flatnonzero(of)
    if not len(rows):
        return
    prompt, logp, length = given.prompt[rows], given.logp[rows], given.length[rows]
    yield "percentile", mean_se(coverage.percentiles(logp, prompt, samples.logp), clusters=prompt)
    each = coverage.percentiles(logp / length, prompt, samples.logp / np.maximum(samples.length, 1))
    yield "percentile_per_token", mean_se(each, clusters=prompt)
    yield "unlikely", coverage.unlikely(logp, prompt, samples.logp)
    mass = [given.mass[i] for i in rows.tolist()]
    yield "tokens_outside", coverage.outside(np.concatenate(mass), np.repeat(prompt, list(map(len, mass))))
    yield "length", mean_se(length, clusters=prompt)
    longer = coverage.shift(length, prompt, samples.length)
    yield "length_shift", longer.difference
    yield "length_shift_sd", longer.standardised
    yield "novelty", coverage.novelty([given.tokens[i] for i in rows.tolist()], prompt, samples.tokens)
    if given.reward is not None and samples.reward is not None:
        yield "reward", mean_se(given.reward[rows], clusters=prompt)
        compared = _rewarded(given.reward[rows], prompt, samples.reward)
        unlike = unfinished(samples)
        yield from ((name, unlike or value) for name, value in compared)


def _rewarded(reward: Array, prompt: Places, samples: Array) -> Iterator[tuple[str, Value]]:
    """Where the rewards of responses lie among those of the samples, and which best-of-m scores as much."""
    yield "reward_percentile", mean_se(coverage.percentiles(reward, prompt, samples), clusters=prompt)
    n = samples.shape[1]
    gaps = {m: mean_se(reward - geometry.best_of_each(samples, m)[prompt], clusters=prompt) for m in range(1, n + 1)}
    yield "reward_minus_best", gaps[n]
    first = next((m for m, gap in gaps.items() if gap.value <= 0), None)
    beyond = CannotTell(f"they score above the best of {n} samples")
    yield "as_best_of", beyond if first is None else Mean(float(first), math.nan, gaps[n].units)


def _pairs(given: Given) -> Iterator[tuple[str, Value]]:
    """How alike chosen and rejected are, and what the reference and the reward say of their order."""
    if not len(given.pairs):
        yield "shared_tokens", CannotTell("the data have no pairs of a chosen and a rejected response")
        return
    chosen, rejected = given.pairs.T
    prompt = given.prompt[chosen]
    texts = [(given.tokens[a], given.tokens[b]) for a, b in given.pairs.tolist()]
    yield "shared_tokens", mean_se([coverage.shared_tokens(a, b) for a, b in texts], clusters=prompt)
    yield "edit_similarity", mean_se([coverage.edit_similarity(a, b) for a, b in texts], clusters=prompt)
    if given.state is not None:
        centre = given.state.mean(0)
        alike = coverage.hidden_similarity(given.state[chosen], given.state[rejected], centre)
        yield "hidden_similarity", mean_se(alike, clusters=prompt)
    gap = given.logp[chosen] - given.logp[rejected]
    yield "logp_gap", mean_se(gap, clusters=prompt)
    yield "likelier", mean_se((gap > 0) + 0.5 * (gap == 0), clusters=prompt)
    if given.reward is not None:
        more = given.reward[chosen] - given.reward[rejected]
        yield "reward_agrees", mean_se((more > 0) + 0.5 * (more == 0), clusters=prompt)


# ---- the reward -----------------------------------------------------------------------------------------------------


def _geometry(reward: Array, sizes: Sequence[int], beta: float, target: float | None) -> Iterator[tuple[str, Value]]:
    n = reward.shape[1]
    yield "mean", mean_se(reward.mean(1))
    yield from zip(QUANTILES, geometry.quantiles(reward, list(QUANTILES.values())), strict=True)
    alike = geometry.standardised(reward)
    within = float(np.sqrt(reward.var(1, ddof=1).mean()))
    yield "within_sd", Mean(within, math.nan, len(reward))
    yield "equal_prompts", mean_se(reward.std(1) == 0)
    if len(alike) > 1:
        yield from zip(
            (f"standardised_{q}" for q in QUANTILES), geometry.quantiles(alike, list(QUANTILES.values())), strict=True
        )
    yield from ((f"best_of/{m}", x) for m, x in zip(sizes, geometry.best_of(reward, sizes), strict=True))
    further = geometry.extrapolate(reward, geometry.FACTOR * n)
    yield f"best_of/{geometry.FACTOR * n}", further.value if isinstance(further, geometry.Beyond) else further
    gain = mean_se(geometry.best_of_each(reward, n) - reward.mean(1))
    yield "gain", gain
    if within > 0:
        yield "gain_sd", Mean(gain.value / within, gain.se / within, gain.units)
    goal = geometry.quantiles(reward, [0.9])[0].value if target is None else target
    yield "target", Mean(goal, math.nan, len(reward))
    yield from ((f"reach/{m}", x) for m, x in zip(sizes, geometry.reach(reward, goal, sizes), strict=True))
    yield "smallest_beta", Mean(geometry.smallest_beta(reward), math.nan, len(reward))
    yield from _optimum(reward, beta)


def _optimum(reward: Array, beta: float) -> Iterator[tuple[str, Value]]:
    """π* at the asked β, and at the smallest one at which it can be told if that is larger."""
    least = geometry.smallest_beta(reward)
    for name, b in (("optimum", beta), ("optimum_told", least)):
        if name == "optimum_told" and not beta < least < math.inf:
            return
        found = geometry.tilt(reward, b)
        if isinstance(found, CannotTell):
            yield f"{name}/kl", found
            continue
        yield f"{name}/beta", Mean(b, math.nan, len(reward))
        yield f"{name}/log_z", found.log_z
        yield f"{name}/kl", found.kl
        yield f"{name}/divergence", found.divergence
        yield f"{name}/ess", Mean(found.ess, math.nan, len(reward))
