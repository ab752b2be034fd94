"""A language model and its tokenizer: the frozen reference, and policies that start from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prefloop.core import devices
from prefloop.core.processes import ALONE, Processes
from prefloop.policies import pretrained
from prefloop.policies.adapters import Lora, with_lora
from prefloop.policies.causal_lm import CausalLM, resolve_autocast
from prefloop.policies.conversation import Template, template_of
from prefloop.policies.pretrained import Tokenizer
from prefloop.policies.sampler import Sampling
from prefloop.policies.selfcheck import caching_fault
from prefloop.policies.templates import AUTO
from prefloop.worlds.text.spec import ModelOptions, SamplingOptions


@dataclass(frozen=True)
class OpenModel:
    """The model of a configuration; it is never modified."""

    reference: CausalLM  # π_ref: frozen, in eval mode
    template: Template  # renders conversations
    trained: frozenset[str]  # names of the trainable weights
    options: ModelOptions
    sha256: str  # hash of the weights on disk
    uncached: str = ""  # why responses are sampled without the model's cache; empty if they are not

    @property
    def note(self) -> str:
        """What a reader of the results must know; empty if nothing."""
        slow = f"sampling reads each text again for every token, which is slow: {self.uncached}"
        return slow if self.uncached else ""

    @property
    def device(self) -> torch.device:
        return self.reference.network.device

    @property
    def tokenizer(self) -> Tokenizer:
        return self.template.tokenizer

    def policy(self, *, critic: bool = False) -> CausalLM:
        """A new trainable policy that equals the reference, with which it shares frozen weights.

        Args:
            critic: whether to add a value head.
        """
        weights = self.reference.model.named_parameters()
        model = copy.deepcopy(self.reference.model, {id(p): p for name, p in weights if name not in self.trained})
        for name, p in model.named_parameters():
            p.requires_grad_(name in self.trained)
        return CausalLM(
            model,
            self.tokenizer,
            sampling=self.reference.sampling,
            ends=self.template.ends,
            micro_tokens=self.reference.micro_tokens,
            autocast=self.reference.autocast,
            critic=critic,
            cached=self.reference.cached,
            processes=self.reference.processes,
            gradient_checkpointing=self.options.gradient_checkpointing,
        )


def open_model(
    options: ModelOptions,
    sampling: SamplingOptions,
    *,
    template: str = AUTO,
    template_options: Mapping[str, Any] | None = None,
    template_date: str | None = None,
    micro_tokens: int = 8192,
    seed: int = 0,
    processes: Processes = ALONE,
) -> OpenModel:
    """Load a model and its tokenizer.

    Args:
        sampling: how the reference and every policy write responses.
        template, template_options, template_date: see `conversation.template_of`.
        micro_tokens: maximum number of tokens per forward pass, padding included.
        seed: seed of new weights, such as those of LoRA adapters.
        processes: those that write responses together.

    Raises:
        UserError: no such device or model, or an unsupported one.
        DataError: the weights differ from the recorded hash.
    """
    device = devices.chosen(options.device)
    if options.deterministic:
        devices.repeatable(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # libraries initialise new weights with the global generator
        model, tokenizer = pretrained.load(options.path, dtype=getattr(torch, options.dtype), adapter=options.adapter)
        uncached = caching_fault(model)
        if options.lora_rank:
            lora = Lora(options.lora_rank, options.lora_alpha, options.lora_dropout, options.lora_targets)
            model = with_lora(model, lora, seed=seed)
        if options.trained_layers:
            pretrained.train_last_layers(model, options.trained_layers)
    stops = pretrained.stops(model.generation_config)
    rendering = template_of(tokenizer, template, template_options, stops=stops, date=template_date)
    model = model.to(device)
    trained = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    reference = CausalLM(
        model.requires_grad_(False),
        rendering.tokenizer,
        sampling=Sampling(**vars(sampling)),
        ends=rendering.ends,
        micro_tokens=micro_tokens,
        autocast=resolve_autocast(options.autocast, model),
        cached=not uncached,
        frozen=True,
        processes=processes,
    )
    return OpenModel(reference, rendering, trained, options, pretrained.model_hash(options.path), uncached)
