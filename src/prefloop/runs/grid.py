"""Several runs as one comparison: finished runs are reused, interrupted ones continue, the rest are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prefloop.core.errors import UserError
from prefloop.data.reading import data_hash
from prefloop.policies.pretrained import model_hash
from prefloop.runs import checkpoint, experiment
from prefloop.runs.config import Config, load
from prefloop.runs.folder import CONFIG, read_manifest, runs
from prefloop.runs.held_out import split_seed
from prefloop.runs.interrupt import Interrupt
from prefloop.runs.length import with_steps
from prefloop.runs.sources import sources
from prefloop.runs.world import method_of, resolved
from prefloop.worlds.text.open_data import data_hashes, open_data
from prefloop.worlds.text.spec import SPLIT


@dataclass(frozen=True)
class Identity:
    """Everything that determines the bytes of a run, independent of paths."""

    config: Config  # without paths
    data: tuple[str, ...]  # SHA-256 of the files of training and held-out data
    model: str  # SHA-256 of the weights
    sources: tuple[tuple[str, str], ...]  # the user's own code and saved reward models, with their SHA-256


def grid(
    configs: Mapping[str, Config], *, quiet: bool = False, observers: Sequence[experiment.Observer] = ()
) -> dict[str, Path]:
    """The run folders of several configurations, by label and in order.

    A finished run of the same configuration, data, model, own code and reward models in the output folder is reused; an
    interrupted one continues. Runs that differ in method, override or training steps only share model, data, reward,
    the evaluation of the reference and its offline responses.

    Args:
        configs: configurations by label.
        observers: called after every step of every run.

    Raises:
        UserError, DataError: see `experiment.run`.
        Stopped: interrupted; the same call continues.
    """
    configs = {label: resolved(config) for label, config in configs.items()}
    before = _existing(configs)
    folders = _finished(configs, before)
    for cells in comparisons({label: c for label, c in configs.items() if label not in folders}):
        with Interrupt(quiet=quiet) as interrupt:
            say = experiment.speaker(quiet)
            start = experiment.prepare(list(cells.values()), poll=interrupt.poll, say=say)
            interrupt.poll()
        for label, config in cells.items():
            stopped = [folder for folder in before[label] if any(checkpoint.checkpoints(folder / "checkpoints"))]
            train = partial(experiment.resume, stopped[0]) if stopped else partial(experiment.run, config)
            folders[label] = train(quiet=quiet, label=label, start=start, observers=observers).folder
    return {label: folders[label] for label in configs}


def finished(configs: Mapping[str, Config]) -> dict[str, Path]:
    """The newest finished run of each configuration that has one."""
    configs = {label: resolved(config) for label, config in configs.items()}
    return _finished(configs, _existing(configs))


def _finished(configs: Mapping[str, Config], before: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
    sized = _sized(configs)
    ends = {k: [folder for folder in before[k] if experiment.is_finished(folder, c)] for k, c in sized.items()}
    return {label: folders[0] for label, folders in ends.items() if folders}


def comparisons(configs: Mapping[str, Config]) -> Iterator[dict[str, Config]]:
    """Groups of configurations that can share a start, in the order of their first members."""
    left = dict(configs)
    while left:
        shared = _shared(next(iter(left.values())))
        cells = {label: config for label, config in left.items() if _shared(config) == shared}
        yield cells
        left = {label: config for label, config in left.items() if label not in cells}


def _shared(config: Config) -> Config:
    """A configuration without the settings that may differ within a comparison."""
    free = Config()
    training = replace(free.training, micro_tokens=config.training.micro_tokens)
    evaluation = replace(config.evaluation, every=0)
    same = replace(config, method="-", override={}, training=training, evaluation=evaluation)
    return replace(same, save=free.save, tracking=free.tracking, output="-")


def _existing(configs: Mapping[str, Config]) -> dict[str, list[Path]]:
    """The runs of each configuration in its output folder, newest first."""
    configs = _sized(configs)
    models = {path: model_hash(path) for path in {config.model.path for config in configs.values()}}
    folders = {output: runs(output)[::-1] for output in {config.output for config in configs.values()}}
    known = {folder: _identity(folder) for inside in folders.values() for folder in inside}
    wanted = {label: _wanted(config, models[config.model.path]) for label, config in configs.items()}
    return {
        label: [folder for folder in folders[c.output] if known[folder] == wanted[label]]
        for label, c in configs.items()
    }


def _sized(configs: Mapping[str, Config]) -> dict[str, Config]:
    """The configurations with their numbers of steps, as run folders record them."""
    prompts = {label: 0 if c.training.epochs is None else len(open_data(c.data).train) for label, c in configs.items()}
    return {label: with_steps(c, method_of(c), prompts[label]) for label, c in configs.items()}


def _wanted(config: Config, model: str) -> Identity:
    probe = config.evaluation.probe
    hashes = {**data_hashes(config.data), **({} if probe is None else {probe: data_hash(probe)})}
    return Identity(_placeless(config), _sides(config, hashes), model, _items(sources(config)))


def _identity(folder: Path) -> Identity | None:
    """None if the configuration is from another version."""
    try:
        config = load(folder / CONFIG)
    except UserError:
        return None
    manifest = read_manifest(folder)
    if config.data.held_out == SPLIT:
        seed = split_seed({"seed": config.seed, "data": {}}, manifest)
        config = replace(config, data=replace(config.data, split_seed=seed))
    sides = _sides(config, manifest["data"])
    return Identity(_placeless(config), sides, manifest["model"]["sha256"], _items(manifest.get("sources", {})))


def _items(hashes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(hashes.items()))


def _sides(config: Config, hashes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
        hashes.get(side or "", "") for side in (config.data.train, config.data.held_out, config.evaluation.probe)
    )


def _placeless(config: Config) -> Config:
    """The configuration without paths, which hashes replace, and without trackers."""
    held_out = config.data.held_out if config.data.held_out == SPLIT else "-"
    data = replace(config.data, train="-", held_out=held_out)
    evaluation = replace(config.evaluation, probe=config.evaluation.probe and "-")
    model, tracking = replace(config.model, path="-"), Config().tracking
    return replace(config, output="-", model=model, data=data, evaluation=evaluation, tracking=tracking)
