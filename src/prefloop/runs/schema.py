"""Frozen dataclasses as the schema of a YAML file: reading, flags, types, merging. Knows no particular setting."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from prefloop.core.errors import UserError, nearest

Schema = TypeVar("Schema")
COMMAND_LINE = "command line"


class Raw(str):
    """A value from the command line, whose type the schema decides."""


def load(schema: type[Schema], path: Path | None, overrides: Sequence[str]) -> Schema:
    """A schema's values from a YAML file (None: its defaults) under dotted flags.

    Raises:
        UserError: see `prefloop.runs.config.load`.
    """
    tree: dict[str, Any] = {}
    for layer in [*(_files(schema, path) if path else []), *_flags(schema, overrides)]:
        tree = merged(tree, layer)
    try:
        return _built(schema, tree)
    except UserError as error:
        where = f"{path or 'defaults'}{' with the command line' if overrides else ''}: {error.where}"
        raise UserError(error.what, where=where, fix=error.fix) from None


def merged(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `above`, section by section."""
    out = dict(base)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def _built(schema: type[Schema], tree: Mapping[str, Any]) -> Schema:
    hints = get_type_hints(schema)
    return schema(**{k: _built(hints[k], v) if is_dataclass(hints[k]) else v for k, v in tree.items()})


def options(schema: type, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every dotted key with its default and the note under its field, in the schema's order."""
    notes, default = _notes(schema), schema()
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            yield from options(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{name}", getattr(default, name), notes[name]


def _notes(schema: type) -> dict[str, str]:
    """The string under each field of a dataclass, read from its source."""
    tree = ast.parse(inspect.getsource(schema)).body[0]
    assert isinstance(tree, ast.ClassDef)
    return {
        above.target.id: str(below.value.value)
        for above, below in pairwise(tree.body)
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


# ---- files and flags ----------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML with the numbers and booleans of version 1.2 (`1e-6` is a number, `no` a word) and no duplicate keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (the attribute of the base class)
        first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] in ("null", "int", "merge")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"`{key.value}` stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_NUMBER})$"), list("-+.0123456789"))


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"this is not valid YAML: {problem or error}", where=f"{where}{line}") from None


def _files(schema: type, path: Path) -> list[dict[str, Any]]:
    """The checked trees of a file and, before it, of the file that it extends."""
    tree = _read(path)
    base = tree.pop("extends", None)
    layers = [_section(tree, schema, str(path))]
    if base is None:
        return layers
    if not isinstance(base, str):
        raise UserError("`extends` must be the name of a file", where=str(path))
    lower = _read(path.parent / base)
    if "extends" in lower:
        fix = "a file may extend one that stands alone: name that one, or copy the values"
        raise UserError(f"`{base}` itself extends a file", where=str(path), fix=fix)
    return [_section(lower, schema, str(path.parent / base)), *layers]


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"the configuration cannot be read: {reason}", where=str(path)) from None
    tree = _parsed(text, str(path))
    if tree is not None and not isinstance(tree, dict):
        raise UserError("a configuration is a list of `key: value` lines", where=str(path))
    return tree or {}


def _flags(schema: type, words: Sequence[str]) -> list[dict[str, Any]]:
    """One checked tree for each `--a.b value` or `--a.b=value`."""
    rest, layers = iter(words), []
    for word in rest:
        if not word.startswith("--"):
            raise UserError(f"`{word}` belongs to no setting", where=COMMAND_LINE, fix="write --key value")
        key, equals, value = word[2:].partition("=")
        given = value if equals else next(rest, "--")
        if not equals and given.startswith("--"):
            raise UserError(f"`--{key}` has no value", where=COMMAND_LINE, fix=f"write --{key} value")
        tree: Any = Raw(given)
        for part in reversed(key.replace("-", "_").split(".")):
            tree = {part: tree}
        layers.append(_section(tree, schema, COMMAND_LINE))
    return layers


# ---- types --------------------------------------------------------------------------------------------------------


def _section(tree: Any, schema: type, where: str, at: str = "", root: type | None = None) -> dict[str, Any]:
    """The tree with every key known and every value of its declared type; `root` is the schema that holds this one."""
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
    elsewhere = [key for key, _, _ in options(schema) if key.rpartition(".")[2] == name]
    return f"did you mean `{elsewhere[0]}`?" if elsewhere else nearest(name, siblings)


def _value(value: Any, hint: Any, where: str, key: str, root: type) -> Any:
    if is_dataclass(hint):
        return _section(value, hint, where, key, root)  # type: ignore[arg-type]
    if get_origin(hint) is UnionType:  # X | None
        inner = next(h for h in get_args(hint) if h is not type(None))
        absent = value is None or (isinstance(value, Raw) and value == "null")
        return None if absent else _value(value, inner, where, key, root)
    if hint is str and isinstance(value, Raw):
        return str(value)
    if isinstance(value, Raw):
        value = _parsed(value, f"{where}, --{key}")
    if get_origin(hint) is dict:
        return {k: _leaf(v, where, f"{key}.{k}") for k, v in _mapping(value, where, key).items()}
    if get_origin(hint) is Literal:
        return _choice(value, get_args(hint), where, key)
    return _scalar(value, hint, where, key)


def _mapping(value: Any, where: str, key: str) -> dict[str, Any]:
    if isinstance(value, Raw):
        value = _parsed(value, f"{where}, --{key}")
    if value is None:  # a section whose every line is commented out
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        raise UserError(f"`{key}` must be a section of `name: value`, not {value!r}", where=where)
    return dict(value)


def _leaf(value: Any, where: str, key: str) -> Any:
    """A value whose type no schema declares: flags are parsed as YAML."""
    if isinstance(value, Raw):
        value = _parsed(value, f"{where}, --{key}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"`{key}` must be a finite number, not {value!r}", where=where)
    return {k: _leaf(v, where, f"{key}.{k}") for k, v in value.items()} if isinstance(value, dict) else value


def _choice(value: Any, choices: tuple[Any, ...], where: str, key: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    words = ", ".join(str(c).lower() if isinstance(c, bool) else str(c) for c in choices)
    raise UserError(f"`{key}` cannot be {value!r}", where=where, fix=f"choose one of: {words}")


def _scalar(value: Any, hint: type, where: str, key: str) -> Any:
    kind, convert = _SCALARS[hint]
    try:
        if isinstance(value, bool) is (hint is bool):
            return convert(value)
    except (TypeError, ValueError, OverflowError):
        pass  # every wrong value ends in the one message below
    raise UserError(f"`{key}` must be {kind}, not {value!r}", where=where)


def _whole(value: Any) -> int:
    if not isinstance(value, int) and int(value) != float(value):
        raise ValueError
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
    str: ("text (in quotes, if need be)", _text),
}
