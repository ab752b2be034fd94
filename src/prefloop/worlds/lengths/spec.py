"""The specification of the lengths problem: a small GPT whose answers are scored by their length or their words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefloop.core import user
from prefloop.core.errors import UserError
from prefloop.worlds.spec import (
    PER_RUN,
    Built,
    Count,
    NonzeroShare,
    Percentile,
    Positive,
    Share,
    Stack,
    check_enumerable,
    check_pairs,
    check_ranks,
    sibling,
)

if TYPE_CHECKING:
    from prefloop.core.method import Method

VERSION = 6  # of fitted references and learned rewards; a new version invalidates the cache


@dataclass(frozen=True)
class Size:
    """A network size and the longest response, END included."""

    limit: int
    layers: int
    heads: int
    width: int
    epochs: int
    lr: float
    answers: int = 64  # to every prompt, from which the reference's law of lengths is measured


SIZES = {
    "smoke": Size(limit=32, layers=1, heads=2, width=16, epochs=1, lr=1e-2, answers=16),
    "small": Size(limit=32, layers=3, heads=4, width=64, epochs=4, lr=5e-3),  # 0.27 M parameters
    "paper": Size(limit=64, layers=4, heads=6, width=192, epochs=8, lr=2e-3),  # 2.2 M parameters
}
LENGTH = "length"  # the reward whose peak is a field of this world; all others are rules


@dataclass(frozen=True)
class Lengths:
    """Text-like responses of up to 32 tokens, or 64 with network=paper."""

    gold: str = LENGTH
    "true reward: length (see peak and width), a rule such as keyword or repetition, or a function module:name"
    peak: Annotated[Percentile, PER_RUN] = 0.0
    "peak of the gold reward, as a percentile of the reference's lengths (C1); 0: one token"
    width: Annotated[Positive, PER_RUN] = 10.0
    "distance from the peak, in tokens, that costs 1"
    network: Literal["smoke", "small", "paper"] = "small"
    "size of the GPT"
    data: Count = 100
    "groups in the offline data"
    coverage: Annotated[NonzeroShare, PER_RUN] = 1.0
    "share of offline responses left complete; the others are cut by an exponential law (C2)"
    labels: Literal["gold", "noisy", "ordinal"] = "gold"
    "scores: gold; noisy (data: Bradley-Terry at the temperature); ordinal: ranks per prompt, of own responses too"
    temperature: Annotated[Positive, PER_RUN] = 0.1
    "temperature of noisy scores"
    scorer: Literal["gold", "proxy"] = "gold"
    "what scores the policy's responses: gold, or a reward model learned from the offline data"
    seen: Annotated[Share, PER_RUN] = 0.0
    "share of the reward model's groups whose texts are cut or lengthened to any length, one token to the limit alike"
    answers: Count = 4
    "answers to each prompt of an evaluation; KL, entropy and a learned reward are measured on the first"

    runs_per_stack, cost = 8, 40.0

    @property
    def tokens(self) -> int:
        """Length of the longest response in tokens."""
        return SIZES[self.network].limit

    @property
    def ceiling(self) -> float:
        """The highest possible gold reward; infinite if unknown."""
        from prefloop.rewards.rules import RULES

        if self.gold == LENGTH:
            return 0.0
        return RULES[self.gold].ceiling if self.gold in RULES else math.inf

    def fingerprint(self) -> Any:
        """The network, the answers that the reference is fitted to, and the file of a user's reward."""
        from prefloop.worlds.lengths.answers import fingerprint

        own = [user.digest(self.gold)] if ":" in self.gold else []
        return [VERSION, asdict(SIZES[self.network]), fingerprint(), *own]

    def optimum(self, beta: float) -> float | None:
        """The highest E[gold] − β KL(π‖π_ref) of any policy; None if gold depends on words."""
        found = sibling(self, "build").optimum(self, beta)
        return None if found is None else float(found.value)

    def start(self) -> float:
        """E[gold] of the reference, where training starts."""
        return float(sibling(self, "build").start(self).value)

    def about(self) -> str:
        """Statistics of the reference."""
        return str(sibling(self, "build").reference(self.network))

    def check(self, method: Method) -> None:
        """See `World.check`."""
        check_ranks(self.labels, method)
        if self.scorer == "proxy":
            check_pairs(method)
        elif self.seen:
            raise UserError("only a learned reward sees texts of every length", where="seen", fix="scorer=proxy")
        check_enumerable(method)
        if self.gold != LENGTH:
            sibling(self, "build").rule_score(self.gold)

    def build(self, stack: Stack) -> Built:
        """See `World.build`."""
        built: Built = sibling(self, "build").build(stack)
        return built


WORLDS = (Lengths,)
