"""Tiny language models and a tiny tokenizer, made here: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

EOS = 1
BOS = 2
WORDS = ("<unk>", "<eos>", "<bos>", "user", "assistant", "system", ":", "yes", "no", "a", "b", "c")
MARKS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")  # of an encoder
TYPED = ("input_ids", "token_type_ids", "attention_mask")  # what an encoder that is told the type of a token reads
TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def llama(
    vocabulary: int = 12, dtype: torch.dtype = torch.float64, seed: int = 0, spread: float = 0.4, context: int = 64
) -> LlamaForCausalLM:
    """Grouped-query attention; large weights, so that the distribution is far from uniform."""
    return _made(LlamaForCausalLM, LlamaConfig(**_shape(vocabulary, context), initializer_range=spread), dtype, seed)


def qwen(vocabulary: int = 12, dtype: torch.dtype = torch.float64, seed: int = 0) -> Qwen2ForCausalLM:
    """As Llama, with biases and tied embeddings."""
    config = Qwen2Config(**_shape(vocabulary), initializer_range=0.4, tie_word_embeddings=True)
    return _made(Qwen2ForCausalLM, config, dtype, seed)


def gpt2(vocabulary: int = 12, dtype: torch.dtype = torch.float64, seed: int = 0) -> GPT2LMHeadModel:
    """Learned absolute positions, dropout in its configuration."""
    config = GPT2Config(**_ids(vocabulary), n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.4)
    return _made(GPT2LMHeadModel, config, dtype, seed)


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per word; plain `encode` puts a BOS in front, as Llama's does."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    special = {"unk_token": "<unk>", "eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<eos>"}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    made.chat_template = template
    return made


def encoder_tokenizer(template: str | None = None, inputs: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """One token per word; puts marks around a text and between two, as those of encoders do."""
    words = (*MARKS, *WORDS)
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))],
    )
    names = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token"), MARKS, strict=True))
    more: dict[str, Any] = {"model_input_names": list(inputs)} if inputs else {}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **names, **more)
    made.chat_template = template
    return made


def _ids(vocabulary: int) -> dict[str, Any]:
    return {"vocab_size": vocabulary, "eos_token_id": EOS, "bos_token_id": BOS, "pad_token_id": None}


def _shape(vocabulary: int, context: int = 64) -> dict[str, Any]:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": context}
    return _ids(vocabulary) | heads | {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}


def _made(kind: Any, config: Any, dtype: torch.dtype, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).to(dtype).eval()
    if dtype == torch.float64:
        _wide_norms(model)
    return model


def _wide_norms(model: nn.Module) -> None:
    """Transformers' RMSNorm rounds to float32 inside; a float64 model is to be float64 throughout."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=torch.float64)
                norm.weight = child.weight
                setattr(parent, name, norm)
