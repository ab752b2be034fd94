"""The questions: what they run at every size, and that each effect has the sign that its claim says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefloop.cli import main as command
from prefloop.lab.scores import GOLD, KL, SEEN, Objective
from prefloop.lab.setting import Setting, make
from prefloop.lab.stack import Run
from prefloop.lab.summary import TUNING
from prefloop.studies import bench as benches
from prefloop.studies import displacement, overoptimisation, present, problems, published_defects, registry, rules
from prefloop.studies.bench import BUDGETS, REPETITION, Bench, Scale
from prefloop.studies.conduct import Contrast
from prefloop.studies.registry import ALONE, STUDIES, study
from prefloop.studies.study import SIZES, Outcome

ROOT = Path(registry.__file__).parent
EVERY = [*STUDIES, *ALONE]
TUNED = ("on-policy", "staleness", "reuse", "negative", "complement", "labels", "min-mode-skew")
FIXED = ("displacement", "overoptimisation", "published-defects")  # one learning rate for all
LAB = (*TUNED, *FIXED)
FEW = ("complement", "labels")  # the smallest; the others take seconds each
EACH = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in TUNED]
FOR_REAL = "test_all_studies_run_at_size_smoke"
NOT_STUDIES = {*rules.NEUTRAL, "bench", "conduct", "problems", "study"}
COLUMNS = (GOLD, SEEN, KL, "samples", "reward_queries", "diverged", "ess", "eval/length", "eval/cut")
COLUMNS = (*COLUMNS, "rewards/chosen", "rewards/rejected", "rewards/margins")
BEST = {"rotated": 3.2e-3, "lengths": 3.2e-4}  # the learning rate that is best in the made-up runs
STARTS = {"dpo": ("beta", 0.1), "ipo": ("tau", 0.1), "rwr": ("beta", 0.3)}  # the best knob; KL weights: 0.01
Law = Callable[[Any], dict[str, float]]  # `gain`: gold at the end; `quick`: from −1 (slow) to 1; other columns


def _quick(scales: dict[str, Scale]) -> dict[str, Scale]:
    """Few rounds of tuning, which has tests of its own; steps and seeds as they are."""
    return {world: replace(scale, rounds=((3, 1), (1, 2))) for world, scale in scales.items()}


class Lab:
    """Makes runs up by a law instead of training, and remembers what was asked for."""

    law: Law = staticmethod(lambda s: {})
    noise = 1e-3

    def __init__(self) -> None:
        self.asked: list[Setting] = []

    def sweep(self, settings: Sequence[Setting], *_: Any, **__: Any) -> list[Run]:
        self.asked += settings
        return [self.run(s) for s in settings]

    def run(self, s: Setting) -> Run:
        """Gold rises from 0 to the gain on a logarithmic axis of steps; what is off the best rate or knob costs."""
        told = {"gain": 0.5, "quick": 0.0, **type(self).law(s)}
        assert told.keys() - {"gain", "quick", "fall"} <= set(COLUMNS)
        step = np.array([0, *(2**i for i in range(int(math.log2(s.steps)))), s.steps], dtype=float)
        rise = np.minimum(1.0, np.log2(1 + step) / np.log2(1 + s.steps) * (1.5 + 0.5 * told["quick"]))
        noise = self.noise * np.random.default_rng([s.seed, len(s.method)]).standard_normal()
        gold = (told["gain"] + noise - self.cost(s)) * rise - told.get("fall", 0.0) * np.maximum(
            0.0, step / s.steps - 0.25
        ) / 0.75
        ends = dict.fromkeys(COLUMNS, 0.0) | {k: v for k, v in told.items() if k in COLUMNS}
        curves = {name: step / s.steps * end for name, end in ends.items()}
        seen = curves[SEEN] if SEEN in told else gold
        return Run(s, {**curves, "step": step, GOLD: gold, SEEN: seen})

    def cost(self, s: Setting) -> float:
        if s.problem not in BEST:
            return 0.0
        knob, best = STARTS.get(s.method, ("kl", 0.01))
        value = float(s.override.get(knob, best))
        off = math.log10(s.lr / BEST[s.problem]), math.log10(max(value, 1e-4) / best)
        return 0.05 * (off[0] ** 2 + off[1] ** 2)


@pytest.fixture(autouse=True)
def lab(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Lab:
    """The lab of all benches in a test; references and optima, which take seconds, are tested with their worlds."""
    made = Lab()
    if request.node.originalname != FOR_REAL:
        monkeypatch.setattr(benches, "sweep", made.sweep)
        monkeypatch.setattr(benches, "missing", lambda settings, store: [])
        monkeypatch.setattr(benches, "BUDGETS", {size: _quick(scales) for size, scales in BUDGETS.items()})
        for module in (problems, present):
            monkeypatch.setattr(module, "objective", lambda world: Objective(problems.BETA, 0.0, 1.0))
        monkeypatch.setattr(published_defects, "reference_noise", lambda one, seeds: 0.1 + 0.01 * np.arange(len(seeds)))
    return made


Judge = Callable[..., dict[str, str]]


@pytest.fixture
def verdicts(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    """Judge a study whose runs follow a law; verdicts by claim."""

    def judged(name: str, law: Law, noise: float = 1e-3) -> dict[str, str]:
        monkeypatch.setattr(Lab, "law", staticmethod(law))
        monkeypatch.setattr(Lab, "noise", noise)
        one = study(name)
        with Bench("small", tmp_path, workers=1, quiet=True) as bench:
            outcome: Outcome = one.run(bench)
        assert [f.claim for f in outcome.findings] == list(one.claims)
        return {f.claim.name: f.decision.verdict for f in outcome.findings}

    yield judged


def asked(name: str, lab: Lab, out: Path, size: str, repetition: int = 0) -> Outcome:
    with Bench(size, out, workers=1, quiet=True, repetition=repetition) as bench:
        outcome: Outcome = study(name).run(bench)
    assert bench.runs == len(lab.asked) and 0 <= bench.tuning < bench.runs
    return outcome


# ------------------------------------------------------------------------------------------------ what there is to run


def test_every_file_is_a_study_of_its_name_and_the_list_has_them_all() -> None:
    packages = [path.parent for path in ROOT.glob("*/__init__.py")]
    files = {path.stem for path in [*ROOT.glob("*.py"), *packages]} - NOT_STUDIES
    assert files == {name.replace("-", "_") for name in EVERY} and len(STUDIES) == 12
    assert [study(name).name for name in EVERY] == EVERY


@pytest.mark.parametrize("name", EVERY)
def test_claims_have_names_of_their_own_and_say_what_is_measured(name: str) -> None:
    one = study(name)
    assert len({c.name for c in one.claims}) == len(one.claims)
    assert all(c.prediction and c.effect and c.unit for c in one.claims)
    assert one.design and all(one.design.values()) and (one.finding or name == "labels")


@pytest.mark.parametrize("name", ["theory", "kl-modes"])
def test_mathematics_does_not_count(name: str) -> None:
    assert not any(claim.counts for claim in study(name).claims)


def test_sizes_are_the_budgets() -> None:
    assert tuple(BUDGETS) == SIZES
    for size in ("small", "paper"):
        assert all(scale.first >= 12 for scale in BUDGETS[size].values())


@pytest.mark.parametrize("size", ["smoke", *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[1:])])
@pytest.mark.parametrize("name", LAB)
def test_every_setting_can_run_and_tuning_has_seeds_of_its_own(name: str, size: str, lab: Lab, tmp_path: Path) -> None:
    outcome = asked(name, lab, tmp_path, size)
    for setting in {replace(s, seed=0, lr=1e-3).run: s for s in lab.asked}.values():
        setting.check()
    compared = {s.seed for s in lab.asked if s.seed < TUNING}
    assert compared == set(range(len(compared))) and len(compared) >= BUDGETS[size]["lengths"].first
    assert all(s.seed - TUNING < 12 for s in lab.asked if s.seed >= TUNING)
    assert any(s.seed >= TUNING for s in lab.asked) == (name in TUNED)
    assert outcome.figures and outcome.tables
    assert all(f.decision.settled or f.decision.n >= BUDGETS[size]["lengths"].most for f in outcome.findings)


@pytest.mark.parametrize("name", LAB)
def test_a_repetition_has_no_seed_in_common(name: str, lab: Lab, tmp_path: Path) -> None:
    asked(name, lab, tmp_path, "smoke")
    first, lab.asked = lab.asked, []
    asked(name, lab, tmp_path, "smoke", repetition=1)
    assert not {s.seed for s in first} & {s.seed for s in lab.asked}
    assert {replace(s, seed=s.seed - REPETITION).run for s in lab.asked} >= {s.run for s in first if s.seed < TUNING}


def test_contrasts_are_of_conditions_and_weigh_nothing_overall(lab: Lab, tmp_path: Path) -> None:
    """Differences of scores: their weights add up to 0; levels of one cell have weight ±1."""
    for name in LAB:
        for claim in study(name).claims:
            if isinstance(claim.of, Contrast):
                total = sum(claim.of.weights.values())
                assert total == pytest.approx(0.0) or abs(total) == pytest.approx(1.0)


# ---------------------------------------------------------------------------------------------------- signs of effects


def far(s: Any) -> bool:
    return bool(s.problem == "rotated" and s.world.mass == problems.PLACES["far"])


def on(s: Any) -> str:
    """Which problem on lengths, or where the peak of the bandit is."""
    if s.problem == "rotated":
        return "far" if far(s) else "near"
    return "skew" if s.world.coverage < 1 else "mode" if s.world.peak else "min"


def own(s: Any) -> bool:
    return bool(s.resolved_method.on_policy)


FARS = ("far", "min", "skew")
APART = {"best_of_n": 0.1, "rwr": -0.1, "rloo": -0.1}  # so that methods differ where the question's effect is 0


def as_the_paper(name: str, sign: float) -> Law:
    """A law in which the question's answer is the paper's (sign 1) or the opposite (−1)."""

    def level(s: Any) -> float:
        return 0.75 + APART.get(s.method, 0.0) * (on(s) not in FARS)

    def on_policy(s: Any) -> dict[str, float]:
        return {"gain": level(s) + 0.2 * sign * own(s) * (on(s) in FARS)}

    def staleness(s: Any) -> dict[str, float]:
        fresh, elsewhere = s.batch == s.minibatch, 0.1 * (sign < 0)
        return {"gain": level(s) + fresh * (0.2 * sign if on(s) in FARS else elsewhere), "quick": sign * fresh}

    def reuse(s: Any) -> dict[str, float]:
        many, short = s.override["reuse"] == 8, s.steps < 100
        best, bare = s.method == "best_of_n", s.override.get("objective") == "policy_gradient"
        if sign > 0:
            return {"gain": 0.8 - 0.2 * many * (best or bare) - 0.5 * short}
        return {"gain": 0.6 - 0.3 * many * (not best and not bare) + 0.1 * many * best + 0.3 * short}

    def negative(s: Any) -> dict[str, float]:
        pushes = s.method in ("dpo", "ipo", "rloo") and s.override.get("negative", 1.0)
        return {"gain": level(s) + 0.2 * sign * pushes * (on(s) in FARS), "quick": sign * pushes}

    def complement(s: Any) -> dict[str, float]:
        best = s.method == "dpo" and own(s)
        elsewhere = 0.2 * (sign < 0)
        return {
            "gain": level(s) - 0.1 * (not own(s)) + best * (0.2 * sign if far(s) else elsewhere),
            "quick": sign * best,
        }

    def labels(s: Any) -> dict[str, float]:
        across, cardinal = s.override.get("normalise") == "batch", s.world.labels == "gold"
        if s.method == "rwr":
            return {"gain": 0.45 + sign * (0.3 * across + 0.1 * (cardinal and not across))}
        return {"gain": 0.45 + sign * 0.2 * (s.override.get("pairs") == "all_pairs")}

    def min_mode_skew(s: Any) -> dict[str, float]:
        best = s.method == "dpo" and own(s)
        elsewhere = 0.2 * (sign < 0)
        return {"gain": level(s) + best * (0.2 * sign if on(s) in FARS else elsewhere), "quick": sign * best}

    return {"on-policy": on_policy, "staleness": staleness, "reuse": reuse, "negative": negative,
            "complement": complement, "labels": labels, "min-mode-skew": min_mode_skew}[name]  # fmt: skip


@pytest.mark.parametrize("name", EACH)
def test_planted_effects_have_the_sign_that_the_claim_says(name: str, verdicts: Judge) -> None:
    assert set(verdicts(name, as_the_paper(name, 1.0)).items()) == {(c.name, "supported") for c in study(name).claims}


@pytest.mark.parametrize("name", EACH)
def test_opposite_effects_contradict(name: str, verdicts: Judge) -> None:
    found = verdicts(name, as_the_paper(name, -1.0))
    assert {k: v for k, v in found.items() if v != "contradicted"} == {}


@pytest.mark.parametrize("name", EACH)
def test_no_effect_is_equivalent_or_cannot_be_seen(name: str, verdicts: Judge) -> None:
    found = verdicts(name, lambda s: {"gain": 0.5})
    equal = {claim.name for claim in study(name).claims if claim.sense == "equal"}
    seen = [v for k, v in found.items() if k not in equal]
    assert {*seen} <= {"equivalent", "no headroom", "smaller than claimed"}
    assert seen.count("smaller than claimed") <= 1  # by chance: an interval that is clear of 0, one in forty
    assert {found[k] for k in equal} <= {"supported", "no headroom"}


@pytest.mark.parametrize("name", ["complement", "labels"])
def test_a_rate_at_an_edge_decides_nothing(
    name: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The higher the rate the better, without end."""
    monkeypatch.setattr(Lab, "cost", lambda self, s: -0.05 * math.log10(s.lr))
    outcome = asked(name, lab, tmp_path, "small")
    for found in outcome.findings:
        assert found.decision.verdict == "undecided" and "edge" in found.decision.reason
        assert "highest learning rate" in found.decision.reason
    assert any("highest learning rate" in caveat for caveat in outcome.caveats)


def test_seeds_are_added_where_they_decide(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An effect near its threshold takes more seeds than one far from it; cells of settled claims get no more."""
    law = as_the_paper("complement", 1.0)
    monkeypatch.setattr(
        Lab, "law", staticmethod(lambda s: {**law(s), "gain": law(s)["gain"] - 0.149 * (s.method == "dpo")})
    )
    monkeypatch.setattr(Lab, "noise", 0.01)
    outcome = asked("complement", lab, tmp_path, "small")
    n = {f.claim.name: f.decision.n for f in outcome.findings}
    assert n["faster-than-supervision"] == 12 and max(n.values()) > 12
    assert len({s.seed for s in lab.asked if s.seed < TUNING}) == max(n.values()) <= 80


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_displacement(verdicts: Judge, sign: int, verdict: str) -> None:
    """With few prompts, a wide net and unlike pairs the winner rises; with many it falls."""

    def law(s: Any) -> dict[str, float]:
        if s.problem == "sequences":
            level = 0.5 - 0.2 * s.world.shared
        else:
            level = (1.0 if s.world.data <= 5 else -1.0 if s.world.data >= 500 else 0.0) + 2e-3 * s.world.hidden
        noise = 1e-3 * np.random.default_rng(s.seed).standard_normal()
        return {"rewards/margins": 8.0, "rewards/chosen": 4.0 * (sign * level + noise)}

    found = verdicts("displacement", law)
    assert found == dict.fromkeys(found, verdict)


def test_the_winner_is_read_where_the_margin_is_reached() -> None:
    gap, chosen = np.array([np.nan, 1.0, 3.0, 6.0]), np.array([np.nan, 0.5, 0.1, -2.0])
    run = Run(make("ipo", "arms"), {"rewards/margins": gap, "rewards/chosen": chosen})
    assert displacement.winner(run, 2.0) == pytest.approx(0.3)
    assert displacement.winner(run, 0.5) == pytest.approx(0.25)  # from 0 at the reference
    assert displacement.winner(run, 9.0) == -2.0  # never: at the largest margin


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_overoptimisation(verdicts: Judge, sign: int, verdict: str) -> None:
    """With few data gold rises and falls again while the proxy rises; or with many data only, the proxy falling."""

    def law(s: Any) -> dict[str, float]:
        few = s.world.data == overoptimisation.DATA["small"][0]
        many = s.world.data == overoptimisation.DATA["small"][-1]
        fall = 0.6 * few + 0.2 * (not few) * (not many) if sign > 0 else 0.6 * many - 0.3 * few
        return {"gain": 0.4, "fall": fall, SEEN: float(sign)}

    found = verdicts("overoptimisation", law)
    assert found == dict.fromkeys(found, verdict)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_published_defects(verdicts: Judge, sign: int, verdict: str) -> None:
    """Every defect does what the published curves show, or nothing of it."""

    def law(s: Any) -> dict[str, float]:
        late, supervised, held = s.world.defect == "off_by_one", s.method == "best_of_n", s.override.get("kl", 0) > 0
        if sign > 0:
            gain = 0.9 - 0.1 * late * (not supervised) - 0.1 * (s.world.defect == "prompt_in_reward" and not supervised)
            return {"gain": gain, "fall": 0.6 * late * supervised, KL: 1.0 if held and not s.world.defect else 40.0}
        gain = 0.5 + 0.3 * late * (1 + supervised)
        gain += 0.2 * (s.world.defect == "prompt_in_reward") * (-1 if supervised else 1)
        gain -= 0.2 * (s.world.defect == "reference_dropout")
        fall = 1.0 * (s.method == "ppo_critic_free")
        away = 40.0 if not held else 1.0 if s.world.defect else 20.0
        return {"gain": gain, "fall": fall, KL: away}

    found = verdicts("published-defects", law)
    other = {
        "late-best-of-n-decays": "equivalent",
        "aligned-best-of-n-arrives": "smaller than claimed",
    }  # never below 0
    checks = {claim.name: "supported" for claim in study("published-defects").claims if not claim.counts}
    assert found == {**dict.fromkeys(found, verdict), **(other if sign < 0 else {}), **checks}


# ---------------------------------------------------------------------------------------------------------- for real


@pytest.mark.slow
@pytest.mark.timeout(1200)  # every condition of every study
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
