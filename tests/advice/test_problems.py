"""The problems of the advice and what actions are worth on them: the prior's ranges, budgets, resumed outcomes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prefloop.advice import kept, outcomes
from prefloop.advice.actions import ACTIONS, Feed, fed, refusal
from prefloop.advice.features import FEATURES
from prefloop.advice.in_lab import features_of, setting
from prefloop.advice.kept import line_of, measured, outcome_of, outcomes_in, stored
from prefloop.advice.outcomes import NO_GAIN, SMOKE, Outcome, Result, measure, no_headroom, tabulated
from prefloop.advice.prior import DIALS, Problem, problems
from prefloop.analysis import enumerated
from prefloop.analysis.statistics import Mean
from prefloop.core.errors import DataError, UserError
from prefloop.core.files import to_json
from prefloop.lab.pool import InProcess
from prefloop.lab.setting import Setting
from prefloop.lab.stack import Run, run_stack
from prefloop.worlds.rotated import problem as circle
from prefloop.worlds.rotated.spec import Rotated

EASY = Problem(
    7,
    Rotated(mass=0.1, arms=50, clusters=8, hidden=8, data=24, width=3.0),
    responses=2,
    steps=4,
    fresh=0.5,
    beta=0.1,
)


def test_a_run_broke_if_it_diverged_or_lost_more_than_there_was_to_gain() -> None:
    ends = (0.5, -0.9, -1.1, math.nan, -math.inf)
    one = Result(1e-3, 0.1, True, 9, tuple(max(x, 0.0) for x in ends), ends)
    assert one.broke == (False, False, True, True, True)


@pytest.mark.parametrize("world", DIALS)
def test_every_problem_can_be_run_and_lies_in_the_prior(world: str) -> None:
    for problem in problems(world, 64):
        for action in ACTIONS.values():
            one = setting(problem, action)
            one.check()
            assert one.steps * one.batch <= problem.steps * problem.batch
            if action.switches.on_policy:
                assert one.steps // action.switches.reuse * one.batch <= problem.samples
        assert 0.02 <= problem.beta <= 0.5 and 0.05 <= problem.world.coverage <= 1
        assert 32 <= problem.world.data <= 5000


def test_the_prior_covers_both_ends_of_every_dial() -> None:
    drawn = problems("rotated", 256)
    masses = [problem.world.mass for problem in drawn]
    assert min(masses) < 2e-4 and max(masses) > 0.2
    middle = math.sqrt(1e-4 * 0.3)
    assert sum(mass < middle for mass in masses) == 128  # half of a log-uniform law: the sequence is balanced
    assert {problem.world.modes for problem in drawn} == {1, 2, 3}
    assert {problem.responses for problem in drawn} == {2, 4, 10}


def test_a_longer_table_begins_with_the_shorter_one() -> None:
    assert problems("rotated", 20)[:5] == problems("rotated", 5)
    assert problems("rotated", 5, first=15) == problems("rotated", 20)[15:]
    assert len({problem.key for problem in problems("rotated", 20)}) == 20


def test_the_prior_knows_its_worlds_only() -> None:
    with pytest.raises(UserError, match="no world"):
        problems("rotten", 1)


def test_reuse_makes_more_steps_of_the_same_samples() -> None:
    problem = replace(EASY, steps=64, fresh=0.125)
    steps = {name: setting(problem, action).steps for name, action in ACTIONS.items()}
    assert steps["dpo-offline"] == 64 and steps["dpo"] == 8 and steps["dpo-reuse"] == 32


def test_data_feed_what_they_can() -> None:
    pairs, prompts, single = Feed(2, True, True), Feed(0, False, True), Feed(1, True, True)
    assert all(reason is None for reason in fed(pairs).values())
    able = {"best-of-n", "dpo", "rloo", "dpo-reuse"}
    assert {name for name, reason in fed(prompts).items() if reason is None} == able
    assert {name for name, reason in fed(single).items() if reason is None} == able
    assert "one to each" in str(refusal(ACTIONS["dpo-offline"], single))
    assert "which response is better" in str(refusal(ACTIONS["dpo-offline"], Feed(2, False, True)))
    assert "nothing scores" in str(refusal(ACTIONS["dpo"], Feed(2, False, False)))


# --------------------------------------------------------------------------------------------------------- outcomes


class Counted:
    """A bench that counts its runs, and stops after some."""

    def __init__(self, out: Path, most: int = 10**6) -> None:
        self.out, self.most, self.runs, self.quiet = out, most, 0, True
        self.pool = self
        self.workers = 1

    def run(self, jobs: Sequence[Sequence[Setting]], tick: object) -> Iterator[object]:
        for done in InProcess().run(jobs, lambda steps: None):
            if self.runs >= self.most:
                raise KeyboardInterrupt
            self.runs += len(jobs[done.job])
            yield done

    def close(self) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def two() -> Iterator[None]:
    """Two of the actions, which is as good as all of them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (outcomes, kept):
            patch.setattr(module, "ACTIONS", {name: ACTIONS[name] for name in ("dpo-offline", "rloo")})
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, int]:
    bench = Counted(tmp_path_factory.mktemp("whole"))
    outcome = measured(EASY, bench, SMOKE)
    assert outcome is not None
    return bench.out, outcome, bench.runs


def test_an_interrupted_problem_goes_on_with_the_runs_it_had_reached(
    whole: tuple[Path, Outcome, int], tmp_path: Path
) -> None:
    _, outcome, runs = whole
    first, second = Counted(tmp_path, most=6), Counted(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        measured(EASY, first, SMOKE)
    assert not list(tmp_path.rglob("*.jsonl"))
    assert measured(EASY, second, SMOKE) == outcome
    assert first.runs >= 6 and first.runs + second.runs == runs
    assert not list((tmp_path / "runs" / "advice").iterdir())
    (file,) = (path for path in (tmp_path / "advice" / "outcomes").iterdir() if "features" not in path.name)
    assert file.name == "rotated.jsonl" and len(file.read_bytes().split(b"\n")[1]) < 400


def test_a_measured_problem_is_read_from_disk(whole: tuple[Path, Outcome, int]) -> None:
    out, outcome, _ = whole
    again = Counted(out)
    assert measured(EASY, again, SMOKE) == outcome and again.runs == 0
    with pytest.raises(DataError, match="is another problem there"):
        measured(replace(EASY, beta=0.05), again, SMOKE)
    with pytest.raises(DataError, match="`runs` differ"):
        measured(EASY, again, replace(SMOKE, seeds=4))


def test_what_is_measured_by_another_process_is_waited_for_or_passed_over(
    whole: tuple[Path, Outcome, int], tmp_path: Path
) -> None:
    _, outcome, _ = whole
    folder = tmp_path / "runs" / "advice" / EASY.name
    with ThreadPoolExecutor(1) as other:
        with kept._claimed(folder, wait=False) as mine:
            assert mine and measured(EASY, Counted(tmp_path, most=0), SMOKE, wait=False) is None
            waiting = other.submit(measured, EASY, Counted(tmp_path, most=0), SMOKE)
            outcomes_in(tmp_path, "rotated", SMOKE).add(line_of(outcome))
        assert waiting.result() == outcome


def test_every_action_has_a_value_of_every_seed(whole: tuple[Path, Outcome, int]) -> None:
    _, outcome, _ = whole
    assert list(outcome.results) == ["dpo-offline", "rloo"] and not outcome.no_headroom
    for one in outcome.results.values():
        assert len(one.values) == len(one.ends) == len(one.broke) == SMOKE.seeds
        assert all(kept >= end - 1e-9 for kept, end in zip(one.values, one.ends, strict=True))  # gold is seen here
        assert one.tuning >= 6


def test_a_problem_without_headroom_is_dropped_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(settings: Sequence[Setting]) -> list[Run]:
        raise AssertionError("nothing is to be run")

    tight = replace(EASY, beta=50.0)  # the optimum hardly leaves the reference
    assert no_headroom(tight) == NO_GAIN and not no_headroom(EASY)
    monkeypatch.setattr(outcomes, "LEAST", 1e-9)
    assert "uncertain" in no_headroom(tight)
    assert measure(tight, never, SMOKE).results == {}
    assert measure(tight, never, SMOKE).alike


def test_a_run_that_diverged_has_no_end(whole: tuple[Path, Outcome, int], tmp_path: Path) -> None:
    _, outcome, _ = whole
    lost = replace(outcome.results["rloo"], ends=(math.nan, 0.1))
    line = json.loads(to_json(line_of(replace(outcome, results={**outcome.results, "rloo": lost}))))
    ends = outcome_of(line, EASY, SMOKE, tmp_path).results["rloo"].ends
    assert math.isnan(ends[0]) and ends[1] == 0.1


def test_a_line_that_was_not_completed_counts_as_not_written(whole: tuple[Path, Outcome, int], tmp_path: Path) -> None:
    out, outcome, _ = whole
    lines = outcomes_in(tmp_path, "rotated", SMOKE)
    text = outcomes_in(out, "rotated", SMOKE).path.read_bytes()
    for cut in (len(text) - 1, len(text) // 2, 5):
        lines.path.parent.mkdir(parents=True, exist_ok=True)
        lines.path.write_bytes(text[:cut])
        assert lines.read() == {}
        lines.add(line_of(outcome))
        assert lines.path.read_bytes() == text


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    lines = outcomes_in(tmp_path, "rotated", SMOKE)
    with pytest.raises(DataError, match="no outcomes"):
        stored(tmp_path, SMOKE)
    lines.path.parent.mkdir(parents=True)
    lines.path.write_text("{}\n")
    with pytest.raises(DataError, match="another version: `format`, `world`"):
        stored(tmp_path, SMOKE)
    lines.path.write_text("[]\n{}\n")
    with pytest.raises(DataError, match="not a file of outcomes"):
        lines.read()
    with pytest.raises(DataError, match="not an outcome of `rotated-0007`"):
        outcome_of({"key": kept.key_of(EASY, SMOKE)[:8], "actions": [[1, 2]]}, EASY, SMOKE, tmp_path)


def test_the_value_is_the_share_of_the_attainable_gain() -> None:
    run = run_stack([setting(EASY, ACTIONS["rloo"])])[0]
    aim = outcomes.objective(EASY)
    shares = (run.curves["eval/gold"] - 0.1 * run.curves["eval/kl_reverse_exact"] - aim.reference) / (
        aim.best - aim.reference
    )
    assert aim.early(run) == pytest.approx(max(shares)) and max(shares) <= 1.05


# ---------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("world", [{}, {"labels": "ordinal"}, {"labels": "ordinal", "scorer": "proxy"}])
def test_features_of_a_bandit_are_those_of_its_law(world: dict[str, str]) -> None:
    """The reward's spread within a prompt, and what the best of 64 gains, of the reference's law on the circle."""
    problem = replace(EASY, world=replace(EASY.world, hidden=64, **world))
    found = features_of(problem)
    assert set(found) == set(FEATURES) and all(isinstance(one, Mean) for one in found.values())
    values = {name: one.value for name, one in found.items() if isinstance(one, Mean)}
    assert values["cardinal"] == (world == {}) and values["learned"] == ("scorer" in world) and values["group"] == 1
    assert 0.5 < values["agrees"] <= 1 and 0 <= values["top_agrees"] <= 1
    assert (values["agrees"] == values["top_agrees"] == 1) == ("scorer" not in world)  # gold orders as it ordered
    if not world:
        law = circle.reference_law(50)
        reward = circle.reward_table(circle.distance(0.1, 3.0, 50), 3.0, 1, 50)
        spread = float(((law * reward**2).sum() - (law * reward).sum() ** 2).sqrt())
        best = float(enumerated.best_of(law.log()[None], reward[None], 64)[0])
        assert values["pull"] == pytest.approx(math.log(spread / 0.1), abs=0.15)  # the reference is fitted to the law
        assert values["reach"] == pytest.approx((best - float((law * reward).sum())) / spread, rel=0.15)


def test_features_of_sequences_are_measured_by_the_same_code() -> None:
    """A problem of the prior; its gold is given and its scores are shown."""
    (problem,) = problems("sequences", 1)
    small = replace(problem, world=replace(problem.world, data=64))
    values = {name: one.value for name, one in features_of(small).items() if isinstance(one, Mean)}
    assert set(values) == set(FEATURES) and values["groups"] == pytest.approx(math.log10(64))
    assert 0 < values["alike"] < 1 and values["learned"] == 0 and values["reach"] > 1


def test_outcomes_become_a_table(whole: tuple[Path, Outcome, int]) -> None:
    _, outcome, _ = whole
    table = tabulated([outcome, replace(outcome, results={}, no_headroom="nothing to gain")])
    assert len(table) == 1 and table.worlds == ("rotated",) and table.names == tuple(FEATURES)
    assert table.values.shape == table.broke.shape == (1, 2, SMOKE.seeds)
    assert np.isfinite(table.features).all()
    lost = replace(outcome.results["rloo"], values=(-97.0, 0.1))
    rest = tabulated([replace(outcome, results={**outcome.results, "rloo": lost})])
    assert rest.values[0, rest.actions.index("rloo")].tolist() == [-1.0, 0.1]
    with pytest.raises(ValueError, match="no problem"):
        tabulated([])
