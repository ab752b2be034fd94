"""From texts to token ids: special tokens that a text spells, and plain text without a break between its parts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prefloop.core.errors import DataError, excerpt
from prefloop.policies.agreement import TAG
from prefloop.policies.rendering import MARK, without_mark

SAMPLE = "Answer."  # any text


def hashed(*parts: bytes) -> bytes:
    """16 bytes that identify bytes."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(len(part).to_bytes(8, "little") + part)
    return made.digest()


@dataclass(frozen=True)
class TokenIds:
    """The ids that a tokenizer makes of texts.

    Args:
        added: plain text: what the tokenizer writes before a text is kept, and special tokens that it spells are meant.
    """

    tokenizer: Any  # transformers.PreTrainedTokenizerBase
    added: bool = False

    def of(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts, in one call, which the tokenizer may spread over the processors."""
        if not texts:
            return []
        made = self.tokenizer(texts, add_special_tokens=self.added, return_attention_mask=False)["input_ids"]
        return [ids[: -self._appended] for ids in made] if self.added and self._appended else list(made)

    def one(self, text: str, where: str) -> tuple[int, ...]:
        """Token ids of a text, as `checked`."""
        return self.checked(self.of([text])[0], text, where)

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def checked(self, ids: list[int], text: str, where: str) -> tuple[int, ...]:
        """The ids of a text, where special tokens that MARK breaks up are the tokens of their text.

        Raises:
            DataError: the tokenizer makes special tokens of them.
        """
        if self.added or MARK not in text:
            return tuple(ids)
        kept = tuple(ids[i] for i in without_mark(ids, self.mark))
        own = sum(i in self.special.values() for i in kept) == len(self.spelled.findall(text))
        if not own or self.text(kept) != self.text(ids).replace(MARK, ""):
            names = ", ".join(f"`{name}`" for name in self.special if name in text.replace(MARK, ""))
            what = f"this tokenizer cannot write special tokens as text, but a message spells one of {excerpt(names)}"
            raise DataError(what, where=where, fix="remove it from the text")
        return kept

    def behind(self, prompt: Sequence[int], asked: str, whole: Sequence[int], said: str, where: str) -> tuple[int, ...]:
        """The ids of a prompt and an answer in which no token joins both, as the policy answers whole tokens.

        Args:
            prompt, asked: the ids and the text of the prompt.
            whole, said: the ids of both, and the text of the answer.

        Raises:
            DataError: the tokenizer changes the prompt in front of an answer.
        """
        if tuple(whole[: len(prompt)]) == tuple(prompt):
            return tuple(whole)
        ids = self.of([asked + MARK + said])[0]
        kept = tuple(ids[i] for i in without_mark(ids, self.mark))
        if kept[: len(prompt)] != tuple(prompt) or self.text(kept) != self.text(whole):
            what = "the tokenizer joins the end of the prompt and the start of the answer"
            raise DataError(what, where=where, fix="end the prompt, or start the answer, with a line break")
        return kept

    def identity(self, setting: object) -> bytes | None:
        """A hash of the tokenizer, its chat template and how they are used; None if the tokenizer is Python code."""
        inner = getattr(self.tokenizer, "backend_tokenizer", None)
        if inner is None:
            return None
        used = ("special_tokens_map", "split_special_tokens", "chat_template")
        facts = (type(self.tokenizer).__name__, *(getattr(self.tokenizer, name, None) for name in used), setting)
        return hashed(inner.to_str().encode(), repr(facts).encode())

    @cached_property
    def special(self) -> dict[str, int]:
        """The special tokens by their text, without those of reasoning, which a text may use."""
        added = self.tokenizer.added_tokens_decoder.items()
        return {token.content: i for i, token in added if token.special and not TAG.fullmatch(token.content)}

    @cached_property
    def spelled(self) -> re.Pattern[str]:
        """Matches a special token that a text spells."""
        names = sorted(filter(None, self.special), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")

    @cached_property
    def mark(self) -> list[int]:
        """The tokens of MARK inside a text."""
        before, both = (self.tokenizer(x, add_special_tokens=False)["input_ids"] for x in ("<", f"<{MARK}"))
        return both[len(before) :]

    @cached_property
    def _appended(self) -> int:
        """Number of tokens that the tokenizer adds behind a text."""
        bare, whole = (self.tokenizer(SAMPLE, add_special_tokens=added)["input_ids"] for added in (False, True))
        before = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)
        return len(whole) - len(bare) - before
