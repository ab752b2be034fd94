"""The fit loop against torch's Adam, written out by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from prefloop.core.errors import DataError
from prefloop.core.fit import constant, falling, minimise

A = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)


def quadratic(w: Tensor, step: int) -> Tensor:
    """A loss that every step changes."""
    return w @ A @ w / 2 - (1 + step % 3) * w.sum()


def test_it_is_adam_with_a_clipped_gradient_and_a_falling_rate() -> None:
    ours, theirs = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    seen: list[tuple[int, float]] = []
    rate = falling(0.1, 20, warmup=4)
    minimise([ours], lambda s: [quadratic(ours, s)], 20, lr=rate, limit=0.5, observe=lambda s, x: seen.append((s, x)))
    optimizer, losses = torch.optim.Adam([theirs], lr=0.1), []
    for step in range(20):
        optimizer.zero_grad()
        loss = quadratic(theirs, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        optimizer.param_groups[0]["lr"] = 0.1 * min(1.0, (step + 1) / 4) * (1 - step / 20)
        optimizer.step()
        losses.append(float(loss.detach()))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert [step for step, _ in seen] == list(range(1, 21))
    assert [loss for _, loss in seen] == pytest.approx(losses, abs=1e-9)


def test_a_loss_in_parts_is_their_sum() -> None:
    whole, parts = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    seen: dict[str, list[float]] = {"whole": [], "parts": []}

    def halves(step: int) -> Iterator[Tensor]:
        yield quadratic(parts, step) / 4
        yield quadratic(parts, step) * 3 / 4

    minimise(
        [whole], lambda s: [quadratic(whole, s)], 5, lr=constant(0.1), observe=lambda _, x: seen["whole"].append(x)
    )
    minimise([parts], halves, 5, lr=constant(0.1), observe=lambda _, x: seen["parts"].append(x))
    torch.testing.assert_close(whole, parts, atol=1e-12, rtol=0)
    assert seen["whole"] == pytest.approx(seen["parts"], abs=1e-12)


def test_stacked_runs_are_clipped_and_stepped_alone() -> None:
    start = torch.tensor([[1.0, 1.0], [50.0, -20.0]], dtype=torch.float64)
    stack = start.clone().requires_grad_()
    minimise(
        [stack],
        lambda s: [quadratic(stack[0], s) + quadratic(stack[1], s)],
        5,
        lr=constant(0.1),
        limit=1.0,
        stacked=True,
    )
    for run in range(2):
        alone = start[run : run + 1].clone().requires_grad_()
        minimise([alone], lambda s, w=alone: [quadratic(w[0], s)], 5, lr=constant(0.1), limit=1.0)  # type: ignore[misc]
        torch.testing.assert_close(stack[run], alone[0], atol=1e-12, rtol=0)


def test_rates() -> None:
    assert [constant(0.3)(s) for s in (0, 7)] == [0.3, 0.3]
    assert [falling(0.8, 4)(s) for s in range(5)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert [falling(0.8, 8, warmup=2)(s) for s in range(3)] == pytest.approx([0.4, 0.7, 0.6])


@pytest.mark.parametrize("stacked", [False, True])
def test_a_gradient_that_is_not_finite_is_named_before_it_changes_anything(stacked: bool) -> None:
    w = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)

    def losses(step: int) -> list[Tensor]:
        return [(w[0] * (math.inf if step == 2 else 0.0)).sum() + w[1].sum() * 0]

    with pytest.raises(DataError, match="a gradient is not finite at step 3"):
        minimise([w], losses, 5, lr=constant(0.1), stacked=stacked)
    assert torch.equal(w, torch.ones(2, 1, dtype=torch.float64))


def test_no_step_changes_nothing() -> None:
    w = torch.ones(1, requires_grad=True)
    for rate in (constant(0.1), falling(0.1, 0)):
        minimise([w], lambda step: [w.sum()], 0, lr=rate)
    assert torch.equal(w, torch.ones(1))
