"""Gold rewards of a response's words: pure functions of its text."""

from __future__ import annotations

import re
from collections.abc import Callable

from prefloop.core.errors import UserError

VADER_INSTALL = "pip install vaderSentiment"
WORD = re.compile(r"[^\W\d_]+")


def keyword(text: str, word: str = "best") -> float:
    """1 where the word occurs, upper or lower case, else 0."""
    return float(word.lower() in words(text))


def repetition(text: str) -> float:
    """Less repetition is better: minus the share of words that came before in the text; 0 for no words."""
    found = words(text)
    return (len(set(found)) - len(found)) / len(found) if found else 0.0


def words(text: str) -> list[str]:
    """Runs of letters, in lower case."""
    return WORD.findall(text.lower())


def sentiment() -> Callable[[str], float]:
    """A judge of texts: VADER's compound score in [−1, 1], 0 for no words (Hutto & Gilbert 2014).

    Raises:
        UserError: vaderSentiment is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ModuleNotFoundError as error:
        raise UserError("the reward `sentiment` needs the package vaderSentiment", fix=VADER_INSTALL) from error
    analyser = SentimentIntensityAnalyzer()
    return lambda text: float(analyser.polarity_scores(text)["compound"])
