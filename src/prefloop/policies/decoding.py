"""Token by token: the rows that are still being sampled, with their cache of keys, values or states, or without one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from prefloop.policies.architecture import Parts

COMPACT = 0.75  # share of living rows at which finished ones are dropped from the running batch


class Running:
    """The rows still being sampled: their cache, what they see, and their places in the chunk."""

    def __init__(self, cache: DynamicCache, seen: Tensor, position: Tensor, filled: int) -> None:
        self.cache, self.seen, self.position, self.filled = cache, seen, position, filled
        self.masked = not all(cache.is_linear)  # a state without keys sees no mask after the prompt
        self.place = torch.arange(len(seen), device=seen.device)
        self.live = torch.ones_like(self.place, dtype=torch.bool)

    @classmethod
    def start(
        cls, network: Parts, prompts: list[Tensor], repeats: int, new: int
    ) -> tuple[Running, Float[Tensor, "R V"]]:
        """Read each prompt once, then repeat its cache; the rows, and the logits of their first tokens.

        Args:
            new: maximum number of new tokens.
        """
        # one column that nobody sees keeps the mask: without it bfloat16 grouped-query attention is 4 x slower on CPU
        on_cpu = prompts[0].device.type == "cpu"
        spare, kind = int(on_cpu), DynamicCache if on_cpu else _Unasked
        ids = _left_pad(prompts, spare)
        seen = _left_pad([torch.ones_like(p, dtype=torch.bool) for p in prompts], spare)
        cache, positions = kind(config=network.backbone.config), (seen.cumsum(-1) - 1).clamp(min=0)
        hidden = _read(network, ids, seen, positions, cache)
        _repeat(cache, torch.arange(len(prompts), device=ids.device).repeat_interleave(repeats), new)
        view = F.pad(seen, (0, new), value=True).repeat_interleave(repeats, 0)
        running = cls(cache, view, positions[:, -1].repeat_interleave(repeats), seen.shape[1])
        return running, network.head(hidden[:, -1]).repeat_interleave(repeats, 0)

    def step(self, network: Parts, token: Int[Tensor, " R"]) -> Float[Tensor, "R V"]:
        """Logits after one more token in every row."""
        self.filled, self.position = self.filled + 1, self.position + 1
        mask = self.seen[:, : self.filled] if self.masked else None
        hidden = _read(network, token[:, None], mask, self.position[:, None], self.cache)
        return network.head(hidden[:, -1])

    def compacted(self, token: Int[Tensor, " R"]) -> Int[Tensor, " r"]:
        """The rows' last tokens, once finished rows are dropped where they are many."""
        if self.live.sum() > COMPACT * len(self.live):
            return token
        keep = self.live.nonzero().squeeze(-1)
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.reorder_cache(keep)
        self.seen, self.position, self.place = self.seen[keep], self.position[keep], self.place[keep]
        self.live = self.live[keep]
        return token[keep]


class Reread:
    """Rows without a cache: every step reads each text from its beginning, padded on the right, as training does."""

    def __init__(self, ids: Int[Tensor, "R L"], length: Int[Tensor, " R"]) -> None:
        self.ids, self.length = ids, length
        self.place = torch.arange(len(ids), device=ids.device)
        self.live = torch.ones_like(self.place, dtype=torch.bool)

    @classmethod
    def start(
        cls, network: Parts, prompts: list[Tensor], repeats: int, new: int
    ) -> tuple[Reread, Float[Tensor, "R V"]]:
        """The rows, with room for `new` tokens, and the logits of their first tokens."""
        length = torch.tensor([len(p) for p in prompts], device=prompts[0].device)
        running = cls(F.pad(pad_sequence(prompts, batch_first=True), (0, new)), length)
        logits = running._logits(network).repeat_interleave(repeats, 0)
        return cls(*(x.repeat_interleave(repeats, 0) for x in (running.ids, length))), logits

    def step(self, network: Parts, token: Int[Tensor, " R"]) -> Float[Tensor, "R V"]:
        """Logits after one more token in every row."""
        self.ids[torch.arange(len(token), device=token.device), self.length] = token
        self.length = self.length + 1
        return self._logits(network)

    def compacted(self, token: Int[Tensor, " R"]) -> Int[Tensor, " r"]:
        """The rows' last tokens, once finished rows are dropped, which saves their reading."""
        keep = self.live.nonzero().squeeze(-1)
        self.ids, self.length, self.place = self.ids[keep], self.length[keep], self.place[keep]
        self.live = self.live[keep]
        return token[keep]

    def _logits(self, network: Parts) -> Float[Tensor, "R V"]:
        hidden = network.backbone(self.ids[:, : int(self.length.max())], use_cache=False).last_hidden_state
        return network.head(hidden[torch.arange(len(hidden), device=hidden.device), self.length - 1])


def _read(network: Parts, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache) -> Tensor:
    given: dict[str, Any] = {network.cache_name: cache}
    if network.positioned:
        given["position_ids"] = positions
    hidden: Tensor = network.backbone(ids, attention_mask=mask, use_cache=True, **given).last_hidden_state
    return hidden


class _Unasked(DynamicCache):
    """Makes the mask of every token: to find out that it masks nothing, a GPU would have to be waited for."""

    is_compileable = True  # transformers never looks into the mask of such a cache


class _ReservedLayer(DynamicLayer):
    """Keys and values in buffers of their final length: a token is written in place, where the parent copies all."""

    def __init__(self, layer: Any, rows: Int[Tensor, " R"], new: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.filled = layer.get_seq_length()
        self.key_buffer, self.value_buffer = (F.pad(x, (0, 0, 0, new))[rows] for x in (layer.keys, layer.values))
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        start, self.filled = self.filled, self.filled + key_states.shape[-2]
        self.key_buffer[:, :, start : self.filled] = key_states
        self.value_buffer[:, :, start : self.filled] = value_states
        return self._show()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.key_buffer, self.value_buffer = self.key_buffer[beam_idx], self.value_buffer[beam_idx]
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = self.key_buffer[:, :, : self.filled], self.value_buffer[:, :, : self.filled]
        self.keys, self.values = keys, values
        return keys, values


def _repeat(cache: DynamicCache, rows: Int[Tensor, " R"], new: int) -> None:
    """Repeat rows of a cache, each as often as its number occurs; plain keys and values get room for `new` tokens.

    Every kind of layer (sliding windows, states of convolutions and recurrences) can be reordered by row numbers, as
    beam search does; repeating is reordering by repeated numbers.
    """
    layers: list[Any] = cache.layers
    for i, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[i] = _ReservedLayer(layer, rows, new)
        else:
            layer.reorder_cache(rows)


def _left_pad(rows: list[Tensor], spare: int) -> Tensor:
    width = max(len(r) for r in rows) + spare
    return torch.stack([F.pad(r, (width - len(r), 0)) for r in rows])
