"""Frozen dataclasses as schemas: their keys, types and notes. Independent of any particular schema."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from prefloop.core.errors import UserError, excerpt, nearest, shown
from prefloop.runs import yaml12

Schema = TypeVar("Schema")
UNIONS = (Union, UnionType)  # Union if one side is not a class


class Raw(str):
    """Text from the command line; the schema decides its type."""


@dataclass(frozen=True)
class Flag:
    """How a field is written on the command line, as `Annotated[hint, Flag(...)]`; files are not affected.

    Args:
        positional: whether it is a positional argument.
        short: an additional one-letter name.
        metavar: name of the value in the help.
        commas: whether a tuple is written as one list with commas, `1,2,3`.
        of: a schema whose keys all become flags, or a function from the words of the command line to one; the field
            gets the checked tree of the given keys.
        lists: keys and sections of that schema whose values may be lists, `1,2,3`: the field gets one checked tree for
            each combination.
        note: help text, for a class without source.
    """

    positional: bool = False
    short: str = ""
    metavar: str = ""
    commas: bool = False
    of: type | Callable[[Sequence[str]], type] | None = None
    lists: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Key:
    """One field of a schema: its dotted name, type, default (MISSING if required), note and flag."""

    name: str
    hint: Any
    default: Any
    note: str
    flag: Flag


def keys(schema: type, prefix: str = "") -> Iterator[Key]:
    """Every key of a schema and its sections in order, fields of a subclass before inherited ones."""
    hints, noted = get_type_hints(schema, include_extras=True), notes(schema)
    for field in sorted(fields(schema), key=lambda f: _depth(schema, f.name)):
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from keys(hint, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            plain, flag = (get_args(hint)) if get_origin(hint) is Annotated else (hint, Flag())
            yield Key(f"{prefix}{field.name}", plain, _default(field), flag.note or noted.get(field.name, ""), flag)


def _depth(schema: type, name: str) -> int:
    return next(i for i, base in enumerate(schema.__mro__) if name in inspect.get_annotations(base))


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def notes(schema: type) -> dict[str, str]:
    """The docstring under each field, read from the source of the class and its bases."""
    result: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if is_dataclass(base):
            result |= _notes_of(base)
    return result


def _notes_of(schema: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    except (OSError, TypeError):  # a class created by a function has no source
        return {}
    assert isinstance(tree, ast.ClassDef)
    return {
        above.target.id: inspect.cleandoc(str(below.value.value)).replace("\n", " ")
        for above, below in pairwise(tree.body)
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


# ---- trees ----------------------------------------------------------------------------------------------------------


def merged(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `above`, section by section."""
    out = dict(base)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def build(schema: type[Schema], tree: Mapping[str, Any]) -> Schema:
    """The dataclass from a tree returned by `checked`."""
    hints = get_type_hints(schema)
    return schema(**{k: build(hints[k], v) if is_dataclass(hints[k]) else v for k, v in tree.items()})


def checked(tree: Any, schema: type, where: str, at: str = "", root: type | None = None) -> dict[str, Any]:
    """Check that every key is known, and convert every value to its declared type.

    Args:
        where: the source of the tree (file or command line), for messages.
        at: dotted key of the section; `root` is the schema that contains it.

    Raises:
        UserError: an unknown key (the nearest is suggested) or a value of the wrong type.
    """
    root = root or schema
    hints = get_type_hints(schema)
    out = {}
    for name, value in _mapping(tree, where, at).items():
        key = f"{at}.{name}" if at else name
        if name not in hints:
            raise UserError(f"unknown key `{key}`", where=where, fix=_suggestion(root, name, hints))
        out[name] = _value(value, hints[name], where, key, root)
    return out


def _suggestion(schema: type, name: str, siblings: Iterable[str]) -> str:
    elsewhere = [key.name for key in keys(schema) if key.name.rpartition(".")[2] == name]
    if elsewhere:
        return f"did you mean `{elsewhere[0]}`?"
    return other_name(schema, name) or nearest(name, siblings)


def other_name(schema: type, name: str) -> str:
    """What to write in place of a key of another tool, by the schema's own table `OTHER_TOOLS`; empty if unknown."""
    answer = getattr(schema, "OTHER_TOOLS", {}).get(name, "")
    return f"use {answer}" if answer.startswith("`") else answer


# ---- values ---------------------------------------------------------------------------------------------------------


def _value(value: Any, hint: Any, where: str, key: str, root: type) -> Any:
    if is_dataclass(hint):
        return checked(value, hint, where, key, root)  # type: ignore[arg-type]
    if get_origin(hint) in UNIONS:  # X | None
        inner = next(h for h in get_args(hint) if h is not type(None))
        absent = value is None or (isinstance(value, Raw) and value == "null")
        return None if absent else _value(value, inner, where, key, root)
    if get_origin(hint) is dict:
        kind = get_args(hint)[1]
        return {k: _value(v, kind, where, f"{key}.{k}", root) for k, v in _mapping(value, where, key).items()}
    if get_origin(hint) is tuple:
        return tuple(_value(v, get_args(hint)[0], where, key, root) for v in _sequence(value, where, key))
    if hint in (str, Path) and isinstance(value, Raw):
        return _scalar(str(value), hint, where, key)
    if isinstance(value, Raw):
        value = yaml12.parse(value, f"{where}, --{key}")
    if get_origin(hint) is Literal:
        return _choice(value, get_args(hint), where, key)
    return _leaf(value, where, key) if hint is Any else _scalar(value, hint, where, key)


def _mapping(value: Any, where: str, key: str) -> dict[str, Any]:
    if isinstance(value, Raw):
        value = yaml12.parse(value, f"{where}, --{key}")
    if value is None:  # a section in which every line is commented out
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        raise UserError(f"`{key}` must be a section of `name: value`, not {shown(value)}", where=where)
    return dict(value)


def _sequence(value: Any, where: str, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"`{key}` must be a list, not {shown(value)}", where=where)
    return value


def _leaf(value: Any, where: str, key: str) -> Any:
    """A value without a declared type: what JSON can hold."""
    if isinstance(value, Raw):
        value = yaml12.parse(value, f"{where}, --{key}")
    if isinstance(value, dict):
        return {k: _leaf(v, where, f"{key}.{k}") for k, v in _mapping(value, where, key).items()}
    if isinstance(value, list):
        return [_leaf(v, where, f"{key}[{i}]") for i, v in enumerate(value)]
    kind = next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"`{key}` must be a finite number, not {shown(value)}", where=where)
    if kind is None and value is not None:
        raise UserError(f"`{key}` must be a number, text, a list or a section, not {shown(value)}", where=where)
    return None if kind is None else _scalar(value, kind, where, key)


def _choice(value: Any, choices: tuple[Any, ...], where: str, key: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    words = [word(c) for c in choices]
    close = difflib.get_close_matches(excerpt(value if isinstance(value, str) else shown(value)), words, n=1)
    guess = f"did you mean `{close[0]}`? " if close else ""
    raise UserError(f"`{key}` cannot be {shown(value)}", where=where, fix=f"{guess}choose one of: {', '.join(words)}")


def word(value: Any) -> str:
    """A value as typed in a file or on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _scalar(value: Any, hint: type, where: str, key: str) -> Any:
    kind, convert = _SCALARS[hint]
    try:
        if isinstance(value, bool) is (hint is bool):
            return convert(value)
    except (TypeError, ValueError, OverflowError):
        pass  # all invalid values get the message below
    raise UserError(f"`{key}` must be {kind}, not {shown(value)}", where=where)


def _whole(value: Any) -> int:
    if not isinstance(value, int) and int(value) != float(value):
        raise ValueError
    _finite(value)  # nothing counts further, and Python does not print every number of digits
    return int(value)


def _finite(value: Any) -> float:
    if not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_SCALARS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bool: ("true or false", bool),
    int: ("a whole number", _whole),
    float: ("a number", _finite),
    str: ("text (in quotes if necessary)", _text),
    Path: ("a path", lambda value: Path(_text(value))),
}
