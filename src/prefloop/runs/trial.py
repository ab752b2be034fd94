"""What would fail at the end of a run is found before its first step: room on disk, and a model that can be saved."""

from __future__ import annotations

import shutil
from pathlib import Path

from prefloop.core.errors import DataError
from prefloop.policies import pretrained
from prefloop.runs.config import Config
from prefloop.worlds.text.open_model import OpenModel

STATE = 3 * 4  # bytes per trained weight in a checkpoint: the float32 weight and Adam's two moments


def check_end(config: Config, model: OpenModel) -> None:
    """Refuse a run whose checkpoint or final model could not be written.

    Raises:
        DataError: there is too little room in the output folder, or the model cannot be saved.
    """
    if config.training.steps:
        check_room(config, model)
    if config.saves_final:
        pretrained.try_to_save(model.reference.model, model.tokenizer)


def check_room(config: Config, model: OpenModel) -> None:
    """Refuse a run that would fill the disk; a checkpoint that follows another one needs the room of both.

    Raises:
        DataError: with the estimate.
    """
    counts = {name: p.numel() for name, p in model.reference.model.named_parameters()}
    checkpoints = 1 + (0 < config.save.every < config.training.steps)
    state = checkpoints * STATE * sum(counts[name] for name in model.trained)
    each = model.reference.model.dtype.itemsize
    models = config.save.final + 2 * (config.evaluation.keep_best is not None)  # one replaces another
    final = models * each * sum(counts.values())
    output = Path(config.output).absolute()
    folder = next(path for path in (output, *output.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < state + final:
        raise DataError(
            f"the run needs about {_size(state + final)} of disk, but {_size(free)} are free:"
            f" {_size(final)} for {models} model(s) and {_size(state)} for {checkpoints} checkpoint(s)",
            where=str(folder),
            fix="free some space, set another `output`, or save less (save.final=false, save.every=0, model.lora_rank)",
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
