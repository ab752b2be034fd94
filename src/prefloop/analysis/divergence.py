"""Both KL divergences to the reference, estimated on sampled responses by named estimators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.analysis.statistics import Mean, mean_se
from prefloop.core.batch import Batch, put
from prefloop.core.kl import k1, k3
from prefloop.core.protocols import Policy, no_op


@dataclass(frozen=True)
class Divergence:
    """KL divergences per response (sums over tokens, in nats), each mean ± standard error over prompts."""

    reverse_k1: Mean  # KL(π‖π_ref): mean of log π − log π_ref on samples of π; unbiased, may be negative
    reverse_k3: Mean  # KL(π‖π_ref): mean of k3 on the same samples; unbiased up to its clamp, never negative
    forward_k1: Mean  # KL(π_ref‖π): mean of log π_ref − log π on samples of π_ref; unbiased, may be negative
    exact_sampler: bool  # False: samples were tempered or truncated, and all three are biased
    log_ratio: Float[Tensor, "P G"]  # log π − log π_ref of each sample of π

    @property
    def estimator(self) -> str:
        """A description of the estimator, for tables and manifests."""
        bias = "" if self.exact_sampler else "; biased: the sampler was tempered or truncated"
        return f"sequence log-ratio: k1 and k3 on samples of π, k1 on samples of π_ref; SE over prompts{bias}"

    def metrics(self) -> dict[str, float]:
        """Flat numbers for `metrics.jsonl`."""
        means = {"eval/kl_reverse": self.reverse_k1, "eval/kl_forward": self.forward_k1}
        return {key: x for name, m in means.items() for key, x in ((name, m.value), (f"{name}_se", m.se))}


@runtime_checkable
class Writer(Policy, Protocol):
    """A policy that declares whether it samples from the distribution it evaluates."""

    @property
    def exact_sampler(self) -> bool:
        """See `Sampler`."""


def kl_estimates(
    policy: Writer,
    reference: Writer,
    batch_from_policy: Batch,
    batch_from_reference: Batch,
    poll: Callable[[], None] = no_op,
) -> Divergence:
    """KL(π‖π_ref) on responses of the policy, and KL(π_ref‖π) on responses of the reference.

    Args:
        batch_from_policy: groups [P, G] sampled from π as it is now.
        batch_from_reference: groups sampled from π_ref, on any prompts.
        poll: called before every micro-batch.

    Log-probs recorded by the sampler are reused, which saves a forward pass.
    """
    own = _written(policy, batch_from_policy, poll) - sequence_logp(reference, batch_from_policy, poll)
    other = sequence_logp(policy, batch_from_reference, poll) - _written(reference, batch_from_reference, poll)
    return Divergence(
        _mean_over_prompts(k1(own), batch_from_policy),
        _mean_over_prompts(k3(own), batch_from_policy),
        _mean_over_prompts(k1(-other), batch_from_reference),
        policy.exact_sampler and reference.exact_sampler,
        own,
    )


def sequence_logp(policy: Policy, batch: Batch, poll: Callable[[], None] = no_op) -> Float[Tensor, "P G"]:
    """Summed log-prob of each response, micro-batch by micro-batch, without a gradient; float64 sums."""
    total = torch.zeros(batch.mask.shape[:-1], dtype=torch.float64)
    with torch.no_grad():
        for rows in policy.micro_batches(batch):
            poll()
            put(total, rows, policy.evaluate(batch[rows]).logp.double().sum(-1).cpu())
    return total


def _written(writer: Policy, batch: Batch, poll: Callable[[], None]) -> Float[Tensor, "P G"]:
    """Summed log-prob of each response under the untempered policy that wrote it."""
    if batch.logp_proximal is None:
        return sequence_logp(writer, batch, poll)
    return batch.logp_proximal.double().sum(-1).cpu()


def _mean_over_prompts(x: Float[Tensor, "P G"], batch: Batch) -> Mean:
    present = batch.present.cpu()
    prompt = torch.arange(len(x))[:, None].expand_as(x)
    return mean_se(x[present].numpy(), clusters=np.asarray(prompt[present]))
