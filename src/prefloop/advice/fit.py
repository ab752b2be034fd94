"""Fit the rule to problems with known outcomes: its choice (`merit`), ridge for the value, logistic for breaking.

Row (problem, action) of ridge and logistic regression has the features ψ(action) ⊗ [1, z] with z the standardised
features of the problem, and ψ the switches of the action and a 1, so that what is learned of one action helps the
others; every action has an intercept of its own. All errors that a rule states are those of predictions for problems
that the fit had not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.special import expit

from prefloop.advice.merit import fitted_merit, parts, placed, standardised, switches
from prefloop.advice.rule import Rule, Status, linear
from prefloop.advice.table import Table
from prefloop.advice.value import best_constant

Array: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.intp]

PARTS = 10
LEVEL = 0.8
PENALTIES = tuple(float(x) for x in np.logspace(0, 5, 6))  # of ridge, in units of rows
LOGISTIC = 10.0  # penalty of the logistic regression
FREE = 1e-6  # penalty of the intercepts


# -------------------------------------------------------------------------------------------------------- regression


def factors(actions: Sequence[str]) -> Array:
    """1 and ψ of each action, [A, 6]."""
    return np.concatenate([np.ones((len(actions), 1)), switches(actions)], 1)


def design(z: Array, actions: Sequence[str]) -> Array:
    """[n, A, A + 6 d]: an intercept of each action, and every feature with every switch."""
    psi = factors(actions)
    products = np.einsum("ak,nd->nakd", psi, z).reshape(len(z), len(actions), -1)
    own = np.broadcast_to(np.eye(len(actions)), (len(z), len(actions), len(actions)))
    return np.concatenate([own, products], -1)


def unfolded(weights: Array, actions: Sequence[str], features: int) -> Array:
    """Weights of `design` as those of each action, [A, 1 + d]."""
    psi, count = factors(actions), len(actions)
    slopes = psi @ weights[count:].reshape(psi.shape[1], features)
    return np.concatenate([weights[:count, None], slopes], 1)


def ridge(x: Array, y: Array, penalty: float, free: int) -> Array:
    """argmin |y − x w|² + penalty |w|², the first `free` weights without a penalty."""
    weight = np.full(x.shape[1], penalty)
    weight[:free] = FREE
    return np.asarray(solve(x.T @ x + np.diag(weight), x.T @ y, assume_a="pos"))


def logistic(x: Array, share: Array, trials: int, free: int, penalty: float = LOGISTIC) -> Array:
    """Logistic regression of shares of `trials`, by Newton's method with halved steps; penalties as of `ridge`.

    The intercepts have a penalty of 1, so that an action that never broke has a finite one.
    """
    weight = np.full(x.shape[1], penalty)
    weight[:free] = 1.0
    w = np.zeros(x.shape[1])

    def loss(v: Array) -> float:
        eta = x @ v
        return float(trials * (np.logaddexp(0, eta) - share * eta).sum() + 0.5 * (weight * v * v).sum())

    now = loss(w)
    for _ in range(50):
        p = expit(x @ w)
        slope = trials * x.T @ (p - share) + weight * w
        bend = (x * (trials * p * (1 - p))[:, None]).T @ x + np.diag(weight)
        step, size = solve(bend, slope, assume_a="pos"), 1.0
        while size > 1e-6 and loss(w - size * step) > now:
            size /= 2
        w = w - size * step
        before, now = now, loss(w)
        if before - now < 1e-9 * (1 + abs(now)):
            break
    return w


@dataclass(frozen=True)
class Model:
    """Value and breaking of each action, as functions of the features."""

    mean: Array
    scale: Array
    gain: Array
    breaks: Array
    penalty: float

    def __call__(self, features: Array) -> tuple[Array, Array]:
        """[n, A] each."""
        z = placed(features, self.mean, self.scale)
        return linear(self.gain, z), np.asarray(expit(linear(self.breaks, z)))


def regressed(table: Table) -> Model:
    """Ridge and logistic regression."""
    z, mean, scale = standardised(table.features)
    penalty = best_penalty(table)
    gain = _gain(z, table, penalty)
    x = design(z, table.actions).reshape(-1, len(table.actions) + factors(table.actions).shape[1] * z.shape[1])
    share, trials = table.broke.mean(-1).ravel(), table.broke.shape[-1]
    breaks = unfolded(logistic(x, share, trials, len(table.actions)), table.actions, z.shape[1])
    return Model(mean, scale, gain, breaks, penalty)


def best_penalty(table: Table) -> float:
    """The penalty of ridge with the least squared error of the values of left-out problems."""

    def error(penalty: float) -> float:
        return float(((unseen(table, penalty, min(5, len(table))) - table.value) ** 2).sum())

    return min(PENALTIES, key=error)


def unseen(table: Table, penalty: float, count: int = PARTS) -> Array:
    """Predicted values of problems that the fit had not seen, [n, A]."""
    out = np.zeros_like(table.value)
    for train, test in parts(len(table), count):
        z, mean, scale = standardised(table.features[train])
        out[test] = linear(_gain(z, table[train], penalty), placed(table.features[test], mean, scale))
    return out


def _gain(z: Array, table: Table, penalty: float) -> Array:
    count = len(table.actions)
    x = design(z, table.actions).reshape(len(z) * count, -1)
    return unfolded(ridge(x, table.value.ravel(), penalty, free=count), table.actions, z.shape[1])


# ---------------------------------------------------------------------------------------------------------- the rule


def conformal(errors: Array, level: float = LEVEL) -> Array:
    """Half-widths that hold a new error at the level: the ⌈(n + 1) level⌉-th smallest of n absolute errors, by column
    (split conformal, Vovk et al. 2005; infinite with too few)."""
    n = len(errors)
    rank = int(np.ceil((n + 1) * level))
    if rank > n:
        return np.full(errors.shape[1:], np.inf)
    return np.asarray(np.sort(np.abs(errors), axis=0)[rank - 1])


def errors_between(errors: Array) -> Array:
    """Root mean square error of predicted differences, [A, A], from errors of actions [n, A]; infinite for none."""
    if not len(errors):
        return np.full((errors.shape[1], errors.shape[1]), np.inf)
    gaps = errors[:, :, None] - errors[:, None, :]
    return np.asarray(np.sqrt((gaps**2).mean(0)))


def fitted(table: Table, status: Status | None = None) -> Rule:
    """The rule for a table.

    Args:
        status: how it was tested, see `regret.tested`; by default that it was not.
    """
    model = regressed(table)
    errors, merit = unseen(table, model.penalty) - table.value, fitted_merit(table)
    worlds: Mapping[str, int] = {world: table.worlds.count(world) for world in dict.fromkeys(table.worlds)}
    return Rule(
        table.names,
        model.mean,
        model.scale,
        table.actions,
        model.gain,
        model.breaks,
        merit.weights,
        errors_between(merit.errors),
        conformal(errors),
        LEVEL,
        best_constant(table),
        status or Status(problems=len(table), worlds=worlds),
    )
