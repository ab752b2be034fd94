"""Bradley-Terry regression on feature differences: penalised logistic regression without intercept."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.core.errors import DataError
from prefloop.rewards.bradley_terry.loss import judged, pair_loss
from prefloop.rewards.bradley_terry.options import PairLoss

PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # tried in this order
PATIENCE = 2  # the search ends after this many weaker penalties in a row that predict left-out pairs no better


@dataclass(frozen=True)
class LinearFit:
    """Weights on raw features, and how the penalty was chosen."""

    weight: Float[Tensor, " D"]
    penalty: float
    validation_nll: float  # of pairs in left-out folds, at the chosen penalty; log 2 is chance if no lead is required


@dataclass(frozen=True)
class PairFeatures:
    """Features of pairs, and the flip and lead of each, see `pair_loss`."""

    difference: Float[Tensor, "N D"]  # winner minus loser
    total: Float[Tensor, "N D"]  # winner plus loser, minus the mean over pairs, which the bias absorbs
    flip: Float[Tensor, " N"]
    lead: Float[Tensor, " N"]

    def __getitem__(self, rows: Bool[Tensor, " N"]) -> PairFeatures:
        return PairFeatures(self.difference[rows], self.total[rows], self.flip[rows], self.lead[rows])

    def scaled(self, scale: Float[Tensor, " D"]) -> PairFeatures:
        return replace(self, difference=self.difference * scale, total=self.total * scale)

    def nll(self, weight: Float[Tensor, " D"]) -> Float[Tensor, ""]:
        """Mean over pairs, without centring."""
        return pair_loss(self.difference @ weight, flip=self.flip, lead=self.lead).mean()


def pair_features(
    winner: Float[Tensor, "N D"], loser: Float[Tensor, "N D"], gap: Float[Tensor, " N"], loss: PairLoss
) -> PairFeatures:
    """Pairs in float64; `gap` is the rating of the winner minus that of the loser, 0 for a tie."""
    total, (flip, lead) = (winner + loser).double(), judged(gap.double(), loss)
    return PairFeatures((winner - loser).double(), total - total.mean(0), flip, lead)


def fit_linear(
    difference: Float[Tensor, "N D"], keys: Sequence[Hashable], *, seed: int, penalties: Sequence[float] = PENALTIES
) -> LinearFit:
    """Like `fit_pairs`, for strict preferences and the plain loss; `difference` is winner minus loser."""
    none = difference.new_zeros(len(difference), dtype=torch.float64)
    pairs = PairFeatures(difference.double(), torch.zeros_like(difference, dtype=torch.float64), none, none)
    return fit_pairs(pairs, keys, seed=seed, penalties=penalties)


def fit_pairs(
    pairs: PairFeatures,
    keys: Sequence[Hashable],
    *,
    centring: float = 0.0,
    folds: int = 5,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> LinearFit:
    """Weights w that predict the winner by σ(w · difference), the ridge penalty chosen by cross-validation over keys.

    Features are scaled by the root mean square of their differences, so that shift and order of a pair do not matter.

    Args:
        pairs: features of winners and losers.
        keys: the question of each pair; each question is in one fold only.
        centring: coefficient of the squared sum of a pair's scores.
        folds: maximum number of folds; fewer if there are fewer questions.
        seed: seed of the assignment to folds.
        penalties: candidates, from strong to weak.

    Raises:
        DataError: the pairs have fewer than two questions.
    """
    spread = pairs.difference.square().mean(0).sqrt()
    scale = torch.where(spread > 0, 1 / spread, 0.0)
    x = pairs.scaled(scale)
    losses = _validation(x, _folds(keys, folds, seed), penalties, centring)
    best = min(range(len(losses)), key=losses.__getitem__)
    weight = minimise(x, torch.zeros_like(scale), penalty=penalties[best], centring=centring)
    return LinearFit(weight * scale, penalties[best], losses[best])


def _validation(x: PairFeatures, fold: Int[Tensor, " N"], penalties: Sequence[float], centring: float) -> list[float]:
    """Mean loss of left-out pairs at each penalty, until PATIENCE in a row do not improve on the best."""
    folds = [fold == k for k in range(int(fold.max()) + 1)]
    start, losses = x.difference.new_zeros(len(folds), x.difference.shape[1]), []
    for penalty in penalties:
        total = 0.0
        for k, left in enumerate(folds):  # from the solution of the stronger penalty
            start[k] = minimise(x[~left], start[k], penalty=penalty, centring=centring)
            total += float(x[left].nll(start[k])) * int(left.sum())
        losses.append(total / len(fold))
        if len(losses) > PATIENCE and min(losses[-PATIENCE:]) > min(losses):
            break
    return losses


def minimise(
    x: PairFeatures, start: Float[Tensor, " D"], *, penalty: float, centring: float = 0.0
) -> Float[Tensor, " D"]:
    """argmin_w mean_i pair_loss(w · x_i) + penalty/2 · ‖w‖²: strictly convex, by full-batch L-BFGS."""
    w = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [w], max_iter=300, tolerance_grad=1e-7, tolerance_change=0, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = x.total @ w if centring else 0.0  # half of the work, which is not needed without centring
        each = pair_loss(x.difference @ w, total, flip=x.flip, lead=x.lead, centring=centring)
        loss = each.mean() + penalty / 2 * w.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return w.detach()


def _folds(keys: Sequence[Hashable], folds: int, seed: int) -> Int[Tensor, " N"]:
    """Fold of each pair; questions are assigned to folds in turn, in random order."""
    known = list(dict.fromkeys(keys))
    if len(known) < 2:
        raise DataError("a reward model needs pairs from at least two questions", fix="give more pairs")
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed), device="cpu").tolist()
    fold = {known[i]: place % min(folds, len(known)) for place, i in enumerate(order)}
    return torch.tensor([fold[k] for k in keys])
