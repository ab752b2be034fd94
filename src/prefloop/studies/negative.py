"""§5.2.1: does a gradient that pushes responses down help? Offline at equal information, and as a switch on-policy."""

from __future__ import annotations

from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition, Contrast, Score, conduct, minus, versus
from prefloop.studies.present import outcome
from prefloop.studies.problems import (
    DESIGN,
    PLACES,
    SCORING,
    SPEED_UNIT,
    THRESHOLD,
    TITLES,
    UNIT,
    attained,
    bandit,
    length,
    quickness,
)
from prefloop.studies.study import Claim, Outcome, Study

CONTRASTIVE, SUPERVISED = ("DPO", "IPO"), ("best-of-N", "RWR")
ON_LENGTHS = (("DPO",), ("best-of-N", "RWR"))
SWITCHED = ("RLOO", "DPO")
OFFLINE, KEPT, REMOVED = "offline", "on-policy", "on-policy, no push down"


def lead(world: str, contrastive: tuple[str, ...], supervised: tuple[str, ...], where: str) -> Contrast:
    """Mean score of the contrastive methods minus that of the supervised ones, offline."""
    better, worse = ([(world, m, OFFLINE, where) for m in names] for names in (contrastive, supervised))
    return versus(better, worse, attained)


def push(score: Score = attained) -> Contrast:
    """Mean score on-policy with the negative gradient minus that without it."""
    kept, removed = ([("bandit", m, how, "far") for m in SWITCHED] for how in (KEPT, REMOVED))
    return versus(kept, removed, score)


FAR, NEAR = (lead("bandit", CONTRASTIVE, SUPERVISED, place) for place in PLACES)
MIN, MODE, SKEW = (lead("lengths", *ON_LENGTHS, problem) for problem in TITLES)
MEASURED = f"mean score of {' and '.join(CONTRASTIVE)} less that of {' and '.join(SUPERVISED)}, offline"

CLAIMS = (
    Claim(
        "helps-offline-far",
        "offline, a negative gradient beats supervision when the reward peaks where the reference is unlikely",
        f"{MEASURED}, peak far",
        THRESHOLD,
        UNIT,
        FAR,
    ),
    Claim(
        "less-near",
        "it gains less when the peak is near the reference's mode",
        "that lead with the peak far less that with the peak near",
        THRESHOLD,
        UNIT,
        minus(FAR, NEAR),
    ),
    Claim(
        "helps-on-policy-far",
        "on-policy methods do better with their negative gradient than without it",
        f"score at negative = 1 less that at negative = 0, peak far, mean of {' and '.join(SWITCHED)}",
        THRESHOLD,
        UNIT,
        push(),
    ),
    Claim(
        "faster-on-policy-far",
        "and learn faster",
        "−log2 of the gradient steps to half of the attainable gain, negative = 1 less negative = 0,"
        f" {' and '.join(SWITCHED)}",
        0.25,
        SPEED_UNIT,
        push(quickness),
    ),
    Claim("helps-min-length", "offline it helps on Min Length", f"{MEASURED} (DPO only)", THRESHOLD, UNIT, MIN),
    Claim("helps-skew-length", "offline it helps on Skew Length", f"{MEASURED} (DPO only)", THRESHOLD, UNIT, SKEW),
    Claim(
        "less-in-mode-length",
        "it gains less on Mode Length than on Min Length",
        "that lead on Min Length less that on Mode Length",
        THRESHOLD,
        UNIT,
        minus(MIN, MODE),
    ),
)


def conditions(bench: Bench) -> dict[tuple[str, str, str, str], Condition]:
    """Offline methods at both places and on three problems; the switch on-policy."""
    out = {
        ("bandit", m, OFFLINE, place): bandit(bench, m, place, on_policy=False)
        for m in (*CONTRASTIVE, *SUPERVISED)
        for place in PLACES
    }
    out |= {
        ("bandit", m, how, "far"): bandit(bench, m, "far", override={"negative": float(how == KEPT)})
        for m in SWITCHED
        for how in (KEPT, REMOVED)
    }
    both = (*ON_LENGTHS[0], *ON_LENGTHS[1])
    return out | {("lengths", m, OFFLINE, p): length(bench, m, p, on_policy=False) for m in both for p in TITLES}


def run(bench: Bench) -> Outcome:
    made = conditions(bench)
    return outcome(conduct(bench, made, CLAIMS, SCORING), made)


STUDY = Study(
    name="negative",
    question="Does a gradient that pushes bad responses down help?",
    source="Tajwar et al. 2024, §5.2.1, Fig. 12 to 14",
    finding="Offline, contrastive methods beat supervised ones when the reward peaks far from the reference.",
    design={
        **DESIGN,
        "compared": "offline: DPO and IPO on all pairs of each group against best-of-N (Pref-FT on pairs) and RWR on"
        " the same groups; on-policy: RLOO and DPO with the switch `negative` at 1 and at 0",
    },
    claims=CLAIMS,
    run=run,
)
