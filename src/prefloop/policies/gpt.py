"""Stacked small GPTs: one prompt token in, T response tokens out, each scored where it is predicted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.batch import Batch, Stream
from prefloop.policies.stacked import Init, Stacked, initialise, inverse_cdf, layer_norm, linear
from prefloop.protocols import Evaluation, no_op

STD = 0.02  # of every weight at first; projections into the residual stream are smaller by √(2·layers), as in GPT-2

Dropout = Callable[[Tensor], Tensor]


def unchanged(x: Tensor) -> Tensor:
    """No dropout."""
    return x


class GPT(Stacked):
    """π(y|x) = Π_t softmax(f(x, y_1 … y_{t−1}))[y_t], f a pre-LayerNorm transformer (GPT-2) with an untied head.

    With the published size (gpt-nano, 100 tokens, 10 places) a run has 94,992 parameters, and 49 in the value head.

    Args:
        weights: named parameters [S, …], copied.
        heads: attention heads; they divide the width.
    """

    def __init__(self, weights: Mapping[str, Tensor], heads: int) -> None:
        super().__init__(weights)
        self.heads = heads

    @classmethod
    def create(
        cls,
        seeds: Sequence[int],
        *,
        vocabulary: int = 100,
        tokens: int = 9,
        layers: int = 3,
        heads: int = 3,
        width: int = 48,
        dtype: torch.dtype = torch.float32,
    ) -> GPT:
        """Fresh networks, one per seed: weights of standard deviation 0.02, biases 0, gains 1, the value head 0."""
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        inits = {"token": Init((vocabulary, width), STD), "place": Init((tokens + 1, width), STD)}
        for i in range(layers):
            inits |= _block(f"block{i}", width, STD / math.sqrt(2 * layers))
        inits |= {"norm.gain": Init((width,), mean=1.0), "norm.bias": Init((width,))}
        inits |= {"head.weight": Init((width, vocabulary), STD)}
        inits |= {"value.weight": Init((width, 1)), "value.bias": Init((1,))}
        return cls(initialise(inits, seeds, dtype), heads)

    @property
    def layers(self) -> int:
        return sum(name.endswith("qkv.weight") for name in self.weights)

    @property
    def tokens(self) -> int:
        """Response length T; the prompt has the first of the T+1 places."""
        return self.weights["place"].shape[1] - 1

    def reference(self) -> GPT:
        """A frozen copy."""
        return self.frozen()

    def hidden(self, tokens: Int[Tensor, "S R L"], drop: Dropout = unchanged) -> Float[Tensor, "S R L D"]:
        """Normalised last hidden states of whole sequences, prompt included.

        Args:
            drop: applied to the embeddings, the attention weights and both residual branches, as dropout would be.
        """
        runs, rows, length = tokens.shape
        x = drop(self._embed(tokens, self.weights["place"][:, None, :length])).view(runs, rows * length, -1)
        mask = torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1)
        x = self._blocks(x, lambda _, qkv: causal_attention(qkv, mask, self.heads, drop), drop)
        return x.view(runs, rows, length, -1)

    def logits(self, hidden: Float[Tensor, "S *N D"]) -> Float[Tensor, "S *N V"]:
        """What the head makes of hidden states."""
        return torch.bmm(hidden.flatten(1, -2), self.weights["head.weight"]).unflatten(1, hidden.shape[1:-1])

    def next_logp(self, prompts: Int[Tensor, "S P"], responses: Int[Tensor, "S P G T"]) -> Float[Tensor, "S P G T V"]:
        """Log-probs of every token at every place of the responses, differentiable."""
        hidden = self.hidden(inputs(prompts, responses))
        return self.logits(hidden).log_softmax(-1).view(*responses.shape, -1)

    def evaluate(
        self, batch: Batch, *, entropy: bool = False, values: bool = False, drop: Dropout = unchanged
    ) -> Evaluation:
        hidden = self.hidden(inputs(batch.prompts, batch.responses), drop)
        full = self.logits(hidden).log_softmax(-1).view(*batch.mask.shape, -1)
        logp = torch.where(batch.mask, full.gather(-1, batch.responses[..., None]).squeeze(-1), 0.0)
        spread = torch.where(batch.mask, -(full.exp() * full).sum(-1), 0.0) if entropy else None
        value = None
        if values:
            value = linear(hidden.flatten(1, 2), self.weights["value.weight"], self.weights["value.bias"])
            value = value.view(batch.mask.shape)
        return Evaluation(logp, spread, value)

    def sample(
        self, prompts: Int[Tensor, "S P"], responses: int, rng: Stream, poll: Callable[[], None] = no_op
    ) -> Batch:
        """Inverse-CDF sampling, one uniform number per token; what the prompt leads to is computed once per group."""
        shape = (*prompts.shape, responses)
        u = rng.rand(prompts.shape[1], responses, self.tokens, dtype=self.weights["place"].dtype)
        cache, token = Cache(shape, self), prompts[..., None]
        tokens, logp = torch.empty(*shape, self.tokens, dtype=torch.long), torch.empty_like(u)
        for t in range(self.tokens):
            poll()
            with torch.no_grad():
                full = self._after(token, t, cache)
            token = inverse_cdf(full, u[..., t].view(*full.shape[:-1], -1)).view(shape)
            tokens[..., t] = token
            logp[..., t] = full.expand(*shape, -1).gather(-1, token[..., None]).squeeze(-1)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        return Batch(prompts, tokens, mask, logp_behaviour=logp, logp_proximal=logp.clone())

    def _after(self, token: Int[Tensor, "S P g"], place: int, cache: Cache) -> Float[Tensor, "S P g V"]:
        """Log-probs of the token after this one, which stands at `place`."""
        x = self._embed(token, self.weights["place"][:, None, place : place + 1])
        x = self._blocks(x.flatten(1, 2), lambda i, qkv: cache.attend(i, place, qkv.unflatten(1, token.shape[1:])))
        return self.logits(x).log_softmax(-1).view(*token.shape, -1)

    def _embed(self, tokens: Int[Tensor, "S R L"], place: Float[Tensor, "S 1 l D"]) -> Float[Tensor, "S R L D"]:
        table = self.weights["token"]
        run = torch.arange(len(table)).view(-1, 1, 1) * table.shape[1]
        return F.embedding(tokens + run, table.flatten(0, 1)) + place

    def _blocks(
        self, x: Float[Tensor, "S N D"], attend: Callable[[int, Tensor], Tensor], drop: Dropout = unchanged
    ) -> Float[Tensor, "S N D"]:
        for i in range(self.layers):
            w = {k: self.weights[f"block{i}.{k}"] for k in BLOCK}
            inner = layer_norm(x, w["norm1.gain"], w["norm1.bias"])
            mixed = attend(i, linear(inner, w["qkv.weight"], w["qkv.bias"]))
            x = x + drop(linear(mixed, w["proj.weight"], w["proj.bias"]))
            inner = layer_norm(x, w["norm2.gain"], w["norm2.bias"])
            inner = F.gelu(linear(inner, w["up.weight"], w["up.bias"]), approximate="tanh")
            x = x + drop(linear(inner, w["down.weight"], w["down.bias"]))
        return layer_norm(x, self.weights["norm.gain"], self.weights["norm.bias"])


BLOCK = [f"{part}.{kind}" for part in ("qkv", "proj", "up", "down") for kind in ("weight", "bias")]
BLOCK += [f"{part}.{kind}" for part in ("norm1", "norm2") for kind in ("gain", "bias")]


def _block(name: str, width: int, residual: float) -> dict[str, Init]:
    """The parameters of one layer; `residual` is the standard deviation of what is added to the stream."""
    inits: dict[str, Init] = {}
    dense = {"qkv": (1, 3, STD), "proj": (1, 1, residual), "up": (1, 4, STD), "down": (4, 1, residual)}
    for part, (fan_in, fan_out, std) in dense.items():
        inits[f"{name}.{part}.weight"] = Init((fan_in * width, fan_out * width), std)
        inits[f"{name}.{part}.bias"] = Init((fan_out * width,))
    for part in ("norm1", "norm2"):
        inits |= {f"{name}.{part}.gain": Init((width,), mean=1.0), f"{name}.{part}.bias": Init((width,))}
    return inits


def inputs(prompts: Int[Tensor, "S P"], responses: Int[Tensor, "S P G T"]) -> Int[Tensor, "S P*G T"]:
    """[x, y_1 … y_{T−1}]: the output at place t predicts y_t."""
    first = prompts[..., None, None].expand(*responses.shape[:-1], 1)
    return torch.cat([first, responses[..., :-1]], -1).flatten(1, 2)


def causal_attention(
    qkv: Float[Tensor, "S N three_D"], mask: Float[Tensor, "T T"], heads: int, drop: Dropout = unchanged
) -> Float[Tensor, "S N D"]:
    """softmax(q kᵀ/√d + mask) v for sequences of T rows each, N/T of them in every run."""
    runs, rows, width, length = len(qkv), qkv.shape[1], qkv.shape[2] // 3, len(mask)
    parts = qkv.view(-1, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    q, k, v = parts.reshape(3, -1, length, width // heads).unbind()
    scores = torch.bmm(q, k.transpose(1, 2)) * (width // heads) ** -0.5 + mask
    mixed = torch.bmm(drop(scores.softmax(-1)), v)
    return mixed.view(-1, heads, length, width // heads).transpose(1, 2).reshape(runs, rows, width)


class Cache:
    """Keys and values of the places so far: [S, P, G, H, T, d] in every layer."""

    def __init__(self, shape: tuple[int, int, int], policy: GPT) -> None:
        place = policy.weights["place"]
        self.layers, self.heads = policy.layers, policy.heads
        sizes = (2 * policy.layers, *shape, self.heads, policy.tokens, place.shape[-1] // self.heads)
        self.buffers = place.detach().new_empty(sizes)

    def attend(self, layer: int, place: int, qkv: Float[Tensor, "S P g three_D"]) -> Float[Tensor, "S N D"]:
        """Write keys and values of `place`, of the whole group at once where g is 1, and attend to all so far."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(3)
        keys, values = self.buffers[layer], self.buffers[layer + self.layers]
        keys[..., place, :], values[..., place, :] = k, v
        group = qkv.shape[2]
        keys, values = (x[:, :, :group, :, : place + 1] for x in (keys, values))
        scores = (keys @ q[..., None]).squeeze(-1) * q.shape[-1] ** -0.5
        mixed = scores.softmax(-1)[..., None, :] @ values
        return mixed.flatten(3).flatten(1, 2)
