"""Tiny tokenizers in the forms of model families: byte-level BPE, SentencePiece with its prefixes, one per special token set."""

# ruff: noqa: E501  (a template is one text)

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# Line breaks merge with each other and with a full stop before them, as in the vocabularies of real models.
CORPUS = [
    "Which fruit is red? An apple is red.\n\nA pear is green.\n\n",
    "User: Name a fruit.\n\nAssistant: An apple is a fruit.\n\n### Response:\n\nYes.\n\n<think>\n\n</think>\n\n",
    "The sea is wide and blue. Two plus two is four. [INST] Hello [/INST] Hi there, how are you today? I am fine.\n",
    '{"name": "weather", "arguments": {"city": "Paris"}}\n\n\n  two spaces   three spaces\n \n',
] * 20
GPT2, TIKTOKEN, LLAMA, METASPACE, GEMMA = "gpt2", "tiktoken", "llama", "metaspace", "gemma"
WORDS = Regex(r"'s|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def made(
    kind: str, special: Sequence[str], plain: Sequence[str] = (), *, stripping: Sequence[str] = (), **named: str
) -> PreTrainedTokenizerFast:
    """A tokenizer whose special tokens are atomic.

    Args:
        kind: form of text before, in and after the merges.
        special: special tokens; those of `named` (`bos_token`, …) are added.
        plain: added tokens that are no special tokens, such as `<think>` of some models.
        stripping: special tokens that swallow the whitespace behind them, as Phi-3's.
    """
    inner = Tokenizer.from_str(_base(kind))
    every = dict.fromkeys((*named.values(), *special))
    inner.add_special_tokens([AddedToken(x, normalized=False, rstrip=x in stripping, special=True) for x in every])
    inner.add_tokens([AddedToken(x, normalized=False, special=False) for x in plain])
    return PreTrainedTokenizerFast(tokenizer_object=inner, **named)


@cache
def _base(kind: str) -> str:
    return _byte_level(kind) if kind in (GPT2, TIKTOKEN) else _sentence_piece(kind)


def _byte_level(kind: str) -> str:
    inner = Tokenizer(models.BPE())
    inner.decoder = decoders.ByteLevel()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == TIKTOKEN:
        split = pre_tokenizers.Split(WORDS, "isolated")
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    return inner.to_str()


def _sentence_piece(kind: str) -> str:
    """Llama 2 puts a space before every text, Metaspace before the first, Gemma before none; unknown bytes are tokens."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spaces = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    parts: list[dict[str, Any]] = [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if kind == METASPACE:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        before = [normalizers.Prepend("▁")] if kind == LLAMA else []
        inner.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    if kind != GEMMA:
        parts.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    after = inner.pre_tokenizer
    inner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no token goes over a word's end
    texts = [text.replace(" ", "▁") for text in CORPUS]
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *BYTES]))
    if after is not None:
        inner.pre_tokenizer = after
    spec = json.loads(inner.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] == "<unk>"]
    before_merges = spec["pre_tokenizer"] if kind == METASPACE else None
    decoder = {"type": "Sequence", "decoders": parts}
    return json.dumps(spec | {"decoder": decoder, "pre_tokenizer": before_merges})
