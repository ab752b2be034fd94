"""What a type says of a hyper-parameter: its range, whether a stack may hold one value per run, and its choices."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from prefloop.core.errors import UserError
from prefloop.core.methods import METHODS
from prefloop.core.ranges import (
    Count,
    NotNegative,
    Number,
    OneNotNegative,
    OnePositive,
    OneShare,
    Positive,
    Share,
    check,
    hyper_parameters,
    kind,
)

SEVERAL = torch.tensor([0.5, 1.0])
CASES: list[tuple[Any, list[Any], list[Any]]] = [  # type, values in range, values out of it
    (Positive, [1e-9, 3, 0.5, SEVERAL], [0.0, -1, SEVERAL - 0.5, "1", None, True, float("nan"), float("inf")]),
    (NotNegative, [0, 0.0, SEVERAL - 0.5], [-1e-9, SEVERAL - 0.6, -torch.ones(2)]),
    (Share, [0.0, 1, 1.0, SEVERAL], [-0.1, 1.1, SEVERAL * 2, torch.tensor([-0.1, 0.5])]),
    (Number, [-3.0, 0, 7.5, -SEVERAL], [float("-inf"), "x", None, SEVERAL / torch.tensor([0.0, 1.0])]),
    (OnePositive, [0.1, 2], [0.0, SEVERAL]),
    (OneNotNegative, [0.0], [-1.0, SEVERAL]),
    (OneShare, [0, 1.0], [1.5, SEVERAL]),
    (Count, [1, 7], [0, -1, 1.5, 2.0, True, SEVERAL]),
    (Positive | None, [None, 0.2, SEVERAL], [0.0, "x"]),
    (OnePositive | None, [None, 2.0], [0.0, SEVERAL]),
    (Literal["a", "b"], ["a", "b"], ["c", None, 1, SEVERAL]),
    (Literal["a"] | None, ["a", None], ["b"]),
    (bool, [True, False], [1, 0, "true", None]),
    (float, [1, -2.5], ["x", SEVERAL, float("nan")]),
    (int, [0, -3], [0.5]),
    (Any, [None, "x", SEVERAL, -1], []),
]


@pytest.mark.parametrize(("hint", "good", "bad"), CASES)
def test_what_a_type_allows(hint: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check("x", value, kind(hint))
    for value in bad:
        with pytest.raises(UserError, match="`x`"):
            check("x", value, kind(hint))


def test_what_a_type_says_is_shared_and_cannot_be_changed() -> None:
    assert kind(Positive) is kind(Positive)
    with pytest.raises(FrozenInstanceError):
        kind(Positive).range = None  # type: ignore[misc]


def test_only_types_that_allow_a_tensor_are_per_run() -> None:
    assert all(kind(h).per_run for h in (Positive, NotNegative, Share, Number, Positive | None, float | Tensor))
    assert not any(kind(h).per_run for h in (OnePositive, OneShare, Count, float, bool, Literal["a"], OneShare | None))


def test_of_the_methods_in_the_tree() -> None:
    assert METHODS["dpo"].per_run == {"beta", "smoothing", "threshold", "negative", "kl"}
    assert METHODS["ppo"].per_run == {"clip", "clip_high", "discount", "lam", "negative", "kl"}
    assert METHODS["rest"].per_run == {"threshold", "negative", "kl"}  # a quantile is one for all
    every = {name for row in METHODS.values() for part in row.parts for name in hyper_parameters(part)}
    assert every == {name for row in METHODS.values() for name in row.defaults} and len(every) > 20
    for row in METHODS.values():  # every hyper-parameter of the package says what it may be
        for part in row.parts:
            for name, (default, wanted) in hyper_parameters(part).items():
                assert wanted.choices or wanted.range or name in ("threshold", "gamma", "whiten"), name
                check(name, default, wanted)


def test_a_default_out_of_its_range_is_refused_in_a_row() -> None:
    with pytest.raises(UserError, match="`smoothing`"):
        METHODS["dpo"].override(smoothing=-0.1)
    with pytest.raises(UserError, match="this method has no `smooth`"):
        type(METHODS["dpo"])(METHODS["dpo"].objective, options={"smooth": 0.1})


def test_hyper_parameters_of_a_replaced_part_go_with_it() -> None:
    assert METHODS["cdpo"].override(objective="ipo").defaults == {"tau": 0.1, "threshold": 0.0}
    assert METHODS["dpo"].override(threshold=0.2).override(objective="ipo").defaults["threshold"] == 0.2


def test_a_type_that_cannot_be_resolved_is_named() -> None:
    def loss(logp: Tensor, *, beta: Nowhere = 0.1) -> Tensor:  # type: ignore[name-defined]  # noqa: F821
        return logp

    with pytest.raises(UserError, match=r"(?s)Nowhere.*test_ranges\..*loss.*import it"):
        hyper_parameters(loss)
