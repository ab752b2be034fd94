"""The interface of a world: a frozen dataclass with its own fields, checked by their types, that can build a stack.

A built-in world is a folder with `spec.py`, `problem.py` and `build.py`; a user's own is any class with the members of
`World`, named as `module:Class`.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

import prefloop.worlds
from prefloop.core import user
from prefloop.core.errors import UserError, nearest

if TYPE_CHECKING:  # specifications import no torch, so that --help is fast
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from prefloop.core.method import Method
    from prefloop.core.streams import Stream

# ------------------------------------------------------------------------------------------------------------- fields


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `above` excludes `low`."""

    text: str
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return math.isfinite(value) and self.low <= value <= self.high and not (self.above and value == self.low)


@dataclass(frozen=True)
class Flag:
    """A field's name on the command line, and words for some of its values."""

    name: str
    words: Mapping[str, float]


PER_RUN = "per run"  # marks a field whose value may differ between the runs of one stack
Count = Annotated[int, Range("a whole number of at least 1", low=1.0, whole=True)]
Whole = Annotated[int, Range("a whole number of at least 0", low=0.0, whole=True)]
Positive = Annotated[float, Range("a positive number", low=0.0, above=True)]
Number = Annotated[float, Range("a number")]
Share = Annotated[float, Range("a share between 0 and 1", low=0.0, high=1.0)]
NonzeroShare = Annotated[float, Range("a share above 0 and up to 1", low=0.0, high=1.0, above=True)]
Percentile = Annotated[float, Range("a percentile between 0 and 100", low=0.0, high=100.0)]


@cache
def hints(kind: Any) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """The plain type of each field and the annotations: a Range, PER_RUN, a Flag."""
    out, known = {}, {f.name for f in fields(kind)}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name in known:
            plain, *more = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            out[name] = (plain, tuple(more))
    return out


def per_run_fields(kind: type) -> frozenset[str]:
    """Fields that may differ between the runs of one stack."""
    return frozenset(name for name, (_, more) in hints(kind).items() if PER_RUN in more)


def check_fields(record: Any) -> None:
    """Check that every number is in its range and every word among its choices.

    Raises:
        UserError: names the field, its value and the allowed values.
    """
    kind: type = type(record)
    for name, (plain, more) in hints(kind).items():
        value = getattr(record, name)
        if get_origin(plain) is Literal and value not in get_args(plain):
            raise UserError(f"`{name}` cannot be {value!r}", fix=nearest(str(value), map(str, get_args(plain))))
        for allowed in more:
            if isinstance(allowed, Range) and value not in allowed:
                raise UserError(f"`{name}` must be {allowed.text}, not {value!r}")


def check_pairs(method: Method) -> None:
    """Refuse to learn a reward from groups of one response."""
    if method.responses < 2:
        raise UserError("a learned reward needs pairs of responses", fix="responses >= 2")


def check_ranks(labels: str, method: Method) -> None:
    """Refuse ranks within groups of one response."""
    if labels == "ordinal" and method.responses < 2:
        raise UserError("ordinal labels compare responses to the same prompt", fix="responses >= 2")


def check_enumerable(method: Method) -> None:
    """Refuse the exact KL if responses cannot be enumerated."""
    if method.kl and method.kl_estimator == "exact":
        raise UserError("a GPT cannot sum over all responses", where="kl_estimator=exact", fix="kl_estimator=k2")


# -------------------------------------------------------------------------------------------------------------- world


@runtime_checkable
class World(Protocol):
    """The specification of a world: a frozen dataclass with a default for every field."""

    @property
    def runs_per_stack(self) -> int:
        """Default number of runs per stack."""

    @property
    def cost(self) -> float:
        """Time per response and gradient step, in tokens of the smallest GPT; it orders the stacks of a sweep."""

    @property
    def tokens(self) -> int:
        """Length of the longest response in tokens."""

    @property
    def ceiling(self) -> float:
        """The highest possible gold reward."""

    def fingerprint(self) -> Any:
        """What else determines a run, such as the data behind a fitted reference, as JSON; part of its name."""

    def about(self) -> str:
        """Information about the reference, printed below the results; may be empty."""

    def check(self, method: Method) -> None:
        """Refuse fields that are incompatible with each other or with the method (UserError)."""

    def build(self, stack: Stack) -> Built:
        """Build what the loop needs for all runs of a stack; called on the first of its worlds."""


@dataclass(frozen=True)
class Stack:
    """The runs of one stack, as a world sees them.

    Args:
        worlds: one per run, equal except for fields marked PER_RUN.
        seeds: one per run.
        method: the method of all runs; `method.responses` is the group size.
        evaluation: number of prompts in the evaluation set.
        dtype: data type of parameters.
    """

    worlds: Sequence[Any]
    seeds: Sequence[int]
    method: Method
    evaluation: int
    dtype: torch.dtype

    @property
    def world(self) -> Any:
        """The first world, for the fields that all of them share."""
        return self.worlds[0]

    def alone(self, run: int) -> Stack:
        """A stack with that run only."""
        return Stack(self.worlds[run : run + 1], self.seeds[run : run + 1], self.method, self.evaluation, self.dtype)

    def each(self, name: str) -> Float[Tensor, " S"]:
        """A field of every run, as a tensor."""
        import torch

        return torch.tensor([getattr(w, name) for w in self.worlds], dtype=torch.float64)


@dataclass(frozen=True)
class Built:
    """The parts that a world gives to the loop.

    Args:
        method: the method of the stack, unless the world changes it.
        policy, reference, problem: see `core.protocols`.
        evaluate: (policy, reference, stream) -> metrics on the fixed evaluation set, [S] each.
        offline: responses per run in the offline data; 0 if the method uses none.
        glance: the same as `evaluate` on less, for all evaluations but the last; None if evaluations are cheap.
    """

    method: Method
    policy: Any
    reference: Any
    problem: Any
    evaluate: Callable[[Any, Any, Stream], dict[str, Tensor]]
    offline: int = 0
    glance: Callable[[Any, Any, Stream], dict[str, Tensor]] | None = None


def sibling(world: World, name: str) -> Any:
    """A module in the world's folder, imported on demand: `build` needs torch, a spec does not."""
    return import_module(f"{type(world).__module__.rpartition('.')[0]}.{name}")


# ----------------------------------------------------------------------------------------------------------- registry


@cache
def worlds() -> dict[str, type[Any]]:
    """Every built-in world by name: those that a folder's `spec` lists in WORLDS."""
    out: dict[str, type[Any]] = {}
    for folder in pkgutil.iter_modules(prefloop.worlds.__path__, "prefloop.worlds."):
        if folder.ispkg and find_spec(f"{folder.name}.spec"):
            out |= {name_of(kind): kind for kind in getattr(import_module(f"{folder.name}.spec"), "WORLDS", ())}
    return out


def name_of(kind: type) -> str:
    """`arms` for the built-in `Arms`, `module:Class` for a user's own."""
    here = kind.__module__.startswith("prefloop.")
    return kind.__name__.lower() if here else f"{kind.__module__}:{kind.__qualname__}"


def world_class(name: str) -> type[Any]:
    """The world of that name, or of a user's own `module:Class`.

    Raises:
        UserError: no such world; the nearest name is suggested.
    """
    if ":" in name:
        return _own(name)
    if name not in worlds():
        raise UserError(f"unknown problem `{name}`", fix=nearest(name, worlds()))
    return worlds()[name]


def _own(name: str) -> type[Any]:
    kind = user.function(name, where="problem")
    members = [m for m in vars(World) if not m.startswith("_")]
    lacking = [m for m in ("__dataclass_fields__", *members) if not hasattr(kind, m)]
    if lacking:
        raise UserError(f"`{name}` is not a world: it lacks {', '.join(lacking)}", fix="see prefloop.worlds.spec.World")
    return kind
