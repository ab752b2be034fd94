"""Each check on evidence with and without its fault, the verdict in sentences, and what is not told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from made_evidence import FALLS, dpo, evaluations, line, online
from prefloop.analysis.checks import CHECKS, TABLE
from prefloop.analysis.diagnose import Diagnosis, diagnose, sentences, short
from prefloop.analysis.evidence import Answer, Curve, Evidence, curve
from prefloop.analysis.signs import factor, repeated
from prefloop.core.wrapping import wrapped


def named(run: Evidence) -> list[str]:
    return [one.check.name for one in diagnose(run).faults]


def answers(step: int, texts: list[str], scores: list[float]) -> list[Answer]:
    return [Answer(step, f"p{i}", t, len(t.split()), s) for i, (t, s) in enumerate(zip(texts, scores, strict=True))]


def test_sound_runs_have_no_fault() -> None:
    assert named(dpo()) == [] and named(online()) == []


def at_once() -> Curve:
    """A loss that falls in three steps."""
    found = curve(range(1, 61), [0.69, 0.3, 0.1, *[0.02] * 57])
    assert found is not None
    return found


PLANTED = [
    ("displacement", replace(dpo(**FALLS), curves={**dpo().curves, **FALLS, "eval/gold": evaluations(0.4, 0.3)})),
    ("reference", dpo(kl=line(0.4, -2.0))),
    ("reference", dpo(rewards__margins=line(0.05, 0.6))),  # half a nat at β = 0.1
    ("dead", dpo(grad_norm=line(0.0, 0.0))),
    ("dead", online(eval__kl_reverse=evaluations(0.0, 0.0))),
    ("rate", dpo(loss=line(0.69, 5.0))),
    ("rate", online(diverged=line(0.0, 1.0))),
    ("hasty", dpo(loss=at_once())),
    ("beta", replace(dpo(), beta=1e-6)),
    ("groups", online(frac_reward_zero_std=line(0.5, 1.0))),
    ("mismatch", online(**{"sampling/sampling_logp_difference/mean": line(0.2, 0.2)})),
    ("staleness", online(ess=line(0.5, 0.01))),
    ("hacking", online(eval__gold=evaluations(0.5, 0.2))),
    ("distance", dpo(eval__kl_reverse=evaluations(0.0, 60.0), **{"eval/rewards/accuracies": evaluations(0.5, 0.5)})),
    ("modes", online(eval__kl_forward=evaluations(0.0, 90.0))),
    ("ledger", dpo(push__up=line(1.0, 1.0), push__down=line(1.0, 8.0))),
    ("labels", replace(dpo(), margins=[(-1) ** i * (20.0 + i / 4) for i in range(80)])),
    ("memorised", dpo(**{"rewards/accuracies": line(0.5, 1.0), "eval/rewards/accuracies": evaluations(0.5, 0.6)})),
    ("duplicates", replace(dpo(), overlap=0.3)),
    ("ends", online(eval__cut=evaluations(0.0, 0.7))),
    ("ends", replace(dpo(), unended=1.0)),
    ("length", online(eval__length=evaluations(100, 300), eval__gold=evaluations(0.3, 0.3))),
    ("entropy", online(eval__entropy=evaluations(40.0, 0.1))),
]


@pytest.mark.parametrize(("name", "run"), PLANTED)
def test_a_planted_fault_is_found_for_its_reason(name: str, run: Evidence) -> None:
    assert name in named(run)


def test_faults_of_answers_are_found() -> None:
    words = [f"word{i} goes to town{i} by train{i}" for i in range(30)]
    before = answers(0, words, [float(i % 7) for i in range(30)])
    same = replace(online(), answers=[*before, *answers(40, ["yes it is so"] * 30, [1.0] * 30)])
    assert "diversity" in named(same)
    loops = replace(online(), answers=[*before, *answers(40, [f"{w} " + "and so on " * 20 for w in words], [1.0] * 30)])
    assert "repetition" in named(loops)
    long = [f"{w} " + " ".join(f"{i}{k}" for k in range(i)) for i, w in enumerate(words)]
    by_length = replace(online(), answers=[*before, *answers(40, long, [float(i) for i in range(30)])])
    assert "length_reward" in named(by_length)
    assert "length_reward" not in named(replace(by_length, reward="length_max"))  # by choice


def test_a_falling_chosen_log_prob_alone_is_no_fault() -> None:
    run = replace(dpo(), curves={**dpo().curves, **FALLS, "eval/gold": evaluations(0.1, 0.4)})
    found = diagnose(run)
    assert "displacement" not in named(run)
    (said,) = [text for text in sentences(found) if text.startswith("Your chosen log-prob falls")]
    assert "that alone is no fault: gold reward 0.100 → 0.400 (+0.300" in said
    assert any("that alone is no fault" in text for text in short(found, "prefloop diagnose run"))


def test_without_held_out_numbers_displacement_cannot_be_told() -> None:
    curves = {k: c for k, c in {**dpo().curves, **FALLS}.items() if not k.startswith("eval/")}
    found = diagnose(replace(dpo(), curves=curves))
    (one,) = [one for one in found.of("cannot tell") if one.check.name == "displacement"]
    assert "held-out" in one.said and one.record()["score"] is None
    assert "Whether the run got better cannot be told" in sentences(found)[0]


def test_a_learned_reward_without_gold_cannot_be_told() -> None:
    curves = {k: c for k, c in online().curves.items() if k != "eval/gold"}
    assert "hacking" in [one.check.name for one in diagnose(replace(online(), curves=curves)).of("cannot tell")]


def test_the_sentence_of_a_mismatch() -> None:
    """trl#4772: 0.012 nats per token over 100 tokens are a factor 3.3."""
    assert "exp(0.012 × 100) = 3.32" in factor(0.012, 100.0)
    assert "e^50" in factor(0.5, 100.0)
    assert "over" not in factor(0.5, None)


def test_the_verdict_says_first_whether_the_run_got_better() -> None:
    assert sentences(diagnose(dpo()))[0] == "Held-out accuracy 0.500 → 0.720 (+0.220\u00a0±\u00a00.042): better."
    flat = dpo(**{"eval/rewards/accuracies": evaluations(0.5, 0.52, 0.03)})
    assert sentences(diagnose(flat))[0].endswith("no change beyond noise.")
    worse = dpo(**{"eval/rewards/accuracies": evaluations(0.5, 0.3, 0.03)})
    assert sentences(diagnose(worse))[0].endswith("worse.")


def test_a_fault_has_number_threshold_and_cure() -> None:
    run = replace(dpo(), overlap=0.3)
    (fault,) = [text for text in sentences(diagnose(run)) if text.startswith("Fault")]
    assert fault.startswith("Fault (duplicates): held-out questions are trained on. 30\u00a0% of the held-out"), fault
    assert "(score 0.3, threshold 0.01)" in fault and "Do: remove them" in fault
    assert "not measured yet: duplicates" in sentences(diagnose(run))[-1]
    rated = diagnose(run, [replace(CHECKS["duplicates"], error_rate=0.02)])
    assert "false alarms on sound runs: duplicates in 2\u00a0%" in sentences(rated)[-1]


def worst() -> Diagnosis:
    run = dpo(**FALLS, loss=line(0.69, 9.0), kl=line(2.0, 2.0), eval__cut=evaluations(0.0, 0.9))
    return diagnose(replace(run, beta=1e-7, overlap=0.5, margins=[-1.0] * 80))


def test_texts_fit_on_the_screen() -> None:
    long = f"prefloop diagnose {'/a-folder-of-runs' * 3}"
    assert all(len(text) <= 80 for text in short(worst(), "prefloop diagnose runs/2026-01-01-dpo-abcdef"))
    assert len(short(worst(), long)) <= 6 and len(short(diagnose(dpo()), "prefloop diagnose r")) <= 2
    assert all(len(text) <= 80 for text in wrapped("\n".join(sentences(worst()))).splitlines())


def test_every_row_has_formula_reason_and_cure_and_is_in_the_record() -> None:
    assert len({check.name for check in TABLE}) == len(TABLE) >= 16
    for row in worst().record()["checks"]:
        assert row["formula"] and row["reason"] and row["do"] and row["error_rate"] is None
    assert worst().record()["faults"] == [one.check.name for one in worst().faults]


def test_labels_are_not_judged_by_a_policy_that_is_sure_of_nothing() -> None:
    """After a few steps margins are next to 0 and wrong in many pairs, whatever the labels are."""
    wrong = [(-1) ** (i % 3 == 0) * (1.0 + i / 80) for i in range(80)]  # every third pair

    def state(scale: float) -> str:
        found = diagnose(replace(dpo(), margins=[scale * x for x in wrong]))
        return next(one.state for one in found.findings if one.check.name == "labels")

    assert [state(scale) for scale in (0.01, 100.0)] == ["cannot tell", "fault"]


def test_swapped_labels_are_named() -> None:
    (one,) = [one for one in worst().faults if one.check.name == "labels"]
    assert "may be swapped" in one.said


def test_repeated_trigrams() -> None:
    assert repeated("a b c d e") == 0 and repeated("a b") == 0
    assert repeated("a b c a b c") == 0.25  # abc bca cab abc


def test_the_page_holds_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/diagnose-run.md").read_text(encoding="utf-8")
    for check in TABLE:
        formula = check.formula.replace("|", "\\|")
        assert f"| `{check.name}` | {check.fault} | {formula} | {check.threshold:g} | {check.reason} |" in page
