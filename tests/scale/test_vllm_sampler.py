"""An engine as the sampler, against a double: a second model that is told new weights as vLLM is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.loop import Loop, Plan
from prefloop.core.methods import METHODS
from prefloop.core.protocols import Sampler
from prefloop.core.streams import Stream
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.sampler import Sampling
from prefloop.scale.vllm_engine import InProcess
from prefloop.scale.vllm_sampler import EngineSampler, weights

TEXTS = [[2, 3, 6, 7, 8], [2, 9, 10, 4]]
PROMPTS = [torch.tensor([2, 3, 6]), torch.tensor([2, 9])]


def policy(model: Any, **options: Any) -> CausalLM:
    return CausalLM(model, tiny.tokenizer(), sampling=Sampling(max_new_tokens=5, **options), ends=(tiny.EOS,))


@dataclass
class Double:
    """Writes and scores with a model of its own; loads the weights whose names do not contain `forgets`."""

    own: CausalLM
    forgets: str = "\n"
    loads: list[set[str]] = field(default_factory=list)

    def load(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        known = dict(weights)
        self.loads.append(set(known))
        self.own.model.load_state_dict({k: v for k, v in known.items() if self.forgets not in k}, strict=False)

    def write(
        self, prompts: Sequence[list[int]], responses: int, seed: int, sampling: Sampling, ends: Sequence[int]
    ) -> list[list[tuple[list[int], list[float]]]]:
        b = self.own.draw([torch.tensor(p) for p in prompts], responses, Stream("double", [seed], stacked=False))
        assert b.logp_behaviour is not None and sampling == self.own.sampling and tuple(ends) == self.own.eos_ids
        kept = [[(x[m].tolist(), y[m].tolist()) for x, y, m in zip(*group, strict=True)]
                for group in zip(b.responses, b.logp_behaviour, b.mask, strict=True)]  # fmt: skip
        return kept

    def score(self, texts: Sequence[list[int]]) -> list[list[float]]:
        batch = Batch.from_groups([t[:1] for t in texts], [[t[1:]] for t in texts])
        with torch.no_grad():
            logp = self.own.evaluate(batch).logp
        return [row[0][m[0]].tolist() for row, m in zip(logp, batch.mask, strict=True)]


def made(seed: int = 1, forgets: str = "\n", **options: Any) -> EngineSampler:
    double = Double(policy(tiny.llama(seed=seed), **options), forgets)
    return EngineSampler(policy(tiny.llama(), **options), double, TEXTS)


def test_after_a_sync_the_engine_writes_as_the_policy_and_says_so() -> None:
    engine = made()
    assert isinstance(engine, Sampler) and engine.exact_sampler
    with pytest.raises(UserError, match="no weights of this policy yet"):
        engine.draw(PROMPTS, 3, Stream("draw", [0], stacked=False))
    engine.sync(4)
    assert engine.difference < 1e-6
    drawn = engine.draw(PROMPTS, 3, Stream("draw", [0], stacked=False))
    assert drawn.source is not None and drawn.source.tolist() == [4, 4] and drawn.logp_proximal is None
    own = engine.policy.evaluate(drawn).logp.detach()
    assert drawn.logp_behaviour is not None and torch.allclose(drawn.logp_behaviour.double(), own, atol=1e-6)
    again = engine.draw(PROMPTS, 3, Stream("draw", [0], stacked=False))
    assert torch.equal(again.responses, drawn.responses)


def test_weights_are_loaded_once_for_each_version() -> None:
    engine = made()
    for version in (0, 0, 1):
        engine.sync(version)
    assert len(engine.engine.loads) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("part", ["lm_head", "layers.1", "norm"])
def test_a_part_that_stays_stale_stops_the_run(part: str) -> None:
    engine = made(forgets=part)
    with torch.no_grad():
        for name, p in engine.engine.own.model.named_parameters():  # type: ignore[attr-defined]
            if "norm" in name:
                p.mul_(3.0)
    with pytest.raises(DataError, match=r"after step 7 the engine's log-probs differ from the policy's by"):
        engine.sync(7)
    with pytest.raises(UserError, match="no weights"):
        engine.draw(PROMPTS, 2, Stream("draw", [0], stacked=False))


def test_a_tied_head_is_written_under_its_own_name() -> None:
    assert "lm_head.weight" in dict(weights(policy(tiny.qwen())))


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (lambda x: x[:1], "did not answer every prompt"),
        (lambda x: [[([3], [])] * 2] * 2, "1 tokens with 0 log-probs"),
        (lambda x: [[([3], [float("nan")])] * 2] * 2, "not finite"),
        (lambda x: [[([3] * 6, [-1.0] * 6)] * 2] * 2, "6 tokens with 6 log-probs"),
    ],
)
def test_answers_that_are_no_responses_are_refused(answer: Any, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = made()
    engine.sync(0)
    written = engine.engine.write
    monkeypatch.setattr(engine.engine, "write", lambda *args: answer(written(*args)))
    with pytest.raises(DataError, match=match):
        engine.draw(PROMPTS, 2, Stream("draw", [0], stacked=False))


class Lengths:
    """Prompts in turn, a response's score is its length."""

    def prompts(self, start: int, count: int, rng: Stream) -> list[Tensor]:
        return [PROMPTS[i % 2] for i in range(start, start + count)]

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        drawn = policy(tiny.llama(seed=2)).draw(self.prompts(start, count, rng), responses, rng)
        return replace(drawn, logp_behaviour=None, logp_proximal=None)

    def score(self, batch: Batch) -> Batch:
        return replace(batch, scores=batch.lengths.double())


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("name", ["rloo", "online_dpo", "grpo"])
def test_the_loop_trains_with_an_engine_and_no_method_changes(name: str, share: float) -> None:
    engine = made()
    row = METHODS[name].override(responses=2, on_policy=share)
    plan = Plan(steps=3, batch=8, minibatch=8, lr=1e-2)
    optimizer = torch.optim.Adam(engine.policy.parameters(), lr=1e-2)
    loop = Loop(row, engine.policy, Lengths(), plan, reference=engine.policy.reference(), optimizer=optimizer,
                sampler=engine)  # fmt: skip
    for i, record in enumerate(loop):
        assert record.batch.source is not None and int(record.batch.source.max()) == i
        if name != "online_dpo" and share == 1:
            d = (record.batch.logp_proximal - record.batch.logp_behaviour).abs()  # type: ignore[operator]
            assert float(d.max()) < 1e-5
    assert len(engine.engine.loads) == 3 and engine.difference < 1e-6  # type: ignore[attr-defined]


def test_without_vllm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(UserError, match=r"vLLM cannot be imported[\s\S]*pip install 'prefloop\[vllm\]'"):
        InProcess(policy(tiny.llama()), max_len=32)
