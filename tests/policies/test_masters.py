"""Weights of bfloat16 are trained by way of float32 masters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import tiny
from prefloop.core.batch import Batch
from prefloop.policies import pretrained
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.masters import Masters
from prefloop.policies.sampler import Sampling
from prefloop.runs import checkpoint, experiment
from prefloop.runs import config as configuration
from prefloop.runs.folder import read
from prefloop.runs.interrupt import Interrupted

LOW = torch.bfloat16


def policy(dtype: torch.dtype, **more: Any) -> CausalLM:
    return CausalLM(tiny.llama(dtype=dtype), tiny.tokenizer(), sampling=Sampling(4), ends=(1,), **more)


def batch() -> Batch:
    responses = torch.tensor([[[3, 4, 5, 1], [6, 1, 0, 0]], [[7, 8, 1, 0], [9, 1, 0, 0]]])
    return Batch([torch.tensor([3, 4]), torch.tensor([5])], responses, responses > 0)


def test_an_update_below_the_weights_resolution_accumulates() -> None:
    weight = nn.Parameter(torch.ones(1, dtype=LOW))
    masters = Masters([weight])
    optimizer = torch.optim.SGD([masters.of(weight)], lr=1.0)
    for step in range(1, 9):
        (weight * -0.001).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        masters.round()
        assert masters.of(weight).item() == pytest.approx(1 + step * 0.001, rel=1e-4)
        assert weight.item() == (1.0 if step < 4 else 1.0078125)  # bfloat16 has nothing in between


@pytest.mark.parametrize("fused", [False, True])
def test_training_equals_a_reference_written_by_hand_to_the_bit(fused: bool) -> None:
    """Two micro-batches a step, AdamW in float32 on copies, weights rounded after each step."""
    own, other = policy(LOW), policy(LOW)
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3, fused=fused)
    theirs = {name: p for name, p in other.model.named_parameters() if p.requires_grad}
    copies = {name: p.detach().float() for name, p in theirs.items()}
    reference = torch.optim.AdamW(copies.values(), lr=1e-3, fused=fused)
    parts = [batch()[torch.tensor([i])] for i in range(2)]
    for _ in range(3):
        optimizer.zero_grad()
        for part in parts:
            own.evaluate(part).logp.sum().neg().backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        optimizer.step()
        grads: dict[str, Tensor] = {name: torch.zeros_like(copy) for name, copy in copies.items()}
        for part in parts:
            loss = other.evaluate(part).logp.sum().neg()
            for name, grad in zip(theirs, torch.autograd.grad(loss, list(theirs.values())), strict=True):
                grads[name] += grad.float()
        for name, copy in copies.items():
            copy.grad = grads[name]
        torch.nn.utils.clip_grad_norm_(copies.values(), 1.0)
        reference.step()
        with torch.no_grad():
            for name, p in theirs.items():
                p.copy_(copies[name])
    for name, p in own.model.named_parameters():
        assert p.dtype == LOW and torch.equal(p, theirs[name])
    assert all(torch.equal(own.state()[name], copy) for name, copy in copies.items())
    assert not all(torch.equal(copy, copy.to(LOW).float()) for copy in copies.values())


def test_weights_of_float32_are_trained_themselves() -> None:
    one = policy(torch.float32)
    named = dict(one.model.named_parameters())
    assert all(any(p is q for q in named.values()) for p in one.parameters())


def test_masters_are_kept_and_restored() -> None:
    one, two = policy(LOW), policy(LOW, critic=True)
    assert {p.dtype for p in one.parameters()} == {torch.float32}
    assert "value_head.weight" in two.state()
    with torch.no_grad():
        for p in one.parameters():
            p.add_(1e-4)
    again = policy(LOW)
    again.restore(one.state())
    for p, q in zip(one.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    for p, q in zip(one.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert torch.equal(one.evaluate(batch()).logp, again.evaluate(batch()).logp)


def test_a_reference_and_a_greedy_twin_have_the_weights_as_they_are_now() -> None:
    one = policy(LOW)
    twin = one.greedy()
    with torch.no_grad():
        for p in one.parameters():
            p.mul_(1.5)
    before = policy(LOW).evaluate(batch()).logp
    now = twin.evaluate(batch()).logp
    assert not torch.equal(now, before)
    assert torch.equal(one.reference().evaluate(batch()).logp, now)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    small = tiny.llama(len(tiny.WORDS), torch.float32, spread=0.1)
    pretrained.save(small, tiny.tokenizer(), folder, "a tiny model")
    return folder


def run(model: Path, output: Path, dtype: str, *more: str) -> experiment.Result:
    words = [f"--model.path={model}", f"--output={output}", "--method=rloo", "--sampling.max_new_tokens=8"]
    words += ["--evaluation.prompts=2", "--evaluation.max_cut=1", "--training.steps=12", "--training.lr=3e-3"]
    words += [
        "--reward.name=length_min",
        "--training.batch=16",
        "--training.minibatch=16",
        "--model.autocast=false",
        f"--model.dtype={dtype}",
    ]
    return experiment.run(configuration.load(None, [*words, *more]), quiet=True)


def test_a_run_in_bfloat16_learns_as_one_in_float32(model: Path, tmp_path: Path) -> None:
    more = ["--method=sft", "--training.batch=8", "--training.minibatch=8", "--data.limit=8", "--override.on_policy=0"]
    curves = []
    for dtype in ("float32", "bfloat16"):
        done = run(model, tmp_path / dtype, dtype, *more)
        curves.append([line["loss"] for line in read(done.folder, "metrics") if line["kind"] == "step"])
    fall = curves[0][0] - curves[0][-1]
    assert fall > 0.05 * curves[0][0]
    assert curves[1] == pytest.approx(curves[0], abs=0.1 * fall)


def test_checkpoints_hold_masters_and_the_final_model_is_written_in_bfloat16(model: Path, tmp_path: Path) -> None:
    done = run(model, tmp_path, "bfloat16", "--training.steps=2", "--save.every=1")
    state = checkpoint.load(done.folder / "checkpoints" / "step-00000001")["loop"]
    assert {x.dtype for x in state["policy"].values()} == {torch.float32}
    assert {x.dtype for moments in state["optimizer"].values() for x in moments.values()} == {torch.float32}
    assert any(not torch.equal(x, x.to(LOW).float()) for x in state["policy"].values())
    final = load_file(done.folder / "final" / "model.safetensors")
    assert {x.dtype for x in final.values()} == {LOW}
    loaded, _ = pretrained.load(str(done.folder / "final"), dtype=LOW)
    assert loaded.dtype == LOW


def test_a_resumed_run_in_bfloat16_has_the_same_bytes(model: Path, tmp_path: Path) -> None:
    whole = run(model, tmp_path, "bfloat16", "--training.steps=3")

    def stop(record: Any, loop: Any) -> None:
        if record.step == 2:
            raise Interrupted(2)

    words = (whole.folder / "config.yaml",)
    with pytest.raises(experiment.Stopped) as stopped:
        experiment.run(configuration.load(*words), quiet=True, observers=[stop])
    experiment.resume(stopped.value.folder, quiet=True)
    for name in ("metrics.jsonl", "samples.jsonl", "final/model.safetensors"):
        assert (stopped.value.folder / name).read_bytes() == (whole.folder / name).read_bytes()
