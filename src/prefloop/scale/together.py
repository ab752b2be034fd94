"""One run in the processes that `torchrun` or `accelerate launch` has started: the calls of `runs.experiment`.

Every process runs the same program on the same data with the same random numbers, and has the whole model, or with
`model.parted` a part of every weight, which all gather where it is needed and the first one writes. What costs time is
shared out by prompts and added up: writing and scoring responses, log-probs, and gradients. So all of them hold the
same results, and take the same decisions; the first one writes the run folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prefloop.core.errors import UserError
from prefloop.runs import experiment
from prefloop.runs.config import Config, SaveConfig, changed, to_yaml
from prefloop.runs.experiment import Result
from prefloop.runs.folder import CONFIG, existing
from prefloop.scale.processes import Group

ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed, whose engine has a backward pass and an optimiser of its own",
    "ACCELERATE_USE_FSDP": "FSDP of accelerate, but under FSDP2 of its own",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM, which has models of its own",
}


def run(config: Config, *, quiet: bool = False) -> Result | None:
    """Train as configured, in a new run folder of the first process.

    Returns:
        The result in the first process, None in the others.

    Raises:
        UserError: processes with different configurations, or an engine that does not fit the loop.
        UserError, DataError, Stopped: as `experiment.run`, or another process has ended.
    """
    with joined(parted=config.model.parted) as group:
        group.check_alike(to_yaml(config), "configurations")
        if torch.cuda.is_available() and config.model.device in ("auto", "cuda"):
            config = replace(config, model=replace(config.model, device=f"cuda:{torch.cuda.current_device()}"))
        if group.rank == 0:
            return experiment.run(config, quiet=quiet, processes=group)
        with tempfile.TemporaryDirectory(prefix="prefloop-") as place:
            save = config.save if group.parted else SaveConfig(final=False, state=False)  # parts are gathered to save
            own = replace(config, output=place, save=save)
            experiment.run(own, quiet=True, processes=group)
    return None


def resume(
    path: str | Path, *, steps: int | None = None, here: Mapping[str, Any] | None = None, quiet: bool = False
) -> Result | None:
    """Continue a run that was stopped, on any number of processes; they must all see its folder.

    Returns:
        The result in the first process, None in the others, which continue a copy.

    Raises:
        UserError, DataError, Stopped: as `experiment.resume`, or another process has ended.
    """
    config = changed(existing(path) / CONFIG, here or {})
    with joined(parted=config.model.parted) as group:
        group.check_alike(f"{path} {steps} {here}", "arguments")
        if group.rank == 0:
            group.sum(torch.tensor(1))  # when the others have their copies
            return experiment.resume(path, steps=steps, here=here, quiet=quiet, processes=group)
        with tempfile.TemporaryDirectory(prefix="prefloop-") as place:
            own = Path(place) / Path(path).name
            if Path(path).is_dir():
                shutil.copytree(path, own, ignore=shutil.ignore_patterns("final", "best", ".lock"))
            group.sum(torch.tensor(1))
            experiment.resume(own if own.is_dir() else path, steps=steps, here=here, quiet=True, processes=group)
    return None


@contextmanager
def joined(environment: Mapping[str, str] = os.environ, *, parted: bool = False) -> Iterator[Group]:
    """The processes of the launcher that has started this one.

    Raises:
        UserError: a launcher configured for an engine that does not fit the loop.
    """
    for name, what in ENGINES.items():
        if environment.get(name, "false").lower() in ("true", "1"):
            fix = "accelerate launch --multi_gpu, or torchrun; for a large model --model.parted true"
            raise UserError(f"Prefloop does not run under {what}", where=f"{name} of the launcher", fix=fix)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(environment.get("LOCAL_RANK", "0")))
    group = Group(int(environment["RANK"]), int(environment["WORLD_SIZE"]), parted=parted)
    try:
        yield group
    finally:
        group.close()
