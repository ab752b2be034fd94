"""§5.3: are on-policy sampling and the negative gradient complementary? {offline, on-policy} × three families."""

from __future__ import annotations

from typing import Any

import numpy as np

from prefloop.lab.setting import Setting
from prefloop.lab.summary import Cell
from prefloop.studies.bench import Bench
from prefloop.studies.cells import FAR, NEAR, RATES, SCORE, arms, by, curves, gains, place, sequences, summary
from prefloop.studies.study import Claim, Outcome, Study, judge

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {  # label: row and overrides; the switch on_policy does the rest
    "supervised (best-of-N)": ("best_of_n", {}),
    "contrastive (DPO)": ("dpo", {}),
    "policy gradient (PPO, no critic)": ("ppo_critic_free", {"reuse": 1}),
}
SUPERVISED, CONTRASTIVE, GRADIENT = FAMILIES
SOURCES = {"offline": 0.0, "on-policy": 1.0}
PROBLEMS = ("arms", "sequences")
UNIT = "share of the attainable gain"


def _claims(problem: str) -> list[Claim]:
    against = (
        ("offline-contrastive", f"offline {CONTRASTIVE}", "on-policy contrastive training beats the offline one"),
        (
            "on-policy-supervised",
            f"on-policy {SUPERVISED}",
            "on-policy contrastive training beats on-policy supervision",
        ),
        ("on-policy-rl", f"on-policy {GRADIENT}", "on-policy contrastive training beats on-policy RL"),
    )
    versus = [
        Claim(
            f"{problem}-beats-{name}",
            f"{text} (R1, {problem})",
            f"score of on-policy {CONTRASTIVE} less {what}",
            0.02,
            UNIT,
        )
        for name, what, text in against
    ]
    spread = Claim(
        f"{problem}-alike-near",
        f"where the peak is near the reference, methods do about equally well ({problem})",
        "score of the best less that of the worst of the six cells, per seed, on R1, less the same on R2",
        0.02,
        UNIT,
    )
    return [*versus, spread]


CLAIMS = tuple(claim for problem in PROBLEMS for claim in _claims(problem))
Key = tuple[str, str, str, float]


def run(bench: Bench) -> Outcome:
    """Six cells on two rewards and two problems."""
    keys: list[Key] = [(p, f, s, c) for p in PROBLEMS for f in FAMILIES for s in SOURCES for c in (FAR, NEAR)]
    cells = by(bench.tuned([_setting(bench, *key) for key in keys], RATES), keys)
    effects = [effect for problem in PROBLEMS for effect in measure(cells, problem)]
    findings = [judge(claim, effect) for claim, effect in zip(CLAIMS, effects, strict=True)]
    figures = {
        p: [
            curves(
                place(c),
                [cells[p, f, s, c] for f in FAMILIES for s in SOURCES],
                [f"{s} {f}" for f in FAMILIES for s in SOURCES],
            )
            for c in (FAR, NEAR)
        ]
        for p in PROBLEMS
    }
    rows = [[p, s, f, "R1" if c == FAR else "R2"] for p, f, s, c in keys]
    table = summary("Cells", list(cells.values()), ("problem", "responses", "family", "reward"), rows)
    return Outcome(findings, figures, [table])


def _setting(bench: Bench, problem: str, family: str, source: str, centre: float) -> Setting:
    method, override = FAMILIES[family]
    make = arms if problem == "arms" else sequences
    return make(method, override={**override, "on_policy": SOURCES[source]}, centre=centre, **bench.steps(problem))


def measure(cells: dict[Key, Cell], problem: str) -> list[np.ndarray]:
    """One effect per claim of that problem, paired by seed."""

    def score(family: str, source: str, centre: float = FAR) -> np.ndarray:
        return gains([cells[problem, family, source, centre]])

    def spread(centre: float) -> np.ndarray:
        every = np.stack([score(f, s, centre) for f in FAMILIES for s in SOURCES])
        return every.max(0) - every.min(0)

    best = score(CONTRASTIVE, "on-policy")
    others = [score(CONTRASTIVE, "offline"), score(SUPERVISED, "on-policy"), score(GRADIENT, "on-policy")]
    return [*(best - other for other in others), spread(FAR) - spread(NEAR)]


STUDY = Study(
    name="complement",
    question="Are on-policy sampling and the negative gradient complementary?",
    source="Tajwar et al. 2024, §5.3, Fig. 18",
    method=(
        "One row per family (best-of-N, DPO with the best and the worst of ten, PPO without a critic) with the switch"
        " on_policy at 0 and 1, ten prompts × ten responses per gradient step, one pass. Offline data: 1,000 responses"
        f" of the reference with gold scores; responses of the policy are scored by gold. {SCORE}"
    ),
    claims=CLAIMS,
    run=run,
)
