"""§5.1.1, §5.3: do the policy's own samples help, and does it depend on where the reward peaks?"""

from __future__ import annotations

from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition, Contrast, conduct, minus, versus
from prefloop.studies.present import outcome
from prefloop.studies.problems import (
    BANDIT,
    DESIGN,
    PLACES,
    PROMPTS,
    SCORING,
    TITLES,
    attained,
    bandit,
    claim,
    length,
)
from prefloop.studies.study import Outcome, Study

METHODS = ("DPO", "best-of-N", "RWR")
ON_LENGTHS = ("DPO", "best-of-N")
SOURCES = ("on-policy", "offline")
ENDLESS = "offline, as many"  # fresh responses of the reference at every step: as many labels as on-policy


def gap(world: str, methods: tuple[str, ...], where: str, source: str = "offline") -> Contrast:
    """Mean score of the methods on their own samples minus that on another source."""
    own, other = ([(world, m, s, where) for m in methods] for s in ("on-policy", source))
    return versus(own, other, attained)


FAR, NEAR = (gap("bandit", METHODS, place) for place in PLACES)
MIN, MODE, SKEW = (gap("lengths", ON_LENGTHS, problem) for problem in TITLES)
MEAN = f"mean of {', '.join(METHODS)}"
LENGTH_MEAN = f"mean of {' and '.join(ON_LENGTHS)}"


CLAIMS = (
    claim(
        "helps-far",
        "on-policy sampling helps when the reward peaks where the reference is unlikely",
        f"score on own samples less that on a fixed dataset of {BANDIT['data']} groups, peak far, {MEAN}",
        FAR,
    ),
    claim(
        "helps-beyond-labels-far",
        "it helps by where the samples are, not only by how many are labelled",
        f"score on own samples less that on equally many fresh samples of the reference, peak far, {MEAN}",
        gap("bandit", METHODS, "far", ENDLESS),
    ),
    claim(
        "less-near",
        "it helps less when the peak is near the reference's mode",
        f"the first effect less the same with the peak near, {MEAN}",
        minus(FAR, NEAR),
    ),
    claim("helps-min-length", "it helps on Min Length", f"the same on text-like responses, {LENGTH_MEAN}", MIN),
    claim("helps-skew-length", "it helps on Skew Length", f"the same on text-like responses, {LENGTH_MEAN}", SKEW),
    claim(
        "less-in-mode-length",
        "it helps less on Mode Length than on Min Length",
        f"the effect on Min Length less that on Mode Length, {LENGTH_MEAN}",
        minus(MIN, MODE),
    ),
)


def conditions(bench: Bench) -> dict[tuple[str, str, str, str], Condition]:
    """Every method on every source."""
    many = bench.scale("rotated").steps * PROMPTS
    data = {"on-policy": {}, "offline": {}, ENDLESS: {"data": many}}
    out = {
        ("bandit", m, s, place): bandit(bench, m, place, on_policy=s == "on-policy", **data[s])
        for m in METHODS
        for s in (*SOURCES, ENDLESS)
        for place in PLACES
        if s != ENDLESS or place == "far"
    }
    return out | {
        ("lengths", m, s, p): length(bench, m, p, on_policy=s == "on-policy")
        for m in ON_LENGTHS
        for s in SOURCES
        for p in TITLES
    }


def run(bench: Bench) -> Outcome:
    made = conditions(bench)
    return outcome(conduct(bench, made, CLAIMS, SCORING), made)


STUDY = Study(
    name="on-policy",
    question="Do the policy's own samples help, and where?",
    source="Tajwar et al. 2024, §5.1.1, §5.3, Fig. 5, 6, 18, 19",
    finding="On-policy sampling helps, most where the reward peaks in regions that the reference rarely visits.",
    design={
        **DESIGN,
        "compared": "DPO, best-of-N and RWR on the policy's own samples, on a fixed dataset of the reference's, and on"
        " equally many fresh samples of the reference",
    },
    claims=CLAIMS,
    run=run,
)
