"""Conversations that chat templates are tried on, and what they need of a template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.policies.chat_family import Family

from prefloop.data.records import Group, Message, message

Said = dict[str, Any]  # a message as chat templates take it

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@dataclass(frozen=True)
class Conversation:
    """A prompt with given answers.

    Args:
        needs: what a template must keep; see `Family.keeps`.
    """

    prompt: tuple[Said, ...]
    answers: tuple[Said, ...]
    tools: list[Said] | None = None
    needs: str = ""

    @property
    def group(self) -> Group:
        answers = [as_message(said) for said in self.answers]
        more = tuple(m.more for m in answers) if any(m.more for m in answers) else ()
        texts, prompt = tuple(m.content for m in answers), tuple(map(as_message, self.prompt))
        return Group(prompt, texts, None, "key", 3, more, json.dumps(self.tools) if self.tools else "")


def as_message(said: Said) -> Message:
    return message(said["role"], said["content"], {k: v for k, v in said.items() if k not in ("role", "content")})


def user(content: str) -> Said:
    return {"role": "user", "content": content}


def answer(content: str, **more: Any) -> Said:
    return {"role": "assistant", "content": content, **more}


def call(family: Family) -> list[Said]:
    """A tool call in the form that the family's template takes."""
    arguments: Any = {"city": "Paris"}
    if family.text_calls:
        arguments = json.dumps(arguments)
    return [{"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": arguments}}]


ASKED = user("Name a fruit.")
SYSTEM = {"role": "system", "content": "Be brief."}
APPLE = answer("An apple.")
EARLIER = (ASKED, APPLE, user("Another?"))
THOUGHT = answer("<think>\nWhich one?\n</think>\n\nAn apple.")
SPELLED = "Write </s>, <|im_end|>, <eos>, <|eot_id|>, <end_of_turn>, <unk> or <|endoftext|> there."


def conversations(family: Family) -> dict[str, Conversation]:
    called = call(family)
    told = {"role": "tool", "name": "weather", "content": "Sunny, 21", "tool_call_id": "abcdefghi"}
    return {
        "one turn": Conversation((ASKED,), (APPLE,)),
        "several turns": Conversation(EARLIER, (answer("A pear."),)),
        "system": Conversation((SYSTEM, ASKED), (APPLE,), needs="system"),
        "system, several turns": Conversation((SYSTEM, *EARLIER), (answer("A pear."),), needs="system"),
        "group": Conversation((ASKED,), (APPLE, answer("A pear."), answer("An apricot is one."), answer(""))),
        "empty": Conversation((ASKED,), (answer(""),)),
        "starts with a line break": Conversation((ASKED,), (answer("\nAn apple."),)),
        "line breaks around": Conversation((ASKED,), (answer("\n\n\nAn apple.\n\n"),)),
        "spaces around": Conversation((ASKED,), (answer("  An apple. "),)),
        "unicode": Conversation((user("Ça va\u00a0? 你好"),), (answer("Ein Äpfel 🍎 — 苹果\u200d."),)),
        "tags": Conversation((ASKED,), (THOUGHT,), needs="tags"),
        "tags in one line": Conversation((ASKED,), (answer("<think>Which one?</think>An apple."),), needs="tags"),
        "with and without tags": Conversation((ASKED,), (THOUGHT, answer("A pear.")), needs="tags"),
        "key": Conversation((ASKED,), (answer("An apple.", reasoning_content="Which one?"),), needs="key"),
        "tags in history": Conversation((ASKED, THOUGHT, user("Another?")), (answer("A pear."),)),
        "key in history": Conversation((ASKED, APPLE | {"reasoning_content": "Hm."}, user("Why?")), (APPLE,)),
        "tools": Conversation((ASKED,), (APPLE,), TOOLS, "tools"),
        "call": Conversation((ASKED,), (answer("", tool_calls=called),), TOOLS, "tools calls"),
        "call with content": Conversation(
            (ASKED,), (answer("Let me look.", tool_calls=called),), TOOLS, "tools calls content"
        ),
        "call with reasoning": Conversation(
            (ASKED,), (answer("", tool_calls=called, reasoning_content="Which tool?"),), TOOLS, "tools calls key both"
        ),
        "result": Conversation(
            (ASKED, answer("", tool_calls=called), told), (answer("It is sunny."),), TOOLS, "tools calls results"
        ),
        "spelled": Conversation((user("What is </s>?"),), (answer(SPELLED),)),
    }
