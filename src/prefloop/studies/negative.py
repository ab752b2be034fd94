"""§5.2.1: does a gradient that pushes responses down help? Offline methods, and doses of the switch on eight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from prefloop.lab.setting import Setting
from prefloop.lab.summary import Cell
from prefloop.report.chart import Array, Chart
from prefloop.studies import lengths
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
from prefloop.studies.lengths import PROBLEMS, SETTING, UNIT, about, lengths_of, panels, rates, setting, tuned, versus
from prefloop.studies.study import Claim, Outcome, Study, judged

PAIRED: dict[str, Any] = {"responses": 2, "data": 500}  # as many responses as in 100 groups of ten
OFFLINE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # label: method, overrides, fields
    "dpo": ("dpo", {}, PAIRED),
    "ipo": ("ipo", {"tau": 0.05}, PAIRED),
    "pref_ft": ("pref_ft", {}, PAIRED),
    "best_of_n": ("best_of_n_offline", {}, {}),
    "rwr": ("rwr", {"on_policy": 0.0, "beta": 0.1}, {}),
    "best_of_n + negative": ("best_of_n_negative", {"on_policy": 0.0}, {}),
}
CONTRASTIVE, SUPERVISED = ("dpo", "ipo"), ("pref_ft", "best_of_n", "rwr")
DOSES = (0.0, 0.25, 0.5, 1.0)
DOSED = ("reinforce", "rloo", "grpo", "ppo_critic_free", "dpo", "ipo", "online_dpo", "best_of_n_negative")


@dataclass(frozen=True)
class Evidence:
    """Cells of the offline methods by label and centre, and of the doses by method and dose."""

    offline: Mapping[tuple[str, float], Cell]
    doses: Mapping[tuple[str, float], Cell]


def gap(e: Evidence, centre: float) -> Array:
    """Mean score of the contrastive methods minus that of the supervised ones, paired by seed."""
    return gains([e.offline[m, centre] for m in CONTRASTIVE]) - gains([e.offline[m, centre] for m in SUPERVISED])


def lead(e: Evidence, better: str, worse: str) -> Array:
    """Score of one offline method minus that of another on R1."""
    return gains([e.offline[better, FAR]]) - gains([e.offline[worse, FAR]])


def pushed(e: Evidence, dose: float) -> Array:
    """Coefficient mass pushed down per step, [methods, seeds]."""
    return np.stack([e.doses[method, dose].curve("push/down")[:, 1:].mean(1) for method in DOSED])


def dose_effect(e: Evidence, method: str) -> Array:
    """Score with the negative gradient minus that without it."""
    return gains([e.doses[method, 1.0]]) - gains([e.doses[method, 0.0]])


CLAIMS = (
    Claim(
        "contrastive-beats-supervised-far",
        "offline, a negative gradient beats supervised methods when the reward peaks where the reference is unlikely",
        f"mean score of {', '.join(CONTRASTIVE)} less that of {', '.join(SUPERVISED)}, offline, R1",
        0.02,
        UNIT,
        of=lambda e: gap(e, FAR),
    ),
    Claim(
        "gap-narrows-near",
        "the advantage of a negative gradient is smaller when the peak is near the reference's mode",
        "that difference on R1 less the same on R2",
        0.02,
        UNIT,
        of=lambda e: gap(e, FAR) - gap(e, NEAR),
    ),
    Claim(
        "dpo-beats-pref-ft-far",
        "DPO beats Pref-FT on the very same pairs",
        "score of DPO less that of Pref-FT, offline, R1",
        0.02,
        UNIT,
        of=lambda e: lead(e, "dpo", "pref_ft"),
    ),
    Claim(
        "explicit-term-helps-best-of-n",
        "best-of-N with an explicit negative term beats plain best-of-N",
        "score of best-of-N + negative less that of best-of-N, offline, R1",
        0.02,
        UNIT,
        of=lambda e: lead(e, "best_of_n + negative", "best_of_n"),
    ),
    Claim(
        "switch-removes-push",
        "the switch at 0 leaves no coefficient that pushes down",
        "coefficient mass pushed down per step at negative = 1 less that at 0, smallest of the eight rows, R1",
        0.0,
        "Σ max(−c, 0)",
        of=lambda e: (pushed(e, 1.0) - pushed(e, 0.0)).min(0),
    ),
    *(
        Claim(
            f"dose-{method}",
            f"{method} does better with its negative gradient than without it",
            "score at negative = 1 less that at negative = 0, R1",
            0.02,
            UNIT,
            of=partial(dose_effect, method=method),
        )
        for method in DOSED
    ),
)


def run(bench: Bench) -> Outcome:
    """Six offline methods on both rewards; eight methods at four doses on R1."""
    offline = [(label, c) for label in OFFLINE for c in (FAR, NEAR)]
    doses = [(method, dose) for method in DOSED for dose in DOSES]
    settings = [_offline(bench, *key) for key in offline] + [_dosed(bench, *key) for key in doses]
    tuned = bench.tuned(settings, RATES)
    cells, dosed = by(tuned[: len(offline)], offline), by(tuned[len(offline) :], doses)
    figures = {
        "offline": [curves(place(c), [cells[m, c] for m in OFFLINE], list(OFFLINE)) for c in (FAR, NEAR)],
        "doses": [_dose_chart(dosed)],
    }
    tables = [
        summary(
            "Offline", list(cells.values()), ("method", "reward"), [[m, "R1" if c == FAR else "R2"] for m, c in offline]
        ),
        summary("The switch as a dose (R1)", list(dosed.values()), ("method", "negative"), doses),
    ]
    return Outcome(judged(CLAIMS, Evidence(cells, dosed)), figures, tables)


def _offline(bench: Bench, label: str, centre: float) -> Setting:
    method, override, fields = OFFLINE[label]
    return arms(method, override=override, centre=centre, **fields, **bench.steps("arms"))


def _dosed(bench: Bench, method: str, dose: float) -> Setting:
    return arms(method, override={"negative": dose}, centre=FAR, **bench.steps("arms"))


def _dose_chart(dosed: dict[tuple[str, float], Cell]) -> Chart:
    lines = []
    for method in DOSED:
        scores = np.stack([gains([dosed[method, dose]]) for dose in DOSES])
        lines.append(middles(method, DOSES, scores))
    return Chart(
        f"Dose, {place(FAR)}",
        "negative: share of the push-down gradient",
        SCORE_AXIS,
        lines,
        range=SCORED,
        interval=over_seeds(dosed[DOSED[0], DOSES[0]]),
    )


STUDY = Study(
    name="negative",
    question="Does a negative gradient help, offline and as a switch on any method?",
    source="Tajwar et al. 2024, §5.2.1, Fig. 12 to 14",
    method=(
        "Offline data: 1,000 responses that the reference wrote (500 pairs for DPO, IPO and Pref-FT, 100 groups of ten"
        " for the others), gold scores, passed over again and again. The doses run each method with its defaults"
        f" (offline for dpo and ipo, with the best and the worst of ten), on R1. {SCORE}"
    ),
    claims=CLAIMS,
    run=run,
)


# ----------------------------------------------------------------------------------------- on text-like responses

LENGTH_OFFLINE: dict[str, tuple[str, dict[str, Any]]] = {  # label: method and overrides
    "offline DPO": ("dpo", {}),
    "offline IPO": ("ipo", {}),
    "Pref-FT": ("pref_ft", {}),
    "offline best-of-N": ("best_of_n_offline", {}),
    "offline RWR": ("rwr", {"on_policy": 0.0, "beta": 0.1}),
}
LENGTH_CONTRASTIVE, LENGTH_SUPERVISED = tuple(LENGTH_OFFLINE)[:2], tuple(LENGTH_OFFLINE)[2:]
PUSHED: dict[str, tuple[str, dict[str, Any]]] = {
    "best-of-N": ("best_of_n", {"reuse": 1}),
    "best-of-N + negative": ("best_of_n_negative", {}),
}


def length_gap(cells: Mapping[tuple[str, str], Cell], problem: str) -> Array:
    """Mean score of the contrastive methods minus that of the supervised ones, paired by seed."""
    return versus(cells, *([(m, problem) for m in group] for group in (LENGTH_CONTRASTIVE, LENGTH_SUPERVISED)))


LENGTH_CLAIMS = (
    *(
        Claim(
            f"contrastive-beats-supervised-{problem}",
            f"offline, a negative gradient beats supervised methods on {PROBLEMS[problem]}",
            f"mean score of {', '.join(LENGTH_CONTRASTIVE)} less that of {', '.join(LENGTH_SUPERVISED)}",
            0.02,
            UNIT,
            of=partial(length_gap, problem=problem),
        )
        for problem in ("min", "skew")
    ),
    Claim(
        "gap-narrows-in-mode",
        "the advantage of a negative gradient is smaller on Mode Length than on Min Length",
        "that difference on Min Length less the same on Mode Length",
        0.02,
        UNIT,
        of=lambda cells: length_gap(cells, "min") - length_gap(cells, "mode"),
    ),
    Claim(
        "more-in-skew",
        "offline, a negative gradient helps more where the preference data are skewed",
        "that difference on Skew Length less the same on Min Length",
        0.02,
        UNIT,
        of=lambda cells: length_gap(cells, "skew") - length_gap(cells, "min"),
    ),
    Claim(
        "explicit-term-helps-best-of-n",
        "best-of-N with an explicit negative term beats plain best-of-N",
        "score of on-policy best-of-N + negative less that of best-of-N, Min Length",
        0.02,
        UNIT,
        of=lambda cells: versus(cells, [("best-of-N + negative", "min")], [("best-of-N", "min")]),
    ),
)


def run_lengths(bench: Bench) -> Outcome:
    """Five offline methods on three problems, and best-of-N with and without its negative term on Min Length."""
    keys = [(label, problem) for label in LENGTH_OFFLINE for problem in PROBLEMS] + [(label, "min") for label in PUSHED]
    rows = {**LENGTH_OFFLINE, **PUSHED}
    cells = by(tuned(bench, [setting(bench, p, *rows[label]) for label, p in keys]), keys)
    pushed = lengths_of(PROBLEMS["min"], [cells[label, "min"] for label in PUSHED], list(PUSHED))
    figures = {**panels(cells, list(LENGTH_OFFLINE)), "best-of-n": [pushed]}
    table = summary("Cells", list(cells.values()), ("method", "problem"), [list(key) for key in keys])
    return Outcome(judged(LENGTH_CLAIMS, cells), figures, [table, rates(cells)], [about(bench)])


LENGTHS = Study(
    name="length-negative",
    question="What does a negative gradient add, offline, on text-like responses?",
    source="Tajwar et al. 2024, §5.2.1, Fig. 12 and 14",
    method=f"{SETTING} {lengths.SCORE}",
    claims=LENGTH_CLAIMS,
    run=run_lengths,
)
