"""The optimum of J_β(π) = E gold − β·KL(π‖π_ref), by which methods with different penalties are compared."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from prefloop.analysis import theory
from prefloop.core.errors import UserError
from prefloop.worlds.spec import name_of


class Optimum(NamedTuple):
    """J_β of the reference, and the highest J_β of any policy, β log E_ref exp(gold/β)."""

    reference: float
    best: float


def optimum(world: Any, beta: float) -> Optimum:
    """The optimum of a world with the methods `start` and `optimum`; exact if its responses can be enumerated.

    Raises:
        UserError: β is not positive, or the world, such as a user's own, does not know its optimum.
    """
    if not beta > 0:
        raise UserError(f"β must be positive, not {beta!r}")
    what = f"the highest J_β of `{name_of(type(world))}` is not known"
    if not hasattr(world, "optimum"):
        raise UserError(what, fix="a world of your own needs methods start() and optimum(beta)")
    best = world.optimum(beta)
    if best is None:
        raise UserError(f"{what} with this gold reward, whose law under the reference cannot be computed")
    return Optimum(world.start(), best)


def product_optimum(law: Float[Tensor, " V"], reward: Float[Tensor, " V"], beta: float, tokens: int = 1) -> float:
    """The optimum where the reference draws `tokens` tokens independently and gold is the mean of their rewards.

    π_ref exp(gold/β)/Z then factorises, and log Z is `tokens` times log E exp(reward/(β·tokens)) of one token.
    """
    _, log_z = theory.optimum(law.log(), reward, beta * tokens)
    return float(beta * tokens * log_z)
