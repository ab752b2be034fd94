"""`prefloop reward card`: measure a reward model on unseen preferences."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefloop.cli.options import require, require_place, require_positive
from prefloop.cli.reward import beside
from prefloop.cli.reward.shared import Shared, cut_remarks, load_models, noted, read_data
from prefloop.core.errors import DataError, UserError
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.records import Group
    from prefloop.rewards.bradley_terry.ensemble import RewardModel
    from prefloop.rewards.bradley_terry.measures import Section

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
    traps: Annotated[str | None, Flag(metavar="FILE[,FILE]")] = None
    """Preferences whose worse answer is often longer, such as LLMBar: accuracy with and without the trap."""
    best_of: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Rows with one or several right answers of many, such as RewardBench 2: best of n, with ties."""
    policy: Annotated[str | None, Flag(metavar="RUN|MODEL")] = None
    """Policy whose own answers to the prompts are scored: spread of the reward, and lineage."""
    policy_prompts: int = 32
    """Prompts that the policy answers."""
    policy_answers: int = 4
    """Answers to each, at temperature 1."""
    policy_tokens: int = 128
    """Longest answer of the policy in tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_place(self.out)
        require_positive(self, "policy_prompts", "policy_answers", "policy_tokens")
        require(self.policy_answers > 1, "policy_answers", self.policy_answers, "use 2 or more: a spread needs two")
        if self.gold_option and self.gold in (None, RATINGS):
            fix = "add a gold reward, such as --gold length_mode"
            raise UserError("`--gold-option` needs a gold reward with options", where="--gold-option", fix=fix)


def run(options: Options) -> int:
    """Measure, write the page and print its path.

    Raises:
        UserError, DataError: nothing was written.
    """
    from prefloop.report import reward_page
    from prefloop.rewards.bradley_terry.card import reward_card
    from prefloop.rewards.bradley_terry.encoding import comparison

    if options.out.exists() and not (options.out / reward_page.RECORD).is_file():
        from prefloop.rewards.bradley_terry.disk import require_free

        require_free(options.out)
    loaded = read_data(options, options.data)
    notes = noted(options, options.data, loaded)
    trapped = {Path(p): beside.other_file(options, Path(p)) for p in (options.traps or "").split(",") if p}
    several = None if options.best_of is None else beside.other_file(options, options.best_of)
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
    sections = [beside.of_annotators(groups, scored, options.seed), beside.of_best(groups, scored, options.seed)]
    sections += [beside.of_traps(model, *_unknown(model, p, own), options.seed) for p, own in trapped.items()]
    if several is not None and options.best_of is not None:
        _, fresh = _unknown(model, options.best_of, several)
        sections[1] = _best(fresh, model, options)
    if options.policy is not None:
        asked = beside.Asked(options.policy, options.policy_prompts, options.policy_answers, options.policy_tokens)
        spread, more = beside.of_policy(model, groups, asked, options.seed)
        sections, remarks = [*sections, spread], [*remarks, *more]
    shown = [section for section in sections if section is not None]
    title = f"Reward model {options.model}"
    place = reward_page.write(made, options.out, title=title, about=about, remarks=remarks, sections=shown)
    lines = [wrapped(reward_page.verdict(made)), *map(wrapped, remarks), *reward_page.terminal(made, shown)]
    options.show(
        lambda: {"page": str(place), **reward_page.record(made, about, [*notes, *remarks], shown)},
        lambda: print("\n".join([*lines, f"page: {place}"])),
    )
    return 0


def _unknown(model: RewardModel, path: Path, groups: list[Group]) -> tuple[Path, list[Group]]:
    """The groups of a further file that the model was not fitted to."""
    return path, _unseen(model, groups, path)[0]


def _best(groups: list[Group], model: RewardModel, options: Options) -> Section:
    """Best of n on a file for it.

    Raises:
        DataError: no row has a best answer of three or more.
    """
    found = beside.of_best(groups, model.score_groups(groups), options.seed)
    if found is None:
        fix = "give rows with `chosen` and `rejected` as lists, or with `responses` and `scores`"
        raise DataError("no row has a best answer of three or more", where=str(options.best_of), fix=fix)
    return found


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
