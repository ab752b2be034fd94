"""What the questions compare: two problems, methods with the knob that holds each to the reference, and one score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from prefloop.lab.scores import Objective, speed
from prefloop.lab.setting import make
from prefloop.lab.stack import Run
from prefloop.lab.tuning import Knob, Scoring, Search
from prefloop.studies.bench import Bench, Scale
from prefloop.studies.conduct import Condition, Contrast
from prefloop.studies.study import Claim
from prefloop.worlds.optimum import optimum

BETA = 0.05  # of J = E gold − β KL(π‖π_ref), everywhere
PLACES = {"far": 0.003, "near": 0.3}  # the reference's probability of the reward's peak, on the bandit
GROUP, PROMPTS = 10, 10  # on the bandit: responses per prompt, prompts per gradient step
DESIGN = {
    "bandit": "100 arms on a circle that the context's cluster rotates, so that no output bias solves it; the reward's"
    f" peak has probability {PLACES['far']:g} (far) or {PLACES['near']:g} (near) under the reference;"
    f" {PROMPTS} prompts × {GROUP} responses per gradient step",
    "text": "one-sentence answers of a small GPT; gold is the distance of their length from the shortest (Min, Skew) or"
    " from a common one (Mode); 8 prompts × 4 responses per step; the policy's own responses are scored by a reward"
    " model learned from the offline data",
    "information": "every method sees the order of the responses to one prompt, all pairs of it, and nothing across"
    " prompts; on text, the learned reward's scores of the policy's own responses",
    "objective": f"J = E gold − {BETA:g} · KL(π‖π_ref) at the evaluation that its user would keep (early stopping), as"
    " a share of what can be gained over the reference",
    "tuning": "learning rate, and the one knob that holds the method to the reference (KL weight, β, τ or"
    " temperature; on text best-of-N and PPO have none), on seeds of their own, until the best is inside the range",
}
THRESHOLD = 0.05  # the smallest effect that counts
UNIT = "share of the attainable gain in J"
SPEED_UNIT = "doublings of gradient steps"
HALF = 0.5  # share of the attainable gain by which learning speed is measured

RATES = {
    "rotated": (1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1),
    "lengths": (1e-5, 3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2),
}
BANDIT: dict[str, Any] = {
    "labels": "ordinal",
    "data": 200,
    "responses": GROUP,
    "batch": PROMPTS * GROUP,
    "minibatch": PROMPTS * GROUP,
    "spacing": "log",
}
TEXT: dict[str, Any] = {
    "labels": "ordinal",
    "scorer": "proxy",
    "data": 500,
    "responses": 4,
    "batch": 32,
    "minibatch": 32,
    "spacing": "log",
}
PROBLEMS: dict[str, dict[str, Any]] = {
    "min": {"peak": 0.0},
    "mode": {"peak": 25.0},
    "skew": {"peak": 0.0, "coverage": 0.4},
}
TITLES = {"min": "Min Length", "mode": "Mode Length", "skew": "Skew Length"}
SEEN: dict[str, Any] = {"seen": 1.0}  # the reward model has seen texts of every length; offline methods have not
KL = Knob("kl", (0.0, 0.003, 0.01, 0.03, 0.1), start=0.01, natural=(True, False))
SHARPNESS = Knob("beta", (1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0), start=0.01, natural=(True, False))  # β → 0: the best only
EXACT: dict[str, Any] = {"kl_in": "loss", "kl_estimator": "exact"}
PAIRS: dict[str, Any] = {"pairs": "all_pairs"}


@dataclass(frozen=True)
class Entry:
    """A method as the questions name it.

    Args:
        method: an entry of METHODS.
        override: switches and hyper-parameters that differ from its defaults.
        knob: what holds it to the reference, tuned with the learning rate.
    """

    method: str
    override: Mapping[str, Any] = field(default_factory=dict)
    knob: Knob | None = None


METHODS = {
    "DPO": Entry("dpo", PAIRS, Knob("beta", (0.03, 0.1, 0.3), start=0.1)),
    "IPO": Entry("ipo", PAIRS, Knob("tau", (0.03, 0.1, 0.3), start=0.1)),
    "best-of-N": Entry("best_of_n", EXACT, KL),
    "RWR": Entry("rwr", {"normalise": "prompt"}, SHARPNESS),
    "RLOO": Entry("rloo", EXACT, KL),
    "PPO": Entry("ppo", EXACT, KL),
}
LENGTH_METHODS = {
    "DPO": METHODS["DPO"],
    "best-of-N": Entry("best_of_n"),
    "RWR": METHODS["RWR"],
    "PPO": Entry("ppo"),
}


# ------------------------------------------------------------------------------------------------------- conditions


def bandit(bench: Bench, name: str, place: str, *, on_policy: bool = True, **changes: Any) -> Condition:
    """A method on the rotated bandit: ten prompts × ten responses per step, ranked by gold within each prompt.

    Args:
        place: a key of PLACES.
        changes: fields of the setting or of the world; `override` is added to that of the method, and `knob` replaces
            the method's.
    """
    return _condition(bench, METHODS[name], "rotated", on_policy, {"mass": PLACES[place], **BANDIT, **changes}, place)


def length(bench: Bench, name: str, problem: str, *, on_policy: bool = True, **changes: Any) -> Condition:
    """A method on text-like responses: eight prompts × four responses per step, ranked by a learned reward.

    Args:
        problem: a key of PROBLEMS.
        changes: see `bandit`.
    """
    own = {**PROBLEMS[problem], **TEXT, "network": bench.size, **changes}
    return _condition(bench, LENGTH_METHODS[name], "lengths", on_policy, own, problem)


def _condition(
    bench: Bench, entry: Entry, world: str, on_policy: bool, fields: Mapping[str, Any], group: str
) -> Condition:
    scale = bench.scale(world)
    override = {**entry.override, "on_policy": float(on_policy), **fields.get("override", {})}
    own = {"steps": scale.steps, **{key: value for key, value in fields.items() if key not in ("override", "knob")}}
    looked = search(fields.get("knob", entry.knob), scale, RATES[world])
    return Condition(make(entry.method, world, override, **own), looked, (world, group))


def search(knob: Knob | None, scale: Scale, rates: tuple[float, ...]) -> Search:
    """Rates from the middle of the list, as many as the first round tries, and the method's knob."""
    many = scale.rounds[0][0]
    skip = (len(rates) - many) // 2
    return Search(rates[skip : skip + many], knob=knob, rounds=scale.rounds)


def claim(name: str, prediction: str, effect: str, of: Contrast) -> Claim:
    """A claim on the share of the attainable gain, at the threshold that all questions have."""
    return Claim(name, prediction, effect, THRESHOLD, UNIT, of)


# ------------------------------------------------------------------------------------------------------------ scores


def attained(run: Run) -> float:
    """J at the evaluation that its user would keep, as a share of the attainable gain: 0 the reference, 1 the best."""
    return objective(run.setting.world).early(run)


def quickness(run: Run) -> float:
    """−log2 of the gradient steps to half of the attainable gain; of all steps, if it is not reached."""
    return -speed(run, objective(run.setting.world), HALF, float(run.setting.steps)).log2


def objective(world: Any) -> Objective:
    """J in a world."""
    return _objective(world)


@cache
def _objective(world: Any) -> Objective:
    return Objective(BETA, *optimum(world, BETA))


SCORING = Scoring(attained, broken=lambda run: False, reference=lambda run: 0.0)  # early stopping leaves what broke
