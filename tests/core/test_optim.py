"""Stacked Adam and clipping against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from prefloop.core.optim import StackedAdam, clip_gradients, decayed, hold, rate

F64 = torch.float64


def leaves(seed: int, runs: int = 3, dtype: torch.dtype = F64) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(runs, *shape, generator=g, dtype=F64).to(dtype).requires_grad_() for shape in ((4, 5), (5,), ())
    ]


def descend(params: list[Tensor], optimizer: torch.optim.Optimizer, steps: int, runs: slice) -> None:
    g = torch.Generator().manual_seed(9)
    for _ in range(steps):
        for p in params:
            grad = torch.randn(3, *p.shape[1:], generator=g, dtype=F64)[runs]
            p.grad = grad.to(p.dtype).clone()
        optimizer.step()


@pytest.mark.parametrize(("dtype", "atol"), [(F64, 1e-12), (torch.float32, 1e-7)])
def test_one_run_is_torch_adam(dtype: torch.dtype, atol: float) -> None:
    own, theirs = leaves(0, 1, dtype), leaves(0, 1, dtype)
    descend(own, StackedAdam(own, lr=0.01), 50, slice(0, 1))
    descend(theirs, torch.optim.Adam(theirs, lr=0.01), 50, slice(0, 1))
    for a, b in zip(own, theirs, strict=True):
        assert torch.allclose(a, b, atol=atol, rtol=atol)


def test_every_run_has_its_own_learning_rate() -> None:
    rates = torch.tensor([0.1, 0.001, 0.0], dtype=F64)
    stacked = leaves(1)
    descend(stacked, StackedAdam(stacked, lr=rates), 20, slice(0, 3))
    for run in range(3):
        alone = [p.detach()[run : run + 1].clone().requires_grad_() for p in leaves(1)]
        descend(alone, torch.optim.Adam(alone, lr=float(rates[run])), 20, slice(run, run + 1))
        for a, b in zip(stacked, alone, strict=True):
            assert torch.allclose(a[run], b[0], atol=1e-12, rtol=0)


def test_its_state_can_be_saved_and_restored() -> None:
    whole, halves = leaves(2), leaves(2)
    descend(whole, StackedAdam(whole, lr=0.05), 10, slice(0, 3))
    first = StackedAdam(halves, lr=0.05)
    g = torch.Generator().manual_seed(9)
    draws = [[torch.randn(3, *p.shape[1:], generator=g, dtype=F64) for p in halves] for _ in range(10)]
    for k, grads in enumerate(draws):
        if k == 4:
            second = StackedAdam(halves, lr=0.05)
            second.load_state_dict(first.state_dict())
            first = second
        for p, grad in zip(halves, grads, strict=True):
            p.grad = grad
        first.step()
    for a, b in zip(whole, halves, strict=True):
        assert torch.equal(a, b)


def test_norms_are_clipped_run_by_run() -> None:
    params = leaves(3)
    for p in params:
        p.grad = p.detach().clone()
    before = [p.detach().clone() for p in params]
    limit = torch.tensor([0.5, 100.0, 1.0], dtype=F64)
    norm = clip_gradients(params, limit, stacked=True)
    for run in range(3):
        alone = [x[run : run + 1].clone().requires_grad_() for x in before]
        for p in alone:
            p.grad = p.detach().clone()
        want = torch.nn.utils.clip_grad_norm_(alone, float(limit[run]))
        assert torch.allclose(norm[run], want, atol=1e-12)
        for a, b in zip(params, alone, strict=True):
            assert a.grad is not None and b.grad is not None
            assert torch.allclose(a.grad[run], b.grad[0], atol=1e-12, rtol=0)


def test_one_limit_for_all_runs_is_a_limit_for_each() -> None:
    own, theirs = leaves(3), leaves(3)
    for p in (*own, *theirs):
        p.grad = p.detach().clone()
    norm = clip_gradients(own, 0.5, stacked=True)
    want = clip_gradients(theirs, torch.full((3,), 0.5, dtype=F64), stacked=True)
    assert torch.equal(norm, want)
    for a, b in zip(own, theirs, strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]


def test_runs_are_clipped_together_unless_they_are_stacked() -> None:
    own, theirs = leaves(3), leaves(3)
    for p in (*own, *theirs):
        p.grad = p.detach().clone()
    norm, want = clip_gradients(own, 0.5), torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    assert norm.shape == () and torch.equal(norm, want)
    for a, b in zip(own, theirs, strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]


def test_a_held_run_does_not_move_whatever_its_gradient_was() -> None:
    params = leaves(4)
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.full_like(p, torch.nan)
        p.grad[1:] = 1.0
    hold(params, torch.tensor([True, False, False]))
    assert all((p.grad[0] == 0).all() and (p.grad[1:] == 1).all() for p in params if p.grad is not None)
    StackedAdam(params, lr=torch.tensor([0.0, 0.1, 0.1], dtype=F64)).step()
    for p, old in zip(params, before, strict=True):
        assert torch.equal(p[0], old[0]) and not torch.equal(p[1], old[1])


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0), (10, 1), (12, 4), (1, 0)])
@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_decay_is_that_of_transformers(schedule: Any, theirs: Any, steps: int, warmup: int) -> None:
    """Their warm-up starts with a step of rate 0; ours does not waste it."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = theirs(optimizer, warmup, steps), list[float]()
    for _ in range(steps + 1):
        rates += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    for step in range(steps):
        want = rates[step + 1] if step < warmup else rates[step]
        assert rate(schedule, step, steps, warmup) == pytest.approx(want, abs=1e-12)
    assert rates[steps] == 0


def test_schedules_by_hand() -> None:
    assert [rate("constant", step, 4, 2) for step in range(4)] == [0.5, 1, 1, 1]
    assert [rate("linear", step, 6, 2) for step in range(6)] == [0.5, 1, 1, 0.75, 0.5, 0.25]
    golden = [0.5, 1, 1, 0.8535533905932737, 0.5, 0.14644660940672627]  # (1 ± 1/√2)/2
    assert [rate("cosine", step, 6, 2) for step in range(6)] == pytest.approx(golden, abs=1e-15)
    assert rate("constant", 9, 4, 4) == 1 and rate("constant", 0, 1, 0) == 1


def test_weight_decay_is_of_matrices_only() -> None:
    matrix, bias, table, scale = (torch.ones(shape, requires_grad=True) for shape in ((2, 3), (3,), (2, 3, 4), ()))
    everything = [bias, matrix, scale, table]
    groups = decayed(everything, 0.1)
    assert [(g["weight_decay"], [id(p) for p in g["params"]]) for g in groups] == [
        (0.1, [id(matrix), id(table)]),
        (0.0, [id(bias), id(scale)]),
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.5)
    for p in everything:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    largest = [float(p.detach().max()) for p in (matrix, table, bias, scale)]
    assert largest == pytest.approx([0.95, 0.95, 1, 1])


def test_without_weight_decay_parameters_stay_in_their_order() -> None:
    """So that checkpoints, which number them, can be read."""
    matrix, bias = torch.ones(2, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    ((group),) = decayed([bias, matrix], 0.0)
    assert [id(p) for p in group["params"]] == [id(bias), id(matrix)] and group["weight_decay"] == 0
    assert len(decayed([bias], 0.1)) == 1
