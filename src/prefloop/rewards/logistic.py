"""Bradley-Terry regression on feature differences: penalised logistic regression without intercept."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.errors import DataError

PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # tried in this order, each from the last solution


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
    fold = _folds(keys, folds, seed)
    losses = torch.zeros(len(penalties), dtype=torch.float64)
    for k in range(int(fold.max()) + 1):
        path = _path(x[fold != k], penalties, label_smoothing)
        losses += torch.stack([pair_nll(x[fold == k] @ w, label_smoothing=label_smoothing).sum() for w in path])
    best = int(losses.argmin())
    weight = _path(x, penalties[: best + 1], label_smoothing)[-1]
    return LinearFit(weight * scale, penalties[best], float(losses[best]) / len(x))


def _path(x: Float[Tensor, "N D"], penalties: Sequence[float], label_smoothing: float) -> list[Tensor]:
    """The solution at each penalty, warm-started from the one before."""
    w, path = x.new_zeros(x.shape[1]), []
    for penalty in penalties:
        w = minimise(x, w, penalty=penalty, label_smoothing=label_smoothing)
        path.append(w)
    return path


def minimise(
    x: Float[Tensor, "N D"], start: Float[Tensor, " D"], *, penalty: float, label_smoothing: float = 0.0
) -> Float[Tensor, " D"]:
    """argmin_w mean_i nll(w · x_i) + penalty/2 · ‖w‖²: strictly convex, by full-batch L-BFGS."""
    w = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [w], max_iter=500, tolerance_grad=1e-8, tolerance_change=0, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = pair_nll(x @ w, label_smoothing=label_smoothing).mean() + penalty / 2 * w.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
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
