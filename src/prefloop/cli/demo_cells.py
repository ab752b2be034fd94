"""The cells of the demo: what they are called, what the paper predicts of them, how each is configured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefloop.runs import config as configuration
from prefloop.runs.config import Config

CONFIGS = Path(__file__).parent / "demo_configs"
GRID = ("online_dpo", "offline_dpo", "online_positive", "offline_positive")
EXTRA = ("pref_ft", "best_of_n")
LABELS = {
    "online_dpo": "on-policy, negative gradient",
    "offline_dpo": "offline, negative gradient",
    "online_positive": "on-policy, positive only",
    "offline_positive": "offline, positive only",
    "pref_ft": "Pref-FT (offline, supervised)",
    "best_of_n": "best-of-4 (on-policy, supervised)",
}
PREDICTIONS = (  # (better, worse, what the paper says of a reward that the reference rarely earns)
    ("online_dpo", "offline_dpo", "on-policy sampling helps, with the negative gradient"),
    ("online_positive", "offline_positive", "on-policy sampling helps, without it"),
    ("online_dpo", "online_positive", "the negative gradient helps, on-policy"),
    ("offline_dpo", "offline_positive", "the negative gradient helps, offline"),
)
BUDGET = 6.0  # nats per response that a cell may move from the reference: KL(π‖π_ref)
PROMPTS = 6  # held-out prompts for each step, where fewer steps than usual are asked for


def configs(names: Sequence[str], *, seed: int, output: str, steps: int | None = None) -> dict[str, Config]:
    """The configuration of each cell by its name.

    Args:
        output: where the run folders go.
        steps: of the optimiser; where it is less than usual, collections and evaluations are smaller too.
    """
    return {name: _config(name, [f"--seed={seed}", f"--output={output}"], steps) for name in names}


def _config(name: str, flags: list[str], steps: int | None) -> Config:
    file = CONFIGS / f"{name}.yaml"
    usual = configuration.load(file, flags)
    if steps is None:
        return usual
    prompts = min(usual.evaluation.prompts, max(2, PROMPTS * steps))
    batch = min(usual.training.batch, usual.training.minibatch * steps)
    every = min(usual.evaluation.every or steps, steps)
    sizes = {"training.steps": steps, "training.batch": batch, "evaluation.prompts": prompts, "evaluation.every": every}
    return configuration.load(file, [*flags, *(f"--{key}={value}" for key, value in sizes.items())])
