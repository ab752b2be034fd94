"""Scores of answers by a reward on texts, or by a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from prefloop.core.errors import UserError
from prefloop.data.records import Group
from prefloop.rewards.bradley_terry import disk
from prefloop.rewards.scorers import Where, called, checked, rule_of

BY = Where("--by", "--by", known=("module:function",))
Pair = tuple[Group, str]  # a prompt and an answer to it


def scores(reward: str, pairs: Sequence[Pair]) -> dict[tuple[str, str], float]:
    """The score of each answer, by the texts of prompt and answer.

    Args:
        reward: a rule on texts, a user's `module:function`, or the folder of a reward model.

    Raises:
        UserError: an unknown reward, or one that counts the tokens of a model.
        DataError: a reward model that cannot be used, or a function that fails.
    """
    different = {(group.text, answer): (group, answer) for group, answer in pairs}
    if Path(reward).is_dir():
        model = disk.load(reward)
        asked = [replace(group, responses=(answer,), scores=None, more=()) for group, answer in different.values()]
        values = model.score_groups(asked).score.tolist()
    else:
        rule = rule_of(reward, BY)
        if rule.reads == ("tokens",):
            fix = "use a reward on texts, such as keyword or sentiment, or a reward model"
            raise UserError(f"`{reward}` counts the tokens of a model, but answers are texts", where="--by", fix=fix)
        score = partial(rule.score, **checked(reward, rule, {}, BY))
        values = called(reward, rule, score, list(different))
    return dict(zip(different, values, strict=True))
