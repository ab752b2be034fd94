r"""Conversations in one text: `\n\nHuman: … \n\nAssistant: …` (Bai et al. 2022) and its other spellings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from prefloop.data.formats.row import Prompt
from prefloop.data.records import Message

SPEAKERS = {"Human": "Assistant", "H": "A", "User": "Assistant", "USER": "ASSISTANT", "HUMAN": "ASSISTANT"}
START = re.compile(rf"\s*({'|'.join(SPEAKERS)}):")
CANONICAL = "\n\nHuman:"


@dataclass(frozen=True)
class Transcript:
    """The turns of a text that begins like a transcript."""

    turns: Prompt  # an `Assistant:` at the end, which only asks for an answer, is left out
    opened: bool  # whether there was one
    canonical: bool  # begins with a blank line and `Human:`, as the file of its authors
    spelling: str  # such as `Human:`

    @property
    def alternates(self) -> bool:
        """Whether user and assistant take turns and none of them is silent."""
        roles = [m.role for m in self.turns]
        takes_turns = all(role == ("user", "assistant")[i % 2] for i, role in enumerate(roles))
        return len(roles) > 0 and takes_turns and all(m.content for m in self.turns)

    @property
    def is_prompt(self) -> bool:
        """Whether it can be nothing but a conversation that waits for an answer."""
        waits = bool(self.turns) and self.turns[-1].role == "user"
        blank_lines = self.spelling == "Human:" and len(self.turns) > 1
        return self.canonical or (self.alternates and waits and (self.opened or blank_lines))

    @property
    def is_answered(self) -> bool:
        """Whether it can be a conversation that ends with an answer."""
        answered = len(self.turns) > 1 and self.turns[-1].role == "assistant" and bool(self.turns[-1].content)
        return answered and (self.canonical or self.alternates)


def transcript(text: str) -> Transcript | None:
    """The turns of a text; None if it does not begin with the name of a speaker."""
    start = START.match(text)
    if start is None:
        return None
    user, canonical = start[1], text.startswith(CANONICAL)
    blank = canonical or f"\n\n{SPEAKERS[user]}:" in text
    pieces = _turn(user, blank).split(text)[1:]
    turns = [
        Message("user" if speaker == user else "assistant", said.strip())
        for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    opened = turns[-1] == Message("assistant", "")
    return Transcript(tuple(turns[:-1] if opened else turns), opened, canonical, f"{user}:")


@cache
def _turn(user: str, blank: bool) -> re.Pattern[str]:
    between = r"\n\n" if blank else r"\n"
    return re.compile(rf"(?:\A\s*|{between})({user}|{SPEAKERS[user]}):")
