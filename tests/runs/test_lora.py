"""LoRA in runs: where adapters are, what they drop, and that they are kept beside the model they are merged into."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.policies import pretrained
from prefloop.policies.adapters import Lora, with_lora
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.sampler import Sampling
from prefloop.runs import config as configuration
from prefloop.runs import experiment

pytestmark = pytest.mark.usefixtures("one_thread")
peft = pytest.importorskip("peft", reason="LoRA needs the extra `peft`")

IDS = torch.tensor([[2, 3, 6, 9]])


def flags(model: Path | str, output: Path, *more: str, method: str = "dpo") -> list[str]:
    fixed = [
        "--sampling.max_new_tokens=10",
        "--evaluation.prompts=4",
        "--evaluation.max_cut=1",
        "--reward.name=length_min",
    ]
    sizes = ["--training.steps=2", "--training.batch=4", "--training.minibatch=4", "--training.lr=1e-2"]
    where = [f"--model.path={model}", f"--output={output}", f"--method={method}", "--model.autocast=false"]
    return [*where, *fixed, *sizes, *more]


def start(model: Path | str, output: Path, *more: str, **options: Any) -> Path:
    return experiment.run(configuration.load(None, flags(model, output, *more, **options)), quiet=True).folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def test_the_adapter_is_kept_and_gives_the_merged_model(model: Path, tmp_path: Path) -> None:
    options = ["--model.lora_rank=2", "--model.lora_alpha=3", "--model.lora_targets", "q_proj", "down_proj"]
    final = start(model, tmp_path, *options) / "final"
    base, merged = (AutoModelForCausalLM.from_pretrained(folder) for folder in (model, final))
    assert sorted(file.name for file in (final / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    settings = json.loads((final / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (2, 3, str(model))
    assert {name.rpartition(".")[2] for name in settings["target_modules"]} == {"q_proj", "down_proj"}
    assert settings["target_modules"] == sorted(settings["target_modules"])
    adapted = peft.PeftModel.from_pretrained(base, final / "adapter")
    torch.testing.assert_close(logits(adapted), logits(merged), atol=1e-5, rtol=0)
    assert (logits(merged) - logits(AutoModelForCausalLM.from_pretrained(model))).abs().max() > 1e-4
    for how in ("merge", "continue"):
        again, _ = pretrained.load(str(final / "adapter"), adapter=how)
        torch.testing.assert_close(logits(again), logits(merged), atol=1e-5, rtol=0)


def test_an_adapter_that_is_trained_on_is_kept_with_its_first_base(model: Path, tmp_path: Path) -> None:
    first = start(model, tmp_path / "first", "--model.lora_rank=2") / "final"
    final = start(first / "adapter", tmp_path / "more", "--model.adapter=continue") / "final"
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), final / "adapter")
    merged = logits(AutoModelForCausalLM.from_pretrained(final))
    torch.testing.assert_close(logits(adapted), merged, atol=1e-5, rtol=0)
    assert json.loads((final / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model)
    assert (merged - logits(AutoModelForCausalLM.from_pretrained(first))).abs().max() > 1e-4


def test_an_adapter_always_names_a_base(model: Path, tmp_path: Path) -> None:
    loaded, tokenizer = pretrained.load(str(model))
    pretrained.save(with_lora(loaded, Lora(2)), tokenizer, tmp_path / "out", "")
    settings = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(model)


def test_full_training_keeps_no_adapter(model: Path, tmp_path: Path) -> None:
    assert not (start(model, tmp_path) / "final" / "adapter").exists()


@pytest.mark.parametrize("path", ["local", "hub"])
def test_the_card_names_a_base_model_of_a_hub_only(path: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefloop.runs.records import card
    from prefloop.runs.world import method_of

    named = str(model) if path == "local" else "some/model"
    config = configuration.load(None, [f"--model.path={named}", "--method=dpo", "--model.lora_rank=2"])
    before = {"eval/reward": 1.0, "eval/reward_se": 0.1, "eval/x": 0.5, "eval/x_low": 0.4, "eval/x_high": 0.6}
    text = card(config, method_of(config), "", before, before | {"eval/new": 1.0})
    assert ("base_model: some/model" in text) == (path == "hub") == (f"Base model: `{named}`" not in text)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "| reward | 1.00\u00a0±\u00a00.10 | 1.00\u00a0±\u00a00.10 |",
        "| x | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] |",
    ]
    assert "`adapter/`" in text


# --------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("make", "target"), [(tiny.llama, "v_proj"), (tiny.gpt2, "c_attn"), (tiny.llama, "mlp.up_proj")]
)
def test_only_the_named_layers_get_adapters(make: Any, target: str) -> None:
    adapted = with_lora(make(dtype=torch.float32), Lora(2, targets=(target,)))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 4 and all(f"{target}.lora_" in name for name in trained)


WRONG = {
    "layer": (["--model.lora_rank=2", "--model.lora_targets=q_prj"], "no linear layer `q_prj`.*did you mean `q_proj`"),
    "head": (["--model.lora_rank=2", "--model.lora_targets=lm_head"], "no linear layer `lm_head`"),
    "alpha": (["--model.lora_rank=2", "--model.lora_alpha=0"], "`model.lora_alpha` cannot be 0"),
    "dropout": (["--model.lora_rank=2", "--model.lora_dropout=1"], "`model.lora_dropout` cannot be 1"),
    "no rank": (["--model.lora_targets=q_proj"], "`model.lora_targets` cannot be .*set model.lora_rank"),
    "ratio": (
        ["--model.lora_rank=2", "--model.lora_dropout=0.1", "--method=ppo"],
        "dropout would change the ratio of `ppo`",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_named(case: str, model: Path, tmp_path: Path) -> None:
    more, what = WRONG[case]
    with pytest.raises(UserError, match=f"(?s){what}"):
        start(model, tmp_path, *more)


def test_inputs_are_dropped_only_where_a_gradient_is_taken_and_always_the_same() -> None:
    adapted = with_lora(tiny.llama(), Lora(4, dropout=0.5), seed=1)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0))
    policy = CausalLM(adapted, tiny.tokenizer(), sampling=Sampling(max_new_tokens=4))
    tokens = torch.tensor([[[3, 4, 5]], [[6, 7, 8]]])
    batch = Batch([torch.tensor([2, 9]), torch.tensor([2, 10])], tokens, torch.ones_like(tokens, dtype=torch.bool))

    def logp(grad: bool, part: Batch = batch) -> torch.Tensor:
        with torch.set_grad_enabled(grad):
            return policy.evaluate(part).logp.detach()

    state = torch.get_rng_state()
    plain, noisy = logp(False), logp(True)
    assert torch.equal(logp(True), noisy) and torch.equal(logp(False), plain)
    assert (noisy - plain).abs().max() > 1e-3 and torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(logp(True, batch[torch.tensor([0])]), noisy[:1])  # another batch, other inputs
    assert not any(m.training for m in adapted.modules())
    dropless = CausalLM(with_lora(tiny.llama(), Lora(4), seed=1), tiny.tokenizer(), sampling=Sampling(max_new_tokens=4))
    assert torch.equal(dropless.evaluate(batch).logp, dropless.evaluate(batch).logp)


def test_a_resumed_run_with_dropout_has_the_same_bytes(model: Path, tmp_path: Path) -> None:
    options = ["--model.lora_rank=2", "--model.lora_dropout=0.3", "--model.lora_targets=q_proj"]
    whole, again = (start(model, tmp_path / name, *options) for name in "ab")
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in (whole, again)]
    assert weights[0] == weights[1]
    plain = start(model, tmp_path / "c", "--model.lora_rank=2", "--model.lora_targets=q_proj")
    assert (plain / "final" / "model.safetensors").read_bytes() != weights[0]


def test_quiet_is_quiet(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefloop", "train", *flags(model, tmp_path, "--model.lora_rank=2"), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
