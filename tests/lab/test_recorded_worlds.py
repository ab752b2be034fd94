"""Runs of each problem give the numbers that were recorded before the problems became worlds of their own."""

from __future__ import annotations

from typing import Any

import pytest

from prefloop.lab.setting import make
from prefloop.lab.stack import run_stack

ARMS = {"responses": 4, "batch": 32, "minibatch": 16, "evaluation": 8, "data": 20, "steps": 6, "evaluate": 3}
NINE = {"responses": 4, "batch": 16, "minibatch": 16, "evaluation": 4, "data": 8, "steps": 2, "evaluate": 1}
KEYS = ("eval/gold", "eval/kl_reverse_exact", "eval/kl_forward_exact", "push/up", "push/down", "loss", "samples")
RECORDED: list[tuple[str, str, dict[str, Any], dict[str, Any], list[float]]] = [
    (
        *("dpo", "arms", {"beta": 0.1}),
        {**ARMS, "hidden": 16, "labels": "noisy", "coverage": 0.5, "temperature": 0.3, "lr": 1e-2},
        [0.0680557248, 0.0405585533, 0.0384217161, 0.0499733051, 0.0499733051, 0.690982961, 0.0],
    ),
    (
        *("ppo", "arms", {"reuse": 2}),
        {**ARMS, "policy": "linear", "fit": "reverse", "contexts": 3, "lr": 1e-2},
        [0.0745963463, 0.236495592, 0.265859048, 0.152188405, 0.152640527, 0.283112697, 64],
    ),
    (
        *("kto", "arms", {"on_policy": 1.0}),
        {**ARMS, "policy": "tabular", "contexts": 4, "scorer": "proxy", "lr": 1e-2, "centre": 20.0},
        [0.37885268, 0.000378118958, 0.000383816615, 0.00624999892, 0.0187499785, 0.500021178, 96],
    ),
    (
        *("rloo", "categorical", {"kl": 0.1}),
        {**ARMS, "width": 5.0, "seed": 7, "lr": 1e-2},
        [0.0191461739, 2.53535139e-05, 2.52644818e-05, 0.0122847902, 0.01227905, 1.20752654e-05, 96],
    ),
    (
        *("ipo", "sequences", {}),
        {**NINE, "shared": 3, "skew_centre": 60.0, "coverage": 0.2},
        [0.0500870099, 0.0513776067, 0.0491368764, 78.0430724, 78.0430724, 18.9835464, 0.0],
    ),
    (
        *("ppo_critic_free", "sequences", {"reuse": 2, "kl": 0.1}),
        {**NINE, "defect": "prompt_in_reward"},
        [0.0468826559, 0.050504696, 0.0500032409, 3.59174381, 3.37280161, -0.218942203, 16],
    ),
]


@pytest.mark.parametrize("case", range(len(RECORDED)))
def test_recorded_runs_come_out_as_they_were(case: int) -> None:
    """Float64, so that the order of sums of another machine cannot show."""
    method, problem, override, fields, want = RECORDED[case]
    (run,) = run_stack([make(method, problem, override, precision="float64", **fields)])
    assert [run.last(key) for key in KEYS] == pytest.approx(want, rel=1e-6, abs=1e-12)
