"""The best evaluation of a run by a named metric, and when its patience ends, from its records. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prefloop.core.errors import UserError
from prefloop.runs.config import LOWER, Config


@dataclass(frozen=True)
class Best:
    """The best evaluation so far, the untrained model's included."""

    metric: str
    step: int
    value: float
    waited: int = 0  # evaluations since

    def after(self, step: int, value: float) -> Best:
        """The best after one more evaluation; equal values are no improvement."""
        better = value < self.value if self.metric in LOWER else value > self.value
        return Best(self.metric, step, value) if better else Best(self.metric, self.step, self.value, self.waited + 1)


def best_of(lines: Iterable[Mapping[str, Any]], metric: str | None) -> Best | None:
    """The best of the evaluations in `metrics.jsonl` by a metric; None without one, or without evaluations."""
    best = None
    for line in lines:
        if metric is not None and line["kind"] == "evaluation":
            step, value = line["step"], line[f"eval/{metric}"]
            best = Best(metric, step, value) if best is None else best.after(step, value)
    return best


def is_over(best: Best | None, config: Config) -> bool:
    """Whether the patience of a run has ended."""
    patience = config.evaluation.patience
    return best is not None and patience is not None and best.waited >= patience


def check_best(config: Config, metrics: Mapping[str, float]) -> None:
    """Refuse a metric that the evaluations of a run do not have.

    Args:
        metrics: of the untrained model.

    Raises:
        UserError: names those that it has.
    """
    name = config.evaluation.keep_best
    if name is not None and f"eval/{name}" not in metrics:
        ours = [key.removeprefix("eval/") for key in metrics if not key.endswith(("_se", "_low", "_high"))]
        what = f"the evaluations of this run do not measure `{name}`"
        raise UserError(what, where="evaluation.keep_best", fix=f"they measure {', '.join(ours) or 'nothing'}")


def stopped_early(best: Best | None, step: int, config: Config) -> str:
    """A sentence if a run ended before its last step because nothing got better; otherwise empty."""
    if best is None or step == config.training.steps or not is_over(best, config):
        return ""
    where = f"step {best.step}" if best.step else "the untrained model"
    return (
        f"stopped after step {step} of {config.training.steps}: {best.waited} evaluations without a better"
        f" `{best.metric}` than {best.value:.4g} of {where}"
    )
