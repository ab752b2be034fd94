"""Held-out labels and demonstrations of a run, example by example: before and after training, and against length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from prefloop.analysis.compare import Difference, Scores, crossed
from prefloop.analysis.parts import rate_parts, separation_parts
from prefloop.report.data import Line, Run

Parts = Callable[[Sequence[Line]], NDArray[np.float64]]  # one number per example; their mean is the statistic


def separation(lines: Sequence[Line]) -> NDArray[np.float64]:
    """How well the policy separates the labels, by its change of log π."""
    return separation_parts([line["moved"] for line in lines], [line["good"] for line in lines])


def by_length(lines: Sequence[Line], *, longer: bool = True) -> NDArray[np.float64]:
    """How well the length separates the labels: the longer response, or the shorter one, is taken for good."""
    sign = 1 if longer else -1
    return separation_parts([sign * line["tokens"] for line in lines], [line["good"] for line in lines])


def loss(lines: Sequence[Line]) -> NDArray[np.float64]:
    """The loss per token."""
    return rate_parts([-line["logp"] for line in lines], [line["tokens"] for line in lines])


def change(run: Run, parts: Parts, *, higher_is_better: bool = True) -> Difference | None:
    """The statistic after training minus that before, on the same examples; None if the run did not record them."""
    return _gap(_ends(run, -1), _ends(run, 0), parts, parts, higher_is_better)


def minus(run: Run, parts: Parts, other: Parts) -> Difference | None:
    """A statistic after training minus another one of the same examples; None if the run did not record them."""
    lines = _ends(run, -1)
    return _gap(lines, lines, parts, other, True)


def _ends(run: Run, place: int) -> dict[int, list[Line]]:
    """The examples of each seed at its first (0) or last (-1) evaluation."""
    runs = run.members or (run,)
    steps = [one.evaluations[place]["step"] for one in runs]
    return {one.seed: [x for x in one.examples if x["step"] == n] for one, n in zip(runs, steps, strict=True)}


def _gap(
    a: dict[int, list[Line]], b: dict[int, list[Line]], parts: Parts, other: Parts, higher_is_better: bool
) -> Difference | None:
    every = [*a.values(), *b.values()]
    names = {frozenset(line["example"] for line in lines) for lines in every}
    if len(names) != 1 or not every[0]:
        return None
    questions = {line["example"]: line["question"] for line in every[0]}
    first, second = _scores(a, parts), _scores(b, other)
    return crossed(first, second, unit="questions", clusters=questions, higher_is_better=higher_is_better)


def _scores(lines: dict[int, list[Line]], parts: Parts) -> Scores:
    return {
        seed: dict(zip((line["example"] for line in own), parts(own).tolist(), strict=True))
        for seed, own in lines.items()
    }
