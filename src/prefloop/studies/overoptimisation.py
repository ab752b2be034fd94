"""Gold and proxy against KL: when does training against a learned reward lose gold reward?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prefloop.analysis.overoptimisation import RULE, overoptimisation
from prefloop.lab.summary import Cell, band
from prefloop.report.chart import ANY, Array, Chart, Line, Table
from prefloop.studies.bench import Bench
from prefloop.studies.cells import by, over_seeds, summary
from prefloop.studies.lengths import METHODS, PROBLEMS, SEEDS, SETTING, about, setting
from prefloop.studies.study import Claim, Outcome, Study, judged

DATA = {
    "smoke": (16, 32),
    "small": (16, 64, 500),
    "paper": (16, 64, 250, 2000),
}  # number of groups for training the reward model
STEPS = {"smoke": 10, "small": 200, "paper": 600}
EVALUATIONS = 20
NAMES = ("PPO", "on-policy DPO")
ON = ("min", "mode")
LR = 1e-3  # the same for all, so that they move equally far
Cells = Mapping[tuple[str, int, str], Cell]  # method, groups, problem


def fall(cell: Cell, column: str = "eval/gold") -> Array:
    """From the best gold to the end, per seed; the best step is chosen on the other seeds, with independent noise."""
    gold, seeds = cell.curve("eval/gold"), np.arange(len(cell.runs))
    best = (gold.sum(0) - gold).argmax(1)
    return cell.curve(column)[seeds, best] - cell.curve(column)[:, -1]


def over(cells: Cells, extreme: Callable[[Iterable[int]], int], score: Callable[[Cell], Array]) -> Array:
    """Mean over methods and problems with the fewest (min) or the most (max) data."""
    groups = extreme(n for _, n, _ in cells)
    return np.stack([score(cell) for key, cell in cells.items() if key[1] == groups]).mean(0)


CLAIMS = (
    Claim(
        "small-data-overoptimise",
        "against a reward model learned from little data gold falls again after its best",
        "gold reward where it is best in the mean of the other seeds, less that at the end, fewest data, mean of"
        " methods and problems",
        0.05,
        "gold reward",
        of=lambda cells: over(cells, min, fall),
    ),
    Claim(
        "proxy-rises-on",
        "meanwhile the proxy goes on rising",
        "proxy at the end less proxy at that step, fewest data, mean of methods and problems",
        0.05,
        "standard deviations of the proxy on its data",
        of=lambda cells: -over(cells, min, lambda cell: fall(cell, "eval/reward")),
    ),
    Claim(
        "more-data-less",
        "more preference data leave less of it",
        "that fall of gold with the fewest data less the same with the most",
        0.05,
        "gold reward",
        of=lambda cells: over(cells, min, fall) - over(cells, max, fall),
    ),
    Claim(
        "more-data-better-gold",
        "and a better gold reward at the end",
        "gold reward at the end with the most data less the same with the fewest",
        0.05,
        "gold reward",
        of=lambda cells: over(cells, max, Cell.last) - over(cells, min, Cell.last),
    ),
)


def run(bench: Bench) -> Outcome:
    """Two methods against proxies from more and more data, on two problems."""
    sizes, steps = DATA[bench.size], STEPS[bench.size]
    keys = [(name, n, problem) for name in NAMES for n in sizes for problem in ON]
    length: dict[str, Any] = {"steps": steps, "evaluate": max(1, steps // EVALUATIONS)}
    settings = [setting(bench, p, *METHODS[name], data=n, lr=LR, **length) for name, n, p in keys]
    cells = by(bench.tuned(settings, (LR,), seeds=bench.seeds[: SEEDS[bench.size]]), keys)
    figures = {
        f"{problem}-length": [
            _against_kl(cells, name, sizes, problem, y) for name in NAMES for y in ("eval/gold", "eval/reward")
        ]
        for problem in ON
    }
    rows = [list(key) for key in keys]
    tables = [turns(cells), summary("Cells", list(cells.values()), ("method", "groups", "problem"), rows)]
    return Outcome(judged(CLAIMS, cells), figures, tables, [about(bench), f"Rule: {RULE}."])


def turns(cells: Cells) -> Table:
    """The number of runs with over-optimisation, and the step from which it is detected."""
    rows = []
    for (name, n, problem), cell in cells.items():
        seen = [overoptimisation(*(r.curves[c] for c in ("step", "eval/reward", "eval/gold"))) for r in cell.runs]
        steps = [turn.step for turn in seen if turn is not None and turn.overoptimised]
        when = f"{np.median(steps):.0f}" if steps else "–"
        rows.append([problem, name, n, f"{len(steps)} of {len(seen)}", when])
    return Table("Over-optimisation detected", ("problem", "method", "groups", "runs", "from step, median"), rows)


def _against_kl(cells: Cells, name: str, sizes: Sequence[int], problem: str, y: str) -> Chart:
    lines = []
    for n in sizes:
        cell = cells[name, n, problem]
        kl = cell.curve("eval/kl_reverse_exact").mean(0)
        order = np.argsort(kl)
        lines.append(Line(f"{n} groups", kl[order].tolist(), *band(cell.curve(y)[:, order])))
    title = {"eval/gold": "gold reward", "eval/reward": "proxy"}[y]
    first = cells[name, sizes[0], problem]
    return Chart(
        f"{name}, {PROBLEMS[problem]}: {title}",
        "KL(π‖π_ref), nats per response",
        title,
        lines,
        range=(None, first.setting.world.ceiling) if y == "eval/gold" else ANY,
        interval=over_seeds(first),
    )


STUDY = Study(
    name="overoptimisation",
    question="When does training against a learned reward lose what it was learned for?",
    source="Gao, Schulman & Hilton 2023, in the setting of Tajwar et al. 2024, §5",
    method=(
        f"{SETTING} Here the reward models are learned from as many groups as the figures say, every run has a learning"
        f" rate of {LR:g} and twice the usual gradient steps, and both rewards are followed against the distance from"
        " the reference. The proxy has mean 0 and variance 1 on its data."
    ),
    claims=CLAIMS,
    run=run,
)
