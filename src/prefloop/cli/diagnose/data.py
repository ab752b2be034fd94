"""`prefloop diagnose --model M --data D`: what data offer a model before it is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.cli.data.shared import read
from prefloop.cli.pages import at, written
from prefloop.core.errors import DataError

if TYPE_CHECKING:
    from prefloop.analysis.offer import Given, Samples, Value
    from prefloop.cli.diagnose import Options
    from prefloop.core.batch import Batch
    from prefloop.data.records import Group
    from prefloop.policies.causal_lm import CausalLM
    from prefloop.report.found_page import Found
    from prefloop.report.offer import About
    from prefloop.worlds.text.open_model import OpenModel
    from prefloop.worlds.text.problem import Scorer, TextProblem

LEARNED = "bradley_terry"
HELD_OUT = 0.5  # share of the questions on which a reward model fitted to the others is used
FORECAST = 5.0  # seconds of sampling from which its time is told


@dataclass(frozen=True)
class Looked:
    """What was looked at.

    Args:
        theirs, own: responses of the data, none if they have none, and samples of the model to the same prompts.
        remarks: what was guessed or left out.
    """

    about: About
    theirs: Given | None
    own: Samples
    remarks: list[str]


def diagnose(options: Options) -> int:
    """Sample the model on prompts of the data, measure, and print the page.

    Raises:
        UserError, DataError: a model, file or reward that cannot be used.
    """
    from prefloop.analysis.offer import measured, record
    from prefloop.report.offer import sentences, text

    seen = looked(options)
    about, remarks = seen.about, seen.remarks
    measures = measured(seen.theirs, seen.own, beta=options.beta, target=options.target)
    whole: dict[str, Any] = {
        **vars(about),
        "model": options.model,
        "data": str(options.data),
        "sentences": sentences(measures, about),
        "measures": record(measures),
        "notes": remarks,
    }
    page = written(options.page, lambda: _found(measures, seen, whole))
    options.show(lambda: {**whole, "page": page}, lambda: print("\n" + text(measures, about, remarks) + at(page)))
    return 0


def _found(measures: Mapping[str, Value], seen: Looked, whole: dict[str, Any]) -> Found:
    from prefloop.report.offer_page import found

    return found(measures, seen.about, whole, seen.remarks)


def looked(options: Options) -> Looked:
    """Sample the model on prompts of the data; see `diagnose`."""
    from prefloop.report.offer import About
    from prefloop.worlds.text.against import given, limit_of, questions, samples_of
    from prefloop.worlds.text.open_model import open_model
    from prefloop.worlds.text.spec import ModelOptions, SamplingOptions

    assert options.model is not None and options.data is not None
    groups, notes = groups_of(options)
    options.say(f"opening {options.model} for {min(options.prompts, len(groups)):,} prompts")
    opened = open_model(ModelOptions(options.model), SamplingOptions(), template=options.template, seed=options.seed)
    fitted_to, judged = _halves(options, groups)
    problem = _problem(opened, judged, options)
    asked, more = _fitting(options, problem, questions(judged, options.prompts, options.seed))
    limit = options.max_new_tokens or limit_of(problem, asked)
    policy = opened.reference.sampled(max_new_tokens=limit)
    asked, last = _with_room(problem, asked, policy)
    scorer, name, said = _reward(options, opened, problem, fitted_to, asked)
    drawn = _sampled(options, policy, problem, asked, opened.sha256)
    count = sum(len(group.responses) for group in asked)
    options.say(f"reading {count:,} responses of the data" + (", scoring them and the samples" if scorer else ""))
    theirs = given(policy, problem, asked, limit, scorer)
    about = About(
        model=Path(options.model).name if Path(options.model).is_dir() else options.model,
        data=options.data.name,
        reward=name,
        prompts=len(drawn.prompts),
        samples=options.samples,
        limit=limit,
        responses=0 if theirs is None else len(theirs.prompt),
        cut=float(policy.is_cut(drawn).double().mean()),
        cut_data=_cut(problem, asked, limit),
        beta=options.beta,
    )
    remarks = [*notes, *filter(None, (opened.template.note, opened.note)), *more, *last, *said]
    return Looked(about, theirs, samples_of(drawn, scorer, problem, about.cut), remarks)


def groups_of(options: Options) -> tuple[list[Group], list[str]]:
    """The rows of the file that can be used, and what must be known about them."""
    from prefloop.data.records import with_system
    from prefloop.data.skipping import kept

    assert options.data is not None
    loaded = kept(options.data, read(options, options.data, options.limit), options.faulty)
    return with_system(options.system, loaded.groups), list(loaded.remarks)


def _problem(opened: OpenModel, groups: list[Group], options: Options) -> TextProblem:
    from prefloop.policies.pretrained import Limits
    from prefloop.worlds.text.problem import ANY_LENGTH, TextProblem

    limits = Limits.of(opened.reference.model.config)
    most = ANY_LENGTH if limits.context is None else limits.context - 1
    return TextProblem(
        groups,
        opened.template,
        max_prompt_tokens=most,
        context=limits.context,
        vocabulary=limits.vocabulary,
    )


def _fitting(options: Options, problem: TextProblem, groups: list[Group]) -> tuple[list[Group], list[str]]:
    """The rows that the model can read.

    Raises:
        DataError: some cannot be read and are not to be skipped, or none can.
    """
    from prefloop.data.skipping import left_out
    from prefloop.worlds.text.examine import sound

    good, faults = sound(problem, groups, fresh=True, given=True)
    if faults and (options.faulty == "refuse" or not good):
        what = f"{len(faults)} of {len(groups)} rows cannot be read by the model; the first, in {faults[0]}"
        raise DataError(what, where=str(options.data), fix="fix or remove them, or leave them out: --faulty skip")
    return good, [left_out(faults, len(good))] if faults else []


def _with_room(problem: TextProblem, groups: list[Group], policy: CausalLM) -> tuple[list[Group], list[str]]:
    """The rows whose prompts leave room for a sample in the context.

    Raises:
        DataError: none does.
    """
    most = policy.prompt_limit
    room = [most is None or len(ids) <= most for ids in problem.render(groups)]
    if not any(room):
        what = f"no prompt leaves room for {policy.sampling.max_new_tokens} tokens in the context"
        raise DataError(what, where="--max-new-tokens", fix="use fewer")
    left = room.count(False)
    said = [f"{left} of {len(groups)} rows are left out: their prompts leave no room for a sample"] if left else []
    return [group for group, fits in zip(groups, room, strict=True) if fits], said


# ---- the reward -----------------------------------------------------------------------------------------------------


def _halves(options: Options, groups: list[Group]) -> tuple[list[Group], list[Group]]:
    """Rows to which a reward model is fitted, and rows that are measured: two halves if one is fitted, else all."""
    from prefloop.data.records import split

    fits = options.reward == LEARNED and "path" not in options.reward_option
    return split(groups, HELD_OUT, options.seed) if fits else (groups, groups)


def _reward(
    options: Options, opened: OpenModel, problem: TextProblem, train: list[Group], asked: list[Group]
) -> tuple[Scorer | None, str, list[str]]:
    """The reward of fresh responses, its name, and notes; none if none is asked for."""
    from prefloop.worlds.text.open_data import TextData
    from prefloop.worlds.text.open_reward import LABELS, open_reward
    from prefloop.worlds.text.spec import DataOptions, RewardOptions

    if options.reward in (None, LABELS):
        return None, "", []
    name, own = str(options.reward), dict(options.reward_option)
    if name != LEARNED and Path(name).expanduser().is_dir():
        name, own = LEARNED, {"path": name, **own}
    if name != LEARNED:  # the preferences of the file keep their meaning beside the reward
        train = [replace(group, scores=None) for group in train]
    data = TextData(DataOptions(train=str(options.data)), train, asked, {})
    if name == LEARNED and "path" not in own:
        options.say(
            f"fitting a reward model to pairs of {len(train):,} rows; the other half of the questions is measured"
        )
    found = open_reward(RewardOptions(name, own), data, problem, opened.reference, seed=options.seed)
    return found.scorer, name if name != LEARNED else "the learned reward", [found.note] if found.note else []


# ---- samples --------------------------------------------------------------------------------------------------------


def _sampled(options: Options, policy: CausalLM, problem: TextProblem, groups: list[Group], model: str) -> Batch:
    """Samples to each prompt, with the remaining time."""
    from prefloop.analysis.numbers import duration
    from prefloop.runs.progress import Progress
    from prefloop.worlds.text.against import sampled

    first = {(group.prompt, group.tools): group for group in reversed(groups)}
    keys = dict.fromkeys((group.prompt, group.tools) for group in groups)
    prompts = problem.render([first[key] for key in keys])
    with Progress(len(prompts), f"prompts with {options.samples} samples", quiet=options.silent) as bar:

        def done(count: int) -> None:
            bar.advance(count)
            left = bar.seconds_left()
            if bar.done == count and left is not None and left > FORECAST:
                options.say(f"sampling takes about {duration(left)} more")

        return sampled(
            policy, prompts, options.samples, seed=options.seed, model=model, poll=lambda: bar.advance(0), done=done
        )


def _cut(problem: TextProblem, groups: list[Group], limit: int) -> float:
    """Share of the data's responses that are longer than the limit."""
    from prefloop.worlds.text.examine import truncation

    some = [group for group in groups if group.responses]
    return truncation(replace(problem, max_response_tokens=limit), some).share
