"""Small trees on the features: one of depth 3 for the page, whose leaves are actions, and boosted ones as a ceiling.

Not part of the shipped rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from prefloop.analysis.numbers import compact

Array: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.intp]
Worth: TypeAlias = Callable[
    [Array, Counts], Array
]  # sums [k, A], counts [k] of rows of a leaf -> what it is worth, [k]


@dataclass(frozen=True)
class Leaf:
    """Mean of its rows, [A]."""

    value: Array
    rows: int


@dataclass(frozen=True)
class Split:
    """Rows with a feature up to a threshold go left; those where it is not known too."""

    feature: int
    at: float
    left: Node
    right: Node


Node: TypeAlias = Leaf | Split


def by_best(sums: Array, counts: Counts) -> Array:
    """The value of a leaf's best action: a tree that splits by it is a policy."""
    return np.asarray(sums.max(-1))


def by_square(sums: Array, counts: Counts) -> Array:
    """What a leaf's mean explains of the squares: a regression tree."""
    return np.asarray((sums**2).sum(-1) / np.maximum(counts, 1))


def grown(x: Array, y: Array, depth: int, least: int, worth: Worth = by_best) -> Node:
    """A tree by greedy splits that gain the most, none with fewer rows than `least` in a leaf.

    Args:
        x: [n, d].
        y: [n, A].
    """
    here = Leaf(y.mean(0), len(y))
    found = max(_splits(x, y, least, worth), key=lambda s: s[0], default=None) if depth else None
    whole = float(worth(y.sum(0)[None], np.array([len(y)], dtype=np.intp))[0])
    if found is None or found[0] <= whole + 1e-9 * (1 + abs(whole)):
        return here
    _, feature, at = found
    right = x[:, feature] > at
    parts = (grown(x[rows], y[rows], depth - 1, least, worth) for rows in (~right, right))
    return Split(feature, at, *parts)


def _splits(x: Array, y: Array, least: int, worth: Worth) -> Iterator[tuple[float, int, float]]:
    """(worth of both sides, feature, threshold) of the best split of each feature."""
    n = len(x)
    for feature in range(x.shape[1]):
        column = np.where(np.isfinite(x[:, feature]), x[:, feature], -np.inf)
        order = np.argsort(column, kind="stable")
        ranked, below = column[order], np.cumsum(y[order], 0)
        place = np.arange(least, n - least + 1, dtype=np.intp)
        place = place[(ranked[place - 1] < ranked[np.minimum(place, n - 1)])] if len(place) else place
        if not len(place):
            continue
        left = below[place - 1]
        total = worth(left, place) + worth(below[-1] - left, np.asarray(n - place, dtype=np.intp))
        best = int(total.argmax())
        low, high = ranked[place[best] - 1], ranked[place[best]]
        yield float(total[best]), feature, float((low + high) / 2 if np.isfinite(low) else high - 1.0)


def predicted(tree: Node, x: Array) -> Array:
    """[n, A]."""
    if isinstance(tree, Leaf):
        return np.broadcast_to(tree.value, (len(x), len(tree.value)))
    right = x[:, tree.feature] > tree.at
    left, other = predicted(tree.left, x), predicted(tree.right, x)
    return np.where(right[:, None], other, left)


def boosted(x: Array, y: Array, *, trees: int = 100, depth: int = 3, least: int = 5, rate: float = 0.1) -> list[Node]:
    """Gradient boosting of squared error, all actions at once (Friedman 2001); the first tree is the mean."""
    out: list[Node] = [Leaf(y.mean(0), len(y))]
    rest = y - y.mean(0)
    for _ in range(trees):
        tree = grown(x, rest, depth, least, by_square)
        rest = rest - rate * predicted(tree, x)
        out.append(tree)
    return out


def summed(trees: Sequence[Node], x: Array, rate: float = 0.1) -> Array:
    """Predictions of `boosted`, [n, A]."""
    first, *others = trees
    return np.asarray(predicted(first, x) + rate * sum((predicted(tree, x) for tree in others), np.zeros(1)))


@dataclass(frozen=True)
class Way:
    """A leaf of a tree with the way to it.

    Args:
        conditions: such as `beyond ≤ 0.5`; where a feature is not known, its `≤` holds.
        place: of the best action there.
    """

    conditions: tuple[str, ...]
    place: int
    leaf: Leaf


def paths(tree: Node, names: Sequence[str], conditions: tuple[str, ...] = ()) -> list[Way]:
    """Every leaf, from left to right."""
    if isinstance(tree, Leaf):
        return [Way(conditions, int(tree.value.argmax()), tree)]
    name, at = names[tree.feature], compact(tree.at)
    left = paths(tree.left, names, (*conditions, f"{name} ≤ {at}"))
    return [*left, *paths(tree.right, names, (*conditions, f"{name} > {at}"))]
