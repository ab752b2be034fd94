"""§5.2.2: when does the winner's likelihood rise, and when does the freed mass go elsewhere?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prefloop.core.metric_table import METRICS
from prefloop.lab.summary import Cell, band
from prefloop.report.chart import Array, Chart, Line, Table
from prefloop.studies.bench import Bench
from prefloop.studies.cells import FAR, arms, by, middles, over_seeds, sequences
from prefloop.studies.study import Claim, Outcome, Study, judged

PROMPTS = (5, 20, 100, 500)
WIDTHS = (8, 32, 256)
SHARED = (0, 4, 8)  # number of tokens, of nine, that winner and loser share
FEW, MANY = PROMPTS[0], PROMPTS[-1]
IPO = {"tau": 0.05}  # the published target margin of 10
LR = 1e-3
NATS = "nats"
MASSES = {"winner": "rewards/chosen", "loser": "rewards/rejected", "all others": "rest/log_ratio"}
COLUMNS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rest/log_ratio", "eval/gold")
LOG_RATIO = "log π/π_ref, nats"
Key = tuple[str, int]  # the varied quantity and its value


def winner(cells: Mapping[Key, Cell], varied: str, value: int) -> Array:
    """log π/π_ref of the winner at the end, per seed."""
    return cells[varied, value].last("rewards/chosen")


CLAIMS = (
    Claim(
        "winner-rises-few",
        "with few prompts IPO raises the winner",
        f"log π/π_ref of the winner at the end, {FEW} prompts",
        0.0,
        NATS,
        of=lambda cells: winner(cells, "prompts", FEW),
    ),
    Claim(
        "loser-falls-few",
        "and lowers the loser",
        f"−log π/π_ref of the loser at the end, {FEW} prompts",
        0.0,
        NATS,
        of=lambda cells: -cells["prompts", FEW].last("rewards/rejected"),
    ),
    Claim(
        "more-prompts-lower-winner",
        "as the number of prompts grows, with the same network, the winner's implicit reward gets lower",
        f"log π/π_ref of the winner with {FEW} prompts less the same with {MANY}",
        0.1,
        NATS,
        of=lambda cells: winner(cells, "prompts", FEW) - winner(cells, "prompts", MANY),
    ),
    Claim(
        "winner-falls-many",
        "with many prompts the winner falls below the reference",
        f"−log π/π_ref of the winner at the end, {MANY} prompts",
        0.0,
        NATS,
        of=lambda cells: -winner(cells, "prompts", MANY),
    ),
    Claim(
        "margin-grows-many",
        "the margin grows all the same",
        f"margin of log π/π_ref at the end, {MANY} prompts",
        0.1,
        NATS,
        of=lambda cells: cells["prompts", MANY].last("rewards/margins"),
    ),
    Claim(
        "mass-goes-elsewhere",
        "the freed mass goes to other responses",
        f"log (1 − π(w) − π(l)) against the reference's, at the end, {MANY} prompts",
        0.0,
        NATS,
        of=lambda cells: cells["prompts", MANY].last("rest/log_ratio"),
    ),
    Claim(
        "capacity-helps-winner",
        "a larger network keeps the winner up",
        f"log π/π_ref of the winner at hidden width {WIDTHS[-1]} less the same at {WIDTHS[0]}, 100 prompts",
        0.1,
        NATS,
        of=lambda cells: winner(cells, "width", WIDTHS[-1]) - winner(cells, "width", WIDTHS[0]),
    ),
    Claim(
        "distinct-pairs-help-winner",
        "the winner rises only where the loser is different enough",
        f"log π/π_ref of the winner with no token in common less the same with {SHARED[-1]} of 9, sequences",
        0.1,
        NATS,
        of=lambda cells: winner(cells, "shared", SHARED[0]) - winner(cells, "shared", SHARED[-1]),
    ),
)


def run(bench: Bench) -> Outcome:
    """Offline IPO on pairs of the reference, varying prompts, network width and similarity of the pair."""
    made: dict[Key, Any] = {}
    for n in PROMPTS:
        made["prompts", n] = _pairs(bench, n)
    for h in WIDTHS[:-1]:
        made["width", h] = _pairs(bench, 100, hidden=h)
    for k in SHARED:
        fields = {"responses": 2, "data": 50, "batch": 100, "minibatch": 100, "lr": LR, **bench.steps("sequences")}
        made["shared", k] = sequences("ipo", override=IPO, centre=FAR, shared=k, **fields)
    cells = by(bench.tuned(list(made.values()), (LR,)), list(made))
    cells["width", WIDTHS[-1]] = cells["prompts", 100]
    return Outcome(judged(CLAIMS, cells), _figures(cells), [_table(cells)])


def _pairs(bench: Bench, prompts: int, **fields: Any) -> Any:
    """Full batches of one pair per prompt, on a fixed list of contexts."""
    size = {"responses": 2, "data": prompts, "contexts": prompts, "batch": 2 * prompts, "minibatch": 2 * prompts}
    return arms("ipo", override=IPO, centre=FAR, lr=LR, **size, **fields, **bench.steps("arms"))


def _figures(cells: dict[Key, Cell]) -> dict[str, list[Chart]]:
    axes = {"prompts": ("prompts", PROMPTS), "width": ("hidden width, 100 prompts", WIDTHS)}
    ends = [_ends(cells, kind, *axis) for kind, axis in axes.items()]
    ends.append(_ends(cells, "shared", "tokens in common, sequences", SHARED))
    return {"ends": ends, "curves": [_course(cells["prompts", n], f"{n} prompts") for n in PROMPTS]}


def _ends(cells: dict[Key, Cell], kind: str, x: str, values: tuple[int, ...]) -> Chart:
    lines = []
    for name, column in MASSES.items():
        got = np.stack([cells[kind, v].last(column) for v in values])
        if np.isfinite(got).all():
            lines.append(middles(name, values, got))
    return Chart(
        "At the end of training",
        x,
        LOG_RATIO,
        lines,
        log_x=kind != "shared",
        guides={"reference": 0.0},
        interval=over_seeds(cells[kind, values[0]]),
    )


def _course(cell: Cell, title: str) -> Chart:
    lines = []
    for name, column in MASSES.items():
        middle, low, high = (part[1:] for part in band(cell.curve(column)))
        lines.append(Line(name, cell.runs[0].curves["step"][1:].tolist(), middle, low, high))
    guides = {"reference": 0.0}
    return Chart(title, "gradient steps", LOG_RATIO, lines, guides=guides, interval=over_seeds(cell))


def _table(cells: dict[Key, Cell]) -> Table:
    rows = []
    for (kind, value), cell in cells.items():
        numbers = [cell.last(c) for c in COLUMNS]
        rows.append([kind, value, *(f"{x.mean():.3f} ± {x.std(ddof=1) / np.sqrt(len(x)):.3f}" for x in numbers)])
    head = ["varied", "value", *(METRICS[c].title for c in COLUMNS)]
    return Table("log π/π_ref at the end, mean ± standard error over seeds", head, rows)


STUDY = Study(
    name="displacement",
    question="When does the winner's likelihood rise, and when does only the margin grow?",
    source="Tajwar et al. 2024, §5.2.2, Fig. 16",
    method=(
        "Offline IPO (target margin 10, τ = 0.05) on pairs that the reference wrote, gold labels (R1), full"
        f" batches on a fixed list of contexts, Adam at {LR:g}, equal gradient steps. Varied: the number of prompts,"
        " the width of the network's two large hidden layers, and, on sequences, how many of the nine tokens winner and"
        " loser have in common. Effects are in nats of log π/π_ref, without β, on the training pairs."
    ),
    claims=CLAIMS,
    run=run,
)
