"""What the best action is worth on a problem, and what another one costs against it.

Regret = (V_best − V_advised)/(V_best − V_ref), V_ref = 0. The best action is chosen on one half of the seeds and both
are scored on the other half, each half in turn: the best of noisy means would be too high.
"""

from __future__ import annotations

import numpy as np

from prefloop.advice.table import Array, Table

FLOOR = 0.05  # share of the attainable gain that the best action must keep for regret to have a meaning


def regret(values: Array, weights: Array) -> Array:
    """Regret on each problem, [n]; nan where the best action keeps less than FLOOR.

    Args:
        values: [n, A, S], two or more seeds.
        weights: of the actions, [n, A]; 1 for the advised one.
    """
    best, own = best_value(values), (_halves(values).mean(0) * weights).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(best >= FLOOR, (best - own) / best, np.nan)


def best_value(values: Array) -> Array:
    """What the best action is worth on each problem, [n]: chosen on one half of the seeds and scored on the other, each
    half in turn.

    Args:
        values: [n, A, S], two or more seeds.
    """
    one, other = _halves(values)
    rows = np.arange(len(values))
    return np.asarray((other[rows, one.argmax(1)] + one[rows, other.argmax(1)]) / 2)


def _halves(values: Array) -> Array:
    """Means over every second seed, [2, n, A]."""
    return np.stack([values[..., 0::2].mean(-1), values[..., 1::2].mean(-1)])


def best_constant(table: Table) -> str:
    """The action with the lowest mean regret; with the highest mean value where regret has a meaning on no problem."""
    count = len(table.actions)
    each = np.stack([regret(table.values, np.broadcast_to(one, (len(table), count))) for one in np.eye(count)])
    known = np.isfinite(each).all(0)
    cost = each[:, known].mean(1) if known.any() else -table.value.mean(0)
    return table.actions[int(cost.argmin())]
