"""Recorded runs of each family on each policy: what the loop means, held to nine digits from change to change.

`python tests/core/test_recorded.py` records them anew, which a change that means to alter a result must explain.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
import toys
from prefloop.core.batch import Batch, label
from prefloop.core.loop import Loop, Plan
from prefloop.core.method import Method
from prefloop.core.methods import METHODS
from prefloop.core.optim import StackedAdam
from prefloop.core.streams import Stream
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.gpt import GPT
from prefloop.policies.mlp import MLP
from prefloop.policies.sampler import Sampling

pytestmark = pytest.mark.usefixtures("one_thread")

F64 = torch.float64
FILE = Path(__file__).with_name("recorded.json")
SEEDS = [0, 1]
FAMILIES = {
    "contrastive": METHODS["online_dpo"].override(responses=4, reuse=2),
    "offline contrastive": METHODS["dpo"],
    "policy gradient": METHODS["ppo"].override(reuse=2),
    "policy gradient with a KL loss": METHODS["grpo"].override(responses=4, kl=0.1, kl_in="loss"),
    "supervised": METHODS["rwr"],
    "supervised mixture": METHODS["best_of_n"].override(on_policy=0.5),
    "unpaired": METHODS["kto"],
}


def scored(batch: Batch, scores: Tensor) -> Batch:
    return replace(batch, scores=scores, labels=label(scores, 0.0))


@dataclass(frozen=True)
class Stacked:
    """Two stacked runs: contexts or prompt tokens, nine arms, reward by arm."""

    tokens: int

    def prompts(self, start: int, count: int, rng: Stream) -> Tensor:
        return (rng.rand(count) * 9).long() if self.tokens > 1 else rng.rand(count, 100).to(F64)

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        prompts = self.prompts(start, count, rng)
        drawn = (rng.rand(count, responses, self.tokens, dtype=F64) * 9).long()
        return self.score(Batch(prompts, drawn, torch.ones_like(drawn, dtype=torch.bool)))

    def score(self, batch: Batch) -> Batch:
        return scored(batch, (batch.responses.to(F64) - 4).mean(-1) / 4)


class Text:
    """Prompts of three tokens; longer answers score higher."""

    def prompts(self, start: int, count: int, rng: Stream) -> list[Tensor]:
        return [torch.tensor([2, 3 + (start + i) % 7, 4 + (start + i) % 5]) for i in range(count)]

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        drawn = (rng.rand(count, responses, 4, dtype=F64) * 10).long() + 2
        ends = (rng.rand(count, responses, dtype=F64) * 4).long() + 1
        mask = torch.arange(4) < ends[..., None]
        return self.score(Batch(self.prompts(start, count, rng), torch.where(mask, drawn, 0), mask))

    def score(self, batch: Batch) -> Batch:
        return scored(batch, batch.lengths.to(F64) / 4 - 1 + 0.1 * (batch.responses[..., 0] % 3))


def gpt() -> GPT:
    return GPT.create(SEEDS, vocabulary=9, tokens=3, layers=1, heads=2, width=8, dtype=F64)


def causal_lm(critic: bool) -> CausalLM:
    return CausalLM(tiny.llama(), tiny.tokenizer(), sampling=Sampling(max_new_tokens=4), critic=critic)


POLICIES: dict[str, Callable[[Method], tuple[Any, Any, Any, Any]]] = {
    "tabular": lambda row: (toys.tabular(), toys.Arms(toys.rewards(), 3, 2), torch.optim.Adam, 0),
    "MLP": lambda row: (MLP.create(SEEDS, hidden=(8,), arms=9, dtype=F64), Stacked(1), StackedAdam, SEEDS),
    "GPT": lambda row: (gpt(), Stacked(3), StackedAdam, SEEDS),
    "causal LM": lambda row: (causal_lm(row.critic), Text(), torch.optim.Adam, 0),
}


def run(kind: str, row: Method) -> dict[str, Any]:
    """Loss, gradient norm, mass of coefficients and responses of six steps, and the weights that they end in."""
    policy, problem, adam, seed = POLICIES[kind](row)
    plan = Plan(steps=6, batch=8 * row.responses, minibatch=4 * row.responses, lr=1e-2)
    optimizer = adam(policy.parameters(), lr=plan.lr)
    loop = Loop(row, policy, problem, plan, reference=policy.reference(), optimizer=optimizer, seed=seed)
    steps = [
        [float(x.double().sum()) for x in (r.loss, r.grad_norm, r.coefficient.abs(), r.batch.responses, r.logp)]
        + [float(sum(x.double().sum() for x in r.regularisers.values()))]
        for r in loop
    ]
    return {"steps": steps, "weights": {k: float(x.abs().sum()) for k, x in sorted(policy.state().items())}}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", POLICIES)
def test_the_loop_means_what_it_meant(kind: str, family: str) -> None:
    want, got = json.loads(FILE.read_text())[kind][family], run(kind, FAMILIES[family])
    for mine, theirs in zip(got["steps"], want["steps"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert got["weights"] == pytest.approx(want["weights"], rel=1e-9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {kind: {name: run(kind, row) for name, row in FAMILIES.items()} for kind in POLICIES}
    FILE.write_text(json.dumps(found, indent=0).replace(",\n", ", ").replace("[\n", "[").replace("\n]", "]") + "\n")
