"""`prefloop reward card`: measure a reward model on unseen preferences."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefloop.cli.options import require_place
from prefloop.cli.reward.shared import Shared, cut_remarks, load_models, noted, read_data
from prefloop.core.errors import DataError, UserError
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.records import Group
    from prefloop.rewards.bradley_terry.ensemble import RewardModel

RATINGS = "ratings"  # as gold reward: the ratings of the data
PORTION = 64  # number of prompts that a gold reward scores at once


@dataclass(frozen=True, kw_only=True)
class Options(Shared):
    """Measure a reward model on unseen preferences: card.json, a page and figures."""

    model: Annotated[str, Flag(positional=True, metavar="DIR[,DIR]")]
    """Reward model, or several to combine with --combine."""
    out: Annotated[Path, Flag(metavar="DIR")]
    """Folder for card.json, README.md and the figures."""
    gold: Annotated[str | None, Flag(metavar="NAME")] = None
    """Gold reward: length_min, sentiment, `module:function` …, or ratings (default for rated data)."""
    gold_option: dict[str, Any] = field(default_factory=dict)
    """Options of the gold reward, such as target=20."""
    combine: Literal["mean", "min"] | None = None
    """How to combine several reward models."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_place(self.out)
        if self.gold_option and self.gold in (None, RATINGS):
            fix = "add a gold reward, such as --gold length_mode"
            raise UserError("`--gold-option` needs a gold reward with options", where="--gold-option", fix=fix)


def run(options: Options) -> int:
    """Measure, write the page and print its path.

    Raises:
        UserError, DataError: nothing was written.
    """
    from prefloop.report import reward_page
    from prefloop.rewards.bradley_terry.card import as_record, reward_card
    from prefloop.rewards.bradley_terry.encoding import comparison

    if options.out.exists() and not (options.out / reward_page.RECORD).is_file():
        from prefloop.rewards.bradley_terry.disk import require_free

        require_free(options.out)
    loaded = read_data(options, options.data)
    notes = noted(options, options.data, loaded)
    name, model = _gold_name(options, loaded.format), load_models(options, options.model, options.combine)
    groups, remarks = _unseen(model, loaded.groups, options.data)
    known = None if name is None else _gold(options, name, groups, model)
    scored = model.score_groups(groups)
    remarks += cut_remarks(model, scored)
    pairs = comparison(groups, scored)
    made = reward_card(
        pairs.margin.numpy(),
        pairs.longer.numpy(),
        pairs.keys,
        score=scored.score.numpy(),
        length=scored.length.numpy(),
        group=scored.group.numpy(),
        response_keys=[groups[i].key for i in scored.group.tolist()],
        gold=known,
        seed=options.seed,
    )
    about = {
        "model": options.model,
        "combined by": options.combine or "–",
        "data": str(options.data),
        "gold": name or "–",
    }
    place = reward_page.write(made, options.out, title=f"Reward model {options.model}", about=about, remarks=remarks)
    options.show(
        lambda: {"page": str(place), "remarks": [*notes, *remarks], **as_record(made)},
        lambda: print("\n".join([*map(wrapped, (reward_page.verdict(made), *remarks)), f"page: {place}"])),
    )
    return 0


def _gold_name(options: Options, format: str) -> str | None:
    """The name of the gold reward: the given one, or the ratings of rated data.

    Raises:
        DataError: the data have no ratings (the 1 and 0 of preferences do not count).
    """
    if options.gold == RATINGS and format != "rated":
        fix = "use a reward, such as length_min, or data with `responses` and `scores`"
        raise DataError(f"the data have no ratings: their format is `{format}`", where="--gold ratings", fix=fix)
    return options.gold or (RATINGS if format == "rated" else None)


def _unseen(model: RewardModel, groups: list[Group], data: Path) -> tuple[list[Group], list[str]]:
    """The groups whose questions the model was not fitted to, and remarks about them."""
    from prefloop.rewards.bradley_terry.model import known

    unseen = [group for group in groups if not known(group, model.trained_on)]
    if not unseen:
        fix = "use data with other questions; `reward train --held-out split` holds some out"
        raise DataError("the reward model was fitted to every question of these data", where=str(data), fix=fix)
    lost, remarks = len(groups) - len(unseen), []
    if lost:
        remarks.append(f"{lost:,} of {len(groups):,} rows are excluded: the model was fitted to their questions.")
    if not model.is_traced:
        remarks.append("The model's training questions are unknown: make sure that these do not overlap with them.")
    return unseen, remarks


def _gold(options: Options, name: str, groups: list[Group], model: RewardModel) -> list[float]:
    """A known reward of every response."""
    if name == RATINGS:
        return [rating for g in groups for rating in g.scores or ()]
    from prefloop.rewards import scorers
    from prefloop.worlds.text.problem import TextProblem

    problem = TextProblem(groups, model.template, max_prompt_tokens=10**9)
    where = scorers.Where("--gold", "--gold-option", known=("ratings", "module:function"))
    scorer = scorers.build(
        name,
        options.gold_option,
        decode=problem.decode,
        decode_prompts=problem.decode_prompts,
        named=problem.named(),
        where=where,
    )
    answered = [g for g in groups if g.responses]
    out: list[float] = []
    for start in range(0, len(answered), PORTION):
        batch = problem.batch_of(answered[start : start + PORTION])
        out += scorer(batch)[batch.present].tolist()
    return out
