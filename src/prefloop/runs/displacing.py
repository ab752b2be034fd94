"""The pairs of a file, ranked before training by how much a first step would lower the likelihood of their winners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from prefloop.analysis.displacement import Rule, ches, score_products
from prefloop.analysis.preference import winner_first
from prefloop.analysis.statistics import Mean
from prefloop.core.batch import Batch, put
from prefloop.core.errors import DataError, UserError
from prefloop.core.method import Method
from prefloop.core.protocols import no_op
from prefloop.data.records import Group
from prefloop.policies import packing
from prefloop.policies.causal_lm import CausalLM
from prefloop.worlds.text.problem import TextProblem

Poll = Callable[[], None]


@dataclass(frozen=True)
class Scored:
    """A pair with its predictions, in nats of log π(y_w|x) per unit of the learning rate unless said otherwise."""

    group: Group  # the winner first
    chosen: float  # what the first step on all pairs does to its winner; below 0 displaces it
    rejected: float  # and to its loser
    own: float | None  # what the pair alone does to its winner; see `displacement.Products.own`
    negative: float | None  # the part of its push-down
    ches: float  # hidden states' similarity, without a unit: the higher, the more displacement

    @property
    def record(self) -> dict[str, float | None]:
        """The numbers as a JSON value."""
        return {name: getattr(self, name) for name in ("chosen", "rejected", "own", "negative", "ches")}


@dataclass(frozen=True)
class Ranking:
    """Pairs, those whose winner falls most first; and the mean prediction with its standard error over questions."""

    pairs: list[Scored]
    mean: Mean
    falling: float  # share of the pairs whose winner the first step lowers


def as_pairs(groups: Sequence[Group]) -> list[Group]:
    """Best and worst response of each group, in that order; groups without a preference are left out."""
    return [pair for group in groups if (pair := _pair(group)) is not None]


def _pair(group: Group) -> Group | None:
    scores = group.scores or ()
    if len(scores) < 2 or max(scores) == min(scores):
        return None
    order = (scores.index(max(scores)), scores.index(min(scores)))
    more = tuple(group.more[i] for i in order) if group.more else ()
    texts = tuple(group.responses[i] for i in order)
    return replace(group, responses=texts, scores=tuple(scores[i] for i in order), more=more)


def rank(
    policy: CausalLM,
    problem: TextProblem,
    pairs: Sequence[Group],
    method: Method,
    *,
    rule: Rule = "sign",
    poll: Poll = no_op,
) -> Ranking:
    """Score every pair under the method, at the model that training starts from.

    Args:
        policy: a trainable policy that equals the reference.
        pairs: see `as_pairs`.
        method: a method of pairs.
        rule: `sign` for Adam's first step, `gradient` for SGD.
        poll: called before every pair and micro-batch.

    Raises:
        UserError: a method that compares no pairs.
        DataError: no pairs.
    """
    if method.pairs is None:
        what = "this method compares no pairs, so nothing is displaced by one"
        raise UserError(what, where="--method", fix="use one of pairs: dpo, ipo, simpo, orpo, …")
    if not pairs:
        what = "no row has two responses of which one is preferred"
        raise DataError(what, where="the data", fix="use a file of preferences")
    batch = _with_reference(policy, winner_first(problem.batch_of(pairs, 2)), poll)
    with torch.no_grad():
        logp = batch.logp_reference
        assert logp is not None
    products = score_products(policy, batch, method.coefficients(logp, batch), rule=rule, poll=poll)
    linear = rule == "gradient"  # the sign of a sum is no sum: then a pair's own part is not defined
    similar = similarity(policy, batch, poll)
    scored = [
        Scored(group, *row)
        for group, *row in zip(
            pairs,
            products.joint_winner.tolist(),
            products.joint_loser.tolist(),
            products.own.tolist() if linear else [None] * len(pairs),
            products.negative.tolist() if linear else [None] * len(pairs),
            similar,
            strict=True,
        )
    ]
    ordered = sorted(scored, key=lambda one: one.chosen)
    falling = sum(one.chosen < 0 for one in scored) / len(scored)
    return Ranking(ordered, products.mean([group.key for group in pairs]), falling)


def similarity(policy: CausalLM, pairs: Batch, poll: Poll = no_op) -> list[float]:
    """CHES of every pair, micro-batch by micro-batch."""
    out = torch.zeros(len(pairs.mask), dtype=torch.float64)
    with torch.no_grad():
        for rows in policy.micro_batches(pairs):
            poll()
            part = pairs[rows]
            put(out, rows, ches(packing.features(policy.network.hidden, part), part.mask))
    return out.tolist()


def _with_reference(policy: CausalLM, pairs: Batch, poll: Poll) -> Batch:
    """The pairs with the log-probs of the policy, which is still the reference."""
    logp: torch.Tensor | None = None
    with torch.no_grad():
        for rows in policy.micro_batches(pairs):
            poll()
            part = policy.evaluate(pairs[rows]).logp
            logp = part.new_zeros(pairs.mask.shape) if logp is None else logp
            put(logp, rows, part)
    return replace(pairs, logp_reference=logp)
