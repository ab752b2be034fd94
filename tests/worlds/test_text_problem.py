"""Text as a problem: the template once, EOS exactly once, masks by position, epochs without state, one scorer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tiny
from paths import HUMAN_CHATS, HUMAN_PAIRS, real
from prefloop.core.batch import DATASET, Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.protocols import Problem
from prefloop.core.streams import Stream, streams
from prefloop.data.formats import load
from prefloop.data.records import Group, Message
from prefloop.policies.conversation import template_of
from prefloop.worlds.text.examine import examined, truncation
from prefloop.worlds.text.problem import TextProblem, places

TEMPLATE = template_of(tiny.tokenizer())
ID = {word: i for i, word in enumerate(tiny.WORDS)}
NUMBER = st.integers(0, 200)


def group(prompt: str, *responses: str, scores: tuple[float, ...] | None = (1.0, 0.0), row: int = 1) -> Group:
    return Group((Message("user", prompt),), responses, scores, prompt, row)


PAIRS = [group("a", "yes yes", "no"), group("b", "b", "a no no"), group("c", "c", "no c")]


def problem(train: list[Group], scorer: object = None, **options: object) -> TextProblem:
    return TextProblem(train, TEMPLATE, scorer=scorer, **options)  # type: ignore[arg-type]


def rng(seed: int = 0) -> Stream:
    return streams(seed)["prompts"]


def ids(text: str) -> list[int]:
    return [ID[word] for word in text.split()]


# -------------------------------------------------------------------------------------------------------------- prompts


def test_prompts_go_through_the_template_once() -> None:
    (prompt,) = problem([group("a b")]).render([group("a b")])
    assert prompt.tolist() == ids("<bos> user : a b assistant :")
    (prompt,) = problem([], system="yes no").render([group("a")])
    assert prompt.tolist() == ids("<bos> system : yes no user : a assistant :")


def test_a_conversation_keeps_its_own_system_message() -> None:
    said = tuple(Message(*m) for m in (("system", "c"), ("user", "a"), ("assistant", "b"), ("user", "a")))
    (prompt,) = problem([], system="yes").render([Group(said, (), None, "k", 1)])
    assert prompt.tolist() == ids("<bos> system : c user : a assistant : b user : a assistant :")


@given(n=st.integers(1, 9), start=NUMBER, count=st.integers(1, 30), seed=st.integers(0, 5))
def test_epochs_are_permutations_and_need_no_state(n: int, start: int, count: int, seed: int) -> None:
    whole = places(n, 0, start + count, rng(seed))
    assert places(n, start, count, rng(seed)) == whole[start:]
    for epoch in range((start + count) // n):
        assert sorted(whole[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_prompts_and_dataset_follow_the_same_order() -> None:
    text = problem(PAIRS)
    batch = text.dataset(2, 5, 2, rng(3))
    assert [p.tolist() for p in batch.prompts] == [p.tolist() for p in text.prompts(2, 5, rng(3))]
    order = places(3, 2, 5, rng(3))
    assert text.decode(batch) == [list(PAIRS[i].responses) for i in order]
    assert text.decode_prompts(batch) == [PAIRS[i].text for i in order]


def test_too_long_prompts_are_refused_before_training() -> None:
    text = problem([group("a", row=1), group("a a a", row=2), group("a a a a", row=3)], max_prompt_tokens=6)
    with pytest.raises(DataError, match="2 of 3 prompts have more than 6 tokens") as error:
        examined(text, 3, fresh=True, given=False, seed=0)
    assert "the longest has 9" in error.value.where and "max_prompt_tokens=9" in error.value.fix
    assert len(replace(text, max_prompt_tokens=9).render(text.train)) == 3


# ------------------------------------------------------------------------------------------------------------ responses


@given(
    texts=st.lists(st.lists(st.sampled_from(["yes", "no", "a", "user", ":"]), min_size=1, max_size=9), min_size=1),
    limit=st.integers(1, 6),
)
def test_eos_is_trained_exactly_once_or_cut_and_masks_go_by_position(texts: list[list[str]], limit: int) -> None:
    assert TEMPLATE.tokenizer.pad_token_id == TEMPLATE.tokenizer.eos_token_id == tiny.EOS  # masked by id, it is lost
    text = problem([], max_response_tokens=limit)
    batch = text.batch_of([group("a", " ".join(words), scores=None) for words in texts])
    for words, row, mask in zip(texts, batch.responses[:, 0], batch.mask[:, 0], strict=True):
        expected = [*(ID[w] for w in words), tiny.EOS][:limit]
        n = len(expected)
        assert row[:n].tolist() == expected and mask.tolist() == [True] * n + [False] * (len(mask) - n)
        assert not row[n:].any()
        assert (row[:n] == tiny.EOS).sum() == (len(words) < limit)
    assert batch.mask.any((0, 1)).all()  # no column without a token


def test_batch_of_pairs() -> None:
    batch = problem([]).batch_of(PAIRS)
    assert batch.responses.tolist()[0] == [[*ids("yes yes"), 1, 0], [*ids("no"), 1, 0, 0]]
    assert batch.mask.tolist()[0] == [[True, True, True, False], [True, True, False, False]]
    assert batch.scores is not None and batch.scores.tolist() == [[1.0, 0.0]] * 3
    assert batch.source is not None and batch.source.tolist() == [DATASET] * 3
    assert batch.valid is None and batch.logp_behaviour is None


def test_ragged_groups_mark_their_empty_places() -> None:
    groups = [group("a", "yes", "no", "c", scores=(3.0, 2.0, -1.0)), group("b", "no", scores=(5.0,))]
    text = problem(groups)
    batch = text.batch_of(groups)
    assert batch.valid is not None and batch.valid.tolist() == [[True] * 3, [True, False, False]]
    assert batch.scores is not None and batch.scores.tolist() == [[3.0, 2.0, -1.0], [5.0, 0.0, 0.0]]
    assert text.decode(batch) == [["yes", "no", "c"], ["no", "", ""]]
    assert torch.equal(batch.mask.any(-1), batch.valid)


@pytest.mark.parametrize("responses", [1, 3])
def test_a_group_size_that_does_not_fit_names_the_option(responses: int) -> None:
    with pytest.raises(UserError, match=r"responses: 2"):
        problem(PAIRS).dataset(0, 2, responses, rng())


def test_prompts_alone_are_no_dataset() -> None:
    with pytest.raises(UserError, match="on_policy: 1"):
        problem([group("a", scores=None)]).dataset(0, 1, 2, rng())


def test_truncation_is_counted() -> None:
    groups = [
        group("a", "yes yes yes no", "yes yes yes a"),  # both cut, and then the same
        group("b", "yes yes no", "yes yes"),  # one cut
        group("a", "no", "no", scores=(1.0, 1.0)),  # the same with the same score
    ]
    kept, found = examined(problem(groups, max_response_tokens=3), 3, fresh=False, given=True, seed=0)
    assert kept.train == groups[1:]
    assert (found.responses, found.cut, found.empty, found.identical) == (4, 1, 0, 1)
    assert "1 of 4 responses cut (25.0%)" in str(found) and "1 groups left out" in str(found)
    assert truncation(problem([], max_response_tokens=9), groups).cut == 0
    with pytest.raises(DataError, match="makes all pairs of responses identical"):
        examined(problem(groups[:1], max_response_tokens=3), 3, fresh=False, given=True, seed=0)


def test_copies_share_what_was_rendered() -> None:
    text = problem([group("a")])
    held_out = [group("b b")]
    text.render(held_out)
    scored = replace(text, scorer=lambda batch: batch.lengths.float())
    batch = Batch(text.render(held_out), *(torch.ones(1, 1, 2, dtype=t) for t in (torch.long, torch.bool)))
    assert scored.decode_prompts(batch) == ["b b"]


# --------------------------------------------------------------------------------------------------------------- scores


def test_one_scorer_for_all_or_the_scores_of_the_data() -> None:
    batch = problem(PAIRS).dataset(0, 3, 2, rng())
    assert problem(PAIRS).score(batch) is batch
    scored = problem(PAIRS, scorer=lambda batch: batch.lengths.float()).score(batch)
    assert scored.scores is not None and torch.equal(scored.scores, batch.lengths.float())


def test_a_score_that_is_not_finite_is_named_unless_its_place_is_empty() -> None:
    ragged = problem([]).batch_of([group("a", "yes", "no"), group("b", "no", scores=(5.0,))])

    def bad(place: tuple[int, int]) -> TextProblem:
        def score(batch: Batch) -> Tensor:
            scores = torch.zeros(2, 2)
            scores[place] = float("nan")
            return scores

        return problem([], scorer=score)

    with pytest.raises(DataError, match="the first is nan") as error:
        bad((0, 1)).score(ragged)
    assert "prompt 0, response 1" in error.value.where
    assert bad((1, 1)).score(ragged).scores is not None


# --------------------------------------------------------------------------------------------------- offline collection


def collection(p: int, g: int) -> Batch:
    shape = (p, g, 2)
    responses = torch.arange(p * g * 2).view(shape)
    scores = torch.arange(p * g, dtype=torch.float32).view(p, g)
    return Batch(
        [torch.tensor([i]) for i in range(p)], responses, torch.ones(shape, dtype=torch.bool), scores,
        logp_reference=responses.float(), source=torch.zeros(p, dtype=torch.long),
    )  # fmt: skip


@given(g=st.integers(1, 4), start=NUMBER, count=st.integers(1, 9))
def test_an_offline_collection_is_given_in_epochs_with_its_first_responses(g: int, start: int, count: int) -> None:
    whole = collection(5, 4)
    batch = problem([group("a")], offline=whole).dataset(start, count, g, rng())
    rows = places(5, start, count, rng())
    assert [int(p) for p in batch.prompts] == rows
    assert torch.equal(batch.responses, whole.responses[rows, :g])
    assert batch.scores is not None and whole.scores is not None and torch.equal(batch.scores, whole.scores[rows, :g])
    assert batch.logp_reference is not None and batch.logp_reference.shape == batch.mask.shape
    assert batch.source is not None and batch.source.tolist() == [DATASET] * count


def test_square_collections_lose_no_prompts() -> None:
    whole = replace(collection(4, 4), z=torch.tensor(0.5))
    batch = problem([group("a")], offline=whole).dataset(0, 4, 2, rng())
    assert len(batch.prompts) == 4 and batch.source is not None and batch.source.shape == (4,)


def test_a_collection_of_smaller_groups_is_refused() -> None:
    with pytest.raises(UserError, match="4 responses, but the method needs 5"):
        problem([group("a")], offline=collection(3, 4)).dataset(0, 1, 5, rng())


# -------------------------------------------------------------------------------------------------------- the whole way


def test_it_is_a_problem() -> None:
    assert isinstance(problem(PAIRS), Problem)


def test_from_a_file_to_tokens_and_back(tmp_path: Path) -> None:
    rows = [{"prompt": "a b", "chosen": "yes no", "rejected": "no"}, {"prompt": "c", "chosen": "c", "rejected": "a"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = problem(load(tmp_path / "pairs.jsonl"))
    batch = text.batch_of(list(text.train), 2)
    assert text.decode(batch) == [[row["chosen"], row["rejected"]] for row in rows]
    assert text.decode_prompts(batch) == [row["prompt"] for row in rows]


@pytest.mark.parametrize(("name", "key", "limit"), [(HUMAN_PAIRS, "qid", 256), (HUMAN_CHATS, "tree", 4096)])
def test_real_files_become_batches(preference_data: Path, name: str, key: str, limit: int) -> None:
    groups = load(real(preference_data, name), group_by=key, limit=300)
    text = problem(groups, max_prompt_tokens=limit, max_response_tokens=60)
    batch = text.dataset(290, 20, 2, rng())
    ends = batch.responses.gather(-1, (batch.lengths - 1)[..., None])[..., 0] == tiny.EOS
    assert (batch.lengths[~ends] == 60).all() and bool(ends.any()) and not bool(ends.all())
    assert ((batch.responses == tiny.EOS).sum(-1) == ends).all()
    found = truncation(text, groups)
    assert found.responses == 600 and found.cut > 0


@pytest.mark.slow
def test_human_answers_fit_the_real_tokenizer_and_come_back(preference_data: Path) -> None:
    pretrained = pytest.importorskip("prefloop.policies.pretrained")
    try:
        tokenizer = pretrained.load("smollm2")[1]
    except UserError as error:
        pytest.skip(str(error))
    groups = load(real(preference_data, HUMAN_PAIRS), group_by="qid", limit=400)
    text = TextProblem(groups, template_of(tokenizer), max_response_tokens=256)
    batch = text.batch_of(groups, 2)
    last = batch.responses.gather(-1, (batch.lengths - 1)[..., None])
    assert (last == tokenizer.eos_token_id).float().mean() > 0.99
    assert ((batch.responses == tokenizer.eos_token_id).sum(-1) <= 1).all()
    shown = [t for g, row in zip(groups, text.decode(batch), strict=True) for t, r in zip(row, g.responses, strict=True)
             if t != r.strip()]  # fmt: skip
    assert len(shown) == truncation(text, groups).cut
