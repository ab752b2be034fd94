"""The specification of the rotated bandit: reward and reference turn with the context, so no output bias solves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from prefloop.worlds.arms.spec import Bandit
from prefloop.worlds.spec import PER_RUN, Count, Number, Positive, Range, sibling

if TYPE_CHECKING:
    from prefloop.core.method import Method


def whole(low: int, high: int) -> Range:
    """Whole numbers between two, both included."""
    return Range(f"a whole number from {low} to {high}", low=float(low), high=float(high), whole=True)


@dataclass(frozen=True)
class Rotated(Bandit):
    """One of 50 to 200 arms on a circle, which the context's cluster rotates: reward and reference alike."""

    mass: Annotated[float, Range("a probability from 0.0001 to 0.3", low=1e-4, high=0.3), PER_RUN] = 0.03
    "how near the reward's peak is: the reference's probability within one width of it"
    width: Annotated[Positive, PER_RUN] = 5.0
    "width of the reward's peaks, in arms"
    modes: Annotated[int, whole(1, 3), PER_RUN] = 1
    "peaks of the reward, evenly spaced around the circle; the others have 0.8 of the first one's height"
    arms: Annotated[int, whole(50, 200)] = 100
    "number of arms"
    clusters: Annotated[int, whole(8, 64)] = 16
    "number of context clusters, each with a rotation of its own"
    noise: Annotated[float, Range("a number of at least 0", low=0.0)] = 0.3
    "standard deviation of a context around its cluster's centre, in each dimension"
    policy: Literal["mlp", "linear"] = "mlp"
    "policy: a network on contexts, or a linear map"
    hidden: Count = 64
    "width of the network's hidden layers"
    skew_centre: Annotated[Number, PER_RUN] = 0.0
    "centre of that bump, in arms from the reference's mode"

    def check(self, method: Method) -> None:
        """See `World.check`."""
        super().check(method)
        sibling(self, "problem").distance(self.mass, self.width, self.arms)


WORLDS = (Rotated,)
