"""From a file to token ids and back: tools reach the template, tags of reasoning reach the reward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prefloop.core.errors import DataError
from prefloop.data.formats import load
from prefloop.policies.conversation import Template, template_of
from prefloop.worlds.text.problem import TextProblem

TOOLS = (
    "{% if tools %}<|im_start|>tools{{ tools | tojson }}<|im_end|>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BARE = TOOLS.replace("{% if tools %}<|im_start|>tools{{ tools | tojson }}<|im_end|>{% endif %}", "")
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
ROW = {
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    "prompt": [
        {"role": "user", "content": "Is it raining?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "no"},
    ],
    "chosen": [{"role": "assistant", "content": "No."}],
    "rejected": [{"role": "assistant", "content": "", "tool_calls": [CALL]}],
}


def template(text: str) -> Template:
    """Bytes as tokens, and the special tokens of ChatML with tags of reasoning that are special too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>")
    made.add_special_tokens({"additional_special_tokens": special})
    made.chat_template = text
    return template_of(made)


def problem(tmp_path: Path, text: str) -> TextProblem:
    (tmp_path / "tools.jsonl").write_text(json.dumps(ROW) + "\n")
    return TextProblem(load(tmp_path / "tools.jsonl"), template(text), max_prompt_tokens=4096, max_response_tokens=4096)


def test_tools_and_calls_of_a_file_reach_the_template(tmp_path: Path) -> None:
    made = problem(tmp_path, TOOLS)
    batch = made.batch_of(made.train)
    asked = made.template.text(batch.prompts[0].tolist())
    assert (
        asked.startswith("<|im_start|>tools[{") and asked.count('"name": "weather"') == 2 and '"city": "Bern"' in asked
    )
    chosen, rejected = (
        made.template.text(ids[mask].tolist()) for ids, mask in zip(batch.responses[0], batch.mask[0], strict=True)
    )
    assert chosen == "No.<|im_end|>" and '"name": "weather"' in rejected and rejected.endswith("<|im_end|>")


def test_a_template_that_ignores_the_tools_is_refused(tmp_path: Path) -> None:
    made = problem(tmp_path, BARE)
    with pytest.raises(DataError, match="tool") as error:
        made.batch_of(made.train)
    assert "row 1" in error.value.where


def test_tags_of_reasoning_reach_the_reward_and_the_end_does_not() -> None:
    made = template(TOOLS)
    ids = made.tokenizer("<think>\nok\n</think>\n\nYes.<|im_end|>", add_special_tokens=False)["input_ids"]
    assert made.response(torch.tensor(ids).tolist()) == "<think>\nok\n</think>\n\nYes."
