"""§5.1.1: does it help to refresh the sampling policy more often? B at fixed M, one pass: no sample is reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from prefloop.lab.summary import Cell
from prefloop.report.chart import Array
from prefloop.studies import lengths
from prefloop.studies.bench import Bench
from prefloop.studies.cells import FAR, NEAR, RATES, SCORE, arms, by, curves, gains, place, summary
from prefloop.studies.lengths import PROBLEMS, SETTING, UNIT, about, setting, tuned, versus
from prefloop.studies.study import Claim, Outcome, Study, judged

MINIBATCH = 40  # responses per gradient step: 4 prompts × 10
RATIOS = (1, 4, 16)  # B / M
METHODS = {
    "ppo_critic_free": {"reuse": 1},
    "reinforce": {},
    "rwr": {"beta": 0.1},
    "best_of_n": {},
}
Cells = Mapping[tuple[str, int, float], Cell]  # method, B / M, centre


def loss(cells: Cells, methods: Sequence[str], centre: float) -> Array:
    """Mean score with fresh collections minus that with the stalest ones, paired by seed."""
    fresh, stale = ([cells[m, r, centre] for m in methods] for r in (RATIOS[0], RATIOS[-1]))
    return gains(fresh) - gains(stale)


def staleness(cells: Mapping[tuple[str, int, Any], Cell], methods: Sequence[str], where: Any) -> Array:
    """KL(collection‖current) with the stalest collections minus that with fresh ones, mean over methods and steps."""
    stale, fresh = (
        np.stack([np.nanmean(cells[m, r, where].curve("kl/collection"), axis=1) for m in methods]).mean(0)
        for r in (RATIOS[-1], RATIOS[0])
    )
    return stale - fresh


CLAIMS = (
    Claim(
        "staleness-rises",
        "a larger collection at the same minibatch is staler: the policy moves away from the one that sampled",
        f"KL(collection‖current) at B = {RATIOS[-1]}M less that at B = M, R1, mean of the methods and over training",
        0.01,
        "nats per response",
        of=lambda cells: staleness(cells, tuple(METHODS), FAR),
    ),
    Claim(
        "fresh-helps-far",
        "smaller, more frequent batches do better when the reward peaks where the reference is unlikely (R1)",
        f"score at B = M less score at B = {RATIOS[-1]}M, R1, mean of the four methods",
        0.02,
        "share of the attainable gain",
        of=lambda cells: loss(cells, tuple(METHODS), FAR),
    ),
    Claim(
        "milder-near",
        "the loss from off-policy updates is milder when the peak is near the reference's mode (R2)",
        f"loss from B = M to B = {RATIOS[-1]}M on R1 less the same loss on R2",
        0.02,
        "share of the attainable gain",
        of=lambda cells: loss(cells, tuple(METHODS), FAR) - loss(cells, tuple(METHODS), NEAR),
    ),
    *(
        Claim(
            f"fresh-helps-far-{name}",
            f"the same for {name} alone (R1)",
            f"score at B = M less score at B = {RATIOS[-1]}M, R1",
            0.02,
            "share of the attainable gain",
            of=partial(loss, methods=(name,), centre=FAR),
        )
        for name in METHODS
    ),
)


def run(bench: Bench) -> Outcome:
    """Every method at every B/M on both rewards."""
    keys = [(name, ratio, centre) for name in METHODS for ratio in RATIOS for centre in (FAR, NEAR)]
    base = {"minibatch": MINIBATCH, **bench.steps("arms")}
    settings = [
        arms(name, override=METHODS[name], batch=MINIBATCH * ratio, centre=centre, **base)
        for name, ratio, centre in keys
    ]
    cells = by(bench.tuned(settings, RATES), keys)
    names = [f"B = {r}M" for r in RATIOS]
    figures = {
        f"curves-{'far' if centre == FAR else 'near'}": [
            curves(f"{m}: {place(centre)}", [cells[m, r, centre] for r in RATIOS], names) for m in METHODS
        ]
        for centre in (FAR, NEAR)
    }
    rows = [[m, f"{r}M", "R1" if c == FAR else "R2"] for m, r, c in keys]
    table = summary("Cells", list(cells.values()), ("method", "B", "reward"), rows)
    return Outcome(judged(CLAIMS, cells), figures, [table])


STUDY = Study(
    name="on-policy",
    question="Does on-policy sampling help, and where?",
    source="Tajwar et al. 2024, §5.1.1, Fig. 5",
    method=(
        f"Arms with fresh contexts, M = {MINIBATCH} responses per gradient step (4 prompts × 10), B = M × {RATIOS}, one"
        " pass over each collection, so that only staleness changes; gradient steps, samples and reward queries are the"
        " same in all cells, but for what the last collection holds beyond the steps."
        f" {SCORE} Staleness is measured on the last minibatch of a collection, after its update."
    ),
    claims=CLAIMS,
    run=run,
)


# ----------------------------------------------------------------------------------------- on text-like responses

NAMES = ("PPO", "best-of-N")


def length_loss(cells: Mapping[tuple[str, int, str], Cell], problem: str) -> Array:
    """Mean score of both methods with fresh collections minus that with the stalest ones, paired by seed."""
    return versus(cells, *([(name, r, problem) for name in NAMES] for r in (RATIOS[0], RATIOS[-1])))


LENGTH_CLAIMS = (
    Claim(
        "staleness-rises",
        "a larger collection at the same minibatch is staler",
        f"KL(collection‖current) at B = {RATIOS[-1]}M less that at B = M, Min Length, mean over methods and training",
        0.01,
        "nats per response",
        of=lambda cells: staleness(cells, NAMES, "min"),
    ),
    *(
        Claim(
            f"fresh-helps-{problem}",
            f"smaller, more frequent batches do better where the reward peaks away from the reference: {title}",
            f"score at B = M less score at B = {RATIOS[-1]}M, mean of PPO and best-of-N",
            0.02,
            UNIT,
            of=partial(length_loss, problem=problem),
        )
        for problem, title in PROBLEMS.items()
        if problem != "mode"
    ),
    Claim(
        "negligible-in-mode",
        "on Mode Length stale samples cost little",
        f"score at B = {RATIOS[-1]}M less score at B = M, mean of PPO and best-of-N",
        -0.05,
        UNIT,
        of=lambda cells: -length_loss(cells, "mode"),
    ),
    Claim(
        "matters-less-in-mode",
        "it matters less on Mode Length than on Min Length",
        "the loss from B = M to B = 16M on Min Length less that on Mode Length",
        0.02,
        UNIT,
        of=lambda cells: length_loss(cells, "min") - length_loss(cells, "mode"),
    ),
)


def run_lengths(bench: Bench) -> Outcome:
    """Two methods at every B/M on three problems."""
    keys = [(name, ratio, problem) for name in NAMES for ratio in RATIOS for problem in PROBLEMS]
    settings = [setting(bench, p, *lengths.METHODS[name], batch=lengths.MINIBATCH * ratio) for name, ratio, p in keys]
    cells = by(tuned(bench, settings), keys)
    labels = [f"B = {r}M" for r in RATIOS]
    figures = {
        figure: [
            curves(f"{name}: {title}", [cells[name, r, p] for r in RATIOS], labels, y=y)
            for name in NAMES
            for p, title in PROBLEMS.items()
        ]
        for figure, y in (("reward", "eval/gold"), ("length", "eval/length"))
    }
    rows = [[name, f"{ratio}M", problem] for name, ratio, problem in keys]
    table = summary("Cells", list(cells.values()), ("method", "B", "problem"), rows)
    return Outcome(judged(LENGTH_CLAIMS, cells), figures, [table], [about(bench)])


LENGTHS = Study(
    name="length-on-policy",
    question="Does on-policy sampling help on text-like responses, and where?",
    source="Tajwar et al. 2024, §5.1.1, Fig. 6",
    method=(
        f"{SETTING} B = M × {RATIOS}, one pass over each collection, so that only staleness changes; gradient steps,"
        " samples and reward queries are the same in all cells, but for what the last collection holds beyond the"
        f" steps. {lengths.SCORE}"
    ),
    claims=LENGTH_CLAIMS,
    run=run_lengths,
)
