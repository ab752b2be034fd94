"""The objectives that methods minimise: pure functions of the log-probs and of frozen data.

Every objective takes `logp` [*S, P, G, T] (the only tensor with a gradient), the method's `Signal` and the `Batch`,
and returns *unreduced* losses: per token [*S, P, G, T], per response [*S, P, G] or per pair [*S, P, K]. The one
reduction and the negative switch are in `method`. Hyper-parameters are floats or one value per run, [S].
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prefloop.core.batch import Batch, MissingNeed, Signal, reads
from prefloop.core.ranges import NotNegative, Number, OnePositive, Positive, Share

LogProbs = Float[Tensor, "*S P G T"]
PerResponse = Float[Tensor, "*S P G"]
Level = Literal["token", "sequence"]
PerPair = Float[Tensor, "*S P K"]
MAX_LOG_RATIO = 20.0  # clamp before exp: e^20 is finite in float32 and so is its gradient


def per_run(value: Number, like: Tensor) -> Tensor:
    """A hyper-parameter, one value or [S], shaped to broadcast along the run axis of `like`, in its dtype."""
    x = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return x.reshape(-1, *[1] * (like.ndim - 1)) if x.ndim else x


def sequence(x: LogProbs, batch: Batch) -> PerResponse:
    """Sum over the tokens of each response."""
    return torch.where(batch.mask, x, 0.0).sum(-1)


def token_mean(x: LogProbs, batch: Batch) -> PerResponse:
    """Mean over the tokens of each response."""
    return sequence(x, batch) / batch.lengths.clamp(min=1)


def implicit_reward(logp: LogProbs, batch: Batch) -> PerResponse:
    """log π(y|x) − log π_ref(y|x), without β."""
    if batch.logp_reference is None:
        raise MissingNeed("logp_reference")
    return sequence(logp - batch.logp_reference, batch)


def pair(x: PerResponse, signal: Signal) -> tuple[PerPair, PerPair]:
    """The values of x at winners and losers."""
    if signal.pairs is None:
        raise MissingNeed("pairs")
    return x.gather(-1, signal.pairs[..., 0]), x.gather(-1, signal.pairs[..., 1])


def margin(x: PerResponse, signal: Signal) -> PerPair:
    winner, loser = pair(x, signal)
    return winner - loser


def _weight(signal: Signal, like: LogProbs) -> Tensor:
    if signal.weight is None:
        raise MissingNeed("weight")
    return signal.weight if signal.weight.ndim == like.ndim else signal.weight[..., None]


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x < 0 without cancellation (Mächler 2012); x is kept below −1e-6, where p rounds to 1."""
    x = x.clamp(max=-1e-6)
    near = x > -math.log(2)
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, x, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, x))),
    )


# ------------------------------------------------------------------------------------------- supervised: c = w >= 0


@reads(supervised=True)
def nll(logp: LogProbs, signal: Signal, batch: Batch) -> LogProbs:
    """−w log π(y|x): every weighted-likelihood method; only the weight differs."""
    return -_weight(signal, logp) * logp


# --------------------------------------------------------------------------------------- policy gradient: c = A · ρ


def log_ratio(logp: LogProbs, batch: Batch) -> LogProbs:
    """log π − log π_old; π_old is the policy at collection or, if that is not known, the behaviour policy."""
    old = batch.logp_behaviour if batch.logp_proximal is None else batch.logp_proximal
    if old is None:
        raise MissingNeed("logp_behaviour")
    return torch.where(batch.mask, logp - old, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def ratio(logp: LogProbs, signal: Signal, batch: Batch, level: str) -> tuple[Tensor, Tensor]:
    """(ρ, A) per token [*S, P, G, T], or per response [*S, P, G] with level="sequence"."""
    d = log_ratio(logp, batch)
    if level == "token":
        return d.exp(), _weight(signal, logp)
    if signal.weight is None or signal.weight.ndim == logp.ndim:
        raise MissingNeed("weight per response, as level='sequence' requires")
    return d.sum(-1).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), signal.weight


@reads("behaviour")
def policy_gradient(logp: LogProbs, signal: Signal, batch: Batch, *, level: Level = "token") -> Tensor:
    """−A ρ, ρ = π/π_old: the score-function estimator; its gradient at ρ = 1 is −A ∇log π (Williams 1992, eq. 11)."""
    rho, advantage = ratio(logp, signal, batch, level)
    return -advantage * rho


@reads("behaviour")
def clipped(
    logp: LogProbs,
    signal: Signal,
    batch: Batch,
    *,
    clip: Positive = 0.2,
    clip_high: Positive | None = None,
    level: Level = "token",
) -> Tensor:
    """−min(A ρ, A clip(ρ, 1−ε, 1+ε_high)): PPO's pessimistic surrogate (arXiv:1707.06347, eq. 7).

    `clip_high` None means ε_high = ε; a larger one is DAPO's clip-higher (arXiv:2503.14476, eq. 10).
    """
    rho, advantage = ratio(logp, signal, batch, level)
    low, high = per_run(clip, rho), per_run(clip if clip_high is None else clip_high, rho)
    return -torch.minimum(advantage * rho, advantage * torch.clamp(rho, 1 - low, 1 + high))


# -------------------------------------------------------------------------------------- contrastive: c_w > 0 > c_l


@reads("reference")
def dpo(logp: LogProbs, signal: Signal, batch: Batch, *, beta: Positive = 0.1, smoothing: Share = 0.0) -> PerPair:
    """−(1−ε) log σ(β h) − ε log σ(−β h), h the margin of log π/π_ref (arXiv:2305.18290, eq. 7).

    `smoothing` ε > 0 is conservative DPO, which accounts for flipped labels (Mitchell 2023).
    """
    h = margin(implicit_reward(logp, batch), signal)
    h, smooth = per_run(beta, h) * h, per_run(smoothing, h)
    return -(1 - smooth) * F.logsigmoid(h) - smooth * F.logsigmoid(-h)


@reads("reference")
def ipo(logp: LogProbs, signal: Signal, batch: Batch, *, tau: Positive = 0.1) -> PerPair:
    """(h − 1/(2τ))², h the margin of log π/π_ref in sequence sums (arXiv:2310.12036, eq. 17)."""
    h = margin(implicit_reward(logp, batch), signal)
    return (h - 0.5 / per_run(tau, h)) ** 2


@reads("reference")
def hinge_norm(logp: LogProbs, signal: Signal, batch: Batch, *, beta: Positive = 0.1) -> PerPair:
    """max(0, 1 − β h), h the margin of log π/π_ref: RSO's reference-normalised hinge (arXiv:2309.06657, eq. 10)."""
    h = margin(implicit_reward(logp, batch), signal)
    return F.relu(1 - per_run(beta, h) * h)


@reads("reference")
def dpop(logp: LogProbs, signal: Signal, batch: Batch, *, beta: Positive = 0.1, keep: NotNegative = 50.0) -> PerPair:
    """−log σ(β (h − λ max(0, log π_ref(y_w)/π(y_w)))), λ = `keep`: DPO-Positive (arXiv:2402.13228, eq. 3)."""
    winner, loser = pair(implicit_reward(logp, batch), signal)
    h = winner - loser - per_run(keep, winner) * F.relu(-winner)
    return -F.logsigmoid(per_run(beta, h) * h)


@reads()
def slic(logp: LogProbs, signal: Signal, batch: Batch, *, delta: Positive = 1.0, keep: NotNegative = 0.1) -> PerPair:
    """max(0, δ − log π(y_w) + log π(y_l)) − λ log π(y_w), λ = `keep`, reference-free (arXiv:2305.10425, eq. 5).

    The target of the likelihood term is the preferred response, as in the paper's training on preferences.
    """
    winner, loser = pair(sequence(logp, batch), signal)
    return F.relu(per_run(delta, winner) - winner + loser) - per_run(keep, winner) * winner


@reads()
def simpo(logp: LogProbs, signal: Signal, batch: Batch, *, beta: Positive = 2.0, gamma: Number = 1.0) -> PerPair:
    """−log σ(β (mean log π(y_w) − mean log π(y_l)) − γ), reference-free (arXiv:2405.14734, eq. 6)."""
    h = margin(token_mean(logp, batch), signal)
    return -F.logsigmoid(per_run(beta, h) * h - per_run(gamma, h))


@reads()
def orpo(logp: LogProbs, signal: Signal, batch: Batch, *, odds: NotNegative = 0.1) -> PerPair:
    """−log p_w − λ log σ(log odds(p_w)/odds(p_l)), p the per-token mean likelihood, λ = `odds` (arXiv:2403.07691)."""
    mean = token_mean(logp, batch)
    winner, _ = pair(mean, signal)
    h = margin(mean - log1mexp(mean), signal)
    return -winner - per_run(odds, h) * F.logsigmoid(h)


@reads("labels", "reference", "z")
def kto(
    logp: LogProbs,
    signal: Signal,
    batch: Batch,
    *,
    beta: Positive = 0.1,
    desirable: NotNegative = 1.0,
    undesirable: NotNegative = 1.0,
    z_over: Literal["minibatch", "collection"] = "minibatch",
) -> PerResponse:
    """λ (1 − σ(±β (log π/π_ref − z))), + where the label is positive (arXiv:2402.01306, eq. 8).

    z estimates KL(π‖π_ref) from mismatched prompt–response pairs, clamped at 0; it carries no gradient. The loop
    estimates it for each minibatch under the current policy, as published, or once per collection (`z_over`).
    """
    if batch.labels is None or batch.z is None:
        raise MissingNeed("labels" if batch.labels is None else "z")
    gain = implicit_reward(logp, batch)
    gain = per_run(beta, gain) * (gain - per_run(batch.z, gain))
    good = batch.labels > 0
    weight = torch.where(good, per_run(desirable, gain), per_run(undesirable, gain))
    return weight * torch.sigmoid(torch.where(good, -gain, gain))


@reads()
def nll_negative(
    logp: LogProbs,
    signal: Signal,
    batch: Batch,
    *,
    push: NotNegative = 0.1,
    gate: OnePositive = 0.01,
    form: Literal["log", "unlikelihood"] = "log",
) -> PerPair:
    """−log π(best) + b·log π(other), b = `push`: best-of-N with an explicit negative term (arXiv:2404.14367, §5.2).

    form="log": active only while π(other)/π(best) > `gate`, as published, because log π is unbounded below.
    form="unlikelihood": −b Σ_t log(1 − π_t(other)) (arXiv:1908.04319, eq. 2), bounded and ungated.
    """
    winner, loser = pair(sequence(logp, batch), signal)
    b = per_run(push, winner)
    if form == "unlikelihood":
        return -winner - b * pair(sequence(log1mexp(logp), batch), signal)[1]
    return -winner + b * torch.where(loser - winner > math.log(gate), loser, loser.detach())
