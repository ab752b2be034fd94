"""Likelihood displacement: what happens to the probability of responses, where it goes, and which pairs cause it.

Measured: the change of log π by kind of response (`shifts`), and the mass that kinds gain and lose (`moved_mass`).
Predicted before a step: by the score vectors g = ∇log π(y|x) of each pair (`score_products`), by hidden states alone
(`ches`), and for any set of responses (`gradient_effect`). Whether a prediction ranks pairs as they then
move: `rank_correlation`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.stats import spearmanr
from torch import Tensor

from prefloop.analysis.statistics import Clusters, Interval, Mean, bootstrap, mean_se
from prefloop.core.batch import Batch
from prefloop.core.objectives import sequence
from prefloop.core.protocols import Policy, no_op

Poll = Callable[[], None]
Direction = list[Tensor]  # one tensor per trainable parameter
Rule = Literal["gradient", "sign"]

# ------------------------------------------------------------------------------------------------------ measured


@dataclass(frozen=True)
class Shift:
    """Change of log π(y|x) over the responses of one kind; errors are over prompts."""

    kind: str
    change: Mean  # nats per response
    per_token: Mean  # nats per token of each response, then the mean
    fell: float  # share of the responses whose log-prob fell


def shifts(
    before: Float[Tensor, " N"],
    after: Float[Tensor, " N"],
    lengths: Int[Tensor, " N"],
    kinds: Sequence[str],
    prompts: Sequence[Hashable],
) -> list[Shift]:
    """Mean of log π'(y|x) − log π(y|x) by kind of response, in the order in which kinds occur.

    The measure of Ren & Sutherland (arXiv:2407.10490, §4), whose probe set has 13 kinds of response to every prompt.

    Args:
        before, after: summed log-probs of each response under the two policies.
        lengths: its tokens.
        kinds: what it is, such as chosen, rejected, paraphrase.
        prompts: which responses belong to one prompt, and are dependent.
    """
    moved = (after.double() - before.double()).cpu()
    rate = moved / lengths.cpu().clamp(min=1)
    out = []
    for kind in dict.fromkeys(kinds):
        own = [i for i, name in enumerate(kinds) if name == kind]
        asked = [prompts[i] for i in own]
        change, per_token = (mean_se(x[own].numpy(), clusters=asked) for x in (moved, rate))
        out.append(Shift(kind, change, per_token, float((moved[own] < 0).double().mean())))
    return out


def moved_mass(
    before: Float[Tensor, "*B R"], after: Float[Tensor, "*B R"], kind: Int[Tensor, "*B R"], kinds: int
) -> Float[Tensor, "*B K"]:
    """Σ_{y of kind k} (π'(y|x) − π(y|x)): what each kind gained, exactly; the kinds of a prompt sum to 0.

    Args:
        before, after: log-probs of all responses, normalised.
        kind: the kind of every response, from 0.
        kinds: their number.
    """
    gained = after.exp() - before.exp()
    return gained.new_zeros(*gained.shape[:-1], kinds).scatter_add(-1, kind, gained)


# --------------------------------------------------------------------------------------------- predicted by gradients


@dataclass(frozen=True)
class Products:
    """Inner products of the score vectors of pairs, and the changes that a step of size η makes, divided by η: [N].

    With g_w = ∇log π(y_w|x), g_l = ∇log π(y_l|x) and the coefficients c1 of the winner and −c2 of the loser, a pair
    alone changes log π(y_w|x) by η (c1 |g_w|² − c2 g_w·g_l) to first order: Lemma 6.2 of Tajwar et al.
    (arXiv:2404.14367), whose condition for the negative gradient to help the winner is g_w·g_l ≤ 0.
    """

    winner: Float[Tensor, " N"]  # |g_w|²
    cross: Float[Tensor, " N"]  # g_w·g_l
    loser: Float[Tensor, " N"]  # |g_l|²
    up: Float[Tensor, " N"]  # c1
    down: Float[Tensor, " N"]  # c2
    joint_winner: Float[Tensor, " N"]  # change of log π(y_w) by the step on all pairs: g_w·d
    joint_loser: Float[Tensor, " N"]  # the same of y_l

    @property
    def own(self) -> Float[Tensor, " N"]:
        """What the pair itself does to its winner: c1 |g_w|² − c2 g_w·g_l; below 0 it displaces it."""
        return self.up * self.winner - self.down * self.cross

    @property
    def negative(self) -> Float[Tensor, " N"]:
        """The part of the negative gradient: −c2 g_w·g_l (eq. 6.3); below 0 it pushes the winner down as well."""
        return -self.down * self.cross

    @property
    def margin(self) -> Float[Tensor, " N"]:
        """What the pair itself does to its margin: c1 (|g_w|² − g_w·g_l) + c2 (|g_l|² − g_w·g_l) (eq. 6.2)."""
        return self.up * (self.winner - self.cross) + self.down * (self.loser - self.cross)

    def mean(self, prompts: Clusters | None = None) -> Mean:
        """Mean predicted change of log π(y_w) per unit step on all pairs, with its standard error over prompts."""
        return mean_se(self.joint_winner.numpy(), clusters=prompts)


def score_products(
    policy: Policy,
    pairs: Batch,
    coefficient: Float[Tensor, "P 2 T"],
    *,
    rule: Rule = "gradient",
    poll: Poll = no_op,
) -> Products:
    """Inner products for every pair, exact; two backward passes per pair, and one more over all.

    Args:
        pairs: groups of two with the winner first (`preference.winner_first`).
        coefficient: c = −∂loss/∂log π of every token under the method (`Method.coefficients`), equal for all tokens of
            a response, as in every loss of pairs.
        rule: how the joint step follows from the gradient: `gradient` (SGD), or `sign` (the first step of Adam, whose
            moments then have the ratio ±1).
        poll: called before every pair.
    """
    step = direction(policy, pairs, coefficient, rule=rule, poll=poll)
    rows: list[list[float]] = []
    for g_w, g_l in _score_vectors(policy, pairs, poll):
        vectors = ((g_w, g_w), (g_w, g_l), (g_l, g_l), (g_w, step), (g_l, step))
        rows.append([_dot(a, b) for a, b in vectors])
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    each = (sequence(coefficient, pairs) / pairs.lengths.clamp(min=1)).detach().double().cpu()
    winner, cross, loser, joint_winner, joint_loser = table.unbind(-1)
    return Products(winner, cross, loser, each[:, 0], -each[:, 1], joint_winner, joint_loser)


def direction(
    policy: Policy, batch: Batch, coefficient: Float[Tensor, "P G T"], *, rule: Rule = "gradient", poll: Poll = no_op
) -> Direction:
    """The direction of descent d = Σ c ∇log π(y|x) of a method's own term, with c frozen.

    Its positive part, the gradient without push-down, is that of `coefficient.clamp(min=0)`, and likewise the negative
    part.

    Args:
        rule: see `score_products`.
    """
    parameters = policy.parameters()
    total = [torch.zeros_like(p) for p in parameters]
    for rows in policy.micro_batches(batch):
        poll()
        part = batch[rows]
        weighted = (coefficient[rows.to(coefficient.device)].to(part.mask.device) * policy.evaluate(part).logp).sum()
        for own, more in zip(total, _gradient(weighted, parameters), strict=True):
            own += more
    return [x.sign() for x in total] if rule == "sign" else total


def gradient_effect(policy: Policy, step: Direction, responses: Batch, poll: Poll = no_op) -> Effect:
    """G(L; θ) = ⟨∇L(θ), ∇R(θ)⟩, R(θ) = E[−log π_θ(y|x)] over given responses: above 0 if a step on L raises them.

    A step η lowers R by η G to first order. With responses of the policy at the end of training, it tells whether the
    loss pulls towards where the policy ends: Wang et al. (arXiv:2512.00778), the gradient effect of arXiv:2502.19301.

    Args:
        step: −∇L, see `direction`.
        responses: groups of responses, for example of the final policy.
    """
    values, asked = [], []
    total = [torch.zeros_like(p) for p in policy.parameters()]
    for prompt, vectors in enumerate(_score_vectors(policy, responses, poll)):
        for vector in vectors:
            values.append(_dot(vector, step))
            asked.append(prompt)
            for own, more in zip(total, vector, strict=True):
                own += more
    size = (_dot(total, total) * _dot(step, step)) ** 0.5
    return Effect(mean_se(values, clusters=asked), _dot(total, step) / size if size else float("nan"))


@dataclass(frozen=True)
class Effect:
    """An inner product of gradients, its standard error over prompts, and the cosine of the angle between them."""

    value: Mean
    cosine: float


def _score_vectors(policy: Policy, batch: Batch, poll: Poll) -> Iterator[list[Direction]]:
    """∇log π(y|x) of every present response of each group, one forward pass per group."""
    parameters, present = policy.parameters(), batch.present.tolist()
    for row, there in enumerate(present):
        poll()
        one = batch[torch.tensor([row])]
        logp = sequence(policy.evaluate(one).logp, one)[0]
        yield [_gradient(logp[i], parameters) for i, is_one in enumerate(there) if is_one]


def _gradient(x: Tensor, parameters: Sequence[Tensor]) -> Direction:
    found = torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


def _dot(a: Direction, b: Direction) -> float:
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))


# ---------------------------------------------------------------------------------------- predicted by hidden states


def ches(
    hidden: Float[Tensor, "P 2 T H"], mask: Bool[Tensor, "P 2 T"], *, normalised: bool = False
) -> Float[Tensor, " P"]:
    """Centred hidden embedding similarity: ⟨Σ h_w, Σ h_l⟩ − |Σ h_w|²; the higher, the more the winner is displaced.

    h are the last hidden states before each response token: that of the last prompt token counts, that of the last
    response token does not. Razin et al. (arXiv:2410.08847, definition 2); normalised: means for sums, as they filter
    data with.

    Args:
        hidden: states of winner and loser, see `packing.features`.
    """
    states = torch.where(mask[..., None].to(hidden.device), hidden.double(), 0.0).sum(-2)
    if normalised:
        states = states / mask.sum(-1).clamp(min=1)[..., None].to(hidden.device)
    winner, loser = states.unbind(-2)
    return ((winner * loser).sum(-1) - winner.square().sum(-1)).cpu()


# ------------------------------------------------------------------------------------------------------ how good


def rank_correlation(
    predicted: ArrayLike, measured: ArrayLike, *, clusters: Clusters | None = None, seed: int = 0, n: int = 1000
) -> Interval:
    """Spearman's rank correlation of two columns, with a bootstrap interval over clusters.

    Args:
        predicted, measured: [N].
        clusters: N labels, for example prompts.

    Raises:
        ValueError: columns of different lengths.
    """
    both: Any = np.stack([np.asarray(x, dtype=np.float64) for x in (predicted, measured)], -1)
    return bootstrap(both, _spearman, clusters=clusters, seed=seed, n=n)


def _spearman(rows: Any) -> float:
    """nan if one of the columns is constant."""
    if (rows == rows[0]).all(0).any():
        return float("nan")
    return float(spearmanr(rows[:, 0], rows[:, 1]).statistic)
