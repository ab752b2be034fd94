"""§5.2.1 on text-like responses: what does pushing bad responses down add where nothing is sampled?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefloop.lab.summary import Cell
from prefloop.report.chart import Array
from prefloop.studies.bench import Bench
from prefloop.studies.cells import by, summary
from prefloop.studies.lengths import (
    PROBLEMS,
    SCORE,
    SETTING,
    UNIT,
    about,
    lengths_of,
    panels,
    rates,
    setting,
    tuned,
    versus,
)
from prefloop.studies.study import Claim, Outcome, Study, judge

OFFLINE: dict[str, tuple[str, dict[str, Any]]] = {  # label: row and overrides
    "offline DPO": ("dpo", {}),
    "offline IPO": ("ipo", {}),
    "Pref-FT": ("pref_ft", {}),
    "offline best-of-N": ("best_of_n_offline", {}),
    "offline RWR": ("rwr", {"on_policy": 0.0, "beta": 0.1}),
}
CONTRASTIVE, SUPERVISED = tuple(OFFLINE)[:2], tuple(OFFLINE)[2:]
PUSHED: dict[str, tuple[str, dict[str, Any]]] = {
    "best-of-N": ("best_of_n", {"reuse": 1}),
    "best-of-N + negative": ("best_of_n_negative", {}),
}
Key = tuple[str, str]  # method, problem
CLAIMS = (
    *(
        Claim(
            f"contrastive-beats-supervised-{problem}",
            f"offline, a negative gradient beats supervised methods on {PROBLEMS[problem]}",
            f"mean score of {', '.join(CONTRASTIVE)} less that of {', '.join(SUPERVISED)}",
            0.02,
            UNIT,
        )
        for problem in ("min", "skew")
    ),
    Claim(
        "gap-narrows-in-mode",
        "the advantage of a negative gradient is smaller on Mode Length than on Min Length",
        "that difference on Min Length less the same on Mode Length",
        0.02,
        UNIT,
    ),
    Claim(
        "more-in-skew",
        "offline, a negative gradient helps more where the preference data are skewed",
        "that difference on Skew Length less the same on Min Length",
        0.02,
        UNIT,
    ),
    Claim(
        "explicit-term-helps-best-of-n",
        "best-of-N with an explicit negative term beats plain best-of-N",
        "score of on-policy best-of-N + negative less that of best-of-N, Min Length",
        0.02,
        UNIT,
    ),
)


def run(bench: Bench) -> Outcome:
    """Five offline methods on three problems, and best-of-N with and without its negative term on Min Length."""
    keys = [(label, problem) for label in OFFLINE for problem in PROBLEMS] + [(label, "min") for label in PUSHED]
    rows = {**OFFLINE, **PUSHED}
    cells = by(tuned(bench, [setting(bench, p, *rows[label]) for label, p in keys]), keys)
    findings = [judge(claim, effect) for claim, effect in zip(CLAIMS, measure(cells), strict=True)]
    pushed = lengths_of(PROBLEMS["min"], [cells[label, "min"] for label in PUSHED], list(PUSHED))
    figures = {**panels(cells, list(OFFLINE)), "best-of-n": [pushed]}
    table = summary("Cells", list(cells.values()), ("method", "problem"), [list(key) for key in keys])
    return Outcome(findings, figures, [table, rates(cells)], [about(bench)])


def measure(cells: Mapping[Key, Cell]) -> list[Array]:
    """One effect per claim, paired by seed."""

    def gap(problem: str) -> Array:
        return versus(cells, *([(label, problem) for label in group] for group in (CONTRASTIVE, SUPERVISED)))

    explicit = versus(cells, [("best-of-N + negative", "min")], [("best-of-N", "min")])
    return [gap("min"), gap("skew"), gap("min") - gap("mode"), gap("skew") - gap("min"), explicit]


STUDY = Study(
    name="length-negative",
    question="What does a negative gradient add, offline, on text-like responses?",
    source="Tajwar et al. 2024, §5.2.1, Fig. 12 and 14",
    method=f"{SETTING} {SCORE}",
    claims=CLAIMS,
    run=run,
)
