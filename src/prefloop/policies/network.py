"""Backbone, head and value head of a causal language model as one module with one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.core.devices import sent
from prefloop.policies.architecture import Model, parts

LOGITS_BUDGET = (
    2**27
)  # maximum number of logits in memory (512 MiB in float32); beyond it, chunks are recomputed in the backward pass
PerToken = Float[Tensor, " N"]


class Network(nn.Module):
    """Log-probs, entropies and values of tokens from one forward call, so that hooks that gather sharded weights work.

    Args:
        model: a Hugging Face causal language model, in eval mode; its weights are shared, not copied.
        autocast: bfloat16 matrix products of backbone and head; weights and log-softmax keep their precision.
        critic: adds a value head, linear on the last hidden state and initialised to zero.
        gradient_checkpointing: recompute each layer in the backward pass.
    """

    def __init__(
        self, model: Model, *, autocast: bool = False, critic: bool = False, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        found = parts(model)
        self.backbone, self.head, self.size, self.vocabulary = found.backbone, found.head, found.size, found.vocabulary
        self.autocast = autocast
        self.wide = torch.float64 if model.dtype == torch.float64 else torch.float32  # dtype of log-probs and values
        self.value_head = _value_head(self.size, self.wide, model.device) if critic else None
        self.checkpointed = _checkpointed_layers(model) if gradient_checkpointing else []
        self.parted = False  # whether each of several processes has a part of every weight; see `sharded.shard`
        self.training = False  # of this module only: its submodules are in eval mode already

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def forward(
        self,
        ids: Int[Tensor, "R L"],
        places: Int[Tensor, " N"],
        targets: Int[Tensor, " N"],
        *,
        entropy: bool = False,
        values: bool = False,
    ) -> tuple[PerToken, PerToken | None, PerToken | None]:
        """Log-probs of the targets, and optionally the exact entropy and the value at their positions.

        Args:
            ids: token rows, padded on the right, where causal attention ignores it.
            places: positions in the flattened ids; vocabulary logits are computed only there.
        """
        states = self.hidden(ids, places)
        logp, spread = self._token_logp(states, sent(targets, self.device), entropy)
        return logp, spread if entropy else None, self._values(states) if values else None

    def hidden(self, ids: Int[Tensor, "R L"], places: Int[Tensor, " N"]) -> Float[Tensor, "N H"]:
        """Last hidden states at positions of the flattened ids."""
        if len(places) == 0 and self.parted:  # the other processes wait for this one's parts
            ids = torch.zeros(1, 1, dtype=torch.long)
        elif len(places) == 0:
            empty = torch.zeros(0, self.size, dtype=self.wide, device=self.device)
            return empty.requires_grad_(torch.is_grad_enabled())
        with self._bf16(), _recomputed(self.checkpointed if torch.is_grad_enabled() else []):
            states: Tensor = self.backbone(sent(ids, self.device), use_cache=False).last_hidden_state
        return states.flatten(0, 1).index_select(0, sent(places, self.device))

    def likelier(self, states: Float[Tensor, "N H"], targets: Int[Tensor, " N"]) -> tuple[PerToken, PerToken]:
        """Log-probs of the targets, and the probability of all tokens likelier than each; without a gradient."""
        size = max(LOGITS_BUDGET // 4 // self.vocabulary, 1)
        found = [self._likelier(h, y) for h, y in zip(states.split(size), targets.split(size), strict=True)]
        logp, mass = zip(*found, strict=True)
        return torch.cat(logp), torch.cat(mass)

    def _likelier(self, states: Tensor, targets: Int[Tensor, " N"]) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), self._bf16():
            logits = self.head(states)
        logp = logits.to(self.wide).log_softmax(-1)
        own = logp.gather(-1, sent(targets, self.device)[:, None])
        return own.squeeze(-1), (logp.exp() * (logp > own)).sum(-1)

    def _bf16(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def _token_logp(self, states: Tensor, targets: Int[Tensor, " N"], entropy: bool) -> tuple[Tensor, Tensor]:
        """Log-prob and entropy `[N]`, in chunks over tokens if the logits exceed the budget."""
        size = max(LOGITS_BUDGET // self.vocabulary, 1)
        if len(targets) <= size:
            return self._chunk_logp(states, targets, entropy)
        recompute = torch.is_grad_enabled()
        pieces = [
            checkpoint(self._chunk_logp, h, y, entropy, use_reentrant=False, preserve_rng_state=False)
            if recompute
            else self._chunk_logp(h, y, entropy)
            for h, y in zip(states.split(size), targets.split(size), strict=True)
        ]
        logp, spread = zip(*pieces, strict=True)
        return torch.cat(logp), torch.cat(spread)

    def _chunk_logp(self, states: Tensor, targets: Int[Tensor, " N"], entropy: bool) -> tuple[Tensor, Tensor]:
        with self._bf16():
            logits = self.head(states)
        logits = logits.to(self.wide)
        logp = -F.cross_entropy(logits, targets, reduction="none")
        if not entropy:
            return logp, logp
        log_z = logits.logsumexp(-1)
        return logp, log_z - ((logits - log_z[:, None]).exp() * logits).sum(-1)

    def _values(self, states: Tensor) -> PerToken:
        if self.value_head is None:
            raise ValueError("this policy has no value head: create it with critic=True")
        values: Tensor = self.value_head(states.to(self.wide)).squeeze(-1)
        return values


def _value_head(size: int, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    head = nn.utils.skip_init(nn.Linear, size, 1, dtype=dtype, device=device)
    for p in head.parameters():
        nn.init.zeros_(p)
    return head


def _checkpointed_layers(model: Model) -> list[GradientCheckpointingLayer]:
    # transformers 5 renamed it
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:  # some layers apply dropout themselves, and a layer is checkpointed only in training mode
        for name in [n for n, v in vars(layer).items() if "dropout" in n and isinstance(v, float)]:
            setattr(layer, name, 0.0)
    return layers


@contextmanager
def _recomputed(layers: Sequence[GradientCheckpointingLayer]) -> Iterator[None]:
    for layer in layers:
        layer.training = True  # of the layer only, not of its dropout modules
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
