"""Problems with what was measured before training and what came out: what the rule is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from prefloop.advice.actions import ACTIONS

Array: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class Table:
    """Problems with features and outcomes.

    Args:
        problems, worlds: names, [n].
        names: of the features, [d].
        features: [n, d], nan where one cannot be told.
        values: share of the attainable gain by seed, [n, A, S].
        broke: [n, A, S], 0 or 1.
        actions: names, [A].
    """

    problems: tuple[str, ...]
    worlds: tuple[str, ...]
    names: tuple[str, ...]
    features: Array
    values: Array
    broke: Array
    actions: tuple[str, ...] = tuple(ACTIONS)

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, rows: Places) -> Table:
        some = [int(i) for i in rows]
        return Table(
            tuple(self.problems[i] for i in some),
            tuple(self.worlds[i] for i in some),
            self.names,
            self.features[some],
            self.values[some],
            self.broke[some],
            self.actions,
        )

    @property
    def value(self) -> Array:
        """Mean over seeds, [n, A]."""
        return np.asarray(self.values.mean(-1))
