"""Thresholds, verdicts and ROC of detectors on made-up scores; the published rules on evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from made_evidence import FALLS, dpo, evaluations, line, online
from prefloop.analysis.checks import CHECKS
from prefloop.analysis.detection import OURS, Case, case, fit, halves, judge, roc, rocs
from prefloop.analysis.diagnose_baselines import AXOLOTL, VERL_RULES, alarms

NONE = dict.fromkeys(CHECKS, math.nan)
QUIET = {"claimed": {"axolotl": frozenset[str](), "verl": frozenset[str]()}, "alarms": {"axolotl": 0, "verl": 0}}


def made(kind: str, **scores: float) -> Case:
    reasons = frozenset({"beta"}) if kind else frozenset[str]()
    return Case(kind, reasons, {**NONE, **scores}, **QUIET)  # type: ignore[arg-type]


SOUND = [made("", beta=x, dead=0.1) for x in (0.5, 1.0, 1.5, 2.0)]
FAULTY = [made("tiny β", beta=x, dead=0.1) for x in (3.0, 5.0, 6.0, 6.0)]


def test_a_threshold_lies_between_sound_and_faulty_runs() -> None:
    found = fit([*SOUND, *FAULTY])
    assert found["beta"] == 2.5
    assert found["dead"] == CHECKS["dead"].threshold  # no run with its fault
    assert fit([*SOUND, made("", dead=0.9)])["dead"] == 0.9  # above the table, because a sound run is
    assert fit([*SOUND, made("tiny β", beta=math.inf)])["beta"] == CHECKS["beta"].threshold


def test_halves_split_every_kind() -> None:
    first, second = halves([*SOUND, *FAULTY])
    assert [c.kind for c in first] == [c.kind for c in second] == ["", "", "tiny β", "tiny β"]


def test_what_is_named_for_the_wrong_reason_is_noticed_but_not_found() -> None:
    cases = [*SOUND, *FAULTY, made("tiny β", beta=0.0, dead=1.0), made("tiny β")]
    ours = judge(cases, {**dict.fromkeys(CHECKS, math.inf), "beta": 2.5, "dead": 0.5})[OURS]
    assert ours.found["tiny β"].value == pytest.approx(4 / 6) and ours.noticed["tiny β"].value == pytest.approx(5 / 6)
    assert ours.false_alarms.value == 0 and 0.3 < ours.false_alarms.high < 0.7  # four runs say little
    assert ours.by_check["beta"].value == 0


def test_roc_by_hand() -> None:
    found = roc([1.0, 2.0], [2.0, 3.0])
    assert found is not None and found.auc == (1 + 0.5 + 1 + 1) / 4
    assert found.false_alarms.tolist() == [0, 0, 0.5, 1] and found.hits.tolist() == [0, 0.5, 1, 1]
    assert 0 <= found.low < found.auc < found.high <= 1
    assert np.trapezoid(found.hits, found.false_alarms) == pytest.approx(found.auc)
    assert roc([], [1.0]) is None


def test_what_cannot_be_told_counts_as_lowest() -> None:
    found = roc([0.0, 0.0], [math.nan, 1.0])
    assert found is not None and found.auc == 0.5


def test_interval_of_the_area_covers_in_simulation() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        found = roc(rng.normal(size=30), rng.normal(1.0, size=20))
        assert found is not None
        hits += found.low <= 0.7602 <= found.high  # Φ(1/√2)
    assert hits >= 180


def test_rocs_have_every_check_and_baseline() -> None:
    found = rocs([*SOUND, *FAULTY])
    assert found["beta"] is not None and found["beta"].auc == 1
    assert found["dead"] is None and {"axolotl", "verl"} <= found.keys()


# ---- the published rules ---------------------------------------------------------------------------------------------


def test_axolotl_calls_a_run_faulty_whose_chosen_falls_while_gold_rises() -> None:
    run = dpo(**FALLS, eval__gold=evaluations(0.1, 0.4))
    assert list(alarms(run, AXOLOTL)) == ["rewards/chosen must rise"]
    assert alarms(dpo(), AXOLOTL) == {}


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("frac_reward_zero_std below 0.8", online(frac_reward_zero_std=line(0.9, 0.9))),
        ("sampling_logp_difference below 1", online(**{"sampling/sampling_logp_difference/mean": line(2.0, 2.0)})),
        ("loss falls", dpo(loss=line(0.69, 0.7))),
        ("grad_norm below 100", dpo(grad_norm=line(3.0, 300.0))),
        ("clipped completions below 0.8", online(eval__cut=evaluations(0.0, 1.0))),
        ("rewards/rejected must fall", dpo(rewards__rejected=line(0.0, 1.0))),
    ],
)
def test_rules_of_axolotl(name: str, run: object) -> None:
    assert name in alarms(run, AXOLOTL)  # type: ignore[arg-type]


def test_rules_of_verl_do_not_see_a_mean_of_one() -> None:
    """E_q[p/q] = 1 for any two policies: only spread and KL tell them apart."""
    apart = {"mismatch/mean": line(1.0, 1.0), "mismatch/std": line(0.9, 0.9), "mismatch/kl": line(0.09, 0.09)}
    assert alarms(online(**apart), VERL_RULES) == {}
    worse = {**apart, "mismatch/std": line(2.0, 2.0), "mismatch/kl": line(0.3, 0.3)}
    assert set(alarms(online(**worse), VERL_RULES)) == {
        "ESS at least 0.3",
        "weight std at most 1",
        "|KL| at most 0.1 per token",
        "χ² at most 1",
    }
    assert alarms(dpo(), VERL_RULES) == {}


def test_a_case_holds_what_all_detectors_see() -> None:
    found = case(online(frac_reward_zero_std=line(0.9, 0.9)), "no variance", frozenset({"groups"}))
    assert found.scores["groups"] == 0.9 and math.isnan(found.scores["beta"])
    assert found.claimed["axolotl"] == {"groups"} or "groups" in found.claimed["axolotl"]
    assert found.alarms["axolotl"] >= 1 and found.alarms["verl"] == 0
