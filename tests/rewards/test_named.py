"""What a reward function gets by name: columns of the data, the conversation, the response with its special tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

import tiny
from prefloop.core.errors import DataError, UserError
from prefloop.data.records import Group, Message
from prefloop.policies.conversation import template_of
from prefloop.rewards import scorers
from prefloop.worlds.text.problem import TextProblem

GROUPS = [
    Group((Message("user", "a"),), ("yes", "no"), None, "a", 1, columns={"answer": "yes", "level": 2}),
    Group((Message("user", "b"),), ("yes", "no no"), None, "b", 2, columns={"answer": "no no", "level": 3}),
]


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Registers a function as the user's own and returns its name."""

    def register(function: Callable[..., Any]) -> str:
        home = ModuleType("named_rewards")
        home.reward = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "named_rewards", home)
        return "named_rewards:reward"

    return register


def scores(name: str, groups: list[Group] = GROUPS, options: dict[str, Any] | None = None) -> list[list[float]]:
    text = TextProblem(groups, template_of(tiny.tokenizer()), system="system c")
    scorer = scorers.build(
        name, options or {}, decode=text.decode, decode_prompts=text.decode_prompts, named=text.named()
    )
    return [list(map(float, row)) for row in scorer(text.batch_of(groups))]


def test_a_column_of_the_row_reaches_the_function(mine: Callable[..., str]) -> None:
    def reward(prompt: str, response: str, *, answer: str, level: int = 0) -> float:
        return level * float(response == answer)

    assert scores(mine(reward)) == [[2.0, 0.0], [0.0, 3.0]]


def test_an_option_stands_before_a_column(mine: Callable[..., str]) -> None:
    def reward(prompt: str, response: str, *, answer: str) -> float:
        return float(response == answer)

    assert scores(mine(reward), options={"answer": "no"}) == [[0.0, 1.0], [0.0, 0.0]]


def test_the_conversation_and_the_text_with_its_end(mine: Callable[..., str]) -> None:
    seen = []

    def reward(prompt: str, response: str, *, messages: list[dict[str, str]], raw: str) -> float:
        seen.append((prompt, response, messages, raw))
        return 0.0

    scores(mine(reward), GROUPS[:1])
    asked = [{"role": "system", "content": "system c"}, {"role": "user", "content": "a"}]
    assert seen == [("a", "yes", asked, "yes <eos>"), ("a", "no", asked, "no <eos>")]


def test_a_function_of_lists_gets_lists(mine: Callable[..., str]) -> None:
    def reward(prompts: list[str], responses: list[str], *, answer: list[str]) -> list[float]:
        return [float(r == a) for r, a in zip(responses, answer, strict=True)]

    assert scores(mine(reward)) == [[1.0, 0.0], [0.0, 1.0]]


def test_keywords_get_everything_by_name(mine: Callable[..., str]) -> None:
    seen = []

    def reward(prompt: str, response: str, **columns: Any) -> float:
        seen.append(sorted(columns))
        return 0.0

    scores(mine(reward), GROUPS[:1])
    assert seen[0] == ["answer", "level", "messages", "raw"]


def test_a_name_that_is_neither_option_nor_column_is_refused_before_training(mine: Callable[..., str]) -> None:
    def reward(prompt: str, response: str, *, solution: str) -> float:
        return 0.0

    with pytest.raises(UserError, match=r"needs the option `solution`, which is no column .*answer, level"):
        scores(mine(reward))


def test_two_values_of_one_prompt_are_refused(mine: Callable[..., str]) -> None:
    def reward(prompt: str, response: str, *, answer: str) -> float:
        return 0.0

    other = replace(GROUPS[0], columns={"answer": "c"}, responses=("b", "c"), row=9)
    with pytest.raises(DataError, match="different values in the column `answer`") as error:
        scores(mine(reward), [*GROUPS, other])
    assert error.value.where == "rows 1 and 9"


def test_an_option_of_a_built_in_rule_is_no_column() -> None:
    groups = [replace(group, columns={"word": "no", "target": 9}) for group in GROUPS]
    assert scores("keyword", groups, {"word": "yes"}) == [[1.0, 0.0], [1.0, 0.0]]
    assert scores("keyword", groups) == [[0.0, 0.0], [0.0, 0.0]]  # its default is `best`
    with pytest.raises(UserError, match="needs the option `target`"):
        scores("length_mode", groups)
