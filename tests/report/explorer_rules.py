"""The explorer's training by Prefloop's own code: every possible group is a run, weighted by its probability."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from prefloop.core.batch import Batch, Signal
from prefloop.core.method import Method
from prefloop.core.methods import METHODS
from prefloop.policies.categorical import Categorical
from prefloop.report.explorer import METHODS as RULES
from toys import signal_rng


def method_of(name: str, beta: float, *, on_policy: float, reuse: int, negative: float) -> Method:
    """The entry of Prefloop's methods that a rule of the page stands for."""
    rule = RULES[name]
    switches = {"on_policy": on_policy, "reuse": reuse, "negative": negative}
    return METHODS[rule.method].override(**rule.override, **{rule.knob: beta}, **switches)


def train(method: Method, reference: Tensor, data: Tensor, reward: Tensor, rate: float, steps: int) -> Tensor:
    """Log-probs before the first step and after each, by gradient descent on the expected loss."""
    policy = Categorical(reference.log().view(1, 1, -1))
    groups = torch.tensor(list(product(range(len(reference)), repeat=method.responses)))
    mask = torch.ones(*groups.shape, 1, dtype=torch.bool)
    batch = Batch(torch.zeros(len(groups), dtype=torch.long), groups[..., None], mask, reward[groups])
    batch = replace(batch, logp_reference=policy.reference().evaluate(batch).logp.detach())
    optimizer = torch.optim.SGD([policy.logits], lr=rate)
    path = [_distribution(policy)]
    for step in range(steps):
        if step % method.reuse == 0:
            own, given = path[-1].exp()[groups].prod(-1), data[groups].prod(-1)
            share = method.on_policy * own + (1 - method.on_policy) * given
            old = policy.evaluate(batch).logp.detach()
            alone = _runs(replace(batch, logp_behaviour=old, logp_proximal=old))
            signal = method.signal(alone, rng=signal_rng())
            divisor = (share * _counted(method, alone, signal)).sum()
        optimizer.zero_grad()
        losses = method.loss(policy.evaluate(batch).logp[:, None], alone, signal) * method.denominator(alone, signal)
        loss = (share * losses).sum() / divisor + method.kl * policy.exact_kl(batch)[0, 0]
        loss.backward()
        optimizer.step()
        path.append(_distribution(policy))
    return torch.stack(path)


def _distribution(policy: Categorical) -> Tensor:
    return policy.distribution(torch.tensor([0]))[0].detach()


def _runs(batch: Batch) -> Batch:
    """Every group as a stacked run [S, 1, G, 1], which has its own loss."""
    return Batch(**{name: x[:, None] for name, x in vars(batch).items() if x is not None})


def _counted(method: Method, alone: Batch, signal: Signal) -> Tensor:
    """What each group adds to the divisor of a batch: nothing if its pair is a tie."""
    if signal.pair_weight is not None:
        return signal.pair_weight.sum((-2, -1))
    return method.denominator(alone, signal)
