"""How the data lie for the reference (C2): responses of the data against the reference's own samples to their prompts.

N responses of the data, each with the number of its prompt; P prompts with n samples of π_ref each. Numbers of the
data's responses are [N], of the samples [P, n]. Standard errors are over prompts. Exact counterparts: `enumerated`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.statistics import Mean, mean_se

Array: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.intp]
Tokens: TypeAlias = Sequence[int]

NUCLEUS = 0.99  # a token is likely if it is in the reference's smallest set of next tokens with this mass
UNLIKELY = 0.01  # a response is unlikely below this quantile of the reference's own
FEWEST = 100  # standardised samples from which that quantile is believed
GRAM = 3  # tokens of an n-gram


# ---- where a response lies among the reference's own ----------------------------------------------------------------


def percentiles(values: Array, prompt: Places, samples: Array) -> Array:
    """Place of each response among the samples to its prompt, [N] in [0, 1]: share below, ties counted half.

    Unbiased for P(S < v) + ½ P(S = v) under the reference. Of log-probs: ½ on average if the data are the reference's
    own. Of rewards: the winner quantile.
    """
    own, v = samples[prompt], values[:, None]
    return np.asarray(((own < v) + 0.5 * (own == v)).mean(1))


def unlikely(values: Array, prompt: Places, samples: Array, level: float = UNLIKELY) -> Mean | CannotTell:
    """Share of the data's responses outside the reference's likely set: whose log-prob, standardised over the samples
    to its prompt, is below the 1 % quantile of the reference's own, over all prompts.

    Each sample is standardised by the n − 1 others, and a response of the data by the first n − 1, so that responses of
    the reference would be outside in 1 % of the cases. Standardisation lets prompts share one quantile, which n samples
    to a prompt cannot give. Standard error over prompts; the quantile counts as known.
    """
    n = samples.shape[1]
    if n < 3:
        return CannotTell(f"a response is standardised by the samples to its prompt from 3 on, and there are {n}")
    mean = (samples.sum(1, keepdims=True) - samples) / (n - 1)
    square = ((samples**2).sum(1, keepdims=True) - samples**2) / (n - 1) - mean**2
    spread = np.sqrt(np.maximum(square, 0.0) * (n - 1) / (n - 2))
    usable = spread.min(1) > 1e-9 * (1 + np.abs(mean).max(1))
    own = (samples - mean)[usable] / spread[usable]
    if own.size < FEWEST:
        return CannotTell(f"the 1 % quantile needs {FEWEST} samples of the reference, and {own.size} can be compared")
    there = usable[prompt]
    if not there.any():
        return CannotTell("no response is to a prompt whose samples differ")
    place = (values - mean[prompt, -1])[there] / spread[prompt, -1][there]
    edge = np.quantile(own, level, method="inverted_cdf")
    return mean_se(place < edge, clusters=prompt[there])


def outside(mass: Array, prompt: Places, level: float = NUCLEUS) -> Mean:
    """Share of the data's tokens outside the reference's nucleus; of the reference's own, at most 1 − level on average.

    Args:
        mass: [M], for each token the probability of all next tokens that are likelier: outside at `level` or more.
        prompt: [M].
    """
    return mean_se(mass >= level, clusters=prompt)


# ---- shifts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shift:
    """Data minus reference: in the numbers' own unit, and in standard deviations of the samples to a prompt."""

    difference: Mean
    standardised: Mean | CannotTell


def shift(values: Array, prompt: Places, samples: Array) -> Shift:
    """How far the data's responses lie from the mean of the samples to their prompts, such as in length.

    Unbiased; the error of a prompt's own mean is part of the standard error, which is over prompts. The standard
    deviation is the root of the mean variance within prompts.
    """
    gap = values - samples.mean(1)[prompt]
    within = float(np.sqrt(samples.var(1, ddof=1).mean())) if samples.shape[1] > 1 else 0.0
    whole = mean_se(gap, clusters=prompt)
    if within == 0:
        return Shift(whole, CannotTell("the samples to each prompt are all equal"))
    return Shift(whole, Mean(whole.value / within, whole.se / within, whole.units))


def novelty(
    texts: Sequence[Tokens], prompt: Places, samples: Sequence[Sequence[Tokens]], size: int = GRAM
) -> Mean | CannotTell:
    """Share of a response's n-grams that n − 1 samples of the reference to its prompt do not hold.

    Estimator: an n-gram that c of the n samples hold is new to n − 1 of them in a share [c = 0] + [c = 1]/n of the
    choices: unbiased for (1 − q)^(n − 1), q being the chance that a sample holds it. Over n − 1 samples, so that
    `own_novelty` is what a response of the reference would have. Responses without an n-gram are left out.
    """
    if (n := min(map(len, samples))) < 2:
        return CannotTell("one sample to a prompt cannot be compared with others")
    held = [_held(group, size) for group in samples]
    rows = [(p, grams(text, size), held[p]) for text, p in zip(texts, prompt.tolist(), strict=True)]
    found = [(p, np.mean([1.0 if h[g] == 0 else (h[g] == 1) / n for g in own])) for p, own, h in rows if own]
    return _share(found, size)


def own_novelty(samples: Sequence[Sequence[Tokens]], size: int = GRAM) -> Mean | CannotTell:
    """The same of the samples themselves, each among the n − 1 others."""
    if min(map(len, samples)) < 2:
        return CannotTell("one sample to a prompt cannot be compared with others")
    held = [_held(group, size) for group in samples]
    rows = [(p, grams(one, size)) for p, group in enumerate(samples) for one in group]
    return _share([(p, np.mean([held[p][g] == 1 for g in own])) for p, own in rows if own], size)


def _held(group: Sequence[Tokens], size: int) -> Counter[tuple[int, ...]]:
    """How many of the samples hold each n-gram."""
    return Counter(gram for one in group for gram in grams(one, size))


def _share(found: Sequence[tuple[int, np.floating]], size: int) -> Mean | CannotTell:
    if not found:
        return CannotTell(f"no response has {size} tokens")
    return mean_se([float(share) for _, share in found], clusters=[p for p, _ in found])


def grams(tokens: Tokens, size: int) -> set[tuple[int, ...]]:
    """The different n-grams of a response."""
    return {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}


# ---- chosen and rejected --------------------------------------------------------------------------------------------


def shared_tokens(a: Tokens, b: Tokens) -> float:
    """2 |a ∩ b|/(|a| + |b|) of the tokens with their counts (Dice); 1 for the same tokens in any order."""
    if not a and not b:
        return 1.0
    return 2 * (Counter(a) & Counter(b)).total() / (len(a) + len(b))


def edit_similarity(a: Tokens, b: Tokens) -> float:
    """1 − Levenshtein distance over the longer length: the baseline of Razin et al. 2024 (arXiv:2410.08847)."""
    if not a and not b:
        return 1.0
    row, other, steps = np.arange(len(b) + 1), np.asarray(b), np.arange(len(b) + 1)
    for i, token in enumerate(a, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (other != token))
        row = np.minimum.accumulate(np.concatenate([[i], best]) - steps) + steps
    return 1 - int(row[-1]) / max(len(a), len(b))


def hidden_similarity(chosen: Array, rejected: Array, centre: Array | None = None) -> Array:
    """Cosine of the mean hidden states of a pair's responses, [N], after a common centre is taken away: states of
    language models share a large mean, which makes all cosines near 1 (Razin et al. 2024, § 5).

    Args:
        chosen, rejected: [N, H].
        centre: [H]; the mean of all of them by default.
    """
    middle = np.concatenate([chosen, rejected]).mean(0) if centre is None else centre
    a, b = chosen - middle, rejected - middle
    return np.asarray((a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-300))


# ---- is on-policy sampling better now? ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boundary:
    """The stage boundary of Sun et al. 2025 (arXiv:2508.10530): which of two sources the preferences favour.

    Args:
        votes: share of the comparisons that a response of the policy wins against one of the data; ties count half.
        preference: mean chance of its winning under Bradley-Terry, σ(r_on − r_off).
        stage: `injection` below ½: data first; `fine-tuning` from ½ on: on-policy sampling.
        decided: whether ½ is outside the 95 % interval of the votes.
    """

    votes: Mean
    preference: Mean
    stage: Literal["injection", "fine-tuning"]
    decided: bool


def stage_boundary(off: Array, prompt: Places, on: Array) -> Boundary:
    """Compare the rewards of all candidates of the data with all of the policy, prompt by prompt.

    The paper compares the policy and the source of the data by their distance to the text distribution that belongs to
    the preferences, which it estimates by a preference model's votes between their candidates; the score's threshold is
    ½ (its Table 3: Llama-3 above, Phi-2 below, Zephyr 0.40 to 0.69). Here the preference model is Bradley-Terry on the
    reward. Second-hand accounts of its Algorithm 1 contradict each other on which side's votes are counted; that a
    policy whose responses win is past the boundary follows from its results. Mean and standard error over prompts.

    Args:
        off: rewards of the data's responses, [N].
        on: rewards of the policy's samples, [P, n].
    """
    gap = on[prompt] - off[:, None]
    votes = mean_se(((gap > 0) + 0.5 * (gap == 0)).mean(1), clusters=prompt)
    preference = mean_se((0.5 * (1 + np.tanh(gap / 2))).mean(1), clusters=prompt)
    decided = abs(votes.value - 0.5) > 1.96 * votes.se
    return Boundary(votes, preference, "fine-tuning" if votes.value >= 0.5 else "injection", decided)
