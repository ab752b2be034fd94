"""A plan's terms against what torch really keeps, counts against the run's own, and words where a run does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.policies.network import Network
from prefloop.runs import rates
from prefloop.runs.memory import Shape, Work, activations, copies, stages
from prefloop.runs.rates import Load, gpu, seconds

D, F, L, H, KV, V, N, R = 64, 160, 3, 4, 2, 500, 96, 2
SIZES = {"hidden_size": D, "intermediate_size": F, "num_hidden_layers": L, "num_attention_heads": H}
SHAPE = Shape(0, 0, L * (D * D * 2 + D * D // 2 * 2 + 3 * D * F) + V * D, D, L, L, H, KV, D // H, F, V)
Capture = pytest.CaptureFixture[str]


def saved(*, half: bool, autocast: bool, checkpointing: bool) -> int:
    """Bytes that the backward pass of a micro-batch keeps besides the weights."""
    dtype = torch.bfloat16 if half else torch.float32
    config = LlamaConfig(vocab_size=V, num_key_value_heads=KV, **SIZES)
    network = Network(
        LlamaForCausalLM(config).to(dtype).eval(), autocast=autocast, gradient_checkpointing=checkpointing
    )
    known = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in known:
            kept.setdefault(x.untyped_storage().data_ptr(), x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        network(torch.zeros(R, N, dtype=torch.long), torch.arange(R * N), torch.zeros(R * N, dtype=torch.long))
    return sum(x.untyped_storage().nbytes() for x in kept.values())


@pytest.mark.parametrize(
    "how", [{}, {"autocast": True}, {"half": True}, {"checkpointing": True}], ids=["float32", "autocast", "bf16", "gc"]
)
def test_activations_are_those_that_torch_saves(how: dict[str, bool]) -> None:
    options = {"half": False, "autocast": False, "checkpointing": False} | how
    work = Work(**options, tokens=R * N, predicted=R * N, micro_batches=1)
    found = saved(**options) - 4 * R * N * V  # log softmax, which is counted with the logits
    expected = activations(SHAPE, work) + copies(SHAPE, work)
    if options["checkpointing"]:  # the layer that is computed again is not alive yet
        plain = Work(half=False, autocast=False, checkpointing=False, tokens=R * N, predicted=0, micro_batches=1)
        expected -= (activations(SHAPE, plain) - R * N * D * 8) // L
    assert expected == pytest.approx(found, rel=0.05)


def test_micro_batches_keep_the_gradients_of_those_before() -> None:
    shape = Shape(100, 100, 90, D, L, L, H, KV, D // H, F, V)
    one, two = (stages(shape, Work(False, False, False, 8, 4, count))["loss of a micro-batch"] for count in (1, 2))
    assert "gradients" not in one and two["gradients"] == 400
    assert sum(two.values()) - sum(one.values()) == 400


def test_the_time_on_a_gpu_is_flop_over_rate_or_weights_over_bandwidth() -> None:
    load = Load(1e6, 0.0, 0.0, 1, 10**9, 2, False, False)
    assert seconds(load, gpu("a100")) == pytest.approx(6e15 / (rates.BUSY * 312e12))
    drawn = Load(0.0, 0.0, 640.0, 64, 10**9, 2, False, False)
    assert seconds(drawn, gpu("A100")) == pytest.approx(10 * 2e9 / (rates.READ * 2039e9))
    assert seconds(load, gpu("A100"), count=4) == pytest.approx(seconds(load, gpu("A100")) / 4)
    with pytest.raises(UserError, match="no rates"):
        gpu("Z9")


@pytest.fixture
def words(model: Path, tmp_path: Path) -> list[str]:
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"a {i}", "chosen": "yes " * (i % 3 + 1), "rejected": "no no"} for i in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sizes = ["--training.steps=3", "--training.batch=8", "--training.minibatch=4", "--sampling.max_new_tokens=5"]
    return [f"--model.path={model}", f"--data.train={data}", "--data.held_out=split", *sizes]


def plan(words: list[str], capsys: Capture) -> dict[str, Any]:
    assert main(["plan", *words, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_plan_counts_what_the_run_does(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    online = [*words, "--method=online_dpo", "--reward.name=length_min", "--evaluation.max_cut=1"]
    found = plan([*online, "--gpu=H100"], capsys)
    assert main(["train", *online, f"--output={tmp_path / 'runs'}", "--quiet"]) == 0
    lines = next((tmp_path / "runs").glob("*/metrics.jsonl")).read_text(encoding="utf-8").splitlines()
    last = [line for line in map(json.loads, lines) if line["kind"] == "step"][-1]
    assert (found["steps"], found["samples"]) == (3, last["samples"])
    assert found["memory"]["bytes"] == sum(found["memory"]["parts"].values()) > 0 and found["fits"]


def test_adapters_need_no_moments_of_the_whole_model(words: list[str], capsys: Capture) -> None:
    pytest.importorskip("peft", reason="LoRA needs the extra `peft`")
    whole, few = (plan([*words, "--gpu=H100", *more], capsys) for more in ([], ["--model.lora_rank=1"]))
    assert few["trained"] < whole["trained"] == whole["parameters"] == few["parameters"]
    assert few["memory"]["bytes"] < whole["memory"]["bytes"]


def test_a_run_that_does_not_fit_is_told_what_to_change(
    words: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = rates.Gpu(1e12, 1e12, 1e9, 1e4, "a small one")
    monkeypatch.setitem(rates.GPUS, "TINY", small)
    assert main(["plan", *words, "--gpu=tiny"]) == 0
    said = capsys.readouterr().out
    assert "does not fit" in said and "model.gradient_checkpointing: true leaves" in said


def test_time_here_is_measured(words: list[str], capsys: Capture) -> None:
    assert plan(words, capsys)["seconds"] > 0


def test_several_gpus_need_a_name(words: list[str], capsys: Capture) -> None:
    assert main(["plan", *words, "--gpus=8"]) == 2
    assert "--gpu H100" in capsys.readouterr().err
