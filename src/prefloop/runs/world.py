"""From a configuration to its objects: method and plan; opened model, data and reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from prefloop.core import devices
from prefloop.core.errors import DataError, UserError
from prefloop.core.loop import Plan
from prefloop.core.method import Method
from prefloop.core.methods import method
from prefloop.core.processes import ALONE, Processes
from prefloop.core.protocols import no_op
from prefloop.core.weights import best_only
from prefloop.data.records import Group, spread
from prefloop.data.serving import Needs, check_serves, given
from prefloop.data.skipping import MOST, left_out
from prefloop.policies.pretrained import Limits
from prefloop.runs.config import Config
from prefloop.worlds.text.examine import examined, sound, too_many_cut, truncation
from prefloop.worlds.text.open_data import TextData
from prefloop.worlds.text.open_model import OpenModel, open_model
from prefloop.worlds.text.open_reward import LABELS, TextReward, open_reward, threshold_of
from prefloop.worlds.text.problem import TextProblem, Truncation, check_groups
from prefloop.worlds.text.spec import AUTO, BUILTIN, SPLIT

NAME_A_REWARD = (
    "use a reward: length_min (shorter is better), bradley_terry (fitted to preferences), module:function, …"
)


@dataclass(frozen=True)
class TextWorld:
    """The opened model, data and reward of a configuration; runs do not change them."""

    data: TextData
    model: OpenModel
    problem: TextProblem  # scores with the reward
    reward: TextReward
    notes: tuple[str, ...]  # what was guessed, left out or replaced; for the manifest and every result
    lost: Truncation  # effect of the length limit on the training responses


def method_of(config: Config) -> Method:
    """The method with its overrides.

    Raises:
        UserError: no such method, module or hyper-parameter, or one out of range.
    """
    try:
        return method(config.method).override(**config.override)
    except UserError as error:
        raise UserError(error.what, where=error.where or f"method {config.method}", fix=error.fix) from None


def plan_of(config: Config, method: Method) -> Plan:
    """Steps and batch sizes, checked against the method.

    Raises:
        UserError: see `Plan.check`.
    """
    t = config.training
    plan = Plan(t.steps, t.batch, t.minibatch, t.lr, int(t.warmup), t.max_grad_norm, t.schedule)
    plan.check(method)
    return plan


def resolved(config: Config) -> Config:
    """The configuration with its reward and its held-out examples named, where they are `auto`: the labels of a data
    file, where they are enough, and then a share of that file; the built-in prompts have none.

    Raises:
        UserError: fresh responses or built-in prompts without a reward.
    """
    if config.reward.name == AUTO:
        config = replace(config, reward=replace(config.reward, name=_labels(config)))
    if config.data.held_out != AUTO:
        return config
    own = config.reward.name == LABELS and config.data.train != BUILTIN
    return replace(config, data=replace(config.data, held_out=SPLIT if own else BUILTIN))


def _labels(config: Config) -> str:
    """The labels of the data, as the reward that nobody has named.

    Raises:
        UserError: fresh responses or built-in prompts, which have no labels.
    """
    if method_of(config).on_policy == 0 and config.data.train != BUILTIN:
        return LABELS
    of = "the built-in prompts have no preferences"
    if config.data.train != BUILTIN:
        of = "the preferences of the data cannot score the fresh responses that on_policy > 0 draws"
    raise UserError(f"no reward is named, and {of}", where="reward.name", fix=NAME_A_REWARD)


def needs_of(method: Method) -> Needs:
    """What a method reads of the data."""
    compares = method.compares or method.weight is best_only
    if "labels" in method.needs:
        return Needs("labels", compares, method.responses)
    return Needs("scores" if "scores" in method.needs else "", compares, method.responses)


def check_reward(config: Config, method: Method, data: TextData) -> None:
    """Refuse a method that is incompatible with the reward, the data or dropout, before a model is loaded.

    Raises:
        UserError: fresh responses without a scorer, a method without the labels it needs, groups of other sizes, or
            dropout for a method with a ratio.
        DataError: all labels are equal, or a single held-out prompt is to be answered.
    """
    if method.on_policy > 0 and config.reward.name == LABELS:
        raise UserError(
            "the labels of the data cannot score fresh responses, which on_policy > 0 requires",
            where="reward.name",
            fix=f"{NAME_A_REWARD}, or set on_policy: 0",
        )
    if config.reward.name == LABELS and not data.has_responses:
        raise UserError("the data have prompts only, no labels", where="reward.name", fix=NAME_A_REWARD)
    if config.reward.name != LABELS and len(data.held_out) < 2:
        what = "the reward of answers to a single held-out prompt has no standard error"
        raise DataError(what, where="data.held_out", fix="hold out two prompts or more")
    if config.model.lora_dropout and "behaviour" in method.needs:
        what = f"dropout would change the ratio of `{config.method}`, which is 1 before the first update"
        raise UserError(what, where="model.lora_dropout", fix="use 0 with this method")
    if method.on_policy < 1 and data.has_responses:
        found = given(data.train)
        needs = needs_of(method)
        replaced = config.reward.name != LABELS  # by the scores of a reward
        check_serves(config.method, needs, replace(found, scored=needs.reads != "") if replaced else found)
        check_groups(data.train, method.responses)
    if "labels" in method.needs:
        _check_labels(config, threshold_of(config.reward, data), data)


def _check_labels(config: Config, threshold: float | None, data: TextData) -> None:
    of_data = config.reward.name == LABELS
    if threshold is None:
        source = "the scores of the data are ratings" if of_data else f"the reward `{config.reward.name}` gives scores"
        raise UserError(
            f"the method `{config.method}` reads labels (+1 good, -1 not), but {source}",
            where=f"method={config.method}, reward.name={config.reward.name}",
            fix="set reward.label_threshold=NUMBER: responses that score above it get the label +1",
        )
    kinds = {score > threshold for group in data.train for score in group.scores or ()} if of_data else {True, False}
    for kind, name in ((True, "positive"), (False, "negative")):
        if kind not in kinds:
            raise DataError(
                f"the method `{config.method}` reads labels, but no training response has a {name} label",
                where="data.train",
                fix="use data with both kinds of labels, or another reward.label_threshold",
            )


def groups_used(config: Config, method: Method) -> int:
    """Number of groups of prompts that a run uses, counting repetitions."""
    t = config.training
    collections = -(-t.steps * t.minibatch // (t.batch * method.reuse))
    return collections * (t.batch // method.responses)


def _sound(data: TextData, problem: TextProblem, *, fresh: bool, given: bool) -> TextData:
    """The data without rows that cannot be rendered, and a note about those.

    Raises:
        DataError: more than half of the training rows.
    """
    train, faults = sound(problem, data.train, fresh=fresh, given=given)
    if len(faults) > MOST * len(data.train):
        what = f"{len(faults)} of {len(data.train)} training rows cannot be rendered; the first: {faults[0]}"
        raise DataError(what, where="data.train", fix=faults[0].fix)
    held_out, more = sound(problem, data.held_out, fresh=True, given=True)
    sides = (("training", faults, len(train)), ("held-out", more, len(held_out)))
    notes = tuple(f"{side}: {left_out(lost, usable)}" for side, lost, usable in sides if lost)
    return replace(data, train=train, held_out=held_out, notes=(*data.notes, *notes))


def _cut(problem: TextProblem, lost: Truncation, held_out: Sequence[Group], pairs: int) -> str:
    """A note on what the limit of responses does to those of the files; empty if nothing.

    Args:
        lost: its effect on the training responses.
        pairs: number of held-out groups with responses that are evaluated.
    """
    said = [f"training responses: {lost}"] if lost.cut or lost.empty or lost.identical else []
    if problem.max_response_tokens is not None:
        held = truncation(problem, spread([group for group in held_out if group.responses])[:pairs])
        if held.cut:
            said.append(f"held-out responses: {held.cut} of {held.responses} cut ({held.share:.1%})")
        if lost.cut or held.cut:
            said.append(f"data.max_response_tokens is {problem.max_response_tokens}")
    return "; ".join(said)


def open_world(
    config: Config,
    data: TextData,
    *,
    methods: Sequence[Method] = (),
    groups: int = 0,
    poll: Callable[[], None] = no_op,
    say: Callable[[str], None] = print,
    processes: Processes = ALONE,
) -> TextWorld:
    """Load the model, examine what the runs will train on, and create the reward.

    Args:
        methods: the methods of the runs that share this world; by default that of the configuration.
        groups: the largest number of groups that one of them uses; by default that of the configuration.
        say: called with every note.
        processes: those that write and score responses together.

    Raises:
        UserError, DataError: what is wrong, where, and how to fix it.
    """
    methods = methods or [method_of(config)]
    model = open_model(
        config.model,
        config.sampling,
        template=config.data.template,
        template_options=config.data.template_options,
        template_date=config.data.template_date,
        micro_tokens=config.training.micro_tokens,
        seed=config.seed,
        processes=processes,
    )
    bare = data.problem(model.template, Limits.of(model.reference.model.config))
    given = data.has_responses and any(m.on_policy < 1 for m in methods)
    fresh = any(m.on_policy > 0 for m in methods) or not data.has_responses
    if config.data.faulty == "skip":
        data = _sound(data, bare, fresh=fresh, given=given)
        bare = replace(bare, train=data.train)
    problem, lost = examined(
        bare, groups or groups_used(config, methods[0]), fresh=fresh, given=given, seed=config.seed
    )
    if error := too_many_cut(lost, problem.max_response_tokens, config.data.over_limit):
        raise error
    reward = open_reward(
        config.reward, data, problem, model.reference, pairs=config.evaluation.pairs, seed=config.seed, poll=poll
    ).among(processes)
    cut = _cut(problem, lost, data.held_out, config.evaluation.pairs)
    where = devices.said(model.device, config.model.device)
    notes = tuple(
        filter(None, (where, *data.notes, data.evaluated_on, model.template.note, model.note, cut, reward.note))
    )
    for note in notes:
        say(note)
    scored = replace(problem, scorer=reward.scorer, label_threshold=reward.label_threshold)
    return TextWorld(data, model, scored, reward, notes, lost)
