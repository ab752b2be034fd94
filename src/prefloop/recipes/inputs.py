"""What a stage is made of: its settings, and hashes of data, models, own code and the stages before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prefloop.core.files import digest, sha256
from prefloop.recipes.recipe import (
    DATA,
    HERE,
    OUTPUT,
    EvalStage,
    Recipe,
    Stage,
    TrainStage,
    cells,
    filled,
    reward_config,
    run_config,
)

Pieces = dict[str, Any]


def pieces(recipe: Recipe, stage: Stage, before: Mapping[str, str]) -> Pieces:
    """Everything that determines the results of a stage, by names that can be shown.

    Args:
        before: hashes of the stages that it uses, by their names.
    """
    settings = flat(asdict(stage.options))
    files = {key: value for key, value in settings.items() if isinstance(value, str) and value[:1] == DATA}
    found = {key: value for key, value in settings.items() if key not in files}
    found |= {key: sha256(Path(filled(value, recipe.given))) for key, value in files.items() if value.startswith(HERE)}
    found |= {f"stage {name}": before[name] for name in stage.needs}
    if isinstance(stage.options, EvalStage):
        return found | _scorer(recipe, stage.options.scored_by)
    return found | _hashes(recipe, stage)


def identity(pieces: Pieces) -> str:
    """A hash of them."""
    return digest(pieces)


def changes(then: Pieces, now: Pieces) -> list[str]:
    """In words, what differs."""
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return [f"{key}: {_short(then.get(key))} then, {_short(now.get(key))} now" for key in keys]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"


def flat(tree: Mapping[str, Any], above: str = "") -> Pieces:
    """Nested mappings as dotted keys."""
    out: Pieces = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and value
        out |= flat(value, f"{above}{key}.") if nested else {f"{above}{key}": value}
    return out


def _hashes(recipe: Recipe, stage: Stage) -> Pieces:
    """Of files of data, of models that no stage makes, and of the user's own code."""
    from prefloop.data.reading import data_hash
    from prefloop.policies.pretrained import model_hash
    from prefloop.runs.sources import sources
    from prefloop.worlds.text.open_data import data_hashes

    values = recipe.given
    if not isinstance(stage.options, TrainStage):
        config = reward_config(recipe, stage, values)
        files = [name for name in (config.data, config.held_out) if name not in ("split", "none")]
        found: Pieces = {f"data {i}": data_hash(name) for i, name in enumerate(files)}
        return found | ({} if config.model.startswith(OUTPUT) else {"model": model_hash(config.model)})
    found = _scorer(recipe, stage.options.tune.scored_by)
    for cell in cells(stage):
        run = run_config(recipe, stage, cell, values)
        paths = run.reward.options.get("path", [])
        kept = [path for path in ([paths] if isinstance(paths, str) else paths) if not path.startswith(OUTPUT)]
        outside = replace(run, reward=replace(run.reward, options={**run.reward.options, "path": kept}))
        files = [*data_hashes(run.data).values(), *([data_hash(run.evaluation.probe)] if run.evaluation.probe else [])]
        found |= {f"{cell} data {i}": value for i, value in enumerate(files)}
        found |= {f"{cell} {name.partition('/')[0]} {i}": v for i, (name, v) in enumerate(sources(outside).items())}
        if not run.model.path.startswith(OUTPUT):
            found[f"{cell} model"] = model_hash(run.model.path)
    return found


def _scorer(recipe: Recipe, by: str | None) -> Pieces:
    """The hash of a reward model that no stage makes."""
    if by is None or by.startswith(OUTPUT):
        return {}
    folder = Path(recipe.given.get(by, by))
    return {"scored_by": digest([sha256(file) for file in sorted(folder.glob("*.safetensors"))])}
