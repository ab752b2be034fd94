"""From conditions to findings: tune every condition, then add seeds in blocks until every claim is decided."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from prefloop.analysis.choice import choice_se
from prefloop.analysis.decisions import Decision, decide
from prefloop.analysis.headroom import headroom
from prefloop.lab.setting import Setting
from prefloop.lab.stack import Run
from prefloop.lab.summary import Cell
from prefloop.lab.tuning import Scoring, Search, Tuned
from prefloop.report.chart import Array
from prefloop.studies.bench import BLOCK, Bench, Scale
from prefloop.studies.study import Claim, Finding

Key = Hashable
Score = Callable[[Run], float]


@dataclass(frozen=True)
class Condition:
    """One condition of a comparison: a setting, and how its learning rate is searched for.

    Args:
        search: None to use the setting as it is.
        group: conditions of the same group compete; the spread between the best and the worst is their headroom.
    """

    setting: Setting
    search: Search | None = None
    group: Key = ""


@dataclass(frozen=True)
class Contrast:
    """Σ weight · score over cells, per seed: cells are paired by seed."""

    weights: Mapping[Any, float]
    score: Score

    def __call__(self, cells: Mapping[Any, Cell]) -> Array:
        each = [weight * cells[key].values(self.score) for key, weight in self.weights.items()]
        fewest = min(map(len, each))
        return np.sum([x[:fewest] for x in each], axis=0)


def versus(better: Collection[Any], worse: Collection[Any], score: Score) -> Contrast:
    """Mean score of some cells minus that of others."""
    return Contrast({**dict.fromkeys(better, 1 / len(better)), **dict.fromkeys(worse, -1 / len(worse))}, score)


def minus(a: Contrast, b: Contrast) -> Contrast:
    """One contrast minus another of the same score: an interaction."""
    keys = dict.fromkeys([*a.weights, *b.weights])
    return Contrast({key: a.weights.get(key, 0.0) - b.weights.get(key, 0.0) for key in keys}, a.score)


@dataclass(frozen=True)
class Evidence:
    """What a study found out: its cells and how they were tuned, by the key of their condition, and its findings."""

    cells: Mapping[Any, Cell]
    tuned: Mapping[Any, Tuned]
    findings: Sequence[Finding]


def conduct(bench: Bench, conditions: Mapping[Any, Condition], claims: Sequence[Claim], scoring: Scoring) -> Evidence:
    """Tune, compare on other seeds, and decide.

    Every block of seeds is run for the cells of the claims that are still open, until all are settled.

    Args:
        claims: each `of` is a Contrast of these conditions.
        scoring: what learning rates are tuned for, and what headroom is measured in.
    """
    tuned = tune(bench, conditions, scoring)
    settings = {key: tuned[key].setting if key in tuned else one.setting for key, one in conditions.items()}
    cells, settled = dict[Any, Cell](), dict[str, Decision]()
    scales = {key: bench.scale(one.setting.problem) for key, one in conditions.items()}
    seeds = min(scale.first for scale in scales.values())
    while len(settled) < len(claims):
        due = [claim for claim in claims if claim.name not in settled]
        wanted = conditions if not cells else dict.fromkeys(key for claim in due for key in contrast(claim).weights)
        cells |= _grown(bench, {key: settings[key] for key in wanted}, tuned, seeds)
        for claim in due:
            scale = scales[next(iter(contrast(claim).weights))]
            decision = _decision(claim, cells, tuned, conditions, scoring, scale)
            if decision.settled or seeds >= scale.most:
                settled[claim.name] = decision
        seeds += BLOCK
    return Evidence(cells, tuned, [Finding(claim, settled[claim.name]) for claim in claims])


def tune(bench: Bench, conditions: Mapping[Any, Condition], scoring: Scoring) -> dict[Any, Tuned]:
    """The conditions with a search, at the rates that it finds."""
    searched = {key: (one.setting, one.search) for key, one in conditions.items() if one.search is not None}
    settings, searches = zip(*searched.values(), strict=True) if searched else ((), ())
    return dict(zip(searched, bench.tune(settings, searches, scoring), strict=True))


def contrast(claim: Claim) -> Contrast:
    assert isinstance(claim.of, Contrast)
    return claim.of


def _grown(bench: Bench, settings: Mapping[Any, Setting], tuned: Mapping[Any, Tuned], seeds: int) -> dict[Any, Cell]:
    """Cells with that many seeds, all in one sweep."""
    runs = bench.cells(list(settings.values()), seeds)
    rates = {key: {point.rate: mean for point, mean in one.scores.items()} for key, one in tuned.items()}
    return {key: replace(cell, tried=rates.get(key, {})) for key, cell in zip(settings, runs, strict=True)}


def _decision(
    claim: Claim,
    cells: Mapping[Any, Cell],
    tuned: Mapping[Any, Tuned],
    conditions: Mapping[Any, Condition],
    scoring: Scoring,
    scale: Scale,
) -> Decision:
    """The claim on the seeds that all its cells have."""
    of = contrast(claim)
    own = {key: tuned[key] for key in of.weights if key in tuned}
    return decide(
        of(cells),
        claim.rule(scale.first, scale.most),
        choice_se=math.hypot(*(of.weights[key] * chosen(one) for key, one in own.items())),
        edge=[f"{label(key)}: {one.why}" for key, one in own.items() if not one.interior],
        no_headroom=_no_headroom(claim, cells, conditions, scoring) if own else "",
    )


def _no_headroom(claim: Claim, cells: Mapping[Any, Cell], conditions: Mapping[Any, Condition], scoring: Scoring) -> str:
    """Why the claim's cells cannot differ where they compete, or nothing.

    A claim of no effect, and the second place of an interaction, predict that methods are alike: only the ceiling
    matters.
    """
    of = contrast(claim)
    largest = 1.0 if of.score is scoring.score else None
    ceiling: Literal["any", "all"] = "all" if len(of.weights) == 2 else "any"
    for place, group in enumerate(dict.fromkeys(conditions[key].group for key in of.weights)):
        rivals = {label(key): cells[key].values(of.score) for key, one in conditions.items() if one.group == group}
        fewest = min(map(len, rivals.values()))
        judged = [label(key) for key in of.weights if conditions[key].group == group]
        scores = {name: score[:fewest] for name, score in rivals.items()}
        alike = place > 0 or claim.sense == "equal"
        if reason := headroom(scores, largest=largest, cells=judged, ceiling=ceiling, alike=alike):
            return reason
    return ""


def chosen(one: Tuned) -> float:
    """Standard error of a cell's score from the choice of its learning rate and knob, on the seeds that the candidates
    of the last stage share."""
    counts = sorted(map(len, one.tried.values()), reverse=True)
    seeds = counts[min(2, len(counts) - 1)]
    scores = [[mark.score for mark in marks[:seeds]] for marks in one.tried.values() if len(marks) >= seeds]
    return choice_se(scores) if seeds > 1 else 0.0


def label(key: Key) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
