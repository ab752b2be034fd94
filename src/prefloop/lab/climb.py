"""The search along an axis of candidates, and around a place of two: which to run on how many seeds next, and which is
best; no training in here.

1. Every rate of a grid with equal steps in log runs on two seeds. While the best is at an end, the grid grows by a step
   beyond it, at most `grow` steps on each side. The best and the rates beside it then run on four seeds, which may
   move the best again; and the rate that is chosen on twelve. Earlier seeds are kept, and are the same for all rates.
2. A broken run counts as the reference's score, or its own if that is lower (one without a score as the reference's).
   So a rate that breaks often loses by what it breaks, but one that never moves does not win by being safe.
3. The best is the highest mean, or the peak of a parabola through the rates at most two steps away, if none of them
   broke, at least four are known, and the mean at that peak is within one standard error of the highest. The rate below
   the best is chosen if its mean is within one standard error and it breaks no more often. Standard errors are of
   differences between rates on the same seeds.
4. With twelve seeds the choice stands unless another rate, on the seeds that it has, is better by more than one
   standard error, or better at all and breaks less often; it must be below every rate that broke on twelve, for it
   would break too. The other then gets twelve seeds as well, and of the rates with twelve the best mean is taken.
5. On two axes (`summit`) the place moves to the best of its eight neighbours until none is better, all on equally many
   seeds: a method's rate and its knob trade off against each other, so that the best on either axis alone may not be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np

REACH, FEWEST = 2, 4  # the parabola: steps on either side of the best, and the smallest number of candidates
SIDES = ("lowest", "highest")


class Mark(NamedTuple):
    """What is kept of a tuning run; the score of a broken one is at most the reference's."""

    score: float
    broken: bool


Marks = tuple[Mark, ...]  # on tuning seeds 0, 1, …
Pair: TypeAlias = tuple[int, int]  # places on two axes


@dataclass(frozen=True)
class Axis:
    """Values of one quantity: the first ones, and those by which they may grow."""

    values: tuple[float, ...]
    first: tuple[int, ...]  # places of the first ones
    natural: tuple[bool, bool] = (False, False)

    def near(self, place: int, many: int) -> list[int]:
        """The places nearest to one, itself included, as many as there are."""
        return sorted(sorted(range(len(self.values)), key=lambda i: (abs(i - place), i))[:many])

    def edge(self, place: int) -> str:
        """Which end a place is at, beyond which something may be better; empty for none."""
        ends = zip(SIDES, (0, len(self.values) - 1), self.natural, strict=True)
        return next((side for side, end, natural in ends if place == end and not natural), "")


@cache
def axis(values: tuple[float, ...], step: float, grow: int, natural: tuple[bool, bool] = (False, False)) -> Axis:
    """The values and `grow` more beyond each end that is not natural, with two digits."""
    down, up = [values[0]], [values[-1]]
    for _ in range(grow):
        down.append(float(f"{down[-1] / step:.1e}"))
        up.append(float(f"{up[-1] * step:.1e}"))
    below = [] if natural[0] else down[:0:-1]
    above = [] if natural[1] else up[1:]
    return Axis((*below, *values, *above), tuple(range(len(below), len(below) + len(values))), natural)


def climb(
    line: Axis, first: Sequence[int], rounds: Sequence[tuple[int, int]], marks: Mapping[int, Marks]
) -> tuple[dict[int, int], int]:
    """What the halving rounds still want, as seeds by place; the best place, once they want nothing."""
    top = -1
    for many, seeds in rounds:
        wanted = first if top < 0 else line.near(top, many)
        lacking = {i: seeds for i in wanted if len(marks.get(i, ())) < seeds}
        if not lacking:
            top = best(marks, seeds)
            beside = [i for i in (top - 1, top + 1) if 0 <= i < len(line.values)]
            lacking = {i: seeds for i in beside if len(marks.get(i, ())) < seeds}
        if lacking:
            return lacking, -1
    return {}, top


def summit(
    axes: tuple[Axis, Axis], place: Pair, seeds: int, marks: Mapping[Pair, Marks]
) -> tuple[dict[Pair, int], Pair]:
    """What the climb over two axes still wants, as seeds by place; the place above its neighbours, once it wants
    nothing: see rule 5."""
    while True:
        one, other = (range(max(0, x - 1), min(x + 2, len(line.values))) for x, line in zip(place, axes, strict=True))
        near = [*product(one, other)]
        if lacking := {pair: seeds for pair in near if len(marks.get(pair, ())) < seeds}:
            return lacking, place
        top = max(near, key=lambda pair: mean(marks[pair][:seeds]))
        if mean(marks[top][:seeds]) <= mean(marks[place][:seeds]):
            return {}, place
        place = top


def best(marks: Mapping[int, Marks], seeds: int) -> int:
    """The best place among those with so many seeds: see rule 3."""
    able = [i for i in sorted(marks) if len(marks[i]) >= seeds]
    top = max(able, key=lambda i: mean(marks[i][:seeds]))
    level, error = levels(marks, top, seeds)
    if top in level and len(level) >= FEWEST:
        places = np.array(list(level))
        weight = np.sqrt([len(marks[i][:seeds]) for i in level])
        bend, slope, _ = np.polyfit(places, list(level.values()), 2, w=weight)
        peak = min((i for i in able if i in level), key=lambda i: abs(i + slope / (2 * bend))) if bend < 0 else top
        top = peak if level[peak] >= level[top] - error else top
    return top


def safer(marks: Mapping[int, Marks], top: int, seeds: int) -> int:
    """The best place or the one below it: see rule 3."""
    if len(marks.get(top - 1, ())) < seeds:
        return top
    below, above, error = marks[top - 1][:seeds], marks[top][:seeds], levels(marks, top, seeds)[1]
    return top - 1 if mean(below) >= mean(above) - error and breaks(below) <= breaks(above) else top


def levels(marks: Mapping[int, Marks], top: int, seeds: int) -> tuple[dict[int, float], float]:
    """Scores of the places around one where nothing broke, without what a seed adds to all of them; and the standard
    error of their differences on so many seeds (0 if it cannot be known)."""
    sound = {i: marks[i][:seeds] for i in sorted(marks) if abs(i - top) <= REACH and not breaks(marks[i][:seeds])}
    full = np.array([[m.score for m in own] for own in sound.values() if len(own) == seeds])
    if len(full) < 2 or seeds < 2:
        return {i: mean(own) for i, own in sound.items()}, 0.0
    common = full.mean(0) - full.mean()
    rest = full - full.mean(1, keepdims=True) - common
    noise = (rest**2).sum() / ((len(full) - 1) * (seeds - 1))
    return {i: mean(own) - float(common[: len(own)].mean()) for i, own in sound.items()}, math.sqrt(2 * noise / seeds)


def confirm(marks: Mapping[int, Marks], choice: int, seeds: int, last: int) -> tuple[dict[int, int], int]:
    """What the last round still wants, as seeds by place; the place that stands, once it wants nothing: see rule 4."""
    standing = [choice]
    while True:
        lacking = {i: last for i in standing if len(marks[i]) < last}
        lacking |= {i: seeds for j in standing[1:] for i in (j - 1, j + 1) if 0 < len(marks.get(i, ())) < seeds}
        if lacking:
            return lacking, -1
        held = max(standing, key=lambda i: (mean(marks[i][:last]), -breaks(marks[i][:last])))
        known = marks[held][:last]
        lost = min((i for i in standing if breaks(marks[i][:last])), default=math.inf)
        rivals = {i: own[:seeds] for i, own in marks.items() if i not in standing and i < lost}
        ahead = [i for i, own in rivals.items() if mean(own) - mean(known) > margin(known, own)]
        if not ahead:
            return {}, held
        standing.append(max(ahead, key=lambda i: mean(rivals[i])))


def margin(known: Marks, rival: Marks) -> float:
    """By how much a rival must be better: a standard error of the difference, or nothing where it breaks less often."""
    if breaks(rival) < breaks(known):
        return 0.0
    spread = float(np.std([m.score for m in known], ddof=min(1, len(known) - 1)))
    return spread * math.sqrt(1 / len(known) + 1 / len(rival))


def mean(marks: Marks) -> float:
    return sum(m.score for m in marks) / len(marks)


def breaks(marks: Marks) -> float:
    """The share of runs that broke."""
    return sum(m.broken for m in marks) / len(marks)
