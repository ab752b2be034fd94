"""`prefloop lab`: the grid of its flags, what a run leaves and says, and what is refused before anything runs."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from prefloop.cli import lab, lab_grid, lab_result, methods
from prefloop.cli.main import main
from prefloop.lab import forecast as forecast_module
from prefloop.lab import store as store_module
from prefloop.lab import sweep as sweep_module
from prefloop.lab.forecast import Forecast
from prefloop.lab.pool import LocalPool
from prefloop.lab.setting import Setting, make
from prefloop.lab.stack import Run
from prefloop.lab.store import flat, read
from prefloop.lab.summary import TUNING, Cell
from prefloop.report import chart as chart_module
from prefloop.report import svg
from toys import unchecked

OF_LENGTHS = ("eval/length", "eval/cut")  # which runs on the other problems do not have
MEASURED = (*lab_result.COLUMNS, *lab_result.UNSHOWN, "reward_queries", "diverged")
COLUMNS = tuple(c for c in MEASURED if c not in OF_LENGTHS)


def words(text: str) -> list[str]:
    return text.split()


ASKED = words("--problem arms --policy tabular --contexts 4 --method best_of_n,online_dpo --iterations 6")
TUNED = words("--lr 1e-2,1e-1 --tuning-seeds 1 --seeds 2 --workers 1")


@dataclass
class Said:
    code: int
    out: str
    err: str


def say(*words: str) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(["lab", *words])
        except SystemExit as stop:  # the flags themselves were wrong
            code = int(stop.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may run."""

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something ran")

    monkeypatch.setattr(LocalPool, "run", never)
    monkeypatch.setattr(forecast_module, "best_size", never)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The charts that would have been drawn, by figure."""
    figures: dict[str, Any] = {}

    def draw(drawn: dict[str, Any], out: Path, *, pdf: bool = False) -> list[Path]:
        figures.update(drawn)
        return [out / f"{name}.svg" for name in drawn]

    monkeypatch.setattr(svg, "draw", draw)
    return figures


def made(setting: Setting, reward: float = 0.5, **ends: float) -> Run:
    """A run by hand: everything rises from 0 to 1 but the reward, which is what is asked for, and what is named."""
    curves = {name: np.array([0.0, 1.0]) for name in COLUMNS} | {"step": np.array([0.0, setting.steps])}
    curves |= {k: np.array([0.1, reward]) for k in ("eval/reward", "eval/gold")} | {"diverged": np.zeros(2)}
    return Run(setting, curves | {name: np.array([0.0, end]) for name, end in ends.items()})


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Setting]]:
    """The settings that a command line asks for, in their order; nothing runs, and nothing is written."""
    asked: list[Setting] = []

    def sweep(settings: Sequence[Setting], *args: Any, **kwargs: Any) -> list[Run]:
        asked.extend(settings)
        return [made(s) for s in settings]

    def call(*words: str) -> list[Setting]:
        asked.clear()
        done = say(*words, "--quiet", "--out", str(tmp_path))
        assert (done.code, done.out, done.err) == (0, "", "")
        return list(asked)

    monkeypatch.setattr(sweep_module, "sweep", sweep)
    monkeypatch.setattr(lab, "write", lambda cells, rows, out, *, pdf: [])
    return call


# ------------------------------------------------------------------------------------------------------------ the grid


def test_the_grid_is_the_product_of_its_lists(grid: Callable[..., list[Setting]]) -> None:
    got = grid(*words("--method rloo,dpo --batch 40,80 --coverage 1,0.3 --negative 0,1 --seeds 2 --iterations 2"))
    want = {
        (m, b, c, n, s) for m in ("rloo", "dpo") for b in (40, 80) for c in (1.0, 0.3) for n in (0, 1) for s in (0, 1)
    }
    assert len(got) == len(want) == 32
    assert {(s.method, s.batch, s.world.coverage, s.override["negative"], s.seed) for s in got} == want
    assert all(dict(s.override).keys() == {"negative"} and s.minibatch == s.batch for s in got)


def test_defaults(grid: Callable[..., list[Setting]]) -> None:
    got = grid()
    assert [(s.method, s.seed) for s in got] == [(m, i) for m in ("best_of_n", "online_dpo") for i in range(10)]
    assert {replace(s, seed=0, method="").run for s in got} == {
        make("", "arms", batch=100, minibatch=100, responses=10, steps=100, evaluate=5, lr=1e-3, centre=70.0).run
    }


def test_batches_follow_the_responses_and_minibatches_the_batch(grid: Callable[..., list[Setting]]) -> None:
    def sizes(*words: str) -> list[tuple[int, int, int]]:
        return [(s.responses, s.batch, s.minibatch) for s in grid("--method", "rloo", "--seeds", "1", *words)]

    assert sizes("--responses", "4,10") == [(4, 40, 40), (10, 100, 100)]
    assert sizes("--batch", "20,200") == [(10, 20, 20), (10, 200, 200)]
    assert sizes("--batch", "200", "--minibatch", "20,100") == [(10, 200, 20), (10, 200, 100)]
    assert sizes("--batch", "") == [(10, 100, 100)]


def test_rewards_have_names_or_numbers(grid: Callable[..., list[Setting]]) -> None:
    assert [s.world.centre for s in grid("--method", "rloo", "--seeds", "1", "--reward", "far,near,55")] == [70, 20, 55]
    assert [s.world.centre for s in grid("--method", "rloo", "--seeds", "1", "--reward", "70,far, 12.5")] == [70, 12.5]


def test_iterations_are_collections_and_steps_are_steps(grid: Callable[..., list[Setting]]) -> None:
    shape = words("--method rloo --seeds 1 --batch 200 --minibatch 50 --reuse 1,3")
    assert [s.steps for s in grid(*shape, "--iterations", "7")] == [28, 84]  # 4 steps of a pass, 1 or 3 passes
    assert [s.steps for s in grid(*shape, "--steps", "7")] == [7, 7]
    assert [s.steps for s in grid(*shape)] == [400, 1200]
    assert [s.evaluate for s in grid(*shape)] == [20, 60]
    assert [s.evaluate for s in grid(*shape, "--steps", "7", "--evaluate", "3")] == [3, 3]
    assert [s.evaluations for s in grid(*shape, "--steps", "7", "--spacing", "log")] == [[1, 2, 3, 4, 6, 7]] * 2


def test_hyper_parameters_are_axes_too(grid: Callable[..., list[Setting]]) -> None:
    shape = words("--method online_dpo --seeds 1")
    assert [s.override for s in grid(*shape, "--override.beta", "0.1,0.5")] == [{"beta": 0.1}, {"beta": 0.5}]
    assert [s.override for s in grid(*shape, "--override.beta=1e-3,0.001,2")] == [{"beta": 0.001}, {"beta": 2}]
    both = [s.override for s in grid(*shape, "--override.beta", "0.1,0.5", "--reuse", "1,2")]
    assert both == [{"reuse": t, "beta": b} for t in (1, 2) for b in (0.1, 0.5)]
    other = grid("--method", "ppo_critic_free", "--seeds", "1", "--override.objective", "policy_gradient")
    assert other[0].override == {"objective": "policy_gradient"}
    assert grid(*shape, "--override.mismatch_cap", "null")[0].override == {"mismatch_cap": None}
    assert grid(*shape, "--override.reuse", "2")[0].override == {"reuse": 2}


def test_the_problem_goes_into_every_cell(grid: Callable[..., list[Setting]]) -> None:
    text = "--policy linear --contexts 3 --data 7 --labels noisy --temperature 0.2 --scorer proxy --width 5,20"
    got = grid(*words(text), "--precision", "float64", "--seeds", "1", "--method", "rloo")
    assert [s.world.width for s in got] == [5, 20]
    for s in got:
        one: Any = s.world
        assert (one.policy, one.contexts, one.data, one.labels, one.temperature) == ("linear", 3, 7, "noisy", 0.2)
        assert (one.scorer, s.precision, s.problem) == ("proxy", "float64", "arms")


def test_rates_are_tried_on_seeds_of_their_own(grid: Callable[..., list[Setting]]) -> None:
    got = grid(*words("--method rloo --lr 1e-3,1e-2 --seeds 4 --tuning-seeds 2"))
    assert [(s.lr, s.seed) for s in got[:4]] == [(r, TUNING + i) for r in (1e-3, 1e-2) for i in (0, 1)]
    assert [s.seed for s in got[4:]] == [0, 1, 2, 3] and len({s.lr for s in got[4:]}) == 1
    assert len(grid(*words("--method rloo --lr 1e-3 --seeds 4 --tuning-seeds 0"))) == 4


# ---------------------------------------------------------------------------------------------------------- a real run


@dataclass
class Result:
    out: Path
    words: list[str]
    said: Said


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Eight runs on another process: two rates on one seed each, then two seeds, for two methods."""
    out = tmp_path_factory.mktemp("lab") / "new"
    words = [*ASKED, *TUNED, "--out", str(out)]
    return Result(out, words, say(*words))


NAMED = [("best_of_n", 0), ("best_of_n", 1), ("online_dpo", 0), ("online_dpo", 1)]


def compared(done: Result) -> list[Run]:
    """The runs of the comparison, from the store: those of the tuning have other seeds."""
    kept = [run for file in (done.out / "runs").glob("*.parquet") for run in read(file)]
    return sorted((r for r in kept if r.setting.seed < TUNING), key=lambda r: (r.setting.method, r.setting.seed))


def test_a_run_leaves_its_table(done: Result) -> None:
    assert done.said.code == 0
    runs = compared(done)
    assert [(r.setting.method, r.setting.seed) for r in runs] == NAMED
    for r in runs:
        assert (r.setting.world.policy, r.setting.world.contexts, r.setting.steps) == ("tabular", 4, 6)
        assert r.curves["step"].tolist() == list(range(7)) and r.last("samples") == 600
        assert (
            r.setting.lr == 0.1 and r.last("eval/gold") > r.curves["eval/gold"][0]
        )  # in six steps the larger rate is better
    kept = [run for file in (done.out / "runs").glob("*.parquet") for run in read(file)]
    assert len(kept) == 8 and {r.setting.run for r in runs} < {r.setting.run for r in kept}


def test_the_table_is_flat(done: Result) -> None:
    """One column per setting, so that any program can group by it."""
    rows = pq.read_table(done.out / "results.parquet").to_pylist()
    runs = compared(done)
    assert len(rows) == 7 * len(runs) and "setting" not in rows[0] and "override" not in rows[0]
    assert [(row["method"], row["seed"]) for row in rows[::7]] == NAMED
    for run, first in zip(runs, range(0, len(rows), 7), strict=True):
        for i, row in enumerate(rows[first : first + 7]):
            assert (row["run"], row["problem"], row["policy"], row["contexts"]) == (
                run.setting.run,
                "arms",
                "tabular",
                4,
            )
            assert (row["lr"], row["batch"], row["steps"], row["step"]) == (0.1, 100, 6, i)
            assert (row["on_policy"], row["reuse"], row["negative"], row["kl"]) == (1.0, 1, 1.0, 0.0)
            assert row["eval/gold"] == run.curves["eval/gold"][i]


def test_columns_of_runs_that_differ_in_their_fields(tmp_path: Path) -> None:
    one = make("dpo", "arms", {"beta": 0.5, "objective": "dpop"}, steps=5)
    two = make("rloo", "arms", {"negative": 0}, steps=5, centre=20.0)
    short = replace(made(two), curves={k: v for k, v in made(two).curves.items() if k != "ess"})
    (tmp_path / "a").write_bytes(flat([made(one), short]))
    rows = pq.read_table(tmp_path / "a").to_pylist()
    assert [row["beta"] for row in rows] == [0.5, 0.5, None, None] and rows[0]["objective"] == "dpop"
    assert [row["centre"] for row in rows] == [70, 70, 20, 20] and [row["negative"] for row in rows] == [1, 1, 0, 0]
    assert [row["on_policy"] for row in rows] == [0, 0, 1, 1]
    assert rows[0]["ess"] == 0.0 and np.isnan(rows[2]["ess"])
    (tmp_path / "b").write_bytes(flat([Run(one, {"step": np.zeros(2), "batch": np.ones(2)})]))
    assert pq.read_table(tmp_path / "b").to_pylist()[0]["setting.batch"] == 100  # a metric of that name is a metric


def test_columns_of_numbers_and_words_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def column(*values: Any) -> list[Any]:
        given = iter(values)
        monkeypatch.setattr(store_module, "settings_of", lambda setting: {"a": next(given)})
        table = pq.read_table(io.BytesIO(flat([made(make("dpo", "arms", steps=5)) for _ in values])))
        return table["a"].to_pylist()[::2]  # type: ignore[no-any-return]

    assert column(0.5, True) == ["0.5", "True"] and column("a", 1, None) == ["a", "1", None]
    assert column(1, 0.5) == [1, 0.5] and column(None, None) == [None, None] and column(True, None) == [True, None]


def test_the_summary_is_that_of_the_runs(done: Result) -> None:
    text = (done.out / "summary.json").read_text(encoding="utf-8")
    rows = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    runs = compared(done)
    assert [row["method"] for row in rows] == ["best_of_n", "online_dpo"]
    for row, pair in zip(rows, (runs[:2], runs[2:]), strict=True):
        ends = sorted(r.last("eval/gold") for r in pair)
        assert row["reward"] == pytest.approx(sum(ends) / 2)
        assert [row["low"], row["high"]] == pytest.approx(ends)  # a quarter of the resamples are the same seed twice
        assert row["over_training"] == pytest.approx(sum(r.mean("eval/gold") for r in pair) / 2)
        assert row["eval/kl_reverse_exact"] == pytest.approx(sum(r.last("eval/kl_reverse_exact") for r in pair) / 2)
        assert (row["seeds"], row["diverged"], row["steps"], row["samples"]) == (2, 0, 6, 600)
        assert (row["lr"], row["lr_at_edge"], row["differs"]) == (0.1, True, {})
        assert done.said.out.count(f"{row['reward']:.3f} [{row['low']:.3f}, {row['high']:.3f}]") == 1


def test_the_table_names_what_it_shows(done: Result) -> None:
    lines = done.said.out.splitlines()
    assert any("method" in line and "reward, IQM [95 %]" in line for line in lines)
    assert sum("0.1*" in line for line in lines) == 2 and any("lowest or highest learning rate" in x for x in lines)
    assert lines[-1] == f"files: {done.out / 'results.parquet'}, summary.json, reward.svg"
    assert "…" not in done.said.out


def test_the_figure_is_svg(done: Result) -> None:
    root = ElementTree.parse(done.out / "reward.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and len(root.findall(".//{*}path")) > 10


def test_once_more_computes_nothing_and_says_the_same(done: Result, idle: None) -> None:
    before = {p.name: p.read_bytes() for p in done.out.iterdir() if p.is_file()}
    again = say(*done.words)
    assert (again.code, again.out, again.err) == (0, done.said.out, "")
    assert {p.name: p.read_bytes() for p in done.out.iterdir() if p.is_file()} == before


def test_json_is_one_object(done: Result, idle: None, undrawn: dict[str, Any]) -> None:
    said = say(*done.words, "--json")
    told = json.loads(said.out)
    assert said.out.count("\n") == 1 and said.err == ""
    rows = json.loads((done.out / "summary.json").read_text(encoding="utf-8"))
    assert told == {"out": str(done.out), "cells": rows}


def test_quiet_says_nothing(done: Result, idle: None, undrawn: dict[str, Any]) -> None:
    for flag in ("--quiet", "-q"):
        said = say(*done.words, flag)
        assert (said.code, said.out, said.err) == (0, "", "")


def test_a_plan_knows_what_is_there(done: Result, idle: None) -> None:
    """Also which rate was chosen: not the first."""
    assert json.loads(say(*done.words, "--plan", "--json").out) == {
        "runs": 8, "to_compute": 0, "stacks": 0, "seconds": 0.0, "bytes": 0,
    }  # fmt: skip
    assert say(*done.words, "--plan").out.startswith("8 runs, 0 not computed yet")


# ------------------------------------------------------------------------------------------------------------ the plan


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, idle: None) -> list[list[list[Setting]]]:
    """The jobs that were asked about; they take 75 seconds and three gibibytes, however many there are."""
    seen = []

    def forecast(jobs: list[list[Setting]], workers: int, say: Any, device: str) -> Forecast:
        seen.append(jobs)
        return Forecast(sum(map(len, jobs)), len(jobs), 75.0, 3 * 2**30)

    monkeypatch.setattr(forecast_module, "forecast", forecast)
    return seen


def test_a_plan_says_runs_time_and_memory_and_stops(planned: list[list[list[Setting]]], tmp_path: Path) -> None:
    said = say(*ASKED, *TUNED, "--plan", "--stack", "3", "--out", str(tmp_path))
    assert said.code == 0
    assert said.out == (
        "8 runs, 8 not computed yet, in 4 stacks on 1 workers\n"
        "predicted from a few steps of each: 1 min 15 s and 3.0 GiB\n"
    )
    assert [len(job) for job in planned[0]] == [3, 3, 1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["runs"] and list((tmp_path / "runs").iterdir()) == []


def test_a_plan_in_json_is_numbers(planned: list[list[list[Setting]]], tmp_path: Path) -> None:
    said = say(*ASKED, "--seeds", "5", "--plan", "--json", "--out", str(tmp_path))
    assert json.loads(said.out) == {
        "runs": 10, "to_compute": 10, "stacks": 2, "seconds": 75.0, "bytes": 3 * 2**30,
    }  # fmt: skip
    assert say(*ASKED, "--plan", "--quiet", "--out", str(tmp_path)).out == ""


def test_a_stack_size_can_be_measured(
    planned: list[list[list[Setting]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_module, "best_size", lambda one, say, device: (4, {1: 0.002, 4: 0.0005}))
    said = say(*ASKED, "--plan", "--stack", "auto", "--out", str(tmp_path))
    assert said.out.startswith("stack size: 1: 2.00 ms per run and step, 4: 0.50 ms per run and step → 4\n")
    assert [len(job) for job in planned[0]] == [4, 4, 4, 4, 2, 2]
    assert json.loads(say(*ASKED, "--plan", "--stack", "auto", "--json", "--out", str(tmp_path)).out)["stacks"] == 6


# ------------------------------------------------------------------------------------------------------ what is refused

REFUSED = {
    "unknown method": ("--method best_of_m", "did you mean `best_of_n`?"),
    "M does not divide B": ("--batch 100 --minibatch 60", "M must divide batch B=100"),
    "C does not divide M": ("--batch 105", "responses C=10 must divide minibatch M=105"),
    "a hole in a list": ("--batch 64,", "empty value in the list\n  where: --batch 64,"),
    "a hole in the rates": ("--lr 1e-3,,1e-2", "empty value in the list\n  where: --lr 1e-3,,1e-2"),
    "a hole in an override": ("--override.beta 0.1,", "empty value in the list\n  where: --override.beta 0.1,"),
    "no whole number": ("--batch 64.5", "`batch` must be a whole number, not 64.5"),
    "no number": ("--on-policy much", "`on_policy` must be a number, not 'much'"),
    "no rate": ("--lr fast", "`lr` must be a number, not 'fast'"),
    "rate 0": ("--lr 1e-3,0", "`lr` must be a positive number, not 0.0"),
    "rate nan": ("--lr nan", "`lr` must be a number, not 'nan'"),
    "no reward": ("--reward fra", "`reward` cannot be 'fra'\n  where: --reward\n  fix:   far, near, or a number"),
    "unknown override": (
        "--method rwr --override.bta 1",
        "this method has no `bta`\n  where: --method rwr\n  fix:   did you mean `beta`?",
    ),
    "override is no number": ("--method online_dpo --override.beta big", "`beta` must be a number, not 'big'"),
    "override is no value": ("--override.beta [1", "invalid YAML"),
    "override without value": ("--override.beta", "`--override.beta` has no value"),
    "override twice": ("--override.beta 1 --override.beta 2", "`--override.beta` is given twice"),
    "override of a flag": ("--override.reward 3", "`reward` has its own flag\n  where: --override.reward"),
    "override of a flag: the fix": ("--override.on_policy 1 --on-policy 0", "fix:   --on-policy 1"),
    "override of responses": ("--override.responses 5", "fix:   --responses 5"),
    "override of an option": ("--override.problem arms", "fix:   --problem arms"),
    "a switch both ways": ("--reuse 2 --override.reuse 4", "fix:   --reuse 4"),
    "unknown problem": ("--problem bandit", "unknown problem `bandit`\n  fix:   choose one of: arms"),
    "flag of another problem": ("--peak 25", "`--peak` does not apply to the problem `arms`\n  where: --peak"),
    "unknown flag": ("--itertions 5", "unknown flag `--itertions`\n  where: command line\n  fix:   did you mean `--it"),
    "unknown bare flag": ("--zzyzx", "unknown flag `--zzyzx`\n  where: command line\n  fix:   --help lists"),
    "a word too many": ("--seeds 2 rloo", "unexpected argument `rloo`"),
    "no worker": ("--workers 0", "`workers` cannot be 0\n  where: --workers\n  fix:   use 1 or more"),
    "no runs in a stack": ("--stack 0", "`stack` cannot be 0\n  where: --stack"),
    "stack is no number": ("--stack large", "`stack` cannot be large\n  where: --stack"),
    "no seed": ("--seeds 0", "`seeds` cannot be 0\n  where: --seeds"),
    "too many seeds": ("--seeds 1001", "would overlap with the tuning seeds"),
    "no tuning seed": ("--lr 1e-3,1e-2 --tuning-seeds 0", "`tuning_seeds` cannot be 0\n  where: --tuning-seeds"),
    "negative": ("--negative 1.5", "`negative` must be a share between 0 and 1, not 1.5"),
    "negative nan": ("--negative nan", "`negative` must be a number, not 'nan'"),
    "coverage": ("--coverage 1.5", "`coverage` must be a share between 0 and 1, not 1.5"),
    "reuse": ("--reuse 0", "`reuse` must be at least 1, not 0"),
    "policy of another problem": ("--policy gpt", "`policy` cannot be 'gpt'"),
    "table without contexts": ("--policy tabular", "a table needs a fixed list of contexts"),
    "no step": ("--steps 0", "`steps` must be a whole number of at least 1, not 0"),
    "no iteration": ("--iterations 0", "`iterations` cannot be 0\n  where: --iterations"),
    "no evaluation": ("--evaluate 0", "`evaluate` must be a whole number of at least 1, not 0"),
    "the second cell": ("--method rloo,dpo --responses 10,0", "`responses` must be a whole number of at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_mistakes_are_refused_before_any_run(name: str, idle: None, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    out = tmp_path / "lab"
    with unchecked():
        said = say(*words(text), "--out", str(out))
    assert said.code == 2 and said.out == ""
    assert said.err.startswith("error: ") and message in said.err
    assert not out.exists()


def test_a_method_must_be_named(idle: None, tmp_path: Path) -> None:
    said = say("--method", "", "--out", str(tmp_path))
    assert said.code == 2 and "empty value in the list" in said.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--steps 5 --iterations 100", "exclude each other"),
        ("--steps 5 --iterations 7", "exclude each other"),
        ("--seeds many", "`seeds` must be a whole number, not 'many'"),
        ("--batch", "`--batch` has no value"),
    ],
)
def test_flags_that_make_no_sense(text: str, message: str, idle: None, tmp_path: Path) -> None:
    said = say(*words(text), "--out", str(tmp_path))
    assert said.code == 2 and said.out == "" and message in said.err


def test_the_folder_may_not_be_a_file(idle: None, tmp_path: Path) -> None:
    (tmp_path / "lab").write_text("mine")
    said = say("--out", str(tmp_path / "lab"))
    assert said.code == 2 and "the output folder is a file" in said.err and (tmp_path / "lab").read_text() == "mine"


# ----------------------------------------------------------------------------------------------------------- the table


def cells() -> list[Cell]:
    """Six cells of long names, of which one has diverged, with numbers of every length."""
    settings = [
        make(method, "arms", {"negative": n, "kl": k}, batch=b, minibatch=b, centre=c, steps=100_000)
        for method, n, k in (("best_of_n_negative", 0.0, 0.05), ("ppo_critic_free", 1.0, 0.1))
        for b, c in ((100, 70.0), (12800, 20.0), (100, 20.0))
    ]
    ends = {"eval/kl_reverse_exact": 12.3456, "eval/kl_forward_exact": 1.2e-7, "samples": 1_280_000.0}
    ends |= {"passes": 12.5, "push/down": 0.0123}
    return [
        Cell(s, [made(replace(s, seed=i), 0.25 + i / 4, diverged=float(j == 1), **ends) for i in range(3)], {})
        for j, s in enumerate(settings)
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_no_heading_and_no_number_is_cut(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(methods, "PIPE", width)
    lab_result.show(lab_result.records(cells()))
    shown = capsys.readouterr().out
    assert "…" not in shown and all(len(line) <= width for line in shown.splitlines())
    assert shown.count("0.500 [0.250, 0.750]") == 6 and shown.count("3 diverged") == 1
    assert all(title in shown for title in ("lr", "reward, IQM [95 %]", "seeds"))
    if width >= 80:
        whole = shown.replace("\n", " ")
        assert all(name in whole for name in ("best_of_n_negative", "ppo_critic_free", "kl", "negative", "batch"))
    if width == 200:
        assert all(number in shown for number in ("12.3", "1.2e−7", "1.28e6", "12.5", "0.0123", "100,000"))
        assert "not shown" not in shown
    else:
        assert "not shown: " in shown and "(use a wider screen, or --format csv)" in " ".join(shown.split())


def test_a_switch_is_not_taken_for_what_is_measured() -> None:
    """`kl` is a weight that differs, and also the measured KL."""
    rows = lab_result.records(cells())
    assert [row["differs"]["kl"] for row in rows] == [0.05] * 3 + [0.1] * 3
    assert {row["eval/kl_reverse_exact"] for row in rows} == {12.3456}
    assert [list(row["differs"]) for row in rows] == [["batch", "centre", "negative", "kl"]] * 6
    assert lab_result.label(rows[0]) == "best_of_n_negative batch=100 centre=70 negative=0 kl=0.05"
    assert len({lab_result.label(row) for row in rows}) == 6


def test_the_table_has_the_words_that_were_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """Their numbers are in the files, under the names of the fields."""
    some = [Cell(s, [made(s)], {}) for s in (make("rloo", "arms", centre=c, steps=5) for c in (70.0, 20.0, 55.0))]
    rows = lab_result.records(some)
    assert [row["differs"] for row in rows] == [{"centre": 70.0}, {"centre": 20.0}, {"centre": 55.0}]
    assert lab_result.table(rows, "csv").startswith("method,centre,")
    people = lab_result.readable(some, rows)
    assert [row["differs"] for row in people] == [{"reward": "far"}, {"reward": "near"}, {"reward": 55.0}]
    lab_result.show(people)
    shown = capsys.readouterr().out
    assert "centre" not in shown and all(word in shown for word in ("far", "near", "55"))


def test_the_clipped_share_is_that_of_the_whole_training() -> None:
    """The last step of a collection alone may clip nothing."""
    one = make("grpo", "arms", steps=5)
    runs = [made(one, **{"clip_ratio/region_mean": end}) for end in (0.2, float("nan"), 0.6)]
    (row,) = lab_result.records([Cell(one, runs, {})])
    assert row["clip_ratio/region_mean"] == pytest.approx((0 + 0.2 + 0 + 0 + 0.6) / 5) and row["samples"] == 1.0
    assert "clipped,\nmean" in lab_result._columns([row])
    (none,) = lab_result.records([Cell(one, [made(one)], {})])
    assert none["clip_ratio/region_mean"] == 0.5


def test_what_is_no_number_is_null_in_json(tmp_path: Path, undrawn: dict[str, Any]) -> None:
    broken = make("rloo", "arms", steps=5)
    lost = [
        Cell(broken, [made(broken, float("nan"), **{"eval/kl_reverse_exact": float("inf"), "ess": float("-inf")})], {})
    ]
    lab_result.write(lost, lab_result.records(lost), tmp_path)
    (row,) = json.loads((tmp_path / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [row[k] for k in ("reward", "low", "high", "over_training", "eval/kl_reverse_exact", "ess")] == [None] * 6
    assert row["passes"] == 1.0 and row["seeds"] == 1


def drawn(settings: list[Setting], undrawn: dict[str, Any], out: Path, **ends: Callable[[Setting], float]) -> list[Any]:
    """Charts of runs by hand, with the ends of their costs by setting."""
    found = [Cell(s, [made(s, **{k: end(s) for k, end in ends.items()})], {}) for s in settings]
    lab_result.write(found, lab_result.records(found), out)
    return list(undrawn["reward"])


def test_many_cells_are_drawn_in_panels_of_few_lines(undrawn: dict[str, Any], tmp_path: Path) -> None:
    settings = [make("rloo", "arms", {"kl": 0.1 * i}) for i in range(11)]
    charts = drawn(settings, undrawn, tmp_path)
    assert [(len(chart.lines), chart.x) for chart in charts] == [(8, "gradient steps"), (3, "gradient steps")]
    assert [line.label for chart in charts for line in chart.lines] == [f"rloo kl={0.1 * i:.3g}" for i in range(11)]


def test_a_field_of_the_problem_has_a_panel_for_each_value(undrawn: dict[str, Any], tmp_path: Path) -> None:
    settings = [make(name, "arms", centre=c) for name in ("rloo", "dpo") for c in (20.0, 70.0)]
    charts = drawn(settings, undrawn, tmp_path)
    assert [chart.title for chart in charts] == ["reward = near", "reward = far"]
    assert [[line.label for line in chart.lines] for chart in charts] == [["rloo", "dpo"]] * 2
    one = drawn(settings[:2], undrawn, tmp_path)  # a panel with one line would compare nothing
    assert [chart.title for chart in one] == ["Gold reward"]
    assert [line.label for line in one[0].lines] == ["rloo reward=near", "rloo reward=far"]


def test_no_panel_is_drawn_twice(undrawn: dict[str, Any], tmp_path: Path) -> None:
    """Costs have a panel if they are not the steps, or each other, on another scale."""
    settings = [make(name, "arms", {"negative": n}) for name in ("rloo", "dpo") for n in (0, 1)]

    def axes(samples: Callable[[Setting], float], queries: Callable[[Setting], float]) -> list[tuple[str, int]]:
        charts = drawn(settings, undrawn, tmp_path, samples=samples, reward_queries=queries)
        return [(chart.x, len(chart.lines)) for chart in charts]

    steps, offline = ("gradient steps", 4), " (none in offline methods)"
    assert axes(lambda s: 600, lambda s: 600) == [steps]
    assert axes(lambda s: 600 if s.method == "rloo" else 0, lambda s: 0) == [steps]
    assert axes(lambda s: 600 + s.override["negative"], lambda s: 600 + s.override["negative"]) == [
        steps, ("responses sampled", 4),
    ]  # fmt: skip
    assert axes(lambda s: 600, lambda s: 600 + s.override["negative"]) == [steps, ("reward queries", 4)]
    assert axes(lambda s: 1 + s.override["negative"], lambda s: 2 - s.override["negative"]) == [
        steps, ("responses sampled", 4), ("reward queries", 4),
    ]  # fmt: skip
    mixed = axes(lambda s: (600 + s.override["negative"]) * (s.method == "rloo"), lambda s: 1)
    assert mixed == [steps, (f"responses sampled{offline}", 2)]


def test_bands_end_at_the_ceiling_and_are_of_the_statistic_of_the_table(
    undrawn: dict[str, Any], tmp_path: Path
) -> None:
    one = make("rloo", "arms", steps=5)
    cells = [Cell(one, [made(replace(one, seed=i), reward=r) for i, r in enumerate((0.2, 0.9, 1.0, 1.0))], {})]
    (row,) = lab_result.records(cells)
    lab_result.write(cells, [row], tmp_path)
    (chart,) = undrawn["reward"]
    numbers = chart_module.numbers(chart.lines[0], chart.range)
    assert (
        chart.range == (None, 1.0) and numbers.high.max() <= 1 and "interquartile mean over 4 seeds" in chart.interval
    )
    assert numbers.y[-1] == pytest.approx(row["reward"]) == pytest.approx(0.95)


# --------------------------------------------------------------------------------------------------- for papers


def test_the_table_in_other_formats(done: Result, idle: None, undrawn: dict[str, Any]) -> None:
    said = {name: say(*done.words, "--format", name).out for name in ("csv", "md", "latex")}
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    summary = json.loads((done.out / "summary.json").read_text(encoding="utf-8"))
    for row, known in zip(rows, summary, strict=True):
        assert row["method"] == known["method"] and row["lr_at_edge"] == "True" and row["eval/length"] == ""
        assert all(float(row[k]) == known[k] for k in ("reward", "low", "high", "lr", "eval/kl_reverse_exact"))
    lines = said["md"].splitlines()
    assert lines[0].startswith("| method | lr | reward, IQM [95 %] |") and len(lines) == 6
    assert lines[-1] == "\\* the lowest or highest learning rate: try a wider range"
    tex = said["latex"].splitlines()
    assert tex[0] == "\\begin{tabular}{l" + "r" * (lines[0].count("|") - 2) + "}" and tex[1] == "\\toprule"
    assert tex[4].startswith("best\\_of\\_n & 0.1* & ") and tex[4].endswith(" \\\\")
    assert "reward, IQM [95 \\%]" in tex[2] and tex[-1].startswith("% * the lowest") and "π" not in said["latex"]


def test_the_figure_as_pdf(done: Result, idle: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    said = say(*done.words, "--pdf")
    assert (done.out / "reward.pdf").read_bytes().startswith(b"%PDF") and "reward.svg, reward.pdf" in said.out
    (done.out / "reward.pdf").unlink()


def test_what_a_method_has_not_is_said_with_its_name(idle: None, tmp_path: Path) -> None:
    said = say(*words("--method rloo,dpo --override.beta 0.1"), "--out", str(tmp_path))
    assert said.code == 2 and "no `beta`" in said.err and "where: --method rloo" in said.err


# ------------------------------------------------------------------------------------------------------------ the help


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys; from prefloop.cli.main import main\ntry: main(['lab', '--help'])\nfinally: print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    page, _, modules = shown.rstrip().rpartition("\n")
    assert not {"torch", "transformers", "numpy", "scipy", "matplotlib", "rich"} & set(modules.split())
    assert all(
        f"--{name.replace('_', '-')} LIST" in page for name in ("method", "lr", *lab_grid.PORTIONS, *lab_grid.SWITCHES)
    )
    assert all(flag in page for flag in ("--plan", "--override NAME=LIST", "--stack", "--workers", "--json", "--quiet"))


def test_a_mistake_in_a_count_needs_no_torch() -> None:
    code = (
        "import sys; from prefloop.cli.main import main; print(main(['lab', '--seeds', '0']), 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout == "2 False\n"


# ---------------------------------------------------------------------------------------------------------- --lr auto


def peaked(at: float) -> Callable[..., list[Run]]:
    """A sweep in which the reward has its peak at log10 of a learning rate; the highest rates diverge."""

    def sweep(settings: Sequence[Setting], *args: Any, **kwargs: Any) -> list[Run]:
        return [made(s, 0.9 - 0.2 * abs(np.log10(s.lr) - at), diverged=float(s.lr > 0.2)) for s in settings]

    return sweep


AUTO = words("--method rloo,dpo --problem arms --lr auto --seeds 2")


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch, undrawn: dict[str, Any], tmp_path: Path) -> Callable[..., Said]:
    """`--lr auto` on runs with their peak at a rate; nothing is trained."""

    def call(at: float, *more: str) -> Said:
        monkeypatch.setattr(sweep_module, "sweep", peaked(at))
        return say(*AUTO, "--out", str(tmp_path), *more)

    return call


def test_rates_are_searched(searched: Callable[..., Said], tmp_path: Path) -> None:
    said = searched(-2.5)
    assert said.code == 0 and "0.0032" in said.out and "*" not in said.out
    assert "tuning of a cell, on seeds of its own: 28 runs, 2,800 gradient steps\n" in said.out
    rows = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert [(row["lr"], row["lr_at_edge"], row["seeds"]) for row in rows] == [(3.2e-3, False, 2)] * 2
    found = rows[0]["tuning"]
    assert found["interior"] and found["runs"] == 28 and found["why"] == "learning rate 0.0032 of 0.0001 to 0.1"
    assert [(one["lr"], one["seeds"]) for one in found["tried"]][3] == (3.2e-3, 12)
    assert json.loads(searched(-2.5, "--json").out)["cells"] == rows
    assert len(searched(-2.5, "--format", "csv").out.splitlines()) == 3


def test_rates_that_break_are_said_with_their_share(searched: Callable[..., Said], tmp_path: Path) -> None:
    """The best looks outside the grid, where runs diverge."""
    assert "rloo: learning rate 0.1 of 0.0001 to 0.32" in searched(-0.9).out
    tried = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))[0]["tuning"]["tried"]
    assert [one["broke"] for one in tried] == [0.0] * 7 + [1.0]


def test_a_search_that_ends_at_an_edge_says_so(searched: Callable[..., Said]) -> None:
    said = searched(-9.0)
    assert "1e−6*" in said.out and "lowest or highest learning rate" in said.out
    assert "dpo: learning rate 1e−6 of 1e−6 to 0.1; the best is still the lowest" in said.out


def test_a_plan_foresees_the_search(planned: list[list[list[Setting]]], tmp_path: Path) -> None:
    said = say(*AUTO, "--plan", "--out", str(tmp_path))
    assert said.out.startswith("60 runs, 60 not computed yet") and said.out.splitlines()[-1].startswith("at least: ")
    jobs = [s for job in planned[0] for s in job]
    assert {s.seed for s in jobs} == {0, 1, *range(TUNING, TUNING + 12)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--lr auto,1e-3", "auto chooses the learning rates itself\n  where: --lr auto,0.001"),
        ("--lr auto --tuning-seeds 3", "auto has numbers of seeds of its own\n  where: --tuning-seeds"),
        ("--lr true", "`lr` must be a number, not True"),
    ],
)
def test_auto_is_alone(text: str, message: str, idle: None, tmp_path: Path) -> None:
    said = say(*words(text), "--out", str(tmp_path / "lab"))
    assert said.code == 2 and message in said.err
