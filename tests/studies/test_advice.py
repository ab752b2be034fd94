"""The study of the advice: what it says of made outcomes, what it measures, and that it counts as no finding."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_studies import TOLD
from prefloop.advice import fit, gain, kept, merit, outcomes, regret, rule
from prefloop.advice.actions import ACTIONS
from prefloop.advice.features import FEATURES
from prefloop.advice.kept import features_in, line_of, outcomes_in, stored
from prefloop.advice.outcomes import FULL, NO_GAIN, Outcome, Result, key_of
from prefloop.advice.prior import Problem, problems
from prefloop.advice.regret import ADVISORS
from prefloop.analysis.statistics import bootstrap
from prefloop.cli.main import main
from prefloop.core.errors import DataError
from prefloop.studies import findings, page, record
from prefloop.studies.advice import evidence, question
from prefloop.studies.advice.evidence import by_influence, counts, doubling, plateau, sizes, told
from prefloop.studies.advice.question import STUDY, Size, shown

ROOT = Path(__file__).parents[2]
N = 40
FEW = {name: ADVISORS[name] for name in ("rule", "best constant", "nearest problem", "tree of depth 3", "oracle")}


@pytest.fixture(scope="module", autouse=True)
def fast() -> Iterator[None]:
    """Fewer advisors, resamples and splits, which have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "ADVISORS", FEW)
        patch.setattr(evidence, "SIZES", (16,))
        patch.setattr(merit, "REFITS", 8)
        patch.setattr(gain, "bootstrap", partial(bootstrap, n=50))
        patch.setattr(regret, "learning_curve", partial(regret.learning_curve, repeats=2))
        yield


def outcome(problem: Problem, seed: int, planted: float = 0.2) -> Outcome:
    """On-policy actions are better where `beyond` is above 0."""
    rng = np.random.default_rng(seed)
    x = dict(zip(FEATURES, rng.normal(size=len(FEATURES)), strict=True))
    results = {}
    for name, action in ACTIONS.items():
        level = 0.5 + planted * x["beyond"] * (2 * action.switches.on_policy - 1)
        values = tuple((level + 0.02 * rng.normal(size=FULL.seeds)).tolist())
        results[name] = Result(1e-3, 0.1, seed % 2 == 0, 20, values, values)
    features = {name: {"value": float(value), "se": 0.1, "units": 64} for name, value in x.items()}
    return Outcome(problem.name, key_of(problem, FULL), "", results, features)


@pytest.fixture(scope="module")
def some() -> list[Outcome]:
    made = [outcome(problem, i) for i, problem in enumerate(problems("rotated", N))]
    lost = [replace(one, results={}, no_headroom=why) for one, why in zip(made, (NO_GAIN, "uncertain"), strict=False)]
    return [*lost, *made[2:]]


@pytest.fixture(scope="module")
def result(some: Sequence[Outcome]) -> dict[str, Any]:
    return record.record(STUDY, shown(some), **TOLD)


def table(result: dict[str, Any], title: str) -> dict[str, Any]:
    (found,) = [one for one in result["tables"] if one["title"].startswith(title)]
    return {row[0]: dict(zip(found["head"], row, strict=True)) for row in found["rows"]}


def test_a_planted_rule_is_found_and_every_question_is_answered(result: dict[str, Any]) -> None:
    said = {asked: row["answer"] for asked, row in table(result, page.ANSWERS).items()}
    assert said["mean regret of the rule on left-out problems"] == "yes"
    assert said["what the best constant action loses more than the rule"] == "yes"
    assert next(answer for asked, answer in said.items() if "best predicts" in asked) == "`beyond`"
    assert said["may the rule advise?"] == "no"  # 38 problems are too few
    assert set(table(result, "Regret with")) == set(FEW)
    assert all(next(iter(table(result, title))) == "beyond" for title in ("What decides", "Rank correlation"))
    assert next(iter(table(result, "A tree"))).startswith("beyond ≤")


def test_problems_are_counted_by_what_became_of_them(some: Sequence[Outcome], result: dict[str, Any]) -> None:
    flat = replace(some[2], results=dict.fromkeys(ACTIONS, some[2].results["dpo"]))
    bad = replace(some[3], results={k: replace(x, values=(0.0,) * FULL.seeds) for k, x in some[3].results.items()})
    found = counts([*some[:2], flat, bad, *some[4:]])["rotated"]
    assert (found.drawn, found.no_gain, found.uncertain, found.trained) == (N, 1, 1, N - 2)
    assert found.alike >= 2 and found.low >= 1
    row = table(result, "Problems")["rotated"]
    assert list(row.values())[1:5] == [N, 1, 1, N - 2]


def test_the_page_has_every_table_and_figure_and_no_claim(result: dict[str, Any], tmp_path: Path) -> None:
    page.write(result, tmp_path)
    text = (tmp_path / "advice" / page.PAGE).read_text(encoding="utf-8")
    assert text.index("mean regret of the rule") < text.index("## Design") < text.index("## Tables")
    assert text.count("mean regret of the rule") == 1 and "Rules:" not in text
    assert {path.name for path in (tmp_path / "advice").glob("*.svg")} == {"regret.svg", "learning.svg", "gain.svg"}
    assert all(f"**{one['title']}**" in text for one in result["tables"][1:])
    assert len(result["design"]) >= 10 and not result["claims"]


def test_it_is_no_finding(result: dict[str, Any], tmp_path: Path) -> None:
    whole = findings.summary([result])
    assert whole["claims"] == whole["answered"] == 0 and whole["studies"] == [] and whole["rules"] == []
    assert "No study here has findings" in findings.page(whole) and "Effects are in" not in findings.page(whole)
    findings.write_evidence([result], path=tmp_path / "evidence.json")
    assert json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))["results"] == []


def test_with_too_few_problems_it_says_so(some: Sequence[Outcome]) -> None:
    few = shown(some[:6])
    assert few.figures == {} and "20" in few.caveats[-1] and len(few.tables) == 3
    assert few.tables[0].rows[0][-1] == "not judged"
    assert len(shown(some[:2]).tables) == 2  # none was trained
    with pytest.raises(ValueError, match="too few"):
        told(outcomes.tabulated(some[:6]))


def test_two_worlds_are_left_out_in_turn(some: Sequence[Outcome]) -> None:
    other = [outcome(problem, N + i) for i, problem in enumerate(problems("sequences", 12))]
    found = told(outcomes.tabulated([*some[:20], *other]))
    assert {score.regret.units for score in found.worlds.values()} == {30}
    assert by_influence(found)[0][0] == "beyond"


def test_the_curve_ends_with_all_problems_and_may_be_flat() -> None:
    assert sizes(100) == [16, 80] and sizes(20) == [16]
    assert sizes(21) == [17]
    assert [size for size, *_ in doubling([(8, 0.3, 0.02), (32, 0.2, 0.02), (50, 0.1, 0.01)])] == [8, 50]
    assert plateau([(8, 0.3, 0.02), (16, 0.1, 0.01), (32, 0.09, 0.01)])
    assert not plateau([(8, 0.3, 0.02), (16, 0.1, 0.01)])


# ------------------------------------------------------------------------------------------------------- on disk


def written(some: Sequence[Outcome], out: Path) -> Path:
    for one in some:
        world, _, number = one.problem.rpartition("-")
        outcomes_in(out, world).add(line_of(one))
        if one.results:
            (problem,) = problems(world, 1, first=int(number))
            features = [[one.features[name]["value"], 0.1] for name in FEATURES]
            features_in(out, world).add({"problem": one.problem, "key": problem.key[:8], "features": features})
    return out


def test_what_is_on_disk_is_read_and_its_runs_are_counted(
    some: Sequence[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(some[:4], tmp_path)
    monkeypatch.setitem(question.SIZES, "small", Size({"rotated": 4}))
    monkeypatch.setattr(kept, "measure", lambda *a: pytest.fail("nothing is to be measured"))
    assert main(["study", "run", "advice", "--out", str(tmp_path), "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "20 or more" in told and "are to be measured" not in told
    (found,) = record.load(tmp_path)
    runs = 2 * len(ACTIONS) * (20 + FULL.seeds)
    assert (found["effort"]["runs"], found["effort"]["computed"]) == (runs, 0)


def test_smoke_leaves_the_outcomes_of_other_sizes_alone(
    some: Sequence[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(some[:2], tmp_path) / "advice" / "outcomes"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(kept, "measure", lambda problem, *a: replace(some[0], problem=problem.name))
    monkeypatch.setitem(question.SIZES, "smoke", Size({"rotated": 2}, outcomes.SMOKE, "smoke"))
    monkeypatch.setattr(kept, "key_of", lambda *a: some[0].key)
    assert main(["study", "run", "advice", "--size", "smoke", "--out", str(tmp_path), "--quiet"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    (file,) = (tmp_path / "smoke" / "advice" / "outcomes").glob("*.jsonl")
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3


def test_so_many_new_problems_are_measured_of_every_world_in_turn(
    some: Sequence[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        kept, "measure", lambda problem, run, scale: Outcome(problem.name, key_of(problem, scale), NO_GAIN, {})
    )
    monkeypatch.setitem(question.SIZES, "small", Size({"rotated": 20, "sequences": 10}))
    words = ["study", "run", "advice", "--out", str(tmp_path), "--workers", "1", "--problems"]
    assert main([*words, "5"]) == 0
    told = capsys.readouterr().out
    assert "5 of 30 problems" in told and "rotated-0002: dropped before training; 1 left" in told
    assert [one.problem for one in stored(tmp_path)] == [
        *(f"rotated-000{i}" for i in range(3)),
        *(f"sequences-000{i}" for i in range(2)),
    ]
    assert main([*words, "0"]) == 0 and len(stored(tmp_path)) == 5
    assert main(["study", "run", "theory", *words[3:], "1"]) == 2 and "`advice` alone" in capsys.readouterr().err


def test_a_repetition_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "run", "advice", "--out", str(tmp_path), "--repetition", "1"]) == 2
    assert "leave out --repetition" in capsys.readouterr().err


def test_outcomes_of_a_folder_are_in_order_and_of_this_version(some: Sequence[Outcome], tmp_path: Path) -> None:
    out = written([some[4], *some[:2]], tmp_path / "one")
    assert [one.problem for one in stored(out)] == [some[i].problem for i in (0, 1, 4)]
    values = stored(out)[-1].values["dpo"]
    assert np.abs(values - some[4].values["dpo"]).max() <= 0.0005
    with pytest.raises(DataError, match="another problem"):
        stored(written([replace(some[3], key="another")], tmp_path / "two"))
    with pytest.raises(DataError, match="no outcomes"):
        stored(tmp_path)


def test_the_outcomes_that_are_kept_with_the_code_are_of_this_version() -> None:
    found = stored(ROOT / "docs" / "studies")
    assert len(found) >= 16 and all(set(one.features) == set(FEATURES) for one in found if one.results)


def test_the_tool_writes_the_rule_of_a_folder(
    some: Sequence[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tested = partial(regret.tested, advisors={"oracle": FEW["oracle"]})
    monkeypatch.setattr(regret, "shipped", lambda table: fit.fitted(table, tested(table)))
    found = importlib.util.spec_from_file_location("advice_tool", ROOT / "tools" / "advice.py")
    assert found is not None and found.loader is not None
    tool = importlib.util.module_from_spec(found)
    found.loader.exec_module(tool)
    tool.main(written(some[1:], tmp_path), tmp_path / "rule.json")
    made, status = rule.load(tmp_path / "rule.json")
    assert made is not None and status.beats and status.worlds == {"rotated": N - 2}
    told = capsys.readouterr().out
    assert "dropped before training: {'rotated': 1}" in told and "cannot tell" in told and "needs 100" in told
