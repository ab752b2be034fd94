"""How good detectors of faults are: thresholds fitted on one half of the runs, judged on the other half."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from prefloop.analysis.checks import CHECKS, TABLE, Check
from prefloop.analysis.diagnose_baselines import BASELINES, alarms
from prefloop.analysis.evidence import Evidence
from prefloop.analysis.statistics import Interval, proportion

Array = NDArray[np.float64]
OURS = "prefloop"


@dataclass(frozen=True)
class Case:
    """A run whose fault is known.

    Args:
        kind: the planted fault; empty for a sound run.
        reasons: the checks that name it.
        scores: of every check; nan where it does not apply or cannot be told.
        claimed: by each baseline, the reasons of the rules that the run breaks.
        alarms: by each baseline, the number of those rules.
    """

    kind: str
    reasons: frozenset[str]
    scores: Mapping[str, float]
    claimed: Mapping[str, frozenset[str]]
    alarms: Mapping[str, int]

    @property
    def is_sound(self) -> bool:
        return not self.kind


def case(run: Evidence, kind: str = "", reasons: frozenset[str] = frozenset()) -> Case:
    """What all detectors see in a run."""
    read = {check.name: check.sign(run) for check in TABLE}
    broken = {name: alarms(run, rules) for name, rules in BASELINES.items()}
    return Case(
        kind,
        reasons,
        {name: math.nan if one is None else one.score for name, one in read.items()},
        {name: frozenset().union(*found.values()) for name, found in broken.items()},
        {name: len(found) for name, found in broken.items()},
    )


def halves(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Every second run of each kind for fitting, the others for judging."""
    seen: dict[str, int] = {}
    sides: tuple[list[Case], list[Case]] = ([], [])
    for one in cases:
        place = seen[one.kind] = seen.get(one.kind, -1) + 1
        sides[place % 2].append(one)
    return sides


def fit(cases: Sequence[Case], checks: Mapping[str, Check] = CHECKS) -> dict[str, float]:
    """A threshold for every check without a false alarm on these runs, halfway to the next run with its fault.

    That is the middle between the highest score of a sound run and the next higher one of a run with a fault that the
    check names. Where no such run is higher, or the check applies to no sound run, its threshold in the table stays,
    unless a sound run exceeds it: then it is that run's score.
    """
    out = {}
    for name, check in checks.items():
        sound = _finite([c.scores.get(name, math.nan) for c in cases if c.is_sound])
        faulty = _finite([c.scores.get(name, math.nan) for c in cases if name in c.reasons])
        top = float(sound.max()) if len(sound) else -math.inf
        above = faulty[faulty > top]
        if len(sound) and len(above):
            next_one = float(above.min())
            out[name] = (top + next_one) / 2 if math.isfinite(next_one) else max(top, check.threshold)
        else:
            out[name] = max(check.threshold, top)
    return out


@dataclass(frozen=True)
class Judged:
    """A detector on runs that it was not fitted to.

    Args:
        found: by kind, the share of runs with a fault that it names for the right reason.
        noticed: by kind, the share of runs in which it finds anything.
        false_alarms: the share of sound runs in which it finds anything.
        by_check: for each check, the share of the sound runs in which it fires; none for baselines.
    """

    found: Mapping[str, Interval]
    noticed: Mapping[str, Interval]
    false_alarms: Interval
    by_check: Mapping[str, Interval]


def judge(cases: Sequence[Case], thresholds: Mapping[str, float]) -> dict[str, Judged]:
    """Our checks at these thresholds, and every baseline, on the same runs; shares with Wilson's intervals."""
    ours = [
        frozenset(name for name, limit in thresholds.items() if c.scores.get(name, math.nan) > limit) for c in cases
    ]
    claims = {OURS: ours, **{name: [c.claimed[name] for c in cases] for name in BASELINES}}
    firing = {OURS: [len(found) > 0 for found in ours], **{n: [c.alarms[n] > 0 for c in cases] for n in BASELINES}}
    out = {}
    for name, claimed in claims.items():
        kinds = dict.fromkeys(c.kind for c in cases if not c.is_sound)
        of = {kind: [i for i, c in enumerate(cases) if c.kind == kind] for kind in ("", *kinds)}
        right = {kind: _share([bool(claimed[i] & cases[i].reasons) for i in of[kind]]) for kind in kinds}
        any_ = {kind: _share([firing[name][i] for i in of[kind]]) for kind in kinds}
        single = {k: _share([k in claimed[i] for i in of[""]]) for k in thresholds} if name == OURS and of[""] else {}
        out[name] = Judged(right, any_, _share([firing[name][i] for i in of[""]]), single)
    return out


def _share(hits: Sequence[bool]) -> Interval:
    if not hits:
        return Interval(math.nan, math.nan, math.nan, 0.95, 0)
    return proportion([float(hit) for hit in hits], seed=0, n=200)


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic: rates of false alarms and hits over all thresholds, and the area below."""

    false_alarms: Array
    hits: Array
    auc: float
    low: float  # 95 % interval of the area
    high: float


def roc(sound: ArrayLike, faulty: ArrayLike) -> Roc | None:
    """ROC of a score, ties counting ½; the interval of its area is DeLong's (1988), on the logit scale.

    None without scores on one of the sides. Runs in which the score cannot be told count as lowest.
    """
    a, b = (np.nan_to_num(np.asarray(x, dtype=np.float64), nan=-math.inf) for x in (sound, faulty))
    if not len(a) or not len(b):
        return None
    limits = np.concatenate([[math.inf], np.unique(np.concatenate([a, b]))[::-1]])
    false, hits = (np.array([(x >= limit).mean() if limit < math.inf else 0.0 for limit in limits]) for x in (a, b))
    wins = (b[:, None] > a[None]) + 0.5 * (b[:, None] == a[None])
    auc = float(wins.mean())
    spread = sum(float(part.var(ddof=1)) / len(part) for part in (wins.mean(1), wins.mean(0)) if len(part) > 1)
    low, high = _logit_interval(auc, math.sqrt(spread))
    return Roc(false, hits, auc, low, high)


def _logit_interval(p: float, se: float) -> tuple[float, float]:
    """At 0 and 1, where the logit has no spread, the whole side is left open to what the error says."""
    z = float(ndtri(0.975))
    if not 0 < p < 1 or se == 0:
        return max(0.0, p - z * se), min(1.0, p + z * se)
    centre, half = math.log(p / (1 - p)), z * se / (p * (1 - p))
    ends = [1 / (1 + math.exp(-min(500.0, max(-500.0, centre + side * half)))) for side in (-1, 1)]
    return ends[0], ends[1]


def rocs(cases: Sequence[Case]) -> dict[str, Roc | None]:
    """For each check, sound runs against those with a fault that it names; for each baseline, by broken rules."""
    sound = [c for c in cases if c.is_sound]
    out = {
        name: roc([c.scores[name] for c in sound], [c.scores[name] for c in cases if name in c.reasons])
        for name in CHECKS
    }
    faulty = [c for c in cases if not c.is_sound]
    return out | {name: roc([c.alarms[name] for c in sound], [c.alarms[name] for c in faulty]) for name in BASELINES}


def _finite(values: Sequence[float]) -> Array:
    known = np.asarray(values, dtype=np.float64)
    return known[~np.isnan(known)]
