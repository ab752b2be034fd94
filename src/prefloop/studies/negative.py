"""§5.2.1: does a gradient that pushes responses down help? Offline methods, and the switch as a dose on eight rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from prefloop.lab.setting import Setting
from prefloop.lab.summary import Cell
from prefloop.report.chart import Chart
from prefloop.studies.bench import Bench
from prefloop.studies.cells import (
    FAR,
    NEAR,
    RATES,
    SCORE,
    SCORE_AXIS,
    SCORED,
    arms,
    by,
    curves,
    gains,
    middles,
    over_seeds,
    place,
    summary,
)
from prefloop.studies.study import Claim, Outcome, Study, judge

PAIRED: dict[str, Any] = {"responses": 2, "data": 500}  # as many responses as 100 groups of ten
OFFLINE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # label: row, overrides, fields
    "dpo": ("dpo", {}, PAIRED),
    "ipo": ("ipo", {"tau": 0.05}, PAIRED),
    "pref_ft": ("pref_ft", {}, PAIRED),
    "best_of_n": ("best_of_n_offline", {}, {}),
    "rwr": ("rwr", {"on_policy": 0.0, "beta": 0.1}, {}),
    "best_of_n + negative": ("best_of_n_negative", {"on_policy": 0.0}, {}),
}
CONTRASTIVE, SUPERVISED = ("dpo", "ipo"), ("pref_ft", "best_of_n", "rwr")
DOSES = (0.0, 0.25, 0.5, 1.0)
ROWS = ("reinforce", "rloo", "grpo", "ppo_critic_free", "dpo", "ipo", "online_dpo", "best_of_n_negative")
UNIT = "share of the attainable gain"
CLAIMS = (
    Claim(
        "contrastive-beats-supervised-far",
        "offline, a negative gradient beats supervised methods when the reward peaks where the reference is unlikely",
        f"mean score of {', '.join(CONTRASTIVE)} less that of {', '.join(SUPERVISED)}, offline, R1",
        0.02,
        UNIT,
    ),
    Claim(
        "gap-narrows-near",
        "the advantage of a negative gradient is smaller when the peak is near the reference's mode",
        "that difference on R1 less the same on R2",
        0.02,
        UNIT,
    ),
    Claim(
        "dpo-beats-pref-ft-far",
        "DPO beats Pref-FT on the very same pairs",
        "score of DPO less that of Pref-FT, offline, R1",
        0.02,
        UNIT,
    ),
    Claim(
        "explicit-term-helps-best-of-n",
        "best-of-N with an explicit negative term beats plain best-of-N",
        "score of best-of-N + negative less that of best-of-N, offline, R1",
        0.02,
        UNIT,
    ),
    Claim(
        "switch-removes-push",
        "the switch at 0 leaves no coefficient that pushes down",
        "coefficient mass pushed down per step at negative = 1 less that at 0, smallest of the eight rows, R1",
        0.0,
        "Σ max(−c, 0)",
    ),
    *(
        Claim(
            f"dose-{row}",
            f"{row} does better with its negative gradient than without it",
            "score at negative = 1 less that at negative = 0, R1",
            0.02,
            UNIT,
        )
        for row in ROWS
    ),
)


def run(bench: Bench) -> Outcome:
    """Six offline methods on both rewards; eight rows at four doses on R1."""
    offline = [(label, c) for label in OFFLINE for c in (FAR, NEAR)]
    doses = [(row, dose) for row in ROWS for dose in DOSES]
    settings = [_offline(bench, *key) for key in offline] + [_dosed(bench, *key) for key in doses]
    found = bench.tuned(settings, RATES)
    cells, dosed = by(found[: len(offline)], offline), by(found[len(offline) :], doses)
    findings = [judge(claim, effect) for claim, effect in zip(CLAIMS, measure(cells, dosed), strict=True)]
    figures = {
        "offline": [curves(place(c), [cells[m, c] for m in OFFLINE], list(OFFLINE)) for c in (FAR, NEAR)],
        "doses": [_dose_chart(dosed)],
    }
    tables = [
        summary(
            "Offline", list(cells.values()), ("method", "reward"), [[m, "R1" if c == FAR else "R2"] for m, c in offline]
        ),
        summary("The switch as a dose (R1)", list(dosed.values()), ("row", "negative"), doses),
    ]
    return Outcome(findings, figures, tables)


def _offline(bench: Bench, label: str, centre: float) -> Setting:
    method, override, fields = OFFLINE[label]
    return arms(method, override=override, centre=centre, **fields, **bench.steps("arms"))


def _dosed(bench: Bench, row: str, dose: float) -> Setting:
    return arms(row, override={"negative": dose}, centre=FAR, **bench.steps("arms"))


def measure(cells: dict[tuple[str, float], Cell], dosed: dict[tuple[str, float], Cell]) -> list[np.ndarray]:
    """One effect per claim, paired by seed."""

    def gap(centre: float) -> np.ndarray:
        return gains([cells[m, centre] for m in CONTRASTIVE]) - gains([cells[m, centre] for m in SUPERVISED])

    def versus(a: str, b: str) -> np.ndarray:
        return gains([cells[a, FAR]]) - gains([cells[b, FAR]])

    def pushed(dose: float) -> np.ndarray:
        return np.stack([dosed[row, dose].curve("push/down")[:, 1:].mean(1) for row in ROWS])

    first = [
        gap(FAR),
        gap(FAR) - gap(NEAR),
        versus("dpo", "pref_ft"),
        versus("best_of_n + negative", "best_of_n"),
        (pushed(1.0) - pushed(0.0)).min(0),
    ]
    return [*first, *(gains([dosed[row, 1.0]]) - gains([dosed[row, 0.0]]) for row in ROWS)]


def _dose_chart(dosed: dict[tuple[str, float], Cell]) -> Chart:
    lines = []
    for row in ROWS:
        scores = np.stack([gains([dosed[row, dose]]) for dose in DOSES])
        lines.append(middles(row, DOSES, scores))
    return Chart(
        f"Dose, {place(FAR)}",
        "negative: share of the push-down gradient",
        SCORE_AXIS,
        lines,
        range=SCORED,
        interval=over_seeds(dosed[ROWS[0], DOSES[0]]),
    )


STUDY = Study(
    name="negative",
    question="Does a negative gradient help, offline and as a switch on any method?",
    source="Tajwar et al. 2024, §5.2.1, Fig. 12 to 14",
    method=(
        "Offline data: 1,000 responses that the reference wrote (500 pairs for DPO, IPO and Pref-FT, 100 groups of ten"
        " for the others), gold scores, passed over again and again. The doses run each row as it is by default"
        f" (offline for dpo and ipo, with the best and the worst of ten), on R1. {SCORE}"
    ),
    claims=CLAIMS,
    run=run,
)
