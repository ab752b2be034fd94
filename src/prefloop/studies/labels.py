"""What the labels tell: scores or their order, across prompts or within each, one pair or all of a group. Offline."""

from __future__ import annotations

from typing import Any

from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition, Contrast, conduct, versus
from prefloop.studies.present import outcome
from prefloop.studies.problems import DESIGN, SCORING, attained, bandit, claim
from prefloop.studies.study import Outcome, Study

CARDINAL: dict[str, Any] = {"labels": "gold"}
CONDITIONS: dict[tuple[str, str], dict[str, Any]] = {  # method, labels: changes
    ("RWR", "scores across prompts"): {**CARDINAL, "override": {"normalise": "batch"}},
    ("RWR", "scores within a prompt"): CARDINAL,
    ("RWR", "order within a prompt"): {},
    ("DPO", "all 45 pairs"): {},
    ("DPO", "best against worst"): {"override": {"pairs": "best_vs_worst"}},
    ("best-of-N", "the best"): {},
}
ACROSS, WITHIN, ORDER, ALL_PAIRS, ONE_PAIR, BEST = CONDITIONS


def lead(better: tuple[str, str], worse: tuple[str, str]) -> Contrast:
    return versus([better], [worse], attained)


CLAIMS = (
    claim(
        "across-prompts",
        "scores that can be compared across prompts are worth more than scores within a prompt",
        "score of RWR with weights across prompts less that with weights within each prompt",
        lead(ACROSS, WITHIN),
    ),
    claim(
        "sizes",
        "the size of a difference is worth more than its order",
        "score of RWR on scores less that on ranks, both within a prompt",
        lead(WITHIN, ORDER),
    ),
    claim(
        "all-pairs",
        "all pairs of a group are worth more than its best and worst",
        "score of DPO on all 45 pairs of ten less that on one pair",
        lead(ALL_PAIRS, ONE_PAIR),
    ),
    claim(
        "order-uses",
        "from the same order DPO gets more than RWR",
        "score of DPO on all pairs less that of RWR on ranks",
        lead(ALL_PAIRS, ORDER),
    ),
    claim(
        "scores-make-up",
        "scores across prompts make up for the missing negative gradient",
        "score of RWR with weights across prompts less that of DPO on all pairs",
        lead(ACROSS, ALL_PAIRS),
    ),
)


def run(bench: Bench) -> Outcome:
    conditions: dict[tuple[str, str], Condition] = {
        key: bandit(bench, key[0], "far", on_policy=False, **changes) for key, changes in CONDITIONS.items()
    }
    return outcome(conduct(bench, conditions, CLAIMS, SCORING), conditions)


STUDY = Study(
    name="labels",
    question="How much is decided by what the labels tell, rather than by the method?",
    source="not asked by Tajwar et al. 2024, whose methods see different labels (§5.2.1)",
    finding="",
    design={
        **{k: v for k, v in DESIGN.items() if k not in ("text", "information")},
        "information": "what is varied: scores or ranks, comparable across prompts or not, all pairs of a group or one",
        "compared": "RWR, DPO and best-of-N offline on the same responses of the reference; the peak is far",
    },
    claims=CLAIMS,
    run=run,
)
