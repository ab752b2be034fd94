"""What the verbs of reward models share: the data, the models, and what must be said about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from prefloop.cli.options import Rows, require_positive, require_seed
from prefloop.core.errors import UserError
from prefloop.rewards.bradley_terry.options import FitOptions
from prefloop.runs.schema import Flag

if TYPE_CHECKING:  # torch and transformers load when there is something to do, so that --help is quick
    from prefloop.data.formats import Loaded
    from prefloop.rewards.bradley_terry.encoding import Scored
    from prefloop.rewards.bradley_terry.ensemble import RewardModel


@dataclass(frozen=True, kw_only=True)
class Shared(Rows):
    """Flags of every verb of reward models."""

    data: Annotated[Path, Flag(positional=True)]
    """.jsonl, .json (both also .gz) or .parquet."""
    system: str | None = None
    """System message before prompts that have none."""
    seed: int = 0
    """Of split, order and bootstrap."""
    autocast: Literal["auto", True, False] = "auto"
    """bfloat16 matrix products."""
    micro_tokens: int = FitOptions.micro_tokens
    """Tokens in one pass; bounds memory."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        require_positive(self, "limit", "micro_tokens")


def read_data(options: Shared, path: Path) -> Loaded:
    """The data, with the system message that was asked for.

    Raises:
        UserError: a wrong format or column map.
        DataError: a file or row that cannot be used.
    """
    from prefloop.data.formats import faulty, load_usable
    from prefloop.data.records import with_system

    found = load_usable(
        path, format=options.format, group_by=options.group_by, columns=options.columns, limit=options.limit
    )
    if found.faults:
        raise faulty(path, found)
    return replace(found, groups=with_system(options.system, found.groups))


def load_models(options: Shared, model: str, combine: Literal["mean", "min"] | None) -> RewardModel:
    """One reward model, or several of them, separated by commas, as one.

    Raises:
        UserError: `combine` without several models, or the reverse; a folder that holds no reward model.
    """
    from prefloop.policies.causal_lm import resolve_autocast
    from prefloop.rewards.bradley_terry import disk
    from prefloop.rewards.bradley_terry.ensemble import Ensemble

    folders = model.split(",")
    if (len(folders) > 1) is (combine is None):
        what = "say how several reward models are combined" if len(folders) > 1 else "there is nothing to combine"
        raise UserError(what, where="--combine", fix="DIR1,DIR2 --combine mean, or min")
    loaded = [disk.load(folder, micro_tokens=options.micro_tokens) for folder in folders]
    members = [replace(m, autocast=resolve_autocast(options.autocast, m.backbone)) for m in loaded]
    return members[0] if combine is None else Ensemble(tuple(members), combine)


def cut_remarks(model: RewardModel, scored: Scored) -> list[str]:
    """What must be said where tokens did not fit."""
    from prefloop.rewards.bradley_terry.ensemble import Ensemble

    members = model.members if isinstance(model, Ensemble) else (model,)
    room = " or ".join(f"{n:,}" for n in sorted({member.max_tokens for member in members}))
    lost = int(scored.cut.sum())
    remark = f"{lost:,} of {len(scored.cut):,} responses were cut to the last {room} tokens, prompt included."
    return [remark] if lost else []
