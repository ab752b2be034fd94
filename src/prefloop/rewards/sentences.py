"""Whether an answer is one complete sentence about the question: a score by rules that a reader can check by eye."""

from __future__ import annotations

import re

WORDS = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
END = re.compile(r"[.!][\"”’')\]]*$")  # a question is no answer
BREAK = re.compile(r"[.!?:][\"”’')\]]*\s+(?=[\"“‘'(\[]*[A-Z0-9])|\s*\n\s*")
STEM = 4  # letters of a word that are compared, so that `wash`, `washed` and `washing` are one
ENOUGH = 2  # words of the question that an answer should take up
COMMON = frozenset(
    WORDS.findall("""
    about after again also another answer because been before being between both brief briefly could describe
    does doing each even ever every explain from give good have having help here into just keep kind know like
    line made make many mean might more most much must name need never only other over phrase please reply same
    sentence short should simple single some something such suggest sure tell than that their them then there
    these they thing think this those time turn very want well were what when where which while will with
    without word words would write your
    """)
)  # words of four letters or more that say nothing about the topic of an instruction


def one_sentence(prompt: str, response: str, *, words: int = 12) -> float:
    """How nearly a response is one complete sentence of about `words` words on the topic of the prompt, in [0, 1].

    (2 · whole + length + topic) / 4, with `whole` 1/n for n sentences whose last one ends with a full stop or an
    exclamation mark, and 0 without such an end; `length` 1 − |w − words| / words for w words, at least 0; `topic` the
    share of two content words of the prompt that the response takes up (of one, where the prompt has one; 1 where it
    has none).

    Args:
        prompt: what the user said.
        response: the text without special tokens.
        words: of the best sentence.
    """
    return (2 * whole(response) + length(response, words) + topic(prompt, response)) / 4


def whole(response: str) -> float:
    """1/n for a text of n sentences whose last one is finished, else 0."""
    text = response.strip()
    return 1 / (1 + len(BREAK.findall(text))) if END.search(text) else 0.0


def length(response: str, words: int) -> float:
    """1 at the wanted number of words, falling linearly to 0 at none and at twice as many."""
    return max(0.0, 1 - abs(len(WORDS.findall(response)) - words) / words)


def topic(prompt: str, response: str) -> float:
    """Share of the content words of the prompt, at most two, that occur in the response."""
    asked = stems(prompt)
    return min(1.0, len(asked & stems(response)) / min(ENOUGH, len(asked))) if asked else 1.0


def stems(text: str) -> set[str]:
    """First letters of the content words, in lower case."""
    words = (word.lower() for word in WORDS.findall(text))
    return {word[:STEM] for word in words if len(word) >= 4 and word not in COMMON}
