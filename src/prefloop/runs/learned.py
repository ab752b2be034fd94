"""The learned reward of a configuration: a saved reward model, several of them, or one fitted to the training pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, get_args

from prefloop.core.errors import UserError, nearest
from prefloop.data.records import Group
from prefloop.policies.causal_lm import CausalLM
from prefloop.rewards.bradley_terry import disk as saved
from prefloop.rewards.bradley_terry.encoding import count_pairs
from prefloop.rewards.bradley_terry.ensemble import Combine, Ensemble, RewardModel
from prefloop.rewards.bradley_terry.fit import fit
from prefloop.rewards.bradley_terry.options import NAMES, Ties, fit_options

SAVED = ("path", "combine")  # options of what is loaded
PAIRS = 300  # that a model is fitted to unless more are asked for
FITTED = ("pairs", *NAMES)  # options of what is fitted
WHERE = "reward.options"


def learned(
    options: Mapping[str, Any], policy: CausalLM, train: list[Group], seed: int, poll: Callable[[], None]
) -> RewardModel:
    """Reward models from `path` (one folder, or a list and how to combine them), or one fitted to training pairs.

    It is fitted to the first `pairs` training pairs, see `first_pairs`.

    Raises:
        UserError: an unknown option, one of the wrong kind, or two that exclude each other.
        DataError: a saved model that cannot be used, or no preferences to fit one to.
    """
    _check(options)
    if "path" in options:
        paths = _paths(options)
        members = tuple(saved.load(path, autocast=policy.autocast) for path in paths)
        return Ensemble(members, options.get("combine", "mean")) if len(members) > 1 else members[0]
    how = fit_options({k: v for k, v in options.items() if k != "pairs"}, where=WHERE)
    pairs = first_pairs(train, options.get("pairs", PAIRS), how.loss.ties)
    return fit(policy.model, policy.tokenizer, pairs, how, seed=seed, autocast=policy.autocast, poll=poll)


def _check(options: Mapping[str, Any]) -> None:
    for key in options:
        if key not in (*SAVED, *FITTED):
            fix = nearest(key, (*SAVED, *FITTED))
            raise UserError(f"unknown option `{key}` of a reward model", where=WHERE, fix=fix)
    pairs, combine = options.get("pairs", PAIRS), options.get("combine", "mean")
    if not isinstance(pairs, int) or pairs < 2:  # true is 1
        raise UserError(f"`pairs` must be a whole number above 1, not {pairs!r}", where=f"{WHERE}.pairs")
    if combine not in get_args(Combine):
        raise UserError(f"`combine` must be mean or min, not {combine!r}", where=f"{WHERE}.combine")
    idle = sorted(options.keys() & set(FITTED)) if "path" in options else sorted(options.keys() & {"combine"})
    if idle:
        of = "a fitted model, and `path` loads one" if "path" in options else "saved models, and there is no `path`"
        raise UserError(f"`{idle[0]}` is for {of}", where=f"{WHERE}.{idle[0]}", fix="leave one of them out")


def _paths(options: Mapping[str, Any]) -> list[str]:
    given = options["path"]
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise UserError(f"`path` must be a folder or a list of folders, not {given!r}", where=f"{WHERE}.path")
    if len(paths) == 1 and "combine" in options:
        raise UserError("there is one reward model only, so nothing to combine", where=f"{WHERE}.combine")
    return paths


def first_pairs(groups: Sequence[Group], count: int, ties: Ties = "drop") -> list[Group]:
    """Groups in the order of `spread` until they have `count` pairs; the last one is taken whole.

    A pair is two responses of a group that are rated differently, with `half` also two that are rated the same.
    """
    sizes = [(group, count_pairs(group, ties)) for group in spread(groups)]
    before = accumulate((size for _, size in sizes), initial=0)
    return [group for (group, size), had in zip(sizes, before, strict=False) if size and had < count]


def spread(groups: Sequence[Group]) -> list[Group]:
    """The first group of every question, then the second of every question, …: a prefix covers many questions."""
    seen: Counter[str] = Counter()
    turn = []
    for group in groups:
        turn.append(seen[group.key])
        seen[group.key] += 1
    return [groups[i] for i in sorted(range(len(groups)), key=lambda i: turn[i])]
