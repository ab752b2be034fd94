"""Groups of responses to one prompt as read from files: text, not tokens."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prefloop.core.errors import UserError


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str  # system, user, assistant or tool
    content: str


@dataclass(frozen=True)
class Group:
    """The responses to one prompt; a pair has two, an unpaired label one, a bare prompt none."""

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    scores: (
        tuple[float, ...] | None
    )  # one per response: (1, 0) for a pair, ±1 for a label, or ratings; None if there are none
    key: str  # groups with equal keys are on the same side of a split
    row: int  # its line or row in the file, from 1

    @property
    def text(self) -> str:
        return prompt_text(self.prompt)


def prompt_text(prompt: Sequence[Message]) -> str:
    """A prompt as one text: the content of a single message, or `role: content` lines of a conversation."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{m.role}: {m.content}" for m in prompt)


def first_responses(groups: Sequence[Group], count: int) -> list[Group]:
    """The groups with at most the first `count` responses each."""
    cut = [None if g.scores is None else g.scores[:count] for g in groups]
    return [replace(g, responses=g.responses[:count], scores=s) for g, s in zip(groups, cut, strict=True)]


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
