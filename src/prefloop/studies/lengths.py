"""Shared code of the length studies: the three problems, settings, rates, and the score of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefloop.lab.setting import Setting, make
from prefloop.lab.stack import stack_of
from prefloop.lab.summary import Cell
from prefloop.report.chart import SHARE, Array, Chart, Line, Table
from prefloop.studies.bench import Bench
from prefloop.studies.cells import curves, gains
from prefloop.worlds.lengths.build import data_law, reference
from prefloop.worlds.lengths.problem import NAMED

RATES = (3e-4, 1e-3, 3e-3)
SEEDS = {"smoke": 2, "small": 5, "paper": 10}
EVALUATIONS = 10
MINIBATCH, GROUP = 32, 4  # responses per step: 8 prompts × 4
DATA = {"smoke": 32, "small": 500, "paper": 2000}  # groups of four responses of the reference
PROBLEMS = {"min": "Min Length", "mode": "Mode Length", "skew": "Skew Length"}
UNIT = "share of the attainable gain"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # label: method and overrides
    "on-policy DPO": ("online_dpo", {}),
    "offline DPO": ("dpo", {}),
    "PPO": ("ppo_critic_free", {"reuse": 1}),
    "on-policy RWR": ("rwr", {"beta": 0.1}),
    "best-of-N": ("best_of_n", {"reuse": 1}),
    "Pref-FT": ("pref_ft", {}),
}
SETTING = (
    "A GPT that writes one-sentence answers is the reference (size small: 0.27 M parameters, at most 32 tokens);"
    " preference data are groups of four of its responses (size small: 500), ordered by gold; on-policy methods are"
    " trained against a Bradley–Terry reward model that was learned from the same data, and judged by gold. M = 32"
    " responses per gradient step (8 prompts × 4). Min Length: fewer tokens are better. Mode Length: closer to the"
    " modal length is better. Skew Length: Min Length, but all but a tenth of the preference data end early"
    " by an exponential law."
)
SCORE = (
    "Score: gold reward averaged over training (trapezoids over gradient steps), as a share of what can be gained,"
    " (r − r_ref)/(0 − r_ref); gold is −|tokens − peak|/10. Learning rates are tried on two seeds of their own, at"
    " equal budgets, and the best of each cell is used; intervals are over seeds, five at size small."
)


def setting(bench: Bench, problem: str, method: str, override: Mapping[str, Any], **changes: Any) -> Setting:
    """A setting on one of the named problems; the proxy scores the policy's responses.

    Args:
        changes: fields of the setting, including `peak` and `coverage`.
    """
    (peak, coverage), steps = NAMED[problem], bench.budget.lengths
    fields: dict[str, Any] = {
        "peak": peak,
        "coverage": coverage,
        "responses": GROUP,
        "batch": MINIBATCH,
        "minibatch": MINIBATCH,
    }
    fields |= {"data": DATA[bench.size], "network": bench.size, "scorer": "proxy"}
    fields |= {"steps": steps, "evaluate": max(1, steps // EVALUATIONS), "evaluation": 32}
    return make(method, "lengths", dict(override), **{**fields, **changes})


def tuned(bench: Bench, settings: Sequence[Setting]) -> list[Cell]:
    """Every cell over the seeds of the length studies."""
    return bench.tuned(settings, RATES, seeds=bench.seeds[: SEEDS[bench.size]])


def about(bench: Bench) -> str:
    """Statistics of the reference, for the remarks of a page."""
    return f"{str(reference(bench.size)).capitalize()}."


def lengths_of(title: str, cells: Sequence[Cell], labels: Sequence[str]) -> Chart:
    """Mean length against gradient steps."""
    return curves(title, cells, labels, y="eval/length")


def law(title: str, cells: Sequence[Cell], labels: Sequence[str]) -> Chart:
    """Distribution of response lengths: reference, preference data, and each cell at the end of training."""
    tokens = sorted(int(k.rpartition("/")[2]) for k in cells[0].runs[0].curves if k.startswith("eval/length/"))
    shares = [np.stack([c.curve(f"eval/length/{n}") for n in tokens]).mean(1) for c in cells]  # [tokens, evaluations]
    lines = [Line("reference", tokens, shares[0][:, 0], dashed=True)]
    data = data_law(stack_of([run.setting for run in cells[0].runs]))[: len(tokens)]
    lines += [Line("preference data", tokens, data.numpy(), dashed=True)]
    lines += [Line(label, tokens, share[:, -1]) for label, share in zip(labels, shares, strict=True)]
    return Chart(
        title, "tokens", "share of responses", lines, range=SHARE, interval=f"mean over {len(cells[0].runs)} seeds"
    )


def panels(cells: Mapping[tuple[str, str], Cell], names: Sequence[str]) -> dict[str, list[Chart]]:
    """Length and gold reward against steps, and length distributions: a panel per problem, a line per method."""
    each = {title: [cells[name, p] for name in names] for p, title in PROBLEMS.items()}
    return {
        "length": [lengths_of(title, own, names) for title, own in each.items()],
        "reward": [curves(title, own, names) for title, own in each.items()],
        "laws": [law(title, own, names) for title, own in each.items()],
    }


def rates(cells: Mapping[tuple[str, str], Cell]) -> Table:
    """Scores of each learning rate on the tuning seeds, of which the best was used."""
    tried = sorted({lr for cell in cells.values() for lr in cell.tried})
    rows = [[*key, *(f"{cell.tried[lr]:.3f}" for lr in tried)] for key, cell in cells.items() if cell.tried]
    head = ("method", "problem", *(f"{lr:g}" for lr in tried))
    return Table("Gold reward over training on the tuning seeds, by learning rate", head, rows)


def versus(cells: Mapping[Any, Cell], better: Sequence[Any], worse: Sequence[Any]) -> Array:
    """Mean score of some cells minus that of others, paired by seed."""
    return gains([cells[k] for k in better]) - gains([cells[k] for k in worse])
