"""What the rule chooses by: the merit of an action, its value as a share of the best action's.

Regret is the merit that is missed, so it is merit that is fitted, and only what differs between the actions of a
problem: how much can be gained on a problem at all is the larger part of a value, and decides nothing. Merit is linear
in features × switches, of which few matter: lasso (Tibshirani 1996), its penalty by the squared error on left-out
problems; at the largest one the best constant action is all that is left. How sure a lead is shows in refits to
resampled problems (Efron 1979): it is the error of the mean, not that of a single problem, which would forbid every
departure from the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefloop.advice.actions import ACTIONS
from prefloop.advice.rule import bounded, linear
from prefloop.advice.table import Array, Places, Table
from prefloop.advice.value import FLOOR, best_value

SWITCHES = ("on_policy", "negative", "reuse", "anchored", "policy gradient")  # ψ
LOSS = 2.0  # best values that a problem's action may lose in the fit: what it loses beyond tells nothing of others
REFITS = 40
PATH = np.logspace(0, -2.5, 9)  # penalties, as shares of the smallest one that leaves only the best constant action
PARTS = 5  # of the problems, each left out in turn, by which the penalty is chosen
ITERATIONS = 150


def switches(actions: Sequence[str]) -> Array:
    """ψ of each action, [A, 5]."""
    rows = []
    for name in actions:
        s = ACTIONS[name].switches
        gradient = float(s.family == "policy gradient")
        rows.append([float(s.on_policy), float(s.negative), np.log2(s.reuse) / 2, float(s.anchored), gradient])
    return np.array(rows, dtype=np.float64)


def contrasts(actions: Sequence[str]) -> Array:
    """ψ with mean 0 and mean square 1 over the actions, [A, 5]; a switch that all have alike tells nothing: 0."""
    psi = switches(actions)
    psi = psi - psi.mean(0)
    size = np.sqrt((psi**2).mean(0))
    return np.asarray(psi / np.where(size > 0, size, 1.0))


def merits(table: Table) -> tuple[Array, Places]:
    """Merit of every action less the problem's mean, [m, A], on the m problems where regret has a meaning: their
    places."""
    best = best_value(table.values)
    rows = np.flatnonzero(best >= FLOOR)
    share = np.maximum(table.value[rows] / best[rows, None], -LOSS)
    return share - share.mean(1, keepdims=True), rows


# -------------------------------------------------------------------------------------------------------- regression


def standardised(features: Array) -> tuple[Array, Array, Array]:
    """Features with mean 0 and standard deviation 1, bounded, and both; what cannot be told is at the mean."""
    known = np.isfinite(features)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, features, 0.0).sum(0) / count
    away = np.where(known, features - mean, 0.0)
    scale = np.sqrt((away**2).sum(0) / count)
    scale = np.where(scale > 1e-9, scale, 1.0)
    return bounded(away / scale), mean, scale


def placed(features: Array, mean: Array, scale: Array) -> Array:
    """Other features on the same scale."""
    return bounded(np.where(np.isfinite(features), features - mean, 0.0) / scale)


def parts(n: int, count: int, seed: int = 0) -> list[tuple[Places, Places]]:
    """(train, test) of `count` random parts of about equal size, each left out in turn."""
    order = np.random.default_rng(seed).permutation(n)
    split = np.array_split(order, min(count, n))
    return [(np.sort(np.concatenate([*split[:i], *split[i + 1 :]])), np.sort(test)) for i, test in enumerate(split)]


def lassos(z: Array, y: Array, psi: Array, penalties: Array, counts: Array | None = None) -> Array:
    """Weights of each action, [F, B, A, 1 + d], for F falling penalties.

    argmin ½|y − μ − z Wᵀψᵀ|² + penalty |W|₁, with μ the means of y, by FISTA (Beck and Teboulle 2009) from the solution
    before.

    Args:
        z: [n, d].
        y: [n, A].
        penalties: [F, B].
        counts: how often each problem is there in each of B samples, [B, n]; by default once in one sample.
    """
    times = np.ones((1, len(z))) if counts is None else counts
    mean = times @ y / times.sum(1, keepdims=True)
    slope = psi.T @ np.einsum("bn,bna,nd->bad", times, y - mean[:, None], z, optimize=True)
    inner, outer = np.einsum("bn,nd,ne->bde", times, z, z, optimize=True), psi.T @ psi
    steep = np.linalg.norm(inner, 2, axis=(1, 2)) * np.linalg.norm(outer, 2)
    step = np.where(steep > 0, steep, 1.0)[:, None, None]
    w, out = np.zeros_like(slope), []
    for penalty in penalties[..., None, None]:
        ahead, t = w, 1.0
        for _ in range(ITERATIONS):
            moved = ahead - (outer @ ahead @ inner - slope) / step
            new = np.sign(moved) * np.maximum(np.abs(moved) - penalty / step, 0.0)
            longer = (1 + np.sqrt(1 + 4 * t * t)) / 2
            ahead, w, t = new + (t - 1) / longer * (new - w), new, longer
        out.append(np.concatenate([mean[..., None], psi @ w], -1))
    return np.array(out)


@dataclass(frozen=True)
class Merit:
    """Merit as a function of standardised features.

    Args:
        weights: [1 + REFITS, A, 1 + d], the first fitted to all problems, the others to resampled ones.
        errors: on left-out problems, [m, A].
    """

    weights: Array
    errors: Array


def fitted_merit(table: Table, *, seed: int = 0) -> Merit:
    """The merit of a table's actions; all zero where regret has no meaning on any problem, or on one only."""
    (y, rows), psi = merits(table), contrasts(table.actions)
    x, rng = table.features[rows], np.random.default_rng(seed)
    if len(rows) < 2:
        nothing = np.zeros((1 + REFITS, len(table.actions), 1 + x.shape[1]))
        return Merit(nothing, np.zeros((0, len(table.actions))))
    _, mean, scale = standardised(table.features)
    z = placed(x, mean, scale)
    path = PATH * np.abs(psi.T @ (y - y.mean(0)).T @ z).max()
    errors = _left_out(x, y, psi, path)
    last = int((errors**2).sum((1, 2)).argmin())
    counts = np.concatenate([np.ones((1, len(y))), rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=REFITS)])
    weights = lassos(z, y, psi, np.repeat(path[: last + 1, None], len(counts), 1), counts)
    return Merit(weights[-1], errors[last])


def _left_out(x: Array, y: Array, psi: Array, path: Array) -> Array:
    """Errors on problems that the fit had not seen, by penalty, [penalties, m, A]."""
    out = np.zeros((len(path), *y.shape))
    for train, test in parts(len(y), PARTS):
        z, mean, scale = standardised(x[train])
        weights = lassos(z, y[train], psi, path[:, None] * len(train) / len(y))[:, 0]
        for i, own in enumerate(weights):
            out[i, test] = linear(own, placed(x[test], mean, scale)) - y[test]
    return out


def by_switch(table: Table) -> tuple[Array, Array]:
    """What one standard deviation of each feature adds to the merit of an action with each switch, against one without
    it, [5, d], and its standard error over the refits."""
    psi = switches(table.actions)
    centred = psi - psi.mean(0)
    slopes = fitted_merit(table).weights[:, :, 1:]
    every = np.array([np.linalg.lstsq(centred, one, rcond=None)[0] for one in slopes])
    return every[0], np.std(every[1:], axis=0, ddof=1)
