"""A recipe: a file of named stages, each of which may use the output of another. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prefloop.core.errors import UserError, nearest
from prefloop.runs import config as configuration
from prefloop.runs import schema, yaml12
from prefloop.runs.config import Config
from prefloop.runs.reward_model import RewardConfig

SHIPPED = Path(__file__).parent / "shipped"
OUTPUT, DATA = "@", "$"  # before the name of a stage whose output is meant, or of a file of the command line
HERE = "$here"  # the folder of the recipe, as in $here/chat.jinja
OF_THE_RECIPE = ("seed", "output")  # keys of a run that a recipe sets
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
FORM = "letters, digits and _, a letter first"


@dataclass(frozen=True)
class Tuning:
    """The learning rate of each cell, chosen before its runs with seeds of their own."""

    rates: tuple[float, ...] = ()
    """Learning rates to try; none: that of the configuration."""
    seeds: tuple[int, ...] = (1000,)
    """Seeds of the trials, none of which may be a seed of the runs."""
    metric: str = "reward"
    """Metric of the last evaluation that chooses: a name that `evaluation.keep_best` knows."""
    scored_by: str | None = None
    """A reward model that scores new answers of the final models of the trials, in place of `metric`."""
    prompts: int = 64
    """Held-out prompts that it scores answers to."""


@dataclass(frozen=True)
class TrainStage:
    """Runs of one configuration, or of several cells that differ from it, each with the same seeds."""

    config: dict[str, Any]
    """Keys of `prefloop train`, without seed and output."""
    cells: dict[str, Any] = field(default_factory=dict)
    """Keys in which each named cell differs; none: one cell with the name of the stage."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the runs of each cell."""
    tune: Tuning = field(default_factory=Tuning)
    other_tokenizer: bool = False
    """Whether the reward model may have another tokenizer than the policy: it then reads the text of answers."""


@dataclass(frozen=True)
class RewardStage:
    """A reward model."""

    config: dict[str, Any]
    """data, model, fit and other keys of `prefloop reward train`."""


@dataclass(frozen=True)
class EvalStage:
    """What the runs of other stages reached, over their seeds, beside published numbers."""

    of: tuple[str, ...]
    """Stages of training."""
    metric: str = "reward"
    """Metric of the last evaluation: reward or gold."""
    scored_by: str | None = None
    """A reward model that scores new answers of the final models; null: what the runs themselves measured."""
    prompts: int = 64
    """Held-out prompts that it scores answers to."""
    published: dict[str, Any] = field(default_factory=dict)
    """By cell, the published change of the reward, as text."""
    source: str = ""
    """Where the published numbers are from, and what they measure."""


Options = TrainStage | RewardStage | EvalStage
KINDS: dict[str, Any] = {"train": TrainStage, "reward": RewardStage, "eval": EvalStage}
INNER: dict[str, type] = {"train": Config, "reward": RewardConfig}


@dataclass(frozen=True)
class Stage:
    """A stage by its name."""

    name: str
    kind: str
    options: Options

    @property
    def needs(self) -> list[str]:
        """Names of stages whose output it uses."""
        of = self.options.of if isinstance(self.options, EvalStage) else ()
        named = (text[1:].partition("/")[0] for text in strings(self.options) if text.startswith(OUTPUT))
        return list(dict.fromkeys([*of, *named]))


@dataclass(frozen=True)
class Recipe:
    """A recipe that is well-formed; whether its stages fit is found by `fitting.check`."""

    path: Path
    title: str
    stages: Mapping[str, Stage]
    data: Mapping[str, str]  # files of the command line
    lines: Mapping[tuple[str, ...], str]  # file and line of each key

    @property
    def given(self) -> dict[str, str]:
        """What `$name` stands for."""
        return {HERE: str(self.path.parent), **{f"{DATA}{name}": file for name, file in self.data.items()}}

    def place(self, *keys: str) -> str:
        """File and line of a key, or of the nearest section around it."""
        ways = (self.lines.get(tuple(keys[:end])) for end in range(len(keys), 0, -1))
        return next((place for place in ways if place), str(self.path))

    def error(self, error: UserError, *keys: str) -> UserError:
        """An error about a part of the recipe, with the file and the line."""
        named = re.findall(r"`([\w.]+)`", error.what) or re.findall(r"[\w.]+$", error.where)
        inside = named[0].split(".") if named else []
        return type(error)(error.what, where=f"{self.place(*keys, *inside)}: {'.'.join(keys[1:])}", fix=error.fix)


def strings(options: Options) -> Iterator[str]:
    """Every text of a stage that may name an output or a file."""
    if isinstance(options, EvalStage):
        yield options.scored_by or ""
    else:
        yield from _texts([options.config, getattr(options, "cells", {})])
    if isinstance(options, TrainStage):
        yield options.tune.scored_by or ""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def find(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that is shipped.

    Raises:
        UserError: neither.
    """
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    if name in shipped and not Path(name).exists():
        return shipped[name]
    if not Path(name).is_file():
        fix = f"give a file, or one of those shipped: {', '.join(shipped)}"
        raise UserError("there is no such recipe", where=name, fix=fix)
    return Path(name)


def read(path: Path, data: Mapping[str, str]) -> Recipe:
    """The recipe of a file, above the one that it extends (`extends: FILE`, one level deep).

    Args:
        data: files by the names under `data` of the recipe.

    Raises:
        UserError: an unknown key or a wrong value, with file and line; a file that the recipe needs and is not given.
    """
    tree, lines = yaml12.read(path), _lines(path)
    if base := tree.pop("extends", None):
        lower = path.parent / str(base)
        below = yaml12.read(lower)
        if "extends" in below:
            raise UserError(f"`{base}` itself extends a file", where=str(path), fix="extend that file's base")
        tree, lines = schema.merged(below, tree), {**_lines(lower), **lines}
    draft = Recipe(path, str(tree.get("title", path.stem)), {}, data, lines)
    for key in tree:
        if key not in (known := ("title", "data", "stages")):
            raise UserError(f"unknown key `{key}`", where=draft.place(key), fix=nearest(key, known))
    _check_data(draft, _section(draft, tree, "data"))
    stages = {name: _stage(draft, name, value) for name, value in _section(draft, tree, "stages").items()}
    if not stages:
        raise UserError("the recipe has no stages", where=str(path), fix="name some under `stages`")
    return Recipe(path, draft.title, stages, data, lines)


def _section(recipe: Recipe, tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = tree.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(k, str) and NAME.fullmatch(k) for k in value):
        raise UserError(f"`{key}` must be a section of names ({FORM})", where=recipe.place(key))
    return value


def _check_data(recipe: Recipe, wanted: Mapping[str, Any]) -> None:
    """Refuse a file too many or too few, or one that is not there."""
    needed = {name: about for name, about in wanted.items() if about is not None}  # null: a recipe above needs it not
    for name in recipe.data:
        if name not in needed:
            raise UserError(f"the recipe has no data `{name}`", where=f"--data.{name}", fix=nearest(name, needed))
    for name, about in needed.items():
        if name not in recipe.data:
            fix = f"--data.{name} FILE"
            raise UserError(f"the recipe needs a file `{name}`: {about}", where=recipe.place("data", name), fix=fix)
        if not Path(recipe.data[name]).exists():
            raise UserError("the file does not exist", where=f"--data.{name} {recipe.data[name]}")


def _stage(recipe: Recipe, name: str, tree: Any) -> Stage:
    at = ("stages", name)
    kind = tree.get("kind") if isinstance(tree, dict) else None
    if kind not in KINDS:
        fix = f"kind: {', '.join(KINDS)}"
        raise UserError(f"stage `{name}` has no kind that is known: {kind!r}", where=recipe.place(*at, "kind"), fix=fix)
    rest = {key: value for key, value in tree.items() if key != "kind"}
    try:
        checked = schema.checked(rest, KINDS[kind], "")
        if missing := [key for key in ("config", "of") if key in KINDS[kind].__annotations__ and key not in checked]:
            raise UserError(f"`{missing[0]}` is missing", fix=f"give it to stage `{name}`")
        options = schema.build(KINDS[kind], checked)
    except UserError as error:
        raise recipe.error(error, *at) from None
    if not isinstance(options, EvalStage):
        _check_inside(recipe, at, kind, options.config, "config")
        for cell, inside in getattr(options, "cells", {}).items():
            _check_inside(recipe, at, kind, inside, "cells", cell)
    return Stage(name, kind, options)


def _check_inside(recipe: Recipe, at: tuple[str, ...], kind: str, tree: Any, *keys: str) -> None:
    """Check keys and types of a configuration; values and what fits are checked when it is built."""
    try:
        checked = schema.checked(tree, INNER[kind], "")
        if kind == "train" and (own := [key for key in OF_THE_RECIPE if key in checked]):
            raise UserError(f"`{own[0]}` is set by the recipe", fix="use `seeds` of the stage, and --out")
    except UserError as error:
        raise recipe.error(error, *at, *keys) from None


def _lines(path: Path) -> dict[tuple[str, ...], str]:
    """Where each key of a YAML file stands; `yaml12.read` has accepted the file."""
    found: dict[tuple[str, ...], str] = {}

    def walk(node: yaml.Node | None, above: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*above, str(key.value))
                found[here] = f"{path}, line {key.start_mark.line + 1}"
                walk(value, here)

    walk(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), ())
    return found


# ---- configurations -------------------------------------------------------------------------------------------------


def filled(tree: Any, values: Mapping[str, str]) -> Any:
    """The tree with the texts in place that `@stage` and `$data` stand for."""
    if isinstance(tree, str):
        name, _, below = tree.partition("/") if tree.startswith((OUTPUT, HERE)) else (tree, "", "")
        return values.get(name, name) + (f"/{below}" if below else "")
    if isinstance(tree, Mapping):
        return {key: filled(value, values) for key, value in tree.items()}
    return [filled(value, values) for value in tree] if isinstance(tree, list | tuple) else tree


def cells(stage: Stage) -> dict[str, dict[str, Any]]:
    """The keys in which each cell differs, by its name."""
    assert isinstance(stage.options, TrainStage)
    return stage.options.cells or {stage.name: {}}


def run_config(
    recipe: Recipe, stage: Stage, cell: str, values: Mapping[str, str], more: Mapping[str, Any] | None = None
) -> Config:
    """The configuration of the runs of a cell.

    Args:
        values: what `@stage` and `$data` stand for.
        more: further keys, above all others.

    Raises:
        UserError: a value out of range, with its line.
    """
    assert isinstance(stage.options, TrainStage)
    layers = [stage.options.config, cells(stage)[cell]]
    try:
        trees = [schema.checked(filled(layer, values), Config, "") for layer in layers]
        return configuration.layered([*trees, more or {}])
    except UserError as error:
        keys = ("cells", cell) if stage.options.cells else ("config",)
        raise recipe.error(error, "stages", stage.name, *keys) from None


def reward_config(recipe: Recipe, stage: Stage, values: Mapping[str, str]) -> RewardConfig:
    """The configuration of a reward model.

    Raises:
        UserError: a value out of range, with its line.
    """
    assert isinstance(stage.options, RewardStage)
    try:
        if "data" not in stage.options.config:
            raise UserError("`data` is missing", fix="name a file of preferences")
        tree = schema.checked(filled(stage.options.config, values), RewardConfig, "")
        fit = {name: value for name, value in tree.get("fit", {}).items() if value is not None}  # null: the default
        return schema.build(RewardConfig, {**tree, "fit": fit})
    except UserError as error:
        raise recipe.error(error, "stages", stage.name, "config") from None
