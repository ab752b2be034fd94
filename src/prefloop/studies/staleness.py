"""§5.1.1: does it cost to sample from an older policy? B at fixed M, one pass: no sample is used twice."""

from __future__ import annotations

from typing import Any

from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition, Contrast, Score, conduct, minus, versus
from prefloop.studies.present import outcome
from prefloop.studies.problems import (
    BANDIT,
    DESIGN,
    PLACES,
    SCORING,
    SEEN,
    SPEED_UNIT,
    TEXT,
    THRESHOLD,
    UNIT,
    attained,
    bandit,
    length,
    quickness,
)
from prefloop.studies.study import Claim, Outcome, Study

METHODS = ("PPO", "best-of-N", "RWR")
ON_LENGTHS = ("PPO", "best-of-N")
AGES = (1, 16)  # B / M
PROBLEMS = ("min", "mode")
ONCE: dict[str, Any] = {"override": {"reuse": 1}}


def cost(world: str, methods: tuple[str, ...], where: str, score: Score = attained) -> Contrast:
    """Mean score with fresh collections minus that with stale ones."""
    fresh, stale = ([(world, m, f"B = {age}M", where) for m in methods] for age in AGES)
    return versus(fresh, stale, score)


FAR, NEAR = (cost("bandit", METHODS, place) for place in PLACES)
MIN, MODE = (cost("lengths", ON_LENGTHS, problem) for problem in PROBLEMS)
MEASURED = f"score at B = M less that at B = {AGES[-1]}M"
MEAN, LENGTH_MEAN = f"mean of {', '.join(METHODS)}", f"mean of {' and '.join(ON_LENGTHS)}"

CLAIMS = (
    Claim(
        "fresh-helps-far",
        "smaller, more frequent batches do better when the reward peaks where the reference is unlikely",
        f"{MEASURED}, peak far, {MEAN}",
        THRESHOLD,
        UNIT,
        FAR,
    ),
    Claim(
        "fresh-is-faster-far",
        "and they learn faster per gradient step",
        "−log2 of the gradient steps to half of the attainable gain at B = M less the same at B ="
        f" {AGES[-1]}M, far, {MEAN}",
        0.25,
        SPEED_UNIT,
        cost("bandit", METHODS, "far", quickness),
    ),
    Claim(
        "milder-near",
        "stale samples cost less when the peak is near the reference's mode",
        f"that cost with the peak far less that with the peak near, {MEAN}",
        THRESHOLD,
        UNIT,
        minus(FAR, NEAR),
    ),
    Claim(
        "fresh-helps-min-length",
        "smaller, more frequent batches do better on Min Length",
        f"{MEASURED}, {LENGTH_MEAN}",
        THRESHOLD,
        UNIT,
        MIN,
    ),
    Claim(
        "negligible-in-mode-length",
        "on Mode Length stale samples cost nothing that counts",
        f"{MEASURED}, {LENGTH_MEAN}",
        THRESHOLD,
        UNIT,
        MODE,
        sense="equal",
    ),
    Claim(
        "less-in-mode-length",
        "stale samples cost less on Mode Length than on Min Length",
        f"that cost on Min Length less that on Mode Length, {LENGTH_MEAN}",
        THRESHOLD,
        UNIT,
        minus(MIN, MODE),
    ),
)


def conditions(bench: Bench) -> dict[tuple[str, str, str, str], Condition]:
    """Every method at both ages."""
    out = {
        ("bandit", m, f"B = {age}M", place): bandit(bench, m, place, batch=BANDIT["batch"] * age, **ONCE)
        for m in METHODS
        for age in AGES
        for place in PLACES
    }
    return out | {
        ("lengths", m, f"B = {age}M", p): length(bench, m, p, batch=TEXT["batch"] * age, **ONCE, **SEEN)
        for m in ON_LENGTHS
        for age in AGES
        for p in PROBLEMS
    }


def run(bench: Bench) -> Outcome:
    made = conditions(bench)
    return outcome(conduct(bench, made, CLAIMS, SCORING), made)


STUDY = Study(
    name="staleness",
    question="What does it cost to sample from an older policy?",
    source="Tajwar et al. 2024, §5.1.1, Fig. 5, 6",
    finding="Larger batches of staler samples do worse, except where the reward peaks near the reference's mode.",
    design={
        **DESIGN,
        "compared": f"collections of B = M and of B = {AGES[-1]}M responses, one pass each: gradient steps and samples"
        " are the same, and only their age differs; the reward model has seen texts of every length",
    },
    claims=CLAIMS,
    run=run,
)
