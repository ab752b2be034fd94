"""Separation of held-out labels: the area under the ROC curve by its definition, and DeLong's standard error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.analysis.labels import label_metrics, separation


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_the_area_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    good, bad = ([v for v, label in rows if label is kind] for kind in (True, False))
    if not (good and bad):
        return
    value, label = torch.tensor([float(v) for v, _ in rows]), torch.tensor([x for _, x in rows])
    share = np.mean([(g > b) + (g == b) / 2 for g in good for b in bad])
    assert separation(value, label).auc == pytest.approx(share)
    assert separation(-value, label).auc == pytest.approx(1 - share)


def test_the_standard_error_is_that_of_repeated_draws() -> None:
    rng = torch.Generator().manual_seed(0)
    label = torch.arange(80) < 30
    draws = [separation(torch.randn(80, generator=rng) + 0.7 * label, label) for _ in range(600)]
    spread = float(np.std([d.auc for d in draws]))
    assert np.mean([d.se for d in draws]) == pytest.approx(spread, rel=0.1)


def test_before_training_all_rewards_tie() -> None:
    found = label_metrics(torch.zeros(4), torch.tensor([3, 5, 2, 4]), torch.tensor([True, True, False, False]))
    assert found["eval/labels/auc"] == 0.5 and found["eval/labels/longer"] == 0.75 and found["eval/labels/count"] == 4
    assert found["eval/labels/accuracy/good"] == found["eval/labels/accuracy/bad"] == 0.5


def test_accuracy_by_label_is_how_often_the_sign_is_right() -> None:
    reward = torch.tensor([1.0, -1.0, 0.0, 2.0, -3.0, -4.0, 5.0])
    good = torch.tensor([True, True, True, True, False, False, False])
    found = label_metrics(reward, torch.ones(7, dtype=torch.long), good)
    assert found["eval/labels/accuracy/good"] == 2.5 / 4
    assert found["eval/labels/accuracy/bad"] == pytest.approx(2 / 3)
