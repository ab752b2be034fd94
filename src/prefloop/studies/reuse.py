"""§5.1.2: may a collection be passed over several times? T for PPO and best-of-N, and what the clip does."""

from __future__ import annotations

from typing import Any

from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition, Contrast, conduct, minus, versus
from prefloop.studies.present import outcome
from prefloop.studies.problems import DESIGN, SCORING, THRESHOLD, UNIT, attained, bandit
from prefloop.studies.study import Claim, Outcome, Study

PASSES = 8
PPO, BARE, BEST = "PPO", "PPO without its clip", "best-of-N"
METHODS = (PPO, BARE, BEST)
UNCLIPPED = {"objective": "policy_gradient"}  # the same ratio and advantage, unbounded
ONCE, MANY, SHORT = "T = 1", f"T = {PASSES}", f"T = 1, 1/{PASSES} of the steps"


def cost(method: str, other: str = ONCE) -> Contrast:
    """Score with one pass minus that with many: over equally many steps, or (SHORT) over equally many samples."""
    return versus([(method, other)], [(method, MANY)], attained)


CLAIMS = (
    Claim(
        "ppo-bears-reuse",
        f"PPO is unaffected by {PASSES} passes",
        f"score at T = 1 less that at T = {PASSES}, equally many gradient steps",
        THRESHOLD,
        UNIT,
        cost(PPO),
        sense="equal",
    ),
    Claim(
        "hurts-best-of-n",
        "much reuse hurts best-of-N",
        f"score at T = 1 less that at T = {PASSES}, equally many gradient steps",
        THRESHOLD,
        UNIT,
        cost(BEST),
    ),
    Claim(
        "asymmetry",
        "best-of-N loses more by reuse than PPO does",
        "that loss of best-of-N less that of PPO",
        THRESHOLD,
        UNIT,
        minus(cost(BEST), cost(PPO)),
    ),
    Claim(
        "saves-samples-ppo",
        "at equally many samples reuse helps PPO",
        f"score at T = {PASSES} less that at T = 1 after as many samples",
        THRESHOLD,
        UNIT,
        versus([(PPO, MANY)], [(PPO, SHORT)], attained),
    ),
    Claim(
        "saves-samples-best-of-n",
        "at equally many samples reuse helps best-of-N",
        f"score at T = {PASSES} less that at T = 1 after as many samples",
        THRESHOLD,
        UNIT,
        versus([(BEST, MANY)], [(BEST, SHORT)], attained),
    ),
    Claim(
        "by-the-clip",
        "it is the clip that lets PPO bear reuse",
        f"loss by {PASSES} passes of PPO without its clip less that of PPO",
        THRESHOLD,
        UNIT,
        minus(cost(BARE), cost(PPO)),
    ),
)


def conditions(bench: Bench) -> dict[tuple[str, str], Condition]:
    """Three methods at three budgets."""
    short = max(1, bench.scale("rotated").steps // PASSES)
    budgets: dict[str, tuple[int, dict[str, Any]]] = {ONCE: (1, {}), MANY: (PASSES, {}), SHORT: (1, {"steps": short})}
    out = {}
    for name in METHODS:
        bare = UNCLIPPED if name == BARE else {}
        for budget, (passes, fields) in budgets.items():
            override = {**bare, "reuse": passes}
            out[name, budget] = bandit(bench, PPO if bare else name, "far", override=override, **fields)
    return out


def run(bench: Bench) -> Outcome:
    made = conditions(bench)
    return outcome(conduct(bench, made, CLAIMS, SCORING), made)


STUDY = Study(
    name="reuse",
    question="May a collection be passed over several times, and what does the clip do?",
    source="Tajwar et al. 2024, §5.1.2, Fig. 10, 11",
    finding="PPO is unaffected by reuse up to T = 8; best-of-N deteriorates.",
    design={
        **{k: v for k, v in DESIGN.items() if k != "text"},
        "compared": f"T = 1 and T = {PASSES} at equally many gradient steps (1/{PASSES} of the samples), and at equally"
        f" many samples (T = 1 for 1/{PASSES} of the steps); each tuned by itself; the peak is far",
    },
    claims=CLAIMS,
    run=run,
)
