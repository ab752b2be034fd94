"""Published rules for the health of a run as functions of the same evidence, to compare our checks with.

Thresholds are as published (axolotl 067b021 of 2026-07-24, verl 1dda039 of 2026-08-22); none of them comes with an
error rate. Where a source gives a healthy range and a red flag, the red flag is used. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prefloop.analysis.evidence import Curve, Evidence

FLAT = 0.01  # change, in units of the metric's spread over its quarters, below which axolotl's "flat" holds
AXOLOTL_PAIRS = "axolotl docs/agents/preference_tuning.md, Healthy Training Indicators"
AXOLOTL_RL = "axolotl docs/training_stability.qmd, Key Metrics for RL (GRPO)"
VERL = "verl docs/algo/rollout_corr.md, check_rollout_correction_health"


@dataclass(frozen=True)
class Rule:
    """One published rule.

    Args:
        alarm: whether a run breaks it; None if the run lacks the metric.
        reasons: the checks of ours that would name the same fault.
    """

    name: str
    source: str
    alarm: Callable[[Evidence], bool | None]
    reasons: frozenset[str]


def alarms(run: Evidence, rules: tuple[Rule, ...]) -> dict[str, frozenset[str]]:
    """The rules that a run breaks, and what each takes for the fault."""
    return {rule.name: rule.reasons for rule in rules if rule.alarm(run)}


def _on(*keys: str) -> Callable[[Callable[[Curve], bool]], Callable[[Evidence], bool | None]]:
    """A rule on the first of these metrics that the run has."""

    def lift(holds: Callable[[Curve], bool]) -> Callable[[Evidence], bool | None]:
        def alarm(run: Evidence) -> bool | None:
            known = run.get(*keys)
            return None if known is None else holds(known)

        return alarm

    return lift


def early(curve: Curve) -> float:
    """Median of the first tenth."""
    return float(sorted(curve.value[: max(1, len(curve) // 10)])[max(1, len(curve) // 10) // 2])


def does_not_rise(curve: Curve) -> bool:
    """Flat or falling from the first tenth to the last quarter."""
    return curve.late - early(curve) <= FLAT * float(curve.value.std())


def rises(curve: Curve) -> bool:
    return curve.late - early(curve) > FLAT * float(curve.value.std())


def _rule(name: str, source: str, alarm: Callable[[Evidence], bool | None], *reasons: str) -> Rule:
    return Rule(name, source, alarm, frozenset(reasons))


def _per_token(key: str, holds: Callable[[float], bool]) -> Callable[[Evidence], bool | None]:
    """A rule on a mean over tokens, as TRL logs it, of a metric that we have per response."""

    def alarm(run: Evidence) -> bool | None:
        known = run.get(key)
        tokens = run.tokens or run.limit
        return None if known is None or not tokens else holds(known.late / tokens)

    return alarm


def _only_pairs(alarm: Callable[[Evidence], bool | None]) -> Callable[[Evidence], bool | None]:
    return lambda run: alarm(run) if run.pairs else None


def _at_least_once(low: float, high: float) -> Callable[[Curve], bool]:
    return lambda curve: bool((curve.value < low).any() or (curve.value > high).any())


LABELS = ("labels", "memorised")
AXOLOTL: tuple[Rule, ...] = (
    _rule(
        "rewards/chosen must rise",
        AXOLOTL_PAIRS,
        _only_pairs(_on("rewards/chosen")(does_not_rise)),
        "displacement",
        "dead",
        *LABELS,
    ),
    _rule("rewards/rejected must fall", AXOLOTL_PAIRS, _only_pairs(_on("rewards/rejected")(rises)), *LABELS),
    _rule(
        "rewards/margins positive and rising",
        AXOLOTL_PAIRS,
        _only_pairs(_on("rewards/margins")(lambda c: c.late <= 0 or does_not_rise(c))),
        "dead",
        *LABELS,
    ),
    _rule(
        "rewards/accuracies above ½",
        AXOLOTL_PAIRS,
        _only_pairs(_on("rewards/accuracies")(lambda c: c.late < 0.5)),
        *LABELS,
    ),
    _rule(
        "loss falls",
        AXOLOTL_PAIRS,
        _only_pairs(_on("loss")(lambda c: early(c) - c.late <= FLAT * float(c.value.std()))),
        "rate",
        "dead",
        "beta",
        *LABELS,
    ),
    _rule("grad_norm below 100", AXOLOTL_PAIRS, _on("grad_norm")(_at_least_once(-math.inf, 100.0)), "rate"),
    _rule("reward_std above 0", AXOLOTL_RL, _on("reward_std")(lambda c: c.late == 0), "groups", "dead"),
    _rule("frac_reward_zero_std below 0.8", AXOLOTL_RL, _on("frac_reward_zero_std")(lambda c: c.late > 0.8), "groups"),
    _rule("entropy above 0.01", AXOLOTL_RL, _per_token("eval/entropy", lambda x: x < 0.01), "entropy"),
    _rule("kl below 2", AXOLOTL_RL, _per_token("kl", lambda x: x > 2.0), "distance", "rate", "beta", "hacking"),
    _rule(
        "sampling_logp_difference below 1",
        AXOLOTL_RL,
        _on("sampling/sampling_logp_difference/mean")(lambda c: c.late > 1.0),
        "mismatch",
        "staleness",
    ),
    _rule(
        "clip_ratio below 0.3", AXOLOTL_RL, _on("clip_ratio/region_mean")(lambda c: c.late > 0.3), "staleness", "rate"
    ),
    _rule("clipped completions below 0.8", AXOLOTL_RL, _on("eval/cut")(lambda c: c.late > 0.8), "ends", "hacking"),
)


def _verl(holds: Callable[[Mapping[str, float]], bool]) -> Callable[[Evidence], bool | None]:
    """A rule on verl's numbers, from the mean, spread and KL of token weights of trainer against sampler."""

    def alarm(run: Evidence) -> bool | None:
        known = [run.get(key) for key in ("mismatch/mean", "mismatch/std", "mismatch/kl")]
        if any(curve is None for curve in known):
            return None
        mean, std, kl = (curve.late for curve in known if curve is not None)
        second = mean**2 + std**2
        numbers = {"mean": mean, "std": std, "kl": kl, "ess": mean**2 / second if second else 0.0, "chi2": second - 1}
        return holds(numbers)

    return alarm


VERL_RULES: tuple[Rule, ...] = (
    _rule("mean weight in [0.5, 2]", VERL, _verl(lambda x: not 0.5 <= x["mean"] <= 2.0), "mismatch", "staleness"),
    _rule("ESS at least 0.3", VERL, _verl(lambda x: x["ess"] < 0.3), "mismatch", "staleness"),
    _rule("weight std at most 1", VERL, _verl(lambda x: x["std"] > 1.0), "mismatch", "staleness"),
    _rule("|KL| at most 0.1 per token", VERL, _verl(lambda x: abs(x["kl"]) > 0.1), "mismatch", "staleness"),
    _rule("χ² at most 1", VERL, _verl(lambda x: x["chi2"] > 1.0), "mismatch", "staleness"),
)
BASELINES: Mapping[str, tuple[Rule, ...]] = {"axolotl": AXOLOTL, "verl": VERL_RULES}
