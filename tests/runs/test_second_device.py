"""Runs on a second device that is no GPU but is as far from the CPU: everything computes there, and gives the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from prefloop.core import devices
from prefloop.core.loop import Loop, Record
from prefloop.core.streams import streams
from prefloop.data.records import Group, Message
from prefloop.policies import network, pretrained, sampler
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.conversation import template_of
from prefloop.policies.sampler import Sampling
from prefloop.rewards.bradley_terry import disk as saved
from prefloop.rewards.bradley_terry.fit import fit
from prefloop.rewards.bradley_terry.options import FitOptions
from prefloop.runs import config as configuration
from prefloop.runs import experiment
from prefloop.runs.folder import read, read_manifest
from prefloop.runs.interrupt import Interrupted
from second_device import NAME, Device, Mixed, second_device

RUNS = {
    "dpo": ["--training.batch=8", "--training.minibatch=4"],
    "rloo": ["--training.batch=8", "--training.minibatch=8"],
    "ppo": ["--training.batch=8", "--training.minibatch=4", "--override.entropy=0.01"],
    "online_dpo": ["--training.batch=8", "--training.minibatch=8", "--model.lora_rank=2"],
}

SLOW = ("ppo", "online_dpo")  # a critic; adapters


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), folder, "a tiny model")
    return folder


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """The second device is what `auto` finds."""
    monkeypatch.setattr(devices, "gpus", lambda: {f"{NAME}:0": "a second device", f"{NAME}:1": "a third one"})
    with second_device() as device:
        yield device


def config(model: Path, output: Path, method: str, *more: str) -> configuration.Config:
    words = [f"--model.path={model}", f"--output={output}", f"--method={method}", "--sampling.max_new_tokens=6"]
    words += [
        "--reward.name=length_min",
        "--evaluation.prompts=3",
        "--evaluation.max_cut=1",
        "--training.steps=2",
        "--training.lr=1e-5",
    ]
    return configuration.load(None, [*words, "--model.autocast=false", *RUNS[method], *more])


def numbers(line: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if isinstance(value, float)}


@pytest.mark.parametrize("method", ["dpo", "rloo", *(pytest.param(m, marks=pytest.mark.slow) for m in SLOW)])
def test_a_run_on_it_gives_the_same_answers_and_numbers(
    model: Path, tmp_path: Path, method: str, device: Device
) -> None:
    far = experiment.run(config(model, tmp_path, method), quiet=True)
    near = experiment.run(config(model, tmp_path, method, "--model.device=cpu"), quiet=True)
    for ours, theirs in zip(read(far.folder, "metrics"), read(near.folder, "metrics"), strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-2, abs=1e-2)
    texts = [[line["response"] for line in read(run.folder, "samples")] for run in (far, near)]
    assert texts[0] == texts[1]
    recorded = read_manifest(far.folder)
    assert recorded["hardware"]["device"] == f"{NAME}:0" and recorded["hardware"]["gpu"] == "a second device"
    assert recorded["model"]["dtype"] == "float32"
    assert f"computing on {NAME}:0 (a second device), the first GPU; not used: {NAME}:1" in recorded["notes"][0]


@pytest.mark.parametrize("place", ["evaluate", "sample"])
def test_a_tensor_left_on_the_cpu_is_found(
    model: Path, tmp_path: Path, place: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device of these tests raises where a GPU would, at a stray `torch.zeros(…)`."""
    if place == "evaluate":
        right = network.Network._chunk_logp

        def stray(self: Any, states: Any, targets: Any, entropy: bool) -> Any:
            logp, spread = right(self, states, targets, entropy)
            return logp + torch.zeros(len(logp)), spread

        monkeypatch.setattr(network.Network, "_chunk_logp", stray)
    else:
        drawn = sampler.draw

        def draw(logits: Any, uniform: Any, plan: Any) -> Any:
            return drawn(logits + torch.zeros(logits.shape[-1]), uniform, plan)

        monkeypatch.setattr(sampler, "draw", draw)
    with pytest.raises(Mixed, match="on the CPU"):
        experiment.run(config(model, tmp_path, "rloo"), quiet=True)


@pytest.mark.parametrize("plan", [{}, {"top_p": 0.8, "top_k": 3}, {"temperature": 0.0}])
def test_no_token_waits_for_the_device(device: Device, plan: dict[str, Any]) -> None:
    """Except every sixteenth, after which finished rows are dropped."""

    def waits(tokens: int) -> int:
        network = tiny.llama(dtype=torch.float32).to(NAME)
        policy = CausalLM(network, tiny.tokenizer(), sampling=Sampling(tokens, **plan), ends=(99,))
        device.waits.clear()
        drawn = policy.draw([torch.tensor([3, 4, 5]), torch.tensor([6, 7])], 2, streams(0)["sampling"])
        assert drawn.lengths.tolist() == [[tokens] * 2] * 2
        return device.waits.total()

    assert waits(2) == waits(sampler.LOOK)
    assert waits(2) < waits(3 * sampler.LOOK) <= waits(2) + 2 * 2  # is any row alive, and how many


@pytest.mark.parametrize("sampling", [{}, {"top_p": 0.8, "top_k": 3}])
def test_how_often_rows_are_looked_at_changes_no_answer(sampling: dict[str, Any], device: Device) -> None:
    seen = []
    for where, look in (("cpu", 1), (NAME, 5), (NAME, 16)):
        policy = CausalLM(
            tiny.llama(dtype=torch.float32).to(where),
            tiny.tokenizer(),
            sampling=Sampling(20, rows=3, **sampling),
            ends=(1, 5),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampler, "LOOK", look)
            seen.append(policy.draw([torch.tensor([3, 4, 5]), torch.tensor([6])], 3, streams(0)["sampling"]))
    first = seen[0]
    assert len(set(first.lengths.flatten().tolist())) > 1
    for other in seen[1:]:
        assert torch.equal(other.responses, first.responses) and torch.equal(other.mask, first.mask)
        torch.testing.assert_close(other.logp_behaviour, first.logp_behaviour, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.logp_proximal, first.logp_proximal, rtol=1e-4, atol=1e-4)


def test_a_run_goes_on_where_it_started_or_on_another_device(
    model: Path, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint is on the CPU; on the same device the rest has the same bytes, on another one the same numbers."""
    whole = experiment.run(config(model, tmp_path, "rloo"), quiet=True)
    parts = []
    for _ in range(2):

        def stop(record: Record, loop: Loop) -> None:
            if record.step == 1:
                raise Interrupted(2)

        with pytest.raises(experiment.Stopped) as stopped:
            experiment.run(config(model, tmp_path, "rloo"), quiet=True, observers=[stop])
        parts.append(stopped.value.folder)
    experiment.resume(parts[0], quiet=True)
    assert (parts[0] / "metrics.jsonl").read_bytes() == (whole.folder / "metrics.jsonl").read_bytes()
    final = [(path / "final/model.safetensors").read_bytes() for path in (parts[0], whole.folder)]
    assert final[0] == final[1]
    monkeypatch.setattr(devices, "gpus", dict)
    experiment.resume(parts[1])
    said = capsys.readouterr().out
    assert f"it was started on {NAME}:0 and continues on cpu" in " ".join(said.split())
    for ours, theirs in zip(read(parts[1], "metrics"), read(whole.folder, "metrics"), strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-2, abs=1e-2)
    assert [line["device"] for line in read(parts[1], "events") if line["event"] == "resume"] == ["cpu"]


@pytest.mark.parametrize("frozen", [True, False])
def test_reward_models_are_fitted_scored_saved_and_read_there(tmp_path: Path, frozen: bool, device: Device) -> None:
    groups = [
        Group((Message("user", word),), ("yes a", "no b c"), (1.0, 0.0), key=word, row=i)
        for i, word in enumerate(["a", "b", "c", "a b", "b c", "c a"])
    ]
    options = FitOptions(freeze_backbone=frozen, steps=2, batch=4)
    template = template_of(tiny.tokenizer())
    scores = []
    for where in ("cpu", NAME):
        base = tiny.llama(len(tiny.WORDS), torch.float32).to(where)
        fitted = fit(base, template, groups, options)
        assert fitted.head.weight.device.type == where
        saved.save(fitted, tmp_path / where)
        again = saved.load(tmp_path / where).on(torch.device(where))
        scores += [fitted.score_groups(groups).score, again.score_groups(groups).score]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=1e-2, atol=1e-3)


def test_a_reward_model_of_a_bfloat16_policy_is_trained_in_float32() -> None:
    groups = [
        Group((Message("user", word),), ("yes a", "no b c"), (1.0, 0.0), key=word, row=1) for word in ("a", "b", "c")
    ]
    base, template = tiny.llama(len(tiny.WORDS), torch.bfloat16), template_of(tiny.tokenizer())
    for frozen, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        fitted = fit(base, template, groups, FitOptions(freeze_backbone=frozen, steps=1, batch=2))
        assert {p.dtype for p in fitted.backbone.parameters()} == {dtype}
    assert base.dtype == torch.bfloat16
