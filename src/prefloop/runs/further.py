"""Training a run further: the same run with more steps, from the state of its last one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from prefloop.core.errors import UserError
from prefloop.core.files import write
from prefloop.runs import checkpoint
from prefloop.runs.best import best_of, is_over
from prefloop.runs.config import Config, to_yaml
from prefloop.runs.folder import CONFIG, FINAL, RunFolder, read
from prefloop.runs.offline import offline_groups
from prefloop.runs.world import method_of, plan_of


def longer(home: Path, config: Config, steps: int, *, finished: bool) -> Config:
    """The configuration of a run with more steps; nothing is written yet.

    Raises:
        UserError: fewer steps, learning rates that depend on their number, or no state to continue from.
    """
    before = config.training.steps
    again = f"start a new run: prefloop train {home / CONFIG} --training.steps {steps}"
    if steps < before:
        raise UserError(f"a run of {before} steps cannot become one of {steps}", where="training.steps", fix=again)
    if config.training.schedule != "constant":
        what = f"with training.schedule={config.training.schedule} the first {before} steps of a run of {steps} have"
        raise UserError(f"{what} other learning rates", where="training.steps", fix=again)
    if is_over(best_of(read(home, "metrics"), config.evaluation.keep_best), config):
        fix = f"{again} --evaluation.patience null"
        raise UserError("this run has ended by evaluation.patience", where=str(home), fix=fix)
    newest = checkpoint.newest(home / "checkpoints")
    if newest is None and finished and before:
        fix = f"{again} (the same result), or train its model with a new optimiser: --model.path {home}"
        raise UserError("the state of the optimiser was not kept (save.state, save.final)", where=str(home), fix=fix)
    if newest is not None and checkpoint.step_of(newest) == before and not checkpoint.tree(newest)["loop"]["optimizer"]:
        fix = f"finish it first: prefloop train --resume {home}"
        raise UserError("this run has not saved its final model yet", where=str(home), fix=fix)
    return replace(config, training=replace(config.training, steps=steps))


def check_offline(before: Config, config: Config, prompts: int) -> None:
    """Refuse to lengthen a run on responses of the reference of which a longer run would have drawn more.

    Args:
        prompts: number of training prompts.

    Raises:
        UserError: it would have trained on other ones from its first step.
    """
    method = method_of(config)
    drawn = [offline_groups(method, plan_of(one, method), prompts) for one in (before, config)]
    if drawn[0] != drawn[1]:
        steps = config.training.steps
        what = f"a run of {steps} steps trains on {drawn[1]} groups of offline responses instead of {drawn[0]}"
        fix = f"start a new run with --training.steps {steps}"
        raise UserError(f"{what}, from its first step", where="training.steps", fix=fix)


def lengthen(folder: RunFolder, before: Config, config: Config) -> None:
    """Make a run longer on disk; its final model so far stays under another name."""
    steps = before.training.steps
    if folder.final.exists():
        os.replace(folder.final, folder.path / f"{FINAL}-step-{steps}")
    write(folder.path / CONFIG, to_yaml(config))
    folder.event("lengthened", {"steps_before": steps, "steps": config.training.steps})
