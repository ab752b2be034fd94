"""Groups of responses to one prompt as read from files: text, not tokens."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prefloop.core.errors import UserError

More = tuple[tuple[str, str], ...]  # further keys of a message and their values as JSON


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str  # system, user, assistant or tool
    content: str
    more: More = ()  # tool_calls, reasoning_content, name, …

    @property
    def plain(self) -> dict[str, Any]:
        """The message as a chat template takes it."""
        return {"role": self.role, "content": self.content, **{key: json.loads(value) for key, value in self.more}}


def message(role: str, content: str, more: Mapping[str, Any] | None = None) -> Message:
    """A message with further keys."""
    return Message(role, content, tuple((k, json.dumps(v, ensure_ascii=False)) for k, v in (more or {}).items()))


@dataclass(frozen=True)
class Group:
    """The responses to one prompt; a pair has two, an unpaired label one, a bare prompt none."""

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    scores: tuple[float, ...] | None  # one per response: pairs 1 and 0 (ties ½, annotators: shares), labels ±1, ratings
    key: str  # groups with equal keys are on the same side of a split
    row: int  # its line or row in the file, from 1
    more: tuple[More, ...] = ()  # further keys of each response's message; empty if no response has any
    tools: str = ""  # schemas of the tools that the conversation may call, as JSON; empty if there are none
    columns: Mapping[str, Any] = field(default_factory=dict)  # the row's other columns, for rewards

    @property
    def text(self) -> str:
        return prompt_text(self.prompt)

    @property
    def answers(self) -> tuple[Message, ...]:
        """The responses as messages of the assistant."""
        more = self.more or ((),) * len(self.responses)
        return tuple(Message("assistant", text, own) for text, own in zip(self.responses, more, strict=True))


def prompt_text(prompt: Sequence[Message]) -> str:
    """A prompt as one text: the content of a single message, or `role: content` lines of a conversation."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{m.role}: {m.content}" for m in prompt)


def system(group: Group) -> str:
    """The system message of a group; empty if it has none."""
    return group.prompt[0].content if group.prompt[0].role == "system" else ""


def first_responses(groups: Sequence[Group], count: int) -> list[Group]:
    """The groups with at most the first `count` responses each."""
    cut = [None if g.scores is None else g.scores[:count] for g in groups]
    return [
        replace(g, responses=g.responses[:count], scores=s, more=g.more[:count])
        for g, s in zip(groups, cut, strict=True)
    ]


def spread(groups: Sequence[Group]) -> list[Group]:
    """The first group of every question, then the second of every question, …: for prefixes with many questions."""
    seen: Counter[str] = Counter()
    turn = []
    for group in groups:
        turn.append(seen[group.key])
        seen[group.key] += 1
    return [groups[i] for i in sorted(range(len(groups)), key=lambda i: turn[i])]


def with_system(system: str | None, groups: Sequence[Group]) -> list[Group]:
    """The groups with a system message added to every prompt that has none; None adds nothing."""
    if system is None:
        return list(groups)
    first = Message("system", system)
    return [g if g.prompt[0].role == "system" else replace(g, prompt=(first, *g.prompt)) for g in groups]


def split(groups: Sequence[Group], held_out_share: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Train and held-out groups; equal keys are always on the same side.

    The side depends on seed and key only: it does not change when rows are added, removed or shuffled.

    Args:
        held_out_share: expected share of the keys that are held out, in [0, 1].

    Raises:
        UserError: the share is out of range.
    """
    if not 0 <= held_out_share <= 1:
        raise UserError(f"the held-out share cannot be {held_out_share}", fix="use a share between 0 and 1")
    sides: tuple[list[Group], list[Group]] = ([], [])
    for group in groups:
        sides[_uniform(group.key, seed) < held_out_share].append(group)
    return sides


def _uniform(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on key and seed only."""
    digest = hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
