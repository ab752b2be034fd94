"""What a causal language model is made of: backbone, head, and what it does to its logits after the head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prefloop.core.errors import DataError, raised

Model = Any  # transformers.PreTrainedModel or peft.PeftModel
CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}  # largest rounding error, in standard deviations of the logits
CLOSE_IN_HALF = 0.1
CAPS, FACTORS = ("final_logit_softcapping", "output_logit_soft_cap"), ("logit_scale", "lm_head_multiplier")
DIVISORS = ("logits_scaling",)


@dataclass(frozen=True)
class Parts:
    """Backbone (token ids to last hidden states) and head (hidden states to logits)."""

    backbone: Model
    head: nn.Module
    size: int  # of the last hidden state
    vocabulary: int  # number of logits
    cache_name: str  # argument of the backbone that takes a cache
    positioned: bool  # whether the backbone takes position ids


class Adjusted(nn.Module):
    """A head with what the model does to its logits afterwards."""

    def __init__(self, head: nn.Module, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.after = head, after
        self.training = False

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(states)
        return self.after(logits if logits.dtype == torch.float64 else logits.float())


def inner_of(model: Model) -> Model:
    """The model below its adapters."""
    return model.get_base_model() if hasattr(model, "merge_and_unload") else model


def backbone_of(model: Model) -> Model:
    """The part below the head."""
    inner = inner_of(model)
    return getattr(inner, "model", inner) if inner.base_model is inner else inner.base_model


def text_of(model: Model) -> nn.Module:
    """The part of a model that reads text; of a model that reads images too, its language model."""
    whole = backbone_of(model)
    text = getattr(whole, "language_model", None) or getattr(whole, "text_model", None)
    return text if isinstance(text, nn.Module) else whole


def state_size(backbone: Model) -> int:
    """Size of the last hidden state, which configurations name in different places."""
    with torch.no_grad():
        states = backbone(torch.tensor([plain_ids(backbone, 1)], device=backbone.device)).last_hidden_state
    return int(states.shape[-1])


def parts(model: Model) -> Parts:
    """Backbone and head of any causal language model.

    Raises:
        DataError: the model's logits are not a known function of head(backbone(ids)).
    """
    inner, backbone = inner_of(model), backbone_of(model)
    head = inner.get_output_embeddings()
    ids = torch.tensor([plain_ids(inner, 2)], device=inner.device)
    known = () if head is None else (head, *(Adjusted(head, after).eval() for after in _adjustments(inner)))
    try:
        with torch.no_grad():
            states, whole = backbone(ids, use_cache=False).last_hidden_state, inner(ids, use_cache=False).logits
            fitting = next((h for h in known if close(h(states), whole)), None)
    except Exception as error:  # the model's own code may raise anything on text alone
        raise unsupported(inner, f"cannot be run on text alone: {raised(error)}") from error
    if fitting is None:
        raise unsupported(inner, "modifies its logits before or after the head, which is not supported")
    taken = inspect.signature(backbone.forward).parameters
    cache_name = "cache_params" if "cache_params" in taken else "past_key_values"
    return Parts(backbone, fitting, states.shape[-1], whole.shape[-1], cache_name, "position_ids" in taken)


def _adjustments(inner: Model) -> Iterator[Callable[[Tensor], Tensor]]:
    """What the configuration names: a soft cap (Gemma), a factor (Cohere, Falcon-H1) or a divisor (Granite)."""
    config = inner.config.get_text_config()
    found = {name: getattr(config, name, None) for name in (*CAPS, *FACTORS, *DIVISORS)}
    for name, value in found.items():
        if isinstance(value, float | int) and value:
            yield partial(_capped if name in CAPS else _scaled, by=1 / value if name in DIVISORS else value)


def _capped(logits: Tensor, *, by: float) -> Tensor:
    return (logits / by).tanh() * by


def _scaled(logits: Tensor, *, by: float) -> Tensor:
    return logits * by


def unsupported(model: Model, why: str) -> DataError:
    """The refusal of an architecture."""
    return DataError(f"{type(inner_of(model)).__name__} {why}", where="model.path", fix="use another architecture")


def plain_ids(inner: Model, count: int) -> list[int]:
    """Token ids that mean nothing to the model, so far as it has that many: no padding, no place of an image."""
    config = inner.config
    named = {**config.get_text_config().to_dict(), **config.to_dict()}
    marks = {v for k, v in named.items() if k.endswith(("token_id", "token_index")) and isinstance(v, int)}
    rows = inner.get_input_embeddings().weight.shape[0]
    plain = [i for i in range(min(rows, count + len(marks))) if i not in marks] or [0]
    return [plain[i % len(plain)] for i in range(count)]


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether logits are equal up to rounding, which is measured by their own spread."""
    if found.shape != expected.shape:
        return False
    limit = CLOSE.get(expected.dtype, CLOSE_IN_HALF) * float(expected.float().std())
    return float((found.to(expected.dtype) - expected).abs().max()) <= limit
