"""The record of a study: a question, claims with verdict rules, and a function that measures them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prefloop.analysis.decisions import Decision, Rule, Sense, decide
from prefloop.report.chart import Chart, Table

SIZES = ("smoke", "small", "paper")


@dataclass(frozen=True)
class Claim:
    """One prediction with the rule that judges it, both written before the run.

    Args:
        name: short and unique in its study, such as `on-policy-helps-far`.
        prediction: what the paper says, in one sentence.
        effect: the measured quantity, in words; positive numbers support the prediction.
        threshold: the smallest effect that counts, in units of the effect.
        unit: unit of effect and threshold.
        of: computes the effect from the study's evidence, such as its cells by key: one number per independent unit.
            A `conduct.Contrast` names the cells that it needs, so that seeds are added only where they decide. If None,
            the evidence is a mapping with the effect under the claim's name.
        sense: "more" if the paper predicts a positive effect, "equal" if it predicts none.
        counts: False for manipulation checks and mathematics: shown on the study's page, but no finding.
    """

    name: str
    prediction: str
    effect: str
    threshold: float
    unit: str
    of: Callable[[Any], ArrayLike] | None = None
    sense: Sense = "more"
    counts: bool = True

    def rule(self, first: int, most: int) -> Rule:
        """How the claim is decided with that many units at first, and at most."""
        return Rule(self.threshold, first=first, most=most, sense=self.sense)


@dataclass(frozen=True)
class Finding:
    """A claim and what was decided."""

    claim: Claim
    decision: Decision


def judged(claims: Sequence[Claim], evidence: Any) -> list[Finding]:
    """Every claim on evidence with a fixed number of units: `of` gives one effect for each.

    Raises:
        ValueError: effects that are not a list of two or more finite numbers.
    """
    effects = [np.asarray(evidence[c.name] if c.of is None else c.of(evidence), dtype=np.float64) for c in claims]
    return [Finding(c, decide(x, c.rule(len(x), len(x)))) for c, x in zip(claims, effects, strict=True)]


@dataclass(frozen=True)
class Outcome:
    """The results of a study: findings in the order of its claims, figures (panels by file name), tables, caveats.

    Args:
        left_out: names of claims that this size cannot judge; caveats explain why.
    """

    findings: Sequence[Finding]
    figures: Mapping[str, Sequence[Chart]] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    caveats: Sequence[str] = ()
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Effort:
    """The time and runs of a study.

    Args:
        seconds: time of this call.
        runs: number of lab runs used, including those that chose learning rates.
        computed: number of those that were not in the store before.
        tuning: number of those that chose learning rates and knobs.
    """

    seconds: float
    runs: int = 0
    computed: int = 0
    tuning: int = 0


@dataclass(frozen=True)
class Study:
    """A question and how to answer it.

    Args:
        name: name in files and on the command line, such as `kl-modes`.
        question: in one sentence.
        source: section and figure of the paper.
        finding: what the paper says, in one sentence.
        design: what is compared, at what budget, with what information: aspect and text.
        claims: predictions judged by `run`, in this order.
        run: measures the claims, given a `bench.Bench`; deterministic for each size.
    """

    name: str
    question: str
    source: str
    finding: str
    design: Mapping[str, str]
    claims: Sequence[Claim]
    run: Callable[[Any], Outcome]
