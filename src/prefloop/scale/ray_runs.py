"""The runs of a grid as tasks of a Ray cluster; every node sees the driver's working directory and has its packages."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.core.errors import UserError
from prefloop.scale.ray_connection import connect, versions

if TYPE_CHECKING:
    from prefloop.runs.config import Config


def grid(configs: Mapping[str, Config], address: str, *, say: Callable[[str], None] = print) -> dict[str, Path]:
    """The run folders of several configurations, by label and in order: each run is one task, see `runs.grid.grid`.

    A task has an equal share of the processors, and one GPU if its model may use one and the cluster has them. A run
    that fails does not end the others; the first error is raised at the end. The same call reuses what is finished.

    Raises:
        UserError, DataError: no cluster at the address, or the first error of a run.
    """
    ray = connect(address)
    have = ray.cluster_resources()
    cpus = max(1, int(have.get("CPU", 1)) // len(configs))
    task = ray.remote(max_retries=0)(_run)
    here, place = versions(), os.getcwd()
    refs = {
        task.options(num_cpus=cpus, num_gpus=_gpus(config, have)).remote(label, config, cpus, place, here): label
        for label, config in configs.items()
    }
    folders, errors, waiting = dict[str, Path](), list[BaseException](), list(refs)
    try:
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            try:
                folders[refs[ready]] = ray.get(ready)
                say(f"{refs[ready]}: {folders[refs[ready]]}")
            except ray.exceptions.RayError as error:
                errors.append(_own(ray, error))
                say(f"{refs[ready]}: {errors[-1]}")
    finally:
        for ref in waiting:  # an interrupted run keeps its last step
            ray.cancel(ref, force=False)
        ray.shutdown()
    if errors:
        raise errors[0]
    return {label: folders[label] for label in configs}


def _gpus(config: Config, have: Mapping[str, float]) -> int:
    return int(config.model.device != "cpu" and have.get("GPU", 0) >= 1)


def _run(label: str, config: Config, threads: int, place: str, versions_there: str) -> Path:
    """One run in a worker, in the driver's working directory."""
    import torch

    from prefloop.runs.grid import grid as local

    if versions() != versions_there:
        raise UserError(f"a worker on {socket.gethostname()} has {versions()}, not {versions_there}")
    if not Path(place).is_dir():
        what = f"a worker on {socket.gethostname()} does not see the working directory"
        raise UserError(what, where=place, fix="use a folder that all nodes share")
    os.chdir(place)
    torch.set_num_threads(threads)
    return local({label: config}, quiet=True)[label]


def _own(ray: Any, error: Any) -> BaseException:
    """Prefloop's error in a task, or one that says that its process died."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception) and isinstance(getattr(cause, "exit_code", None), int):
        return cause
    if isinstance(error, ray.exceptions.RayTaskError):
        return error  # a bug, with its traceback
    text = " ".join(str(error).split())[:300]
    return UserError("a worker of the Ray cluster died", where=text, fix="the same command resumes what is unfinished")
