"""Several reward models combined: the mean of their scores, or the minimum, which is harder to exploit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.core.protocols import no_op
from prefloop.data.records import Group
from prefloop.policies.conversation import Template, Tokenizer
from prefloop.rewards.bradley_terry.encoding import Comparison, Scored, comparison
from prefloop.rewards.bradley_terry.model import BradleyTerry

Combine = Literal["mean", "min"]


@dataclass(frozen=True)
class Ensemble:
    """Reward models combined by the mean or minimum of their scores (Coste et al. 2024).

    Bradley-Terry scores are only defined up to a constant, on which the minimum depends: models fitted here have mean 0
    over their training pairs; `centring` pulls the mean of every pair to 0 (Eisenstein et al. 2023).

    Raises:
        UserError: no members.
    """

    members: tuple[BradleyTerry, ...]
    combine: Combine = "mean"

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("an ensemble needs at least one reward model", fix="give one or more folders")

    @cached_property
    def is_alike(self) -> bool:
        """Whether all members read the same token ids."""
        first = self.template
        return all(m.tokenizer.get_vocab() == first.tokenizer.get_vocab() for m in self.members) and all(
            m.template.sketch == first.sketch for m in self.members
        )

    @property
    def template(self) -> Template:
        return self.members[0].template

    @property
    def tokenizer(self) -> Tokenizer:
        return self.template.tokenizer

    @property
    def trained_on(self) -> frozenset[str]:
        return frozenset().union(*(member.trained_on for member in self.members))

    @property
    def is_traced(self) -> bool:
        """Whether the training questions of every member are known."""
        return all(member.is_traced for member in self.members)

    def score_batch(self, batch: Batch) -> Float[Tensor, "P G"]:
        """One score per response, 0 on the empty slots of ragged groups; no gradient.

        Raises:
            UserError: members with different tokenizers or templates, which token ids do not fit.
        """
        if not self.is_alike:
            what = "the reward models of the ensemble have different tokenizers or chat templates"
            raise UserError(what, fix="score texts: score_groups, or worlds.text.scoring.scorer_of")
        return combined(torch.stack([member.score_batch(batch) for member in self.members]), self.combine)

    def score_groups(self, groups: Sequence[Group], poll: Callable[[], None] = no_op) -> Scored:
        """Scores of all responses of the groups, in their order; no gradient.

        Raises:
            DataError: no response, or a prompt that the chat template rejects.
        """
        scored = [member.score_groups(groups, poll) for member in self.members]
        score = combined(torch.stack([each.score for each in scored]), self.combine)
        return replace(scored[0], score=score, cut=torch.stack([each.cut for each in scored]).any(0))

    def compare(self, groups: Sequence[Group]) -> Comparison:
        """Margins of all strict preferences in the groups.

        Raises:
            DataError: no preference, or a prompt that the chat template rejects.
        """
        return comparison(groups, self.score_groups(groups))


RewardModel = BradleyTerry | Ensemble


def combined(scores: Float[Tensor, "M ..."], how: Combine) -> Tensor:
    """Combine scores over the M members."""
    return scores.mean(0) if how == "mean" else scores.amin(0)
