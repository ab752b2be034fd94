"""What can be advised: eight actions, each a method with its switches and the one knob that holds it to the reference.

Which data can feed an action: offline ones need several responses to a prompt and their order; on-policy ones need a
reward that scores fresh responses, given or learned from pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from prefloop.analysis.cannot_tell import CannotTell

Family: TypeAlias = Literal["supervised", "contrastive", "policy gradient"]
EXACT: dict[str, Any] = {"kl_in": "loss", "kl_estimator": "exact"}  # how a penalty enters the loss, where it is a sum
SAMPLED: dict[str, Any] = {"kl_in": "loss", "kl_estimator": "k2"}  # and elsewhere
PAIRS: dict[str, Any] = {"pairs": "all_pairs"}
REUSE = 4


@dataclass(frozen=True)
class Held:
    """The hyper-parameter that holds a policy to the reference: its name, candidates, and the one to start from."""

    name: str
    values: tuple[float, ...]
    start: float


KL = Held("kl", (0.001, 0.01, 0.1, 1.0, 10.0), 0.1)
BETA = Held("beta", (0.003, 0.03, 0.3, 3.0, 30.0), 0.3)


@dataclass(frozen=True)
class Switches:
    """Where an action lies in the space of methods: what the rule knows of it.

    Args:
        on_policy: whether the policy writes the responses.
        negative: whether a gradient pushes responses down.
        reuse: passes over a collection.
        anchored: whether a term pulls the likelihood of the winner up.
    """

    on_policy: bool
    negative: bool
    family: Family
    reuse: int = 1
    anchored: bool = False


@dataclass(frozen=True)
class Action:
    """Something to advise.

    Args:
        name: short, in tables and files.
        title: in a sentence.
        method: an entry of METHODS.
        override: switches and hyper-parameters that differ from its defaults.
        knob: what is tuned beside the learning rate.
    """

    name: str
    title: str
    method: str
    switches: Switches
    knob: Held
    override: Mapping[str, Any] = field(default_factory=dict)

    @property
    def penalty(self) -> bool:
        """Whether the knob is the weight of a KL in the loss."""
        return self.knob is KL


def _action(name: str, title: str, method: str, switches: Switches, knob: Held, **override: Any) -> Action:
    own = {"on_policy": float(switches.on_policy), "reuse": switches.reuse, **override}
    return Action(name, title, method, switches, knob, own)


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        _action(
            "best-of-n-offline",
            "supervised fine-tuning on the preferred responses (Pref-FT, offline best-of-N)",
            "best_of_n",
            Switches(False, False, "supervised"),
            KL,
        ),
        _action(
            "rwr-offline",
            "imitation of all responses, weighted by their reward within each prompt (RWR)",
            "rwr",
            Switches(False, False, "supervised"),
            BETA,
            normalise="prompt",
        ),
        _action("dpo-offline", "DPO on the data", "dpo", Switches(False, True, "contrastive"), BETA, **PAIRS),
        _action(
            "dpop-offline",
            "DPO on the data with a term that keeps the preferred response likely (DPOP)",
            "dpop",
            Switches(False, True, "contrastive", anchored=True),
            BETA,
            **PAIRS,
        ),
        _action(
            "best-of-n",
            "imitation of the best of several fresh responses (best-of-N)",
            "best_of_n",
            Switches(True, False, "supervised"),
            KL,
        ),
        _action(
            "dpo", "DPO on fresh responses (online DPO)", "dpo", Switches(True, True, "contrastive"), BETA, **PAIRS
        ),
        _action(
            "rloo",
            "policy gradient on fresh responses with a KL penalty (RLOO)",
            "rloo",
            Switches(True, True, "policy gradient"),
            KL,
        ),
        _action(
            "dpo-reuse",
            f"DPO on fresh responses, {REUSE} passes over each collection",
            "dpo",
            Switches(True, True, "contrastive", REUSE),
            BETA,
            **PAIRS,
        ),
    )
}


# -------------------------------------------------------------------------------------------------- what feeds them


@dataclass(frozen=True)
class Feed:
    """What there is to train on.

    Args:
        largest: responses to one prompt in the data, at most; 0 for prompts only.
        ranked: whether the data say which of them are better.
        reward: whether something scores fresh responses: given, or learned from the pairs of the data.
    """

    largest: int
    ranked: bool
    reward: bool


def refusal(action: Action, feed: Feed) -> CannotTell | None:
    """Why the data cannot feed an action; None if they can."""
    if action.switches.on_policy:
        if feed.reward:
            return None
        return CannotTell("nothing scores fresh responses: it needs a reward, or pairs to learn one from")
    if feed.largest < 1:
        return CannotTell("the data have no responses")
    if feed.largest < 2:
        return CannotTell("it compares responses to one prompt, and the data have one to each")
    return None if feed.ranked else CannotTell("the data do not say which response is better")


def fed(feed: Feed) -> dict[str, CannotTell | None]:
    """Every action with the reason for which the data cannot feed it, if there is one."""
    return {name: refusal(action, feed) for name, action in ACTIONS.items()}
