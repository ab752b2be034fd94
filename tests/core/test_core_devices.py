"""The core computes where its inputs are: every method, alone and stacked, on a second device as on the CPU."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.loop import Plan
from prefloop.core.methods import METHODS
from prefloop.core.metrics import run_metrics
from prefloop.core.streams import Stream
from second_device import NAME, second_device
from toys import batch_for, make_logp, make_loop, signal_rng


def moved(record: Any, device: str) -> Any:
    tensors = {f.name: x for f in fields(record) if isinstance(x := getattr(record, f.name), Tensor)}
    return replace(record, **{name: x.to(device) for name, x in tensors.items()})


def coefficients(name: str, batch: Batch, logp: Tensor) -> Tensor:
    method = METHODS[name]
    given = logp.clone().requires_grad_()
    signal = method.signal(batch, rng=signal_rng())
    method.loss(given, batch, signal, method.denominator(batch, signal)).backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    return given.grad.cpu()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_computes_on_the_device_of_the_batch(name: str) -> None:
    batch = batch_for(name, seed=1)
    near = coefficients(name, batch, make_logp(batch))
    with second_device():
        far = coefficients(name, moved(batch, NAME), make_logp(batch).to(NAME))
    torch.testing.assert_close(far, near)


def test_random_numbers_are_the_same_on_every_device() -> None:
    one, two = (Stream("test", [0, 1], stacked=True) for _ in range(2))
    near = one.rand(3), one.randn(2), one.epoch(5, 1)
    with second_device(), torch.device(NAME):
        far = two.rand(3), two.randn(2), two.epoch(5, 1)
        assert all(x.device.type == NAME for x in far)
        assert all(torch.equal(x.cpu(), y) for x, y in zip(far, near, strict=True))


@pytest.mark.parametrize("name", ["ppo", "rso", "kto"])
def test_the_loop_runs_on_a_default_device(name: str) -> None:
    """As the lab's workers do: what the loop makes is on torch's default device."""

    def numbers() -> list[dict[str, float]]:
        plan = Plan(steps=2, batch=8, minibatch=8, lr=1e-2)
        loop = make_loop(name, plan)
        return [{k: float(torch.as_tensor(v)) for k, v in run_metrics(r, loop.method).items()} for r in loop]

    near = numbers()
    with second_device(), torch.device(NAME):
        far = numbers()
    for ours, theirs in zip(far, near, strict=True):
        assert ours == pytest.approx(theirs, nan_ok=True)
