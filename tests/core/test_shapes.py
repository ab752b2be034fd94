"""What users give: fields of a batch of the wrong shape or type, lists of token ids, results of their own parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import jaxtyping
import pytest
import torch

import prefloop
from prefloop.core import objectives, weights
from prefloop.core.batch import Batch, MissingNeed, reads
from prefloop.core.errors import UserError
from prefloop.core.method import Method
from prefloop.core.methods import METHODS
from toys import make_batch, make_logp, stack

SHAPE = (3, 4, 5)
PER_TOKEN = ("responses", "mask", "logp_behaviour", "logp_proximal", "logp_reference", "values", "penalty")
PER_RESPONSE = ("scores", "labels", "valid")


@pytest.fixture(autouse=True)
def unwatched() -> Iterator[None]:
    """As users run it, without the annotations that the tests check at every call."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def whole(seed: int = 0) -> Batch:
    batch = make_batch(seed, ragged=True)
    return replace(batch, penalty=batch.values, source=torch.arange(3))


def refusal(field: str, value: Any, batch: Batch) -> UserError:
    with pytest.raises(UserError) as caught:
        replace(batch, **{field: value})
    return caught.value


# ------------------------------------------------------------------------------------------------- fields of a batch


@pytest.mark.parametrize("field", [f.name for f in fields(Batch) if f.name != "prompts"])
@pytest.mark.parametrize("stacked", [False, True])
def test_every_field_of_another_shape_is_refused_by_name(field: str, stacked: bool) -> None:
    batch = stack([whole(0), whole(1)]) if stacked else whole()
    x = getattr(batch, field)
    for wrong in (x[None], x[..., :-1] if x.ndim else x[None, None]):
        error = refusal(field, wrong, batch)
        if field != "mask":  # a mask of another size makes all others wrong
            assert f"`Batch.{field}` must have shape" in error.what and str(list(wrong.shape)) in error.what
            assert str(list(x.shape)) in error.what
    assert replace(batch, **{field: x.clone()})


@pytest.mark.parametrize("field", [f.name for f in fields(Batch) if f.name != "prompts"])
def test_every_field_of_another_type_is_refused_with_the_conversion(field: str) -> None:
    x = getattr(whole(), field)
    kinds = {"floating point": torch.double, "whole numbers": torch.long, "bool": torch.bool}
    called = "bool" if x.dtype == torch.bool else "floating point" if x.is_floating_point() else "whole numbers"
    method = {"floating point": "float", "whole numbers": "long", "bool": "bool"}[called]
    for dtype in kinds.values():
        if dtype == kinds[called]:
            assert replace(whole(), **{field: x.to(dtype)})
        else:
            error = refusal(field, x.to(dtype), whole())
            assert (
                error.what == f"`Batch.{field}` must be {called}, not {dtype}"
                and error.fix == f"convert it: x.{method}()"
            )
    assert "complex" in refusal(field, x.to(torch.complex64), whole()).what
    if field != "mask":
        assert refusal(field, x.tolist(), whole()).fix == "torch.tensor(...)"


def test_other_precisions_and_small_integers_are_welcome() -> None:
    batch = whole()
    half = replace(batch, responses=batch.responses.to(torch.uint8), values=batch.values.to(torch.bfloat16))
    assert half.responses.dtype == torch.uint8 and half.values.dtype == torch.bfloat16


def test_a_mask_without_groups_says_how_to_make_them() -> None:
    for wrong, given in ((torch.ones(4, 5, dtype=torch.bool), "[4, 5]"), ([[True]], "list")):
        with pytest.raises(UserError, match=r"Batch.mask.*\[prompts, responses to each, tokens\], not ") as caught:
            Batch(None, torch.ones(4, 5, dtype=torch.long), wrong)  # type: ignore[arg-type]
        assert caught.value.what.endswith(given) and "mask[:, None]" in caught.value.fix


@pytest.mark.parametrize(
    ("prompts", "given"), [(["a"] * 2, "2"), (("a",) * 4, "4"), (torch.zeros(4, 3), "[4, 3]"), (torch.tensor(1), "[]")]
)
def test_there_is_one_prompt_for_each_group(prompts: Any, given: str) -> None:
    error = refusal("prompts", prompts, whole())
    assert error.what == f"`Batch.prompts` must be one for each of 3 groups of responses, not {given}"
    assert replace(whole(), prompts=["a", "b", "c"]) and replace(whole(), prompts=torch.zeros(3, 7))
    twice = stack([whole(0), whole(1)])
    assert replace(twice, prompts=torch.zeros(2, 3, 7)) and replace(twice, prompts=object())
    assert "not [3]" in refusal("prompts", torch.zeros(3), twice).what


@pytest.mark.parametrize(
    ("shape", "cure"),
    [
        ((3, 4), "one number per token, not their sum"),
        ((3, 4, 5, 9), "the token that was written"),
        ((12, 5), "x.view(3, 4, 5)"),
        ((3, 4, 11), "without the prompt"),
        ((4, 4, 5), "P prompts, G responses to each"),
    ],
)
def test_log_probs_of_another_shape_are_told_the_cure(shape: tuple[int, ...], cure: str) -> None:
    assert cure in refusal("logp_reference", torch.zeros(shape), whole()).fix
    batch = make_batch()
    for call in (METHODS["grpo"].loss, METHODS["grpo"].coefficients):
        with pytest.raises(UserError, match=r"`logp` must have shape \[P, G, T\] = \[3, 4, 5\]") as caught:
            call(torch.zeros(shape), batch)
        assert cure in caught.value.fix


def test_scores_are_told_no_cure_of_tokens() -> None:
    for shape in ((3,), (3, 7), (3, 4, 2)):
        assert refusal("scores", torch.zeros(shape), whole()).fix.startswith("P prompts")
    assert refusal("scores", torch.zeros(12), whole()).fix.startswith("x.view(3, 4)")


def test_axes_of_a_stack_are_named() -> None:
    error = refusal("scores", torch.zeros(3, 4), stack([whole(0), whole(1)]))
    assert "[*S, P, G] = [2, 3, 4], not [3, 4]" in error.what
    assert "[P, G] = [3, 4], not [2, 3, 4]" in refusal("scores", torch.zeros(2, 3, 4), whole()).what


# --------------------------------------------------------------------------------------------- lists of token ids


def test_pairs_of_token_ids_by_hand() -> None:
    batch = Batch.from_pairs([[7, 8], [9]], [[1, 2, 3], [4]], [[5], torch.tensor([6, 6])])
    assert [x.tolist() for x in batch.prompts] == [[7, 8], [9]]
    assert batch.responses.tolist() == [[[1, 2, 3], [5, 0, 0]], [[4, 0, 0], [6, 6, 0]]]
    assert batch.mask.tolist() == [[[True] * 3, [True, False, False]], [[True, False, False], [True, True, False]]]
    assert batch.scores is not None and batch.scores.tolist() == [[1.0, 0.0]] * 2 and batch.valid is None
    logp = torch.where(batch.mask, -1.0, 0.0)
    wanted = METHODS["dpo"].loss(logp, replace(batch, logp_reference=0.5 * logp))
    by_hand = [-torch.log(torch.sigmoid(torch.tensor(0.1 * d))) for d in (-1.0, 0.5)]
    torch.testing.assert_close(wanted, torch.stack(by_hand).mean())


def test_groups_of_token_ids_by_hand() -> None:
    batch = Batch.from_groups([[7], [8]], [[[1], [2, 3], [4]], [[5]]], [[0.5, 1.5, -1.0], [2.0]])
    assert batch.responses.tolist() == [[[1, 0], [2, 3], [4, 0]], [[5, 0], [0, 0], [0, 0]]]
    assert batch.valid is not None and batch.valid.tolist() == [[True] * 3, [True, False, False]]
    assert batch.scores is not None and batch.scores.tolist() == [[0.5, 1.5, -1.0], [2.0, 0.0, 0.0]]
    more = Batch.from_groups([[7]], [[[1], [2]]], slots=4)
    assert (
        more.scores is None and more.mask.shape == (1, 4, 1) and more.present.tolist() == [[True, True, False, False]]
    )
    assert Batch.from_groups([[7]], [[[1], [2]]]).valid is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"chosen": [[1]]}, "2 prompts, 1 chosen and 2 rejected responses"),
        ({"prompts": [[1]]}, "1 prompts, 2 chosen and 2 rejected responses"),
        ({"rejected": [[1]] * 3}, "2 prompts, 2 chosen and 3 rejected responses"),
        ({"chosen": ["yes", "no"]}, r"(?s)token ids are whole numbers, not 'yes'.*response 0 of prompt 0.*tokenise it"),
        ({"rejected": [[1], []]}, r"(?s)no tokens.*response 1 of prompt 1.*the token that ends it"),
        ({"prompts": [[1], []]}, "(?s)no tokens.*prompt 1"),
        ({"prompts": [[1], [0.5]]}, "`prompt 1` must be whole numbers, not torch.float32"),
        ({"chosen": [[[1, 2]], [1]]}, r"(?s)one row, not \[1, 2\].*response 0 of prompt 0"),
    ],
)
def test_what_is_no_pair_of_token_ids_is_refused(wrong: dict[str, Any], message: str) -> None:
    given = {"prompts": [[1], [2]], "chosen": [[1], [2]], "rejected": [[3], [4]]}
    with pytest.raises(UserError, match=message):
        Batch.from_pairs(**(given | wrong))


@pytest.mark.parametrize(
    ("prompts", "responses", "scores", "message"),
    [
        ([[1]], [[[1]], [[2]]], None, "one for each of 2 groups of responses, not 1"),
        ([[1]], [[[1], [2]]], [[1.0]], r"(?s)1 scores for 2 responses.*prompt 0"),
        ([[1]], [[[1], [2]]], [[1.0, 2.0, 3.0]], r"(?s)3 scores for 2 responses.*prompt 0"),
        ([[1]], [[[1], [2]]], [[1.0, 2.0]] * 2, "scores of 2 groups for 1 groups"),
        ([], [], None, "there are no responses"),
        ([[1]], [[]], None, "there are no responses"),
    ],
)
def test_what_is_no_group_of_token_ids_is_refused(prompts: Any, responses: Any, scores: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Batch.from_groups(prompts, responses, scores)


# ------------------------------------------------------------------------------------------------- parts of a method


@pytest.mark.parametrize(
    "weight", [lambda b: b.scores.mean(-1, keepdim=True), lambda b: b.scores[..., 0], lambda b: 1.0]
)
def test_a_weight_that_would_be_broadcast_is_refused(weight: Any) -> None:
    own = Method(objectives.nll, reads("scores")(lambda batch: weight(batch)), responses=4)
    with pytest.raises(UserError, match=r"the weight must .* per response or token, of shape \[3, 4\] or \[3, 4, 5\]"):
        own.signal(make_batch())


def test_weights_per_response_and_per_token_are_taken() -> None:
    for weight in (lambda b: b.scores, lambda b: b.values):
        own = Method(objectives.nll, reads("scores")(lambda batch, weight=weight: weight(batch)), responses=4)
        assert own.signal(make_batch()).weight is not None


@pytest.mark.parametrize("name", ["sft", "dpo"])
@pytest.mark.parametrize("shape", [(3, 1, 5), (3, 7), (3,)])
def test_an_objective_that_would_be_broadcast_is_refused(name: str, shape: tuple[int, ...]) -> None:
    batch = make_batch()
    own = replace(
        METHODS[name], objective=reads()(lambda logp, signal, batch: logp.mean() * torch.ones(shape)), options={}
    )
    with pytest.raises(UserError, match="the objective must give one number per token, response or pair"):
        own.loss(make_logp(batch), batch)


def test_uniform_weights_still_pass() -> None:
    assert weights.uniform(make_batch()).shape == SHAPE[:-1]


# ------------------------------------------------------------------------------------------------------ the package


def test_tab_completion_and_help_show_the_public_names() -> None:
    assert dir(prefloop) == sorted(prefloop.__all__) and {"METHODS", "Batch", "train"} <= set(dir(prefloop))
    assert "Any" not in dir(prefloop) and all(getattr(prefloop, name) is not None for name in dir(prefloop))


def test_help_on_a_batch_explains_every_field() -> None:
    said = Batch.__doc__ or ""
    assert all(f"\n        {f.name}: " in said for f in fields(Batch))
    shaped = {*PER_TOKEN, *PER_RESPONSE, "source", "z"}
    lines = {line.split(":")[0].strip(): line for line in said.splitlines() if ": " in line}
    assert all("[*S" in lines[name] or "the same" in lines[name] for name in shaped)


@pytest.mark.parametrize(("name", "near"), [("dppo", "dpo"), ("DPO", "dpo"), ("simp", "simpo"), ("gproo", "grpo")])
def test_an_unknown_method_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(KeyError, match=f"did you mean `{near}`") as caught:
        METHODS[name]
    assert isinstance(caught.value, UserError) and str(caught.value).startswith(f"unknown method `{name}`\n")
    assert METHODS.get(name) is None and name not in METHODS


# ----------------------------------------------------------------------------------------------------- missing fields


@pytest.mark.parametrize(
    ("need", "how"),
    [
        ("logp_reference", ": replace(batch, logp_reference=prefloop.log_probs(reference, batch))"),
        ("z", ": replace(batch, z=prefloop.mismatched_kl(model, reference, batch))"),
        ("scores", ""),
    ],
)
def test_a_missing_field_is_told_with_what_computes_it(need: str, how: str) -> None:
    error = MissingNeed(need)
    assert error.what == f"this method needs `{need}`, which the batch does not have"
    assert error.fix == f"fill `Batch.{need}`{how}"
