"""The reward of one complete sentence: golden cases, and the properties that its docstring claims."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.rewards.sentences import length, one_sentence, topic, whole

QUESTION = "How often should bed sheets be washed?"
TEXTS = st.text(max_size=200)
WORD = st.sampled_from(["sheets", "wash", "week", "blue", "often", "a"])

GOLDEN = (  # (response, whole, words, topic)
    ("Bed sheets should be washed once a week in hot water always.", 1.0, 12, 1.0),
    ("Bed sheets should be washed once a week in hot water always", 0.0, 12, 1.0),
    ("Wash bed sheets weekly. They get dirty.", 0.5, 7, 1.0),
    ("How often should bed sheets be washed?", 0.0, 7, 1.0),
    ("The answer depends on many things that I like to think about.", 1.0, 12, 0.0),
    ("Wash them at 3.5 °C, e.g. weekly!", 1.0, 9, 0.5),
    ('She said "wash the sheets."', 1.0, 5, 1.0),
    ("Here is a list:\n1. Wash.\n2. Dry.", 0.2, 8, 0.5),
    ("", 0.0, 0, 0.0),
)


@pytest.mark.parametrize(("response", "complete", "words", "on_topic"), GOLDEN)
def test_golden_cases(response: str, complete: float, words: int, on_topic: float) -> None:
    parts = (complete, max(0.0, 1 - abs(words - 12) / 12), on_topic)
    assert (whole(response), length(response, 12), topic(QUESTION, response)) == pytest.approx(parts)
    assert one_sentence(QUESTION, response) == pytest.approx((2 * parts[0] + parts[1] + parts[2]) / 4)


def test_the_best_answer_has_one_and_the_parts_are_named_in_the_order_of_their_weight() -> None:
    assert one_sentence(QUESTION, GOLDEN[0][0]) == 1.0
    assert one_sentence(QUESTION, GOLDEN[1][0]) == 0.5  # the same words without an end


@given(TEXTS, TEXTS, st.integers(1, 40))
def test_bounded_for_any_text(prompt: str, response: str, words: int) -> None:
    assert 0 <= one_sentence(prompt, response, words=words) <= 1


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_length_nearer_the_target_is_never_worse(a: int, b: int) -> None:
    nearer, farther = sorted((a, b), key=lambda n: abs(n - 12))
    assert length("word " * nearer, 12) >= length("word " * farther, 12)


@given(st.lists(WORD, min_size=1, max_size=8), WORD)
def test_another_word_of_the_question_is_never_worse_for_the_topic(response: list[str], word: str) -> None:
    assert topic(QUESTION, " ".join([*response, word])) >= topic(QUESTION, " ".join(response))


@given(st.lists(WORD, min_size=1, max_size=8), st.integers(1, 5))
def test_more_sentences_are_worse_and_an_end_is_better_than_none(response: list[str], count: int) -> None:
    text = " ".join(response).capitalize()
    assert whole(". ".join([text] * (count + 1)) + ".") < whole(". ".join([text] * count) + ".")
    assert one_sentence(QUESTION, text + ".") > one_sentence(QUESTION, text)


@given(TEXTS, TEXTS)
def test_outer_blanks_and_the_case_of_the_prompt_change_nothing(prompt: str, response: str) -> None:
    assert one_sentence(prompt, f"  {response} ") == one_sentence(prompt, response.strip())


def test_a_prompt_without_content_words_has_no_topic_to_miss() -> None:
    assert topic("What?", "Yes.") == 1.0 == topic("", "")
