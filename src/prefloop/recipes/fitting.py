"""Whether the stages of a recipe fit, found out before anything is trained: order, outputs, models, data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefloop.core.errors import UserError, nearest
from prefloop.recipes.recipe import (
    DATA,
    HERE,
    OUTPUT,
    EvalStage,
    Recipe,
    RewardStage,
    Stage,
    TrainStage,
    cells,
    reward_config,
    run_config,
    strings,
)
from prefloop.runs.config import HIGHER, LOWER, Config
from prefloop.runs.reward_model import sides

ADAPTER = "adapter"  # below the output of a stage that trains LoRA
LEARNED = "bradley_terry"


def check(recipe: Recipe) -> list[str]:
    """Refuse a recipe whose stages do not fit; nothing is written and no weights are read.

    Returns:
        What a reader of the results must know.

    Raises:
        UserError: stages that wait for each other, an output that there is not, a reward model of another tokenizer,
            LoRA on an adapter, a wrong value.
        DataError: a file that a stage cannot use.
    """
    stages, values, notes = order(recipe), recipe.given, list[str]()
    for stage in stages:
        _check_names(recipe, stage)
    values |= {f"{OUTPUT}{stage.name}": root(recipe, stage, values) for stage in stages if outputs(stage)}
    for stage in stages:
        try:
            notes += CHECKS[type(stage.options)](recipe, stage, values)
        except UserError as error:
            if ", line " in error.where:
                raise
            raise recipe.error(error, "stages", stage.name) from None
    return list(dict.fromkeys(notes))


def order(recipe: Recipe) -> list[Stage]:
    """The stages, each behind those whose output it uses.

    Raises:
        UserError: a stage that there is not, or stages that wait for each other.
    """
    done: dict[str, Stage] = {}
    for name in recipe.stages:
        _visit(recipe, name, (), done)
    return list(done.values())


def _visit(recipe: Recipe, name: str, way: tuple[str, ...], done: dict[str, Stage]) -> None:
    if name in way:
        circle = " → ".join([*way[way.index(name) :], name])
        raise UserError(f"stages wait for each other: {circle}", where=recipe.place("stages", name))
    if name not in recipe.stages:
        where = recipe.place("stages", way[-1])
        raise UserError(f"there is no stage `{name}`", where=where, fix=nearest(name, recipe.stages))
    for needed in recipe.stages[name].needs:
        _visit(recipe, needed, (*way, name), done)
    done.setdefault(name, recipe.stages[name])


def outputs(stage: Stage) -> bool:
    """Whether other stages can use one model of this one."""
    options = stage.options
    return isinstance(options, RewardStage) or (
        isinstance(options, TrainStage) and len(cells(stage)) * len(options.seeds) == 1
    )


def root(recipe: Recipe, stage: Stage, values: Mapping[str, str]) -> str:
    """The model on disk from which that of a stage descends, which has the same tokenizer and size."""
    model = _start(stage)
    if not model.startswith(OUTPUT):
        return values.get(model, model)
    return root(recipe, recipe.stages[model[1:].partition("/")[0]], values)


def _start(stage: Stage) -> str:
    assert not isinstance(stage.options, EvalStage)
    given: Any = {**stage.options.config, **next(iter(getattr(stage.options, "cells", {}).values()), {})}.get("model")
    given = given.get("path") if isinstance(given, Mapping) else given
    return str(given or "smollm2")


def _check_names(recipe: Recipe, stage: Stage) -> None:
    """Every `@stage` has one output, and every `$data` is a file of the command line."""
    where = recipe.place("stages", stage.name)
    for text in strings(stage.options):
        if text.startswith(DATA) and text not in recipe.given and not text.startswith(f"{HERE}/"):
            fix = f"name it under `data`; {nearest(text[1:], recipe.data)}"
            raise UserError(f"stage `{stage.name}` uses `{text}`, which is no data of the recipe", where=where, fix=fix)
        if text.startswith(OUTPUT):
            name, _, below = text[1:].partition("/")
            other = recipe.stages[name]
            if not outputs(other):
                many = "gives no model" if isinstance(other.options, EvalStage) else "trains several models"
                fix = "use a stage that trains one model: one cell, one seed"
                raise UserError(f"stage `{name}` {many}, and `{stage.name}` uses its output", where=where, fix=fix)
            if below and (below != ADAPTER or not _has_lora(other)):
                fix = f"use `@{name}`, or `@{name}/{ADAPTER}` of a stage with model.lora_rank"
                raise UserError(f"stage `{name}` has no output `{below}`", where=where, fix=fix)


def _has_lora(stage: Stage) -> bool:
    return isinstance(stage.options, TrainStage) and bool((stage.options.config.get("model") or {}).get("lora_rank"))


# ---- stages of training ---------------------------------------------------------------------------------------------


def _check_train(recipe: Recipe, stage: Stage, values: Mapping[str, str]) -> list[str]:
    options, notes = stage.options, list[str]()
    assert isinstance(options, TrainStage)
    _check_seeds(options)
    _check_scorer(recipe, options.tune.scored_by, options.tune.prompts)
    kept = stage.name in {name for other in recipe.stages.values() for name in other.needs if _uses_model(other, name)}
    for cell in cells(stage):
        raw = run_config(recipe, stage, cell, {})
        config = run_config(recipe, stage, cell, values)
        if kept and not config.saves_final:
            fix = "set save.final to true, and train for a step or more"
            raise UserError(f"stage `{stage.name}` saves no model, but another stage uses it", where="config", fix=fix)
        _check_model(recipe, raw, config)
        notes += _check_reward(recipe, raw, config, options.other_tokenizer)
        _check_data(config)
    return notes


def _check_seeds(options: TrainStage) -> None:
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise UserError("`seeds` must be different numbers, one or more", fix="seeds: [0, 1, 2]")
    tune = options.tune
    if tune.rates and (both := set(tune.seeds) & set(options.seeds)):
        fix = "try learning rates with other seeds: the runs would favour a rate that was lucky with theirs"
        raise UserError(f"seed {min(both)} chooses the learning rate and is a seed of the runs: `tune.seeds`", fix=fix)
    if tune.rates and not tune.seeds:
        raise UserError("`tune.seeds` names no seed", fix="tune: {seeds: [1000]}")
    if tune.metric not in (*HIGHER, *LOWER):
        raise UserError(f"`tune.metric` cannot be {tune.metric}", fix=nearest(tune.metric, (*HIGHER, *LOWER)))


def _uses_model(stage: Stage, name: str) -> bool:
    """Whether a stage reads the final models of another: to train from one, or to score new answers."""
    return not isinstance(stage.options, EvalStage) or (
        name in stage.options.of and stage.options.scored_by is not None
    )


def _check_model(recipe: Recipe, raw: Config, config: Config) -> None:
    """Refuse an adapter that is trained or merged without a word, and LoRA on top of one."""
    from prefloop.policies.adapters import is_adapter
    from prefloop.policies.pretrained import resolve

    stage = recipe.stages.get(raw.model.path.removeprefix(OUTPUT).partition("/")[0])
    if raw.model.path.startswith(OUTPUT) and stage is not None and isinstance(stage.options, RewardStage):
        raise UserError(
            f"`model.path` is stage `{stage.name}`, which gives a reward model", fix="use a stage of kind train"
        )
    adapter = raw.model.path.endswith(f"/{ADAPTER}") if raw.model.path.startswith(OUTPUT) else None
    if adapter is None:
        adapter = is_adapter(resolve(config.model.path))
    if adapter and config.model.adapter is None:
        lora = "LoRA on an adapter" if config.model.lora_rank else "the model is an adapter"
        fix = "model.adapter: continue trains it further (without lora_rank); merge makes it part of the model"
        raise UserError(f"{lora}: `model.path` is {raw.model.path}", fix=fix)
    if not adapter and config.model.adapter is not None:
        fix = f"leave it out: the model of a stage is merged, its adapter is @stage/{ADAPTER}"
        raise UserError("`model.adapter` is given, but the model is not an adapter", fix=fix)


def _check_reward(recipe: Recipe, raw: Config, config: Config, other: bool) -> list[str]:
    """Refuse a reward model with another tokenizer unless that is wanted; a remark on one of another origin."""
    paths = raw.reward.options.get("path", []) if raw.reward.name == LEARNED else []
    notes = []
    for path in [paths] if isinstance(paths, str) else paths:
        name = path.removeprefix(OUTPUT)
        own = path.startswith(OUTPUT)
        if own and not isinstance(recipe.stages[name].options, RewardStage):
            raise UserError(f"`reward.options.path` is stage `{name}`, which is no reward model", fix="kind: reward")
        base = root(recipe, recipe.stages[name], recipe.given) if own else recipe.given.get(path, path)
        if base == config.model.path:
            continue
        if _vocabulary(base, own) == _vocabulary(config.model.path, True):
            notes.append(f"the reward model descends from {base}, the policy from {config.model.path}")
        elif not other:
            what = f"the reward model has another tokenizer ({base}) than the policy ({config.model.path})"
            fix = "train it from the policy's own model, or set other_tokenizer: true: it then reads answers as text"
            raise UserError(f"{what}: `reward.options`", fix=fix)
        else:
            notes.append(f"the reward model of {base} reads the text of answers: it has another tokenizer")
    return notes


def _vocabulary(path: str, model: bool) -> dict[str, int]:
    from prefloop.policies.folder import read_tokenizer
    from prefloop.policies.pretrained import tokenizer_of

    found: dict[str, int] = (tokenizer_of(path)[0] if model else read_tokenizer(Path(path))).get_vocab()
    return found


def _check_data(config: Config) -> None:
    """As a run does, before its model is loaded."""
    from prefloop.core import devices
    from prefloop.runs.probe import checked
    from prefloop.runs.world import check_reward, method_of, plan_of, resolved
    from prefloop.worlds.text.open_data import open_data

    config = resolved(config)
    devices.chosen(config.model.device)
    method = method_of(config)
    plan_of(config, method)
    check_reward(config, method, checked(config, open_data(config.data)))


# ---- other stages ---------------------------------------------------------------------------------------------------


def _check_reward_stage(recipe: Recipe, stage: Stage, values: Mapping[str, str]) -> list[str]:
    from prefloop.core import devices

    config = reward_config(recipe, stage, values)
    devices.chosen(config.device, "device")
    sides(config, lambda text: None)
    return []


def _check_eval(recipe: Recipe, stage: Stage, values: Mapping[str, str]) -> list[str]:
    options = stage.options
    assert isinstance(options, EvalStage)
    for name in options.of:
        if not isinstance(recipe.stages[name].options, TrainStage):
            raise UserError(f"`of` names `{name}`, which is no stage of training", fix="kind: train")
    _check_scorer(recipe, options.scored_by, options.prompts)
    known = {cell for name in options.of for cell in cells(recipe.stages[name])}
    if unknown := sorted(set(options.published) - known):
        raise UserError(f"`published` names `{unknown[0]}`, which is no cell", fix=nearest(unknown[0], known))
    return []


def _check_scorer(recipe: Recipe, by: str | None, prompts: int) -> None:
    """A stage or a folder with a reward model, and enough prompts."""
    if by is not None and by.startswith(OUTPUT) and not isinstance(recipe.stages[by[1:]].options, RewardStage):
        raise UserError(f"`scored_by` is stage `{by[1:]}`, which is no reward model", fix="kind: reward")
    folder = recipe.given.get(by or "", by or "")
    if by is not None and not by.startswith(OUTPUT) and not Path(folder).is_dir():
        raise UserError(f"`scored_by` is {folder}, which is no folder of a reward model", fix="prefloop reward train")
    if prompts < 2:
        raise UserError("`prompts` must be 2 or more", fix="prompts: 64")


CHECKS: dict[type, Any] = {TrainStage: _check_train, RewardStage: _check_reward_stage, EvalStage: _check_eval}
