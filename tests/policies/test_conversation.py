"""Token ids of conversations: what is trained is what the family's own template renders, id by id, or it is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.policies.chat_conversations import Conversation, Said, conversations
from tests.policies.chat_family import Family
from tests.policies.chat_templates import FAMILIES

from prefloop.core.errors import DataError
from prefloop.policies.conversation import Answered, Template, template_of

NAMES = sorted(FAMILIES)
CONVERSATIONS = list(conversations(FAMILIES["chatml"]))
REASONS = (
    "drops", "rejects the messages", "does not write", "does not render an answered conversation",
    "puts the answer into",
)  # fmt: skip


def template(family: Family) -> Template:
    stops = [family.tokenizer.convert_tokens_to_ids(family.call_end)] if family.call_end else []
    return template_of(family.tokenizer, options=family.options, stops=stops)


def rendered(family: Family, said: tuple[Said, ...], tools: Any, **kind: Any) -> Any:
    """What the tokenizer itself makes of a conversation."""
    return family.tokenizer.apply_chat_template(list(said), tools=tools, return_dict=False, **family.options, **kind)


def expected(family: Family, given: Conversation, said: Said) -> list[int]:
    """The ids of the answered conversation up to the token that ends it."""
    tokenizer = family.tokenizer
    whole = rendered(family, (*given.prompt, said), given.tools, tokenize=False)
    if family.continues and said["content"].startswith("<think>"):
        asked = rendered(family, given.prompt, given.tools, tokenize=False, add_generation_prompt=True)
        end = whole[whole.rfind("An apple.") + len("An apple.") :]
        whole = asked + said["content"].removeprefix("<think>").lstrip("\n" if asked.endswith("\n") else "") + end
    if family.end is None:
        return [*tokenizer.encode(whole.rstrip(), add_special_tokens=False), tokenizer.eos_token_id]
    ids = tokenizer.encode(whole, add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids((family.call_end if "tool_calls" in said else None) or family.end)
    last = len(ids) - 1 - ids[::-1].index(end)
    return ids[: last + 1]


def refused(family: Family, given: Conversation) -> bool:
    keeps = set(family.keeps.split())
    thinks = all("<think>" in said["content"] for said in given.answers)
    return not set(given.needs.split()) <= keeps or (family.always_thinks and not thinks)


def whole(answered: Answered, number: int) -> list[int]:
    return [*answered.prompt.tolist(), *answered.answers[number].tolist()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", [case for case in CONVERSATIONS if case != "spelled"])
def test_trained_ids_are_those_of_the_answered_conversation(name: str, case: str) -> None:
    family = FAMILIES[name]
    given = conversations(family)[case]
    own = template(family)
    if refused(family, given):
        with pytest.raises(DataError) as error:
            own.answered(given.group)
        assert any(reason in str(error.value) for reason in REASONS)
        assert "row 3" in str(error.value)
        return
    answered = own.answered(given.group)
    for number, said in enumerate(given.answers):
        assert whole(answered, number) == expected(family, given, said)
        answer = answered.answers[number].tolist()
        assert answer[-1] in own.ends
        assert not own.ends.intersection(answer[:-1])
