"""The rule that advises: numbers in a JSON file, evaluated by numpy. Imports no torch.

The value of each action is linear in the standardised features, and so is its merit (see `merit`), by which it is
chosen. An action is advised against the default, the best constant action, by the lower bound of its lead over refits
to resampled problems. Nothing is advised where these do not agree, or where the rule has not been tested on enough
problems, or not beaten the default there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtr

from prefloop.analysis.cannot_tell import CannotTell
from prefloop.core.errors import DataError
from prefloop.core.files import to_json, write

Array: TypeAlias = NDArray[np.float64]

SHIPPED = Path(__file__).with_name("rule.json")
FORMAT = 2
SURE = 0.75  # share of the refits in which an action that is advised beats the default
BREAKS = 0.5  # predicted share of broken runs from which an action is advised only if all are like that
FAR = 3.0  # standard deviations beyond which a feature is outside what the rule has seen


@dataclass(frozen=True)
class Status:
    """What is known of a rule.

    Args:
        problems: with outcomes, on which it was fitted.
        minimum: of them, below which nothing is advised.
        beats: whether it beat the best constant action on problems that it had not seen, by an interval over problems.
        regret: by advisor, mean regret on those problems with its interval: value, low, high.
        coverage: share of the values in their interval, on those problems.
        abstains: share of those problems for which nothing was advised.
        worlds: problems by world.
    """

    problems: int = 0
    minimum: int = 100
    beats: bool = False
    regret: Mapping[str, Sequence[float]] = field(default_factory=dict)
    coverage: float | None = None
    abstains: float | None = None
    worlds: Mapping[str, int] = field(default_factory=dict)

    @property
    def refusal(self) -> CannotTell | None:
        """Why the rule may not advise."""
        if self.problems < self.minimum:
            what = f"the rule is fitted to {self.problems} problems with known outcomes, and needs {self.minimum}"
            return CannotTell(what)
        if not self.beats:
            return CannotTell("on problems that it had not seen, the rule did not beat the best constant action")
        return None


@dataclass(frozen=True)
class Rule:
    """A fitted rule.

    Args:
        features, mean, scale: names, and by what they are standardised, [d]; mean also stands in for what is not known.
        actions: names, [A].
        gain: value of each action, [A, 1 + d]: at the mean, and per standard deviation of each feature.
        breaks: logit of the share of broken runs, likewise.
        merit: merit of each action, likewise, [1 + B, A, 1 + d]: of all problems, and of B refits to resampled ones.
        noise: root mean square error of predicted differences in merit on unseen problems, [A, A].
        width: half-width of the interval of each value, [A].
        level: of that interval.
        default: the best constant action.
        status: how it was tested.
    """

    features: tuple[str, ...]
    mean: Array
    scale: Array
    actions: tuple[str, ...]
    gain: Array
    breaks: Array
    merit: Array
    noise: Array
    width: Array
    level: float
    default: str
    status: Status

    def standardised(self, features: ArrayLike) -> Array:
        """[…, d]; features that are not known are at their mean."""
        x = np.asarray(features, dtype=np.float64)
        return np.asarray((np.where(np.isfinite(x), x, self.mean) - self.mean) / self.scale)

    def values(self, features: ArrayLike) -> Array:
        """Predicted value of each action, […, A]."""
        return linear(self.gain, bounded(self.standardised(features)))

    def broken(self, features: ArrayLike) -> Array:
        """Predicted share of broken runs, […, A]."""
        return np.asarray(expit(linear(self.breaks, bounded(self.standardised(features)))))

    def merits(self, features: ArrayLike) -> Array:
        """Predicted merit of each action, [1 + B, A], by the fit to all problems and by each refit."""
        z = bounded(self.standardised(features))
        return np.stack([linear(weights, z) for weights in self.merit])

    def choose(self, features: ArrayLike, able: Collection[str] | None = None) -> tuple[str, bool]:
        """The advised action, and whether it is sure: the default if not."""
        merits = self.merits(features)
        return chosen(merits, self.broken(features), self.actions, self.standing(merits[0], able), able)

    def standing(self, merits: Array, able: Collection[str] | None) -> str:
        """The default, or the best predicted of those that the data can feed if it is none of them."""
        if able is None or self.default in able:
            return self.default
        return max(able, key=lambda name: float(merits[self.actions.index(name)]))


def bounded(z: Array) -> Array:
    """Standardised features as the rule is fitted to them: beyond FAR nothing more is known, and one problem out there
    would outweigh all others."""
    return np.asarray(np.clip(z, -FAR, FAR))


def linear(weights: Array, x: Array) -> Array:
    """[A, 1 + d] and […, d] to […, A]."""
    return np.asarray(weights[:, 0] + x @ weights[:, 1:].T)


def chosen(
    merits: Array, broken: Array, actions: Sequence[str], default: str, able: Collection[str] | None = None
) -> tuple[str, bool]:
    """The action with the highest lower bound of its lead over the default, and whether it is sure.

    The bound is the quantile of the refits that leaves out SURE of them; that of the default is 0. If no other has a
    higher one, the default is advised where it is predicted to be the best, and nothing where another one is.

    Args:
        merits: [1 + B, A].
    """
    places = [i for i, name in enumerate(actions) if able is None or name in able]
    base = actions.index(default)
    sound = [i for i in places if broken[i] < BREAKS or i == base] or places
    lead = merits - merits[:, base, None]
    bound = np.quantile(lead[1:], 1 - SURE, axis=0)
    best = max(sound, key=lambda i: (bound[i], i == base))
    if best != base and bound[best] > 0:
        return actions[best], True
    return default, max(float(lead[0, i]) for i in sound) <= 0


# ----------------------------------------------------------------------------------------------------------- advice


@dataclass(frozen=True)
class Ranked:
    """An action with what is predicted for it.

    Args:
        value: share of the attainable gain in J_β, with its interval.
        breaks: predicted share of broken runs.
        sure: chance that it beats the default; None for the default itself.
    """

    action: str
    value: float
    low: float
    high: float
    breaks: float
    sure: float | None


@dataclass(frozen=True)
class Flip:
    """A feature that would change the advice: at which value, and how many standard deviations away that is."""

    feature: str
    at: float
    away: float


@dataclass(frozen=True)
class Advice:
    """What is advised.

    Args:
        action: what to use; or why nothing is said.
        ranked: actions that the data can feed, the best first by merit; empty where the rule may not advise.
        flips: what would change it, nearest first.
        because: features by how much they speak for the first action against the second, largest first.
        filled: features that could not be measured, for which the average of the problems stands in.
        outside: features beyond what the rule has seen.
    """

    action: str | CannotTell
    ranked: tuple[Ranked, ...] = ()
    flips: tuple[Flip, ...] = ()
    because: tuple[tuple[str, float], ...] = ()
    filled: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


def advise(rule: Rule | None, features: Mapping[str, float], able: Collection[str]) -> Advice:
    """What to use, for features (nan where not known) and actions that the data can feed."""
    if rule is None:
        return Advice(CannotTell("no rule has been fitted and tested yet"))
    if reason := rule.status.refusal:
        return Advice(reason)
    if not able:
        return Advice(CannotTell("the data can feed none of the methods that are compared"))
    x = np.array([features.get(name, math.nan) for name in rule.features])
    z, merits = rule.standardised(x), rule.merits(x)
    action, sure = rule.choose(x, able)
    ranked = _ranked(rule, x, able, first=action)
    lead = _lead(rule, ranked)
    told = Advice(
        action,
        ranked,
        flips=_flips(rule, z, lead),
        because=tuple(sorted(zip(rule.features, (lead[1:] * z).tolist(), strict=True), key=lambda item: -abs(item[1]))),
        filled=tuple(n for n, v in zip(rule.features, x.tolist(), strict=True) if not math.isfinite(v)),
        outside=tuple(n for n, v in zip(rule.features, z.tolist(), strict=True) if abs(v) > FAR),
    )
    if sure:
        return told
    base = rule.actions.index(rule.standing(merits[0], able))
    best = max((rule.actions.index(name) for name in able), key=lambda i: float(merits[0, i] - merits[0, base]))
    agree = float((merits[1:, best] > merits[1:, base]).mean())
    what = f"{rule.actions[best]} is predicted better than {action}, but only in {agree:.0%} of the rule's refits"
    return replace(told, action=CannotTell(what))


def _ranked(rule: Rule, x: Array, able: Collection[str], first: str) -> tuple[Ranked, ...]:
    """The advised action first, the others by their merit."""
    values, broken, merits = rule.values(x), rule.broken(x), rule.merits(x)[0]
    base = rule.actions.index(rule.standing(merits, able))
    made = []
    for i, name in enumerate(rule.actions):
        if name not in able:
            continue
        v, w, noise = float(values[i]), float(rule.width[i]), float(rule.noise[i, base])
        sure = float(ndtr((merits[i] - merits[base]) / noise)) if i != base and noise > 0 else None
        made.append(Ranked(name, v, v - w, v + w, float(broken[i]), sure))
    return tuple(sorted(made, key=lambda one: (one.action != first, -merits[rule.actions.index(one.action)])))


def _lead(rule: Rule, ranked: Sequence[Ranked]) -> Array:
    """Coefficients of the first action's lead over the second, [1 + d]; zero if there is no second."""
    if len(ranked) < 2:
        return np.zeros(1 + len(rule.features))
    one, two = (rule.merit[0, rule.actions.index(x.action)] for x in ranked[:2])
    return np.asarray(one - two)


def _flips(rule: Rule, z: Array, lead: Array) -> tuple[Flip, ...]:
    """Features of which one alone, moved within what the rule has seen, would put the second action first."""
    gap = float(lead[0] + lead[1:] @ z)
    out = []
    for i, name in enumerate(rule.features):
        if abs(lead[1 + i]) < 1e-12:
            continue
        at = float(z[i] - gap / lead[1 + i])
        if abs(at) <= FAR:
            out.append(Flip(name, float(rule.mean[i] + at * rule.scale[i]), at - float(z[i])))
    return tuple(sorted(out, key=lambda flip: abs(flip.away)))


# ---------------------------------------------------------------------------------------------------------- on disk

ARRAYS = ("mean", "scale", "gain", "breaks", "merit", "noise", "width")


def save(rule: Rule, path: Path) -> None:
    """Write a rule."""
    tree = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(rule).items()}
    write(path, to_json({"format": FORMAT, **tree, "status": asdict(rule.status)}))


def load(path: Path = SHIPPED) -> tuple[Rule | None, Status]:
    """The rule in a file with its status; no rule where only a status is stated.

    Raises:
        DataError: not such a file.
    """
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if tree.pop("format") != FORMAT:
            raise ValueError("another format")
        status = Status(**tree.pop("status"))
        if not tree:
            return None, status
        tree |= {name: np.array(tree[name], dtype=np.float64) for name in ARRAYS}
        tree |= {name: tuple(tree[name]) for name in ("features", "actions")}
        return Rule(**tree, status=status), status
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("not a rule of the advice", where=str(path), fix="install Prefloop again") from error
