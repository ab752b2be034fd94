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
        [0.06805572475724625, 0.04055855329263508, 0.0384217161136375]
        + [0.04997330511095369, 0.04997330511095369, 0.6909829605708221, 0.0],
    ),
    (
        *("ppo", "arms", {"reuse": 2}),
        {**ARMS, "policy": "linear", "fit": "reverse", "contexts": 3, "lr": 1e-2},
        [0.07459634630240713, 0.23649559170167636, 0.26585904841089236]
        + [0.15218840495053196, 0.15264052735127742, 0.28311269744758416, 64.0],
    ),
    (
        *("kto", "arms", {"on_policy": 1.0}),
        {**ARMS, "policy": "tabular", "contexts": 4, "scorer": "proxy", "lr": 1e-2, "centre": 20.0},
        [0.37885268022697366, 0.000378118957796279, 0.00038381661528406614]
        + [0.006249998916783364, 0.01874997847366364, 0.5000162831582008, 96.0],
    ),
    (
        *("rloo", "categorical", {"kl": 0.1}),
        {**ARMS, "width": 5.0, "seed": 7, "lr": 1e-2},
        [0.019146173864421405, 2.535351385183093e-05, 2.526448183896938e-05]
        + [0.012284790202513746, 0.012279050010030578, 1.2075265422992025e-05, 96.0],
    ),
    (
        *("ipo", "sequences", {}),
        {**NINE, "shared": 3, "skew_centre": 60.0, "coverage": 0.2},
        [0.05008700991452969, 0.05137760670912674, 0.049136876374059814]
        + [78.0430724311559, 78.0430724311559, 18.98354643966489, 0.0],
    ),
    (
        *("ppo_critic_free", "sequences", {"reuse": 2, "kl": 0.1}),
        {**NINE, "defect": "prompt_in_reward"},
        [0.046882655882655215, 0.050504695989135054, 0.0500032408574345]
        + [3.5917438140294244, 3.372801610572308, -0.21894220345711624, 16.0],
    ),
]


@pytest.mark.parametrize("case", range(len(RECORDED)))
def test_recorded_runs_come_out_as_they_were(case: int) -> None:
    """Float64, so that another machine's order of sums cannot show; on the machine of the record every bit was equal."""
    method, problem, override, fields, want = RECORDED[case]
    (run,) = run_stack([make(method, problem, override, precision="float64", **fields)])
    assert [run.last(key) for key in KEYS] == pytest.approx(want, rel=1e-6, abs=1e-12)
