"""What a family's own template makes of a conversation, rendered here without Prefloop."""

from __future__ import annotations

from typing import Any

from tests.policies.chat_conversations import Conversation, Said
from tests.policies.chat_family import Family

from prefloop.policies.conversation import Template, template_of


def template(family: Family) -> Template:
    stops = [family.tokenizer.convert_tokens_to_ids(family.call_end)] if family.call_end else []
    return template_of(family.tokenizer, options=family.options, stops=stops)


def rendered(family: Family, said: tuple[Said, ...], tools: Any, **kind: Any) -> Any:
    """What the tokenizer itself makes of a conversation."""
    return family.tokenizer.apply_chat_template(list(said), tools=tools, return_dict=False, **family.options, **kind)


def expected(family: Family, told: Conversation, said: Said) -> list[int]:
    """The ids of the answered conversation up to the token that ends it."""
    tokenizer = family.tokenizer
    whole = rendered(family, (*told.prompt, said), told.tools, tokenize=False)
    if family.continues and said["content"].startswith("<think>"):
        asked = rendered(family, told.prompt, told.tools, tokenize=False, add_generation_prompt=True)
        end = whole[whole.rfind("An apple.") + len("An apple.") :]
        whole = asked + said["content"].removeprefix("<think>").lstrip("\n" if asked.endswith("\n") else "") + end
    if family.end is None:
        return [*tokenizer.encode(whole.rstrip(), add_special_tokens=False), tokenizer.eos_token_id]
    ids = tokenizer.encode(whole, add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids((family.call_end if "tool_calls" in said else None) or family.end)
    last = len(ids) - 1 - ids[::-1].index(end)
    return ids[: last + 1]


def refused(family: Family, told: Conversation) -> bool:
    keeps = set(family.keeps.split())
    thinks = all("<think>" in said["content"] for said in told.answers)
    return not set(told.needs.split()) <= keeps or (family.always_thinks and not thinks)
