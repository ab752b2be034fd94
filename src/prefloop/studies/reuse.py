"""§5.1.2: may a collection be passed over several times? T for PPO and best-of-N, on arms and on sequences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefloop.lab.setting import Setting
from prefloop.lab.summary import Cell
from prefloop.report.chart import Array, Chart
from prefloop.studies import lengths
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
from prefloop.studies.lengths import PROBLEMS, SETTING, UNIT, about, setting, tuned, versus
from prefloop.studies.study import Claim, Outcome, Study, judged

PASSES = {"arms": (1, 2, 4, 8, 16), "sequences": (1, 4, 8)}
METHODS = ("ppo_critic_free", "best_of_n")
UNCLIPPED = "ppo without its clip"  # the same advantage and ratio, unbounded
MODERATE, MANY = 4, 8
MOST = PASSES["arms"][-1]
PPO, BEST = METHODS
Key = tuple[str, str, int, float]
Cells = Mapping[Key, Cell]  # problem, method, passes, centre


def loss(cells: Cells, problem: str, method: str, passes: int, centre: float = FAR) -> Array:
    """Score with one pass minus that with `passes`, paired by seed."""
    return gains([cells[problem, method, 1, centre]]) - gains([cells[problem, method, passes, centre]])


def saved(cells: Cells) -> Array:
    """Gain from moderate reuse at equal samples, mean over methods."""
    each = [at_equal_samples(cells["arms", m, MODERATE, FAR], cells["arms", m, 1, FAR]) for m in METHODS]
    return np.stack(each).mean(0)


def clipped(cells: Cells, passes: int) -> Array:
    """Share of tokens that the clip removes, mean over training."""
    return np.nanmean(cells["arms", PPO, passes, FAR].curve("clip_ratio/region_mean"), axis=1)


def unclipped(cells: Cells) -> Array:
    """Score of PPO at the most passes minus that without its clip."""
    return gains([cells["arms", PPO, MOST, FAR]]) - gains([cells["arms", UNCLIPPED, MOST, FAR]])


def asymmetry(cells: Cells, problem: str) -> Array:
    """Cost of many passes for best-of-N minus that for PPO."""
    return loss(cells, problem, BEST, MANY) - loss(cells, problem, PPO, MANY)


def collapse(cells: Cells) -> Array:
    """Best reward of best-of-N in training minus its final reward, sequences, many passes."""
    long = cells["sequences", BEST, MANY, FAR]
    return long.values(lambda r: float(r.curves["eval/gold"].max() - r.curves["eval/gold"][-1]))


CLAIMS = (
    Claim(
        "reuse-saves-samples",
        "moderate reuse learns faster per sample drawn",
        f"best-of-N and PPO on arms, R1: reward gained at T = {MODERATE} less that at T = 1, equal samples",
        0.02,
        UNIT,
        of=saved,
    ),
    Claim(
        "much-reuse-hurts-best-of-n",
        "excessive reuse hurts best-of-N",
        f"score of best-of-N at T = 1 less that at T = {MOST}, arms, R1, equal gradient steps",
        0.02,
        UNIT,
        of=lambda cells: loss(cells, "arms", BEST, MOST),
    ),
    Claim(
        "ppo-bears-reuse",
        f"PPO is unaffected up to T = {MANY}, which the paper credits to its ratio clip",
        f"score of PPO at T = {MANY} less that at T = 1, arms, R1, equal gradient steps",
        -0.02,
        UNIT,
        of=lambda cells: -loss(cells, "arms", PPO, MANY),
    ),
    Claim(
        "clip-is-active",
        "reuse brings the clip into play",
        f"clipped share of tokens of PPO at T = {MANY} less that at T = 1, arms, R1, mean over training",
        0.01,
        "share of tokens",
        of=lambda cells: clipped(cells, MANY) - clipped(cells, 1),
    ),
    Claim(
        "clip-is-why",
        "and the clip is why PPO bears reuse",
        f"score of PPO at T = {MOST} less that of the same ratio without a clip, arms, R1",
        0.02,
        UNIT,
        of=unclipped,
    ),
    Claim(
        "asymmetry-arms",
        "best-of-N loses more by reuse than PPO does",
        f"loss of best-of-N from T = 1 to T = {MANY} less the loss of PPO, arms, R1",
        0.02,
        UNIT,
        of=lambda cells: asymmetry(cells, "arms"),
    ),
    Claim(
        "asymmetry-sequences",
        "the same on sequences, with log-probs that are aligned",
        f"loss of best-of-N from T = 1 to T = {MANY} less the loss of PPO, sequences, R1",
        0.02,
        UNIT,
        of=lambda cells: asymmetry(cells, "sequences"),
    ),
    Claim(
        "collapse-sequences",
        "best-of-N collapses under reuse, as the published code shows it",
        f"best reward in training less the reward at the end, best-of-N at T = {MANY} on sequences, R1",
        0.05,
        "gold reward",
        of=collapse,
    ),
    Claim(
        "milder-near",
        "reuse costs less where the peak is near the reference's mode",
        f"loss of best-of-N from T = 1 to T = {MOST} on R1 less that on R2, arms",
        0.02,
        UNIT,
        of=lambda cells: loss(cells, "arms", BEST, MOST) - loss(cells, "arms", BEST, MOST, NEAR),
    ),
)


def run(bench: Bench) -> Outcome:
    """Both methods at every T on both rewards and both problems; PPO without its clip at the largest T."""
    keys: list[Key] = [(p, m, t, c) for p in PASSES for m in METHODS for t in PASSES[p] for c in (FAR, NEAR)]
    keys.append(("arms", UNCLIPPED, MOST, FAR))
    cells = by(bench.tuned([_setting(bench, *key) for key in keys], RATES), keys)
    figures = {f"{p}-steps": _panels(cells, p, "step") for p in PASSES} | {
        f"{p}-samples": _panels(cells, p, "samples") for p in PASSES
    }
    figures["score-by-passes"] = [_by_passes(cells, p, c) for p in PASSES for c in (FAR, NEAR)]
    rows = [[p, m, t, "R1" if c == FAR else "R2"] for p, m, t, c in keys]
    table = summary("Cells", list(cells.values()), ("problem", "method", "T", "reward"), rows)
    return Outcome(judged(CLAIMS, cells), figures, [table])


def _setting(bench: Bench, problem: str, method: str, passes: int, centre: float) -> Setting:
    make = arms if problem == "arms" else sequences
    unclipped = {"objective": "policy_gradient"} if method == UNCLIPPED else {}
    row = METHODS[0] if method == UNCLIPPED else method
    return make(row, override={"reuse": passes, **unclipped}, centre=centre, **bench.steps(problem))


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


# ----------------------------------------------------------------------------------------- on text-like responses

LENGTH_PASSES = (1, 2, 8)
NAMES = ("PPO", "best-of-N")
ON = ("min", "mode")


def length_loss(cells: Mapping[tuple[str, int, str], Cell], name: str, problem: str = "min") -> Array:
    """Score with one pass minus that with the most, paired by seed."""
    return versus(cells, [(name, 1, problem)], [(name, LENGTH_PASSES[-1], problem)])


LENGTH_CLAIMS = (
    Claim(
        "two-passes-help-best-of-n",
        "best-of-N does better with two passes than with one, at equal samples",
        "score of best-of-N at T = 2 less that at T = 1 over as many samples, Min Length",
        0.02,
        UNIT,
        of=lambda cells: at_equal_samples(cells["best-of-N", 2, "min"], cells["best-of-N", 1, "min"]),
    ),
    Claim(
        "much-reuse-hurts-best-of-n",
        "excessive reuse hurts best-of-N",
        "score of best-of-N at T = 1 less that at T = 8, Min Length, equal gradient steps",
        0.02,
        UNIT,
        of=lambda cells: length_loss(cells, "best-of-N"),
    ),
    Claim(
        "ppo-bears-reuse",
        "PPO is unaffected up to T = 8",
        "score of PPO at T = 8 less that at T = 1, Min Length, equal gradient steps",
        -0.02,
        UNIT,
        of=lambda cells: -length_loss(cells, "PPO"),
    ),
    Claim(
        "asymmetry",
        "best-of-N loses more by reuse than PPO does",
        "loss of best-of-N from T = 1 to T = 8 less the loss of PPO, Min Length",
        0.02,
        UNIT,
        of=lambda cells: length_loss(cells, "best-of-N") - length_loss(cells, "PPO"),
    ),
    Claim(
        "milder-in-mode",
        "reuse costs less on Mode Length",
        "loss of best-of-N from T = 1 to T = 8 on Min Length less that on Mode Length",
        0.02,
        UNIT,
        of=lambda cells: length_loss(cells, "best-of-N") - length_loss(cells, "best-of-N", "mode"),
    ),
)


def run_lengths(bench: Bench) -> Outcome:
    """Both methods at every T on two problems."""
    keys = [(name, passes, problem) for name in NAMES for passes in LENGTH_PASSES for problem in ON]
    settings = [setting(bench, p, lengths.METHODS[name][0], {"reuse": passes}) for name, passes, p in keys]
    cells = by(tuned(bench, settings), keys)
    labels = [f"T = {t}" for t in LENGTH_PASSES]
    figures = {
        figure: [
            curves(f"{name}: {PROBLEMS[p]}", [cells[name, t, p] for t in LENGTH_PASSES], labels, x=x, y=y)
            for name in NAMES
            for p in ON
        ]
        for figure, x, y in (("length-by-step", "step", "eval/length"), ("reward-by-samples", "samples", "eval/gold"))
    }
    table = summary("Cells", list(cells.values()), ("method", "T", "problem"), [list(key) for key in keys])
    return Outcome(judged(LENGTH_CLAIMS, cells), figures, [table], [about(bench)])


LENGTHS = Study(
    name="length-reuse",
    question="Can sample reuse stand in for fresh samples on text-like responses?",
    source="Tajwar et al. 2024, §5.1.2, Fig. 11",
    method=(
        f"{SETTING} B = M; T gradient steps on each collection before new responses are drawn, so that a run of T"
        f" passes draws 1/T of the samples in the same number of gradient steps. {lengths.SCORE}"
    ),
    claims=LENGTH_CLAIMS,
    run=run_lengths,
)
