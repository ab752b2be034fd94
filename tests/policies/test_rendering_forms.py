"""Plain text without a break between prompt and answer, templates that write the date, ends that are only text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies.chat_family import named
from tests.policies.chat_tokenizers import GEMMA, GPT2, LLAMA, METASPACE, TIKTOKEN, made
from transformers import PreTrainedTokenizerFast

import tiny
from prefloop.core.errors import DataError
from prefloop.data.records import Group, Message
from prefloop.policies.conversation import Template, template_of
from prefloop.policies.rendering import dated
from prefloop.policies.templates import PLAIN

KINDS = (GPT2, TIKTOKEN, LLAMA, METASPACE, GEMMA)
DATED = "{{ strftime_now('%d %b %Y') }}\n{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
ASKED = (Message("user", "Which fruit is red?"),)


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return made(kind, (), **named("</s>", "<unk>", "<s>", "<unk>"))


def group(prompt: str, *answers: str) -> Group:
    return Group((Message("user", prompt),), answers, None, prompt, 7)


# ---------------------------------------------------------------------------------------------------------- plain text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("asked", "said"),
    [("The sea is w", "ide."), ("Fruit: ", "An apple."), ("Is it red?\n", "\nYes."), ("Red?", "No.")],
)
def test_the_prompt_of_plain_text_is_trained_as_it_is_sampled(kind: str, asked: str, said: str) -> None:
    own = template_of(tokenizer(kind), PLAIN)
    answered = own.answered(group(asked, said))
    assert answered.prompt.tolist() == own.prompt([Message("user", asked)]).tolist()
    assert own.text([*answered.prompt.tolist(), *answered.answers[0].tolist()]).endswith(f"{asked}{said}</s>")


PARTS = st.lists(st.sampled_from(["w", "ide", " ", "\n", "apple", " apple", ".", "é", "</s>", "🍎"]), max_size=5)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), PARTS.map("".join), PARTS.map("".join), PARTS.map("".join))
def test_any_plain_prompt_is_trained_as_it_is_sampled_or_refused(kind: str, asked: str, said: str, other: str) -> None:
    own = template_of(tokenizer(kind), PLAIN)
    try:
        answered = own.answered(group(f"a{asked}", said, other))
    except DataError:
        return
    assert answered.prompt.tolist() == own.prompt([Message("user", f"a{asked}")]).tolist()


def test_a_special_token_at_the_end_of_a_plain_prompt_is_kept() -> None:
    ids = tiny.tokenizer(None)
    assert template_of(ids).prompt([Message("user", "a <eos>")]).tolist() == [tiny.BOS, 9, tiny.EOS]


# ------------------------------------------------------------------------------------------------------------ the date


def test_the_date_is_fixed() -> None:
    ids = tokenizer(GPT2)
    ids.chat_template = DATED
    own = template_of(ids, date="2024-07-26")
    assert own.text(own.prompt(ASKED).tolist()).startswith("26 Jul 2024\nuser: Which")
    assert own.note.endswith("it writes the date 2024-07-26")
    assert ids.chat_template == DATED  # what is saved with the model
    assert template_of(ids).note.endswith(Template(ids).date)


def test_every_form_of_a_date_is_written() -> None:
    ids = tokenizer(GPT2)
    forms = "%d %b %Y|%-d %B|%Y-%m-%d|%A, %j|%H:%M|100%%"
    macro = "{% macro said(x) %}{{ strftime_now(x) if strftime_now is defined }}{% endmacro %}"
    ids.chat_template = f"{macro}{{{{ said('{forms}') }}}} {{{{ messages[0].content }}}}"
    shown = template_of(ids, date="2024-07-06").sketch
    assert shown.startswith("06 Jul 2024|6 July|2024-07-06|Saturday, 188|00:00|100% Question?")


def test_templates_without_a_date_are_unchanged() -> None:
    assert "date" not in template_of(tiny.tokenizer()).note
    assert dated("x", "2024-07-26").endswith("{%- endmacro -%}x")


# --------------------------------------------------------------------------------------------------------------- ends


def test_an_end_that_is_only_text_is_trained_before_the_eos_and_said() -> None:
    ids = tokenizer(GPT2)
    ids.chat_template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    own = template_of(ids)
    answered = own.answered(Group(ASKED, ("An apple.",), None, "", 1))
    assert own.text(answered.answers[0].tolist()) == "An apple.<|end|></s>"
    assert "answers end with `</s>` behind `<|end|>`, which is text to this tokenizer" in own.note
