"""The studies of the lab: what they run at every size, and that each effect has the sign that its claim says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefloop.cli import main as command
from prefloop.lab.setting import Setting, make
from prefloop.lab.stack import Run
from prefloop.lab.summary import TUNING
from prefloop.studies import (
    cells,
    complement,
    displacement,
    lengths,
    negative,
    on_policy,
    published_defects,
    registry,
    reuse,
)
from prefloop.studies.bench import BUDGETS, Bench
from prefloop.studies.cells import FAR
from prefloop.studies.registry import ALONE, STUDIES, study
from prefloop.studies.study import SIZES, Outcome, Study

ROOT = Path(registry.__file__).parent
BANDIT = [on_policy.STUDY, reuse.STUDY, negative.STUDY, displacement.STUDY, complement.STUDY, published_defects.STUDY]
LENGTHS = [study(n) for n in ("length-on-policy", "length-reuse", "length-negative", "length-complement")]
LENGTHS += [study(n) for n in ("length-dials", "overoptimisation")]
SEEDS = {one.name: lengths.SEEDS for one in LENGTHS} | {"published-defects": published_defects.SEEDS}
EVERY = [*STUDIES, *ALONE]
NOT_STUDIES = {"__init__", "bench", "cells", "lengths", "page", "real_model", "registry", "study"}
KL = "eval/kl_reverse_exact"
COLUMNS = ("ess", "kl/collection", "clip_ratio/region_mean", "passes", "samples", "reward_queries", "push/up", KL)
COLUMNS = (*COLUMNS, "push/down", "rewards/chosen", "rewards/rejected", "rewards/margins", "rest/log_ratio")
COLUMNS = (*COLUMNS, "diverged", "eval/length", "eval/reward", "eval/cut", "eval/length/1", "eval/length/2")
START = {"lengths": -1.0}  # gold reward of the reference in the made-up runs, 0.2 elsewhere
Law = Callable[[Any], dict[str, float]]  # `gain`: share of the attainable reached at the end; other columns


class Made(Bench):
    """A bench whose runs are made up by a law, straight lines from the reference to their ends, and which counts."""

    def __init__(self, law: Law, out: Path, size: str = "small") -> None:
        super().__init__(size, out, workers=1, quiet=True)
        self.law, self.asked = law, list[Setting]()

    def sweep(self, settings: Sequence[Setting]) -> list[Run]:
        self.asked += settings
        return [self._run(s) for s in settings]

    def _run(self, s: Setting) -> Run:
        s.check()
        told = {"gain": 0.5, **self.law(s)}
        assert told.keys() - {"gain", "fall"} <= set(COLUMNS)
        step = np.linspace(0, s.steps, self.budget.evaluations + 1)
        noise = 1e-3 * np.random.default_rng(s.seed).standard_normal()
        ends = dict.fromkeys(COLUMNS, 0.0) | {"samples": s.steps * s.batch / s.resolved_method.reuse, **told}
        rise = step / s.steps
        curves = {name: rise * ends[name] for name in COLUMNS}
        start, room = START.get(s.problem, 0.2), 1.0 if s.problem == "lengths" else 0.8
        reward = start + room * (told["gain"] + noise) * rise
        drop = room * told.get("fall", 0.0) * np.maximum(0, rise - 0.5) * 2
        return Run(s, {**curves, "step": step, "eval/gold": reward - drop})


@pytest.fixture(autouse=True)
def quick_tables(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tables' intervals and real references take most of the time and are tested elsewhere; claims' intervals stay."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(lengths, "data_law", lambda settings: torch.full((32,), 1 / 32))
        monkeypatch.setattr(lengths, "reference", lambda network: f"reference of size {network}")
        monkeypatch.setattr(published_defects, "reference_noise", lambda one, seeds: np.full(len(seeds), 0.1))
        monkeypatch.setattr(cells, "interval", lambda values: f"{values.mean():.3f}")


@pytest.fixture
def verdicts(tmp_path: Path) -> Iterator[Callable[[Study, Law], dict[str, str]]]:
    """Judge a study whose runs follow a law."""

    def judged(one: Study, law: Law) -> dict[str, str]:
        with Made(law, tmp_path) as bench:
            outcome: Outcome = one.run(bench)
        assert [f.claim for f in outcome.findings] == list(one.claims)
        return {f.claim.name: f.verdict for f in outcome.findings}

    yield judged


def all_of(found: dict[str, str], verdict: str, but: dict[str, str] | None = None) -> None:
    want = dict.fromkeys(found, verdict) | (but or {})
    assert found == want


# ------------------------------------------------------------------------------------------------ what there is to run


def test_every_file_is_a_study_of_its_name_and_the_list_has_them_all() -> None:
    files = {p.stem for p in ROOT.glob("*.py")} - NOT_STUDIES
    assert files == {name.replace("-", "_") for name in EVERY if name not in registry.ON_LENGTHS}
    assert [study(name).name for name in EVERY] == EVERY


@pytest.mark.parametrize("name", EVERY)
def test_claims_have_names_of_their_own_and_say_what_is_measured(name: str) -> None:
    claims = study(name).claims
    assert len({c.name for c in claims}) == len(claims)
    assert all(c.prediction and c.effect and c.unit for c in claims)


def test_sizes_are_the_budgets() -> None:
    assert tuple(BUDGETS) == SIZES
    assert BUDGETS["small"].seeds >= 10 and BUDGETS["small"].arms == 300


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("one", [*BANDIT, *LENGTHS], ids=lambda s: s.name)
def test_every_setting_can_run_and_tuning_has_seeds_of_its_own(one: Study, size: str, tmp_path: Path) -> None:
    with Made(lambda s: {}, tmp_path, size) as bench:
        outcome = one.run(bench)
    seeds = {s.seed for s in bench.asked}
    compared = {n for n in seeds if n < TUNING}
    assert compared == set(range(len(compared))) and len(compared) in (
        BUDGETS[size].seeds,
        published_defects.SEEDS[size],
    )
    assert len({s.lr for s in bench.asked if s.seed < TUNING}) <= max(1, BUDGETS[size].rates)
    assert outcome.figures and outcome.tables
    for problem in ("arms", "sequences"):  # equal budgets: gradient steps are the same in all cells of a problem
        assert len({s.steps for s in bench.asked if s.problem == problem}) <= 1


def test_the_dial_takes_the_middle_rates(tmp_path: Path) -> None:
    rates = (1.0, 2.0, 3.0, 4.0, 5.0)
    tried = {}
    for size in SIZES:
        with Made(lambda s: {}, tmp_path, size) as bench:
            bench.tuned([make("rloo", "arms", **bench.steps("arms"))], rates)
        tried[size] = sorted({s.lr for s in bench.asked})
    assert tried == {"smoke": [3.0], "small": list(rates), "paper": list(rates)}


# ---------------------------------------------------------------------------------------------------- signs of effects


Judge = Callable[[Study, Law], dict[str, str]]


def far(s: Any) -> bool:
    return s.world.centre == FAR


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_on_policy(verdicts: Judge, sign: int, verdict: str) -> None:
    """Large collections are stale and cost 0.2 on R1 and 0.05 on R2, or the opposite of all that."""

    def law(s: Any) -> dict[str, float]:
        stale = s.batch > 4 * s.minibatch
        return {"gain": 0.5 - sign * stale * (0.4 if far(s) else 0.1), "kl/collection": 0.1 + 0.1 * sign * stale}

    all_of(verdicts(on_policy.STUDY, law), verdict)


def test_reuse(verdicts: Judge) -> None:
    """Passes up to four are free; from sixteen on best-of-N and a PPO without a clip pay, best-of-N from eight on."""

    def law(s: Any) -> dict[str, float]:
        passes, supervised = s.resolved_method.reuse, s.method == "best_of_n"
        bare = s.override.get("objective") == "policy_gradient"
        cost = (0.1 * (passes >= 8) + 0.2 * (passes >= 16)) * supervised * (1 if far(s) else 0.2) + 0.3 * bare
        fall = 1.5 * (passes >= 8) * supervised * (s.problem == "sequences")
        return {"gain": 0.9 - cost, "clip_ratio/region_mean": 0.1 * passes * (not supervised), "fall": fall}

    all_of(verdicts(reuse.STUDY, law), "supported")


def test_reuse_that_costs_ppo_and_not_best_of_n(verdicts: Judge) -> None:
    def law(s: Any) -> dict[str, float]:
        ppo = s.method != "best_of_n" and s.override.get("objective") != "policy_gradient"
        return {
            "gain": 0.8
            - 0.04 * (s.resolved_method.reuse - 1) * ppo
            - 0.04 * (not far(s)) * (s.resolved_method.reuse - 1) * (not ppo)
        }

    found = verdicts(reuse.STUDY, law)
    moderate = {"reuse-saves-samples": "supported"}  # at equal samples even a slightly worse run is ahead
    all_of(found, "contradicted", but=moderate)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_negative(verdicts: Judge, sign: int, verdict: str) -> None:
    """Whatever pushes down gains by it on R1, and not on R2; or loses by it."""

    def law(s: Any) -> dict[str, float]:
        pushes = s.method in negative.DOSED
        dose = s.override.get("negative", 1.0) * pushes
        gain = 0.5 + sign * 0.3 * dose * far(s)
        return {"gain": gain, "push/down": dose if sign > 0 else 1 - dose}

    all_of(verdicts(negative.STUDY, law), verdict)


def test_negative_compares_pairs_with_the_same_pairs(tmp_path: Path) -> None:
    with Made(lambda s: {}, tmp_path) as bench:
        negative.STUDY.run(bench)
    asked: list[Any] = bench.asked
    of = {m: {(s.world.data, s.responses, s.batch) for s in asked if s.method == m} for m in ("dpo", "pref_ft")}
    offline = [s for s in bench.asked if s.method == "dpo" and "negative" not in s.override]
    assert {(s.world.data, s.responses, s.batch) for s in offline} == of["pref_ft"]


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_displacement(verdicts: Judge, sign: int, verdict: str) -> None:
    """With few prompts, a wide net and unlike pairs the winner rises; with many it falls and the rest gains."""

    def law(s: Any) -> dict[str, float]:
        many = s.world.data >= 500
        chosen = -2.0 if many else 1.0
        chosen += 1e-3 * s.world.hidden - 0.2 * s.world.shared
        ends = {"rewards/chosen": chosen, "rewards/rejected": -3.0, "rewards/margins": 4.0, "rest/log_ratio": 1.0}
        return {k: sign * v for k, v in ends.items()}

    all_of(verdicts(displacement.STUDY, law), verdict)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_complement(verdicts: Judge, sign: int, verdict: str) -> None:
    """On-policy DPO is best on R1 and all are alike on R2; or it is worst, and all differ on R2 instead."""

    def law(s: Any) -> dict[str, float]:
        best = s.method == "dpo" and s.override["on_policy"] == 1.0
        other = 0.1 * (s.method == "best_of_n") * (not far(s))
        return {"gain": 0.5 + (sign * 0.2 * best if far(s) else 0.0) + (5 * other if sign < 0 else 0.0)}

    all_of(verdicts(complement.STUDY, law), verdict)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_published_defects(verdicts: Judge, sign: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every defect does what the published curves show, or nothing of it."""
    noise = np.full(5, 0.1 if sign > 0 else 0.0)
    monkeypatch.setattr(published_defects, "reference_noise", lambda one, seeds: noise + 1e-4 * np.arange(5))

    def law(s: Any) -> dict[str, float]:
        late, supervised = s.world.defect == "off_by_one", s.method == "best_of_n"
        if sign > 0:
            gain = 0.9 - 0.5 * late * (1 - 0.5 * (s.method == "ppo_critic_free"))
            gain -= 0.1 * (s.world.defect == "prompt_in_reward" and not supervised)
            held = s.override.get("kl", 0) > 0 and not s.world.defect
            return {"gain": gain, "fall": 0.6 * late * supervised, KL: 1.0 if held else 40.0}
        prompt = 0.2 * (s.world.defect == "prompt_in_reward") * (1 if supervised else -1)
        gain = 0.5 + 0.1 * late * (1 + supervised) - prompt - 0.2 * (s.world.defect == "reference_dropout")
        fall = 0.8 * (s.method == ("ppo_critic_free" if late else "best_of_n"))
        bare = s.override.get("kl", 0) == 0
        return {"gain": gain, "fall": fall, KL: 40.0 if bare else 1.0}

    found = verdicts(published_defects.STUDY, law)
    all_of(found, verdict)


def on(s: Any) -> str:
    """Which of the named problems."""
    return "skew" if s.world.coverage < 1 else "mode" if s.world.peak else "min"


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_length_on_policy(verdicts: Judge, sign: int, verdict: str) -> None:
    """Large collections are stale and cost 0.3 except on Mode Length; or they cost there and nowhere else."""
    cost = {"min": 0.3, "skew": 0.3, "mode": 0.0} if sign > 0 else {"min": -0.3, "skew": -0.3, "mode": 0.3}

    def law(s: Any) -> dict[str, float]:
        stale = s.batch > 4 * s.minibatch
        return {"gain": 0.5 - stale * cost[on(s)], "kl/collection": 0.1 + 0.1 * sign * stale}

    all_of(verdicts(study("length-on-policy"), law), verdict)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_length_reuse(verdicts: Judge, sign: int, verdict: str) -> None:
    def law(s: Any) -> dict[str, float]:
        much, supervised = s.resolved_method.reuse == 8, s.method == "best_of_n"
        if sign > 0:
            return {"gain": 0.5 - 0.3 * much * supervised * (on(s) != "mode")}
        cost = -0.2 if supervised and on(s) != "mode" else 0.2
        return {"gain": 0.5 - much * cost - (s.resolved_method.reuse == 2) * 0.45}

    all_of(verdicts(study("length-reuse"), law), verdict)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_length_negative(verdicts: Judge, sign: int, verdict: str) -> None:
    """What pushes down gains 0.2 on Min, 0.4 on Skew and nothing on Mode Length; or loses 0.3, 0.4 and 0.2."""
    worth = {"min": 0.2, "skew": 0.4, "mode": 0.0} if sign > 0 else {"min": -0.3, "skew": -0.4, "mode": -0.2}

    def law(s: Any) -> dict[str, float]:
        pushes = s.method in ("dpo", "ipo", "best_of_n_negative")
        return {"gain": 0.5 + pushes * worth[on(s)]}

    all_of(verdicts(study("length-negative"), law), verdict)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_length_complement(verdicts: Judge, sign: int, verdict: str) -> None:
    def law(s: Any) -> dict[str, float]:
        best = s.method == "online_dpo"
        apart = 0.6 * (s.method == "pref_ft") * (on(s) == "mode") * (sign < 0)
        return {"gain": 0.5 + 0.2 * sign * best * (on(s) != "mode") - apart, "eval/length": 9 - 8 * sign * best}

    all_of(verdicts(study("length-complement"), law), verdict)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_length_dials(verdicts: Judge, sign: int, verdict: str) -> None:
    """Far peaks want on-policy samples, high peaks whole data, skewed data a negative gradient; or the opposite."""

    def law(s: Any) -> dict[str, float]:
        on_policy, far, high = s.method == "online_dpo", s.world.peak == 0, s.world.peak == 75
        told = (
            0.2 * on_policy * far
            + 0.3 * high * s.world.coverage
            + 0.3 * (s.method == "dpo") * far * (1 - s.world.coverage)
        )
        return {"gain": 0.4 + sign * told * (0.5 if s.method == "dpo" and sign * far > 0 else 1)}

    all_of(verdicts(study("length-dials"), law), verdict)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_overoptimisation(verdicts: Judge, sign: int, verdict: str) -> None:
    """With few data gold rises and falls again while the proxy rises; or with many data only, the proxy falling."""

    def law(s: Any) -> dict[str, float]:
        turns = (s.world.data < 100) == (sign > 0)
        return {"gain": 0.4, "fall": 0.6 * turns, "eval/reward": float(sign)}

    all_of(verdicts(study("overoptimisation"), law), verdict)


# ---------------------------------------------------------------------------------------------------------- for real


@pytest.mark.slow
def test_all_studies_run_at_size_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every page, figure and result is there, and a second run computes nothing anew and gives the same bytes."""
    assert command.main(["study", "run", "all", "--size", "smoke", "--out", str(tmp_path), "--quiet"]) == 0
    results = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("*/result.json")}
    assert results.keys() == set(STUDIES)
    for name, result in results.items():
        assert len(result["claims"]) == len(study(name).claims)
        assert list((tmp_path / name).glob("*.svg")) and (tmp_path / name / "README.md").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.parquet")}
    assert kept
    assert command.main(["study", "run", "reuse", "--size", "smoke", "--out", str(tmp_path), "--quiet"]) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.parquet")} == kept
    again = json.loads((tmp_path / "reuse" / "result.json").read_text())
    assert again["claims"] == results["reuse"]["claims"]
