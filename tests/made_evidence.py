"""Made-up evidence of sound runs, with curves that tests replace."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from prefloop.analysis.evidence import Curve, Evidence, curve

STEPS = np.arange(1, 41)


def line(first: float, last: float, se: float = math.nan, *, steps: Any = STEPS) -> Curve:
    values = np.linspace(first, last, len(steps))
    found = curve(steps, values, np.full(len(steps), se))
    assert found is not None
    return found


def evaluations(first: float, last: float, se: float = 0.01) -> Curve:
    return line(first, last, se, steps=[0, 10, 20, 30, 40])


def dpo(**curves: Curve) -> Evidence:
    """A sound DPO run on labels."""
    sound = {
        "loss": line(0.69, 0.5),
        "grad_norm": line(3.0, 2.0),
        "kl": line(0.0, -2.0),
        "rewards/chosen": line(0.0, 0.2),
        "rewards/rejected": line(0.0, -0.4),
        "rewards/margins": line(0.0, 0.6),
        "rewards/accuracies": line(0.5, 0.8),
        "eval/rewards/accuracies": evaluations(0.5, 0.72, 0.03),
    }
    named = {key.replace("__", "/"): value for key, value in curves.items()}
    margins = [1.0 + i / 10 for i in range(60)] + [-0.5] * 20
    return Evidence("run", "dpo", {**sound, **named}, beta=0.1, pairs=True, reference=True, margins=margins)


def online(**curves: Curve) -> Evidence:
    """A sound run of a policy gradient on a learned reward."""
    sound = {
        "grad_norm": line(3.0, 2.0),
        "kl": line(0.0, 3.0),
        "ess": line(0.9, 0.8),
        "kl/collection": line(0.1, 0.1),
        "ratio/p99": line(1.1, 1.2),
        "mismatch/mean": line(1.0, 1.0),
        "sampling/sampling_logp_difference/mean": line(1e-4, 1e-4),
        "frac_reward_zero_std": line(0.1, 0.2),
        "completions/mean_length": line(100, 100),
        "eval/reward": evaluations(0.1, 0.9),
        "eval/gold": evaluations(0.1, 0.5),
        "eval/kl_reverse": evaluations(0.0, 6.0),
        "eval/length": evaluations(100, 104),
        "eval/cut": evaluations(0.02, 0.03),
        "eval/entropy": evaluations(40.0, 30.0),
    }
    named = {key.replace("__", "/"): value for key, value in curves.items()}
    return Evidence("run", "grpo", {**sound, **named}, reference=True, learned_reward=True, reward="bradley_terry")


FALLS = {"rewards/chosen": line(0.0, -2.0), "rewards/rejected": line(0.0, -3.0)}
