"""How models of a family write conversations: its template, its tokenizer, and what of a conversation it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tests.policies.chat_tokenizers import TIKTOKEN, made
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Family:
    """How models of a family write conversations.

    Args:
        end: the token that the template writes behind an answer; None if it writes none.
        named: EOS, padding, BOS and unknown token.
        special, plain: further added tokens; plain ones are no special tokens.
        stripping: special tokens that swallow the whitespace behind them.
        call_end: what ends a tool call instead.
        keeps: what of a conversation the template writes: a `system` message, reasoning in `tags` or in a `key`,
            `tools`, `calls` in answers, calls with `content`, with a key (`both`), `results`.
        text_calls: arguments of tool calls have to be JSON text, not objects.
        continues: an answer with reasoning in tags continues what the generation prompt opens.
        always_thinks: the template puts every answer behind an opening tag.
    """

    name: str
    template: str | dict[str, str]
    end: str | None
    named: Mapping[str, str]
    kind: str = TIKTOKEN
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    stripping: tuple[str, ...] = ()
    call_end: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    keeps: str = "system tags"
    text_calls: bool = False
    continues: bool = False
    always_thinks: bool = False

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        ends = tuple(end for end in (self.end, self.call_end) if end)
        made_ = made(self.kind, (*ends, *self.special), self.plain, stripping=self.stripping, **self.named)
        made_.chat_template = self.template
        return made_


def named(eos: str, pad: str | None = None, bos: str | None = None, unk: str | None = None) -> dict[str, str]:
    tokens = {"eos_token": eos, "pad_token": pad or eos, "bos_token": bos, "unk_token": unk}
    return {key: token for key, token in tokens.items() if token}


ALL = "system tags tools calls content results"
IM = named("<|im_end|>", "<|endoftext|>")
SP = named("</s>", "<unk>", "<s>", "<unk>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
COHERE = ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")
DEEPSEEK = ("<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁sep｜>")
THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>")
EMPTY = "<think>\n\n</think>\n\n"
BOS = "{{ bos_token }}"
