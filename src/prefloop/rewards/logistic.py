"""Bradley-Terry regression on feature differences: penalised logistic regression without intercept."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.errors import DataError

PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # tried in this order
PATIENCE = 2  # weaker penalties in a row that predict left-out pairs worse than the best: then the search ends


@dataclass(frozen=True)
class LinearFit:
    """Weights on raw features, and how the penalty was chosen."""

    weight: Float[Tensor, " D"]
    penalty: float
    validation_nll: float  # of pairs in left-out folds, at the chosen penalty; log 2 is chance


def pair_nll(margin: Float[Tensor, " N"], *, label_smoothing: float = 0.0) -> Float[Tensor, " N"]:
    """−(1−ε) log σ(m) − ε log σ(−m) of margins m = s_winner − s_loser (Bradley & Terry 1952; ε: Mitchell 2023)."""
    return (1 - label_smoothing) * F.softplus(-margin) + label_smoothing * F.softplus(margin)


def fit_linear(
    difference: Float[Tensor, "N D"],
    keys: Sequence[Hashable],
    *,
    label_smoothing: float = 0.0,
    folds: int = 5,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> LinearFit:
    """Weights w that predict the winner by σ(w · difference), their ridge penalty chosen by cross-validation over keys.

    Features are scaled by the root mean square of their differences, so that neither shift nor order of a pair matters.

    Args:
        difference: features of the winner less those of the loser.
        keys: the question of each pair; a question lies in one fold only.
        folds: at most this many; fewer where there are fewer questions.
        seed: of the assignment to folds.
        penalties: tried from strong to weak.

    Raises:
        DataError: pairs of fewer than two questions.
    """
    spread = difference.double().square().mean(0).sqrt()
    scale = torch.where(spread > 0, 1 / spread, 0.0)
    x = difference.double() * scale
    losses = _validation(x, _folds(keys, folds, seed), penalties, label_smoothing)
    best = min(range(len(losses)), key=losses.__getitem__)
    weight = minimise(x, x.new_zeros(x.shape[1]), penalty=penalties[best], label_smoothing=label_smoothing)
    return LinearFit(weight * scale, penalties[best], losses[best])


def _validation(
    x: Float[Tensor, "N D"], fold: Int[Tensor, " N"], penalties: Sequence[float], label_smoothing: float
) -> list[float]:
    """Mean loss of left-out pairs at each penalty, until PATIENCE in a row are no better than the best."""
    start, losses = x.new_zeros(int(fold.max()) + 1, x.shape[1]), []
    for penalty in penalties:
        for k in range(len(start)):  # from the solution of the stronger penalty
            start[k] = minimise(x[fold != k], start[k], penalty=penalty, label_smoothing=label_smoothing)
        margin = (x * start[fold]).sum(-1)
        losses.append(float(pair_nll(margin, label_smoothing=label_smoothing).mean()))
        if len(losses) > PATIENCE and min(losses[-PATIENCE:]) > min(losses):
            break
    return losses


def minimise(
    x: Float[Tensor, "N D"], start: Float[Tensor, " D"], *, penalty: float, label_smoothing: float = 0.0
) -> Float[Tensor, " D"]:
    """argmin_w mean_i nll(w · x_i) + penalty/2 · ‖w‖²: strictly convex, by full-batch L-BFGS."""
    w = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [w], max_iter=300, tolerance_grad=1e-7, tolerance_change=0, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = pair_nll(x @ w, label_smoothing=label_smoothing).mean() + penalty / 2 * w.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return w.detach()


def _folds(keys: Sequence[Hashable], folds: int, seed: int) -> Int[Tensor, " N"]:
    """Fold of each pair; whole questions, in random order, go round the folds."""
    known = list(dict.fromkeys(keys))
    if len(known) < 2:
        raise DataError("a reward model needs pairs of at least two questions", fix="give more pairs")
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed)).tolist()
    fold = {known[i]: place % min(folds, len(known)) for place, i in enumerate(order)}
    return torch.tensor([fold[k] for k in keys])
