"""A comparison in sentences, and as one JSON value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prefloop.analysis.compare import LEAST_SEEDS, RULE, Difference
from prefloop.analysis.numbers import NONE, against, compact, decimals, fixed, number
from prefloop.analysis.power import POWER
from prefloop.analysis.statistics import Interval
from prefloop.core.files import plain
from prefloop.report.compared import COSTS, Cell, Comparison, Family, Row

MANY = 5  # comparisons from which false alarms are to be expected


def verdicts(comparison: Comparison) -> list[str]:
    """One sentence for each family, the answer first."""
    return [verdict(family) for family in comparison.families]


def verdict(family: Family) -> str:
    """Which cells are better, worse or not different than the baseline, or why that cannot be told."""
    told = [row for row in family.others if row.gap is not None and math.isfinite(row.gap.low)]
    if not told:
        return f"Cannot tell: {_why_not(family)}."
    if not any(over_seeds(row.gap) for row in told):
        few = f"fewer than {LEAST_SEEDS} seeds in common" if _several(family) else "one seed each"
        return f"Cannot tell which method is better ({few}). Of the trained models, {_answer(family, told)}."
    answer = _answer(family, told)
    return f"{answer[:1].upper()}{answer[1:]}."


def _several(family: Family) -> bool:
    return any(len(row.cell.runs) > 1 for row in family.rows)


def _why_not(family: Family) -> str:
    if len(family.others) == 1 and family.others[0].gap is not None:
        gap = family.others[0].gap
        count = f"{gap.n} {gap.unit} in common" if gap.n > 1 else f"one {gap.unit.removesuffix('s')} in common"
        return f"{count}, which gives no interval for {family.measure.name} ({fixed(gap.value, 3, sign=True)})"
    return "the runs have no seeds in common" if len(family.others) == 1 else "no difference has an interval"


def _answer(family: Family, told: Sequence[Row]) -> str:
    """One row in full; several by their verdicts."""
    base = family.baseline
    if len(family.others) == 1:
        row, gap = told[0], told[0].gap
        assert gap is not None
        seen = f"{family.measure.name} {against_zero(gap)}, {gap.n} {gap.unit}"
        if gap.is_significant:
            return f"{row.cell.name} is {gap.verdict} than {base.name}: {seen}"
        known = f"; {visible(row)} would have been seen" if math.isfinite(row.visible) else ""
        return f"no difference between {row.cell.name} and {base.name} is seen: {seen}{known}"
    mixed = any(over_seeds(row.gap) for row in told)
    by: dict[str, list[str]] = {}
    for row in family.others:
        by.setdefault(_word(row, mixed=mixed), []).append(row.cell.name)
    parts = [f"{_list(names)} {'are' if len(names) > 1 else 'is'} {word}" for word, names in by.items()]
    return f"against {base.name}, by {family.measure.name}: {'; '.join(parts)}{_unseen(told)}"


def _unseen(told: Sequence[Row]) -> str:
    """What would have been seen where no difference was."""
    missed = [row for row in told if row.gap and not row.gap.is_significant and math.isfinite(row.visible)]
    each = [f"{compact(row.visible, 2)} ({row.cell.letter})" for row in missed]
    return f". A difference of {_list(each)} would have been seen" if each else ""


def _word(row: Row, *, mixed: bool) -> str:
    """The verdict of one among several; those that say nothing on another seed are marked among those that do."""
    if row.gap is None or math.isnan(row.gap.low):
        return "not told apart (no interval)"
    return row.gap.verdict if over_seeds(row.gap) or not mixed else f"{row.gap.verdict} (trained models only)"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def over_seeds(gap: Difference | None) -> bool:
    return gap is not None and gap.unit.startswith("seeds")


def against_zero(gap: Difference) -> str:
    """`+0.09 [+0.02, +0.16]`."""
    return against(gap.value, gap.low, gap.high)


def visible(row: Row) -> str:
    """`a difference of 0.12`."""
    return f"a difference of {compact(row.visible, 2)}"


def reached(x: Interval, places: int | None = None) -> str:
    """`0.61 [0.55, 0.67]`, or the number alone."""
    if math.isnan(x.low):
        return number(x.value, 3)
    places = decimals(x.low, x.high) if places is None else places
    return f"{fixed(x.value, places)} [{fixed(x.low, places)}, {fixed(x.high, places)}]"


def chance(x: Interval | None) -> str:
    """`0.93 [0.61, 1.00]`."""
    return NONE if x is None else reached(x, 2) if math.isfinite(x.low) else fixed(x.value, 2)


# ---- what readers must know ----------------------------------------------------------------------------------------


def remarks(comparison: Comparison) -> list[str]:
    """The unit, the rule, the frontier, and what was left out or not compared."""
    said = [text for family in comparison.families for text in (*units(family), *_chance_level(family))]
    said += [text for family in comparison.families for text in frontier(family)]
    said += [f"{cell.name} is not compared: {why}." for cell, why in comparison.apart]
    if len(comparison.families) > 1:
        firsts = _list([family.baseline.name for family in comparison.families])
        said.append(f"The groups of {firsts} were not measured alike and are not compared with each other.")
    rows = [row for family in comparison.families for row in family.rows]
    said += [f"{c.name}: {c.diverged} of {len(c.runs)} runs diverged." for row in rows if (c := row.cell).diverged]
    return [*dict.fromkeys(said), *comparison.notes, f"Rule: {RULE}."]


def units(family: Family) -> Iterator[str]:
    """What the unit of the differences is, and what their intervals cover."""
    for row in family.others:
        if row.gap is not None:
            yield _unit(family, row.gap, fresh=family.baseline.fresh and row.cell.fresh)


def _unit(family: Family, gap: Difference, *, fresh: bool) -> str:
    if "×" in gap.unit:
        return (
            f"The unit is the seed, paired with the same seed and the same {family.measure.unit} of the other:"
            f" intervals cover another seed and other {family.measure.unit}."
        )
    if over_seeds(gap):
        what = "each seed has prompts of its own, so intervals cover both" if fresh else NOT_RECORDED
        return f"The unit is the seed, paired with the same seed of the other: {what}."
    return (
        f"With fewer than {LEAST_SEEDS} seeds in common the unit is one of the {family.measure.unit}, averaged over"
        f" seeds: intervals are about these trained models, not about another seed. Train {LEAST_SEEDS} or more"
        " (--seed 0,1,2)."
    )


NOT_RECORDED = "numbers by prompt are not recorded, so intervals are for these held-out examples only"


def _chance_level(family: Family) -> Iterator[str]:
    if (count := len(family.others)) >= MANY:
        yield f"Of {count} comparisons without a true difference, one or more is called real in {1 - 0.95**count:.0%}."


def frontier(family: Family) -> Iterator[str]:
    """Differences at the same distance from the reference."""
    key = family.measure.key
    if not any(row.cell.paths.get(key) for row in family.rows):
        return
    base = family.baseline
    for row in family.others:
        both = f"{row.cell.letter} and {base.letter}"
        if row.at_kl is None:
            yield f"The KL curves of {both} do not overlap, so they are not compared at the same KL. {EVALUATE}"
            continue
        gap = row.at_kl.difference
        judged = f"{against_zero(gap)}, {gap.n} {gap.unit}: {gap.verdict}"
        if math.isnan(gap.low):
            judged = f"{fixed(gap.value, 3, sign=True)}; no interval from {gap.n} seed{'s' * (gap.n > 1)}"
        where = f"At {compact(row.at_kl.kl)} nats from the reference, which all reached"
        yield f"{where}, {row.cell.letter} minus {base.letter}: {judged}."


EVALUATE = "More evaluations (evaluation.every) would show where they cross the same KL."


# ---- as JSON -------------------------------------------------------------------------------------------------------


def record(comparison: Comparison) -> dict[str, Any]:
    """The comparison as a JSON value, at full precision; null for what is not known."""
    whole = {
        "verdict": verdicts(comparison),
        "groups": [_family(family) for family in comparison.families],
        "apart": [{"letter": cell.letter, "label": cell.label, "why": why} for cell, why in comparison.apart],
        "remarks": remarks(comparison),
    }
    found: dict[str, Any] = plain(whole)
    return found


def _family(family: Family) -> dict[str, Any]:
    return {
        "measure": family.measure.name,
        "higher_is_better": family.measure.higher_is_better,
        "baseline": family.baseline.letter,
        "cells": [_row(row) for row in family.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    at_kl = row.at_kl and {"kl": row.at_kl.kl, "from": row.at_kl.low, "difference": judged(row.at_kl.difference)}
    return {
        "letter": row.cell.letter,
        "label": row.cell.label,
        "method": row.cell.method,
        "runs": list(row.cell.runs),
        "diverged": row.cell.diverged,
        "iqm": asdict(row.reached),
        "difference": judged(row.gap),
        "improvement": None if row.better is None else asdict(row.better),
        "visible": {"difference": row.visible, "power": POWER},
        "at_kl": at_kl,
        "costs": costs(row.cell),
    }


def judged(gap: Difference | None) -> dict[str, Any] | None:
    return None if gap is None else {**asdict(gap), "verdict": gap.verdict}


def costs(cell: Cell) -> Mapping[str, float | None]:
    return {key: cell.costs.get(key) for key in COSTS}
