"""Chat templates by name, for base models, which have none of their own; and templates in a user's own file.

Each is written as the models that made its name write it, with the token that ends an answer behind every answer.
`chatml` is made of special tokens, which a vocabulary has or not; the others are text, which every tokenizer reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefloop.core.errors import UserError, nearest

AUTO, CHAT, PLAIN = "auto", "chat", "plain"  # values of `data.template` that name no template
CHATML = r"""
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif -%}
"""
ZEPHYR = r"""
{%- for message in messages %}
    {%- if message['role'] in ['system', 'user', 'assistant'] %}
        {{- '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif -%}
"""
ALPACA = r"""
{%- if messages[0]['role'] == 'system' %}
    {{- messages[0]['content'] + '\n\n' }}
{%- else %}
    {{- 'Below is an instruction that describes a task. ' }}
    {{- 'Write a response that appropriately completes the request.\n\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '### Instruction:\n' + message['content'] + '\n\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '### Response:\n' + message['content'] + eos_token + '\n\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '### Response:\n' }}
{%- endif -%}
"""
HUMAN_ASSISTANT = r"""
{%- if messages[0]['role'] == 'system' %}
    {{- messages[0]['content'] }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '\n\nHuman: ' + message['content'] }}
    {%- elif message['role'] == 'assistant' %}
        {{- '\n\nAssistant: ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '\n\nAssistant:' }}
{%- endif -%}
"""
NAMED = {"chatml": CHATML, "zephyr": ZEPHYR, "alpaca": ALPACA, "human-assistant": HUMAN_ASSISTANT}
TOKENS = {"chatml": ("<|im_start|>", "<|im_end|>")}  # special tokens that a template is made of
TEXTS = [name for name in NAMED if name not in TOKENS]
GIVEN = f"data.template={', '.join(NAMED)} or FILE.jinja"  # how to give a template, in a fix


def given_template(tokenizer: Any, setting: str) -> tuple[str, str]:
    """The chat template that a setting names or that is in its file, and what a reader is told of it.

    Where the tokenizer begins every text with a BOS, a template by name does so too: the model knows no other text.

    Raises:
        UserError: no such template or file, or the tokenizer lacks a token that the template is made of.
    """
    if setting not in NAMED:
        return _read(setting), f"the chat template {setting}"
    _check_tokens(tokenizer, setting)
    bos = tokenizer.bos_token_id
    begun = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    told = f"`{setting}`"
    told += f" behind `{tokenizer.bos_token}`, with which this tokenizer begins a text" * begun
    told += " in place of the model's own" * bool(tokenizer.chat_template)
    return ("{{- bos_token }}" if begun else "") + NAMED[setting], told


def _check_tokens(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer without a token that a template is made of, which it would read as text or leave out."""
    where = f"data.template={name}"
    if name in TEXTS and tokenizer.eos_token_id is None:
        what = f"`{name}` ends answers with the EOS, and this tokenizer has none"
        raise UserError(what, where=where, fix="set `eos_token` in its tokenizer_config.json")
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if lacking := [token for token in TOKENS.get(name, ()) if token not in special]:
        counts = " and ".join(str(len(tokenizer(token, add_special_tokens=False)["input_ids"])) for token in lacking)
        what = (
            f"{' and '.join(f'`{token}`' for token in lacking)} of `{name}` are no special tokens of this model, whose"
            f" tokenizer reads them as text ({counts} tokens): no token would end an answer"
        )
        fix = f"use a template of text alone ({', '.join(TEXTS)}), or a model whose vocabulary has these tokens"
        raise UserError(what, where=where, fix=fix)


def _read(file: str) -> str:
    """The chat template in a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        where, said = f"data.template={file}", nearest(file, (AUTO, CHAT, PLAIN, *NAMED))
        if not Path(file).suffix and not isinstance(error, UnicodeError):
            fix = said if said.endswith("?") else f"{said}, or a file that ends in .jinja"
            raise UserError(f"no chat template is called `{file}`", where=where, fix=fix) from None
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        fix = f"give a file that ends in .jinja, or a name: {', '.join((AUTO, CHAT, PLAIN, *NAMED))}"
        raise UserError(f"cannot read the chat template: {reason}", where=where, fix=fix) from None
