"""Whether an answer is one complete sentence about the question: a score by rules that are easy to check by eye."""

from __future__ import annotations

import re

WORDS = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
END = re.compile(r"[.!][\"”’')\]]*$")  # a question does not count as an answer
BREAK = re.compile(r"[.!?:][\"”’')\]]*\s+(?=[\"“‘'(\[]*[A-Z0-9])|\s*\n\s*")
STEM = 4  # number of letters of a word that are compared, so that `wash`, `washed` and `washing` match
ENOUGH = 2  # number of words of the question that an answer should repeat
COMMON = frozenset(
    WORDS.findall("""
    about after again also another answer because been before being between both brief briefly could describe
    does doing each even ever every explain from give good have having help here into just keep kind know like
    line made make many mean might more most much must name need never only other over phrase please reply same
    sentence short should simple single some something such suggest sure tell than that their them then there
    these they thing think this those time turn very want well were what when where which while will with
    without word words would write your
    """)
)  # words of four or more letters that carry no information about the topic


def one_sentence(prompt: str, response: str, *, words: int = 12) -> float:
    """How close a response is to one complete sentence of about `words` words on the topic of the prompt, in [0, 1].

    (2 · whole + length + topic) / 4: `whole` is 1/n for n sentences of which the last ends with a full stop or an
    exclamation mark, otherwise 0; `length` is 1 − |w − words| / words for w words, at least 0; `topic` is the number of
    content words of the prompt that the response repeats, as a share of two (of one if the prompt has one; 1 if none).

    Args:
        prompt: the user's message.
        response: the text without special tokens.
        words: length of the best sentence in words.
    """
    return (2 * whole(response) + length(response, words) + topic(prompt, response)) / 4


def whole(response: str) -> float:
    """1/n for a text of n sentences of which the last is finished, otherwise 0."""
    text = response.strip()
    return 1 / (1 + len(BREAK.findall(text))) if END.search(text) else 0.0


def length(response: str, words: int) -> float:
    """1 at the target number of words, falling linearly to 0 at none and at twice the target."""
    return max(0.0, 1 - abs(len(WORDS.findall(response)) - words) / words)


def topic(prompt: str, response: str) -> float:
    """Share of the content words of the prompt (two at most) that occur in the response."""
    asked = stems(prompt)
    return min(1.0, len(asked & stems(response)) / min(ENOUGH, len(asked))) if asked else 1.0


def stems(text: str) -> set[str]:
    """First letters of the content words, in lower case."""
    words = (word.lower() for word in WORDS.findall(text))
    return {word[:STEM] for word in words if len(word) >= 4 and word not in COMMON}
