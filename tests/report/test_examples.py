"""Runs on labels and on demonstrations: their change on the same held-out examples, by the rule of all comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from prefloop.analysis.numbers import decimals, fixed
from prefloop.analysis.parts import rate_parts, separation_parts
from prefloop.report.cells import columns
from prefloop.report.findings import findings
from run_folders import labelled

GOOD = np.arange(40) % 2 == 0
TOKENS = np.random.default_rng(1).integers(5, 40, size=40)
LABELS = {"eval/labels/auc": 0.5, "eval/labels/auc_se": 0.0, "eval/labels/longer": 0.5, "eval/labels/count": 40}


def run(root: Path, name: str, method: str, seed: int, ends: list[dict[str, Any]], rows: list[list[Any]]) -> Path:
    """A run with two evaluations and, for each, lines of single responses."""
    folder = labelled(root, name, method=method, seed=seed, right=[1.0], longer=[1.0])
    (folder / "pairs.jsonl").unlink()
    lines = [{"kind": "evaluation", "step": step, **end} for step, end in zip((0, 20), ends, strict=True)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"step": n, **row} for n, some in zip((0, 20), rows, strict=True) for row in some]
    (folder / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def noise(seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=40)


def named(i: int, clusters: int = 40) -> dict[str, str]:
    return {"example": f"e{i}", "question": f"q{i % clusters}"}


def on_labels(root: Path, moved: Any, tokens: Any, *, name: str = "kto", seed: int = 0) -> Path:
    rows = [
        [{**named(i), "good": bool(g), "tokens": int(t), "moved": float(m)} for i, (g, t, m) in enumerate(all_)]
        for all_ in (zip(GOOD, tokens, x, strict=True) for x in (np.zeros(40), moved))
    ]
    auc, longer = (float(separation_parts(x, GOOD).mean()) for x in (moved, tokens))
    ends = [LABELS | {"eval/labels/longer": longer}, LABELS | {"eval/labels/auc": auc, "eval/labels/longer": longer}]
    return run(root, name, "kto", seed, ends, rows)


def on_demonstrations(root: Path, logp: list[Any], *, name: str = "sft", clusters: int = 40, seed: int = 0) -> Path:
    rows = [
        [
            {**named(i, clusters), "tokens": int(t), "logp": float(x)}
            for i, (t, x) in enumerate(zip(TOKENS, some, strict=True))
        ]
        for some in logp
    ]
    losses = [float(-sum(some) / TOKENS.sum()) for some in logp]
    ends = [{"eval/loss": x, "eval/loss_se": 0.1, "eval/perplexity": 2.0, "eval/demonstrations": 40} for x in losses]
    return run(root, name, "sft", seed, ends, rows)


def interval(values: Any) -> str:
    ends = [float(end) for end in stats.ttest_1samp(values, 0).confidence_interval(0.95)]
    low, high = (fixed(x, decimals(*ends), sign=True) for x in ends)
    return f"95 % interval {low} to {high}"


def test_a_run_on_labels_says_whether_it_separates_them_better_than_before_and_than_length(tmp_path: Path) -> None:
    moved = noise() + 2 * GOOD
    (said,) = findings(columns([on_labels(tmp_path, moved, TOKENS)]))
    after, length = separation_parts(moved, GOOD), separation_parts(TOKENS, GOOD)
    assert "Change from 0.500 before training: +" in said and ", 40 questions): better. Policy minus " in said
    assert interval(after - 0.5) in said
    if length.mean() >= 0.5:
        assert "Policy minus longer: " in said and interval(after - length) in said


def test_where_the_shorter_ones_are_good_that_is_what_the_policy_must_beat(tmp_path: Path) -> None:
    (said,) = findings(columns([on_labels(tmp_path, noise(), np.where(GOOD, 3, 9))]))
    assert "Policy minus shorter (1.000): −" in said and "worse." in said
    assert "so not decided. Policy" in said


@pytest.mark.parametrize(("drop", "verdict"), [(0.4, "better."), (-0.4, "worse."), (0.0, "so not decided.")])
def test_a_run_on_demonstrations_says_whether_its_loss_fell(tmp_path: Path, drop: float, verdict: str) -> None:
    before = -TOKENS * 2.0 + noise(2)
    after = before + drop * TOKENS + noise(3)
    (said,) = findings(columns([on_demonstrations(tmp_path, [before, after])]))
    parts = rate_parts(-after, TOKENS) - rate_parts(-before, TOKENS)
    assert parts.mean() == pytest.approx((before - after).sum() / TOKENS.sum())
    assert said.endswith(verdict) and "questions): " in said and interval(parts) in said


def test_answers_to_one_question_are_dependent(tmp_path: Path) -> None:
    before = -TOKENS * 2.0
    after = before + 0.2 * TOKENS + 3 * noise()
    (said,) = findings(columns([on_demonstrations(tmp_path, [before, after], clusters=8)]))
    assert ", 8 questions): " in said


def test_seeds_are_judged_over_seeds_and_questions(tmp_path: Path) -> None:
    before = -TOKENS * 2.0
    folders = [
        on_demonstrations(tmp_path, [before, before + (0.4 + 0.01 * s) * TOKENS], name=f"sft{s}", seed=s)
        for s in range(3)
    ]
    (said,) = findings(columns(folders))
    assert "Change: −0.41" in said and "3 seeds × 40 questions): better." in said


def test_other_examples_at_both_ends_are_not_compared(tmp_path: Path) -> None:
    """As of a run from before examples were recorded, which went on later."""
    folder = on_demonstrations(tmp_path, [-TOKENS * 2.0, -TOKENS * 1.0])
    lines = (folder / "examples.jsonl").read_text().splitlines()
    for kept in (lines[40:], lines[1:], []):
        (folder / "examples.jsonl").write_text("".join(line + "\n" for line in kept))
        (said,) = findings(columns([folder]))
        assert "nats per token" in said and "Change" not in said
