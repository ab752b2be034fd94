"""What is no whole model is refused before training, in one line, with exit status 3; adapters are used on purpose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, T5Config
from transformers import T5ForConditionalGeneration as T5

import tiny
from prefloop.core.errors import DataError, UserError
from prefloop.core.streams import streams
from prefloop.policies import pretrained
from prefloop.policies.adapters import Lora, with_lora
from prefloop.worlds.text.open_model import open_model
from prefloop.worlds.text.spec import ModelOptions, SamplingOptions

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
IDS = torch.tensor([[2, 3, 6, 9]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pretrained.save(tiny.llama(dtype=torch.float32), tiny.tokenizer(), tmp_path / "model", "a tiny model")
    return tmp_path / "model"


def changed(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    found = load_file(folder / "model.safetensors")
    change(found)
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


def without_a_layer(folder: Path) -> None:
    weights(folder, lambda found: [found.pop(name) for name in list(found) if "layers.1." in name])


def fewer_layers(folder: Path) -> None:
    changed(folder, num_hidden_layers=1)


def other_shapes(folder: Path) -> None:
    weights(folder, lambda found: found.update({"model.norm.weight": torch.zeros(3)}))


def reward_model(folder: Path) -> None:
    shutil.rmtree(folder)
    config = tiny.llama(dtype=torch.float32).config
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)


def value_head(folder: Path) -> None:
    weights(folder, lambda found: found.update({"v_head.summary.weight": torch.zeros(1, 16)}))


def masked(folder: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=12, **shape)).save_pretrained(folder)


def seq2seq(folder: Path) -> None:
    T5(T5Config(vocab_size=12, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(folder)


def pointer(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(POINTER)


def half(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def no_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>404 Not Found</html>" * 9)


def garbled_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((9).to_bytes(8, "little") + b"[1, 2, 3]" * 9)


def shard_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    tiny.llama(dtype=torch.float32).save_pretrained(folder, max_shard_size="5KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()


def pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def quantised(folder: Path) -> None:
    changed(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def quantised_inside(folder: Path) -> None:
    changed(folder, text_config={"quantization_config": {"quant_method": "awq"}})


def larger_tokenizer(folder: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(folder)


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a layer is missing": (without_a_layer, r"lacks its weights: model\.layers\.1.* and 6 more would be newly init"),
    "fewer layers": (fewer_layers, r"hold weights that this model does not have: model\.layers\.1"),
    "other shapes": (other_shapes, r"other shapes than the configuration: model\.norm\.weight"),
    "reward model": (reward_model, "LlamaForSequenceClassification is a classifier or reward model, not a causal"),
    "value head": (value_head, r"hold weights that this model does not have: v_head\.summary\.weight"),
    "masked": (masked, "BertForMaskedLM is not a causal language model"),
    "sequence to sequence": (seq2seq, "T5ForConditionalGeneration is not a causal language model"),
    "pointer": (pointer("model.safetensors"), r"model\.safetensors is a Git LFS pointer"),
    "pointer of the tokenizer": (pointer("tokenizer.json"), r"tokenizer\.json is a Git LFS pointer"),
    "half": (half, r"model\.safetensors has [\d,]+ of [\d,]+ bytes"),
    "cut header": (cut_header, r"model\.safetensors is incomplete"),
    "a page": (no_header, r"model\.safetensors is incomplete, or no safetensors file"),
    "garbled": (garbled_header, r"model\.safetensors is no safetensors file"),
    "shard": (shard_missing, r"1 of \d+ files of weights are missing, the first is model-00002-of"),
    "pickles": (pickles, r"its weights are pickles \(pytorch_model\.bin\), which are never loaded"),
    "only a configuration": (lambda folder: (folder / "model.safetensors").unlink(), "it has no weights"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), r"it has no config\.json"),
    "half a configuration": (lambda folder: (folder / "config.json").write_text('{"a'), r"config\.json is no JSON"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json is not a JSON object"),
    "wrong value": (lambda folder: changed(folder, num_hidden_layers="two"), "the model cannot be loaded"),
    "quantised": (quantised, r"are quantised \(gptq\)"),
    "quantised inside": (quantised_inside, r"are quantised \(awq\)"),
    "quantised by a file": (lambda folder: (folder / "quant_config.json").write_text("{}"), "are quantised"),
    "larger tokenizer": (larger_tokenizer, r"larger than the model: 'more' has the id 12, the embedding 12 rows"),
    "no tokenizer": (no_tokenizer, "tokenizer of the model cannot be loaded"),
    "half a tokenizer": (lambda f: (f / "tokenizer.json").write_text('{"a": 1}'), "tokenizer of the model cannot be"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_whole_model_is_refused(case: str, folder: Path) -> None:
    make, what = BROKEN[case]
    make(folder)
    with pytest.raises(DataError, match=what) as error:
        pretrained.load(str(folder))
    assert error.value.exit_code == 3 and error.value.where and len(str(error.value)) < 800
    assert "\n" not in error.value.what


def test_what_all_models_have_left_over_is_accepted(folder: Path) -> None:
    weights(folder, lambda found: found.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)}))
    pretrained.load(str(folder))


def test_a_special_token_beyond_the_embedding_is_never_written(folder: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    model, tokenizer = pretrained.load(str(folder))
    assert len(tokenizer) == 13 > model.get_input_embeddings().weight.shape[0]


def test_an_embedding_may_have_spare_rows(tmp_path: Path) -> None:
    pretrained.save(tiny.llama(16, torch.float32), tiny.tokenizer(), tmp_path / "model", "")
    pretrained.load(str(tmp_path / "model"))


# -------------------------------------------------------------------------------------------------------- adapters


@pytest.fixture
def adapter(folder: Path) -> Path:
    """An adapter with weights that are not zero, saved by peft beside its base model."""
    pytest.importorskip("peft", reason="LoRA needs the extra `peft`")
    model = with_lora(tiny.llama(dtype=torch.float32), Lora(2))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05)
    home = folder.parent / "adapter"
    model.save_pretrained(home)
    tiny.tokenizer().save_pretrained(home)
    config = json.loads((home / "adapter_config.json").read_text())
    (home / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(folder)}))
    return home


def opened(adapter: Path, how: str | None, **options: object):
    return open_model(ModelOptions(str(adapter), False, adapter=how, **options), SamplingOptions(4))  # type: ignore[arg-type]


def test_an_adapter_is_refused_unless_it_is_used_on_purpose(adapter: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="holds an adapter only") as error:
        opened(adapter, None)
    assert "model.adapter: merge" in error.value.fix
    shutil.copytree(folder, adapter, dirs_exist_ok=True)
    with pytest.raises(DataError, match="adapter beside a whole model"):
        opened(adapter, None)
    with pytest.raises(UserError, match="the model is not an adapter"):
        opened(folder, "merge")


@pytest.mark.parametrize("how", ["merge", "continue"])
@pytest.mark.parametrize("rank", [0, 2])
def test_training_starts_from_the_adapted_model_and_so_does_its_reference(adapter: Path, how: str, rank: int) -> None:
    from peft import AutoPeftModelForCausalLM

    if how == "continue" and rank:
        with pytest.raises(UserError, match=r"model\.adapter"):
            opened(adapter, how, lora_rank=rank)
        return
    expected = AutoPeftModelForCausalLM.from_pretrained(adapter)(IDS).logits
    base = tiny.llama(dtype=torch.float32)(IDS).logits
    assert (expected - base).abs().max() > 0.01
    model = opened(adapter, how, lora_rank=rank)
    policy = model.policy()
    batch = policy.draw([IDS[0]], 3, streams(0)["sampling"])
    start = policy.evaluate(batch).logp.detach()
    for reference in (model.reference, policy.reference()):
        torch.testing.assert_close(reference.evaluate(batch).logp, start, atol=1e-5, rtol=0)
    torch.testing.assert_close(policy.model(IDS).logits, expected, atol=1e-5, rtol=0)
    assert model.trained and all("lora" in name for name in model.trained) == (how == "continue" or rank > 0)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1)
    assert (policy.evaluate(batch).logp - start).abs().max() > 0.01
    torch.testing.assert_close(model.reference.evaluate(batch).logp, start, atol=1e-5, rtol=0)
    assert model.sha256 == pretrained.model_hash(str(adapter)) != pretrained.model_hash(str(adapter.parent / "model"))


def test_a_policy_that_started_with_adapters_copies_them_for_its_reference(adapter: Path) -> None:
    policy = opened(adapter, "continue").policy()
    reference, batch = policy.reference(), policy.draw([IDS[0]], 2, streams(0)["sampling"])
    before = reference.evaluate(batch).logp
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1)
    assert torch.equal(reference.evaluate(batch).logp, before) and reference.parameters() == []


def test_a_base_model_beside_the_adapter_is_found(adapter: Path) -> None:
    changed_base(adapter, "../model")
    opened(adapter, "merge")


def changed_base(adapter: Path, base: str | None) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))


def half_an_adapter(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    found = load_file(file)
    found.pop(min(found))
    save_file(found, file, metadata={"format": "pt"})


def other_kind(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PROMPT_TUNING"}))


BROKEN_ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "half": (half_an_adapter, "weights of the adapter are missing"),
    "other kind": (other_kind, "of the kind PROMPT_TUNING"),
    "no weights": (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "has no adapter_model"),
    "pointer": (pointer("adapter_model.safetensors"), "is a Git LFS pointer"),
    "no base": (lambda adapter: changed_base(adapter, None), "does not name its base model"),
    "broken": (lambda adapter: (adapter / "adapter_model.safetensors").write_bytes(b"x"), "cannot be loaded"),
}


@pytest.mark.parametrize("case", BROKEN_ADAPTERS)
def test_what_is_no_whole_adapter_is_refused(case: str, adapter: Path) -> None:
    make, what = BROKEN_ADAPTERS[case]
    make(adapter)
    with pytest.raises(DataError, match=what):
        opened(adapter, "merge")


def test_an_absent_base_model_is_named(adapter: Path) -> None:
    changed_base(adapter, "somebody/something")
    with pytest.raises(UserError, match="somebody/something"):
        opened(adapter, "merge")
