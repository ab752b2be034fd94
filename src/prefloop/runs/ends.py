"""Whatever ends a run, the state of its last finished step is on disk and the message says how to continue."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from prefloop.core.errors import DataError, raised
from prefloop.core.loop import Diverged, Loop
from prefloop.runs import checkpoint
from prefloop.runs.folder import RunFolder
from prefloop.runs.interrupt import Interrupted

P = ParamSpec("P")
R = TypeVar("R")


class Stopped(Exception):
    """A run that was interrupted; everything up to its last step is on disk."""

    def __init__(self, folder: Path, step: int, exit_code: int) -> None:
        self.folder, self.exit_code = folder, exit_code
        super().__init__(f"stopped after step {step}; to continue: prefloop train --resume {folder}")


@contextmanager
def kept(folder: RunFolder, loop: Loop, *, whole: bool = False) -> Iterator[None]:
    """Save the loop at its last step boundary when the body is interrupted or fails in any way; see `save`.

    A second signal stops immediately: then the last checkpoint remains the newest.

    Raises:
        Stopped: the body was interrupted.
        DataError: the body called `sys.exit`.
        BaseException: the error of the body, with a note of what is kept and how to continue.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except Interrupted as stop:
        try:
            save(folder, loop, whole=whole)
        except Exception as problem:
            problem.add_note(_newest(folder))
            raise
        _event(folder, "interrupted", loop, stop)
        raise Stopped(folder.path, loop.step, stop.exit_code) from None
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # their tensors and the gradients leave memory for the state
        loop.optimizer.zero_grad(set_to_none=True)
        told = error if isinstance(error, Exception) else _exit(error)
        told.add_note(_keep(folder, loop, told, whole))
        _event(folder, "failed", loop, told)
        raise told from error if told is not error else error.__cause__


def save(folder: RunFolder, loop: Loop, *, whole: bool = False) -> Path:
    """Save a checkpoint of the loop, with the current lengths of the records.

    Args:
        whole: whether the run can be trained further from the state of its last step; otherwise only the weights are
            saved then, from which the run can be finished.

    Raises:
        DataError: the disk is full or fails.
        RuntimeError: see `Loop.state`.
    """
    state = loop.state()
    if loop.processes.parted and loop.processes.rank:
        return folder.checkpoints  # the first process writes what all have gathered
    if loop.step == loop.plan.steps and not whole:
        state |= {"optimizer": {}, "collection": None, "signal": None}
    records = {"offsets": folder.offsets(), "waiting": folder.waiting()}
    return checkpoint.save(folder.checkpoints, loop.step, {"loop": state, **records})


def _keep(folder: RunFolder, loop: Loop, error: Exception, whole: bool) -> str:
    """Save the loop; a sentence on what is kept."""
    if loop.step == 0:
        return "  kept:  nothing, because no step was finished"
    if loop.processes.parted:  # the parts of the other processes cannot be had
        return _newest(folder)
    try:
        save(folder, loop, whole=whole)
    except Exception as problem:
        return f"  kept:  step {loop.step} could not be saved ({raised(problem)})\n{_newest(folder)}"
    again = "The same error comes back unless its cause is removed."
    if _explained(str(error)):
        again = "Add what has to change: --training.micro_tokens, --sampling.rows, --model.device."
    if isinstance(error, Diverged):
        again = "It diverges again, because a run keeps its configuration: start a new one with a lower training.lr."
    return f"  kept:  everything up to step {loop.step}; to continue: {_command(folder)}\n         {again}"


def _newest(folder: RunFolder) -> str:
    newest = checkpoint.newest(folder.checkpoints)
    if newest is None:
        return "  kept:  nothing, because there is no earlier checkpoint"
    return f"  kept:  everything up to step {checkpoint.step_of(newest)}; to continue: {_command(folder)}"


def _command(folder: RunFolder) -> str:
    return f"prefloop train --resume {folder.path}"


def _exit(error: BaseException) -> DataError:
    """`sys.exit` in a user's function would end the program as if it had been asked to."""
    fix = "raise an error with a message instead"
    return DataError(f"a function of yours ended the program ({raised(error)})", where="training", fix=fix)


def _event(folder: RunFolder, kind: str, loop: Loop, error: BaseException) -> None:
    with suppress(DataError):  # a full disk
        folder.event(kind, {"step": loop.step, "reason": raised(error)})


def in_words(work: Callable[P, R]) -> Callable[P, R]:
    """Say what to change when a device has too little memory, or cannot repeat its results; see `_explained`."""

    @wraps(work)
    def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return work(*args, **kwargs)
        except RuntimeError as error:
            known = _explained(str(error))
            if known is None:
                raise
            for note in getattr(error, "__notes__", []):
                known.add_note(note)
            raise known from error

    return explained


def _explained(text: str) -> DataError | None:
    """What an error of torch means, and how to fix it; None for any other."""
    first = (text.strip().splitlines() or [""])[0]
    if "out of memory" in text or "can't allocate memory" in text:
        return DataError(
            f"the memory of the device is too small: {first}",
            where="training.micro_tokens, sampling.rows",
            fix="lower training.micro_tokens if it was training or evaluating, sampling.rows if it was writing answers:"
            " both change no gradient and no answer (training.batch and training.minibatch cost no memory of a GPU)."
            " If one text alone is too long: model.gradient_checkpointing=true, model.dtype=bfloat16,"
            " model.lora_rank=16, or shorter texts",
        )
    if "does not have a deterministic implementation" in text:
        fix = "set model.deterministic=false; then runs of the same seed differ in their last digits"
        return DataError(f"this model cannot repeat its results: {first}", where="model.deterministic", fix=fix)
    return None
