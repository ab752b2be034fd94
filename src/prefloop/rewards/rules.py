"""The table of rule-based rewards, for all worlds: a new one needs only a function and an entry here.

The positional arguments of a rule name its inputs: `tokens`, or `response`, or `prompt` and `response`. Its
keyword-only arguments are its options, with ranges given by their types. `scorers` turns a rule into scores.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from prefloop.core.errors import UserError
from prefloop.core.ranges import Count, OnePositive
from prefloop.rewards import sentences

VADER_INSTALL = "pip install vaderSentiment"
WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Rule:
    """An exactly known reward.

    Args:
        score: maps tokens [...] to rewards [...], or one or two texts to a number.
        summary: which responses are better, in a few words.
        unit: unit of the reward.
        ceiling: the least upper bound of the reward.
    """

    score: Callable[..., Any]
    summary: str
    unit: str
    ceiling: float

    @property
    def name(self) -> str:
        return self.score.__name__

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the positional arguments."""
        parameters = inspect.signature(self.score).parameters.values()
        return tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)


def off_target(
    tokens: Int[Tensor, "*B"], target: int | Float[Tensor, "*#B"], scale: float | Float[Tensor, "*#B"]
) -> Float[Tensor, "*B"]:
    """−|tokens − target| / scale: the formula of all length rewards, linear on both sides of its peak of 0."""
    return -(tokens - target).abs() / scale


def length_min(tokens: Int[Tensor, "*B"], *, scale: OnePositive = 10.0) -> Float[Tensor, "*B"]:
    """−tokens / scale, EOS included.

    Linear, so that each token costs the same and nothing saturates: at the default scale a response of 64 tokens has
    −6.4 and one of 14 tokens −1.4.

    Args:
        scale: number of tokens worth one unit of reward.
    """
    return off_target(tokens, 0, scale)


def length_mode(tokens: Int[Tensor, "*B"], *, target: Count, scale: OnePositive = 10.0) -> Float[Tensor, "*B"]:
    """−|tokens − target| / scale, EOS included; 0 at the peak.

    Args:
        target: length of the best response in tokens.
        scale: distance from the target, in tokens, that costs one unit of reward.
    """
    return off_target(tokens, target, scale)


def keyword(response: str, *, word: str = "best") -> float:
    """1 if the word occurs, in upper or lower case, otherwise 0."""
    return float(word.lower() in words(response))


def repetition(response: str) -> float:
    """Minus the share of words that occurred earlier in the text; 0 without words."""
    each = words(response)
    return (len(set(each)) - len(each)) / len(each) if each else 0.0


def sentiment(response: str) -> float:
    """VADER's compound score in [−1, 1], 0 without words (Hutto & Gilbert 2014).

    Raises:
        UserError: vaderSentiment is not installed.
    """
    return float(vader().polarity_scores(response)["compound"])


def words(text: str) -> list[str]:
    """Runs of letters, in lower case."""
    return WORD.findall(text.lower())


@cache
def vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ModuleNotFoundError as error:
        raise UserError("the reward `sentiment` needs the package vaderSentiment", fix=VADER_INSTALL) from error
    return SentimentIntensityAnalyzer()


def one_sentence(prompt: str, response: str, *, words: Count = 12) -> float:
    """See `sentences.one_sentence`.

    Args:
        words: length of the best sentence in words.
    """
    return sentences.one_sentence(prompt, response, words=words)


RULES = {
    rule.name: rule
    for rule in (
        Rule(length_min, "shorter is better", "tokens / scale", 0.0),
        Rule(length_mode, "close to `target` tokens is better", "tokens / scale", 0.0),
        Rule(one_sentence, "one complete sentence of about `words` words, on the topic of the prompt", "0 to 1", 1.0),
        Rule(sentiment, "friendlier words are better, by VADER", "−1 to 1", 1.0),
        Rule(keyword, "the word `word` occurs", "0 or 1", 1.0),
        Rule(repetition, "fewer repeated words are better", "share of words, negative", 0.0),
    )
}
