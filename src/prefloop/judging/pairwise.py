"""The question to a judge, in both orders, and its verdict (after Zheng et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefloop.judging.chat import Message

SYSTEM = (
    "You compare two answers to the same request. Judge how well each does what was asked: whether it is correct,"
    " helpful, to the point and harmless. Neither the order of the answers nor their length may decide. Give your"
    " reason in one or two sentences, then your verdict on a line of its own: [[A]] if answer A is better, [[B]] if"
    " answer B is better, [[C]] if they are equally good."
)
QUESTION = "[Request]\n{prompt}\n\n[Answer A]\n{a}\n[End of answer A]\n\n[Answer B]\n{b}\n[End of answer B]"
AGAIN = "Write only [[A]], [[B]] or [[C]]."
MARK = re.compile(r"\[\[([ABC])\]\]")
BARE = re.compile(r"\W*([ABC])\W*")
WORTH = {"A": 1.0, "B": 0.0, "C": 0.5}
Ask = Callable[[Sequence[Message]], str | None]


@dataclass(frozen=True)
class Verdict:
    """What a judge says of two answers.

    Args:
        win: 1 if the first answer is better, 0 if the second is, ½ for a tie; None without a verdict in both orders.
        orders: the same in each order, the first answer shown first, then last.
    """

    win: float | None
    orders: tuple[float | None, float | None]


def judged(ask: Ask, prompt: str, first: str, second: str) -> Verdict:
    """The verdict on two answers, each shown first once.

    A judge whose two verdicts contradict each other prefers neither: ½. So do two ties, and a tie beside a preference
    counts half of it.
    """
    shown = _asked(ask, prompt, first, second)
    swapped = _asked(ask, prompt, second, first)
    turned = None if swapped is None else 1.0 - swapped
    win = None if shown is None or turned is None else (shown + turned) / 2
    return Verdict(win, (shown, turned))


def _asked(ask: Ask, prompt: str, a: str, b: str) -> float | None:
    """The worth of answer A; a judge that gives no verdict is reminded once."""
    question = QUESTION.format(prompt=prompt, a=a, b=b)
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    said = ask(messages)
    if said is None or (worth := verdict_of(said)) is not None:
        return None if said is None else worth
    reminded = ask([*messages, {"role": "assistant", "content": said}, {"role": "user", "content": AGAIN}])
    return None if reminded is None else verdict_of(reminded)


def verdict_of(said: str) -> float | None:
    """The worth of answer A in the words of a judge: its last mark, or a bare letter; None for anything else."""
    marks = MARK.findall(said)
    if marks:
        return WORTH[marks[-1]]
    bare = BARE.fullmatch(said)
    return None if bare is None else WORTH[bare[1]]
