"""Whole runs on a real CUDA device; skipped without one. `pytest -m gpu` runs these alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from prefloop.core.errors import DataError
from prefloop.core.streams import streams
from prefloop.policies import pretrained, sampler
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.sampler import Sampling
from prefloop.runs import config as configuration
from prefloop.runs import experiment
from prefloop.runs.folder import read, read_manifest
from prefloop.runs.interrupt import Interrupted

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

RUNS = {
    "dpo": ["--training.minibatch=4"],
    "rloo": ["--training.minibatch=8"],
    "ppo": ["--training.minibatch=4"],
    "online_dpo": ["--training.minibatch=8", "--model.lora_rank=2"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), folder, "a tiny model")
    return folder


def start(model: Path, output: Path, method: str, *more: str, **how: Any) -> Path:
    words = [f"--model.path={model}", f"--output={output}", f"--method={method}", "--reward.name=length_min"]
    words += ["--sampling.max_new_tokens=20", "--evaluation.prompts=8", "--evaluation.max_cut=1", "--training.batch=8"]
    words += ["--training.steps=4", "--training.lr=1e-5", "--model.autocast=false", *RUNS[method], *more]
    return experiment.run(configuration.load(None, words), quiet=True, **how).folder


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl", "final/model.safetensors")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", RUNS)
def test_same_seed_same_bytes_also_when_resumed(model: Path, tmp_path: Path, method: str, dtype: str) -> None:
    chosen = f"--model.dtype={dtype}"
    whole, again = (start(model, tmp_path, method, chosen) for _ in range(2))
    assert read_manifest(whole)["hardware"]["device"] == "cuda:0" and read_manifest(whole)["hardware"]["gpu"]
    assert contents(whole) == contents(again)

    def stop(record: Any, loop: Any) -> None:
        if record.step == 2:
            raise Interrupted(2)

    with pytest.raises(experiment.Stopped) as stopped:
        start(model, tmp_path, method, chosen, observers=[stop])
    experiment.resume(stopped.value.folder, quiet=True)
    assert contents(stopped.value.folder) == contents(whole)


@pytest.mark.parametrize("method", ["dpo", "ppo"])
def test_numbers_are_those_of_the_cpu(model: Path, tmp_path: Path, method: str) -> None:
    """Up to rounding: the first step, whose responses nothing has changed yet."""
    lines = []
    for device in ("cuda", "cpu"):
        run = start(model, tmp_path, method, f"--model.device={device}")
        lines.append(next(line for line in read(run, "metrics") if line["kind"] == "step"))
    for key in ("loss", "grad_norm", "completions/mean_length"):
        assert lines[0][key] == pytest.approx(lines[1][key], rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("plan", [{}, {"top_p": 0.8, "top_k": 3}, {"temperature": 0.0}])
@pytest.mark.parametrize("look", [1, 16])
def test_answers_are_those_of_the_cpu(plan: dict[str, Any], look: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "LOOK", look)
    drawn = []
    for device in ("cuda", "cpu"):
        network = tiny.llama(dtype=torch.float64).to(device)
        policy = CausalLM(network, tiny.tokenizer(), sampling=Sampling(40, **plan), ends=(1, 5))
        drawn.append(policy.draw([torch.tensor([3, 4, 5]), torch.tensor([6])], 8, streams(0)["sampling"]))
    assert torch.equal(drawn[0].responses, drawn[1].responses) and torch.equal(drawn[0].mask, drawn[1].mask)
    torch.testing.assert_close(drawn[0].logp_behaviour, drawn[1].logp_behaviour)


def test_no_token_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch raises at every wait inside the loop over tokens."""
    network = tiny.llama(dtype=torch.float32).to("cuda")
    policy = CausalLM(network, tiny.tokenizer(), sampling=Sampling(sampler.LOOK), ends=(99,))
    prompts = [torch.tensor([3, 4, 5]), torch.tensor([6])]
    policy.draw(prompts, 2, streams(0)["sampling"])
    polls = 0

    def poll() -> None:
        nonlocal polls
        polls += 1
        torch.cuda.set_sync_debug_mode("error" if 1 < polls < sampler.LOOK else "default")

    try:
        policy.draw(prompts, 2, streams(0)["sampling"], poll)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert polls >= sampler.LOOK


def test_too_little_memory_keeps_the_last_step(model: Path, tmp_path: Path) -> None:
    held = []

    def fill(record: Any, loop: Any) -> None:
        if record.step == 2:
            free, _ = torch.cuda.mem_get_info()
            held.append(torch.empty(free + 2**30, dtype=torch.uint8, device="cuda"))

    with pytest.raises(DataError, match="memory of the device is too small") as error:
        start(model, tmp_path, "dpo", observers=[fill])
    assert "everything up to step 2" in "\n".join(error.value.__notes__)
