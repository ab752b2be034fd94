"""The fields of a world as flags of `prefloop lab`, made from its specification."""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_origin

from prefloop.core.errors import UserError
from prefloop.worlds.spec import Flag, hints, name_of, world_class, worlds


@dataclass(frozen=True)
class Field:
    """A field of a world: its type, and words that stand for some of its values."""

    name: str
    kind: type
    words: Mapping[str, Any]
    help: str


def flags_of(world: Any) -> dict[str, Field]:
    """The fields of a world by the name of their flag."""
    out, helps = {}, notes(world)
    for name, (plain, more) in hints(world).items():
        flag = next((m for m in more if isinstance(m, Flag)), Flag(name, {}))
        kind = str if get_origin(plain) is Literal else plain
        out[flag.name] = Field(name, kind, flag.words, helps.get(name, ""))
    return out


def notes(kind: type) -> dict[str, str]:
    """The string under each field of a dataclass and of its bases, read from the source."""
    out: dict[str, str] = {}
    for base in kind.__mro__[-2::-1]:
        tree = ast.parse(inspect.cleandoc(inspect.getsource(base))).body[0]
        for above, below in pairwise(getattr(tree, "body", [])):
            noted = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if noted and isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name):
                out[above.target.id] = str(below.value.value)
    return out


def add_world_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
    """`--problem`, and a flag for every field of every world: of the package, and of the `module:Class` that is named.

    Raises:
        UserError: an unknown problem.
    """
    parser.add_argument("--problem", default="arms", metavar="NAME", help=f"{', '.join(worlds())}, or module:Class")
    chosen = world_class(parser.parse_known_args([w for w in argv or () if w not in ("-h", "--help")])[0].problem)
    having: dict[str, list[str]] = {}
    helps: dict[str, str] = {}
    for kind in dict.fromkeys([*worlds().values(), chosen]):
        for flag, field in flags_of(kind).items():
            having.setdefault(flag, []).append(name_of(kind))
            helps.setdefault(flag, field.help)
    group = parser.add_argument_group("fields of the problem, each a list")
    for flag, names in having.items():
        text = f"{', '.join(names)}: {helps[flag]}" if len(names) < len(worlds()) else helps[flag]
        group.add_argument(f"--{flag.replace('_', '-')}", default="", metavar="LIST", help=text.replace("%", "%%"))


def world_axes(args: argparse.Namespace) -> dict[str, str]:
    """Words given for the fields of the chosen world, by the name of the flag.

    Raises:
        UserError: a flag of another world.
    """
    own = flags_of(world_class(args.problem))
    for flag in dict.fromkeys(flag for kind in worlds().values() for flag in flags_of(kind)):
        if flag not in own and getattr(args, flag):
            having = ", ".join(name for name, kind in worlds().items() if flag in flags_of(kind))
            shown = f"--{flag.replace('_', '-')}"
            what = f"`{shown}` does not apply to the problem `{args.problem}`"
            raise UserError(what, where=shown, fix=f"it is a flag of {having}")
    return {flag: getattr(args, flag) for flag in own if getattr(args, flag)}
