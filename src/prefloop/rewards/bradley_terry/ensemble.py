"""Several reward models combined: the mean of their scores, or the minimum, which is harder to exploit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    """Reward models with the same vocabulary, combined by the mean or minimum of their scores (Coste et al. 2024).

    Bradley-Terry scores are only defined up to a constant, on which the minimum depends: models fitted here have mean 0
    over their training pairs; `centring` pulls the mean of every pair to 0 (Eisenstein et al. 2023).

    Raises:
        UserError: no members, or members with different vocabularies.
    """

    members: tuple[BradleyTerry, ...]
    combine: Combine = "mean"

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("an ensemble needs at least one reward model", fix="give one or more folders")
        first = self.template
        for place, member in enumerate(self.members):
            if member.tokenizer.get_vocab() != first.tokenizer.get_vocab():
                what = f"reward model {place + 1} of the ensemble has a different vocabulary from the first"
                raise UserError(what, fix="use models with the same base model")
            if member.template.sketch != first.sketch:
                what = f"reward model {place + 1} of the ensemble has a different chat template from the first"
                raise UserError(what, fix="use models that read the same conversations")

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
        """One score per response, 0 on the empty slots of ragged groups; no gradient."""
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
