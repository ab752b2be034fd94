"""§5.1.1 on text-like responses: does it help to refresh the sampling policy more often, and where?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefloop.lab.summary import Cell
from prefloop.report.chart import Array
from prefloop.studies.bench import Bench
from prefloop.studies.cells import by, curves, summary
from prefloop.studies.lengths import METHODS, MINIBATCH, PROBLEMS, SCORE, SETTING, UNIT, about, setting, tuned, versus
from prefloop.studies.study import Claim, Outcome, Study, judge

RATIOS = (1, 4, 16)  # B / M
NAMES = ("PPO", "best-of-N")
Key = tuple[str, int, str]  # method, ratio, problem
CLAIMS = (
    Claim(
        "staleness-rises",
        "a larger collection at the same minibatch is staler",
        f"KL(collection‖current) at B = {RATIOS[-1]}M less that at B = M, Min Length, mean over methods and training",
        0.01,
        "nats per response",
    ),
    *(
        Claim(
            f"fresh-helps-{problem}",
            f"smaller, more frequent batches do better where the reward peaks away from the reference: {title}",
            f"score at B = M less score at B = {RATIOS[-1]}M, mean of PPO and best-of-N",
            0.02,
            UNIT,
        )
        for problem, title in PROBLEMS.items()
        if problem != "mode"
    ),
    Claim(
        "negligible-in-mode",
        "on Mode Length stale samples cost little",
        f"score at B = {RATIOS[-1]}M less score at B = M, mean of PPO and best-of-N",
        -0.05,
        UNIT,
    ),
    Claim(
        "matters-less-in-mode",
        "it matters less on Mode Length than on Min Length",
        "the loss from B = M to B = 16M on Min Length less that on Mode Length",
        0.02,
        UNIT,
    ),
)


def run(bench: Bench) -> Outcome:
    """Two methods at every B/M on three problems."""
    keys = [(name, ratio, problem) for name in NAMES for ratio in RATIOS for problem in PROBLEMS]
    settings = [setting(bench, p, *METHODS[name], batch=MINIBATCH * ratio) for name, ratio, p in keys]
    cells = by(tuned(bench, settings), keys)
    findings = [judge(claim, effect) for claim, effect in zip(CLAIMS, measure(cells), strict=True)]
    labels = [f"B = {r}M" for r in RATIOS]
    figures = {
        figure: [
            curves(f"{name}: {title}", [cells[name, r, p] for r in RATIOS], labels, y=y)
            for name in NAMES
            for p, title in PROBLEMS.items()
        ]
        for figure, y in (("reward", "eval/gold"), ("length", "eval/length"))
    }
    rows = [[name, f"{ratio}M", problem] for name, ratio, problem in keys]
    table = summary("Cells", list(cells.values()), ("method", "B", "problem"), rows)
    return Outcome(findings, figures, [table], [about(bench)])


def measure(cells: Mapping[Key, Cell]) -> list[Array]:
    """One effect per claim, paired by seed."""

    def loss(problem: str) -> Array:
        return versus(cells, *([(name, r, problem) for name in NAMES] for r in (RATIOS[0], RATIOS[-1])))

    stale, fresh = (
        np.stack([np.nanmean(cells[name, r, "min"].curve("kl/collection"), axis=1) for name in NAMES]).mean(0)
        for r in (RATIOS[-1], RATIOS[0])
    )
    return [stale - fresh, loss("min"), loss("skew"), -loss("mode"), loss("min") - loss("mode")]


STUDY = Study(
    name="length-on-policy",
    question="Does on-policy sampling help on text-like responses, and where?",
    source="Tajwar et al. 2024, §5.1.1, Fig. 6",
    method=(
        f"{SETTING} B = M × {RATIOS}, one pass over each collection, so that only staleness changes; gradient steps,"
        " samples and reward queries are the same in all cells, but for what the last collection holds beyond the"
        f" steps. {SCORE}"
    ),
    claims=CLAIMS,
    run=run,
)
