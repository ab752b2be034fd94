"""Methods that read labels: every world of the lab fills them, also under a reward that is never positive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prefloop.core.batch import Batch, Signal, reads
from prefloop.core.methods import METHODS, Method
from prefloop.core.objectives import implicit_reward
from prefloop.lab.setting import Setting, make, seeds
from prefloop.lab.stack import build, stack_of
from prefloop.worlds.lengths import build as lengths

SMALL = {"batch": 32, "minibatch": 32, "responses": 1, "data": 64, "evaluation": 4}
WORLDS = {
    "arms": make("kto", "arms", hidden=8, **SMALL),
    "sequences": make("kto", "sequences", **SMALL),
    "lengths": make("kto", "lengths", network="smoke", **SMALL),
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("PREFLOOP_CACHE", str(folder))
        lengths.reference.cache_clear()
        yield folder
        lengths.reference.cache_clear()


@reads("labels", "reference")
def unpaired(logp: Tensor, signal: Signal, batch: Batch) -> Tensor:
    """A user's own loss on single labelled responses."""
    assert batch.labels is not None
    return F.softplus(-batch.labels * implicit_reward(logp, batch))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(METHODS, "own_unpaired", Method(unpaired, on_policy=0.0, responses=1))
    return "own_unpaired"


def collected(setting: Setting) -> Batch:
    loop = build(seeds(setting, [0, 1])).loop
    loop.collect(0)
    assert loop.collection is not None
    return loop.collection


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", WORLDS)
def test_a_users_own_loss_gets_the_labels_that_kto_gets(name: str, share: float, own: str) -> None:
    setting = replace(WORLDS[name], override={"on_policy": share})
    theirs, ours = collected(setting), collected(replace(setting, method=own))
    assert theirs.labels is not None and ours.labels is not None
    assert torch.equal(theirs.labels, ours.labels)
    for labels in theirs.labels:  # of both kinds in every run
        assert set(labels.flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_reward_that_is_never_positive_has_positive_labels(share: float) -> None:
    """Lengths cost their tokens: the best score is 0, and shorter than the reference in the mean is good."""
    batch = collected(replace(WORLDS["lengths"], override={"on_policy": share}))
    assert batch.scores is not None and batch.labels is not None
    assert float(batch.scores.max()) <= 0
    one = stack_of(seeds(WORLDS["lengths"], [0, 1]))
    mean = lengths.gold_reward(one)(lengths.reference_responses(one, 256, 1)).mean((1, 2))
    assert torch.equal(batch.labels > 0, batch.scores > mean[:, None, None])


@pytest.mark.parametrize("name", WORLDS)
def test_scores_stay_scores(name: str, own: str) -> None:
    """A method that reads labels is measured by the same rewards as the others."""
    plain = replace(WORLDS[name], method="sft")
    want, got = collected(plain).scores, collected(replace(plain, method="binary_feedme")).scores
    assert want is not None and got is not None and torch.equal(want, got)


@pytest.mark.parametrize("name", WORLDS)
def test_binary_feedme_imitates_what_has_a_positive_label(name: str) -> None:
    loop = build(seeds(replace(WORLDS[name], method="binary_feedme"), [0])).loop
    loop.collect(0)
    assert loop.collection is not None and loop.signal is not None and loop.collection.labels is not None
    assert torch.equal(loop.signal.weight, (loop.collection.labels > 0).float())
