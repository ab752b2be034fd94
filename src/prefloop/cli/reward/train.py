"""`prefloop reward train`: fit a reward model to preferences."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from prefloop.cli.options import require, require_place, require_positive, require_seed
from prefloop.cli.reward.shared import Shared
from prefloop.rewards.bradley_terry.options import NAMES, Asked, Schedule, Ties, fit_options
from prefloop.runs.reward_model import RewardConfig, train
from prefloop.runs.schema import Flag


@dataclass(frozen=True, kw_only=True)
class Options(Shared):
    """Fit a reward model to preferences, measure it on held-out questions and save it."""

    out: Annotated[Path, Flag(metavar="DIR")]
    """Folder for the reward model."""
    model: str = "smollm2"
    """Base model: local folder, hub name in the cache, or smollm2."""
    template: str = "auto"
    """Rendering of conversations: auto, chat, plain, chatml, zephyr, alpaca, human-assistant or a Jinja file."""
    held_out: Annotated[str, Flag(metavar="FILE")] = "split"
    """Held-out data: a file, `split` or `none`."""
    held_out_share: float = 0.2
    """Share of the questions that `split` holds out."""
    split_seed: int = 0
    """Seed of `split`, as `data.split_seed` of `prefloop train`: the sides do not change with --seed."""
    freeze_backbone: bool | None = None
    """Fit only the head, in minutes (default); otherwise backbone and head, in hours."""
    pooling: Asked | None = None
    """What the last layer reads: last, mean, both, cls, head (default: by the architecture)."""
    steps: int | None = None
    """Steps that train backbone and head together (default: 200)."""
    epochs: float | None = None
    """In place of --steps: passes over the pairs."""
    lr: float | None = None
    """Highest learning rate of these steps (default: 1e-5)."""
    schedule: Schedule | None = None
    """Learning rate after warm-up (default: linear, falling to 0)."""
    warmup: float | None = None
    """Steps of warm-up; below 1: their share (default: 0)."""
    batch: int | None = None
    """Pairs per step (default: 16)."""
    label_smoothing: float | None = None
    """Assumed share of wrong preferences (default: 0)."""
    rating_margin: float | None = None
    """Required lead per unit of rating difference (Llama 2; default: 0)."""
    ties: Ties | None = None
    """Drop ties (default), or count each as half a preference each way."""
    centring: float | None = None
    """Coefficient of (s_w + s_l)², such as 0.01 (default: 0)."""
    max_tokens: int | None = None
    """Longer prompts and responses are cut on the left (default: 1024)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_place(self.out)
        require_positive(self, "steps", "epochs", "lr", "batch", "max_tokens")
        require_seed(self.split_seed, "split_seed")
        share = self.held_out_share
        require(0 < share < 1, "held_out_share", share, "use a share between 0 and 1, or --held-out none")

    @property
    def config(self) -> RewardConfig:
        """What determines the reward model.

        Raises:
            UserError: contradictory options.
        """
        fit_options(self._given)  # named here as flags
        same = {f.name: getattr(self, f.name) for f in fields(RewardConfig) if f.name not in ("data", "fit")}
        return RewardConfig(data=str(self.data), fit=self._given, **same)

    @property
    def _given(self) -> dict[str, Any]:
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}


def run(options: Options) -> int:
    """Fit, measure and save.

    Raises:
        UserError, DataError: nothing was written.
    """
    record = train(options.config, options.out, say=options.say, quiet=options.silent)
    options.show(lambda: record, lambda: _print(options, record))
    return 0


def _print(options: Options, record: dict[str, Any]) -> None:
    facts = record["facts"]
    pairs = f"{facts['train_pairs']:,} pairs of {facts['train_questions']:,} questions"
    print(f"fitted to {pairs} in {record['seconds']:.0f} s")
    print(record["held_out"] or "held-out accuracy: not measured")
    print(f"reward model: {options.out}")
    print(f"next: prefloop reward card {options.out} {options.data} --out {options.out}-card")
