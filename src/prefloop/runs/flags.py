"""Flags and help from frozen dataclasses, through argparse: one flag per key, dotted for sections."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from itertools import product, takewhile
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from prefloop.core.errors import UserError, excerpt, shown
from prefloop.runs.schema import UNIONS, Flag, Key, Raw, build, checked, keys, merged, other_name, word

Schema = TypeVar("Schema")
COMMAND_LINE = "command line"


def read(schema: type[Schema], words: Sequence[str], prog: str) -> Schema:
    """Parse the words of a command line into options; `--help` prints the help and exits.

    Raises:
        UserError: an unknown flag (the nearest is suggested), a missing or invalid value.
    """
    inner = [key for key in keys(schema) if key.flag.of]
    schemas = [schema, *(_schema(key.flag.of, words) for key in inner)]
    first, *raw = _trees(schemas, words, prog)
    tree = checked(first, schema, COMMAND_LINE)
    found = [_inner(key.flag, one, of) for key, one, of in zip(inner, raw, schemas[1:], strict=True)]
    for key in keys(schema):
        if key.default is MISSING and key.name not in tree:
            name = _metavar(key) if key.flag.positional else _flag(key.name)
            raise UserError(f"{name} is missing", where=COMMAND_LINE, fix=f"see {prog} --help")
    return build(schema, tree | {key.name: one for key, one in zip(inner, found, strict=True)})


def _inner(flag: Flag, tree: dict[str, Any], schema: type) -> Any:
    """The checked tree of an inner schema, or one for each combination of the lists in it."""
    if not flag.lists:
        return checked(tree, schema, COMMAND_LINE)
    return [checked(one, schema, COMMAND_LINE) for one in combinations(tree, flag.lists)]


def combinations(tree: dict[str, Any], lists: Sequence[str]) -> list[dict[str, Any]]:
    """One tree for each combination of the values of keys that have several: `1,2` and `a,b` give four.

    Args:
        tree: the text of values from the command line.
        lists: keys and sections in which values may be lists.

    Raises:
        UserError: an empty or a repeated value in a list.
    """
    axes = {name: _listed(name, value) for name, value in _leaves(tree) if _in(name, lists) and "," in value}
    out = []
    for values in product(*axes.values()):
        one = tree
        for name, value in zip(axes, values, strict=True):
            one = merged(one, _nested(name, value))
        out.append(one)
    return out


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Raw]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        elif isinstance(value, Raw) and not value.startswith(("{", "[", '"', "'")):
            yield f"{above}{key}", value


def _in(name: str, lists: Sequence[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in lists)


def _listed(name: str, value: str) -> list[Raw]:
    parts = [part.strip() for part in value.split(",")]
    if not all(parts) or len(set(parts)) < len(parts):
        what = "an empty value" if not all(parts) else "the same value twice"
        raise UserError(f"{what} in the list", where=f"{_flag(name)} {excerpt(value)}", fix="write 1,2,3")
    return [Raw(part) for part in parts]


def _schema(of: Any, words: Sequence[str]) -> type:
    schema: type = of if isinstance(of, type) else of(words)
    return schema


def given(schemas: Sequence[type], words: Sequence[str], prog: str = "prefloop") -> list[dict[str, Any]]:
    """For each schema, the checked tree of its keys given on the command line; the last value wins.

    The help lists the first schema, and those keys of the others that have a note.

    Raises:
        UserError: an unknown flag (the nearest is suggested), a missing or invalid value.
    """
    raw = _trees(schemas, words, prog)
    return [checked(tree, schema, COMMAND_LINE) for tree, schema in zip(raw, schemas, strict=True)]


def _trees(schemas: Sequence[type], words: Sequence[str], prog: str) -> list[dict[str, Any]]:
    """For each schema, the text of its keys given on the command line."""
    listed = [[key for key in keys(schema) if not key.flag.of] for schema in schemas]
    every = [key for some in listed for key in some]
    parser = _parser(schemas, listed, prog)
    parsed, odd = parser.parse_known_intermixed_args(list(_normal(words, every)))
    if odd:
        raise _unknown(next((item for item in odd if item.startswith("-")), odd[0]), every, schemas)
    values = {name: value for name, value in vars(parsed).items() if value not in (None, [])}
    return [_tree(some, values) for some in listed]


def _tree(listed: Sequence[Key], values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key in listed:
        if key.name in values:
            tree = merged(tree, _nested(key.name, _raw(key, values[key.name])))
    return tree


# ---- words to values ------------------------------------------------------------------------------------------------


def _normal(words: Sequence[str], every: Sequence[Key]) -> Iterator[str]:
    """Normalise flags: hyphens, and for mappings one flag per pair of `--columns a=b c=d` or `--columns.a b`."""
    mappings = [key.name for key in every if _is(key, dict)]
    rest, last = iter(words), ""  # last: the mapping that following `name=value` words belong to
    for item in takewhile(lambda w: w != "--", rest):
        name, equals, value = item.partition("=")
        if not item.startswith("--"):
            last = last if equals else ""
            yield f"{_flag(last)}={item}" if last else item
            continue
        plain = name[2:].replace("-", "_")
        last = next((m for m in mappings if plain == m or plain.startswith(f"{m}.")), "")
        if not last:
            yield _flag(plain) + equals + value
            continue
        value = value if equals else next(rest, "--")
        if not equals and value.startswith("--"):
            raise _no_value(name)
        yield f"{_flag(last)}={value}" if plain == last else f"{_flag(last)}={plain.removeprefix(f'{last}.')}={value}"
    yield from rest


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return dict(value)


def _raw(key: Key, value: Any) -> Any:
    """A value from argparse as a tree of text; the schema decides the types."""
    if isinstance(value, bool):
        return value
    if _is(key, dict):
        return _pairs(key, value)
    if key.flag.commas:
        parts = [part.strip() for part in value.split(",")] if value or key.default else []
        if not all(parts):
            raise UserError("empty value in the list", where=f"{_flag(key.name)} {value}", fix="write 1,2,3")
        return [Raw(part) for part in parts]
    return [Raw(item) for item in value] if isinstance(value, list) else Raw(value)


def _pairs(key: Key, items: Sequence[str]) -> Any:
    """`a=b c=d` as a mapping; a single item in braces is parsed as YAML."""
    tree: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if item.startswith("{"):
            return Raw(item)
        if not equals or not name or not value:
            what = f"`{key.name}` must be a section of `name: value`, not {shown(item)}"
            raise UserError(what, where=COMMAND_LINE, fix=f"write {_flag(key.name)} {_metavar(key)}")
        if name in tree:
            raise UserError(f"`{_flag(key.name)}.{name}` is given twice", where=COMMAND_LINE, fix="give it once")
        tree = merged(tree, _nested(name, Raw(value)))
    return tree


# ---- argparse -------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are Prefloop's."""

    def error(self, message: str) -> NoReturn:
        name, _, what = message.removeprefix("argument ").partition(": ")
        if message.startswith("argument ") and what.startswith("expected"):
            raise _no_value(name.rpartition("/")[2])
        raise UserError(message, where=COMMAND_LINE, fix=f"see {self.prog} --help")


def _parser(schemas: Sequence[type], listed: Sequence[Sequence[Key]], prog: str) -> argparse.ArgumentParser:
    first, _, more = (schemas[0].__doc__ or "").strip().partition("\n\n")
    places = [_place(key) for key in listed[0] if key.flag.positional]
    parser = _Parser(
        prog=prog,
        usage=" ".join([prog, *places, "[--flags]"]),
        description=first,
        epilog=" ".join(more.split()),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for key in listed[0]:
        _add(parser, key, _help(key))
    for schema, some in zip(schemas[1:], listed[1:], strict=True):
        group = parser.add_argument_group(schema.__doc__)
        for key in some:
            _add(group, key, _help(key) if key.flag.note else argparse.SUPPRESS)
    return parser


def _add(parser: argparse._ActionsContainer, key: Key, note: str) -> None:
    many = {"nargs": "*" if key.flag.positional else "+"} if _is(key, tuple) and not key.flag.commas else {}
    if key.flag.positional:
        parser.add_argument(key.name, metavar=_metavar(key), help=note, **(many or {"nargs": "?"}))  # type: ignore[arg-type]
        return
    names = [f"-{key.flag.short}"] * bool(key.flag.short) + [_flag(key.name)]
    if key.hint in (bool, bool | None) and "." not in key.name:  # a switch; booleans in sections take true or false
        switch = "store_true" if key.default is False else argparse.BooleanOptionalAction
        parser.add_argument(*names, dest=key.name, action=switch, help=note)
        return
    action = "append" if _is(key, dict) else "extend" if many else "store"
    parser.add_argument(*names, dest=key.name, metavar=_metavar(key), action=action, help=note, **many)  # type: ignore[arg-type]


def _help(key: Key) -> str:
    shown = ",".join(map(word, key.default)) if isinstance(key.default, tuple) else key.default
    empty = shown is MISSING or shown is None or shown is False or shown in ("", {})
    return (key.note if empty else f"{key.note.removesuffix('.')} (default: {word(shown)}).").replace("%", "%%")


def _metavar(key: Key) -> str:
    hint = next((h for h in get_args(key.hint) if h is not type(None)), key.hint) if _is(key, *UNIONS) else key.hint
    if key.flag.metavar:
        return key.flag.metavar
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(word, get_args(hint))) + "}"
    if get_origin(hint) is dict:
        return "NAME=VALUE"
    return "LIST" if key.flag.commas else {int: "N", float: "X", str: "TEXT"}.get(hint, key.name.upper())


def _place(key: Key) -> str:
    """A positional argument in the usage line."""
    name = _metavar(key) + " ..." * _is(key, tuple)
    return name if key.default is MISSING else f"[{name}]"


def _is(key: Key, *kinds: Any) -> bool:
    return get_origin(key.hint) in kinds


def _flag(name: str) -> str:
    """The flag as typed."""
    return "--" + name.replace("_", "-")


# ---- messages -------------------------------------------------------------------------------------------------------


def _unknown(item: str, every: Sequence[Key], schemas: Sequence[type]) -> UserError:
    if not item.startswith("-"):
        return UserError(f"unexpected argument `{item}`", where=COMMAND_LINE, fix="flags are written --key value")
    name = item.partition("=")[0]
    flags = [_flag(key.name) for key in every if not key.flag.positional]
    leaves = {flag.removeprefix("--").rpartition(".")[2]: flag for flag in reversed(flags)}
    known = {flag.removeprefix("--"): flag for flag in flags} if "." in name else leaves
    close = difflib.get_close_matches(excerpt(name.strip("-")), known, n=1, cutoff=0.6)
    guess = f"did you mean `{known[close[0]]}`?" if close else "--help lists the flags"
    leaf = name.strip("-").rpartition(".")[2].replace("-", "_")
    fix = next(filter(None, (other_name(schema, leaf) for schema in schemas)), guess)
    return UserError(f"unknown flag `{name}`", where=COMMAND_LINE, fix=fix)


def _no_value(flag: str) -> UserError:
    return UserError(f"`{flag}` has no value", where=COMMAND_LINE, fix=f"write {flag} value")
