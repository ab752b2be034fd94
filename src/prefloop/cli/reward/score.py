"""`prefloop reward score`: score every response with a reward model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefloop.cli.options import require_new
from prefloop.cli.reward.shared import Shared, cut_remarks, load_models, noted, read_data
from prefloop.core.files import write
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.records import Group


@dataclass(frozen=True, kw_only=True)
class Options(Shared):
    """Write the score of every response, one prompt per line, in the format `rated`."""

    model: Annotated[str, Flag(positional=True, metavar="DIR[,DIR]")]
    """Reward model, or several to combine with --combine."""
    out: Annotated[Path, Flag(metavar="FILE")]
    """Output file, JSON Lines: prompt, responses, scores."""
    combine: Literal["mean", "min"] | None = None
    """How to combine several reward models."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_new(self.out)


def run(options: Options) -> int:
    """Score the responses and write the file.

    Raises:
        UserError, DataError: nothing was written.
    """
    loaded = read_data(options, options.data)
    notes = noted(options, options.data, loaded)
    model = load_models(options, options.model, options.combine)
    scored = model.score_groups(loaded.groups)
    remarks = cut_remarks(model, scored)
    values = iter(scored.score.tolist())
    lines = [_line(group, [next(values) for _ in group.responses]) for group in loaded.groups if group.responses]
    write(options.out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    mean, spread = float(scored.score.mean()), float(scored.score.std(correction=0))
    size = {"prompts": len(lines), "responses": len(scored.score)}
    text = f"{size['responses']:,} responses to {size['prompts']:,} prompts"
    first = f"{text}: mean score {mean:.3f}, standard deviation {spread:.3f}"
    options.show(
        lambda: {"file": str(options.out), **size, "mean": mean, "sd": spread, "remarks": [*notes, *remarks]},
        lambda: print("\n".join([first, *map(wrapped, remarks), f"scores: {options.out}"])),
    )
    return 0


def _line(group: Group, scores: list[float]) -> dict[str, Any]:
    from prefloop.data.formats import to_row

    row = to_row(replace(group, scores=tuple(scores)), "rated")
    texts = {} if group.more else {"responses": list(group.responses)}
    rated = {} if group.scores is None else {"ratings": list(group.scores)}
    return {**row, **texts, "row": group.row, **rated}
