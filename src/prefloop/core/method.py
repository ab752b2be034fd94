"""The record of a method: its parts, its hyper-parameters, and the three switches that work on any method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, get_type_hints

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.core import objectives, pairs, user, weights
from prefloop.core.batch import Batch, MissingNeed, Signal
from prefloop.core.errors import UserError, nearest
from prefloop.core.kl import Loss
from prefloop.core.notebook import Shown
from prefloop.core.objectives import LogProbs, per_run
from prefloop.core.pairs import Pairs
from prefloop.core.ranges import (
    Count,
    Kind,
    NotNegative,
    Number,
    OneNotNegative,
    OnePositive,
    OneShare,
    Share,
    check,
    hyper_parameters,
    kind,
)
from prefloop.core.shapes import fits, one_of
from prefloop.core.streams import Stream, streams


class _Switch(torch.autograd.Function):
    """Identity on log-probs; the backward pass scales the entries that push down, for any method."""

    @staticmethod
    def forward(ctx: Any, logp: Tensor, negative: Number) -> Tensor:
        ctx.negative = negative
        return logp.view_as(logp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.where(grad > 0, per_run(ctx.negative, grad) * grad, grad), None


def switch(logp: Tensor, negative: Number) -> Tensor:
    """`logp` itself; in its gradient every push-down entry is scaled by `negative`."""
    return _Switch.apply(logp, negative)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True, eq=False)
class Method(Shown):
    """A point of the design space; each field is one orthogonal choice.

    Args:
        objective: log-probs, signal, batch -> unreduced losses.
        weight, pairs: compute the signal that the objective reads.
        on_policy: share of the prompt groups of a collection that the current policy answers.
        reuse: passes over one collection (T in the paper).
        negative: share of the push-down gradient that is kept.
        responses: group size, C in the paper.
        reduction: "sequence" averages token sums over responses or pairs, "token" is the mean over all tokens, "mean"
            averages token means over responses, "constant" divides token sums by responses × `horizon`.
        kl, kl_in, kl_estimator: KL(π‖π_ref) regularisation: its weight; part of the "reward" (detached) or the "loss";
            which loss (see `kl.loss`).
        entropy, sft: weights of an entropy bonus and of an auxiliary likelihood term on the best response.
        critic, value_weight: a value head, and the weight of its loss.
        mismatch_cap: highest importance weight π/π_sampler of the correction for the sampler; None only logs it.
        mismatch_above: weights above the cap are set to it (`truncate`) or to 0 (`mask`).
        mismatch_level: a weight for each token, for a whole response, or the geometric mean of its tokens, which is no
            importance weight but does not grow with length; `auto` is the `level` of the method's ratio.
        refuses_mixture: why 0 < on_policy < 1 makes no sense for this method; empty if it does.
        summary: what it does, in one sentence.
        paper: who published it.
        options: hyper-parameters of the parts, by name.
    """

    objective: Callable[..., Tensor]
    weight: Callable[..., Tensor] | None = None
    pairs: Callable[..., Pairs] | None = None
    on_policy: OneShare = 1.0
    reuse: Count = 1
    negative: Share = 1.0
    responses: Count = 4
    reduction: Literal["sequence", "token", "mean", "constant"] = "sequence"
    horizon: OnePositive = 256.0
    kl: NotNegative = 0.0
    kl_in: Literal["reward", "loss"] = "reward"
    kl_estimator: Loss | Literal["exact"] = "k2"
    entropy: OneNotNegative = 0.0
    sft: OneNotNegative = 0.0
    critic: bool = False
    value_weight: OneNotNegative = 0.1
    mismatch_cap: OnePositive | None = None
    mismatch_above: Literal["truncate", "mask"] = "truncate"
    mismatch_level: Literal["auto", "token", "sequence", "geometric"] = "auto"
    refuses_mixture: str = ""
    summary: str = ""
    paper: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    shown = ("on_policy", "reuse", "negative", "defaults", "needs")

    def __post_init__(self) -> None:
        for name, wanted in _own().items():
            check(name, getattr(self, name), wanted)
        for name, value in self.options.items():
            if name not in self.defaults:
                raise UserError(f"this method has no `{name}`", fix=nearest(name, _own().keys() | self.defaults.keys()))
            check(name, value, self._kinds[name])
        if self.pairs is not None and self.reduction != "sequence":
            raise UserError("pair losses are averaged over pairs", where=f"reduction={self.reduction}")
        if "z" in self.needs and self.reduction != "sequence":
            raise UserError("per-response losses are averaged over responses", where=f"reduction={self.reduction}")
        if self.options.get("baseline") == "values" and not self.critic:
            raise UserError("baseline='values' needs a value head", fix="critic=True")

    # ------------------------------------------------------------------------------------------------ configuration

    @property
    def parts(self) -> tuple[Callable[..., Any], ...]:
        return tuple(p for p in (self.objective, self.weight, self.pairs) if p is not None)

    @property
    def compares(self) -> bool:
        """Whether responses to one prompt are compared, so that each prompt needs at least two."""
        chosen = {self.defaults.get(name) for name in ("baseline", "normalise")} & {"prompt", "leave_one_out"}
        return self.pairs is not None or bool(chosen) or getattr(self.weight, "groups", False)

    @property
    def defaults(self) -> dict[str, Any]:
        """Every hyper-parameter of the parts with its value in this method."""
        known = {k: v for part in self.parts for k, (v, _) in hyper_parameters(part).items()}
        return {k: self.options.get(k, v) for k, v in known.items()}

    @property
    def _kinds(self) -> dict[str, Kind]:
        return {k: x for part in self.parts for k, (_, x) in hyper_parameters(part).items()}

    @property
    def per_run(self) -> frozenset[str]:
        """Switches, fields and hyper-parameters whose types allow one value per stacked run, [S]."""
        return frozenset(name for name, x in {**self._kinds, **_own()}.items() if x.per_run)

    @property
    def needs(self) -> frozenset[str]:
        """The inputs that the method reads, of scores, labels, reference, behaviour, values and z."""
        read = frozenset[str]().union(*(getattr(p, "needs", ()) for p in self.parts))
        regular = isinstance(self.kl, Tensor) or self.kl > 0
        return read | ({"reference"} if regular else set()) | ({"values"} if self.critic else set())

    def override(self, **changes: Any) -> Method:
        """The same method with other switches, fields or hyper-parameters; a part by its name or as `module:function`.

        Hyper-parameters that belong only to a replaced part are dropped.

        Raises:
            UserError: a name unknown to the method and its parts, or a value out of range.
        """
        changes = {k: _part(k, v) if isinstance(v, str) and k in HOMES else v for k, v in changes.items()}
        changes = {k: _as(getattr(self, k, self.defaults.get(k)), v) for k, v in changes.items()}
        own = {k: v for k, v in changes.items() if k in _own()}
        for name, value in own.items():
            check(name, value, _own()[name])
        given = {k: v for k, v in changes.items() if k not in own}
        parts = [p for p in (changes.get(k, getattr(self, k)) for k in HOMES) if callable(p)]
        valid = {k: v for k, v in self.options.items() if any(k in hyper_parameters(p) for p in parts)}
        return replace(self, **own, options={**valid, **given})

    def _call(self, part: Callable[..., Any], *args: Any, **context: Any) -> Any:
        return part(*args, **{k: v for k, v in {**self.options, **context}.items() if k in _accepted(part)})

    # ------------------------------------------------------------------------------------------------- the training

    def check(self, batch: Batch) -> None:
        """Refuse a batch without a field that the method reads.

        Raises:
            MissingNeed: names the field.
        """
        for need in sorted(self.needs):
            names = {"reference": "logp_reference", "behaviour": "logp_behaviour"}
            have = getattr(batch, names.get(need, need))
            if have is None and not (need == "behaviour" and batch.logp_proximal is not None):
                raise MissingNeed(names.get(need, need))

    def signal(self, batch: Batch, state: weights.State | None = None, rng: Stream | None = None) -> Signal:
        """Weights and pairs of a collection, without a gradient.

        If the KL is inside the reward, the advantage is split into the score's part, which the switch acts on, and the
        penalty's part.
        """
        plain = replace(batch, penalty=None)
        runs = list(range(len(batch.mask))) if batch.mask.ndim == 4 else 0
        rng = streams(runs)["signal"] if rng is None else rng
        out = Signal()
        if self.weight is not None:
            out = replace(out, weight=self._call(self.weight, plain, state=state))
            one_of(out.weight, (batch.mask.shape[:-1], batch.mask.shape), "weight", "response or token")
            if batch.penalty is not None:
                out = replace(out, kl_weight=self._call(self.weight, batch, state=state) - out.weight)
        if self.pairs is not None:
            index, weight = self._call(self.pairs, plain, rng=rng)
            out = replace(out, pairs=index, pair_weight=weight)
        if self.critic and batch.values is not None:
            lam, discount = self.defaults.get("lam", 1.0), self.defaults.get("discount", 1.0)
            gain = weights.gae(batch, lam=lam, discount=discount, whiten=False)
            out = replace(out, value_target=gain + torch.where(batch.mask, batch.values, 0.0))
        return out

    def used(self, batch: Batch, signal: Signal) -> Bool[Tensor, "*S P G"]:
        """Responses with weight ≠ 0 or in a pair; all responses if a KL, value, entropy or SFT term is on."""
        extra = self.critic or self.sft > 0 or self.entropy > 0 or isinstance(self.kl, Tensor) or self.kl > 0
        if extra or "behaviour" in self.needs or (signal.weight is None and signal.pairs is None):
            return batch.present
        used = torch.zeros_like(batch.mask[..., 0])
        if signal.weight is not None:
            used = signal.weight != 0 if signal.weight.ndim == used.ndim else (signal.weight != 0).any(-1)
        if signal.pairs is not None and signal.pair_weight is not None:
            there = (signal.pair_weight > 0)[..., None].expand(signal.pairs.shape).flatten(-2)
            used = used | (used.long().scatter_add(-1, signal.pairs.flatten(-2), there.long()) > 0)
        return used & batch.present

    def denominator(self, batch: Batch, signal: Signal) -> Float[Tensor, "*S"]:
        """The divisor of the summed losses, per run: computed on the whole optimiser batch, so that micro-batches,
        shards and stacking cannot change a gradient. It is the number of responses, the weight of the pairs, or, of a
        supervised method whose weights pick responses (`reads`), the sum of the weights.
        """
        picks = getattr(self.objective, "supervised", False) and not getattr(self.weight, "sized", False)
        known = signal.weight if picks else signal.pair_weight
        unit = batch.present.to(torch.get_default_dtype()) if known is None else known
        if self.reduction == "token":
            unit = unit * batch.lengths
        total = unit.sum((-2, -1)) * (self.horizon if self.reduction == "constant" else 1.0)
        return torch.where(total > 0, total, 1.0)

    def reduce(self, losses: Tensor, batch: Batch, signal: Signal) -> Float[Tensor, "*S"]:
        """Sum of the losses over all axes but the run axis, without padding and empty slots."""
        whole = batch.mask.shape[:-1] if signal.pair_weight is None else signal.pair_weight.shape
        one_of(losses, (batch.mask.shape, whole), "objective", "token, response or pair")
        if losses.ndim == batch.mask.ndim:
            losses = objectives.sequence(losses, batch)
            if self.reduction == "mean":
                losses = losses / batch.lengths.clamp(min=1)
        elif signal.pair_weight is None and self.reduction != "sequence":
            raise UserError("per-response losses are averaged over responses", fix="reduction=sequence")
        weight = batch.present if signal.pair_weight is None else signal.pair_weight
        return torch.where(weight > 0, losses * weight, 0.0).sum((-2, -1))

    def loss(
        self, logp: LogProbs, batch: Batch, signal: Signal | None = None, total: Float[Tensor, "*S"] | None = None
    ) -> Float[Tensor, "*S"]:
        """The method's own loss with switch and reduction, without KL or value loss.

        Args:
            logp: log-probs of the current policy, with a gradient.
            batch: may be a micro-batch; then `total` belongs to the whole batch.
            signal: computed from the batch by default.
            total: the denominator of the whole optimiser batch; by default that of `batch`.
        """
        self.check(batch)
        fits(logp, batch.mask.shape, "logp")
        signal = self.signal(batch) if signal is None else signal
        total = self.denominator(batch, signal) if total is None else total
        losses = self._call(self.objective, switch(logp, self.negative), signal, batch)
        return self.reduce(losses, batch, signal) / total.to(losses)

    def penalty_loss(
        self, logp: LogProbs, batch: Batch, signal: Signal, total: Float[Tensor, "*S"]
    ) -> Float[Tensor, "*S"]:
        """The same objective on the penalty's part of the advantage, without the switch (KL inside the reward)."""
        losses = self._call(self.objective, logp, replace(signal, weight=signal.kl_weight), batch)
        return self.reduce(losses, batch, signal) / total.to(losses)

    def coefficients(self, logp: LogProbs, batch: Batch, signal: Signal | None = None) -> LogProbs:
        """c = −∂loss/∂log π; an ascent direction is Σ c ∇log π. Positive entries pull up, negative ones push down."""
        leaf = logp.detach().requires_grad_()
        (grad,) = torch.autograd.grad(self.loss(leaf, batch, signal).sum(), leaf, allow_unused=True)
        return torch.zeros_like(leaf) if grad is None else -grad


def _part(place: str, name: str) -> Callable[..., Any]:
    """The objective, weight or pairs function of that name, or a user's own as `module:function`."""
    if ":" in name:
        part: Callable[..., Any] = user.function(name, where=place)
        if not hasattr(part, "needs"):
            what = f"`{name}` does not declare which batch fields it reads"
            raise UserError(what, where=place, fix='decorate it, for example with @reads("scores")')
        return part
    home = HOMES[place]
    known = {k: f for k, f in vars(home).items() if hasattr(f, "needs") and f.__module__ == home.__name__}
    if name not in known:
        raise UserError(f"unknown {place} `{name}`", fix=nearest(name, known))
    return known[name]  # type: ignore[no-any-return]


def _as(default: Any, value: Any) -> Any:
    """Convert a whole number to a float where the default is one: on_policy=1."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and isinstance(default, float) else value


@cache
def _accepted(part: Callable[..., Any]) -> frozenset[str]:
    """The names of a part's arguments."""
    return frozenset(inspect.signature(part).parameters)


@cache
def _own() -> dict[str, Kind]:
    """The fields of a method except its options, and the kind of each."""
    hints = get_type_hints(Method, include_extras=True)
    return {f.name: kind(hints[f.name]) for f in fields(Method) if f.name != "options"}


HOMES = {"objective": objectives, "weight": weights, "pairs": pairs}
