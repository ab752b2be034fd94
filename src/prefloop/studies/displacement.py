"""§5.2.2: when does the winner's likelihood rise, and when does only the margin grow? Compared at equal margin."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from prefloop.analysis.numbers import compact
from prefloop.analysis.statistics import mean_se
from prefloop.lab.setting import make
from prefloop.lab.stack import Run
from prefloop.lab.summary import Cell
from prefloop.lab.tuning import Scoring
from prefloop.report.chart import Chart, Line, Table
from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition, Contrast, conduct, versus
from prefloop.studies.present import seeds
from prefloop.studies.study import Claim, Outcome, Study

PROMPTS = (5, 20, 100, 500)
WIDTHS = (8, 32, 256)
SHARED = (0, 4, 8)  # of nine tokens
FEW, MANY = PROMPTS[0], PROMPTS[-1]
EARLY, LATE = 2.0, 5.0  # nats of margin at which the winner is looked at
IPO = {"tau": 0.05}  # the published target margin of 10
LR = 1e-3
NATS, THRESHOLD = "nats", 0.1
TITLES = {"prompts": "{} prompts", "width": "width {}", "shared": "{} tokens in common"}
MARGIN, WINNER = "margin: log π/π_ref of winner less loser, nats", "log π/π_ref of the winner, nats"
Key = tuple[str, int]  # what is varied, and its value


def winner(run: Run, margin: float = EARLY) -> float:
    """log π/π_ref of the winner when the margin log π/π_ref(winner) − log π/π_ref(loser) first reaches that many nats.

    Linear between evaluations; at the largest margin if the run never gets there.
    """
    gap, chosen = run.curves["rewards/margins"], run.curves["rewards/chosen"]
    known = np.isfinite(gap)
    gap, chosen = np.concatenate([[0.0], gap[known]]), np.concatenate([[0.0], chosen[known]])
    reached = np.flatnonzero(gap >= margin)
    if not len(reached):
        return float(chosen[gap.argmax()])
    i = int(reached[0])
    part = (margin - gap[i - 1]) / (gap[i] - gap[i - 1])
    return float(chosen[i - 1] + part * (chosen[i] - chosen[i - 1]))


def loser(run: Run, margin: float = EARLY) -> float:
    """The same of the loser."""
    return winner(run, margin) - margin


def at(varied: str, value: int, sign: float = 1.0, score: Any = winner) -> Contrast:
    """The winner in one cell."""
    return Contrast({(varied, value): sign}, score)


def between(varied: str, higher: int, lower: int, margin: float = EARLY) -> Contrast:
    return versus([(varied, higher)], [(varied, lower)], partial(winner, margin=margin))


CLAIMS = (
    Claim(
        "winner-rises-few",
        "with few prompts the winner rises",
        f"log π/π_ref of the winner at a margin of {EARLY:g} nats, {FEW} prompts",
        THRESHOLD,
        NATS,
        at("prompts", FEW),
    ),
    Claim(
        "winner-falls-many",
        "with many prompts it falls",
        f"−log π/π_ref of the winner at a margin of {EARLY:g} nats, {MANY} prompts",
        THRESHOLD,
        NATS,
        at("prompts", MANY, -1.0),
    ),
    Claim(
        "falls-with-prompts",
        "the more prompts, the lower the winner",
        f"the winner with {FEW} prompts less that with {MANY}, at a margin of {EARLY:g} nats",
        THRESHOLD,
        NATS,
        between("prompts", FEW, MANY),
    ),
    Claim(
        "capacity-helps",
        "a larger network keeps the winner up",
        f"the winner at width {WIDTHS[-1]} less that at {WIDTHS[0]}, 100 prompts, at a margin of {LATE:g} nats",
        THRESHOLD,
        NATS,
        between("width", WIDTHS[-1], WIDTHS[0], LATE),
    ),
    Claim(
        "distinct-pairs-help",
        "the winner rises only where the loser is different enough",
        f"the winner with no token in common less that with {SHARED[-1]} of 9, at a margin of {EARLY:g} nats",
        THRESHOLD,
        NATS,
        between("shared", SHARED[0], SHARED[-1]),
    ),
)


def conditions(bench: Bench) -> dict[tuple[str, int], Condition]:
    """Offline IPO on pairs of the reference: number of prompts, width of the network, similarity of the pair."""
    out = {("prompts", n): _pairs(bench, n) for n in PROMPTS}
    out |= {("width", w): _pairs(bench, 100, hidden=w) for w in WIDTHS}
    fields = {"responses": 2, "data": 50, "batch": 100, "minibatch": 100, "lr": LR, "spacing": "log", "centre": 70.0}
    steps = bench.scale("sequences").steps
    for n in SHARED:
        setting = make("ipo", "sequences", IPO, shared=n, steps=steps, **fields)
        out["shared", n] = Condition(setting, group="shared")
    return out


def _pairs(bench: Bench, prompts: int, **fields: Any) -> Condition:
    """Full batches of one pair per prompt, on a fixed list of contexts."""
    size = {"responses": 2, "data": prompts, "contexts": prompts, "batch": 2 * prompts, "minibatch": 2 * prompts}
    own = {"lr": LR, "spacing": "log", "centre": 70.0, "steps": bench.scale("arms").steps}
    return Condition(make("ipo", "arms", IPO, **size, **own, **fields), group="width" if fields else "prompts")


def run(bench: Bench) -> Outcome:
    evidence = conduct(bench, conditions(bench), CLAIMS, Scoring(winner))
    groups = dict.fromkeys(varied for varied, _ in evidence.cells)
    figures = {varied: [_paths(evidence.cells, varied)] for varied in groups}
    return Outcome(evidence.findings, figures, [_table(evidence.cells)])


def _paths(cells: Mapping[Key, Cell], varied: str) -> Chart:
    """The winner against the margin, along training."""
    own = {value: cell for (other, value), cell in cells.items() if other == varied}
    lines = []
    for value, cell in own.items():
        gap, chosen = (np.median(cell.curve(f"rewards/{part}"), axis=0) for part in ("margins", "chosen"))
        known = np.isfinite(gap)
        lines.append(Line(TITLES[varied].format(value), [0.0, *gap[known]], [0.0, *chosen[known]]))
    interval = f"medians over {seeds(list(own.values()))} seeds at each evaluation"
    guides = {"reference": 0.0}
    return Chart("Winner against margin", MARGIN, WINNER, lines, kind="path", guides=guides, interval=interval)


def _table(cells: Mapping[Key, Cell]) -> Table:
    """The winner where the margin first reaches EARLY and LATE nats, and both at the end."""
    rows = []
    for (varied, value), cell in cells.items():
        early, late = (mean_se(cell.values(partial(winner, margin=margin))) for margin in (EARLY, LATE))
        ends = (mean_se(cell.last(f"rewards/{part}")) for part in ("margins", "chosen"))
        rows.append([TITLES[varied].format(value), compact(LR), len(cell.runs), *map(str, (early, late, *ends))])
    head = (f"winner at {EARLY:g} nats", f"winner at {LATE:g} nats", "margin at the end", "winner at the end")
    return Table("Conditions", ("condition", "lr", "seeds", *head), rows)


STUDY = Study(
    name="displacement",
    question="When does the winner's likelihood rise, and when does only the margin grow?",
    source="Tajwar et al. 2024, §5.2.2, Fig. 16",
    finding="Contrastive training raises the winner with few prompts, large networks and distinct pairs; otherwise both"
    " fall.",
    design={
        "problem": "offline IPO (target margin 10) on pairs that the reference wrote, gold labels, full batches on a"
        " fixed list of contexts: the published arms, and for similarity the sequences",
        "compared": "the number of prompts, the width of the network, the tokens that a pair has in common",
        "objective": f"log π/π_ref of the winner, without β, where the margin first reaches {EARLY:g} (capacity:"
        f" {LATE:g}) nats: conditions that have separated the pairs equally far, however fast they did",
        "tuning": f"none: a learning rate of {LR:g} for all; only the path matters, not its speed",
    },
    claims=CLAIMS,
    run=run,
)
