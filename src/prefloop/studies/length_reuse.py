"""§5.1.2 on text-like responses: how many passes over one collection are too many?"""

from __future__ import annotations

from collections.abc import Mapping

from prefloop.lab.summary import Cell
from prefloop.report.chart import Array
from prefloop.studies.bench import Bench
from prefloop.studies.cells import at_equal_samples, by, curves, summary
from prefloop.studies.lengths import METHODS, PROBLEMS, SCORE, SETTING, UNIT, about, setting, tuned, versus
from prefloop.studies.study import Claim, Outcome, Study, judge

PASSES = (1, 2, 8)
NAMES = ("PPO", "best-of-N")
ON = ("min", "mode")
Key = tuple[str, int, str]  # method, passes, problem
CLAIMS = (
    Claim(
        "two-passes-help-best-of-n",
        "best-of-N does better with two passes than with one, at equal samples",
        "score of best-of-N at T = 2 less that at T = 1 over as many samples, Min Length",
        0.02,
        UNIT,
    ),
    Claim(
        "much-reuse-hurts-best-of-n",
        "excessive reuse hurts best-of-N",
        "score of best-of-N at T = 1 less that at T = 8, Min Length, equal gradient steps",
        0.02,
        UNIT,
    ),
    Claim(
        "ppo-bears-reuse",
        "PPO is unaffected up to T = 8",
        "score of PPO at T = 8 less that at T = 1, Min Length, equal gradient steps",
        -0.02,
        UNIT,
    ),
    Claim(
        "asymmetry",
        "best-of-N loses more by reuse than PPO does",
        "loss of best-of-N from T = 1 to T = 8 less the loss of PPO, Min Length",
        0.02,
        UNIT,
    ),
    Claim(
        "milder-in-mode",
        "reuse costs less on Mode Length",
        "loss of best-of-N from T = 1 to T = 8 on Min Length less that on Mode Length",
        0.02,
        UNIT,
    ),
)


def run(bench: Bench) -> Outcome:
    """Both methods at every T on two problems."""
    keys = [(name, passes, problem) for name in NAMES for passes in PASSES for problem in ON]
    settings = [setting(bench, p, METHODS[name][0], {"reuse": passes}) for name, passes, p in keys]
    cells = by(tuned(bench, settings), keys)
    findings = [judge(claim, effect) for claim, effect in zip(CLAIMS, measure(cells), strict=True)]
    labels = [f"T = {t}" for t in PASSES]
    figures = {
        figure: [
            curves(f"{name}: {PROBLEMS[p]}", [cells[name, t, p] for t in PASSES], labels, x=x, y=y)
            for name in NAMES
            for p in ON
        ]
        for figure, x, y in (("length-by-step", "step", "eval/length"), ("reward-by-samples", "samples", "eval/gold"))
    }
    table = summary("Cells", list(cells.values()), ("method", "T", "problem"), [list(key) for key in keys])
    return Outcome(findings, figures, [table], [about(bench)])


def measure(cells: Mapping[Key, Cell]) -> list[Array]:
    """One effect per claim, paired by seed."""

    def loss(name: str, problem: str = "min") -> Array:
        return versus(cells, [(name, 1, problem)], [(name, PASSES[-1], problem)])

    return [
        at_equal_samples(cells["best-of-N", 2, "min"], cells["best-of-N", 1, "min"]),
        loss("best-of-N"),
        -loss("PPO"),
        loss("best-of-N") - loss("PPO"),
        loss("best-of-N") - loss("best-of-N", "mode"),
    ]


STUDY = Study(
    name="length-reuse",
    question="Can sample reuse stand in for fresh samples on text-like responses?",
    source="Tajwar et al. 2024, §5.1.2, Fig. 11",
    method=(
        f"{SETTING} B = M; T gradient steps on each collection before new responses are drawn, so that a run of T"
        f" passes draws 1/T of the samples in the same number of gradient steps. {SCORE}"
    ),
    claims=CLAIMS,
    run=run,
)
