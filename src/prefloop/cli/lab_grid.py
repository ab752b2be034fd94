"""The grid of `prefloop lab`: comma lists become the axes of a product of settings."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from prefloop.cli.world_flags import Field, flags_of, world_axes
from prefloop.core.errors import UserError
from prefloop.worlds.spec import world_class

if TYPE_CHECKING:  # torch comes in only when there is something to run, so that --help is quick
    from prefloop.lab.setting import Setting

SWITCHES = ("reuse", "negative", "on_policy", "kl")  # flags of their own that override the method
LISTS = {  # flag -> (what one value is, default, help); every flag takes a comma list, and the grid is their product
    "method": (str, "best_of_n,online_dpo", "names of `prefloop methods`"),
    "responses": (int, "10", "responses per prompt (C)"),
    "batch": (int, "", "responses per collection (B); 10 prompts' where not given"),
    "minibatch": (int, "", "responses per optimiser step (M); the batch where not given"),
    "reuse": (int, "", "passes over a collection (T)"),
    "negative": (float, "", "share of the push-down gradient that remains"),
    "on_policy": (float, "", "share of the prompt groups that the policy answers"),
    "kl": (float, "", "weight of the KL penalty"),
}
OPTIONS = ("problem", "precision", "evaluate")  # flags of one value each
ITERATIONS = 100


def grid(args: argparse.Namespace, options: dict[str, list[Any]]) -> list[Setting]:
    """One setting per cell of the grid, seeds and learning rates apart.

    Raises:
        UserError: an empty list, an invalid value, or a flag of another problem.
    """
    from prefloop.lab.setting import changed, make

    axes = {name: values(name, getattr(args, name), kind) for name, (kind, _, _) in LISTS.items()}
    axes = {k: v for k, v in axes.items() if v} | world_values(args) | options
    fixed = {"precision": args.precision} if args.precision else {}
    cells = []
    for place in product(*axes.values()):
        at = dict(zip(axes, place, strict=True))
        override = {k: at.pop(k) for k in (*SWITCHES, *options) if k in at}
        at.setdefault("batch", 10 * at["responses"])
        at.setdefault("minibatch", at["batch"])
        one = make(at.pop("method"), args.problem, override, **at, **fixed)
        one.check()
        per_collection = one.row.reuse * one.batch // one.minibatch
        steps = args.steps if args.steps is not None else _iterations(args) * per_collection
        every = max(1, steps // 20) if args.evaluate is None else args.evaluate
        cells.append(changed(one, steps=steps, evaluate=every))
    return list({cell.run: cell for cell in cells}.values())  # `far,70` is one cell


def world_values(args: argparse.Namespace) -> dict[str, list[Any]]:
    """The values given for each field of the problem."""
    known = flags_of(world_class(args.problem))
    out = {}
    for flag, text in world_axes(args).items():
        field = known[flag]
        words = _words(f"--{flag.replace('_', '-')}", text)
        out[field.name] = list(dict.fromkeys(_value(flag, word, field) for word in words))
    return out


def _value(flag: str, word: str, field: Field) -> Any:
    if word in field.words:
        return field.words[word]
    try:
        return number(flag, word, field.kind) if field.kind in (int, float) else word
    except UserError as error:
        fix = f"{', '.join(field.words)}, or a number" if field.words else ""
        raise UserError(error.what, where=error.where, fix=fix) from None


def _iterations(args: argparse.Namespace) -> int:
    count = ITERATIONS if args.iterations is None else int(args.iterations)
    if count < 1:
        raise UserError(f"`iterations` cannot be {count}", where="--iterations", fix="use 1 or more")
    return count


def values(name: str, text: str, kind: type) -> list[Any]:
    """A comma list; empty text is no axis, but an empty place in a list is a mistake."""
    if text == "" and name in LISTS and LISTS[name][1] == "":
        return []
    words = _words(f"--{name.replace('_', '-')}", text)
    return list(dict.fromkeys(number(name, w, kind) for w in words))


def _words(flag: str, text: str) -> list[str]:
    words = [w.strip() for w in text.split(",")]
    if not all(words):
        raise UserError(f"`{flag} {text}` has an empty place", fix="values with commas between")
    return words


def number(name: str, word: str, kind: type) -> Any:
    try:
        return kind(word)
    except ValueError:
        what = {int: "a whole number", float: "a number"}[kind]
        raise UserError(f"`{word}` is not {what}", where=f"--{name.replace('_', '-')}") from None


def overrides(rest: Sequence[str], page: str, args: argparse.Namespace) -> dict[str, list[Any]]:
    """--override.NAME V1,V2: hyper-parameters and parts of the method, as axes of the grid.

    Args:
        page: of help, for the names of the flags.
    """
    out: dict[str, list[Any]] = {}
    words = [part for word in rest for part in (word.split("=", 1) if word.startswith("--") else [word])]
    odd = [word for word in words[::2] if not word.startswith("--override.")]
    if odd:
        close = difflib.get_close_matches(odd[0], re.findall(r"--[a-z-]+", page), n=1)
        what = (
            f"did you mean `{close[0]}`?" if close else "prefloop lab --help; hyper-parameters: --override.NAME V1,V2"
        )
        raise UserError(f"there is no flag `{odd[0]}`", fix=what)
    if len(words) % 2:
        raise UserError(f"`{words[-1]}` has no value", fix=f"{words[-1]} V1,V2")
    for flag, text in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--override.")
        given = name not in SWITCHES or getattr(args, name) != ""  # a switch may be turned either way, but once
        if name in ("lr", *OPTIONS, *LISTS, *flags_of(world_class(args.problem))) and given:
            raise UserError(f"`{name}` has a flag of its own", where=flag, fix=f"--{name.replace('_', '-')} {text}")
        if name in out:
            raise UserError(f"`{flag}` is given twice", fix="values with commas between")
        out[name] = list(dict.fromkeys(_scalar(flag, word) for word in _words(flag, text)))
    return out


def _scalar(flag: str, word: str) -> Any:
    """As YAML reads it, but that 1e-3 is a number here."""
    import yaml

    try:
        value = float(word) if re.fullmatch(r"[+-]?[0-9.]+e[+-]?[0-9]+", word) else yaml.safe_load(word)
    except (yaml.YAMLError, ValueError):
        value = []
    if isinstance(value, list | dict):
        raise UserError(f"`{word}` is no value", where=flag)
    return value
