"""The optimum of J_β against all policies of small problems, and against the runs of the lab."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from prefloop.core.errors import UserError
from prefloop.core.kl import exact
from prefloop.core.streams import Stream
from prefloop.lab.setting import make
from prefloop.lab.stack import run_stack
from prefloop.worlds.arms.spec import Arms, Categorical, Sequences
from prefloop.worlds.optimum import optimum, product_optimum
from toys import F64


@pytest.mark.parametrize("beta", [0.02, 0.3, 5.0])
@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_no_policy_over_all_responses_is_better_and_the_tilted_reference_is_as_good(tokens: int, beta: float) -> None:
    g = torch.Generator().manual_seed(tokens)
    law, reward = torch.rand(4, generator=g, dtype=F64).softmax(0), torch.rand(4, generator=g, dtype=F64)
    every = list(product(range(4), repeat=tokens))
    log_ref = torch.stack([law[list(y)].log().sum() for y in every])
    gold = torch.stack([reward[list(y)].mean() for y in every])

    def objective(log_p: torch.Tensor) -> float:
        return float((log_p.exp() * gold).sum() - beta * exact(log_p, log_ref))

    best = product_optimum(law, reward, beta, tokens)
    assert best == pytest.approx(objective((log_ref + gold / beta).log_softmax(0)), abs=1e-12)
    assert best == pytest.approx(float(beta * torch.logsumexp(log_ref + gold / beta, 0)), abs=1e-12)
    for _ in range(50):
        near = (log_ref + gold / beta + 0.1 * torch.randn(len(every), generator=g, dtype=F64)).log_softmax(0)
        assert objective(near) < best


@pytest.mark.parametrize("world", [Arms(), Arms(centre=20.0, width=5.0), Categorical(), Sequences()])
def test_the_optimum_lies_between_the_reference_and_the_highest_reward(world: Any) -> None:
    last = optimum(world, 1e-4)
    assert last.best == pytest.approx(world.ceiling, abs=0.01)
    for beta in (0.01, 0.1, 1.0, 100.0):
        found = optimum(world, beta)
        assert found.reference == last.reference < found.best < last.best
        last = found
    assert found.best == pytest.approx(found.reference, abs=1e-3)


def test_a_run_starts_at_the_reference_and_trains_towards_the_optimum() -> None:
    """RLOO with an exact KL in its loss ascends J_β itself."""
    override = {"kl": 0.1, "kl_in": "loss", "kl_estimator": "exact"}
    size = {"responses": 10, "batch": 200, "minibatch": 200, "steps": 150, "evaluate": 150, "lr": 0.1}
    one = make("rloo", "categorical", override, **size, precision="float64")
    (run,) = run_stack([one])
    found = optimum(one.world, 0.1)
    start, end = (run.curves["eval/gold"] - 0.1 * run.curves["eval/kl_reverse_exact"])[[0, -1]]
    assert start == pytest.approx(found.reference, abs=1e-12)
    assert found.best - 0.02 < end < found.best


def test_bad_questions_are_refused() -> None:
    with pytest.raises(UserError, match="β must be positive"):
        optimum(Arms(), 0.0)
    with pytest.raises(UserError, match=r"(?s)highest J_β of `stream` is not known.*optimum"):
        optimum(Stream("", [0], True), 0.1)
