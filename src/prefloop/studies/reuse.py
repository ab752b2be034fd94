"""§5.1.2: may a collection be passed over several times? T for PPO and best-of-N, on arms and on sequences."""

from __future__ import annotations

import numpy as np

from prefloop.lab.setting import Setting
from prefloop.lab.summary import Cell
from prefloop.report.chart import Chart
from prefloop.studies.bench import Bench
from prefloop.studies.cells import (
    FAR,
    NEAR,
    RATES,
    SCORE,
    SCORE_AXIS,
    SCORED,
    arms,
    at_equal_samples,
    by,
    curves,
    gains,
    middles,
    over_seeds,
    place,
    sequences,
    summary,
)
from prefloop.studies.study import Claim, Outcome, Study, judge

PASSES = {"arms": (1, 2, 4, 8, 16), "sequences": (1, 4, 8)}
METHODS = ("ppo_critic_free", "best_of_n")
UNCLIPPED = "ppo without its clip"  # the same advantage and ratio, unbounded
MODERATE, MANY = 4, 8
MOST = PASSES["arms"][-1]
UNIT = "share of the attainable gain"
CLAIMS = (
    Claim(
        "reuse-saves-samples",
        "moderate reuse learns faster per sample drawn",
        f"best-of-N and PPO on arms, R1: reward gained at T = {MODERATE} less that at T = 1, equal samples",
        0.02,
        UNIT,
    ),
    Claim(
        "much-reuse-hurts-best-of-n",
        "excessive reuse hurts best-of-N",
        f"score of best-of-N at T = 1 less that at T = {MOST}, arms, R1, equal gradient steps",
        0.02,
        UNIT,
    ),
    Claim(
        "ppo-bears-reuse",
        f"PPO is unaffected up to T = {MANY}, which the paper credits to its ratio clip",
        f"score of PPO at T = {MANY} less that at T = 1, arms, R1, equal gradient steps",
        -0.02,
        UNIT,
    ),
    Claim(
        "clip-is-active",
        "reuse brings the clip into play",
        f"clipped share of tokens of PPO at T = {MANY} less that at T = 1, arms, R1, mean over training",
        0.01,
        "share of tokens",
    ),
    Claim(
        "clip-is-why",
        "and the clip is why PPO bears reuse",
        f"score of PPO at T = {MOST} less that of the same ratio without a clip, arms, R1",
        0.02,
        UNIT,
    ),
    Claim(
        "asymmetry-arms",
        "best-of-N loses more by reuse than PPO does",
        f"loss of best-of-N from T = 1 to T = {MANY} less the loss of PPO, arms, R1",
        0.02,
        UNIT,
    ),
    Claim(
        "asymmetry-sequences",
        "the same on sequences, with log-probs that are aligned",
        f"loss of best-of-N from T = 1 to T = {MANY} less the loss of PPO, sequences, R1",
        0.02,
        UNIT,
    ),
    Claim(
        "collapse-sequences",
        "best-of-N collapses under reuse, as the published code shows it",
        f"best reward in training less the reward at the end, best-of-N at T = {MANY} on sequences, R1",
        0.05,
        "gold reward",
    ),
    Claim(
        "milder-near",
        "reuse costs less where the peak is near the reference's mode",
        f"loss of best-of-N from T = 1 to T = {MOST} on R1 less that on R2, arms",
        0.02,
        UNIT,
    ),
)
Key = tuple[str, str, int, float]


def run(bench: Bench) -> Outcome:
    """Both methods at every T on both rewards and both problems; PPO without its clip where T is largest."""
    keys: list[Key] = [(p, m, t, c) for p in PASSES for m in METHODS for t in PASSES[p] for c in (FAR, NEAR)]
    keys.append(("arms", UNCLIPPED, MOST, FAR))
    cells = by(bench.tuned([_setting(bench, *key) for key in keys], RATES), keys)
    findings = [judge(claim, effect) for claim, effect in zip(CLAIMS, measure(cells), strict=True)]
    figures = {f"{p}-steps": _panels(cells, p, "step") for p in PASSES} | {
        f"{p}-samples": _panels(cells, p, "samples") for p in PASSES
    }
    figures["score-by-passes"] = [_by_passes(cells, p, c) for p in PASSES for c in (FAR, NEAR)]
    rows = [[p, m, t, "R1" if c == FAR else "R2"] for p, m, t, c in keys]
    table = summary("Cells", list(cells.values()), ("problem", "method", "T", "reward"), rows)
    return Outcome(findings, figures, [table])


def _setting(bench: Bench, problem: str, method: str, passes: int, centre: float) -> Setting:
    make = arms if problem == "arms" else sequences
    unclipped = {"objective": "policy_gradient"} if method == UNCLIPPED else {}
    row = METHODS[0] if method == UNCLIPPED else method
    return make(row, override={"reuse": passes, **unclipped}, centre=centre, **bench.steps(problem))


def measure(cells: dict[Key, Cell]) -> list[np.ndarray]:
    """One effect per claim, paired by seed."""

    def loss(problem: str, method: str, passes: int, centre: float = FAR) -> np.ndarray:
        return gains([cells[problem, method, 1, centre]]) - gains([cells[problem, method, passes, centre]])

    def clipped(passes: int) -> np.ndarray:
        return np.nanmean(cells["arms", METHODS[0], passes, FAR].curve("clip_ratio/region_mean"), axis=1)

    saved = np.stack([at_equal_samples(cells["arms", m, MODERATE, FAR], cells["arms", m, 1, FAR]) for m in METHODS])
    long = cells["sequences", "best_of_n", MANY, FAR]
    return [
        saved.mean(0),
        loss("arms", "best_of_n", MOST),
        -loss("arms", "ppo_critic_free", MANY),
        clipped(MANY) - clipped(1),
        gains([cells["arms", METHODS[0], MOST, FAR]]) - gains([cells["arms", UNCLIPPED, MOST, FAR]]),
        loss("arms", "best_of_n", MANY) - loss("arms", "ppo_critic_free", MANY),
        loss("sequences", "best_of_n", MANY) - loss("sequences", "ppo_critic_free", MANY),
        long.values(lambda r: float(r.curves["eval/gold"].max() - r.curves["eval/gold"][-1])),
        loss("arms", "best_of_n", MOST) - loss("arms", "best_of_n", MOST, NEAR),
    ]


def _panels(cells: dict[Key, Cell], problem: str, x: str) -> list[Chart]:
    passes = PASSES[problem]
    labels = [f"T = {t}" for t in passes]
    return [
        curves(f"{m}: {place(c)}", [cells[problem, m, t, c] for t in passes], labels, x=x)
        for m in METHODS
        for c in (FAR, NEAR)
    ]


def _by_passes(cells: dict[Key, Cell], problem: str, centre: float) -> Chart:
    lines = []
    for m in METHODS:
        scores = np.stack([gains([cells[problem, m, t, centre]]) for t in PASSES[problem]])
        lines.append(middles(m, PASSES[problem], scores))
    return Chart(
        f"{problem}: {place(centre)}",
        "passes T, at equal gradient steps",
        SCORE_AXIS,
        lines,
        log_x=True,
        range=SCORED,
        interval=over_seeds(cells[problem, METHODS[0], PASSES[problem][0], centre]),
    )


STUDY = Study(
    name="reuse",
    question="Can sample reuse stand in for fresh samples, and does PPO bear it better than best-of-N?",
    source="Tajwar et al. 2024, §5.1.2, Fig. 10 and 11",
    method=(
        "B = M = 100 responses (10 prompts × 10): T gradient steps on each collection before new responses are drawn,"
        " so that a run of T passes draws 1/T of the samples and asks for 1/T of the rewards in the same number of"
        f" gradient steps. Log-probs are next-token aligned and without dropout. {SCORE}"
    ),
    claims=CLAIMS,
    run=run,
)
