"""Every reward by a rule, in one table for all worlds: a new one is a function and a row here, and nothing else.

The positional arguments of a rule say what it reads: `tokens`, or `response`, or `prompt` and `response`. Its
keyword-only arguments are its options, whose types say their ranges. See `scorers` for what turns a rule into scores.
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
    """A reward that is known exactly.

    Args:
        score: of tokens [...], a reward each; or of one text or two, a number.
        summary: what is better, in a few words.
        unit: of the reward.
        ceiling: the highest reward there is, or the least number that no reward exceeds.
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
    """−|tokens − target| / scale: the one formula of all rewards of length, linear on both sides of its peak at 0."""
    return -(tokens - target).abs() / scale


def length_min(tokens: Int[Tensor, "*B"], *, scale: OnePositive = 10.0) -> Float[Tensor, "*B"]:
    """−tokens / scale, EOS included.

    Linear, so that a token less is worth the same everywhere and nothing saturates: a response of 64 tokens has −6.4
    and one of 14 tokens −1.4 at the default scale.

    Args:
        scale: tokens that are worth one unit of reward.
    """
    return off_target(tokens, 0, scale)


def length_mode(tokens: Int[Tensor, "*B"], *, target: Count, scale: OnePositive = 10.0) -> Float[Tensor, "*B"]:
    """−|tokens − target| / scale, EOS included; 0 at the peak.

    Args:
        target: tokens of the best response.
        scale: tokens off the target that cost one unit of reward.
    """
    return off_target(tokens, target, scale)


def keyword(response: str, *, word: str = "best") -> float:
    """1 where the word occurs, upper or lower case, else 0."""
    return float(word.lower() in words(response))


def repetition(response: str) -> float:
    """Minus the share of words that came before in the text; 0 for no words."""
    each = words(response)
    return (len(set(each)) - len(each)) / len(each) if each else 0.0


def sentiment(response: str) -> float:
    """VADER's compound score in [−1, 1], 0 for no words (Hutto & Gilbert 2014).

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
        words: of the best sentence.
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
