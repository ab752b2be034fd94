"""The problems that the advice is fitted to and tested on: a Sobol sequence through a fixed prior, world by world.

The first n problems of a world are the same for every n, so that a table of outcomes can be continued. A dial has a
law; what a dial's number becomes in a world is in DIALS and `_world`.

| dial | law | what it is |
|---|---|---|
| mass (rotated) | log-uniform 0.0001 … 0.3 | the reference's probability of the reward's first peak (C1) |
| place (sequences) | uniform 0 … 95 | the arm at which the reward peaks; the reference's mass is on the low arms (C1) |
| peak (lengths) | uniform 0 … 95 | the peak as a percentile of the reference's lengths (C1) |
| width | log-uniform | width of the reward's peaks, as a share of the arms; in tokens on lengths |
| modes (rotated) | 1, 2, 3 | peaks of the reward |
| arms (rotated) | 50, 100, 200 | responses to a prompt |
| data | log-uniform 50 … 5,000; 32 … 2,000 on lengths | groups of the offline data |
| responses | 2, 4, 10; 4 on lengths | responses to a prompt, in the data and of the policy |
| coverage | uniform 0.05 … 1 | share of the data written by the reference (C2) |
| skew | uniform −½ … ½ (rotated), 0 … 1 (sequences) | where the rest of the data lies, as a share of all arms (C2) |
| spread | log-uniform 0.03 … 0.15 | how wide it lies there |
| labels | ordinal, gold, noisy | ranks within a prompt, exact scores, or scores with Bradley-Terry noise |
| temperature | log-uniform 0.03 … 1 | of that noise |
| scorer | gold, proxy | what scores the policy's responses; a proxy learns from all pairs of the data |
| β | log-uniform 0.02 … 0.5 | of J = E gold − β KL(π‖π_ref), which every method is judged by |
| steps | 64, 128, 256; 32, 64, 128 where a step is dear | budget of gradient steps |
| fresh | 1, ½, ¼, ⅛ | budget of samples: share of the steps that may have fresh responses |
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from scipy.stats import qmc

from prefloop.core.errors import UserError, nearest
from prefloop.core.files import digest
from prefloop.worlds.spec import World, name_of, world_class

VERSION = 1  # of the prior: another one has other problems
PROMPTS = {"rotated": 10, "sequences": 10, "lengths": 8}  # per gradient step
SCRAMBLE = 14  # seed of the sequence

Law: TypeAlias = Callable[[float], Any]  # of a number in [0, 1)


def logarithmic(low: float, high: float) -> Law:
    return lambda u: low * (high / low) ** u


def uniform(low: float, high: float) -> Law:
    return lambda u: low + (high - low) * u


def one_of(*values: Any) -> Law:
    return lambda u: values[min(int(u * len(values)), len(values) - 1)]


SHARED: dict[str, Law] = {
    "coverage": uniform(0.05, 1.0),
    "labels": one_of("ordinal", "gold", "noisy"),
    "temperature": logarithmic(0.03, 1.0),
    "scorer": one_of("gold", "proxy"),
    "beta": logarithmic(0.02, 0.5),
    "fresh": one_of(1.0, 0.5, 0.25, 0.125),
}
BANDIT: dict[str, Law] = {
    "width": logarithmic(0.03, 0.08),
    "data": logarithmic(50.0, 5000.0),
    "responses": one_of(2, 4, 10),
    "spread": logarithmic(0.03, 0.15),
    **SHARED,
}
DIALS: dict[str, dict[str, Law]] = {
    "rotated": {
        "mass": logarithmic(1e-4, 0.3),
        "modes": one_of(1, 2, 3),
        "arms": one_of(50, 100, 200),
        "skew": uniform(-0.5, 0.5),
        "steps": one_of(64, 128, 256),
        **BANDIT,
    },
    "sequences": {
        "place": uniform(0.0, 95.0),
        "skew": uniform(0.0, 1.0),
        "steps": one_of(32, 64, 128),
        **BANDIT,
    },
    "lengths": {
        "peak": uniform(0.0, 95.0),
        "width": logarithmic(5.0, 20.0),
        "data": logarithmic(32.0, 2000.0),
        "responses": one_of(4),
        "steps": one_of(32, 64, 128),
        **SHARED,
    },
}
ARMS = 100  # of the sequences


@dataclass(frozen=True)
class Problem:
    """One draw of the prior.

    Args:
        number: its place in the sequence of its world.
        responses: to each prompt, in the data and of the policy.
        steps: most gradient steps.
        fresh: share of the steps that may have fresh responses.
        beta: of J_β.
    """

    number: int
    world: World
    responses: int
    steps: int
    fresh: float
    beta: float

    @property
    def kind(self) -> str:
        """The world's name."""
        return name_of(type(self.world))

    @property
    def name(self) -> str:
        """Such as `rotated-0007`."""
        return f"{self.kind}-{self.number:04}"

    @property
    def batch(self) -> int:
        """Responses of a gradient step."""
        return PROMPTS[self.kind] * self.responses

    @property
    def samples(self) -> int:
        """Most fresh responses: of whole collections, at least one."""
        return self.batch * max(1, round(self.fresh * self.steps))

    @property
    def key(self) -> str:
        """A hash of everything: outcomes of another problem are not this one's."""
        return digest([VERSION, self.kind, repr(self)])


def problems(world: str, count: int, first: int = 0) -> list[Problem]:
    """The problems number `first` to `first + count` of a world.

    Raises:
        UserError: the prior has no such world.
    """
    if world not in DIALS:
        raise UserError(f"the prior of the advice has no world `{world}`", fix=nearest(world, DIALS))
    return [_problem(world, first + i, u) for i, u in enumerate(_sequence(len(DIALS[world]), first + count)[first:])]


def _sequence(dials: int, count: int) -> Sequence[Sequence[float]]:
    """The first points of the scrambled sequence in [0, 1)^dials."""
    if count < 1:
        return []
    with warnings.catch_warnings():  # that balance needs 2^n points: these are the first of them
        warnings.simplefilter("ignore", UserWarning)
        points: list[list[float]] = qmc.Sobol(dials, scramble=True, seed=SCRAMBLE).random(count).tolist()
    return points


def _problem(world: str, number: int, point: Sequence[float]) -> Problem:
    drawn = {name: law(u) for (name, law), u in zip(DIALS[world].items(), point, strict=True)}
    own = {"responses": drawn["responses"], "steps": drawn["steps"], "fresh": drawn["fresh"]}
    return Problem(number, world_class(world)(**_fields(world, drawn)), beta=_digits(drawn["beta"]), **own)


def _fields(world: str, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The dials in the units of a world."""
    fields = {name: drawn[name] for name in ("coverage", "temperature")} | {"data": float(round(drawn["data"]))}
    if world == "lengths":
        fields |= {"peak": drawn["peak"], "width": drawn["width"]}
    else:
        arms = drawn.get("arms", ARMS)
        fields |= {"width": drawn["width"] * arms, "skew_centre": drawn["skew"] * arms}
        fields |= {"skew_width": drawn["spread"] * arms}
        fields |= {"mass": drawn["mass"]} if world == "rotated" else {"centre": drawn["place"]}
    rounded = {name: _digits(value) for name, value in fields.items()}
    words = {name: drawn[name] for name in ("labels", "scorer", "modes", "arms") if name in drawn}
    return {**rounded, "data": int(fields["data"]), **words}


def _digits(value: float) -> float:
    """Three digits: a problem can be written down."""
    return float(f"{value:.3g}") if math.isfinite(value) else value
