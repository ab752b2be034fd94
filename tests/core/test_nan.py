"""A reward that is not a number stops every method before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prefloop import METHODS, Plan, train
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError
from prefloop.core.streams import Stream
from prefloop.policies.categorical import Categorical


class Broken:
    """Scores that are not a number."""

    def __init__(self, policy: Categorical) -> None:
        self.policy = policy

    def prompts(self, start: int, count: int, rng: Stream) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.long)

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        drawn = self.policy.draw(self.prompts(start, count, rng), responses, rng)
        return replace(drawn, logp_behaviour=None, logp_proximal=None)

    def score(self, batch: Batch) -> Batch:
        return replace(batch, scores=torch.full(batch.mask.shape[:-1], torch.nan))


@pytest.mark.parametrize("name", METHODS)
def test_a_nan_reward_is_refused(name: str) -> None:
    row = METHODS[name]
    policy = Categorical(torch.zeros(1, 1, 4))
    size = 2 * row.responses
    with pytest.raises(DataError, match="not finite"):
        train(row, policy, Broken(policy), Plan(steps=1, batch=size, minibatch=size, lr=0.1))
    assert torch.equal(policy.logits, torch.zeros(1, 1, 4))
