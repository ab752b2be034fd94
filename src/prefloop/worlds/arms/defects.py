"""Defects of the published bandit code as wrappers, so that a study can measure the effect of each.

The lab's measurements stay correct: `state_of` samples and reads `next_logp`, which no wrapper changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from prefloop.core import objectives
from prefloop.core.batch import Batch, MissingNeed, Signal
from prefloop.core.errors import UserError, nearest
from prefloop.core.method import Method
from prefloop.core.objectives import LogProbs, per_run, sequence
from prefloop.core.protocols import Evaluation
from prefloop.core.streams import Stream
from prefloop.policies.gpt import GPT, Dropout, unchanged
from prefloop.policies.stacked import linear
from prefloop.worlds.arms.problem import ArmReward
from prefloop.worlds.rewarded import Rewarded, labelled
from prefloop.worlds.spec import Built

Kind = TypeVar("Kind", bound=GPT)
DROPPED = 0.1  # dropout rate of gpt-nano


def install(defect: str, built: Built, seeds: Sequence[int]) -> Built:
    """The built parts with one defect of the published code.

    Raises:
        UserError: no such defect, or one without effect on this method.
    """
    if defect not in DEFECTS:
        raise UserError(f"unknown defect `{defect}`", fix=nearest(defect, DEFECTS))
    return DEFECTS[defect](built, seeds)


def _off_by_one(built: Built, seeds: Sequence[int]) -> Built:
    policy, reference = seen_as(OffByOne, built.policy), seen_as(OffByOne, built.reference)
    known = {f.name: getattr(built.problem, f.name) for f in fields(built.problem)}
    problem = PromptFirst(**known, policy=policy)
    return replace(built, policy=policy, reference=reference, problem=problem)


def _k1_loss(built: Built, seeds: Sequence[int]) -> Built:
    return replace(built, method=with_k1_term(built.method))


def _reference_dropout(built: Built, seeds: Sequence[int]) -> Built:
    if not built.method.needs & {"reference", "z"}:
        raise UserError("this method reads no reference, so noise in it has no effect")
    noise = Stream("reference dropout", seeds, stacked=True)
    return replace(built, reference=seen_as(DropoutReference, built.reference, noise=noise))


def _prompt_in_reward(built: Built, seeds: Sequence[int]) -> Built:
    old = built.problem
    gold, proxy = WithPrompt(old.gold.table), None if old.proxy is None else WithPrompt(old.proxy.table)
    data = old.data
    if data is not None and data.scores is not None:
        data = replace(data, scores=with_prompt(gold.table, data, data.scores))
        data = labelled(data, gold, old.typical)
    return replace(built, problem=replace(old, gold=gold, proxy=proxy, data=data))


DEFECTS: dict[str, Callable[[Built, Sequence[int]], Built]] = {
    "off_by_one": _off_by_one,
    "k1_loss": _k1_loss,
    "reference_dropout": _reference_dropout,
    "prompt_in_reward": _prompt_in_reward,
}


# ----------------------------------------------------------------------------------------------------------- policies


def seen_as(kind: type[Kind], policy: GPT, **more: Any) -> Kind:
    """Another kind of GPT that shares the same weights."""
    twin = kind.__new__(kind)
    vars(twin).update(vars(policy), **more)
    return twin


class OffByOne(GPT):
    """Scores every token, the prompt included, with the distribution at its own place, which has already read it.

    The published `log_prob` gathers the logits of all ten places at the ten tokens x, y_1 … y_9, whereas y_1 is sampled
    from the logits at place 0, and y_9 from those at place 8. So what is raised for y_t is the probability of writing
    y_t once more after it, and at place 0, of writing the prompt as y_1: training teaches the policy to copy. Policy,
    reference and the ratio's denominator are all scored like this; `PromptFirst` gives the batch its ten places.

    - Methods of whole responses (best-of-N, RWR) sum ten terms. Comparisons of responses to one prompt (DPO, IPO) do
      not see place 0, which is the same in both.
    - The published PPO is token-level: each of the ten places has its own ratio, clipped by itself, and the response's
      advantage. Place 0 is one of them: a good response raises, and a bad one lowers, the copying of its prompt.

    Samples are right. `exact_sampler` stays true, because the published code assumes it.
    """

    def evaluate(
        self, batch: Batch, *, entropy: bool = False, values: bool = False, drop: Dropout = unchanged
    ) -> Evaluation:
        """Log-probs of x, y_1 … y_T under the distributions at their own places; the first response token is x."""
        tokens = with_prompt_first(batch.prompts, batch.responses[..., 1:])
        hidden = self.hidden(tokens.flatten(1, 2), drop)
        full = self.logits(hidden).log_softmax(-1).view(*batch.mask.shape, -1)
        logp = torch.where(batch.mask, full.gather(-1, tokens[..., None]).squeeze(-1), 0.0)
        spread = torch.where(batch.mask, -(full.exp() * full).sum(-1), 0.0) if entropy else None
        value = None
        if values:
            value = linear(hidden.flatten(1, 2), self.weights["value.weight"], self.weights["value.bias"])
            value = value.view(batch.mask.shape)
        return Evaluation(logp, spread, value)


@dataclass(frozen=True, kw_only=True)
class PromptFirst(Rewarded):
    """Scores responses, then puts the prompt before their tokens, as `OffByOne` reads them.

    Args:
        policy: gives the log-probs of fresh responses that PPO's ratio has as its denominator.
    """

    policy: OffByOne

    def score(self, batch: Batch) -> Batch:
        """Responses x, y_1 … y_T with the score of y_1 … y_T."""
        tokens = with_prompt_first(batch.prompts, batch.responses)
        mask = with_prompt_first(torch.ones_like(batch.prompts, dtype=torch.bool), batch.mask)
        scored = replace(super().score(batch), responses=tokens, mask=mask, logp_behaviour=None, logp_proximal=None)
        if batch.logp_proximal is None:
            return scored
        with torch.no_grad():
            seen = self.policy.evaluate(scored).logp
        return replace(scored, logp_behaviour=seen, logp_proximal=seen.clone())


def with_prompt_first(prompts: Shaped[Tensor, "S P"], responses: Shaped[Tensor, "S P G T"]) -> Tensor:
    """[x, y_1 … y_T] of every response."""
    return torch.cat([prompts[..., None, None].expand(*responses.shape[:-1], 1), responses], -1)


class DropoutReference(GPT):
    """A frozen reference that was never put into eval mode: new dropout at every call."""

    noise: Stream

    def evaluate(
        self, batch: Batch, *, entropy: bool = False, values: bool = False, drop: Dropout = unchanged
    ) -> Evaluation:
        return super().evaluate(batch, entropy=entropy, values=values, drop=self._dropped)

    def _dropped(self, x: Tensor) -> Tensor:
        """Dropout; the run axis of every tensor is outermost."""
        stays = self.noise.rand(x.numel() // self.runs, dtype=x.dtype) >= DROPPED
        return x * stays.view_as(x) / (1 - DROPPED)


# ---------------------------------------------------------------------------------------------------------- objective


def with_k1_term(method: Method) -> Method:
    """The method with β (log π − log π_ref), β its `kl`, in every token's loss, and no KL in the loop.

    On fresh samples the expected gradient of the term is 0 for any reference: E_π[∇log π] = 0.

    Raises:
        UserError: the method has no KL or is not a policy gradient.
    """
    beta, inner = method.kl, method.objective
    if inner not in (objectives.clipped, objectives.policy_gradient):
        raise UserError("the published KL term needs a policy gradient", fix="use a method such as ppo_critic_free")
    if not isinstance(beta, Tensor) and beta == 0:
        raise UserError("the published KL term needs kl above 0", fix="kl=0.05")

    @functools.wraps(inner)  # hyper-parameters are read from the wrapped signature
    def objective(logp: LogProbs, signal: Signal, batch: Batch, **options: Any) -> Tensor:
        if batch.logp_reference is None:
            raise MissingNeed("logp_reference")
        losses, d = inner(logp, signal, batch, **options), logp - batch.logp_reference
        return losses + per_run(beta, logp) * d if losses.ndim == d.ndim else losses + _per_response(beta, d, batch)

    objective.needs = inner.needs | {"reference"}  # type: ignore[attr-defined]
    return replace(method, objective=objective, kl=0.0)


def _per_response(beta: float | Tensor, d: LogProbs, batch: Batch) -> Float[Tensor, "*S P G"]:
    total = sequence(d, batch)
    return per_run(beta, total) * total


# ------------------------------------------------------------------------------------------------------------- reward


class WithPrompt(ArmReward):
    """The reward is the mean over prompt and response, although no policy chooses its prompt."""

    def __call__(self, batch: Batch) -> Float[Tensor, "S P G"]:
        return with_prompt(self.table, batch, super().__call__(batch))


def with_prompt(table: Float[Tensor, "S V"], batch: Batch, scores: Float[Tensor, "S P G"]) -> Float[Tensor, "S P G"]:
    """(T·score + reward of the prompt)/(T + 1)."""
    tokens = batch.mask.shape[-1]
    return (tokens * scores + table.gather(-1, batch.prompts)[..., None]) / (tokens + 1)
