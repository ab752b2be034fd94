"""Methods against a baseline: what each reached, by how much they differ, and what could have been seen.

A cell is one setting over its seeds, of run folders or of the lab. Cells form a family if they were measured alike; the
rule for differences is that of `analysis.compare`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np

from prefloop.analysis.compare import LEAST_SEEDS, Difference, Scores, crossed
from prefloop.analysis.frontier import Matched, Path, matched
from prefloop.analysis.over_runs import improvement, iqm_over_runs
from prefloop.analysis.power import seen
from prefloop.analysis.statistics import Interval, proportion
from prefloop.core.errors import UserError, nearest
from prefloop.report.data import letter


@dataclass(frozen=True)
class Measure:
    """What methods are compared by.

    Args:
        name: as it is read in a sentence.
        unit: what its numbers belong to, in the plural.
    """

    key: str
    name: str
    unit: str = "prompts"
    higher_is_better: bool = True


MEASURES = (  # the first that two cells share decides
    Measure("gold", "gold reward"),
    Measure("reward", "reward"),
    Measure("pairs", "share of held-out pairs ranked as the data do", "questions"),
    Measure("labels", "chance that a good response ranks above a bad one", "responses"),
    Measure("loss", "held-out loss, nats per token", "demonstrations", higher_is_better=False),
)
COSTS = {  # key -> heading
    "step": "steps",
    "samples": "samples",
    "reward_queries": "queries",
    "tokens/sampled": "tokens sampled",
    "tokens/trained": "tokens trained",
    "hours": "hours",
}


@dataclass(frozen=True)
class Need:
    """What must be the same in two cells, so that their numbers mean the same.

    Args:
        value: equal if it is the same.
        shown: in words; empty if it has no name.
    """

    value: Hashable
    shown: str = ""


@dataclass(frozen=True)
class Cell:
    """One setting over its seeds.

    Args:
        runs: its run folders, or runs of the lab.
        scores: key of a measure -> seed -> prompt -> number at the end; one number per seed where prompts are unknown.
        needs: key of a measure -> what must be the same -> what it is.
        clusters: question of each prompt, if several prompts ask one.
        paths: key of a measure -> seed -> (KL, number) of each evaluation.
        costs: keys of COSTS -> mean per run; what was not recorded is missing.
        fresh: whether each seed has prompts of its own, so that seeds cover them.
        diverged: number of runs that diverged.
    """

    label: str
    method: str
    runs: tuple[str, ...]
    scores: Mapping[str, Scores]
    needs: Mapping[str, Mapping[str, Need]]
    clusters: Mapping[Any, Hashable] = field(default_factory=dict)
    paths: Mapping[str, Mapping[Any, Path]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    fresh: bool = False
    diverged: int = 0
    letter: str = ""

    @property
    def name(self) -> str:
        return f"{self.letter} ({self.label})"


@dataclass(frozen=True)
class Row:
    """A cell of a family, and how it differs from the baseline.

    Args:
        reached: interquartile mean over seeds.
        gap: the cell minus the baseline; None of the baseline itself, and where they have nothing in common.
        better: probability that a training (with few seeds: an answer) of the cell is better than one of the baseline.
        visible: the smallest difference that would have been called real with probability 80 %.
        at_kl: the difference at the same KL; None if the curves do not overlap, or there is none.
    """

    cell: Cell
    reached: Interval
    gap: Difference | None = None
    better: Interval | None = None
    visible: float = float("nan")
    at_kl: Matched | None = None


@dataclass(frozen=True)
class Family:
    """Cells that were measured alike; the baseline is the first row."""

    measure: Measure
    rows: tuple[Row, ...]

    @property
    def baseline(self) -> Cell:
        return self.rows[0].cell

    @property
    def others(self) -> tuple[Row, ...]:
        return self.rows[1:]


@dataclass(frozen=True)
class Comparison:
    """All families, and cells that can be compared with none.

    Args:
        apart: a cell with the reason in words.
        notes: what readers must know of the runs.
    """

    families: tuple[Family, ...]
    apart: tuple[tuple[Cell, str], ...] = ()
    notes: tuple[str, ...] = ()


def compare(cells: Sequence[Cell], baseline: str | None = None, notes: Sequence[str] = ()) -> Comparison:
    """Each cell against the baseline of its family.

    Args:
        baseline: label, method or run of a cell; by default the first of each family.

    Raises:
        UserError: no such cell, or no two cells that can be compared.
    """
    named = [replace(cell, letter=letter(i)) for i, cell in enumerate(cells)]
    first = None if baseline is None else chosen(named, baseline)
    families = _families(sorted(named, key=lambda cell: cell is not first))
    whole = [Family(measure, _rows(measure, some)) for measure, some in families if measure is not None]
    apart = [(some[0], _apart(some[0], named)) for measure, some in families if measure is None]
    if not whole:
        reasons = "; ".join(f"{cell.label}: {why}" for cell, why in apart) or "there is one setting"
        fix = "give runs of two methods with the same held-out prompts, reward and reference"
        raise UserError(f"nothing to compare: {reasons}", fix=fix)
    return Comparison(tuple(whole), tuple(apart), tuple(notes))


def chosen(cells: Sequence[Cell], name: str) -> Cell:
    """The cell with this label or run, or the only one of this method.

    Raises:
        UserError: none, or several.
    """
    by = [[c for c in cells if name in (c.label, *c.runs)], [c for c in cells if c.method == name]]
    found = next((some for some in by if some), [])
    if len(found) == 1:
        return found[0]
    names = [cell.label for cell in found or cells]
    what = f"{len(found)} settings of `{name}`" if found else f"no run or method `{name}`"
    fix = f"give one of: {'; '.join(names)}" if found else nearest(name, [*names, *{c.method for c in cells}])
    raise UserError(what, where="--baseline", fix=fix)


# ---- who can be compared -------------------------------------------------------------------------------------------


def shared_measure(a: Cell, b: Cell) -> Measure | None:
    """The first measure that both have, of the same things; None if there is none."""
    return next((m for m in MEASURES if m.key in a.scores and m.key in b.scores and not unlike(a, b, m)), None)


def unlike(a: Cell, b: Cell, measure: Measure) -> list[str]:
    """What is not the same in two cells, in words."""
    mine, theirs = a.needs[measure.key], b.needs[measure.key]
    said = []
    for what in dict.fromkeys((*mine, *theirs)):
        own, other = mine.get(what, Need(None)), theirs.get(what, Need(None))
        if own.value != other.value:
            both = (
                f" ({own.shown}, not {other.shown})" if own.shown != other.shown and own.shown and other.shown else ""
            )
            said.append(f"other {what}{both}")
    return said


def _families(cells: Sequence[Cell]) -> list[tuple[Measure | None, list[Cell]]]:
    """Cells with what they are compared by; those that are like no other are alone, without a measure."""
    families: list[tuple[Measure | None, list[Cell]]] = []
    for cell in cells:
        for i, (measure, some) in enumerate(families):
            common = shared_measure(some[0], cell)
            if common is not None and measure in (None, common):
                families[i] = (common, [*some, cell])
                break
        else:
            families.append((None, [cell]))
    return families


def _apart(cell: Cell, cells: Sequence[Cell]) -> str:
    """Why a cell is compared with no other: by what it differs from the first of the others."""
    if not cell.scores:
        return "no held-out number after training"
    for other in cells:
        common = [m for m in MEASURES if m.key in cell.scores and m.key in other.scores]
        if other is not cell and common:
            return f"{', '.join(unlike(cell, other, common[0])) or 'another measure'} than {other.label}"
    return "the others have no held-out number of its kind"


# ---- one family ----------------------------------------------------------------------------------------------------


def _rows(measure: Measure, cells: Sequence[Cell]) -> tuple[Row, ...]:
    first, *others = cells
    return (Row(first, _reached(first, measure)), *(_row(measure, cell, first) for cell in others))


def _reached(cell: Cell, measure: Measure) -> Interval:
    """Over seeds if there are enough for an interval."""
    found = iqm_over_runs(list(by_seed(cell, measure).values()))
    return found if found.units >= LEAST_SEEDS else replace(found, low=float("nan"), high=float("nan"))


def by_seed(cell: Cell, measure: Measure) -> dict[Any, float]:
    """Mean over prompts of each seed."""
    return {seed: fmean(own.values()) for seed, own in cell.scores[measure.key].items()}


def _row(measure: Measure, cell: Cell, baseline: Cell) -> Row:
    row = Row(cell, _reached(cell, measure))
    mine, theirs = alike(cell.scores[measure.key], baseline.scores[measure.key])
    if nothing_shared(mine, theirs):
        return row
    asked = {**cell.clusters, **baseline.clusters}
    clusters = {p: asked.get(p, p) for own in mine.values() for p in own} if asked else None
    gap = crossed(mine, theirs, unit=measure.unit, clusters=clusters, higher_is_better=measure.higher_is_better)
    at_kl = matched(cell.paths.get(measure.key, {}), baseline.paths.get(measure.key, {}))
    return replace(row, gap=gap, better=_better(measure, cell, baseline, gap), visible=seen(gap), at_kl=at_kl)


def alike(a: Scores, b: Scores) -> tuple[Scores, Scores]:
    """Both by prompt, or both as one number per seed if one of them is known only so."""
    if any("" in own for own in (*a.values(), *b.values())):
        a, b = ({seed: {"": fmean(own.values())} for seed, own in x.items()} for x in (a, b))
    return a, b


def nothing_shared(a: Scores, b: Scores) -> bool:
    """Whether there is nothing to pair: no prompt or, where numbers belong to seeds, no seed."""
    rows = (*a.values(), *b.values())
    whole = all(len(own) == 1 for own in rows)
    return not a.keys() & b.keys() if whole else not set.intersection(*map(set, rows))


def _better(measure: Measure, cell: Cell, baseline: Cell, gap: Difference) -> Interval:
    """In the unit of the difference: of trainings, or of answers."""
    sign = 1.0 if measure.higher_is_better else -1.0
    mine, theirs = by_seed(cell, measure), by_seed(baseline, measure)
    if gap.unit.startswith("seeds"):
        return improvement([sign * x for x in mine.values()], [sign * x for x in theirs.values()])
    a, b = cell.scores[measure.key], baseline.scores[measure.key]
    shared = [p for p in next(iter(a.values())) if all(p in own for own in (*a.values(), *b.values()))]
    gaps = np.array([fmean(own[p] for own in a.values()) - fmean(own[p] for own in b.values()) for p in shared])
    labels = [cell.clusters.get(p, p) for p in shared]
    return proportion((np.sign(sign * gaps) + 1) / 2, clusters=labels, seed=0)
