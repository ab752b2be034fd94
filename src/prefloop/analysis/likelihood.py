"""How likely held-out demonstrations are under a policy."""

from __future__ import annotations

import math

from jaxtyping import Float, Int
from torch import Tensor


def likelihood_metrics(logp: Float[Tensor, " N"], lengths: Int[Tensor, " N"]) -> dict[str, float]:
    """Negative log-likelihood per token over all tokens, its standard error over responses, and the perplexity.

    Args:
        logp: summed log π(y|x) of each response.
        lengths: its tokens.
    """
    count, tokens = len(logp), float(lengths.sum())
    loss = -float(logp.double().sum()) / tokens
    residual = -logp.double() - loss * lengths  # of a ratio of means
    spread = math.sqrt(float(residual.square().sum()) * count / max(1, count - 1)) / tokens
    return {
        "eval/loss": loss,
        "eval/loss_se": spread,
        "eval/perplexity": math.exp(loss),
        "eval/perplexity_low": math.exp(loss - 1.96 * spread),
        "eval/perplexity_high": math.exp(loss + 1.96 * spread),
        "eval/demonstrations": float(count),
    }
