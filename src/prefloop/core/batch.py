"""The record that flows through the loop, and its training signal.

Dimension letters, here and everywhere: S stacked runs (optional, leading) · P prompts · G responses per prompt ·
T response tokens · K pairs per prompt · V vocabulary or arms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.core.errors import UserError
from prefloop.core.notebook import Shown
from prefloop.core.shapes import Ids, Scores, check, grouped
from prefloop.core.shapes import MissingNeed as MissingNeed

Part = TypeVar("Part", bound=Callable[..., Any])
Record = TypeVar("Record", "Batch", "Signal")
DATASET = -1  # `Batch.source` of a group that comes from the dataset
PER_RUN = frozenset({"z"})  # fields without a prompt axis: one value per run
UNGROUPED = PER_RUN | {"prompts", "source", "pairs", "pair_weight"}  # fields without a group axis


@dataclass(frozen=True)
class Batch(Shown):
    """Prompts, groups of responses to them, and what is known about each response.

    A preference pair is G = 2, an unpaired label G = 1, best-of-n G = n, a one-token bandit T = 1. An offline dataset
    and an on-policy collection are the same type. Responses are left-aligned: token t of a response is at index t.
    Shapes and types are checked; `Batch.from_pairs` and `Batch.from_groups` make a batch of lists of token ids.

    Args:
        prompts: P of them in the problem's own form: a tensor [*S, P, ...] or a list.
        responses: token ids [*S, P, G, T] without the prompt, whole numbers.
        mask: [*S, P, G, T], bool: True on response tokens, EOS included; by position, never by id.
        scores: reward, rating or win rate of each response, [*S, P, G].
        labels: +1 good, −1 not, [*S, P, G]; filled by the problem.
        logp_behaviour: log-prob of each token under the exact sampling distribution, [*S, P, G, T].
        logp_proximal: the same under the untempered policy at collection.
        logp_reference: the same under the reference.
        valid: [*S, P, G], bool: False on the empty slots of ragged groups; None: there are none.
        values: the critic's V before each token, at collection, [*S, P, G, T].
        penalty: KL penalty of each token that is part of the reward, [*S, P, G, T].
        z: KTO's baseline, one number per run, [*S]; the loop fills it.
        source: policy version that wrote each group, or DATASET, [*S, P].
    """

    prompts: Any
    responses: Int[Tensor, "*S P G T"]
    mask: Bool[Tensor, "*S P G T"]
    scores: Float[Tensor, "*S P G"] | None = None
    labels: Float[Tensor, "*S P G"] | None = None
    logp_behaviour: Float[Tensor, "*S P G T"] | None = None
    logp_proximal: Float[Tensor, "*S P G T"] | None = None
    logp_reference: Float[Tensor, "*S P G T"] | None = None
    valid: Bool[Tensor, "*S P G"] | None = None
    values: Float[Tensor, "*S P G T"] | None = None
    penalty: Float[Tensor, "*S P G T"] | None = None
    z: Float[Tensor, "*S"] | None = None
    source: Int[Tensor, "*S P"] | None = None

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_groups(
        cls, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]], scores: Scores = None, slots: int | None = None
    ) -> Batch:
        """A batch of token ids, padded on the right; `valid` marks the empty slots of smaller groups.

        Args:
            prompts: token ids of each prompt.
            responses: token ids of the responses to each prompt, each with the token that ends it.
            scores: one number per response: ratings, rewards, or 1 and 0.
            slots: responses per prompt (G); by default those of the largest group.

        Raises:
            UserError: numbers of prompts, responses and scores that differ, or what is no list of token ids.
        """
        return cls(**grouped(prompts, responses, scores, slots))

    @classmethod
    def from_pairs(cls, prompts: Sequence[Ids], chosen: Sequence[Ids], rejected: Sequence[Ids]) -> Batch:
        """A batch of preference pairs: token ids of each prompt, its preferred response and the other one.

        Raises:
            UserError: lists of different lengths, or what is no list of token ids.
        """
        if not len(prompts) == len(chosen) == len(rejected):
            raise UserError(f"{len(prompts)} prompts, {len(chosen)} chosen and {len(rejected)} rejected responses")
        pairs = [(chosen[p], rejected[p]) for p in range(len(prompts))]
        return cls.from_groups(prompts, pairs, [(1.0, 0.0)] * len(prompts))

    def __getitem__(self, rows: Int[Tensor, "*S m"]) -> Batch:
        """The groups at prompt indices `rows`; a group is never split."""
        return _take_fields(self, rows, PER_RUN)

    @property
    def present(self) -> Bool[Tensor, "*S P G"]:
        return torch.ones_like(self.mask[..., 0]) if self.valid is None else self.valid

    @property
    def lengths(self) -> Int[Tensor, "*S P G"]:
        """Response tokens, EOS included."""
        return self.mask.sum(-1)

    @property
    def returns(self) -> Float[Tensor, "*S P G"]:
        """The score, plus the summed penalty if the KL is part of the reward."""
        if self.scores is None:
            raise MissingNeed("scores")
        return self.scores if self.penalty is None else self.scores + self.penalty.sum(-1)


@dataclass(frozen=True)
class Signal(Shown):
    """Weights and pairs that a method computes once per collection, without a gradient."""

    weight: Float[Tensor, "*shape"] | None = None  # [*S, P, G] or per token [*S, P, G, T]
    pairs: Int[Tensor, "*S P K 2"] | None = None  # (winner, loser) indices within the group
    pair_weight: Float[Tensor, "*S P K"] | None = None  # 0 = tie or absent
    kl_weight: Float[Tensor, "*shape"] | None = None  # advantage of the penalty, in the shape of `weight`
    value_target: Float[Tensor, "*S P G T"] | None = None

    def __getitem__(self, rows: Int[Tensor, "*S m"]) -> Signal:
        return _take_fields(self, rows)


def reads(*needs: str, supervised: bool = False, groups: bool = False, sized: bool = False) -> Callable[[Part], Part]:
    """Declare which batch fields a part of a method reads, so that the loop computes only those.

    Args:
        needs: any of `scores`, `labels`, `reference`, `behaviour`, `values`, `z`.
        supervised: the loss is a weighted likelihood, divided by the sum of its weights: a mean over what they pick.
        groups: responses to one prompt are compared, so each prompt needs at least two.
        sized: of a weight: its size counts, so that a supervised loss is divided by the number of responses instead.
    """

    def mark(part: Part) -> Part:
        vars(part).update(needs=frozenset(needs), supervised=supervised, groups=groups, sized=sized)
        return part

    return mark


def label(scores: Float[Tensor, "*S P G"], threshold: float | Tensor) -> Float[Tensor, "*S P G"]:
    """+1 where a score is above the threshold, −1 elsewhere."""
    return torch.where(scores > threshold, 1.0, -1.0).to(scores)


def take(x: Any, rows: Int[Tensor, "*S m"]) -> Any:
    """Select along the prompt axis: of a list, of [P, ...], or per run of [S, P, ...]."""
    if not isinstance(x, Tensor):
        return [x[i] for i in rows.tolist()]
    rows = rows.to(x.device)
    return x[rows] if rows.ndim == 1 else x[torch.arange(len(rows), device=x.device)[:, None], rows]


def _take_fields(record: Record, rows: Tensor, whole: frozenset[str] = frozenset()) -> Record:
    parts = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in whole}
    return replace(record, **{k: take(v, rows) for k, v in parts.items() if v is not None})


def put(x: Tensor, rows: Int[Tensor, "*S m"], value: Tensor) -> None:
    """Write `value` along the prompt axis of `x`, in place: the inverse of `take`."""
    rows = rows.to(x.device)
    x[rows if rows.ndim == 1 else (torch.arange(len(rows), device=x.device)[:, None], rows)] = value


def pick(x: Tensor, places: Int[Tensor, "*S P g"]) -> Tensor:
    """Select along the group axis: of [*S, P, G] or of [*S, P, G, T]."""
    if x.ndim == places.ndim:
        return x.gather(-1, places)
    return x.gather(-2, places[..., None].expand(*places.shape, x.shape[-1]))


def narrow(batch: Batch, signal: Signal, used: Bool[Tensor, "*S P G"]) -> tuple[Batch, Signal]:
    """Groups with their used responses only, so that unused ones cost nothing; empty slots are not `valid`."""
    most = max(1, int(used.sum(-1).max()))
    if most == used.shape[-1]:
        return batch, signal
    places = (~used).to(torch.uint8).argsort(dim=-1, stable=True)[..., :most]

    def picked(record: Record) -> Record:
        grouped = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in UNGROUPED}
        return replace(record, **{k: pick(x, places) for k, x in grouped.items() if x is not None})

    pairs = signal.pairs
    if pairs is not None:  # a pair of weight 0 may point at a removed response: any valid index will do
        pairs = (used.cumsum(-1) - 1).clamp(min=0).gather(-1, pairs.flatten(-2)).view_as(pairs)
    return picked(replace(batch, valid=used)), replace(picked(signal), pairs=pairs)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch of all prompt groups, responses padded to the longest.

    A field must be present in all batches or in none.

    Raises:
        ValueError: a field is present in only some of the batches, or group sizes differ.
    """
    first, length = batches[0], max(b.responses.shape[-1] for b in batches)
    if len({b.responses.shape[-2] for b in batches}) > 1:
        raise ValueError("groups of different sizes cannot be concatenated: pad them and set `valid`")
    axis = first.responses.ndim - 3
    merged: dict[str, Any] = {}
    for f in fields(Batch):
        parts = [getattr(b, f.name) for b in batches]
        if any((p is None) != (parts[0] is None) for p in parts):
            raise ValueError(f"`{f.name}` is present in only some of the batches")
        if parts[0] is None or f.name in PER_RUN:
            merged[f.name] = parts[0]
        elif not isinstance(parts[0], Tensor):
            merged[f.name] = [row for part in parts for row in part]
        else:
            if parts[0].shape[:-1] == first.mask.shape[:-1] and f.name != "prompts":
                parts = [torch.nn.functional.pad(p, (0, length - p.shape[-1])) for p in parts]
            merged[f.name] = torch.cat(parts, dim=axis)
    return Batch(**merged)
