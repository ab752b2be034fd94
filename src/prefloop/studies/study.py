"""The record of a study: a question, claims with verdict rules, and a function that measures them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from prefloop.analysis.statistics import Interval, bootstrap
from prefloop.report.chart import Chart, Table

Verdict = Literal["supported", "contradicted", "inconclusive"]
SIZES = ("smoke", "small", "paper")
RULE = (
    "supported: the 95 % interval of the effect lies above the threshold; contradicted: it lies below the threshold;"
    " inconclusive: it contains the threshold"
)


@dataclass(frozen=True)
class Claim:
    """One prediction with the rule that judges it, both written before the run.

    Args:
        name: short and unique in its study, such as `fresh-beats-stale-far`.
        prediction: what the paper says, in one sentence.
        effect: the measured quantity; positive numbers support the prediction.
        threshold: the smallest effect that counts; see RULE.
        unit: unit of effect and threshold.
        of: computes the effect from the study's evidence, one number per independent unit; if None, the evidence is a
            mapping with the effect under the claim's name.
    """

    name: str
    prediction: str
    effect: str
    threshold: float
    unit: str
    of: Callable[[Any], ArrayLike] | None = None


@dataclass(frozen=True)
class Finding:
    """A claim and its measured effect."""

    claim: Claim
    effect: Interval

    @property
    def verdict(self) -> Verdict:
        """The verdict by RULE."""
        if self.effect.low > self.claim.threshold:
            return "supported"
        return "contradicted" if self.effect.high < self.claim.threshold else "inconclusive"


def judge(claim: Claim, effects: ArrayLike, *, seed: int = 0) -> Finding:
    """The mean effect over independent units with its bootstrap interval.

    Args:
        effects: [N], one per unit: paired by seed or prompt, or from random instances.

    Raises:
        ValueError: no effects, or one that is not finite.
    """
    values = np.asarray(effects, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"{claim.name}: effects must be a list of finite numbers")
    return Finding(claim, bootstrap(values, seed=seed))


def judged(claims: Sequence[Claim], evidence: Any) -> list[Finding]:
    """Judge every claim on the evidence of a study, such as its cells by key."""
    return [judge(c, evidence[c.name] if c.of is None else c.of(evidence)) for c in claims]


@dataclass(frozen=True)
class Outcome:
    """The results of a study: findings in the order of its claims, figures (panels by file name), tables, remarks.

    Args:
        left_out: names of claims that this size cannot judge; remarks explain why.
    """

    findings: Sequence[Finding]
    figures: Mapping[str, Sequence[Chart]] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Effort:
    """The time and runs of a study.

    Args:
        seconds: time of this call.
        runs: number of lab runs used, including those that chose learning rates.
        computed: number of those that were not in the store before.
    """

    seconds: float
    runs: int = 0
    computed: int = 0


@dataclass(frozen=True)
class Study:
    """A question and how to answer it.

    Args:
        name: name in files and on the command line, such as `kl-modes`.
        question: in one sentence.
        source: section and figure of the paper.
        method: the method in a few sentences, for the page.
        claims: predictions judged by `run`, in this order.
        run: measures the claims, given a `bench.Bench`; deterministic for each size.
    """

    name: str
    question: str
    source: str
    method: str
    claims: Sequence[Claim]
    run: Callable[[Any], Outcome]
