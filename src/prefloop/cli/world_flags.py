"""The fields of a world as flags of `prefloop lab`, made from its specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, get_origin

from prefloop.core.errors import UserError
from prefloop.runs import schema
from prefloop.worlds.spec import Flag, hints, name_of, world_class, worlds

PROBLEM = "arms"  # the default


@dataclass(frozen=True)
class Field:
    """A field of a world: its type, words for some of its values, and its meaning."""

    name: str
    kind: type
    words: Mapping[str, Any]
    note: str


def flags_of(world: Any) -> dict[str, Field]:
    """The fields of a world by flag name."""
    out, noted = {}, schema.notes(world)
    for name, (plain, more) in hints(world).items():
        flag = next((m for m in more if isinstance(m, Flag)), Flag(name, {}))
        kind = str if get_origin(plain) is Literal or flag.words else plain
        out[flag.name] = Field(name, kind, flag.words, noted.get(name, ""))
    return out


def world_schema(words: Sequence[str]) -> type:
    """A list flag for every field of every world: the built-in ones, and the one given by `--problem`.

    Raises:
        UserError: an unknown problem.
    """
    having: dict[str, dict[str, Field]] = {}
    for kind in dict.fromkeys([*worlds().values(), world_class(_problem(words))]):
        for flag, one in flags_of(kind).items():
            having.setdefault(flag, {})[name_of(kind)] = one
    made = []
    for flag, by_name in having.items():
        first = next(iter(by_name.values()))
        some = "" if len(by_name) >= len(worlds()) else f"{', '.join(by_name)}: "
        hint = Annotated[tuple[first.kind, ...], schema.Flag(commas=True, note=some + (first.note or flag))]  # type: ignore[name-defined]
        made.append((flag, hint, field(default=())))
    return make_dataclass("WorldFlags", made, frozen=True, namespace={"__doc__": "fields of the problem"})


def _problem(words: Sequence[str]) -> str:
    """The value of `--problem`, before the other flags are parsed."""
    joined = [w.partition("=")[2] for w in words if w.startswith("--problem=")]
    spaced = [value for flag, value in pairwise(words) if flag == "--problem"]
    return (*spaced, *joined, PROBLEM)[0]


def world_values(problem: str, given: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The values given for the fields of a problem, by field name.

    Raises:
        UserError: a flag of another problem, or an unknown word.
    """
    own = flags_of(world_class(problem))
    for flag in given:
        if flag not in own:
            shown = f"--{flag.replace('_', '-')}"
            having = ", ".join(name for name, kind in worlds().items() if flag in flags_of(kind))
            what = f"`{shown}` does not apply to the problem `{problem}`"
            raise UserError(what, where=shown, fix=f"it is a flag of {having}")
    return {own[flag].name: [_value(flag, v, own[flag].words) for v in dict.fromkeys(vs)] for flag, vs in given.items()}


def typed(world: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a setting as they are typed: those of the world by the names of their flags, values by their words."""
    out = {}
    flags = {one.name: (flag, one.words) for flag, one in flags_of(world).items()}
    for name, value in fields.items():
        flag, words = flags.get(name, (name, {}))
        out[flag] = next((word for word, meant in words.items() if meant == value), value)
    return out


def _value(flag: str, value: Any, words: Mapping[str, Any]) -> Any:
    if not words or value in words:
        return words.get(value, value) if words else value
    try:
        return float(value)
    except ValueError:
        fix = f"{', '.join(words)}, or a number"
        raise UserError(f"`{flag}` cannot be {value!r}", where=f"--{flag.replace('_', '-')}", fix=fix) from None
