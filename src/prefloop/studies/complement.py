"""§5.3: are on-policy sampling and the negative gradient complementary?"""

from __future__ import annotations

from collections.abc import Callable

from prefloop.lab.stack import Run
from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition, Contrast, conduct, minus, versus
from prefloop.studies.present import outcome
from prefloop.studies.problems import DESIGN, PLACES, SCORING, SPEED_UNIT, THRESHOLD, UNIT, attained, bandit, quickness
from prefloop.studies.study import Claim, Outcome, Study

CONTRASTIVE, SUPERVISED, GRADIENTS = "DPO", "best-of-N", ("RLOO", "PPO")
ON, OFF = "on-policy", "offline"


def lead(*others: str, place: str = "far", score: Callable[[Run], float] = attained) -> Contrast:
    """Score of on-policy DPO minus the mean of other on-policy methods."""
    return versus([(CONTRASTIVE, ON, place)], [(name, ON, place) for name in others], score)


def gain(method: str) -> Contrast:
    """Score of a method on its own samples minus that offline, peak far."""
    return versus([(method, ON, "far")], [(method, OFF, "far")], attained)


OF_STEPS = "−log2 of the gradient steps to half of the attainable gain: on-policy DPO less"

CLAIMS = (
    Claim(
        "beats-on-policy-supervision",
        "on-policy contrastive training beats on-policy supervision when the peak is far",
        "score of on-policy DPO less that of on-policy best-of-N, peak far",
        THRESHOLD,
        UNIT,
        lead(SUPERVISED),
    ),
    Claim(
        "beats-on-policy-rl",
        "it beats on-policy RL",
        f"score of on-policy DPO less the mean of {' and '.join(GRADIENTS)}, peak far",
        THRESHOLD,
        UNIT,
        lead(*GRADIENTS),
    ),
    Claim(
        "faster-than-supervision",
        "it learns faster than on-policy supervision",
        f"{OF_STEPS} on-policy best-of-N, peak far",
        0.25,
        SPEED_UNIT,
        lead(SUPERVISED, score=quickness),
    ),
    Claim(
        "faster-than-rl",
        "it learns faster than on-policy RL",
        f"{OF_STEPS} {' and '.join(GRADIENTS)}, peak far",
        0.25,
        SPEED_UNIT,
        lead(*GRADIENTS, score=quickness),
    ),
    Claim(
        "gains-add",
        "the negative gradient gains at least as much from own samples as supervision does",
        "gain of DPO from own samples less that of best-of-N, peak far",
        THRESHOLD,
        UNIT,
        minus(gain(CONTRASTIVE), gain(SUPERVISED)),
    ),
    Claim(
        "alike-near",
        "when the peak is near the reference's mode, on-policy methods do equally well",
        "score of on-policy DPO less the mean of the other on-policy methods, peak near",
        THRESHOLD,
        UNIT,
        lead(SUPERVISED, *GRADIENTS, place="near"),
        sense="equal",
    ),
)


def conditions(bench: Bench) -> dict[tuple[str, str, str], Condition]:
    """Four on-policy methods at both places, two of them offline too."""
    out = {(m, ON, place): bandit(bench, m, place) for m in (CONTRASTIVE, SUPERVISED, *GRADIENTS) for place in PLACES}
    return out | {(m, OFF, "far"): bandit(bench, m, "far", on_policy=False) for m in (CONTRASTIVE, SUPERVISED)}


def run(bench: Bench) -> Outcome:
    made = conditions(bench)
    return outcome(conduct(bench, made, CLAIMS, SCORING), made)


STUDY = Study(
    name="complement",
    question="Are on-policy sampling and the negative gradient complementary?",
    source="Tajwar et al. 2024, §5.3, Fig. 18",
    finding="On-policy contrastive training does best, and fastest, when the reward peaks far from the reference.",
    design={
        **{k: v for k, v in DESIGN.items() if k != "text"},
        "compared": "on-policy DPO with best-of-N, RLOO, and PPO with clip, critic and four passes, all on-policy; DPO"
        " and best-of-N also offline",
    },
    claims=CLAIMS,
    run=run,
)
