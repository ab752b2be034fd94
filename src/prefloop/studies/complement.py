"""§5.3: are on-policy sampling and the negative gradient complementary? {offline, on-policy} × three families."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from prefloop.lab.setting import Setting
from prefloop.lab.summary import Cell
from prefloop.report.chart import Array, Table
from prefloop.studies import lengths
from prefloop.studies.bench import Bench
from prefloop.studies.cells import FAR, NEAR, RATES, SCORE, arms, by, curves, gains, place, sequences, summary
from prefloop.studies.lengths import SEEDS, SETTING, UNIT, about, panels, rates, setting, tuned, versus
from prefloop.studies.study import Claim, Outcome, Study, judged
from prefloop.worlds.lengths.spec import Lengths

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {  # label: method and overrides; the switch on_policy does the rest
    "supervised (best-of-N)": ("best_of_n", {}),
    "contrastive (DPO)": ("dpo", {}),
    "policy gradient (PPO, no critic)": ("ppo_critic_free", {"reuse": 1}),
}
SUPERVISED, CONTRASTIVE, GRADIENT = FAMILIES
SOURCES = {"offline": 0.0, "on-policy": 1.0}
PROBLEMS = ("arms", "sequences")


Key = tuple[str, str, str, float]
Cells = Mapping[Key, Cell]  # problem, family, source, centre


def lead(cells: Cells, problem: str, family: str, source: str) -> Array:
    """Score of on-policy contrastive training minus that of another cell on R1, paired by seed."""
    return gains([cells[problem, CONTRASTIVE, "on-policy", FAR]]) - gains([cells[problem, family, source, FAR]])


def apart(cells: Cells, problem: str) -> Array:
    """Spread between the best and the worst of the six cells on R1 minus that on R2."""

    def spread(centre: float) -> Array:
        every = np.stack([gains([cells[problem, f, s, centre]]) for f in FAMILIES for s in SOURCES])
        return every.max(0) - every.min(0)

    return spread(FAR) - spread(NEAR)


def _claims(problem: str) -> list[Claim]:
    against = (
        ("offline-contrastive", CONTRASTIVE, "offline", "on-policy contrastive training beats the offline one"),
        ("on-policy-supervised", SUPERVISED, "on-policy", "on-policy contrastive training beats on-policy supervision"),
        ("on-policy-rl", GRADIENT, "on-policy", "on-policy contrastive training beats on-policy RL"),
    )
    versus = [
        Claim(
            f"{problem}-beats-{name}",
            f"{text} (R1, {problem})",
            f"score of on-policy {CONTRASTIVE} less {source} {family}",
            0.02,
            UNIT,
            of=partial(lead, problem=problem, family=family, source=source),
        )
        for name, family, source, text in against
    ]
    spread = Claim(
        f"{problem}-less-apart-near",
        f"methods differ less where the peak is near the reference than where it is far ({problem})",
        "score of the best less that of the worst of the six cells, per seed, on R1, less the same on R2",
        0.02,
        UNIT,
        of=partial(apart, problem=problem),
    )
    return [*versus, spread]


CLAIMS = tuple(claim for problem in PROBLEMS for claim in _claims(problem))


def run(bench: Bench) -> Outcome:
    """Six cells on two rewards and two problems."""
    keys: list[Key] = [(p, f, s, c) for p in PROBLEMS for f in FAMILIES for s in SOURCES for c in (FAR, NEAR)]
    cells = by(bench.tuned([_setting(bench, *key) for key in keys], RATES), keys)
    figures = {
        p: [
            curves(
                place(c),
                [cells[p, f, s, c] for f in FAMILIES for s in SOURCES],
                [f"{s} {f}" for f in FAMILIES for s in SOURCES],
            )
            for c in (FAR, NEAR)
        ]
        for p in PROBLEMS
    }
    rows = [[p, s, f, "R1" if c == FAR else "R2"] for p, f, s, c in keys]
    table = summary("Cells", list(cells.values()), ("problem", "responses", "family", "reward"), rows)
    return Outcome(judged(CLAIMS, cells), figures, [table])


def _setting(bench: Bench, problem: str, family: str, source: str, centre: float) -> Setting:
    method, override = FAMILIES[family]
    make = arms if problem == "arms" else sequences
    return make(method, override={**override, "on_policy": SOURCES[source]}, centre=centre, **bench.steps(problem))


STUDY = Study(
    name="complement",
    question="Are on-policy sampling and the negative gradient complementary?",
    source="Tajwar et al. 2024, §5.3, Fig. 18",
    method=(
        "One row per family (best-of-N, DPO with the best and the worst of ten, PPO without a critic) with the switch"
        " on_policy at 0 and 1, ten prompts × ten responses per gradient step, one pass. Offline data: 1,000 responses"
        f" of the reference with gold scores; responses of the policy are scored by gold. {SCORE}"
    ),
    claims=CLAIMS,
    run=run,
)


# ----------------------------------------------------------------------------------------- on text-like responses

BEST = "on-policy DPO"
LengthCells = Mapping[tuple[str, str], Cell]  # method, problem
AWAY = ("min", "skew")
OTHERS = ("offline DPO", "PPO", "on-policy RWR")
PUBLISHED = (
    "Published (Pythia-1.4B, 600 steps): Min Length: on-policy DPO ~1 token by 70–100 steps, offline DPO ~1 by 160, PPO"
    " 6 and RWR 72 at 590, from ~190–220. Mode Length: all alike, noisy, distance 4–37. Skew Length: on-policy DPO ~1"
    " by 90, offline DPO hovers at 7–18, PPO 14 and RWR 22 at 590."
)


def ahead(cells: LengthCells, name: str, problem: str) -> Array:
    """Score of on-policy DPO minus that of another method, paired by seed."""
    return versus(cells, [(BEST, problem)], [(name, problem)])


def above(cells: LengthCells) -> Array:
    """Final tokens of offline DPO minus those of on-policy DPO, Skew Length."""
    return cells["offline DPO", "skew"].last("eval/length") - cells[BEST, "skew"].last("eval/length")


def length_apart(cells: LengthCells) -> Array:
    """Spread between the best and the worst method on Min Length minus that on Mode Length."""

    def spread(problem: str) -> Array:
        every = np.stack([gains([cells[name, problem]]) for name in lengths.METHODS])
        return every.max(0) - every.min(0)

    return spread("min") - spread("mode")


LENGTH_CLAIMS = (
    *(
        Claim(
            f"{problem}-beats-{name.lower().replace(' ', '-')}",
            f"on-policy DPO beats {name} on {lengths.PROBLEMS[problem]}",
            f"score of on-policy DPO less that of {name}",
            0.02,
            UNIT,
            of=partial(ahead, name=name, problem=problem),
        )
        for problem in AWAY
        for name in OTHERS
    ),
    Claim(
        "offline-plateaus-in-skew",
        "on Skew Length offline DPO stops above what on-policy DPO reaches",
        "tokens per response at the end, offline DPO less on-policy DPO, Skew Length",
        1.0,
        "tokens",
        of=above,
    ),
    Claim(
        "less-apart-in-mode",
        "methods differ less on Mode Length than on Min Length",
        "score of the best less that of the worst of the six cells, per seed, on Min Length, less the same on Mode",
        0.02,
        UNIT,
        of=length_apart,
    ),
)


def run_lengths(bench: Bench) -> Outcome:
    """Six methods on three problems."""
    keys = [(name, problem) for name in lengths.METHODS for problem in lengths.PROBLEMS]
    cells = by(tuned(bench, [setting(bench, p, *lengths.METHODS[name]) for name, p in keys]), keys)
    figures = panels(cells, list(lengths.METHODS))
    table = summary("Cells", list(cells.values()), ("method", "problem"), [list(key) for key in keys])
    tables = [_tokens(cells), table, rates(cells), *_elsewhere(bench, cells)]
    return Outcome(judged(LENGTH_CLAIMS, cells), figures, tables, [about(bench), PUBLISHED])


def _tokens(cells: LengthCells) -> Table:
    """Tokens per response, or the gold distance from the mode, at the start, half-way and the end; means over seeds."""
    rows = []
    for (name, problem), cell in cells.items():
        column = _cost(cell, problem)
        at = (0, column.shape[1] // 2, -1)
        rows.append([problem, name, *(f"{column[:, i].mean():.1f}" for i in at), f"{cell.last('eval/cut').mean():.2f}"])
    head = ("problem", "method", "at the start", "half-way", "at the end", "cut at the limit")
    return Table("Tokens (Mode Length: distance from the mode)", head, sorted(rows, key=lambda r: r[0]))


def _elsewhere(bench: Bench, cells: LengthCells) -> list[Table]:
    """The result of each candidate learning rate on the seeds of the comparison: the effect of choosing one."""
    tried = sorted({lr for cell in cells.values() for lr in cell.tried})
    seeds = bench.seeds[: SEEDS[bench.size]]
    at = [by(bench.tuned([c.setting for c in cells.values()], (lr,), seeds=seeds), list(cells)) for lr in tried]
    rows = []
    for key in sorted(cells, key=lambda key: key[1]):
        ends = [np.sort(_cost(tuned[key], key[1])[:, -1]) for tuned in at]
        rows.append([*reversed(key), *(f"{np.median(end):.1f} ({end[0]:.1f}–{end[-1]:.1f})" for end in ends)])
    title = "Tokens (Mode Length: distance from the mode) at the end, by learning rate: median and range over the seeds"
    return [Table(title, ("problem", "method", *(f"{lr:g}" for lr in tried)), rows)] if tried else []


def _cost(cell: Cell, problem: str) -> Array:
    """Tokens per response, or distance from the mode: [seeds, evaluations]."""
    world = cell.setting.world
    assert isinstance(world, Lengths)
    return abs(cell.curve("eval/gold")) * world.width if problem == "mode" else cell.curve("eval/length")


LENGTHS = Study(
    name="length-complement",
    question="Do on-policy samples and the negative gradient help each other on text-like responses?",
    source="Tajwar et al. 2024, §5.3, Fig. 19",
    method=f"{SETTING} {lengths.SCORE}",
    claims=LENGTH_CLAIMS,
    run=run_lengths,
)
