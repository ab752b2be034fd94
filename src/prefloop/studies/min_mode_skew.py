"""§5, Fig. 19: six methods on Min, Mode and Skew Length, with text-like responses and a learned reward."""

from __future__ import annotations

from collections.abc import Callable

from prefloop.lab.stack import Run
from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition, Contrast, conduct, versus
from prefloop.studies.present import outcome
from prefloop.studies.problems import (
    DESIGN,
    SCORING,
    SEEN,
    SPEED_UNIT,
    THRESHOLD,
    TITLES,
    UNIT,
    attained,
    length,
    quickness,
)
from prefloop.studies.study import Claim, Outcome, Study

METHODS = {  # label: method, on-policy
    "on-policy DPO": ("DPO", True),
    "offline DPO": ("DPO", False),
    "PPO": ("PPO", True),
    "on-policy RWR": ("RWR", True),
    "on-policy best-of-N": ("best-of-N", True),
    "Pref-FT": ("best-of-N", False),
}
OWN = "on-policy DPO"
OTHERS = ("PPO", "on-policy RWR")


def lead(other: str, problem: str, score: Callable[[Run], float] = attained) -> Contrast:
    """Score of on-policy DPO minus that of another method."""
    return versus([(OWN, problem)], [(other, problem)], score)


CLAIMS = (
    *(
        Claim(
            f"beats-{other.lower().replace(' ', '-')}-{problem}",
            f"on-policy DPO beats {other} on {TITLES[problem]}",
            f"score of on-policy DPO less that of {other}",
            THRESHOLD,
            UNIT,
            lead(other, problem),
        )
        for problem in ("min", "skew")
        for other in ("offline DPO", *OTHERS)
    ),
    *(
        Claim(
            f"faster-than-{other.lower().replace(' ', '-')}-min",
            f"on-policy DPO learns faster than {other} on Min Length",
            f"−log2 of the gradient steps to half of the attainable gain, on-policy DPO less {other}",
            0.25,
            SPEED_UNIT,
            lead(other, "min", quickness),
        )
        for other in OTHERS
    ),
    Claim(
        "alike-in-mode",
        "on Mode Length all methods do equally well",
        "score of on-policy DPO less the mean of the five others",
        THRESHOLD,
        UNIT,
        versus([(OWN, "mode")], [(m, "mode") for m in METHODS if m != OWN], attained),
        sense="equal",
    ),
)


def run(bench: Bench) -> Outcome:
    conditions: dict[tuple[str, str], Condition] = {
        (label, p): length(bench, m, p, on_policy=own, **SEEN) for label, (m, own) in METHODS.items() for p in TITLES
    }
    return outcome(conduct(bench, conditions, CLAIMS, SCORING), conditions)


STUDY = Study(
    name="min-mode-skew",
    question="Which of six methods does best on Min, Mode and Skew Length?",
    source="Tajwar et al. 2024, §5.3, Fig. 19",
    finding="On-policy DPO does best and fastest on Min and Skew Length; on Mode Length all methods are alike.",
    design={
        **{k: v for k, v in DESIGN.items() if k != "bandit"},
        "compared": "six methods on three problems; in Skew Length the offline responses are cut, so that long ones are"
        " rare in the data; the reward model has also seen texts of every length, so that it does not limit the"
        " on-policy methods: against offline ones they know more",
    },
    claims=CLAIMS,
    run=run,
)
