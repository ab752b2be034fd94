"""Token ids of conversations: what is trained is what the family's own template renders, id by id, or it is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policies.chat_conversations import (
    APPLE,
    ASKED,
    SPELLED,
    TOOLS,
    Conversation,
    Said,
    answer,
    as_message,
    conversations,
    user,
)
from tests.policies.chat_expected import expected, refused, rendered, template
from tests.policies.chat_templates import FAMILIES

from prefloop.core.errors import DataError
from prefloop.policies.agreement import TAG
from prefloop.policies.conversation import Answered, template_of
from prefloop.policies.rendering import MARK

NAMES = sorted(FAMILIES)
CONVERSATIONS = list(conversations(FAMILIES["chatml"]))
REASONS = (
    "drops", "rejects the messages", "does not write", "does not render an answered conversation",
    "puts the answer into",
)  # fmt: skip


def whole(answered: Answered, number: int) -> list[int]:
    return [*answered.prompt.tolist(), *answered.answers[number].tolist()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", [case for case in CONVERSATIONS if case != "spelled"])
def test_trained_ids_are_those_of_the_answered_conversation(name: str, case: str) -> None:
    family = FAMILIES[name]
    told = conversations(family)[case]
    own = template(family)
    if refused(family, told):
        with pytest.raises(DataError) as error:
            own.answered(told.group)
        assert any(reason in str(error.value) for reason in REASONS)
        assert "row 3" in str(error.value)
        return
    answered = own.answered(told.group)
    for number, said in enumerate(told.answers):
        assert whole(answered, number) == expected(family, told, said)
        ids = answered.answers[number].tolist()
        assert ids[-1] in own.ends
        assert not own.ends.intersection(ids[:-1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["one turn", "several turns", "system", "tools", "result", "key in history"])
def test_prompts_are_the_generation_prompts_of_the_template(name: str, case: str) -> None:
    family = FAMILIES[name]
    told = conversations(family)[case]
    if not set(told.needs.split()) <= {*family.keeps.split(), *(("system",) if name == "mistral-v3" else ())}:
        return
    ids = template(family).prompt(told.group.prompt, told.group.tools).tolist()
    own = rendered(family, told.prompt, told.tools, tokenize=True, add_generation_prompt=True)
    if name == "chatml-without-prompt":
        own += family.tokenizer.encode("<|im_start|>assistant\n")
    assert ids == own
    bos = family.tokenizer.bos_token_id
    assert bos is None or bos in (family.tokenizer.eos_token_id, *own[1:]) or ids.count(bos) == own.count(bos) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_spelled_in_a_text_are_text(name: str) -> None:
    family = FAMILIES[name]
    tokenizer, own = family.tokenizer, template(family)
    told = conversations(family)["spelled"]
    if refused(family, told):
        return
    answered = own.answered(told.group)
    plain = own.answered(conversations(family)["one turn"].group)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert [i for i in whole(answered, 0) if i in special] == [i for i in whole(plain, 0) if i in special]
    assert SPELLED in own.text(answered.answers[0].tolist())
    assert "What is </s>?" in own.text(answered.prompt.tolist())


@pytest.mark.parametrize("name", NAMES)
def test_answers_of_a_group_share_one_prompt_and_start_without_a_space(name: str) -> None:
    family = FAMILIES[name]
    told = conversations(family)["group"]
    if refused(family, told):
        return
    own = template(family)
    answered = own.answered(told.group)
    alone = [own.answered(Conversation(told.prompt, (said,)).group) for said in told.answers]
    assert [whole(answered, n) for n in range(len(alone))] == [whole(one, 0) for one in alone]
    texts = [own.text(ids.tolist()) for ids in answered.answers]
    assert not any(text.startswith("  ") for text in texts)


def test_the_end_is_the_token_that_the_template_writes() -> None:
    for family in FAMILIES.values():
        own, ids = template(family), family.tokenizer.convert_tokens_to_ids
        assert own.end == ids(family.end or family.named["eos_token"])
        assert {own.end, family.tokenizer.eos_token_id} <= own.ends


def test_answers_end_where_the_policy_stops() -> None:
    family = FAMILIES["gpt-oss"]
    told = conversations(family)["call"]
    with pytest.raises(DataError, match=r"<\|call\|>, at which the policy does not stop"):
        template_of(family.tokenizer).answered(told.group)


@pytest.mark.parametrize("content", ["<|im_start|>assistant\nAn apple.<|im_end|>", "An apple.<|im_end|>\n"])
def test_answers_that_are_rendered_already_are_refused(content: str) -> None:
    with pytest.raises(DataError, match="the answer is rendered already"):
        template(FAMILIES["chatml"]).answered(Conversation((ASKED,), (answer(content),)).group)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chatml", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        ("llama-2", "<s>[INST] Hi [/INST]"),
        ("vicuna", "USER: Hi ASSISTANT:"),
        ("gemma-3", "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"),
    ],
)
def test_prompts_that_are_rendered_already_are_refused(name: str, content: str) -> None:
    with pytest.raises(DataError, match="the prompt is rendered already"):
        template(FAMILIES[name]).prompt([as_message(user(content))])


@pytest.mark.parametrize("name", ["qwen3", "qwen2.5", "llama-3.1", "deepseek-v3.1", "command-r7b"])
def test_arguments_of_calls_may_be_objects_or_json_text(name: str) -> None:
    family = FAMILIES[name]
    forms = ({"city": "Paris"}, '{"city": "Paris"}')
    calls = [[{"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": x}}] for x in forms]
    tools = TOOLS if "tools" in family.keeps else None
    told = [Conversation((ASKED,), (answer("", tool_calls=call),), tools).group for call in calls]
    first, second = (whole(template(family).answered(group), 0) for group in told)
    assert first == second
    assert '\\"' not in family.tokenizer.decode(first)


def test_a_template_that_ignores_calls_or_tools_is_refused() -> None:
    family = FAMILIES["lfm2"]
    with pytest.raises(DataError, match="does not write the tool call `weather`"):
        template(family).answered(conversations(family)["call"].group)
    family = FAMILIES["deepseek-r1"]
    with pytest.raises(DataError, match="does not write the tools"):
        template(family).prompt(
            conversations(family)["result"].group.prompt, conversations(family)["result"].group.tools
        )


def test_reasoning_of_another_family_is_not_put_into_a_second_pair_of_tags() -> None:
    told = Conversation((ASKED,), (answer("[THINK]Which one?[/THINK]An apple."),))
    with pytest.raises(DataError, match="adds <think> to an answer that has its own"):
        template(FAMILIES["qwen3"]).answered(told.group)


def test_a_private_character_of_a_text_is_kept_or_refused() -> None:
    own = template(FAMILIES["qwen3"])
    kept = own.answered(Conversation((ASKED,), (answer("\ue000 apple <|im_end|>."),)).group)
    assert "\ue000 apple <|im_end|>." in own.text(kept.answers[0].tolist())
    with pytest.raises(DataError, match="private character"):
        own.answered(Conversation((ASKED,), (answer(f"{MARK} apple"),)).group)


@pytest.mark.parametrize("name", NAMES)
def test_a_short_message_is_not_found_elsewhere(name: str) -> None:
    """A system message of one word occurs in many renderings that drop it."""
    family = FAMILIES[name]
    for word in ("a", "user", "Name a fruit."):
        told = Conversation(({"role": "system", "content": word}, ASKED), (APPLE,))
        if "system" not in family.keeps.split():
            with pytest.raises(DataError, match=r"drops|rejects|does not render"):
                template(family).answered(told.group)
        elif not family.always_thinks:
            assert whole(template(family).answered(told.group), 0) == expected(family, told, APPLE)


def called(**arguments: str) -> list[Said]:
    return [{"function": {"name": "s", "arguments": arguments}}]


QUESTION, CALLS = user("Yes?"), "{% for c in m.tool_calls or [] %}"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "{% if loop.index0 != 2 %}{{ m.content }}{% endif %}",
            Conversation((QUESTION, answer("I"), QUESTION, answer("No."), user("Why?")), (APPLE,)),
        ),
        (
            "{% if not m.tool_calls %}{{ m.content }}{% endif %}" + CALLS + "{{ c.function.name }}{% endfor %}",
            Conversation((QUESTION,), (answer("m", tool_calls=called()),)),
        ),
        (
            "{{ m.content }}" + CALLS + "{{ c.function.name }}{% endfor %}",
            Conversation((QUESTION,), (answer("Yes.", tool_calls=called(s="Y")),)),
        ),
        (
            "{{ m.content }}" + CALLS + "{{ c.function.arguments | tojson }}{% endfor %}",
            Conversation((QUESTION,), (answer("", tool_calls=called(city="Rose")),)),
        ),
        ("{{ m.content.split('</think>')[-1] }}", Conversation((QUESTION,), (answer("<think>s</think>Yes."),))),
        ("{{ m.content }}", Conversation((QUESTION,), (answer("Yes.", reasoning_content="Y"),))),
    ],
)
def test_a_short_part_is_not_found_elsewhere(body: str, told: Conversation) -> None:
    """A turn, the text beside a call, its arguments, its name, and reasoning, which a template drops."""
    turns = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}" + body + "{{ '<|im_end|>\n' }}{% endfor %}"
    asked = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    with pytest.raises(DataError, match="the chat template drops"):
        template(replace(FAMILIES["chatml"], template=turns + asked)).answered(told.group)


PARTS = (
    *(
        "<think>",
        "</think>",
        "[THINK]",
        "<|im_end|>",
        "</s>",
        "<eos>",
        "[INST]",
        "<unk>",
        "<|end|>",
        "\n",
        "\n\n",
        "  ",
    ),
    *("a", "An apple.", "é", "🍎", "{{ x }}", "\u200d", "\ue000", "<", "|", "Answer.", "Question?", "\\n", '"', "\t"),
)
TEXTS = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(NAMES), TEXTS, TEXTS, TEXTS)
def test_any_text_is_trained_as_it_is_rendered_or_refused(name: str, asked: str, said: str, other: str) -> None:
    family = FAMILIES[name]
    own, tokenizer = template(family), family.tokenizer
    pair = Conversation((user(f"Q {asked}"),), (answer(said), answer(other)))
    try:
        answered = own.answered(pair.group)
    except DataError:
        return
    names = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for number, reply in enumerate(pair.answers):
        ids = whole(answered, number)
        assert ids[-1] in own.ends
        assert not own.ends.intersection(answered.answers[number].tolist()[:-1])
        if any(token in reply["content"] or token in asked for token in names) or family.continues:
            written = "".join(TAG.split(reply["content"])[-1].split())
            assert written in "".join(own.text(ids).split())
        else:
            assert ids == expected(family, pair, reply)


def test_many_groups_at_once_are_as_each_alone() -> None:
    family = FAMILIES["qwen3"]
    own, told = template(family), conversations(family)
    groups = [told[case].group for case in ("one turn", "spelled", "group", "call", "key", "tools")]
    for group, made in zip(groups, own.answered_all(groups), strict=True):
        alone = own.answered(group)
        assert made.prompt.tolist() == alone.prompt.tolist()
        assert [ids.tolist() for ids in made.answers] == [ids.tolist() for ids in alone.answers]
