"""Ordinal labels show the order of the responses to a prompt and nothing else, in data and to the policy alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.lab.setting import changed, make, seeds
from prefloop.lab.stack import build, run_stack
from prefloop.worlds.rewarded import Rewarded, ranked
from toys import F64

SMALL: dict[str, Any] = {"responses": 10, "batch": 40, "minibatch": 40, "evaluation": 4, "data": 12}
ARMS = {"policy": "tabular", "contexts": 4, "labels": "ordinal"}
LEVELS = st.integers(-3, 3)
GROUPS = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.lists(LEVELS, min_size=n, max_size=n), min_size=1, max_size=4)
)  # few levels, so that there are ties


def scored(values: Any, valid: Any = None) -> Batch:
    """One run whose groups have these scores, and labels."""
    scores = torch.tensor(values, dtype=F64)[None]
    responses = torch.zeros(*scores.shape, 1, dtype=torch.long)
    present = None if valid is None else torch.tensor(valid)[None]
    ones = torch.ones_like(responses, dtype=torch.bool)
    return Batch(torch.zeros(scores.shape[:2]), responses, ones, scores, labels=scores.sign(), valid=present)


@given(GROUPS, st.floats(-50, 50), st.floats(0.01, 50), st.integers(0, 3))
def test_no_size_and_nothing_across_prompts_is_seen(
    groups: list[list[int]], shift: float, scale: float, which: int
) -> None:
    """Any increasing function of one group's scores, each group its own, gives the same batch."""
    other = [[float(x) for x in group] for group in groups]
    place = which % len(groups)
    other[place] = [shift + scale * x**3 for x in groups[place]]
    a, b = ranked(scored(groups)), ranked(scored(other))
    assert a.scores is not None and b.scores is not None and a.labels is not None and b.labels is not None
    assert torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)


@given(GROUPS)
def test_ranks_keep_the_order_and_the_ties_and_have_one_mean(groups: list[list[int]]) -> None:
    ranks = ranked(scored(groups)).scores
    assert ranks is not None
    for group, got in zip(groups, ranks[0], strict=True):
        gap = np.subtract.outer(group, group)
        np.testing.assert_array_equal(np.sign(np.subtract.outer(got.numpy(), got.numpy())), np.sign(gap))
        assert float(got.mean()) == pytest.approx(0.5, abs=1e-12)
        below = [sum(x > y for y in group) + sum(x == y for y in group) / 2 for x in group]
        assert got.tolist() == pytest.approx([b / len(group) for b in below])
    again = ranked(ranked(scored(groups)))
    assert again.scores is not None and torch.equal(again.scores, ranks)


def test_empty_places_of_a_group_do_not_count() -> None:
    batch = ranked(scored([[3.0, 9.0, 1.0], [2.0, 2.0, 0.0]], valid=[[True, False, True], [True, True, False]]))
    assert batch.scores is not None and batch.labels is not None
    assert batch.scores[0, 0, [0, 2]].tolist() == [0.75, 0.25] and batch.scores[0, 1, :2].tolist() == [0.5, 0.5]
    assert batch.labels[0, 0, [0, 2]].tolist() == [1, -1] and batch.labels[0, 1, :2].tolist() == [-1, -1]


def test_gold_is_ranked_and_a_learned_reward_is_not() -> None:
    """What a model learned from ordinal labels may say has no more information than they have."""
    batch = replace(scored([[1.0, 4.0], [7.0, 7.0]]), scores=None, labels=None)
    score = {
        "gold": lambda b: torch.tensor([[[1.0, 4.0], [7.0, 7.0]]], dtype=F64),
        "proxy": lambda b: torch.tensor([[[2.0, 3.0], [9.0, 5.0]]], dtype=F64),
    }
    own = Rewarded(lambda *_: torch.zeros(1, 2), score["gold"], ordinal=True).score(batch)
    assert own.scores is not None and own.scores.tolist() == [[[0.25, 0.75], [0.5, 0.5]]]
    learned = Rewarded(lambda *_: torch.zeros(1, 2), score["gold"], score["proxy"], ordinal=True).score(batch)
    assert learned.scores is not None and learned.scores.tolist() == [[[2.0, 3.0], [9.0, 5.0]]]


@pytest.mark.parametrize(("name", "share"), [("kto", 0.0), ("rloo", 1.0), ("online_dpo", 0.5)])
def test_data_and_own_responses_have_the_ranks_of_gold(name: str, share: float) -> None:
    one = make(name, "arms", {"on_policy": share}, **SMALL, **ARMS, precision="float64")
    found, gold = [], None
    for labels in ("ordinal", "gold"):
        training = build(seeds(changed(one, labels=labels), [0, 1]))
        training.loop.collect(0)
        assert training.loop.collection is not None
        found.append(training.loop.collection)
        gold = training.loop.problem.gold  # type: ignore[attr-defined]
    assert torch.equal(found[0].responses, found[1].responses)
    assert found[0].scores is not None and found[0].labels is not None and gold is not None
    want = ranked(replace(found[1], scores=gold(found[1])))
    assert want.scores is not None and torch.equal(found[0].scores, want.scores)
    assert torch.equal(found[0].labels > 0, want.scores > 0.5)


def test_only_the_methods_that_read_more_than_the_order_change() -> None:
    def end(name: str, labels: str) -> float:
        return run_stack([make(name, "arms", **SMALL, **{**ARMS, "labels": labels}, steps=4, lr=0.1)])[0].last(
            "eval/gold"
        )

    assert end("online_dpo", "ordinal") == end("online_dpo", "gold")
    assert end("best_of_n", "ordinal") == end("best_of_n", "gold")
    assert end("rwr", "ordinal") != end("rwr", "gold")


@pytest.mark.parametrize("problem", ["arms", "sequences", "categorical", "lengths"])
def test_ranks_need_two_responses(problem: str) -> None:
    one = make("kto", problem, labels="ordinal", responses=1, batch=10, minibatch=10)
    with pytest.raises(UserError, match=r"(?s)ordinal labels compare responses.*\n.*responses >= 2"):
        one.check()
    changed(one, responses=2).check()


def test_a_rank_does_not_know_the_reward_of_its_prompt() -> None:
    one = make("best_of_n", "sequences", labels="ordinal", defect="prompt_in_reward")
    with pytest.raises(UserError, match=r"(?s)ranks.*\n.*labels=gold"):
        one.check()


@pytest.mark.parametrize("name", ["dpo", "ipo", "online_dpo"])
def test_all_45_pairs_of_a_group_of_ten_can_be_had(name: str) -> None:
    loop = build([make(name, "arms", {"pairs": "all_pairs"}, **SMALL, **ARMS)]).loop
    loop.collect(0)
    assert loop.signal is not None and loop.signal.pair_weight is not None
    assert loop.signal.pair_weight.shape == (1, 4, 45) and 45 * 4 >= float(loop.signal.pair_weight.sum()) > 30 * 4


def test_reward_weights_are_had_per_prompt_and_across_the_batch_with_their_effective_number() -> None:
    for normalise, most in (("prompt", 40.0), ("batch", 40.0)):
        override = {"normalise": normalise, "beta": 0.1}
        one = make("rwr", "arms", override, **SMALL, policy="tabular", contexts=4, steps=1, evaluate=1)
        (run,) = run_stack([one])
        loop = build([one]).loop
        loop.collect(0)
        assert loop.collection is not None and loop.collection.scores is not None
        x = loop.collection.scores[0].double() / 0.1
        w = (x.softmax(-1) if normalise == "prompt" else x.flatten().softmax(0)).flatten()
        assert run.last("responses/effective") == pytest.approx(float(w.sum() ** 2 / w.square().sum()), rel=1e-4)
        assert 1 <= run.last("responses/effective") < most
