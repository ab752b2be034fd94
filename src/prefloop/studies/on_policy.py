"""§5.1.1: does it help to refresh the sampling policy more often? B at fixed M, one pass: no sample is reused."""

from __future__ import annotations

import numpy as np

from prefloop.lab.summary import Cell
from prefloop.studies.bench import Bench
from prefloop.studies.cells import FAR, NEAR, RATES, SCORE, arms, by, curves, gains, place, summary
from prefloop.studies.study import Claim, Outcome, Study, judge

MINIBATCH = 40  # responses per gradient step: 4 prompts × 10
RATIOS = (1, 4, 16)  # B / M
METHODS = {
    "ppo_critic_free": {"reuse": 1},
    "reinforce": {},
    "rwr": {"beta": 0.1},
    "best_of_n": {},
}
CLAIMS = (
    Claim(
        "staleness-rises",
        "a larger collection at the same minibatch is staler: the policy moves away from the one that sampled",
        f"KL(collection‖current) at B = {RATIOS[-1]}M less that at B = M, R1, mean of the methods and over training",
        0.01,
        "nats per response",
    ),
    Claim(
        "fresh-helps-far",
        "smaller, more frequent batches do better when the reward peaks where the reference is unlikely (R1)",
        f"score at B = M less score at B = {RATIOS[-1]}M, R1, mean of the four methods",
        0.02,
        "share of the attainable gain",
    ),
    Claim(
        "milder-near",
        "the loss from off-policy updates is milder when the peak is near the reference's mode (R2)",
        f"loss from B = M to B = {RATIOS[-1]}M on R1 less the same loss on R2",
        0.02,
        "share of the attainable gain",
    ),
    *(
        Claim(
            f"fresh-helps-far-{name}",
            f"the same for {name} alone (R1)",
            f"score at B = M less score at B = {RATIOS[-1]}M, R1",
            0.02,
            "share of the attainable gain",
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
    effects = measure(cells)
    findings = [judge(claim, effect) for claim, effect in zip(CLAIMS, effects, strict=True)]
    names = [f"B = {r}M" for r in RATIOS]
    figures = {
        f"curves-{'far' if centre == FAR else 'near'}": [
            curves(f"{m}: {place(centre)}", [cells[m, r, centre] for r in RATIOS], names) for m in METHODS
        ]
        for centre in (FAR, NEAR)
    }
    rows = [[m, f"{r}M", "R1" if c == FAR else "R2"] for m, r, c in keys]
    table = summary("Cells", list(cells.values()), ("method", "B", "reward"), rows)
    return Outcome(findings, figures, [table])


def measure(cells: dict[tuple[str, int, float], Cell]) -> list[np.ndarray]:
    """One effect per claim, paired by seed."""

    def loss(names: list[str], centre: float) -> np.ndarray:
        fresh, stale = ([cells[n, r, centre] for n in names] for r in (RATIOS[0], RATIOS[-1]))
        return gains(fresh) - gains(stale)

    stale, fresh = (
        np.stack([np.nanmean(cells[n, r, FAR].curve("kl/collection"), axis=1) for n in METHODS]).mean(0)
        for r in (RATIOS[-1], RATIOS[0])
    )
    every = list(METHODS)
    return [stale - fresh, loss(every, FAR), loss(every, FAR) - loss(every, NEAR), *(loss([n], FAR) for n in METHODS)]


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
