"""From a configuration to its objects: method and plan; opened model, data and reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from prefloop.core.errors import DataError, UserError
from prefloop.core.loop import Plan
from prefloop.core.method import Method
from prefloop.core.methods import method
from prefloop.core.protocols import no_op
from prefloop.runs.config import Config
from prefloop.worlds.text.open_data import TextData
from prefloop.worlds.text.open_model import OpenModel, open_model
from prefloop.worlds.text.open_reward import LABELS, TextReward, open_reward, threshold_of
from prefloop.worlds.text.problem import TextProblem


@dataclass(frozen=True)
class TextWorld:
    """The opened model, data and reward of a configuration; runs do not change them."""

    data: TextData
    model: OpenModel
    problem: TextProblem  # scores with the reward
    reward: TextReward


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
    plan = Plan(t.steps, t.batch, t.minibatch, t.lr, t.warmup, t.max_grad_norm)
    plan.check(method)
    return plan


def check_reward(config: Config, method: Method, data: TextData) -> None:
    """Refuse a method that is incompatible with the reward, before a model is loaded.

    Raises:
        UserError: fresh responses without a scorer, or a method without the labels it needs.
        DataError: no label is positive.
    """
    if method.on_policy > 0 and config.reward.name == LABELS:
        raise UserError(
            "the labels of the data cannot score fresh responses, which on_policy > 0 requires",
            where="reward.name",
            fix="use a reward (length_min, bradley_terry, module:function, …) or set on_policy: 0",
        )
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
    if of_data and not any(score > threshold for group in data.train for score in group.scores or ()):
        raise DataError(
            f"the method `{config.method}` reads labels, but no training response has a positive label",
            where="data.train",
            fix="use data with both kinds of labels, or another reward.label_threshold",
        )


def open_world(
    config: Config, data: TextData, *, poll: Callable[[], None] = no_op, say: Callable[[str], None] = print
) -> TextWorld:
    """Load the model and create the reward.

    Args:
        say: called with notes on truncated data and on the reward.

    Raises:
        UserError, DataError: what is wrong, where, and how to fix it.
    """
    model = open_model(config.model, config.sampling, micro_tokens=config.training.micro_tokens, seed=config.seed)
    problem = data.problem(model.tokenizer, config.sampling.max_new_tokens)
    reward = open_reward(
        config.reward, data, problem, model.reference, pairs=config.evaluation.pairs, seed=config.seed, poll=poll
    )
    lost = data.truncation(problem)
    if lost.cut or lost.empty or lost.identical:
        say(f"training responses: {lost}")
    if reward.note:
        say(reward.note)
    scored = replace(problem, scorer=reward.scorer, label_threshold=reward.label_threshold)
    return TextWorld(data, model, scored, reward)
