"""`prefloop advise`: which method to use on these data, as far as a tested rule can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.cli.options import Rows, require, require_new, require_page, require_positive, require_seed
from prefloop.cli.pages import at, written
from prefloop.core.errors import UserError, nearest
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.advice.actions import Feed
    from prefloop.advice.features import Facts, Value
    from prefloop.advice.rule import Advice
    from prefloop.cli.diagnose.data import Looked
    from prefloop.data.records import Group
    from prefloop.report.advised import Page
    from prefloop.report.found_page import Found

BUDGETS = ("steps", "samples", "queries", "hours")
AUTO, NONE, LEARNED = "auto", "none", "bradley_terry"
BATCH = 32  # responses of a gradient step in the written configuration
MOST_PASSES = 10  # over the data, where only hours limit the steps
RATE = 1e-6  # a learning rate to start from; rates of bandits say nothing about language models


@dataclass(frozen=True, kw_only=True)
class Options(Rows):
    """Say which method to use on data, by what is measured before training, with the expected gain and its error.

    What cannot be told is said, and which methods the data cannot feed.
    """

    model: str | None = None
    """Model to train: a local folder, a hub name, or smollm2."""
    data: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Data to train on, see docs/formats.md."""
    lab: Annotated[str | None, Flag(metavar="NAME")] = None
    """Instead: a problem of the lab on which the rule is fitted or tested, such as rotated-0007."""
    reward: Annotated[str, Flag(metavar="NAME|DIR")] = AUTO
    """Reward for fresh responses, by name, module:function or folder; none; auto learns one where there are pairs."""
    reward_option: dict[str, Any] = field(default_factory=dict)
    """Options of the reward, such as target=20."""
    budget: Annotated[dict[str, float], Flag(metavar="KIND=N")] = field(default_factory=dict)
    """steps, samples, queries (to the reward) or hours (default: steps for one pass over the data)."""
    beta: float = 0.1
    """Strength of the KL penalty: what is to be gained is E[reward] - beta KL."""
    prompts: int = 50
    """Prompts of the data that the model answers, drawn at random."""
    samples: int = 64
    """Samples to each of them; the rule is fitted to 64."""
    max_new_tokens: int | None = None
    """Longest sample in tokens (default: of 95 % of the data's responses, at most 256)."""
    system: str | None = None
    """System message for prompts that have none."""
    template: str = "auto"
    """auto, chat, plain, chatml, zephyr, alpaca, human-assistant or a Jinja file."""
    seed: int = 0
    """Seed of prompts and samples."""
    action: Annotated[str | None, Flag(metavar="NAME")] = None
    """Write the configuration of this method of the comparison, whatever is advised."""
    output: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Write a configuration for `prefloop train`."""
    page: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Write an HTML page too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.model is not None, self.data is not None
        if any(given) if self.lab else not all(given):
            raise UserError("a model and data, or a problem of the lab", where="advise", fix="--model M --data FILE")
        for kind, amount in self.budget.items():
            if kind not in BUDGETS:
                raise UserError(f"unknown budget `{kind}`", where="--budget", fix=nearest(kind, BUDGETS))
            require(amount > 0, "budget", amount, f"such as {kind}=100")
        require_positive(self, "prompts", "max_new_tokens", "beta")
        require(self.samples > 1, "samples", self.samples, "use 2 or more; the rule is fitted to 64")
        require_seed(self.seed)
        require_page(self.page)
        if self.output is not None:
            require_new(self.output)
            require(self.lab is None, "output", str(self.output), "leave it out: a problem of the lab has no file")


def run(options: Options) -> int:
    """Measure, apply the rule, and print the page.

    Raises:
        UserError, DataError: a model, file, reward or problem that cannot be used.
    """
    from prefloop.advice.actions import ACTIONS
    from prefloop.report.advised import record, text

    if options.action is not None and options.action not in ACTIONS:
        raise UserError(f"unknown method `{options.action}`", where="--action", fix=nearest(options.action, ACTIONS))
    _check_output(options)
    page, configuration = _lab(options) if options.lab else _text(options)
    whole = {**record(page), "output": configuration or None}
    shown = written(options.page, lambda: _found(options, page, whole))
    options.show(
        lambda: {**whole, "page": shown},
        lambda: print("\n" + text(page) + (f"\n\nconfiguration: {configuration}" if configuration else "") + at(shown)),
    )
    return 0


def _found(options: Options, page: Page, whole: dict[str, Any]) -> Found:
    """For an HTML page."""
    from prefloop.report.advised_page import found

    asked = options.lab or f"{Path(str(options.data)).name} with {Path(str(options.model)).name}"
    return found(page, whole, f"Which method for {asked}")


def _check_output(options: Options) -> None:
    """Refuse to write a configuration that nothing advises, before minutes of sampling.

    Raises:
        UserError: the rule may not advise, and no method is named.
    """
    from prefloop.advice import rule

    _, status = rule.load()
    if options.output is not None and options.action is None and status.refusal is not None:
        what = f"no method can be advised yet: {status.refusal.reason}"
        raise UserError(what, where="--output", fix="name the method yourself: --action NAME")


def _page(
    setting: str, features: Mapping[str, Value], feed: Feed, notes: list[str], offer: Mapping[str, Value] | None = None
) -> Page:
    """What the shipped rule says."""
    from prefloop.advice import rule
    from prefloop.advice.actions import ACTIONS, fed
    from prefloop.advice.features import FEATURES
    from prefloop.analysis.statistics import Mean
    from prefloop.report.advised import Page

    refused = {name: reason.reason for name, reason in fed(feed).items() if reason is not None}
    fitted, status = rule.load()
    known = {name: x.value for name, x in features.items() if isinstance(x, Mean)}
    able = [name for name in ACTIONS if name not in refused]
    advice: Advice = rule.advise(fitted, known, able)
    if fitted is None and status.refusal is not None:
        advice = rule.Advice(status.refusal)
    titles = {name: action.title for name, action in ACTIONS.items()}
    return Page(setting, advice, status, titles, refused, features, FEATURES, notes, offer or {})


# ------------------------------------------------------------------------------------------------------------ the lab


def _lab(options: Options) -> tuple[Page, str]:
    """A problem of the prior: no file is written."""
    from prefloop.advice.actions import Feed
    from prefloop.advice.features import SAMPLES
    from prefloop.advice.in_lab import ASKED, features_of
    from prefloop.advice.prior import problems

    world, _, number = str(options.lab).rpartition("-")
    if not number.isdecimal():
        raise UserError(f"`{options.lab}` is no problem of the lab", where="--lab", fix="such as rotated-0007")
    (problem,) = problems(world, 1, int(number))
    options.say(f"measuring {problem.name}")
    setting = (
        f"{problem.name}: {problem.world}, {problem.responses} responses to a prompt, {problem.steps} steps,"
        f" {problem.samples} fresh responses, β = {problem.beta:g}; {ASKED} prompts × {SAMPLES} samples."
    )
    return _page(setting, features_of(problem, options.seed), Feed(problem.responses, True, True), []), ""


# ----------------------------------------------------------------------------------------------------- language models


def _text(options: Options) -> tuple[Page, str]:
    """A model and data."""
    from prefloop.advice.actions import Feed
    from prefloop.advice.features import features
    from prefloop.analysis.offer import measured
    from prefloop.cli.diagnose.data import groups_of, looked
    from prefloop.data.serving import given

    groups, _ = groups_of(_asked(options, None))
    held = given(groups)
    reward = _reward(options, ranked=held.scored and held.largest > 1)
    seen = looked(_asked(options, reward))
    facts = _facts(options, groups, reward)
    if hours := options.budget.get("hours"):
        facts = _within(hours, facts, _config(options, "dpo-offline", facts, None, seen.about.limit))
    feed = Feed(held.largest, held.scored, reward is not None)
    about = seen.about
    setting = (
        f"{about.model} wrote {about.samples} samples to each of {about.prompts} prompts of {about.data}, scored by"
        f" {about.reward or 'nothing'}; budget: {facts.steps:,} steps of {BATCH} responses, {facts.samples:,} fresh"
        f" responses; β = {options.beta:g}."
    )
    offer = measured(seen.theirs, seen.own, beta=options.beta)
    page = _page(setting, features(seen.theirs, seen.own, facts), feed, list(seen.remarks), offer)
    return page, _written(options, page, facts, reward, seen)


def _asked(options: Options, reward: str | None) -> Any:
    """The same question for `prefloop diagnose`, which samples."""
    from prefloop.cli.diagnose import Options as Asked

    own = {f.name: getattr(options, f.name) for f in fields(Asked) if hasattr(options, f.name)}
    return Asked(**{**own, "reward": reward, "reward_option": options.reward_option if reward else {}})


def _reward(options: Options, *, ranked: bool) -> str | None:
    """The reward that scores fresh responses; none if there is none."""
    if options.reward == AUTO:
        return LEARNED if ranked else None
    return None if options.reward == NONE else options.reward


def _facts(options: Options, groups: list[Group], reward: str | None) -> Facts:
    """Budgets and labels: by default as many steps as one pass over the data needs."""
    from prefloop.advice.features import Facts
    from prefloop.data.serving import given, label_threshold

    held = given(groups)
    size = max(2, held.largest)
    batch = size * max(1, BATCH // size)
    with_responses = sum(bool(group.responses) for group in groups)
    steps = options.budget.get("steps") or max(1, -(-len(groups) * size // batch))
    if "hours" in options.budget and "steps" not in options.budget:
        steps *= MOST_PASSES
    samples = min([steps * batch, *(options.budget[k] for k in ("samples", "queries") if k in options.budget)])
    return Facts(
        beta=options.beta,
        steps=int(steps),
        samples=int(samples),
        prompts=batch // size,
        groups=with_responses,
        group=max(1, held.largest),
        cardinal=held.scored and label_threshold(groups) is None,
        learned=reward == LEARNED and "path" not in options.reward_option,
    )


def _within(hours: float, facts: Facts, config: Any) -> Facts:
    """Budgets that also end with the hours on this machine, timed on a few responses: steps on given responses, and
    fresh responses with the steps that they are for."""
    from prefloop.runs.speed import quick
    from prefloop.runs.world import open_world, resolved
    from prefloop.worlds.text.open_data import open_data

    whole = resolved(config)
    speed = quick(whole, open_world(whole, open_data(whole.data), say=lambda text: None))
    seconds, batch = 3600 * hours, config.training.batch
    step = batch * (speed.training + speed.forward)
    steps = min(facts.steps, max(1, int(seconds / step)))
    fresh = int(seconds / (step + batch * speed.sampling)) * batch
    return replace(facts, steps=steps, samples=min(facts.samples, steps * batch, max(batch, fresh)))


# ----------------------------------------------------------------------------------------------------- a configuration


def _written(options: Options, page: Page, facts: Facts, reward: str | None, seen: Looked) -> str:
    """The configuration of the advised method, or of the one that is asked for, if a file is wanted; its name.

    Raises:
        UserError: nothing is advised and no method named, or the data cannot feed it.
    """
    from prefloop.core.files import write
    from prefloop.runs.config import to_yaml

    if options.output is None:
        return ""
    name = options.action or page.advice.action
    if not isinstance(name, str):
        page_said = f"no method is advised, so no configuration is written ({name.reason})"
        raise UserError(page_said, where="--output", fix="name one yourself: --action NAME")
    if name in page.refused:
        raise UserError(f"the data cannot feed `{name}`: {page.refused[name]}", where="--action", fix="name another")
    chosen = "advised" if name == page.advice.action else "asked for, not advised"
    head = f"# {name} ({chosen}): {page.titles[name]}\n# the learning rate is a start: try a third and three times it\n"
    write(options.output, head + to_yaml(_config(options, name, facts, reward, seen.about.limit)))
    return str(options.output)


def _config(options: Options, name: str, facts: Facts, reward: str | None, limit: int) -> Any:
    """The action as a configuration with a starting point for its hyper-parameters."""
    from prefloop.advice.actions import ACTIONS, SAMPLED
    from prefloop.runs.config import Config, TrainingConfig
    from prefloop.worlds.text.spec import DataOptions, ModelOptions, RewardOptions, SamplingOptions

    action, size = ACTIONS[name], max(2, facts.group)
    batch = size * facts.prompts
    steps = facts.steps
    fresh = RewardOptions()
    if action.switches.on_policy:
        steps = max(1, min(steps, facts.samples * action.switches.reuse // batch))
        own = dict(options.reward_option)
        folder = reward is not None and reward != LEARNED and Path(reward).expanduser().is_dir()
        fresh = RewardOptions(LEARNED, {"path": reward, **own}) if folder else RewardOptions(str(reward), own)
    knob = {action.knob.name: options.beta} | (SAMPLED if action.penalty else {})
    return Config(
        method=action.method,
        override={**action.override, **knob, "responses": size},
        model=ModelOptions(str(options.model)),
        data=DataOptions(
            train=str(options.data),
            held_out="split",
            format=options.format,
            columns=options.columns,
            group_by=options.group_by,
            faulty=options.faulty,
            template=options.template,
            system=options.system,
            limit=options.limit,
        ),
        reward=fresh,
        sampling=SamplingOptions(max_new_tokens=limit),
        training=TrainingConfig(steps=steps, batch=batch, minibatch=batch, lr=RATE),
        seed=options.seed,
    )
