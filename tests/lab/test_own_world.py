"""A world in a user's own file, by `module:Class`: through settings, a sweep on workers, the store and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.lab.pool import LocalPool
from prefloop.lab.setting import changed, make, stacks
from prefloop.lab.store import Store
from prefloop.lab.sweep import sweep
from prefloop.worlds.spec import worlds

WORLD = '''
"""Dice: a table over six sides; the reward is the side over five."""

from dataclasses import dataclass
from typing import Annotated

import torch

from prefloop.core.batch import Batch
from prefloop.policies.categorical import Categorical
from prefloop.worlds.rewarded import Rewarded
from prefloop.worlds.spec import PER_RUN, Built, Positive, Stack


@dataclass(frozen=True)
class Dice:
    """A die."""

    scale: Annotated[Positive, PER_RUN] = 1.0
    "what the highest side is worth"

    runs_per_stack, cost, tokens, ceiling = 4, 0.1, 1, 1.0

    def fingerprint(self):
        return None

    def about(self):
        return "six sides"

    def check(self, method):
        pass

    def build(self, stack: Stack) -> Built:
        runs, scale = len(stack.seeds), stack.each("scale")
        policy = Categorical(torch.zeros(runs, 1, 1, 6, dtype=stack.dtype))

        def draw(start, count, rng):
            return torch.zeros(runs, count, dtype=torch.long)

        def gold(batch: Batch):
            return (scale[:, None, None] * batch.responses[..., 0] / 5).to(stack.dtype)

        def evaluate(policy, reference, rng):
            return {"eval/gold": policy.distribution(draw(0, 1, rng)).exp()[:, 0, -1].double()}

        return Built(stack.method, policy, policy.reference(), Rewarded(draw, gold), evaluate)
'''
SMALL = {"responses": 4, "batch": 16, "minibatch": 16, "steps": 6, "evaluate": 3, "lr": 0.1}


@pytest.fixture
def dice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_dice.py").write_text(WORLD, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "my_dice:Dice"


def test_it_runs_on_workers_and_comes_back_from_the_store(dice: str, tmp_path: Path) -> None:
    settings = [make("rloo", dice, seed=s, scale=1.0 + s, **SMALL) for s in (0, 1)]
    assert settings[0].problem == dice and len(stacks(settings)) == 1
    pool = LocalPool(1)
    try:
        runs = sweep(settings, Store(tmp_path / "runs"), pool, quiet=True)
    finally:
        pool.close()
    assert all(run.last("eval/gold") > 1 / 6 + 0.01 for run in runs)
    again = Store(tmp_path / "runs")
    assert [again[s].setting for s in settings] == settings


def test_its_fields_are_flags(dice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"lab --problem {dice} --method rloo --scale 1,2 --iterations 2 --seeds 2 --workers 1 --json".split()
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads(capsys.readouterr().out)["cells"]
    assert [row["differs"] for row in rows] == [{"scale": 1.0}, {"scale": 2.0}]
    assert main([*words, "--reward", "far", "--out", str(tmp_path / "out")]) == 2
    assert "`--reward` does not apply to the problem `my_dice:Dice`" in capsys.readouterr().err


def test_mistakes_in_it_are_named(dice: str) -> None:
    with pytest.raises(UserError, match="`scale` must be a positive number, not -1"):
        make("rloo", dice, scale=-1.0).check()
    with pytest.raises(UserError, match=r"(?s)unknown field `scal` of `my_dice:Dice`.*did you mean `scale`"):
        make("rloo", dice, scal=1.0)
    for name, message in (("my_dice:Die", "no function `Die`"), ("no_such:Dice", "no module"), ("json:loads", "lacks")):
        with pytest.raises(UserError, match=message):
            make("rloo", name)


def test_a_run_is_named_by_its_world(dice: str) -> None:
    one = make("rloo", dice)
    names = {one.run, changed(one, scale=2.0).run, *(replace(one, world=kind()).run for kind in worlds().values())}
    assert len(names) == 2 + len(worlds())
