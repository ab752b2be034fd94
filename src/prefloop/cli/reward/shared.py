"""Shared code of the verbs for reward models: data, models, and remarks about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from prefloop.cli.options import Rows, require_positive, require_seed
from prefloop.core.errors import UserError
from prefloop.rewards.bradley_terry.options import FitOptions
from prefloop.runs.reward_model import cut_remark
from prefloop.runs.schema import Flag
from prefloop.worlds.text.spec import require_device

if TYPE_CHECKING:  # torch and transformers are imported only to run something, so that --help is fast
    import torch

    from prefloop.data.formats import Loaded
    from prefloop.rewards.bradley_terry.encoding import Scored
    from prefloop.rewards.bradley_terry.ensemble import RewardModel


@dataclass(frozen=True, kw_only=True)
class Shared(Rows):
    """Flags of every verb for reward models."""

    data: Annotated[Path, Flag(positional=True)]
    """.jsonl, .json (both also .gz) or .parquet."""
    system: str | None = None
    """System message for prompts that have none."""
    seed: int = 0
    """Seed of order, validation folds, new weights and bootstrap."""
    autocast: Literal["auto", True, False] = "auto"
    """bfloat16 matrix products."""
    device: str = "auto"
    """Where the model computes: cpu, cuda, cuda:N, mps or auto."""
    micro_tokens: int = FitOptions.micro_tokens
    """Tokens per forward pass; limits memory."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        require_device("--device", self.device)
        require_positive(self, "limit", "micro_tokens")


def read_data(options: Shared, path: Path) -> Loaded:
    """The data, with the given system message.

    Raises:
        UserError: a wrong format or column map.
        DataError: a file or row that cannot be used.
    """
    from prefloop.data.formats import load_usable
    from prefloop.data.records import with_system
    from prefloop.data.skipping import kept

    loaded = load_usable(
        path, format=options.format, group_by=options.group_by, columns=options.columns, limit=options.limit
    )
    loaded = kept(path, loaded, options.faulty)
    return replace(loaded, groups=with_system(options.system, loaded.groups))


def noted(options: Shared, path: Path | str, loaded: Loaded) -> list[str]:
    """Remarks about a file, which are printed."""
    notes = [f"{path}: {remark}" for remark in loaded.remarks]
    for note in notes:
        options.say(note)
    return notes


def device_of(options: Shared) -> torch.device:
    """The device, which is said.

    Raises:
        UserError: it is not there.
    """
    from prefloop.core import devices

    device = devices.chosen(options.device, "--device")
    devices.repeatable(device)
    options.say(devices.said(device, options.device))
    return device


def load_models(options: Shared, model: str, combine: Literal["mean", "min"] | None) -> RewardModel:
    """One reward model, or several, separated by commas, combined.

    Raises:
        UserError: `combine` without several models, or the reverse; a folder without a reward model.
    """
    from prefloop.policies.causal_lm import resolve_autocast
    from prefloop.rewards.bradley_terry import disk
    from prefloop.rewards.bradley_terry.ensemble import Ensemble

    folders = model.split(",")
    if (len(folders) > 1) is (combine is None):
        what = "several reward models need --combine" if len(folders) > 1 else "there is nothing to combine"
        raise UserError(what, where="--combine", fix="write DIR1,DIR2 --combine mean, or min")
    device = device_of(options)
    loaded = [disk.load(folder, micro_tokens=options.micro_tokens).on(device) for folder in folders]
    members = [replace(m, autocast=resolve_autocast(options.autocast, m.backbone)) for m in loaded]
    return members[0] if combine is None else Ensemble(tuple(members), combine)


def cut_remarks(model: RewardModel, scored: Scored) -> list[str]:
    """Remarks about responses that did not fit."""
    from prefloop.rewards.bradley_terry.ensemble import Ensemble

    members = model.members if isinstance(model, Ensemble) else (model,)
    limit = " or ".join(f"{n:,}" for n in sorted({member.max_tokens for member in members}))
    lost = int(scored.cut.sum())
    return [cut_remark(lost, len(scored.cut), limit)] if lost else []
