"""One-sentence answers of SmolLM2-135M-Instruct to the built-in instructions, in a small vocabulary.

`tools/make_answers.py` made both files. Token 0 ends a response.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor

END = 0
FILES = ("answers.jsonl", "answers_vocabulary.json")


@dataclass(frozen=True)
class Answered:
    """An instruction with the model's answers, their random seed, and the indices of unfinished answers."""

    prompt: str
    seed: int
    texts: tuple[str, ...]
    unended: frozenset[int]


@dataclass(frozen=True)
class Tokens:
    """Left-aligned responses, including END if it came before the limit; 0 beyond the mask."""

    ids: Int[Tensor, "P G T"]
    mask: Bool[Tensor, "P G T"]

    @property
    def cut(self) -> Bool[Tensor, "P G"]:
        """Whether each response lacks END."""
        last = self.mask.sum(-1, keepdim=True) - 1
        return self.ids.gather(-1, last).squeeze(-1) != END


def answers() -> list[Answered]:
    """All answers, in the order of the instructions."""
    text = _file(FILES[0]).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [Answered(row["prompt"], row["seed"], tuple(row["answers"]), frozenset(row["cut"])) for row in rows]


def vocabulary() -> Tokenizer:
    """The byte-pair encoding learned from the answers."""
    return Tokenizer.from_file(str(_file(FILES[1])))


def encode(texts: Sequence[Sequence[str]], limit: int, unended: Sequence[Collection[int]] = ()) -> Tokens:
    """Groups of equally many texts as tokens with END, cut at the limit.

    Args:
        unended: indices, per group, of texts that stop in mid-sentence and get no END.
    """
    tokenizer, size = vocabulary(), (len(texts), len(texts[0]), limit)
    ids, mask = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=bool)
    for p, group in enumerate(texts):
        for g, encoding in enumerate(tokenizer.encode_batch(list(group))):
            end = [] if unended and g in unended[p] else [END]
            row = [*encoding.ids, *end][:limit]
            ids[p, g, : len(row)], mask[p, g, : len(row)] = row, True
    return Tokens(torch.as_tensor(ids), torch.as_tensor(mask))


@cache
def fingerprint() -> str:
    """A hash of both files."""
    both = hashlib.sha256()
    for name in FILES:
        both.update(_file(name).read_bytes())
    return both.hexdigest()


def _file(name: str) -> Path:
    return Path(str(files("prefloop.worlds.lengths").joinpath(name)))
