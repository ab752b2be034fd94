"""The values that a hyper-parameter may take, declared by its type: `def loss(..., *, beta: Positive = 0.1)`.

A type that includes a tensor takes one value, or one per stacked run, [S]; `One…` types take one value only.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from prefloop.core.errors import UserError, nearest

Number = float | Tensor  # one value, or one per stacked run


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `above` excludes `low`."""

    words: str
    low: float
    high: float = math.inf
    above: bool = False

    def holds(self, low: float, high: float) -> bool:
        return self.low <= low <= high <= self.high and not (self.above and low == self.low)


POSITIVE = Range("above 0", 0.0, above=True)
NOT_NEGATIVE = Range("at least 0", 0.0)
SHARE = Range("a share between 0 and 1", 0.0, 1.0)
Positive = Annotated[Number, POSITIVE]
NotNegative = Annotated[Number, NOT_NEGATIVE]
Share = Annotated[Number, SHARE]
OnePositive = Annotated[float, POSITIVE]
OneNotNegative = Annotated[float, NOT_NEGATIVE]
OneShare = Annotated[float, SHARE]
Count = Annotated[int, Range("at least 1", 1.0)]


@dataclass(frozen=True)
class Kind:
    """The content of a type hint: plain types, choices, and the range of a number."""

    types: frozenset[Any] = frozenset()
    choices: tuple[Any, ...] = ()
    range: Range | None = None

    @property
    def per_run(self) -> bool:
        """Whether one value per stacked run is allowed."""
        return Tensor in self.types

    @property
    def number(self) -> bool:
        return not self.types.isdisjoint((int, float))


@cache
def kind(hint: Any) -> Kind:
    """The kind that a type hint describes; unknown hints allow any value."""
    if get_origin(hint) is Annotated:
        inner = kind(hint.__origin__)
        return Kind(inner.types, inner.choices, next((x for x in hint.__metadata__ if isinstance(x, Range)), None))
    if get_origin(hint) is Literal:
        return Kind(choices=get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        each = [kind(h) for h in get_args(hint)]
        types, choices = frozenset[Any]().union(*(k.types for k in each)), tuple(c for k in each for c in k.choices)
        return Kind(types, choices, next((k.range for k in each if k.range), None))
    return Kind(frozenset([get_origin(hint) or hint]))


@cache
def hyper_parameters(part: Callable[..., Any]) -> Mapping[str, tuple[Any, Kind]]:
    """Default and kind of every hyper-parameter of a part: its keyword-only arguments except those the loop passes.

    Raises:
        UserError: a type annotation cannot be resolved.
    """
    names = [p for p in inspect.signature(part).parameters.values() if p.kind is p.KEYWORD_ONLY]
    try:
        hints = get_type_hints(part, include_extras=True)
    except NameError as error:
        where = f"{part.__module__}.{part.__qualname__}"
        raise UserError(f"unknown type annotation: {error}", where=where, fix="import it") from error
    return {p.name: (p.default, kind(hints.get(p.name, Any))) for p in names if p.name not in ("state", "rng")}


def check(name: str, value: Any, wanted: Kind) -> None:
    """Refuse a value that its type does not allow.

    Raises:
        UserError: names the value and the values that are allowed.
    """
    if value is None and NoneType in wanted.types:
        return
    if wanted.choices and value not in wanted.choices:
        raise UserError(f"`{name}` cannot be {value!r}", fix=nearest(str(value), map(str, wanted.choices)))
    if Callable in wanted.types and not callable(value):
        raise UserError(f"`{name}` must be a function, not {value!r}")
    if bool in wanted.types and not isinstance(value, bool):
        raise UserError(f"`{name}` must be true or false, not {value!r}")
    if wanted.number:
        _check_number(name, value, wanted)


def _check_number(name: str, value: Any, wanted: Kind) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        raise UserError(f"`{name}` must be a number, not {value!r}")
    if isinstance(value, Tensor) and not wanted.per_run:
        raise UserError(f"`{name}` takes one value for all runs, not {value.tolist()}")
    low, high = map(float, (value.min(), value.max()) if isinstance(value, Tensor) else (value, value))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"`{name}` must be finite, not {value}")
    if wanted.range is not None and not wanted.range.holds(low, high):
        raise UserError(f"`{name}` must be {wanted.range.words}, not {value}")
    if float not in wanted.types and not isinstance(value, int):
        raise UserError(f"`{name}` must be a whole number, not {value}")
