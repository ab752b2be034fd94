"""Small problems and batches that the tests share: everything float64, everything seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import jaxtyping
import torch
from torch import Tensor

from prefloop.core.batch import Batch, Signal, label
from prefloop.core.loop import Loop, Plan
from prefloop.core.methods import METHODS, Method
from prefloop.core.ranges import hyper_parameters
from prefloop.core.streams import Stream, streams
from prefloop.policies.categorical import Categorical

F64 = torch.float64
PER_TOKEN = ("logp_behaviour", "logp_proximal", "logp_reference", "values", "penalty")


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the checks of shapes, which make small steps several times slower."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def uniform(g: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=g, dtype=F64)


def make_batch(seed: int = 0, *, prompts: int = 3, responses: int = 4, tokens: int = 5, ragged: bool = False) -> Batch:
    """Random groups of unequal lengths with every field; distinct scores of both signs."""
    g = torch.Generator().manual_seed(seed)
    shape = (prompts, responses, tokens)
    lengths = torch.randint(1, tokens + 1, shape[:2], generator=g)
    mask = torch.arange(tokens) < lengths[..., None]
    old = torch.where(mask, uniform(g, -3.0, -0.1, *shape), 0.0)
    valid = None
    if ragged:
        valid = torch.rand(shape[:2], generator=g) < 0.7
        valid[:, 0] = True
    drawn = torch.randint(0, 9, shape, generator=g)
    scores = uniform(g, -2.0, 2.0, *shape[:2])
    return Batch(
        prompts=torch.arange(prompts),
        responses=drawn,
        mask=mask,
        scores=scores,
        labels=label(scores, 0.0),
        logp_behaviour=old,
        logp_proximal=old.clone(),
        logp_reference=torch.where(mask, uniform(g, -3.0, -0.1, *shape), 0.0),
        valid=valid,
        values=torch.where(mask, uniform(g, -1.0, 1.0, *shape), 0.0),
        z=uniform(g, 0.0, 0.5, 1)[0],
    )


def make_logp(batch: Batch, seed: int = 0, spread: float = 0.4) -> Tensor:
    """Log-probs near those at collection, on both sides of PPO's clip range, below 0."""
    g = torch.Generator().manual_seed(seed + 10_000)
    assert batch.logp_proximal is not None
    moved = batch.logp_proximal + uniform(g, -spread, spread, *batch.mask.shape)
    return torch.where(batch.mask, moved.clamp(max=-0.02), 0.0)


def group_size(method: Method) -> int:
    return max(method.responses, 1 if method.pairs is None else 2)


def batch_for(name: str, seed: int, **options: Any) -> Batch:
    return make_batch(seed, responses=group_size(METHODS[name]), **options)


def stack(records: list[Any]) -> Any:
    """Stacked runs of equal shape: every tensor gets a leading run axis."""
    kind = type(records[0])
    columns = {f.name: [getattr(r, f.name) for r in records] for f in fields(kind)}
    return kind(**{k: None if v[0] is None else torch.stack(v) for k, v in columns.items()})


def pad_garbage(batch: Batch, extra: int, garbage: float) -> Batch:
    """Longer by `extra` padding tokens; every padded place holds garbage."""
    mask = torch.nn.functional.pad(batch.mask, (0, extra), value=False)

    def dirty(x: Tensor | None) -> Tensor | None:
        return None if x is None else torch.where(mask, torch.nn.functional.pad(x, (0, extra)), garbage)

    longer = {name: dirty(getattr(batch, name)) for name in PER_TOKEN}
    return replace(batch, responses=torch.nn.functional.pad(batch.responses, (0, extra)), mask=mask, **longer)


def signal_rng(seed: int | list[int] = 0) -> Stream:
    return streams(seed)["signal"]


def per_run_names(method: Method) -> list[str]:
    """The hyper-parameters of a method that may be one value per run."""
    return [name for name in method.defaults if name in method.per_run]


def per_run_values(method: Method, g: torch.Generator, runs: int) -> dict[str, Tensor]:
    """Every hyper-parameter that may be one value per run, drawn around its default inside its range."""
    return {name: uniform(g, *_span(method, name), runs) for name in per_run_names(method)}


def _span(method: Method, name: str) -> tuple[float, float]:
    default = method.defaults[name] or 0.4
    wanted = next(k for part in method.parts for n, (_, k) in hyper_parameters(part).items() if n == name)
    high = 2 * default if wanted.range is None else min(2 * default, wanted.range.high)
    return default / 2, high


def scored(batch: Batch, scores: Tensor) -> Batch:
    """With labels by the sign of the score."""
    return replace(batch, scores=scores, labels=label(scores, 0.0))


@dataclass(frozen=True)
class Arms:
    """X contexts whose rewards for all V^T responses are given: [X, R], or [S, X, R] for stacked runs."""

    rewards: Tensor
    arms: int
    tokens: int = 1
    runs: int = 0  # 0: not stacked

    def prompts(self, start: int, count: int, rng: Stream) -> Tensor:
        x = (start + torch.arange(count)) % self.rewards.shape[-2]
        return x.expand(self.runs, count) if self.runs else x

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        prompts = self.prompts(start, count, rng)
        u = rng.rand(count, responses, self.tokens, dtype=F64)
        tokens = (u * self.arms).long()
        return self.score(Batch(prompts, tokens, torch.ones_like(tokens, dtype=torch.bool)))

    def score(self, batch: Batch) -> Batch:
        place = torch.zeros_like(batch.responses[..., 0])
        for t in range(self.tokens):
            place = place * self.arms + batch.responses[..., t]
        x = batch.prompts[..., None].expand(place.shape)
        if not self.runs or self.rewards.ndim == 2:
            return scored(batch, self.rewards[x, place])
        run = torch.arange(self.runs)[:, None, None].expand(place.shape)
        return scored(batch, self.rewards[run, x, place])


def tabular(contexts: int = 3, arms: int = 3, tokens: int = 2, seed: int = 0, scale: float = 1.0) -> Categorical:
    nodes = sum(arms**t for t in range(tokens))
    g = torch.Generator().manual_seed(seed)
    return Categorical(scale * torch.randn(contexts, nodes, arms, generator=g, dtype=F64), tokens)


def rewards(contexts: int = 3, arms: int = 3, tokens: int = 2, seed: int = 7) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(contexts, arms**tokens, generator=g, dtype=F64)


def make_loop(
    method: Method | str,
    plan: Plan,
    *,
    problem: Any = None,
    policy: Any = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    seed: int | list[int] = 0,
) -> Loop:
    """A loop over the small tabular world."""
    row = METHODS[method] if isinstance(method, str) else method
    policy = tabular() if policy is None else policy
    problem = Arms(rewards(), 3, 2) if problem is None else problem
    chosen = optimizer(policy.parameters(), lr=plan.lr)
    return Loop(row, policy, problem, plan, reference=policy.reference(), optimizer=chosen, seed=seed)


def fixed(method: Method, batch: Batch, rng: Stream | None = None) -> tuple[Signal, Tensor]:
    """Signal and denominator of the whole batch."""
    signal = method.signal(batch, rng=rng)
    return signal, method.denominator(batch, signal)
