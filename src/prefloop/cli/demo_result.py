"""What came out of the demo: one value per cell with its interval, the verdicts, and the answer in two sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from prefloop.analysis.compare import LEAST_SEEDS, Difference, Scores, crossed, level_with
from prefloop.analysis.numbers import interval
from prefloop.cli.demo_cells import BUDGET, LABELS, PREDICTIONS
from prefloop.report.data import Run

WORDS = {
    "holds": ("holds", "hold"),
    "contradicted": ("is contradicted", "are contradicted"),
    "open": ("is open", "are open"),
}

Cell = Sequence[Run]  # the runs of one cell, one per seed, in the order of the seeds
Cells = Mapping[str, Cell]


@dataclass(frozen=True)
class Verdict:
    """A prediction beside the paired difference of reward that decides it."""

    claim: str
    difference: Difference

    @property
    def word(self) -> str:
        """Of an interval above 0, below it, or across it."""
        if not self.difference.is_significant:
            return "open"
        return "holds" if self.difference.value > 0 else "contradicted"

    @property
    def numbers(self) -> str:
        """The difference with its interval."""
        d = self.difference
        return interval(d.value, d.low, d.high, places=2, sign=True)

    def __str__(self) -> str:
        return f"{self.claim}: {self.word}, {self.numbers}"


def verdicts(cells: Cells) -> list[Verdict]:
    """The predictions whose two cells were run, by the rule of all comparisons."""
    return [
        Verdict(claim, crossed(rewards(cells[a]), rewards(cells[b])))
        for a, b, claim in PREDICTIONS
        if a in cells and b in cells
    ]


def sentences(cells: Cells) -> list[str]:
    """The verdicts for a paragraph."""
    return [f"{text[:1].upper()}{text[1:]}." for text in map(str, verdicts(cells))]


def rewards(cell: Cell, *, last: bool = True) -> Scores:
    """Reward of the answers to held-out prompts in each seed."""
    return {seed: dict(scores(run, last=last)) for seed, run in enumerate(cell)}


def reward(cell: Cell, *, last: bool = True) -> Difference:
    """Mean reward with its interval: its difference from 0, under the rule of all comparisons."""
    found = rewards(cell, last=last)
    return crossed(found, level_with(found))


def answers(run: Run, *, last: bool = True, greedy: bool = False) -> dict[str, str]:
    """The answer to each held-out prompt at the last evaluation, or at the first; `…` where the limit cut it."""
    return {line["prompt"]: line["response"] + " …" * line["cut"] for line in _lines(run, last, greedy)}


def scores(run: Run, *, last: bool = True, greedy: bool = False) -> dict[str, float]:
    """The rewards of these answers."""
    return {line["prompt"]: line["score"] for line in _lines(run, last, greedy)}


def _lines(run: Run, last: bool, greedy: bool) -> list[dict[str, Any]]:
    lines = [line for line in run.samples if bool(line.get("greedy")) == greedy]
    step = (max if last else min)(line["step"] for line in lines)
    return [line for line in lines if line["step"] == step]


def mean(cell: Cell, value: Callable[[Run], float | None]) -> float:
    """Mean over seeds of a number of each run."""
    return fmean(value(run) or 0.0 for run in cell)


def greedy(run: Run, *, last: bool = True) -> float:
    """Mean reward of the answers at temperature 0."""
    return fmean(scores(run, last=last, greedy=True).values())


def distance(run: Run) -> float:
    """KL(π‖π_ref) at the end, nats per response."""
    value = run.after("eval/kl_reverse")
    return float(value.value) if value else 0.0


def farthest(cells: Cells) -> float:
    """The largest KL(π‖π_ref) of any evaluation of any run."""
    return max(value for cell in cells.values() for run in cell for _, value in run.points("eval/kl_reverse"))


def answer(cells: Cells) -> list[str]:
    """What came out, in two sentences."""
    order = sorted(cells, key=lambda name: reward(cells[name]).value)
    best, worst = order[-1], order[0]
    before, after = reward(cells[best], last=False).value, reward(cells[best]).value
    calm = [fmean(greedy(run, last=last) for run in cells[best]) for last in (False, True)]
    outcome = (
        f"“{LABELS[best]}” {'raised' if after > before else 'did not raise'} the reward of held-out answers: from"
        f" {before:.2f} to {after:.2f} of 1 (at temperature 0 from {calm[0]:.2f} to {calm[1]:.2f}),"
        f" {mean(cells[best], distance):.1f} nats from the reference"
    )
    if worst != best:
        outcome += f"; “{LABELS[worst]}” reached {reward(cells[worst]).value:.2f} at {mean(cells[worst], distance):.1f}"
    return [f"{outcome}.", _predictions(cells)]


def _predictions(cells: Cells) -> str:
    words = [v.word for v in verdicts(cells)]
    counts = ", ".join(f"{n} {said[n > 1]}" for word, said in WORDS.items() if (n := words.count(word)))
    kept = "all cells stayed within" if farthest(cells) <= BUDGET else "not all cells stayed within"
    return (
        f"Of the predictions that a switch helps, {counts or 'none was tested'}; {kept} {BUDGET:g} nats per response."
    )


def scope(cells: Cells) -> str:
    """What the intervals cover."""
    first = next(iter(cells.values()))
    if len(first) >= LEAST_SEEDS:
        return f"Intervals: 95 %, over {len(first)} seeds and prompts. Curves and answers are those of the first seed."
    few = "of one seed" if len(first) == 1 else "means of two seeds"
    return f"Intervals: 95 % over prompts, {few}; they do not cover differences between seeds (--seeds N does)."


def record(cells: Cells) -> dict[str, Any]:
    """The cells as plain values."""
    return {
        name: {
            "runs": [str(run.path) for run in cell],
            "before": asdict(reward(cell, last=False)),
            "after": asdict(reward(cell)),
            "greedy": [[greedy(run, last=last) for last in (False, True)] for run in cell],
            "kl_reverse": [distance(run) for run in cell],
        }
        for name, cell in cells.items()
    }
