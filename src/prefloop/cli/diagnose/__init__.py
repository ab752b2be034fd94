"""`prefloop diagnose RUN`, or `prefloop diagnose --model M --data D` before training: what the numbers say.

A run is diagnosed by `diagnose.training`, a model with data by `diagnose.data`: each a function `diagnose(options)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from prefloop.cli.options import Rows, require, require_page, require_positive, require_seed
from prefloop.core.errors import UserError
from prefloop.runs.schema import Flag


@dataclass(frozen=True, kw_only=True)
class Options(Rows):
    """Say what a run did, or before training what data offer a model: in sentences, with numbers and their errors.

    What cannot be measured is told with its reason.
    """

    run: Annotated[Path | None, Flag(positional=True, metavar="RUN")] = None
    """Run folder; or instead --model and --data, before training."""
    model: str | None = None
    """Model to train: a local folder, a hub name, or smollm2."""
    data: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Data to train on, see docs/formats.md."""
    probe: Annotated[Path | None, Flag(metavar="FILE")] = None
    """With RUN: also the change of log π on several kinds of response per prompt (docs/how-to/diagnose-run.md)."""
    solved: float | None = None
    """With RUN: reward from which an answer solves its prompt, for pass@k (default: 1, if all rewards are 0 or 1)."""
    reward: Annotated[str | None, Flag(metavar="NAME|DIR")] = None
    """With --model: a reward for fresh responses, by name or module:function, or the folder of a reward model."""
    reward_option: dict[str, Any] = field(default_factory=dict)
    """With --reward: its options, such as target=20."""
    prompts: int = 50
    """With --model: prompts of the data that the model answers, drawn at random."""
    samples: int = 16
    """With --model: samples to each of them."""
    max_new_tokens: int | None = None
    """With --model: longest sample in tokens (default: of 95 % of the data's responses, at most 256)."""
    beta: float = 0.1
    """With --reward: strength of the KL penalty for which the optimum is estimated."""
    target: float | None = None
    """With --reward: a reward to reach (default: the top tenth of the samples)."""
    system: str | None = None
    """With --model: system message for prompts that have none."""
    template: str = "auto"
    """With --model: auto, chat, plain, chatml, zephyr, alpaca, human-assistant or a Jinja file."""
    seed: int = 0
    """With --model: seed of prompts and samples."""
    page: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Write an HTML page too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_page(self.page)
        given = self.model is not None, self.data is not None
        if any(given) if self.run else not all(given):
            raise UserError("a run, or a model and data", where="diagnose", fix="RUN, or --model M --data FILE")
        if self.probe is not None and self.run is None:
            raise UserError("a probe set is measured before and after a run", where="--probe", fix="give a RUN")
        if self.solved is not None and self.run is None:
            raise UserError("pass@k is of the answers of a run", where="--solved", fix="give a RUN")
        require_positive(self, "prompts", "max_new_tokens", "beta")
        require(self.samples > 1, "samples", self.samples, "use 2 or more")
        require_seed(self.seed)
        if self.reward_option and self.reward is None:
            raise UserError("`--reward-option` needs a reward", where="--reward-option", fix="add --reward NAME")


def run(options: Options) -> int:
    """Diagnose what is given.

    Raises:
        UserError, DataError: a run, model or file that cannot be used.
    """
    module = import_module(f"{__name__}.{'training' if options.run else 'data'}")
    return int(module.diagnose(options))
