"""Gold and proxy along training: when does training against a learned reward lose gold reward?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from prefloop.analysis.overoptimisation import RULE, overoptimisation
from prefloop.lab.scores import GOLD, KL, SEEN
from prefloop.lab.stack import Run
from prefloop.lab.summary import Cell, band
from prefloop.lab.tuning import Scoring
from prefloop.report.chart import ANY, Chart, Line, Table
from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition, Contrast, conduct
from prefloop.studies.present import seeds
from prefloop.studies.problems import DESIGN, TITLES, length
from prefloop.studies.study import Claim, Outcome, Study

DATA = {"smoke": (16, 32), "small": (16, 64, 500), "paper": (16, 64, 500)}  # groups that the reward model learns from
FEW, MANY = "fewest", "most"
NAMES = ("PPO", "DPO")
ON = ("min", "mode")
LR = 1e-3  # the same for all, so that they move equally far
LONGER = 2  # times the usual gradient steps
PART = 0.25  # of the steps: where gold is compared with the end
THRESHOLD = 0.05
Key = tuple[str, str, str]  # method, amount of data, problem


def later(run: Run, column: str = GOLD) -> float:
    """A metric at the end less the same after a quarter of the steps, a place that no result has chosen."""
    step, curve = run.curves["step"], run.curves[column]
    return float(curve[-1] - np.interp(PART * step[-1], step, curve))


def lost(run: Run) -> float:
    """Gold reward lost after a quarter of the steps."""
    return -later(run)


def proxy(run: Run) -> float:
    """What the proxy gained meanwhile."""
    return later(run, SEEN)


def last(run: Run) -> float:
    return run.last(GOLD)


def mean(score: Callable[[Run], float], **weights: float) -> Contrast:
    """Mean over methods and problems of the cells with an amount of data, times its weight."""
    every = [(name, problem) for name in NAMES for problem in ON]
    return Contrast({(m, amount, p): w / len(every) for amount, w in weights.items() for m, p in every}, score)


CLAIMS = (
    Claim(
        "small-data-overoptimise",
        "against a reward model learned from little data gold falls again",
        f"gold reward after {PART:g} of the steps less that at the end, fewest data, mean of methods and problems",
        THRESHOLD,
        "gold reward",
        mean(lost, fewest=1.0),
    ),
    Claim(
        "proxy-rises-on",
        "meanwhile the proxy goes on rising",
        f"proxy at the end less that after {PART:g} of the steps, fewest data, mean of methods and problems",
        THRESHOLD,
        "standard deviations of the proxy on its data",
        mean(proxy, fewest=1.0),
    ),
    Claim(
        "more-data-less",
        "more preference data leave less of it",
        "that fall of gold with the fewest data less the same with the most",
        THRESHOLD,
        "gold reward",
        mean(lost, fewest=1.0, most=-1.0),
    ),
    Claim(
        "more-data-better-gold",
        "and a better gold reward at the end",
        "gold reward at the end with the most data less the same with the fewest",
        THRESHOLD,
        "gold reward",
        mean(last, fewest=-1.0, most=1.0),
    ),
)


def conditions(bench: Bench) -> dict[Key, Condition]:
    """Two methods against proxies from more and more data, on two problems; nothing is tuned."""
    fewest, *between, most = DATA[bench.size]
    amounts = {FEW: fewest, **{f"{n} groups": n for n in between}, MANY: most}
    steps = LONGER * bench.scale("lengths").steps
    out = {}
    for name in NAMES:
        for amount, n in amounts.items():
            for problem in ON:
                setting = length(bench, name, problem, data=n, lr=LR, steps=steps).setting
                out[name, amount, problem] = Condition(setting, group=(problem, name))
    return out


def run(bench: Bench) -> Outcome:
    made = conditions(bench)
    evidence = conduct(bench, made, CLAIMS, Scoring(last))
    figures = {f"{problem}-length": _panels(evidence.cells, problem) for problem in ON}
    return Outcome(evidence.findings, figures, [turns(evidence.cells)], [f"Detected by this rule: {RULE}."])


def turns(cells: Mapping[Key, Cell]) -> Table:
    """The number of runs with over-optimisation, and the step from which it is detected."""
    rows = []
    for (name, amount, problem), cell in cells.items():
        seen = [overoptimisation(*(r.curves[c] for c in ("step", SEEN, GOLD))) for r in cell.runs]
        steps = [turn.step for turn in seen if turn is not None and turn.overoptimised]
        when = f"{np.median(steps):.0f}" if steps else "–"
        rows.append([TITLES[problem], name, amount, f"{len(steps)} of {len(seen)}", when])
    return Table("Over-optimisation detected", ("problem", "method", "data", "runs", "from step, median"), rows)


def _panels(cells: Mapping[Key, Cell], problem: str) -> list[Chart]:
    return [_against_kl(cells, name, problem, y) for name in NAMES for y in (GOLD, SEEN)]


def _against_kl(cells: Mapping[Key, Cell], name: str, problem: str, y: str) -> Chart:
    own = {amount: cell for (m, amount, p), cell in cells.items() if (m, p) == (name, problem)}
    lines = []
    for amount, cell in own.items():
        kl = cell.curve(KL).mean(0)
        order = np.argsort(kl)
        lines.append(Line(amount, kl[order].tolist(), *band(cell.curve(y)[:, order])))
    title = {GOLD: "gold reward", SEEN: "proxy"}[y]
    interval = f"interquartile mean over {seeds(list(own.values()))} seeds; band: 95 % bootstrap interval"
    heading = f"{name}, {TITLES[problem]}: {title}"
    return Chart(heading, "KL(π‖π_ref), nats per response", title, lines, range=ANY, interval=interval)


STUDY = Study(
    name="overoptimisation",
    question="When does training against a learned reward lose what it was learned for?",
    source="Gao, Schulman & Hilton 2023, in the setting of Tajwar et al. 2024, §5",
    finding="Gold reward falls again while the proxy rises; more preference data leave less of it.",
    design={
        "text": DESIGN["text"],
        "compared": "reward models learned from few and from many groups, PPO and on-policy DPO, Min and Mode Length,"
        f" {LONGER} times the usual steps",
        "objective": f"gold and proxy after {PART:g} of the steps against the end",
        "tuning": f"none: a learning rate of {LR:g} for all",
    },
    claims=CLAIMS,
    run=run,
)
