"""What is found before the first step: which rows a run renders, contexts that are too short, identical pairs."""

from __future__ import annotations

import pytest

import tiny
from prefloop.core.errors import DataError
from prefloop.core.streams import streams
from prefloop.data.records import Group, Message
from prefloop.policies.conversation import template_of
from prefloop.worlds.text.examine import examined, sound
from prefloop.worlds.text.problem import TextProblem, places

TEMPLATE = template_of(tiny.tokenizer())


def pair(row: int, prompt: str = "a", chosen: str = "yes", rejected: str = "no") -> Group:
    return Group((Message("user", prompt),), (chosen, rejected), (1.0, 0.0), prompt, row)


def test_a_run_renders_what_it_uses_and_nothing_else() -> None:
    groups = [pair(i, "a " * (i + 1)) for i in range(20)]
    text = TextProblem(groups, TEMPLATE)
    examined(text, 5, fresh=False, given=True, seed=3)
    used = places(20, 0, 5, streams(3)["prompts"])
    assert {g[0].row for g in text.known.groups.values()} == set(used) and len(text.known.answered) == 5
    assert text.known.prompts == {}
    examined(text, 5, fresh=True, given=False, seed=3)
    assert len(text.known.prompts) == len(text.known.answered) == 5


def test_a_conversation_beyond_the_context_is_refused() -> None:
    groups = [pair(4, "a a a", "yes " * 6)]
    whole = len(TEMPLATE.answered(groups[0]).prompt) + 7
    for limit, context in ((64, whole), (4, whole - 3)):
        examined(
            TextProblem(groups, TEMPLATE, max_response_tokens=limit, context=context),
            1,
            fresh=False,
            given=True,
            seed=0,
        )
    with pytest.raises(DataError, match=f"have {whole} tokens; the model's context has {whole - 1}") as error:
        examined(TextProblem(groups, TEMPLATE, context=whole - 1), 1, fresh=False, given=True, seed=0)
    assert error.value.where == "row 4"


@pytest.mark.parametrize("texts", [("yes no a", "yes no b"), ("yes no ", "yes no"), ("yes", "yes")])
def test_pairs_that_the_limit_makes_identical_are_left_out(texts: tuple[str, str]) -> None:
    groups = [pair(0, "a", *texts), pair(1, "b")]
    kept, lost = examined(TextProblem(groups, TEMPLATE, max_response_tokens=2), 4, fresh=False, given=True, seed=0)
    assert [g.row for g in kept.train] == [1] and lost.identical == 1


def test_on_policy_runs_keep_every_prompt() -> None:
    groups = [pair(0, "a", "yes", "yes"), pair(1, "b")]
    kept, lost = examined(TextProblem(groups, TEMPLATE), 4, fresh=True, given=False, seed=0)
    assert len(kept.train) == 2 and lost.identical == lost.responses == 0


def test_rows_that_cannot_be_rendered_are_told_apart() -> None:
    groups = [pair(1), pair(2, "a " * 9), pair(4, "b")]
    kept, faults = sound(TextProblem(groups, TEMPLATE, max_prompt_tokens=8), groups, fresh=True, given=True)
    assert [g.row for g in kept] == [1, 4] and [f.row for f in faults][:1] == [2]
    assert "more than 8 tokens" in faults[0].what and "max_prompt_tokens" in faults[0].fix
