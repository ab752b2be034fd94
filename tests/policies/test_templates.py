"""Chat templates by name: what each writes, id by id, and what a tokenizer must have for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.policies.chat_conversations import ASKED, EARLIER, SYSTEM, Conversation, answer, as_message
from tests.policies.chat_family import named
from tests.policies.chat_tokenizers import GEMMA, GPT2, LLAMA, METASPACE, TIKTOKEN, made
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

import prefloop
import tiny
from prefloop.core.errors import DataError, UserError
from prefloop.policies.conversation import template_of
from prefloop.policies.templates import NAMED, TEXTS

KINDS = (GPT2, TIKTOKEN, LLAMA, METASPACE, GEMMA)
MARKS = ("<|im_start|>", "<|im_end|>")
BELOW = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
WRITTEN = {  # a question and its answer, a second question, and the start of the answer
    "chatml": (
        "<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\nAn apple.<|im_end|>\n"
        "<|im_start|>user\nAnother?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "zephyr": "<|user|>\nName a fruit.</s>\n<|assistant|>\nAn apple.</s>\n<|user|>\nAnother?</s>\n<|assistant|>\n",
    "alpaca": (
        f"{BELOW}### Instruction:\nName a fruit.\n\n### Response:\nAn apple.</s>\n\n"
        "### Instruction:\nAnother?\n\n### Response:\n"
    ),
    "human-assistant": (
        "\n\nHuman: Name a fruit.\n\nAssistant: An apple.</s>\n\nHuman: Another?\n\nAssistant:"
    ),
}  # fmt: skip
SYSTEMS = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>",
    "alpaca": "Be brief.\n\n### Instruction:",
    "human-assistant": "Be brief.\n\nHuman:",
}


def tokenizer(kind: str = TIKTOKEN) -> PreTrainedTokenizerFast:
    return made(kind, MARKS, **named("</s>", "<unk>", "<s>", "<unk>"))


@pytest.mark.parametrize("name", NAMED)
def test_each_template_writes_its_known_form(name: str) -> None:
    own = template_of(tokenizer(), name)
    assert own.text(own.prompt([as_message(said) for said in EARLIER]).tolist()) == WRITTEN[name]
    started = own.text(own.prompt([as_message(said) for said in (SYSTEM, ASKED)]).tolist())
    assert started.startswith(SYSTEMS[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMED)
def test_what_is_trained_is_what_transformers_renders(name: str, kind: str) -> None:
    own = template_of(tokenizer(kind), name)
    own.check("a short conversation")
    end = own.tokenizer.convert_tokens_to_ids("<|im_end|>" if name == "chatml" else "</s>")
    assert own.end == end and end in own.ends
    for asked in ((ASKED,), EARLIER, (SYSTEM, *EARLIER)):
        replies = tuple(map(answer, ("An apple.", "\nA pear.", "")))
        answered = own.answered(Conversation(asked, replies).group)
        started = own.tokenizer.apply_chat_template(list(asked), add_generation_prompt=True, return_dict=False)
        assert own.prompt([as_message(said) for said in asked]).tolist() == started
        for ids, reply in zip(answered.answers, replies, strict=True):
            whole = own.tokenizer.apply_chat_template([*asked, reply], return_dict=False)
            trained = [*answered.prompt.tolist(), *ids.tolist()]
            assert trained == whole[: len(trained)] and trained[-1] == end and end not in whole[len(trained) :]


@pytest.mark.parametrize("name", NAMED)
def test_the_note_names_the_template_and_the_end(name: str) -> None:
    end = "<|im_end|>" if name == "chatml" else "</s>"
    assert template_of(tokenizer(), name).note == f"template: `{name}`; answers end with `{end}`"
    own = tokenizer()
    own.chat_template = tiny.TEMPLATE
    assert f"`{name}` in place of the model's own;" in template_of(own, name).note
    assert own.chat_template == tiny.TEMPLATE  # the tokenizer that was given is left as it is


@pytest.mark.parametrize("name", NAMED)
def test_a_text_begins_with_the_bos_where_the_tokenizer_begins_so(name: str) -> None:
    own = tokenizer()
    start = ("<s>", own.bos_token_id)
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    begun = template_of(own, name)
    ids = begun.prompt([as_message(ASKED)]).tolist()
    assert ids == [own.bos_token_id, *template_of(tokenizer(), name).prompt([as_message(ASKED)]).tolist()]
    assert "behind `<s>`, with which this tokenizer begins a text" in begun.note


def test_a_tokenizer_without_the_special_tokens_is_refused() -> None:
    """Otherwise they would be text, and no token would end an answer."""
    with pytest.raises(UserError, match=r"`<\|im_start\|>` and `<\|im_end\|>` of `chatml` are no special tokens") as e:
        template_of(made(GPT2, (), **named("</s>")), "chatml")
    assert all(name in e.value.fix for name in TEXTS) and "chatml" not in e.value.fix
    with pytest.raises(UserError, match=r"^`<\|im_start\|>` of `chatml`"):
        template_of(made(GPT2, ("<|im_end|>",), **named("</s>")), "chatml")


@pytest.mark.parametrize("name", TEXTS)
def test_a_tokenizer_without_an_eos_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="ends answers with the EOS, and this tokenizer has none"):
        template_of(made(GPT2, (), unk_token="<unk>"), name)


@pytest.mark.parametrize("name", NAMED)
def test_what_a_template_has_no_place_for_is_refused(name: str) -> None:
    own = template_of(tokenizer(), name)
    call = [{"type": "function", "function": {"name": "weather", "arguments": {}}}]
    with pytest.raises(DataError, match="does not write the tool call"):
        own.answered(Conversation((ASKED,), (answer("", tool_calls=call),)).group)
    rendered = WRITTEN[name].removesuffix("\n")
    with pytest.raises(DataError, match="rendered already"):
        own.prompt([as_message({"role": "user", "content": rendered})])


def test_a_wrong_name_is_met_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no chat template is called `chatlm`") as error:
        template_of(tokenizer(), "chatlm")
    assert error.value.fix == "did you mean `chatml`?"
    with pytest.raises(UserError) as error:
        template_of(tokenizer(), "qwerty")
    assert all(name in error.value.fix for name in ("auto", "plain", *NAMED, ".jinja"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the chat template: No such file") as error:
        template_of(tokenizer(), "none.jinja")
    assert "chatml" in error.value.fix
    (tmp_path / "latin.jinja").write_bytes(b"\xe9")
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        template_of(tokenizer(), str(tmp_path / "latin.jinja"))


def test_a_model_without_a_template_is_told_the_names() -> None:
    with pytest.raises(UserError, match="the model has no chat template") as error:
        template_of(tokenizer(), "chat")
    assert "data.template=chatml, zephyr, alpaca, human-assistant or FILE.jinja" in error.value.fix


def test_the_help_of_every_option_names_all_templates() -> None:
    """Help is read without importing this package, so its words are written there."""
    lines = [
        line
        for file in Path(prefloop.__file__).parent.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "auto, chat, plain" in line
    ]
    assert len(lines) > 5 and all(", ".join(NAMED) in line for line in lines)
