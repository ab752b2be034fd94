"""Tables and figures of the study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefloop.advice.actions import ACTIONS
from prefloop.advice.features import COVERAGE, FEATURES, SAMPLES
from prefloop.advice.fit import PARTS
from prefloop.advice.merit import SWITCHES
from prefloop.advice.outcomes import Outcome
from prefloop.advice.regret import LEVEL, Score
from prefloop.advice.rule import Status
from prefloop.advice.value import FLOOR
from prefloop.analysis.numbers import NONE, fixed, share
from prefloop.analysis.statistics import Interval, bootstrap
from prefloop.report.chart import ANY, Chart, Line, Table
from prefloop.studies.advice.evidence import (
    FEWEST,
    RULE,
    Count,
    Told,
    by_influence,
    doubling,
    plateau,
)
from prefloop.studies.page import ANSWERS

MOST, HALF = 0.05, 0.5  # what is asked of the rule's regret: at most, and as a share of the best constant action's
COVERED = (0.75, 0.85)  # and of the coverage of its intervals
LEVELS = f"{100 * LEVEL:g} %"
ENDS = (0.1, 0.5, 0.9)  # quantiles of regret that are shown


# ----------------------------------------------------------------------------------------------------------- answers


def answers(found: Told | None, trained: int) -> Table:
    """What was asked of the rule, and whether it is so."""
    head = ("asked", "measured", "wanted", "answer")
    rows = [("does the rule beat the best constant action?", _with(trained), f"{FEWEST} or more", "not judged")]
    return Table(ANSWERS, head, rows if found is None else [*_of_regret(found), *_of_doubt(found, trained)])


def _of_regret(found: Told) -> list[tuple[str, ...]]:
    mean, other = found.held_out[RULE].regret, f"that of the best constant action, {found.default}"
    first, second = found.predictors[:2]
    gain = "what the best on-policy action is worth more than the best offline one, as a share of the attainable gain"
    return [
        ("mean regret of the rule on left-out problems", str(mean), f"≤ {MOST:g}", _below(mean, MOST)),
        (f"the same, as a share of {other}", str(found.ratio), f"≤ {HALF:g}", _below(found.ratio, HALF)),
        ("what the best constant action loses more than the rule", str(found.lead), "> 0", _above(found.lead, 0.0)),
        ("is the learning curve flat at its end?", _end(found), NONE, _yes(plateau(found.curves[RULE]))),
        (gain, str(bootstrap(found.gain, seed=0, level=LEVEL)), NONE, NONE),
        (
            "which measure of geometry or coverage best predicts the gain of on-policy sampling?",
            *(f"rank correlation {first.rho}", NONE, f"`{first.feature}`"),
        ),
        (f"is it better than the next, `{second.feature}`?", f"by {found.ahead}", "> 0", _above(found.ahead, 0.0)),
    ]


def _of_doubt(found: Told, trained: int) -> list[tuple[str, ...]]:
    seen, status = found.calibration, Status(problems=trained, beats=found.lead.low > 0)
    low, high = COVERED
    held = f"share of the values in the rule's {share(seen.level)} intervals"
    right = "share of the departures from the best constant action that were better than it"
    least = f"{status.minimum} problems or more, and less regret than the best constant action"
    return [
        (held, fixed(seen.coverage), f"{low:g} to {high:g}", _yes(low <= seen.coverage <= high)),
        ("share of the problems for which nothing is advised", fixed(seen.abstains), NONE, NONE),
        (right, fixed(seen.right), "> 0.5", NONE if math.isnan(seen.right) else _yes(seen.right > 0.5)),
        ("may the rule advise?", _with(trained), least, _yes(status.refusal is None)),
    ]


def _with(trained: int) -> str:
    return f"{trained} problems with outcomes"


def _yes(so: bool) -> str:
    return "yes" if so else "no"


def _below(x: Interval, most: float) -> str:
    return "yes" if x.high <= most else "no" if x.low > most else "undecided"


def _above(x: Interval, least: float) -> str:
    return "yes" if x.low > least else "no" if x.high <= least else "undecided"


def _end(found: Told) -> str:
    return ", ".join(f"{fixed(x)} ± {fixed(se)} with {n} problems" for n, x, se in doubling(found.curves[RULE]))


# ------------------------------------------------------------------------------------------------------------ tables


def tables(outcomes: Sequence[Outcome], counts: Mapping[str, Count], found: Told | None) -> list[Table]:
    """Every table of the page, the answers first."""
    trained = sum(count.trained for count in counts.values())
    own = [answers(found, trained), _counted(counts)]
    if found is not None:
        own += [_regrets(found), _curves(found), _predictors(found), _decides(found), _tree(found)]
    return [*own, *([_actions(outcomes)] if trained else [])]


def _counted(counts: Mapping[str, Count]) -> Table:
    head = ("world", "drawn", "dropped: nothing to gain", "dropped: gain within the start's uncertainty", "trained")
    more = ("of these: actions alike afterwards", f"of these: the best keeps less than {FLOOR:g}")
    return Table("Problems", (*head, *more), [(world, *vars(count).values()) for world, count in counts.items()])


def _regrets(found: Told) -> Table:
    """Mean with its interval over problems, by what was left out."""
    parts = {"problems": found.held_out, "the corner": found.corner, "whole worlds": found.worlds}
    seen = {name: scores for name, scores in parts.items() if scores}
    n = {name: next(iter(scores.values())).regret.units for name, scores in seen.items()}
    head = ["advisor", *(f"regret, {name} left out (n = {n[name]})" for name in seen), "median", "90th percentile"]
    rows = []
    for name in ranked(found):
        own = found.held_out[name]
        means = [str(scores[name].regret) for scores in seen.values()]
        rows.append((name, *means, *(fixed(_quantile(own, q)) for q in ENDS[1:]), share(own.good)))
    return Table(f"Regret with {LEVELS} intervals over problems", [*head, "regret of at most 0.05"], rows)


def _curves(found: Told) -> Table:
    names = list(found.curves)
    rows = [
        (size, *(f"{fixed(found.curves[name][i][1])} ± {fixed(found.curves[name][i][2])}" for name in names))
        for i, (size, *_) in enumerate(found.curves[RULE])
    ]
    title = "Learning curve: mean regret on a fifth of the problems, ± standard error over splits"
    return Table(title, ("known problems", *names), rows)


def _predictors(found: Told) -> Table:
    title = "Rank correlation of what is measured before training with the gain of on-policy sampling"
    rows = [
        (one.feature, _kind(one.feature), str(one.rho), one.rho.units, FEATURES[one.feature])
        for one in found.predictors
    ]
    return Table(title, ("feature", "of", f"Spearman's ρ [{LEVELS} interval]", "problems", "what it is"), rows)


def _kind(feature: str) -> str:
    return "coverage" if feature in COVERAGE else "geometry"


def _decides(found: Told) -> Table:
    title = (
        "What decides: merit (value as a share of the best action's) that one standard deviation of a feature adds to"
        " an action with a switch, ± standard error; 0 is left out of the rule"
    )
    rows = [
        (name, *(f"{fixed(a, sign=True)} ± {fixed(b)}" for a, b in zip(slopes, errors, strict=True)))
        for name, slopes, errors in by_influence(found)
    ]
    return Table(title, ("feature", *SWITCHES), rows)


def _tree(found: Told) -> Table:
    head, actions = ("where", "use", "mean value", "problems"), list(ACTIONS)
    rows = []
    for way in found.ways:
        value = fixed(float(way.leaf.value.max()))
        rows.append((" and ".join(way.conditions) or "always", actions[way.place], value, way.leaf.rows))
    return Table("A tree of depth 3, on all problems", head, rows)


def _actions(outcomes: Sequence[Outcome]) -> Table:
    """What every action is worth, how often it breaks, and how often its rate or knob was best at an edge."""
    some = [one for one in outcomes if one.results]
    means = np.array([[np.mean(one.results[name].values) for name in ACTIONS] for one in some])
    best, rows = means.argmax(1), list[Any]()
    for i, name in enumerate(ACTIONS):
        own = [one.results[name] for one in some]
        lost = [np.mean([not end > -FLOOR for end in x.ends]) for x in own]
        rows.append(
            (
                *(name, str(bootstrap(means[:, i], seed=0)), share(float((best == i).mean()))),
                *(share(float(np.mean([np.mean(x.broke) for x in own]))), share(float(np.mean(lost)))),
                share(float(np.mean([not x.interior for x in own]))),
            )
        )
    head = (
        "action",
        "mean value",
        "best on",
        "broken runs",
        f"runs that end more than {FLOOR:g} below the reference",
        "best rate or knob at an edge",
    )
    return Table(f"Actions on {len(some)} problems", head, rows)


# ----------------------------------------------------------------------------------------------------------- figures


def ranked(found: Told) -> list[str]:
    """Advisors by their mean regret, the best first."""
    return sorted(found.held_out, key=lambda name: found.held_out[name].regret.value)


def _quantile(score: Score, q: float) -> float:
    some = score.each[np.isfinite(score.each)]
    return float(np.quantile(some, q)) if len(some) else float("nan")


def figures(found: Told) -> dict[str, Sequence[Chart]]:
    """Regret by advisor, the learning curve, and what predicts the gain of on-policy sampling."""
    return {"regret": _regret_charts(found), "learning": [_learning(found)], "gain": [_gain(found)]}


def _regret_charts(found: Told) -> list[Chart]:
    names = ranked(found)
    over = [found.held_out[name].regret for name in names]
    mean = [(one.value, one.low, one.high) for one in over]
    spread = [tuple(_quantile(found.held_out[name], q) for q in (0.5, 0.1, 0.9)) for name in names]
    axis, said = (
        ("regret", "the best action"),
        f"mean with its {LEVELS} interval over {over[0].units} left-out problems",
    )
    return [
        _rows("Mean regret", axis, names, mean, said),
        _rows("Regret over problems", axis, names, spread, "median, and 10th to 90th percentile of the problems"),
    ]


def _gain(found: Told) -> Chart:
    names = [one.feature for one in found.predictors]
    ends = [(one.rho.value, one.rho.low, one.rho.high) for one in found.predictors]
    said = f"Spearman's ρ with its {LEVELS} interval over problems"
    axis = ("rank correlation with the gain", "no correlation")
    return _rows("What predicts the gain of on-policy sampling", axis, names, ends, said)


def _rows(title: str, axis: tuple[str, str], names: Sequence[str], ends: Sequence[Sequence[float]], said: str) -> Chart:
    """A point with an interval in each row; the axis has its name and that of its 0."""
    lines = [Line(title, [v], [float(i)], left=[low], right=[high]) for i, (v, low, high) in enumerate(ends)]
    return Chart(title, axis[0], "", lines, kind="points", guides={axis[1]: 0.0}, rows=names, interval=said)


def _learning(found: Told) -> Chart:
    lines = []
    for name, curve in found.curves.items():
        size, mean, se = (np.array(column, dtype=np.float64) for column in zip(*curve, strict=True))
        lines.append(Line(name, size.tolist(), mean, mean - 1.96 * se, mean + 1.96 * se))
    said = "mean over splits; band: ±1.96 standard errors over splits"
    title = "Learning curve on a fifth of the problems"
    return Chart(title, "known problems", "mean regret", lines, log_x=True, range=ANY, interval=said)


# ----------------------------------------------------------------------------------------------------------- caveats


def caveats(outcomes: Sequence[Outcome], found: Told | None) -> list[str]:
    """The limits of the numbers."""
    edges = [not one.interior for outcome in outcomes for one in outcome.results.values()]
    said = [
        "All problems are of the lab: what holds for its prior need not hold for language models, on which the rule has"
        " no test yet.",
        "An action is a method with its switches and one knob; another budget of tuning may rank them differently.",
    ]
    if edges:
        said.append(
            f"The best learning rate or knob was at an end of its grid in {share(float(np.mean(edges)))} of the"
            " searches (an action on a problem): where nothing is gained all are alike, elsewhere values may be low."
        )
    if found is None:
        return [*said, f"Advisors are tested on {FEWEST} problems with outcomes or more."]
    return [
        *said,
        "Problems whose actions turned out alike are kept: only what is known before training may drop a problem.",
        f"Regret is a share of the best value, and grows without bound where that is small (from {FLOOR:g}): compare"
        " medians as well as means.",
        f"The predictor with the largest of {len(found.predictors)} correlations is chosen after seeing all: its own"
        " interval and its lead over the next do not allow for that.",
        "The standard errors of the learning curve are over splits of the same problems, not over new ones.",
        f"Coefficients are of all problems; what they are worth on others is the regret on {PARTS} left-out parts."
        f" Features of the reference are from {SAMPLES} samples to each prompt.",
    ]
