"""Stacked Adam and clipping against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prefloop.core.optim import StackedAdam, clip_gradients, hold

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
