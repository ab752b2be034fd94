"""Options for fitting a reward model, shared by command line, configurations and Python. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from prefloop.core.errors import UserError, nearest

Pooling = Literal["last", "mean", "both", "cls", "head"]
Asked = Literal["auto", "last", "mean", "both", "cls", "head"]
Ties = Literal["drop", "half"]
Schedule = Literal["constant", "linear", "cosine"]  # as `core.optim.Schedule`, which needs torch
SCHEDULE = ("steps", "epochs", "lr", "schedule", "warmup", "batch")  # only for training the backbone


@dataclass(frozen=True)
class PairLoss:
    """The loss of a reward model; the defaults give plain Bradley-Terry.

    Args:
        label_smoothing: ε, the assumed share of wrong preferences, from 0 to below ½.
        rating_margin: m, the required lead in score per unit of rating difference, 0 or more.
        ties: `drop` ignores pairs of equal rating, `half` counts each as half a preference each way.
        centring: coefficient of (s_w + s_l)², 0 or more; it pulls scores to 0, so that different models are comparable.

    Raises:
        UserError: a value out of range.
    """

    label_smoothing: float = 0.0
    rating_margin: float = 0.0
    ties: Ties = "drop"
    centring: float = 0.0

    def __post_init__(self) -> None:
        _require(0 <= self.label_smoothing < 0.5, "label_smoothing", self.label_smoothing, "use 0 to below 0.5")
        _require(0 <= self.rating_margin < math.inf, "rating_margin", self.rating_margin, "use 0 or more")
        _require(self.ties in get_args(Ties), "ties", self.ties, "use drop or half")
        _require(0 <= self.centring < math.inf, "centring", self.centring, "use 0 or more")


@dataclass(frozen=True)
class FitOptions:
    """Options for fitting a reward model to preferences.

    Args:
        freeze_backbone: fit only the head, in minutes; otherwise head and backbone are then trained together, in hours.
        pooling: what the last layer reads: the state of the last token, the mean over the response's tokens, or both;
            of an encoder also the state of its first token (cls), or what the layers of its own head make of the states
            (head). `auto`: last, of an encoder mean, and of a classifier with layers of its own head.
        steps: number of steps that train the backbone.
        epochs: in place of `steps`: passes over the pairs, rounded up to whole steps.
        lr: highest learning rate of these steps.
        schedule: learning rate after warm-up: constant, or falling to 0 (linear, cosine).
        warmup: steps over which the learning rate rises linearly from 0; below 1: their share of all steps.
        batch: pairs per step.
        max_tokens: maximum length of prompt and response; longer ones are cut on the left.
        micro_tokens: maximum number of tokens per forward pass, padding included.
        loss: smoothing, ties, rating margins, centring.

    Raises:
        UserError: a value out of range.
    """

    freeze_backbone: bool = True
    pooling: Asked = "auto"
    steps: int = 200
    epochs: float | None = None
    lr: float = 1e-5
    schedule: Schedule = "linear"
    warmup: float = 0.0
    batch: int = 16
    max_tokens: int = 1024
    micro_tokens: int = 8192
    loss: PairLoss = field(default_factory=PairLoss)

    def __post_init__(self) -> None:
        _require(self.pooling in get_args(Asked), "pooling", self.pooling, f"use {listed(get_args(Asked))}")
        _require(self.schedule in get_args(Schedule), "schedule", self.schedule, "use constant, linear or cosine")
        for name in ("steps", "epochs", "lr", "batch", "max_tokens", "micro_tokens"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, name, value, "use a finite number above 0")
        whole = self.warmup < 1 or self.warmup == int(self.warmup)
        _require(0 <= self.warmup < math.inf and whole, "warmup", self.warmup, "use whole steps, or a share below 1")

    def steps_of(self, pairs: int) -> int:
        """Steps that train the backbone on so many pairs."""
        return self.steps if self.epochs is None else math.ceil(self.epochs * pairs / min(self.batch, pairs))

    def warmup_of(self, steps: int) -> int:
        """Steps of warm-up in a training of so many."""
        return round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)


LOSS = tuple(f.name for f in fields(PairLoss))
NAMES = (*(f.name for f in fields(FitOptions) if f.name != "loss"), *LOSS)


def fit_options(given: Mapping[str, Any], *, where: str = "") -> FitOptions:
    """The options of a flat mapping such as `{steps: 100, ties: half}`; the rest have their defaults.

    Args:
        where: section of the mapping, for messages.

    Raises:
        UserError: an unknown name, a value of the wrong type or out of range, or steps for a frozen backbone.
    """
    hints = get_type_hints(FitOptions) | get_type_hints(PairLoss)
    for name, value in given.items():
        if name not in NAMES:
            raise UserError(f"unknown option `{name}` of a reward model", where=where, fix=nearest(name, NAMES))
        _check_kind(name, value, hints[name], where)
    idle = [name for name in SCHEDULE if name in given]
    if idle and given.get("freeze_backbone", FitOptions.freeze_backbone):
        what = f"`{idle[0]}` has no effect with a frozen backbone"
        raise UserError(what, where=where, fix="set freeze_backbone to false (--no-freeze-backbone)")
    if "steps" in given and "epochs" in given:
        raise UserError("`steps` and `epochs` both say how long to train", where=where, fix="leave one of them out")
    loss = {name: given[name] if name == "ties" else float(given[name]) for name in LOSS if name in given}
    return FitOptions(**{k: v for k, v in given.items() if k not in LOSS}, loss=PairLoss(**loss))  # type: ignore[arg-type]


KINDS: dict[type, tuple[str, type | tuple[type, ...]]] = {
    bool: ("true or false", bool),
    int: ("a whole number above 0", int),
    float: ("a number", (int, float)),
}


def _check_kind(name: str, value: Any, hint: Any, where: str) -> None:
    """Check the type; unlike in Python, true and false are not whole numbers in a configuration."""
    hint = next((h for h in get_args(hint) if h in KINDS), hint)  # of `float | None`
    if hint in KINDS:
        kind, types = KINDS[hint]
        holds = isinstance(value, types) and isinstance(value, bool) is (hint is bool)
    else:
        kind, holds = listed(get_args(hint)), value in get_args(hint)
    if not holds:
        raise UserError(f"`{name}` must be {kind}, not {value!r}", where=f"{where}.{name}".strip("."))


def listed(words: Iterable[str]) -> str:
    """The words with commas and `or`."""
    *first, last = words
    return f"{', '.join(first)} or {last}"


def _require(holds: bool, name: str, value: object, fix: str) -> None:
    if not holds:
        raise UserError(f"`{name}` cannot be {value!r}", where=f"reward model: {name}", fix=fix)
