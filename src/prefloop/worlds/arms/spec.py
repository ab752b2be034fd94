"""The didactic problems of the paper as specifications: arms, sequences of arms, and the plain categorical.

Tajwar et al. 2024 (arXiv:2404.14367), §4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from prefloop.core.errors import UserError
from prefloop.worlds.spec import (
    PER_RUN,
    Built,
    Count,
    Flag,
    Number,
    Positive,
    Range,
    Share,
    Stack,
    Whole,
    check_enumerable,
    check_pairs,
    check_ranks,
    sibling,
)

if TYPE_CHECKING:
    from prefloop.core.method import Method

TOKENS = 9  # tokens of a sequence, after its prompt token
REWARDS = {"far": 70.0, "near": 20.0}  # centres of R1 and R2


@dataclass(frozen=True)
class Bandit:
    """The offline data, and what scores responses: shared by all bandits."""

    data: Count = 100
    "groups in the offline data"
    coverage: Annotated[Share, PER_RUN] = 1.0
    "share of offline responses written by the reference; the others follow a bump at skew_centre"
    skew_centre: Annotated[Number, PER_RUN] = 20.0
    "centre of that bump (an arm)"
    skew_width: Annotated[Positive, PER_RUN] = 5.0
    "width of that bump"
    labels: Literal["gold", "noisy", "ordinal"] = "gold"
    "scores: gold; noisy (data: Bradley-Terry at the temperature); ordinal: ranks per prompt, of own responses too"
    temperature: Annotated[Positive, PER_RUN] = 0.1
    "temperature of noisy scores"
    scorer: Literal["gold", "proxy"] = "gold"
    "what scores the policy's responses: gold, or a reward learned from the offline data"

    runs_per_stack, cost, tokens, ceiling = 32, 0.1, 1, 1.0

    def fingerprint(self) -> None:
        """None: a run depends on the fields only."""

    def about(self) -> str:
        """Empty: the reference is a known distribution."""
        return ""

    def check(self, method: Method) -> None:
        """See `World.check`."""
        check_ranks(self.labels, method)
        if self.scorer == "proxy":
            check_pairs(method)

    def build(self, stack: Stack) -> Built:
        """See `World.build`."""
        built: Built = sibling(self, "build").build(stack)
        return built

    def start(self) -> float:
        """Mean gold reward of the law that the reference is fitted to."""
        return float(sibling(self, "build").start(self))

    def optimum(self, beta: float) -> float:
        """The highest J_β under that law, see `worlds.optimum`."""
        return float(sibling(self, "build").optimum(self, beta))


@dataclass(frozen=True)
class Didactic(Bandit):
    """The reward of an arm in the published problems.

    The class attributes are fields of some of the problems, here with the value that means "not applicable".
    """

    centre: Annotated[Number, PER_RUN, Flag("reward", REWARDS)] = REWARDS["far"]
    "arm at which the reward exp(−((a − centre)/width)²) peaks: far (70), near (20), or a number"
    width: Annotated[Positive, PER_RUN] = 10.0
    "width of the reward's peak"

    policy, hidden, contexts, fit, shared, defect = "tabular", 0, 0, "likelihood", 0, ""


@dataclass(frozen=True)
class Categorical(Didactic):
    """One of 100 arms under one context; the policy is a table that starts exactly at the reference: for theory."""


@dataclass(frozen=True)
class Arms(Didactic):
    """One of 100 arms under a context."""

    policy: Literal["mlp", "linear", "tabular"] = "mlp"
    "policy: a network on contexts, or a table over them"
    hidden: Count = 256
    "width of the MLP's two hidden layers after the first"
    contexts: Whole = 0
    "size of a fixed list of contexts; 0: fresh ones for every collection"
    fit: Literal["likelihood", "reverse"] = "likelihood"
    "how the reference is fitted: by likelihood, or by reverse KL as published"

    def check(self, method: Method) -> None:
        """See `World.check`."""
        super().check(method)
        if self.policy == "tabular" and not self.contexts:
            raise UserError("a table needs a fixed list of contexts", fix="contexts=10")


@dataclass(frozen=True)
class Sequences(Didactic):
    """Nine arms after a prompt token; the policy is a stacked GPT, the reward the mean over the arms."""

    fit: Literal["likelihood", "reverse"] = "likelihood"
    "how the reference is fitted: by likelihood, or by reverse KL as published"
    shared: Annotated[int, Range(f"a whole number from 0 to {TOKENS - 1}", low=0.0, high=TOKENS - 1.0, whole=True)] = 0
    "number of tokens that the responses of an offline group share"
    defect: Literal["", "off_by_one", "k1_loss", "reference_dropout", "prompt_in_reward"] = ""
    "run with this defect of the published code (for the study published-defects)"

    policy = "gpt"
    runs_per_stack, cost, tokens = 16, 9.0, TOKENS

    def check(self, method: Method) -> None:
        """See `World.check`."""
        super().check(method)
        check_enumerable(method)
        if self.defect == "prompt_in_reward" and self.labels == "ordinal":
            raise UserError("ranks of the responses to one prompt do not depend on its reward", fix="labels=gold")


WORLDS = (Arms, Sequences, Categorical)
