"""Held-out preference accuracy: how often a policy's ranking of a pair agrees with the annotator's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.analysis.statistics import Clusters, Interval, bootstrap
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError

# field -> its key in metrics.jsonl
NAMES = {
    "implicit": "eval/rewards/accuracies",
    "margin": "eval/rewards/margins",
    "reward_winner": "eval/rewards/chosen",
    "reward_loser": "eval/rewards/rejected",
    "summed": "eval/accuracy/sum_logp",
    "mean": "eval/accuracy/mean_logp",
    "longer": "eval/accuracy/longer",
}


@dataclass(frozen=True)
class Preference:
    """Accuracies (shares in [0, 1], ties count ½) and implicit rewards, each with an interval clustered by question."""

    implicit: Interval  # by β(log π − log π_ref): ½ before training, when all pairs tie
    summed: Interval  # by log π(y|x)
    mean: Interval  # by log π(y|x) / |y|
    longer: Interval  # picking the longer response, a baseline without a model
    margin: Interval  # implicit reward of the winner minus that of the loser
    reward_winner: Interval  # β(log π − log π_ref), with β below
    reward_loser: Interval
    pairs: int
    questions: int
    beta: float

    def metrics(self) -> dict[str, int | float]:
        """Flat numbers for `metrics.jsonl`, the ends of each interval as `_low` and `_high`."""
        numbers: dict[str, int | float] = {"eval/pairs": self.pairs, "eval/questions": self.questions}
        for field, name in NAMES.items():
            interval: Interval = getattr(self, field)
            numbers |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return numbers


def preference_accuracy(
    policy_logp: Float[Tensor, "P 2"],
    reference_logp: Float[Tensor, "P 2"],
    lengths: Int[Tensor, "P 2"],
    keys: Clusters,
    *,
    beta: float = 1.0,
    seed: int = 0,
    n: int = 2000,
) -> Preference:
    """Accuracies, margins and implicit rewards of pairs with the winner in column 0 (Rafailov et al. 2023, eq. 5).

    Args:
        policy_logp: summed log π of each response.
        reference_logp: summed log π_ref.
        lengths: tokens of each response.
        keys: the question of each pair; whole questions are resampled.
        beta: scale of the implicit reward; 1 means nats.
        seed: seed of the bootstrap.
        n: number of resamples.

    Raises:
        ValueError: no pairs, or not one key per pair.
    """
    reward = beta * (policy_logp.double() - reference_logp.double())
    columns = {
        **outcomes(policy_logp, reference_logp, lengths),
        "margin": reward[:, 0] - reward[:, 1],
        "reward_winner": reward[:, 0],
        "reward_loser": reward[:, 1],
    }
    intervals = {k: bootstrap(x.double().cpu().numpy(), clusters=keys, seed=seed, n=n) for k, x in columns.items()}
    return Preference(**intervals, pairs=len(reward), questions=intervals["implicit"].units, beta=beta)


def outcomes(
    policy_logp: Float[Tensor, "P 2"], reference_logp: Float[Tensor, "P 2"], lengths: Int[Tensor, "P 2"]
) -> dict[str, Float[Tensor, " P"]]:
    """By each criterion of `Preference`, 1 for every pair whose winner (column 0) it prefers, ½ for a tie, else 0."""
    return {
        "implicit": wins(policy_logp.double() - reference_logp.double()),
        "summed": wins(policy_logp),
        "mean": wins(policy_logp / lengths.clamp(min=1)),
        "longer": wins(lengths),
    }


def winner_first(batch: Batch) -> Batch:
    """The pairs with the higher score in column 0; only responses, mask, scores and reference log-probs are kept.

    Raises:
        UserError: groups that are not pairs, or no scores.
        DataError: a pair without a winner.
    """
    if batch.scores is None or batch.mask.ndim != 3 or batch.mask.shape[1] != 2:
        raise UserError("preference accuracy needs pairs with scores", where=f"responses {tuple(batch.mask.shape)}")
    tied = (batch.scores[:, 0] == batch.scores[:, 1]) | ~batch.present.all(-1)
    if tied.any():
        first = int(tied.nonzero()[0, 0])
        raise DataError(f"{int(tied.sum())} pairs have no winner", where=f"pair {first}", fix="remove ties")
    order = batch.scores.argsort(dim=-1, descending=True)
    names = ("responses", "mask", "scores", "logp_reference")
    fields = {k: _reorder(x, order) for k in names if (x := getattr(batch, k)) is not None}
    return replace(Batch(batch.prompts, fields.pop("responses"), fields.pop("mask")), **fields)


def _reorder(x: Tensor, order: Int[Tensor, "P 2"]) -> Tensor:
    return x[torch.arange(len(x), device=x.device)[:, None], order.to(x.device)]


def wins(x: Tensor) -> Float[Tensor, " P"]:
    """1 if column 0 is higher, ½ if both are equal, otherwise 0."""
    return (torch.sign(x[:, 0] - x[:, 1]).double() + 1) / 2
