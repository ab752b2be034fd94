"""What the runs of a recipe reached: reward and KL of each cell over its seeds, beside what was published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from prefloop.analysis.compare import Difference, difference
from prefloop.core.errors import UserError
from prefloop.recipes.recipe import EvalStage, Recipe, Stage, filled
from prefloop.report.data import Run, load

KL = "kl_reverse"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """A cell: means over seeds with their 95 % intervals, which are nan for a single seed.

    Args:
        reward: after training.
        change: after minus before.
        kl: KL(π‖π_ref) in nats per response; None where no run measured it.
        published: the published change, as text.
    """

    cell: str
    seeds: int
    reward: Difference
    change: Difference
    kl: Difference | None
    published: str


def measured(
    recipe: Recipe, stage: Stage, records: Mapping[str, Any], values: Mapping[str, str], say: Say
) -> list[Row]:
    """A row for each cell of the stages that are judged.

    Raises:
        UserError: runs that did not measure the metric.
    """
    options = stage.options
    assert isinstance(options, EvalStage)
    by = None if options.scored_by is None else str(filled(options.scored_by, values))
    rows = []
    for name in options.of:
        folders: dict[str, list[Path]] = {}
        for one in records[name]["runs"]:
            folders.setdefault(one["cell"], []).append(Path(records[name]["folder"]) / one["run"])
        for cell, paths in folders.items():
            runs = load(paths, [cell] * len(paths))
            ends = (
                [_recorded(run, options.metric) for run in runs]
                if by is None
                else [scored(path, by, options.prompts, say) for path in paths]
            )
            rows.append(_row(cell, runs, ends, str(options.published.get(cell, ""))))
    return rows


def _row(cell: str, runs: Sequence[Run], ends: Sequence[tuple[float, float]], published: str) -> Row:
    after, change = [b for _, b in ends], [b - a for a, b in ends]
    far = [value.value for run in runs if (value := run.after(f"eval/{KL}")) is not None]
    kl = difference(far, unit="seeds", higher_is_better=False) if len(far) == len(runs) else None
    return Row(cell, len(runs), difference(after, unit="seeds"), difference(change, unit="seeds"), kl, published)


def _recorded(run: Run, metric: str) -> tuple[float, float]:
    """Before and after training, as the run itself measured it."""
    before, after = run.before(f"eval/{metric}"), run.after(f"eval/{metric}")
    if before is None or after is None:
        fix = "give the cell a reward that scores fresh answers, or let `scored_by: @STAGE` score its final model"
        raise UserError(f"run `{run.label}` did not measure `{metric}`", where=str(run.path), fix=fix)
    return float(before.value), float(after.value)


def scored(run: Path, by: str, prompts: int, say: Say) -> tuple[float, float]:
    """Before and after training, by a reward model on new answers to held-out prompts, the same for all runs."""
    from prefloop.runs.config import load as config_of
    from prefloop.runs.folder import CONFIG
    from prefloop.runs.trained import trained, untrained

    config = config_of(run / CONFIG)
    before, after = (_mean_score(model(str(run)), config, by, prompts) for model in (untrained, trained))
    say(f"{run.name}: {before:.3f} before, {after:.3f} after")
    return before, after


def _mean_score(answering: Any, config: Any, by: str, prompts: int) -> float:
    """The mean score of one answer to each of the first held-out prompts that can be read."""
    from prefloop.core.streams import streams
    from prefloop.data.records import spread, with_system
    from prefloop.rewards.bradley_terry import disk
    from prefloop.rewards.bradley_terry.encoding import Said
    from prefloop.worlds.text.open_data import open_data

    model = disk.load(by, autocast=answering.policy.autocast).on(answering.policy.network.device)
    groups, _ = answering.readable(spread(open_data(config.data).held_out)[:prompts])
    answers = answering.answers(groups, 1, streams(config.seed)["sampling"])
    asked = with_system(config.data.system, groups)
    said = [Said(group, answer.text, not answer.cut) for group, (answer,) in zip(asked, answers, strict=True)]
    return fmean(model.score_said(said).tolist())
