"""The rewards of a configuration: the one used in training, and a gold reward for evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.errors import UserError, nearest
from prefloop.core.processes import Processes, share
from prefloop.core.protocols import no_op
from prefloop.data.records import Group, spread, with_system
from prefloop.data.serving import label_threshold
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.conversation import Template
from prefloop.rewards import scorers
from prefloop.rewards.bradley_terry import disk as saved
from prefloop.rewards.bradley_terry.accuracy import reward_accuracy
from prefloop.rewards.bradley_terry.encoding import count_pairs
from prefloop.rewards.bradley_terry.ensemble import Combine, Ensemble, RewardModel
from prefloop.rewards.bradley_terry.fit import fit
from prefloop.rewards.bradley_terry.model import known
from prefloop.rewards.bradley_terry.options import NAMES, Ties, fit_options
from prefloop.rewards.rules import RULES
from prefloop.worlds.text.open_data import TextData
from prefloop.worlds.text.problem import Scorer, TextProblem
from prefloop.worlds.text.scoring import scorer_of
from prefloop.worlds.text.spec import RewardOptions

SAVED = ("path", "combine")  # options for saved models
PAIRS = 300  # default number of pairs that a model is fitted to
FITTED = ("pairs", *NAMES)  # options for fitted models
WHERE = "reward.options"
LABELS, LEARNED = "labels", "bradley_terry"  # rewards that are not rules


@dataclass(frozen=True)
class TextReward:
    """The rewards of a problem."""

    name: str
    scorer: Scorer | None  # None: the scores in the data
    note: str = ""  # accuracy of a learned reward, or what it replaces; printed with every result that uses it
    gold: Scorer | None = None  # a second reward, measured only in evaluations
    label_threshold: float | None = None  # scores above it give the label +1, others −1; None: no labels

    def among(self, processes: Processes) -> TextReward:
        """The same rewards, computed once for all processes: a learned one by shares of the prompts, a function by the
        first process, because it may read the whole batch, or not repeat itself."""
        if processes.count == 1:
            return self
        split = {True: _by_shares, False: _by_the_first}
        scorer = None if self.scorer is None else partial(split[self.name == LEARNED], self.scorer, processes)
        gold = None if self.gold is None else partial(_by_the_first, self.gold, processes)
        return replace(self, scorer=scorer, gold=gold)


def _by_shares(scorer: Scorer, processes: Processes, batch: Batch) -> Float[Tensor, "P G"]:
    mine = share(len(batch.mask), processes).to(batch.mask.device)
    scores = torch.zeros(batch.mask.shape[:-1], device=batch.mask.device)
    if len(mine):
        scores[mine] = scorer(batch[mine]).to(scores)
    return processes.sum(scores)


def _by_the_first(scorer: Scorer, processes: Processes, batch: Batch) -> Float[Tensor, "P G"]:
    scores = torch.zeros(batch.mask.shape[:-1], device=batch.mask.device)
    return processes.sum(scorer(batch).to(scores) if processes.rank == 0 else scores)


def open_reward(
    options: RewardOptions,
    data: TextData,
    problem: TextProblem,
    reference: CausalLM,
    *,
    pairs: int = 400,
    seed: int = 0,
    poll: Callable[[], None] = no_op,
) -> TextReward:
    """Create the rewards; a Bradley–Terry model is loaded, or fitted to the training pairs starting from the reference.

    Args:
        problem: decodes tokens for rewards on texts.
        pairs: number of held-out pairs for measuring the accuracy of a learned reward.
        seed: seed of the fit.
        poll: called before every forward pass of the fit.

    Raises:
        UserError: an unknown reward or option.
        DataError: a saved model that cannot be used, or no preferences to fit one to.
    """
    measured = _gold(options, problem)  # first, so that errors in its options show before a reward model is fitted
    scorer, note = _scorer(options, data, problem, reference, pairs, seed, poll)
    return TextReward(options.name, scorer, note, measured, threshold_of(options, data))


def threshold_of(options: RewardOptions, data: TextData) -> float | None:
    """The score above which a label is positive: as given, or 0 for data whose scores are labels already."""
    of_data = options.label_threshold is None and options.name == LABELS
    return label_threshold(data.train) if of_data else options.label_threshold


def _scorer(
    options: RewardOptions,
    data: TextData,
    problem: TextProblem,
    reference: CausalLM,
    pairs: int,
    seed: int,
    poll: Callable[[], None],
) -> tuple[Scorer | None, str]:
    """The scorer of responses, and a note about it."""
    if options.name == LABELS:
        return None, ""
    if options.name != LEARNED:
        notes = (_unused_scores(options.name, data), _read_by_name(options, problem))
        return _rule(options.name, options.options, problem), "; ".join(filter(None, notes))
    train = with_system(data.options.system, data.train)  # fitted and tested on the prompts that it will score
    model = learned(options.options, reference, problem.template, train, seed, poll)
    scorer, note = scorer_of(model, problem)
    return scorer, "; ".join(filter(None, (_accuracy(model, data, pairs, seed), note)))


def _read_by_name(options: RewardOptions, problem: TextProblem) -> str:
    """A note on what a user's function gets from the data: an argument may be called as a column is by accident."""
    if options.name in RULES:
        return ""
    read = scorers.asked_by_name(scorers.rule_of(options.name), options.options, problem.named())
    return f"`{options.name}` reads by name: {', '.join(read)}" if read else ""


def _unused_scores(name: str, data: TextData) -> str:
    """A note if the data bring preferences or labels of their own, which the reward replaces."""
    if not any(group.scores for group in data.train):
        return ""
    return f"`{name}` scores the responses: the file's own preferences are not used (reward.name=labels uses them)"


def _accuracy(model: RewardModel, data: TextData, count: int, seed: int) -> str:
    """The accuracy of a learned reward on unseen held-out pairs."""
    pairs = first_pairs([g for g in data.held_out if not known(g, model.trained_on)], count)
    if not pairs:
        return "Bradley–Terry scorer: accuracy not measured: the held-out set has no unseen pairs"
    return f"Bradley–Terry scorer: {reward_accuracy(model, with_system(data.options.system, pairs), seed=seed)}"


def _gold(options: RewardOptions, problem: TextProblem) -> Scorer | None:
    """The gold reward, measured in evaluations."""
    if options.gold is None:
        if options.gold_options:
            what = "`gold_options` are given without a gold reward"
            raise UserError(what, where="reward.gold_options", fix="set reward.gold")
        return None
    if options.name == LABELS:
        fix = "use a reward that scores fresh responses, or remove reward.gold"
        raise UserError(
            "with reward `labels` there are no fresh responses to measure gold on", where="reward.gold", fix=fix
        )
    where = scorers.Where("reward.gold", "reward.gold_options", known=("module:function",))
    return _rule(options.gold, options.gold_options, problem, where)


def _rule(name: str, options: Mapping[str, Any], problem: TextProblem, where: scorers.Where = scorers.REWARD) -> Scorer:
    return scorers.build(
        name,
        options,
        decode=problem.decode,
        decode_prompts=problem.decode_prompts,
        named=problem.named(),
        where=where,
    )


# ---- a learned reward ---------------------------------------------------------------------------------------------


def learned(
    options: Mapping[str, Any],
    policy: CausalLM,
    template: Template,
    train: list[Group],
    seed: int,
    poll: Callable[[], None],
) -> RewardModel:
    """Reward models from `path` (one folder, or a list to combine), or one fitted to training pairs.

    The latter uses the first `pairs` training pairs, see `first_pairs`.

    Raises:
        UserError: an unknown option, one of the wrong type, or two that exclude each other.
        DataError: a saved model that cannot be used, or no preferences to fit one to.
    """
    _check(options)
    if "path" in options:
        paths = _paths(options)
        read = [saved.load(path, autocast=policy.autocast, date=template.date) for path in paths]
        members = tuple(model.on(policy.network.device) for model in read)
        return Ensemble(members, options.get("combine", "mean")) if len(members) > 1 else members[0]
    how = fit_options({k: v for k, v in options.items() if k != "pairs"}, where=WHERE)
    pairs = first_pairs(train, options.get("pairs", PAIRS), how.loss.ties)
    return fit(policy.model, template, pairs, how, seed=seed, autocast=policy.autocast, poll=poll)


def _check(options: Mapping[str, Any]) -> None:
    for key in options:
        if key not in (*SAVED, *FITTED):
            fix = nearest(key, (*SAVED, *FITTED))
            raise UserError(f"unknown option `{key}` of a reward model", where=WHERE, fix=fix)
    pairs, combine = options.get("pairs", PAIRS), options.get("combine", "mean")
    if not isinstance(pairs, int) or pairs < 2:  # also excludes true, which is 1
        raise UserError(f"`pairs` must be a whole number above 1, not {pairs!r}", where=f"{WHERE}.pairs")
    if combine not in get_args(Combine):
        raise UserError(f"`combine` must be mean or min, not {combine!r}", where=f"{WHERE}.combine")
    idle = sorted(options.keys() & set(FITTED)) if "path" in options else sorted(options.keys() & {"combine"})
    if idle:
        of = "a fitted model, but `path` loads one" if "path" in options else "saved models, but there is no `path`"
        raise UserError(f"`{idle[0]}` applies to {of}", where=f"{WHERE}.{idle[0]}", fix="remove one of them")


def _paths(options: Mapping[str, Any]) -> list[str]:
    given = options["path"]
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise UserError(f"`path` must be a folder or a list of folders, not {given!r}", where=f"{WHERE}.path")
    if len(paths) == 1 and "combine" in options:
        raise UserError("`combine` needs more than one reward model", where=f"{WHERE}.combine")
    return paths


def first_pairs(groups: Sequence[Group], count: int, ties: Ties = "drop") -> list[Group]:
    """Groups in the order of `spread` until they have `count` pairs; the last group is not split.

    A pair is two responses of a group with different ratings; with `half`, equal ratings count too.
    """
    sizes = [(group, count_pairs(group, ties)) for group in spread(groups)]
    before = accumulate((size for _, size in sizes), initial=0)
    return [group for (group, size), had in zip(sizes, before, strict=False) if size and had < count]
