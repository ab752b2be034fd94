"""Any Hugging Face causal language model as a policy: sampling, and log-probs at response positions only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.core.processes import ALONE, Processes, like, whole
from prefloop.core.protocols import Evaluation, no_op
from prefloop.core.streams import Stream
from prefloop.policies import packing, sampler, sharded
from prefloop.policies.adapters import dropouts, dropped, is_adapted, starts_adapted
from prefloop.policies.conversation import template_of
from prefloop.policies.masters import Masters
from prefloop.policies.network import Network
from prefloop.policies.pretrained import Model, Tokenizer, check_prompt, prompt_limit, stops
from prefloop.policies.sampler import Sampling

CPU_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


class CausalLM:
    """A causal language model as a policy, always in eval mode: dropout would make the first ratio differ from 1.

    Only new LoRA adapters may drop inputs, and only where a gradient is taken.

    Args:
        model: a Hugging Face causal language model, with or without LoRA adapters, on the device that computes; its
            weights are trained in place, those of bfloat16 by way of float32 masters.
        sampling: how responses are drawn.
        ends: ids of the tokens that end a response; by default `Template.ends`.
        micro_tokens: maximum number of tokens of a micro-batch, padding included.
        autocast: bfloat16 matrix products of backbone and head; weights and log-softmax stay float32.
        critic: adds a value head, linear on the last hidden state and initialised to zero.
        gradient_checkpointing: recompute each layer in the backward pass.
        cached: sample with the model's cache; False for a model whose cache is wrong, see `selfcheck.caching_fault`.
        frozen: without gradient and adapters, as the reference.
        processes: those that write responses together; see `core.processes.Processes`.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        sampling: Sampling,
        ends: Collection[int] = (),
        micro_tokens: int = 8192,
        autocast: bool = False,
        critic: bool = False,
        gradient_checkpointing: bool = False,
        cached: bool = True,
        frozen: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        self._model, self.tokenizer, self.sampling = model.eval(), tokenizer, sampling
        self.micro_tokens, self.autocast, self.cached, self.frozen = micro_tokens, autocast, cached, frozen
        self.processes = processes
        self.network = Network(model, autocast=autocast, critic=critic, gradient_checkpointing=gradient_checkpointing)
        self.eos_ids = tuple(sorted(ends or template_of(tokenizer, stops=stops(model.generation_config)).ends))
        self.dropouts = dropouts(model)
        self.prompt_limit = prompt_limit(model, sampling.max_new_tokens)
        self._masters = Masters(() if frozen else (p for p in model.parameters() if p.requires_grad))

    @property
    def model(self) -> Model:
        """The Hugging Face model with the weights as they are now."""
        self._masters.round()
        return self._model

    @property
    def exact_sampler(self) -> bool:
        return self.sampling.exact

    def sync(self, version: int) -> None:
        """Nothing to do: the sampler is the policy itself."""

    def draw(
        self,
        prompts: Sequence[Int[Tensor, " _"]],
        responses: int,
        rng: Stream,
        poll: Callable[[], None] = no_op,
        emit: Callable[[Tensor], None] | None = None,
    ) -> Batch:
        """Answers to each prompt with their log-probs; see `sampler.sample`.

        Raises:
            DataError: a prompt is empty, or leaves no room for a response in the context.
        """
        for i, prompt in enumerate(prompts):
            check_prompt(len(prompt), self.prompt_limit, f"prompt {i}")
        with self._weights(), sharded.whole_network(self.network):
            drawn = sampler.sample(
                self.model,
                prompts,
                responses,
                rng,
                sampling=self.sampling,
                eos_ids=self.eos_ids,
                poll=poll,
                emit=emit,
                autocast=self.autocast,
                cached=self.cached,
                processes=self.processes,
            )
        return Batch(list(prompts), **vars(drawn))

    def is_cut(self, batch: Batch) -> Bool[Tensor, "P G"]:
        """Whether each response was cut off by the length limit, without EOS."""
        return sampler.is_cut(batch, self.eos_ids)

    def evaluate(self, batch: Batch, *, entropy: bool = False, values: bool = False) -> Evaluation:
        """Log-probs of the response tokens, and optionally the exact entropy and the value before each.

        Padding is on the right, where causal attention ignores it, and vocabulary logits are computed only at the
        positions that predict a response token.
        """
        ids = packing.inputs(batch)
        places, targets = packing.positions(batch, ids.shape[1]), batch.responses[batch.mask]
        trains = torch.is_grad_enabled() and not self.frozen
        noise = dropped(self.dropouts, ids, self.network.device) if trains and self.dropouts else nullcontext()
        with self._weights(), torch.set_grad_enabled(trains), noise:
            logp, spread, value = self.network(ids, places, targets, entropy=entropy, values=values)
            return Evaluation(
                logp=packing.spread(logp, batch.mask),
                entropy=None if spread is None else packing.spread(spread, batch.mask),
                values=None if value is None else packing.spread(value, batch.mask),
            )

    def micro_batches(self, batch: Batch) -> list[Int[Tensor, " _"]]:
        """Prompt indices of each micro-batch: groups of similar length, longest first, within the token budget."""
        return packing.micro_batches(batch, self.micro_tokens)

    def parameters(self) -> list[Tensor]:
        """The trainable parameters; those of the value head come last."""
        return list(self._trainable().values())

    def state(self) -> dict[str, Tensor]:
        """A copy of every trainable tensor, by name, in memory of the CPU."""
        return {name: whole(p.detach()).to("cpu", copy=True) for name, p in self._trainable().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set every trainable tensor.

        Raises:
            ValueError: the names differ from those of this policy.
        """
        own = self._trainable()
        if own.keys() != state.keys():
            raise ValueError(f"names differ: {sorted(own.keys() ^ state.keys())[:4]}")
        with torch.no_grad():
            for name, p in own.items():
                p.copy_(like(state[name], p))

    def part(self) -> None:
        """Keep only this process's part of every weight, for good; every process must call it.

        Optimisers are made afterwards, copies before.
        """
        sharded.shard(self.network, self.processes)

    def greedy(self) -> CausalLM:
        """A policy at temperature 0 that shares these weights."""
        return self.sampled(temperature=0.0)

    def sampled(self, **changes: Any) -> CausalLM:
        """A policy with other sampling options that shares these weights; see `Sampling`."""
        twin = copy.copy(self)
        twin.sampling = replace(self.sampling, **changes)
        twin.prompt_limit = prompt_limit(self.model, twin.sampling.max_new_tokens)
        return twin

    def reference(self) -> CausalLM:
        """A frozen copy of this policy; with new LoRA adapters it shares the base weights, without the adapters."""
        shared = is_adapted(self.model) and not starts_adapted(self.model)
        model = self.model if shared else copy.deepcopy(self.model).requires_grad_(False)
        return CausalLM(
            model,
            self.tokenizer,
            sampling=self.sampling,
            ends=self.eos_ids,
            micro_tokens=self.micro_tokens,
            autocast=self.autocast,
            cached=self.cached,
            frozen=True,
            processes=self.processes,
        )

    def _trainable(self) -> dict[str, Tensor]:
        if self.frozen:
            return {}
        named = {name: self._masters.of(p) for name, p in self._model.named_parameters() if p.requires_grad}
        critic = self.network.value_head
        return named if critic is None else named | dict(critic.named_parameters("value_head"))

    def _weights(self) -> AbstractContextManager[object]:
        """Context with the policy's own weights as they are now: a frozen model disables adapters, unless it started
        with them."""
        model = self.model
        added = is_adapted(model) and not starts_adapted(model)
        return model.disable_adapter() if self.frozen and added else nullcontext()


def resolve_autocast(setting: str | bool, model: Model) -> bool:
    """Whether to autocast: "auto" does if the model is float32 and its device supports bfloat16."""
    if setting == "auto":
        return model.dtype == torch.float32 and has_bf16(model.device)
    if not isinstance(setting, bool):
        raise UserError(f"`autocast` cannot be {setting!r}", where="model.autocast", fix="use auto, true or false")
    return setting


def has_bf16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the device has hardware for bfloat16 matrix products."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpuinfo.is_file() and not CPU_BF16.isdisjoint(cpuinfo.read_text().split())
