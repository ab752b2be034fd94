"""How a condition gets its learning rate: on one seed of its own, until the best rate is inside what was tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from prefloop.analysis.choice import choice_se
from prefloop.lab.climb import Axis, Mark, axis, climb
from prefloop.studies.real.cells import Size

Gains = Mapping[str, float]  # what each held-out prompt adds to a run's score


@dataclass(frozen=True)
class Chosen:
    """A learning rate.

    Args:
        rate: the best one.
        edge: which end of all that may be tried it is at; empty if it is inside.
        se: standard error of a score from the choice, over held-out prompts. Only one seed was tried: what another
            seed would have chosen is not known.
        tried: score by rate.
    """

    rate: float
    edge: str
    se: float
    tried: Mapping[float, float]

    @property
    def why(self) -> str:
        """The choice in words."""
        of = f"learning rate {self.rate:g} of {min(self.tried):g} to {max(self.tried):g}"
        return f"{of}; the best is still the {self.edge} that may be tried" if self.edge else of


def wanted(size: Size, seen: Mapping[float, Gains]) -> list[float]:
    """The rates to try next; none once the best has neighbours on both sides, or is as far out as the grid may grow.

    Args:
        seen: gains of the rates that were tried.
    """
    line, (more, _) = _line(size), _climbed(size, seen)
    return [line.values[place] for place in more]


def choose(size: Size, seen: Mapping[float, Gains]) -> Chosen:
    """The best of the rates that were tried, once no more are wanted."""
    line, (more, top) = _line(size), _climbed(size, seen)
    if more:
        raise ValueError(f"rates are still to be tried: {wanted(size, seen)}")
    rates = sorted(seen)
    table = [[seen[rate][prompt] for prompt in seen[rates[0]]] for rate in rates]
    scores = dict(zip(rates, map(fmean, table), strict=True))
    return Chosen(line.values[top], line.edge(top), choice_se(table), scores)


def _line(size: Size) -> Axis:
    return axis(size.rates, math.sqrt(10), size.grow)


def _climbed(size: Size, seen: Mapping[float, Gains]) -> tuple[Mapping[int, int], int]:
    """`lab.climb` with one seed."""
    line = _line(size)
    marks = {line.values.index(rate): (Mark(fmean(own.values()), False),) for rate, own in seen.items()}
    return climb(line, line.first, [(len(size.rates), 1)], marks)
