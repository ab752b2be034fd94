"""The world of the how-to page in a user's own file: through settings, a sweep on workers, the store, the command."""

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

ROOT = Path(__file__).parents[2]

SMALL = {"responses": 4, "batch": 16, "minibatch": 16, "steps": 6, "evaluate": 3, "lr": 0.1}


@pytest.fixture
def dice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    page = (ROOT / "docs" / "how-to" / "own-problem.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "my_dice.py").write_text(code, encoding="utf-8")
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
    for run in runs:
        fair = run.setting.world.scale * 3.5 / 6  # type: ignore[attr-defined]
        assert run.curves["eval/gold"][0] == pytest.approx(fair, rel=1e-6) and run.last("eval/gold") > fair + 0.01
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


def test_the_lab_names_no_problem() -> None:
    """So that a new one is a folder, and no edit."""
    sources = [f.read_text(encoding="utf-8") for f in (ROOT / "src" / "prefloop" / "lab").glob("*.py")]
    words = {word.strip("`'\".,:()") for source in sources for word in source.split()}
    assert len(sources) > 5 and not words & set(worlds())
