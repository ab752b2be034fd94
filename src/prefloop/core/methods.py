"""Every method as one row of parts, and the three switches that turn on any row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.core import objectives, pairs, weights
from prefloop.core.batch import Batch, MissingNeed, Signal
from prefloop.core.errors import UserError, nearest
from prefloop.core.objectives import LogProbs, Number, per_run
from prefloop.core.ranges import check_range
from prefloop.core.streams import Stream, streams


class _Switch(torch.autograd.Function):
    """Identity on log-probs; backward scales the entries that push down, whatever the method."""

    @staticmethod
    def forward(ctx: Any, logp: Tensor, negative: Number) -> Tensor:
        ctx.negative = negative
        return logp.view_as(logp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.where(grad > 0, per_run(ctx.negative, grad) * grad, grad), None


def switch(logp: Tensor, negative: Number) -> Tensor:
    """`logp`, of whose gradient the share `negative` of every push-down entry is kept."""
    return _Switch.apply(logp, negative)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True, eq=False)
class Method:
    """A point of the design space; each field is one orthogonal choice.

    Args:
        objective: log-probs, signal, batch -> unreduced losses.
        weight, pairs: what the objective reads as its signal.
        on_policy: share of the prompt groups of a collection that the current policy answers.
        reuse: passes over one collection (T in the study).
        negative: share of the push-down half of the gradient that is kept.
        responses: group size, C in the study.
        reduction: "sequence" averages token sums over responses or pairs, "token" is the mean over all tokens, "mean"
            averages token means over responses, "constant" divides token sums by responses × `horizon`.
        kl, kl_in, kl_estimator: KL(π‖π_ref) regularisation: its weight; in the "reward" (detached) or in the "loss";
            which loss (see `kl.loss`).
        entropy, sft: weights of an entropy bonus and of an auxiliary likelihood of the best response.
        critic, value_weight: a value head, and the weight of its loss.
        mismatch_cap: truncation of the importance weight π/π_sampler that corrects for the sampler; None = log only.
        refuses_mixture: why 0 < on_policy < 1 makes no sense for this row, where it makes none.
        options: hyper-parameters of the parts, by name.
    """

    objective: Callable[..., Tensor]
    weight: Callable[..., Tensor] | None = None
    pairs: Callable[..., pairs.Pairs] | None = None
    on_policy: float = 1.0
    reuse: int = 1
    negative: Number = 1.0
    responses: int = 4
    reduction: str = "sequence"
    horizon: float = 256.0
    kl: Number = 0.0
    kl_in: str = "reward"
    kl_estimator: str = "k2"
    entropy: float = 0.0
    sft: float = 0.0
    critic: bool = False
    value_weight: float = 0.1
    mismatch_cap: float | None = None
    refuses_mixture: str = ""
    paper: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in {**{f.name: getattr(self, f.name) for f in fields(self)}, **self.options}.items():
            check_range(name, value)
        if self.pairs is not None and self.reduction != "sequence":
            raise UserError("pair losses are averaged over pairs", where=f"reduction={self.reduction}")
        if "z" in self.needs and self.reduction != "sequence":
            raise UserError("one loss per response is averaged over responses", where=f"reduction={self.reduction}")
        if self.options.get("baseline") == "values" and not self.critic:
            raise UserError("baseline='values' needs a value head", fix="critic=True")

    # ------------------------------------------------------------------------------------------------ configuration

    @property
    def parts(self) -> tuple[Callable[..., Any], ...]:
        return tuple(p for p in (self.objective, self.weight, self.pairs) if p is not None)

    @property
    def compares(self) -> bool:
        """Whether responses to one prompt are compared, so that there must be two."""
        chosen = {self.defaults.get(name) for name in ("baseline", "normalise")} & {"prompt", "leave_one_out"}
        return self.pairs is not None or bool(chosen) or getattr(self.weight, "groups", False)

    @property
    def defaults(self) -> dict[str, Any]:
        """Every hyper-parameter of the parts with its value in this row."""
        return {k: self.options.get(k, v) for part in self.parts for k, v in _keywords(part).items()}

    @property
    def needs(self) -> frozenset[str]:
        """What the method reads: of scores, labels, reference, behaviour, values, z."""
        read = frozenset[str]().union(*(getattr(p, "needs", ()) for p in self.parts))
        regular = isinstance(self.kl, Tensor) or self.kl > 0
        return read | ({"reference"} if regular else set()) | ({"values"} if self.critic else set())

    def override(self, **changes: Any) -> Method:
        """The same row with other switches, fields or hyper-parameters.

        Raises:
            UserError: a name that neither the row nor one of its parts has, or a value out of range.
        """
        known = {f.name for f in fields(self)} - {"options"}
        changes = {k: _part(k, v) if isinstance(v, str) and k in HOMES else v for k, v in changes.items()}
        changes = {k: _as(getattr(self, k, self.defaults.get(k)), v) for k, v in changes.items()}
        own = {k: v for k, v in changes.items() if k in known}
        options = {k: v for k, v in changes.items() if k not in known}
        row = replace(self, **own, options={**self.options, **options})
        for name in options:
            if name not in row.defaults:
                raise UserError(f"this method has no `{name}`", fix=nearest(name, known | row.defaults.keys()))
        return row

    def _call(self, part: Callable[..., Any], *args: Any, **context: Any) -> Any:
        accepted = inspect.signature(part).parameters
        given = {**self.options, **context}
        return part(*args, **{k: v for k, v in given.items() if k in accepted})

    # ------------------------------------------------------------------------------------------------- the training

    def check(self, batch: Batch) -> None:
        """Refuse a batch that lacks what the method reads.

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

        Where the KL is inside the reward, the advantage is split into that of the score, which the switch acts on,
        and the rest, which is the penalty's.
        """
        plain = replace(batch, penalty=None)
        runs = list(range(len(batch.mask))) if batch.mask.ndim == 4 else 0
        rng = streams(runs)["signal"] if rng is None else rng
        out = Signal()
        if self.weight is not None:
            out = replace(out, weight=self._call(self.weight, plain, state=state))
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
        """Responses that the loss depends on: of weight ≠ 0, or in a pair. All of them where terms stand beside."""
        beside = self.critic or self.sft > 0 or self.entropy > 0 or isinstance(self.kl, Tensor) or self.kl > 0
        if beside or "behaviour" in self.needs or (signal.weight is None and signal.pairs is None):
            return batch.present
        used = torch.zeros_like(batch.mask[..., 0])
        if signal.weight is not None:
            used = signal.weight != 0 if signal.weight.ndim == used.ndim else (signal.weight != 0).any(-1)
        if signal.pairs is not None and signal.pair_weight is not None:
            there = (signal.pair_weight > 0)[..., None].expand(signal.pairs.shape).flatten(-2)
            used = used | (used.long().scatter_add(-1, signal.pairs.flatten(-2), there.long()) > 0)
        return used & batch.present

    def denominator(self, batch: Batch, signal: Signal) -> Float[Tensor, "*S"]:
        """What the summed losses are divided by, per run: fixed on the whole optimiser batch, so that micro-batches,
        shards and stacking cannot change a gradient. Supervised rows divide by the sum of their weights."""
        if signal.pair_weight is not None:
            total = signal.pair_weight.sum((-2, -1))
        else:
            supervised = getattr(self.objective, "supervised", False) and signal.weight is not None
            unit = signal.weight if supervised else batch.present.to(torch.get_default_dtype())
            assert unit is not None
            if self.reduction == "token":
                unit = unit * batch.lengths
            total = unit.sum((-2, -1)) * (self.horizon if self.reduction == "constant" else 1.0)
        return torch.where(total > 0, total, 1.0)

    def reduce(self, losses: Tensor, batch: Batch, signal: Signal) -> Float[Tensor, "*S"]:
        """Sum of the losses over everything but the run axis, padding and absent places left out."""
        if losses.ndim == batch.mask.ndim:
            losses = objectives.sequence(losses, batch)
            if self.reduction == "mean":
                losses = losses / batch.lengths.clamp(min=1)
        elif signal.pair_weight is None and self.reduction != "sequence":
            raise UserError("one loss per response is averaged over responses", fix="reduction=sequence")
        weight = batch.present if signal.pair_weight is None else signal.pair_weight
        return torch.where(weight > 0, losses * weight, 0.0).sum((-2, -1))

    def loss(
        self, logp: LogProbs, batch: Batch, signal: Signal | None = None, total: Float[Tensor, "*S"] | None = None
    ) -> Float[Tensor, "*S"]:
        """The method's own term with switch and reduction, without KL or value loss.

        Args:
            logp: log-probs of the current policy, with a gradient.
            batch: may be a micro-batch; then `signal` and `total` belong to the whole.
            signal: computed from the batch where not given.
            total: the denominator of the whole optimiser batch; that of `batch` where not given.
        """
        self.check(batch)
        signal = self.signal(batch) if signal is None else signal
        total = self.denominator(batch, signal) if total is None else total
        losses = self._call(self.objective, switch(logp, self.negative), signal, batch)
        return self.reduce(losses, batch, signal) / total.to(losses)

    def penalty_loss(
        self, logp: LogProbs, batch: Batch, signal: Signal, total: Float[Tensor, "*S"]
    ) -> Float[Tensor, "*S"]:
        """The penalty's share of the advantage through the same objective, unswitched (KL inside the reward)."""
        losses = self._call(self.objective, logp, replace(signal, weight=signal.kl_weight), batch)
        return self.reduce(losses, batch, signal) / total.to(losses)

    def coefficients(self, logp: LogProbs, batch: Batch, signal: Signal | None = None) -> LogProbs:
        """c = −∂loss/∂log π: the method's gradient is Σ c ∇log π. Positive entries pull up, negative ones push down."""
        leaf = logp.detach().requires_grad_()
        (grad,) = torch.autograd.grad(self.loss(leaf, batch, signal).sum(), leaf, allow_unused=True)
        return torch.zeros_like(leaf) if grad is None else -grad


def _part(place: str, name: str) -> Callable[..., Any]:
    """The objective, weight or pairs function of that name, so that a configuration can change a part."""
    home = HOMES[place]
    known = {k: f for k, f in vars(home).items() if hasattr(f, "needs") and f.__module__ == home.__name__}
    if name not in known:
        raise UserError(f"there is no {place} `{name}`", fix=nearest(name, known))
    return known[name]  # type: ignore[no-any-return]


def _as(default: Any, value: Any) -> Any:
    """A whole number where a fraction is expected is a fraction: on_policy=1."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and isinstance(default, float) else value


def _keywords(part: Callable[..., Any]) -> dict[str, Any]:
    """The hyper-parameters of a part: keyword-only arguments, but for the context that the loop passes."""
    found = inspect.signature(part).parameters.items()
    return {k: p.default for k, p in found if p.kind is p.KEYWORD_ONLY and k not in ("state", "rng")}


HOMES = {"objective": objectives, "weight": weights, "pairs": pairs}

OWN = "imitating its own samples has an expected gradient of zero, so a mixture only dilutes the data"
_o, _w, _p = objectives, weights, pairs
_contrast = Method(_o.dpo, pairs=_p.best_vs_worst, on_policy=0.0, responses=2)
_dpo = replace(_contrast, paper="Rafailov 2023, arXiv:2305.18290")
_ipo = replace(_contrast, objective=_o.ipo, paper="Azar 2023, arXiv:2310.12036")

METHODS: dict[str, Method] = {
    # supervised: c >= 0
    "sft": Method(
        _o.nll, _w.uniform, on_policy=0.0, responses=1, refuses_mixture=OWN, paper="Ouyang 2022, arXiv:2203.02155"
    ),
    "pref_ft": Method(_o.nll, _w.best_only, on_policy=0.0, responses=2, paper="Dubois 2023, arXiv:2305.14387"),
    "binary_feedme": Method(_o.nll, _w.positive, on_policy=0.0, responses=1, paper="Dubois 2023, arXiv:2305.14387"),
    "best_of_n": Method(_o.nll, _w.best_only, paper="Stiennon 2020, arXiv:2009.01325"),
    "best_of_n_offline": Method(_o.nll, _w.best_only, on_policy=0.0, paper="Stiennon 2020, arXiv:2009.01325"),
    "rest": Method(_o.nll, _w.above, reuse=2, paper="Gulcehre 2023, arXiv:2308.08998"),
    "rwr": Method(_o.nll, _w.exponential, paper="Peters & Schaal 2007, doi:10.1145/1273496.1273590"),
    "awr": Method(_o.nll, _w.exponential, paper="Peng 2019, arXiv:1910.00177").override(
        normalise="none", baseline="prompt"
    ),
    "best_of_n_negative": Method(_o.nll_negative, pairs=_p.best_vs_worst, paper="Tajwar 2024, arXiv:2404.14367"),
    # policy gradient: c = A · ρ
    "reinforce": Method(_o.policy_gradient, _w.advantage, paper="Williams 1992, doi:10.1007/BF00992696").override(
        baseline="running"
    ),
    "rloo": Method(_o.policy_gradient, _w.leave_one_out, paper="Ahmadian 2024, arXiv:2402.14740"),
    "grpo": Method(_o.clipped, _w.group_zscore, responses=8, reduction="mean", paper="Shao 2024, arXiv:2402.03300"),
    "grpo_no_std": Method(
        _o.clipped, _w.advantage, responses=8, reduction="constant", paper="Liu 2025, arXiv:2503.20783"
    ).override(baseline="prompt"),
    "ppo": Method(
        _o.clipped, _w.gae, reuse=4, critic=True, kl=0.05, reduction="token", paper="Schulman 2017, arXiv:1707.06347"
    ),
    "ppo_critic_free": Method(_o.clipped, _w.advantage, reuse=4, paper="Tajwar 2024, arXiv:2404.14367").override(
        scale="batch"
    ),
    # contrastive: c_w > 0 > c_l
    "dpo": _dpo,
    "cdpo": replace(_dpo, paper="Mitchell 2023, A note on DPO with noisy preferences").override(smoothing=0.1),
    "ipo": _ipo,
    "slic": replace(_contrast, objective=_o.slic, paper="Zhao 2023, arXiv:2305.10425"),
    "simpo": replace(_contrast, objective=_o.simpo, paper="Meng 2024, arXiv:2405.14734"),
    "orpo": replace(_contrast, objective=_o.orpo, paper="Hong 2024, arXiv:2403.07691"),
    "dpop": replace(_contrast, objective=_o.dpop, paper="Pal 2024, arXiv:2402.13228"),
    "kto": Method(_o.kto, on_policy=0.0, responses=1, paper="Ethayarajh 2024, arXiv:2402.01306"),
    "rso": replace(_contrast, pairs=_p.rejection_pairs, responses=8, paper="Liu 2023, arXiv:2309.06657"),
    "online_dpo": replace(_dpo, on_policy=1.0, paper="Guo 2024, arXiv:2402.04792"),
    "online_ipo": replace(_ipo, on_policy=1.0, paper="Calandriello 2024, arXiv:2403.08635"),
}


def method(name: str) -> Method:
    """The row of that name.

    Raises:
        UserError: no such row; suggests the nearest.
    """
    if name not in METHODS:
        raise UserError(f"no method is called `{name}`", fix=nearest(name, METHODS))
    return METHODS[name]
