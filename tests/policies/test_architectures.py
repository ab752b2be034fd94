"""Every architecture samples and evaluates as its own forward does on each text alone, or is refused at loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import architectures
import tiny
from prefloop.core.errors import DataError
from prefloop.core.streams import streams
from prefloop.policies import adapters, pretrained
from prefloop.policies.adapters import Lora
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.sampler import Sampling
from prefloop.policies.selfcheck import caching_fault, check_evaluation
from prefloop.worlds.text.open_model import open_model
from prefloop.worlds.text.spec import ModelOptions, SamplingOptions

REFUSED = {
    "bert": "modifies its logits before or after the head",
    "roberta": "modifies its logits before or after the head",
    "xlnet": "reads tokens behind the one that it predicts",
    "paligemma": "reads tokens behind the one that it predicts",
    "recurrent_gemma": "other log-probs to a text in a batch than alone",
}
LONG = 2 * architectures.WINDOW
PROMPTS = [torch.tensor(ids) for ids in ([5, 6, 7], [8, 9], list(range(5, 5 + LONG)), [11] * (LONG - 1), [6])]


@pytest.mark.parametrize("kind", architectures.KINDS)
def test_what_is_sampled_and_evaluated_is_what_the_model_computes(kind: str) -> None:
    model = architectures.model(kind)
    check_evaluation(model)
    fault = caching_fault(model)
    assert bool(fault) == (kind in architectures.UNCACHED), fault
    policy = CausalLM(model, tiny.tokenizer(), sampling=Sampling(max_new_tokens=LONG), critic=True, cached=not fault)
    batch = policy.draw(PROMPTS, 3, streams(0)["sampling"])
    with torch.no_grad():
        expected = architectures.alone(model, batch)
    seen = policy.evaluate(batch, values=True)
    assert (batch.logp_proximal - expected).abs().max() < architectures.tolerance(kind)
    assert (seen.logp - expected).abs().max() < architectures.tolerance(kind)
    assert expected[batch.mask].std() > 0.01
    assert len({tuple(row.tolist()) for row in batch.responses.flatten(0, 1)}) > 1
    seen.logp.sum().backward()
    trained = [p.grad for p in pretrained.text_of(model).parameters() if p.grad is not None]
    assert trained and all(bool(g.isfinite().all()) for g in trained)
    assert seen.values is not None and seen.values.shape == batch.mask.shape


@pytest.mark.parametrize("kind", REFUSED)
def test_what_we_would_get_wrong_is_refused_in_words(kind: str) -> None:
    with pytest.raises(DataError, match=REFUSED[kind]) as error:
        check_evaluation(architectures.model(kind))
    assert error.value.exit_code == 3 and error.value.fix


def saved(kind: str, folder: Path) -> Path:
    pretrained.save(architectures.model(kind), tiny.tokenizer(), folder, "a tiny model")
    return folder


@pytest.mark.parametrize("kind", ["lfm2", "rwkv", "qwen3_vl", "mistral3", "gemma3"])
def test_a_saved_model_is_opened_sampled_trained_and_saved_again(kind: str, tmp_path: Path) -> None:
    opened = open_model(ModelOptions(str(saved(kind, tmp_path / "a")), False), SamplingOptions(6), seed=0)
    assert ("reads each text again" in opened.note) == (kind in architectures.UNCACHED)
    policy = opened.policy(critic=True)
    batch = policy.draw(PROMPTS[:2], 2, streams(0)["sampling"])
    start = policy.evaluate(batch).logp
    assert (start - batch.logp_proximal).abs().max() < architectures.tolerance(kind)
    assert (opened.reference.evaluate(batch).logp - start).abs().max() == 0
    assert not any("vision" in name for name in opened.trained) and opened.trained
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.01)
    pretrained.save(policy.model, policy.tokenizer, tmp_path / "b", "trained")
    again = open_model(ModelOptions(str(tmp_path / "b"), False), SamplingOptions(6))
    difference = again.reference.evaluate(batch).logp - policy.evaluate(batch).logp
    assert difference.abs().max() < architectures.tolerance(kind)


def test_adapters_and_last_layers_are_those_of_the_language_model() -> None:
    model = architectures.model("qwen3_vl")
    pretrained.train_last_layers(model, 1)
    layers = len(pretrained.text_of(model).layers)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(f"language_model.layers.{layers - 1}." in name for name in trained)
    pytest.importorskip("peft", reason="LoRA needs the extra `peft`")
    adapted = adapters.with_lora(architectures.model("qwen3_vl"), Lora(2))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained and not any("visual" in name or "lm_head" in name for name in trained)


def test_a_cache_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that forgets its padding mask samples other tokens than it evaluates: it is sampled without a cache."""
    model = architectures.model("lfm2")
    forward = model.model.forward

    def unmasked(*args, attention_mask=None, **options):
        return forward(*args, **options)

    monkeypatch.setattr(model.model, "forward", unmasked)
    assert "other log-probs than the whole text" in caching_fault(model)
