"""§5.3 on text-like responses: on-policy samples with and without a negative gradient, on all three problems."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefloop.lab.summary import Cell
from prefloop.report.chart import Array, Table
from prefloop.studies.bench import Bench
from prefloop.studies.cells import by, gains, summary
from prefloop.studies.lengths import (
    METHODS,
    PROBLEMS,
    SCORE,
    SEEDS,
    SETTING,
    UNIT,
    about,
    panels,
    rates,
    setting,
    tuned,
    versus,
)
from prefloop.studies.study import Claim, Outcome, Study, judge
from prefloop.worlds.lengths.spec import Lengths

BEST = "on-policy DPO"
Key = tuple[str, str]  # method, problem
FAR = ("min", "skew")
OTHERS = ("offline DPO", "PPO", "on-policy RWR")
PUBLISHED = (
    "Published (Pythia-1.4B, 600 steps): Min Length: on-policy DPO ~1 token by 70–100 steps, offline DPO ~1 by 160, PPO"
    " 6 and RWR 72 at 590, from ~190–220. Mode Length: all alike, noisy, distance 4–37. Skew Length: on-policy DPO ~1"
    " by 90, offline DPO hovers at 7–18, PPO 14 and RWR 22 at 590."
)
CLAIMS = (
    *(
        Claim(
            f"{problem}-beats-{name.lower().replace(' ', '-')}",
            f"on-policy DPO beats {name} on {PROBLEMS[problem]}",
            f"score of on-policy DPO less that of {name}",
            0.02,
            UNIT,
        )
        for problem in FAR
        for name in OTHERS
    ),
    Claim(
        "offline-plateaus-in-skew",
        "on Skew Length offline DPO stops above what on-policy DPO reaches",
        "tokens per response at the end, offline DPO less on-policy DPO, Skew Length",
        1.0,
        "tokens",
    ),
    Claim(
        "less-apart-in-mode",
        "methods differ less on Mode Length than on Min Length",
        "score of the best less that of the worst of the six cells, per seed, on Min Length, less the same on Mode",
        0.02,
        UNIT,
    ),
)


def run(bench: Bench) -> Outcome:
    """Six methods on three problems."""
    keys = [(name, problem) for name in METHODS for problem in PROBLEMS]
    cells = by(tuned(bench, [setting(bench, p, *METHODS[name]) for name, p in keys]), keys)
    findings = [judge(claim, effect) for claim, effect in zip(CLAIMS, measure(cells), strict=True)]
    figures = panels(cells, list(METHODS))
    table = summary("Cells", list(cells.values()), ("method", "problem"), [list(key) for key in keys])
    tables = [_tokens(cells), table, rates(cells), *_elsewhere(bench, cells)]
    return Outcome(findings, figures, tables, [about(bench), PUBLISHED])


def measure(cells: Mapping[Key, Cell]) -> list[Array]:
    """One effect per claim, paired by seed."""

    def spread(problem: str) -> Array:
        every = np.stack([gains([cells[name, problem]]) for name in METHODS])
        return every.max(0) - every.min(0)

    beats = [versus(cells, [(BEST, p)], [(name, p)]) for p in FAR for name in OTHERS]
    above = cells["offline DPO", "skew"].last("eval/length") - cells[BEST, "skew"].last("eval/length")
    return [*beats, above, spread("min") - spread("mode")]


def _tokens(cells: Mapping[Key, Cell]) -> Table:
    """Tokens per response, or the gold distance from the mode, at the start, half-way and the end; means over seeds."""
    rows = []
    for (name, problem), cell in cells.items():
        column = _cost(cell, problem)
        at = (0, column.shape[1] // 2, -1)
        rows.append([problem, name, *(f"{column[:, i].mean():.1f}" for i in at), f"{cell.last('eval/cut').mean():.2f}"])
    head = ("problem", "method", "at the start", "half-way", "at the end", "cut at the limit")
    return Table("Tokens (Mode Length: distance from the mode)", head, sorted(rows, key=lambda r: r[0]))


def _elsewhere(bench: Bench, cells: Mapping[Key, Cell]) -> list[Table]:
    """Where each learning rate that was tried leads on the seeds of the comparison: what the choice of one decides."""
    tried = sorted({lr for cell in cells.values() for lr in cell.tried})
    seeds = bench.seeds[: SEEDS[bench.size]]
    at = [by(bench.tuned([c.setting for c in cells.values()], (lr,), seeds=seeds), list(cells)) for lr in tried]
    rows = []
    for key in sorted(cells, key=lambda key: key[1]):
        ends = [np.sort(_cost(found[key], key[1])[:, -1]) for found in at]
        rows.append([*reversed(key), *(f"{np.median(end):.1f} ({end[0]:.1f}–{end[-1]:.1f})" for end in ends)])
    title = "Tokens (Mode Length: distance from the mode) at the end, by learning rate: median and range over the seeds"
    return [Table(title, ("problem", "method", *(f"{lr:g}" for lr in tried)), rows)] if tried else []


def _cost(cell: Cell, problem: str) -> Array:
    """Tokens per response, or from the mode: [seeds, evaluations]."""
    world = cell.setting.world
    assert isinstance(world, Lengths)
    return abs(cell.curve("eval/gold")) * world.width if problem == "mode" else cell.curve("eval/length")


STUDY = Study(
    name="length-complement",
    question="Do on-policy samples and the negative gradient help each other on text-like responses?",
    source="Tajwar et al. 2024, §5.3, Fig. 19",
    method=f"{SETTING} {SCORE}",
    claims=CLAIMS,
    run=run,
)
