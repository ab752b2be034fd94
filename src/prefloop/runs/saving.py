"""The models that a run leaves: that of its last step, and the best by a metric; and the checkpoints that may go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from prefloop.core.errors import DataError
from prefloop.core.files import TEMPORARY
from prefloop.core.loop import Loop
from prefloop.core.method import Method
from prefloop.policies import pretrained
from prefloop.policies.causal_lm import CausalLM
from prefloop.runs import checkpoint
from prefloop.runs.best import Best
from prefloop.runs.config import Config
from prefloop.runs.ends import save
from prefloop.runs.folder import BEST, RunFolder
from prefloop.runs.records import card

Metrics = Mapping[str, float]
Say = Callable[[str], None]


def save_final(
    folder: RunFolder, config: Config, method: Method, policy: CausalLM, note: str, before: Metrics, after: Metrics
) -> None:
    """Save the trained model with its card.

    Args:
        note: accuracy of a learned reward.
    """
    _save(folder.final, config, policy, card(config, method, note, before, after))


def save_best(
    folder: RunFolder, config: Config, method: Method, policy: CausalLM, best: Best, before: Metrics, after: Metrics
) -> None:
    """Save a model in place of the best one so far."""
    note = f"The best of the run by `{best.metric}`: {best.value:.4g} at step {best.step}."
    new, old, path = (folder.path / name for name in (f"{TEMPORARY}new-{BEST}", f"{TEMPORARY}old-{BEST}", BEST))
    shutil.rmtree(new, ignore_errors=True)
    _save(new, config, policy, card(config, method, note, before, after))
    if path.exists():
        os.replace(path, old)
    if new.exists():  # in the process that writes
        os.replace(new, path)
    shutil.rmtree(old, ignore_errors=True)


def _save(path: Path, config: Config, policy: CausalLM, text: str) -> None:
    model = _gathered(config, policy) if policy.network.parted else policy.model
    if model is None:
        return
    beside, base = pretrained.companions(config.model.path), pretrained.base_name(config.model.path)
    pretrained.save(model, policy.tokenizer, path, text, beside=beside, base=base, ends=policy.eos_ids)


def _gathered(config: Config, policy: CausalLM) -> pretrained.Model | None:
    """The model of parted weights, in memory of the CPU of the first process; None in the others."""
    state = policy.state()
    if policy.processes.rank:
        return None
    model, _ = pretrained.load(config.model.path, dtype=torch.float32, adapter=config.model.adapter)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(state[name])
    return model


def save_last(folder: RunFolder, loop: Loop, say: Say, *, whole: bool) -> None:
    """Save the last step until the final model is there; without room for both, the final model comes first."""
    try:
        save(folder, loop, whole=whole)
    except DataError as error:
        say(f"{error.what}: the final model is saved without it")


def tidy(folder: RunFolder, keep: Callable[[int], bool]) -> None:
    """Remove the checkpoints that only the rest of the run needed, which is done.

    Args:
        keep: whether that of a step stays.
    """
    for step in map(checkpoint.step_of, list(checkpoint.checkpoints(folder.checkpoints))):
        if not keep(step):
            checkpoint.remove(folder.checkpoints, step)
