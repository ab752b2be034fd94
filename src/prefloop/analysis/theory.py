"""The paper's theory as exact formulas for a softmax over independent logits z, p = softmax(z).

Tajwar et al. 2024 (arXiv:2404.14367), section 6. forward = KL(q‖p), whose descent is maximum likelihood on samples of
q; reverse = KL(p‖q). V categories; p the policy, q the target; x1, x2 categories; one step is z ← z − step · ∇.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.core.kl import exact

LogProbs = Float[Tensor, "*B V"]
Values = Float[Tensor, "*B"]


def forward_gradient(log_p: LogProbs, log_q: LogProbs) -> LogProbs:
    """∇_z KL(q‖p) = p − q."""
    return log_p.exp() - log_q.exp()


def reverse_gradient(log_p: LogProbs, log_q: LogProbs) -> LogProbs:
    """∇_z KL(p‖q) = p · (log p/q − KL(p‖q))."""
    return log_p.exp() * (log_p - log_q - exact(log_p, log_q)[..., None])


def optimum(log_ref: LogProbs, reward: LogProbs, beta: float | Values) -> tuple[LogProbs, Values]:
    """(log π*, log Z) of π* = π_ref exp(r/β)/Z, which maximises E_π[r] − β KL(π‖π_ref)."""
    unnormalised = log_ref + reward / _per_row(beta)
    log_z = unnormalised.logsumexp(-1)
    return unnormalised - log_z[..., None], log_z


def regularised_reward(log_pi: LogProbs, log_ref: LogProbs, reward: LogProbs, beta: float | Values) -> Values:
    """E_π[r] − β KL(π‖π_ref): the left side of the identity behind Lemma 6.1."""
    return (log_pi.exp() * reward).sum(-1) - beta * exact(log_pi, log_ref)


def reverse_kl_form(log_pi: LogProbs, log_ref: LogProbs, reward: LogProbs, beta: float | Values) -> Values:
    """β log Z − β KL(π‖π*): the right side of the identity behind Lemma 6.1."""
    log_star, log_z = optimum(log_ref, reward, beta)
    return beta * (log_z - exact(log_pi, log_star))


def push_down_lifts_winner(log_p: LogProbs, winner: Int[Tensor, "*B"], loser: Int[Tensor, "*B"]) -> Bool[Tensor, "*B"]:
    """p_w + p_l ≥ |p|²: the condition g_w·g_l ≤ 0 of Lemma 6.2, eq. 6.3; two rare responses next to a peak violate it.

    g_w and g_l are the gradients of log π(y_w) and log π(y_l) ≠ y_w in z.
    """
    p = log_p.exp()
    return _at(p, winner) + _at(p, loser) >= (p * p).sum(-1)


def relative_change(
    gradient: LogProbs, x1: Int[Tensor, "*B"], x2: Int[Tensor, "*B"], step: float | Values = 1.0
) -> Values:
    """Theorem 6.5's Δ(x1, x2) = log p'(x1)/p(x1) − log p'(x2)/p(x2) = −step · (∇_x1 − ∇_x2) after one step.

    Exact for any step: the normaliser cancels.
    """
    return -step * (_at(gradient, x1) - _at(gradient, x2))


def log_mean(a: Values, b: Values) -> Values:
    """Logarithmic mean (a − b)/log(a/b) of positive numbers, a where a = b; between geometric and arithmetic mean."""
    excess = (a - b) / b  # unlike a/b − 1, exact to rounding for close numbers
    return torch.where(excess == 0, a, (a - b) / torch.log1p(torch.where(excess == 0, 1.0, excess)))


def identric_mean(a: Values, b: Values) -> Values:
    """Identric mean exp((a log a − b log b)/(a − b) − 1) of positive numbers, a where a = b."""
    return b * torch.exp(a / log_mean(a, b) - 1)


def reverse_moves_more(p: Values, q1: Values, q2: Values) -> Bool[Tensor, "*B"]:
    """p > log_mean(q1, q2): for p(x1) = p(x2) = p and q1 > q2, exactly when Δ^reverse > Δ^forward.

    Theorem 6.5 (1) without its constants: Δ^reverse − Δ^forward = step · (p log(q1/q2) − (q1 − q2)).
    """
    return p > log_mean(q1, q2)


def reverse_favours_likelier(p1: Values, p2: Values, q: Values, reverse_kl: Values) -> Bool[Tensor, "*B"]:
    """q > identric_mean(p1, p2) · exp(−KL(p‖q)): for p1 > p2 and q(x1) = q(x2) = q, exactly when Δ^reverse > Δ^forward.

    Theorem 6.5 (2) and (3) without their constants: Δ^reverse − Δ^forward =
    step · (p1 − p2) · (log q + KL(p‖q) − log identric_mean(p1, p2)). As p2 < identric mean < p1 and KL ≥ 0, q ≥ p1
    is sufficient for (2), and q ≤ p2 · exp(−KL) for (3).
    """
    return q.log() + reverse_kl > identric_mean(p1, p2).log()


def _per_row(x: float | Tensor) -> float | Tensor:
    return x[..., None] if isinstance(x, Tensor) else x


def _at(rows: Tensor, place: Tensor) -> Tensor:
    return rows.gather(-1, place[..., None]).squeeze(-1)
