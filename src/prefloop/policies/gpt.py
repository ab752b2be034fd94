"""Stacked small GPTs: one prompt token in, up to T response tokens out, with a log-prob for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from prefloop.core.batch import Batch
from prefloop.core.protocols import Evaluation, no_op
from prefloop.core.streams import Stream
from prefloop.policies.stacked import Init, Stacked, initialise, inverse_cdf, layer_norm, linear

STD = 0.02  # initial std of weights; projections into the residual stream have STD/√(2·layers), as in GPT-2

FEW = 64  # responses of a run below which the ended ones are not taken out of a draw
Dropout = Callable[[Tensor], Tensor]


def unchanged(x: Tensor) -> Tensor:
    """No dropout."""
    return x


class GPT(Stacked):
    """π(y|x) = Π_t softmax(f(x, y_1 … y_{t−1}))[y_t], f a pre-LayerNorm transformer (GPT-2) with an untied head.

    With the published size (gpt-nano, 100 tokens, 10 positions) a run has 94,992 parameters, plus 49 in the value head.

    Args:
        weights: named parameters [S, …], copied.
        heads: number of attention heads; must divide the width.
        end: the token that ends a response, included in it; without one every response has T tokens.
    """

    def __init__(self, weights: Mapping[str, Tensor], heads: int, end: int | None = None) -> None:
        super().__init__(weights)
        self.heads, self.end = heads, end

    @classmethod
    def create(
        cls,
        seeds: Sequence[int],
        *,
        vocabulary: int = 100,
        prompts: int = 0,
        end: int | None = None,
        tokens: int = 9,
        layers: int = 3,
        heads: int = 3,
        width: int = 48,
        dtype: torch.dtype = torch.float32,
    ) -> GPT:
        """New networks, one per seed: weights with standard deviation 0.02, biases 0, gains 1, value head 0.

        Args:
            vocabulary: number of response tokens.
            prompts: number of prompt tokens, which never occur in responses; numbered from `vocabulary` on.
        """
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the width {width}")
        inits = {"token": Init((vocabulary + prompts, width), STD), "place": Init((tokens + 1, width), STD)}
        for i in range(layers):
            inits |= _block(f"block{i}", width, STD / math.sqrt(2 * layers))
        inits |= {"norm.gain": Init((width,), mean=1.0), "norm.bias": Init((width,))}
        inits |= {"head.weight": Init((width, vocabulary), STD)}
        inits |= {"value.weight": Init((width, 1)), "value.bias": Init((1,))}
        return cls(initialise(inits, seeds, dtype), heads, end)

    @property
    def layers(self) -> int:
        return sum(name.endswith("qkv.weight") for name in self.weights)

    @property
    def tokens(self) -> int:
        """The longest response T; the prompt has the first of the T+1 positions."""
        return self.weights["place"].shape[1] - 1

    def reference(self) -> GPT:
        """A frozen copy."""
        return self.frozen()

    def hidden(self, tokens: Int[Tensor, "S R L"], drop: Dropout = unchanged) -> Float[Tensor, "S R L D"]:
        """Normalised last hidden states of whole sequences, prompt included.

        Args:
            drop: dropout of the embeddings and both residual branches, and, applied to ones as a factor, of the
                attention weights.
        """
        runs, rows, length = tokens.shape
        x = drop(self._embed(tokens, self.weights["place"][:, None, :length])).view(runs, rows * length, -1)
        mask = torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1)

        def attend(_: int, qkv: Tensor) -> Tensor:
            keep = None if drop is unchanged else drop(qkv.new_ones(runs * rows * self.heads, length, length))
            return Attention.apply(qkv, mask, keep, self.heads)

        x = self._blocks(x, attend, drop)
        return x.view(runs, rows, length, -1)

    def logits(self, hidden: Float[Tensor, "S *N D"]) -> Float[Tensor, "S *N V"]:
        """Logits of hidden states."""
        return torch.bmm(hidden.flatten(1, -2), self.weights["head.weight"]).unflatten(1, hidden.shape[1:-1])

    def next_logp(self, prompts: Int[Tensor, "S P"], responses: Int[Tensor, "S P G T"]) -> Float[Tensor, "S P G T V"]:
        """Log-probs of every token at every position of the responses, differentiable."""
        hidden = self.hidden(inputs(prompts, responses))
        return self.logits(hidden).log_softmax(-1).view(*responses.shape, -1)

    def evaluate(
        self, batch: Batch, *, entropy: bool = False, values: bool = False, drop: Dropout = unchanged
    ) -> Evaluation:
        length = batch.mask.shape[-1] if self.end is None else max(1, int(batch.lengths.max()))
        responses, mask = batch.responses[..., :length], batch.mask[..., :length]
        hidden = self.hidden(inputs(batch.prompts, responses), drop)
        full = self.logits(hidden).log_softmax(-1).view(*mask.shape, -1)

        def whole(x: Tensor) -> Float[Tensor, "S P G T"]:
            return F.pad(torch.where(mask, x.view(mask.shape), 0.0), (0, batch.mask.shape[-1] - length))

        logp = whole(full.gather(-1, responses[..., None]))
        spread = whole(-(full.exp() * full).sum(-1)) if entropy else None
        value = None
        if values:
            value = linear(hidden.flatten(1, 2), self.weights["value.weight"], self.weights["value.bias"])
        return Evaluation(logp, spread, None if value is None else whole(value))

    def draw(self, prompts: Int[Tensor, "S P"], responses: int, rng: Stream, poll: Callable[[], None] = no_op) -> Batch:
        """Inverse-CDF sampling, one uniform number per token; the prompt is processed once per group.

        T is the length of the longest response; a response of `tokens` tokens without `end` was cut off.
        """
        shape = (*prompts.shape, responses)
        u = rng.rand(prompts.shape[1], responses, self.tokens, dtype=self.weights["place"].dtype).flatten(1, 2)
        cache, token = Cache(shape, self), prompts[..., None]
        tokens, logp = torch.zeros(u.shape, dtype=torch.long), torch.zeros_like(u)
        mask, length = torch.zeros_like(u, dtype=torch.bool), self.tokens
        rows = torch.arange(u.shape[1]).expand(len(u), -1)  # responses that are still drawn
        alive = torch.ones(rows.shape, dtype=torch.bool)
        for t in range(self.tokens):
            poll()
            with torch.no_grad():
                full = self._after(token, t, cache)
            now = u[..., t].gather(1, rows)
            token = inverse_cdf(full, now.view(*full.shape[:-1], -1)).view(cache.shape)
            each = full.expand(*cache.shape, -1).gather(-1, token[..., None]).view(rows.shape)
            mask[..., t].scatter_(1, rows, alive)
            logp[..., t].scatter_(1, rows, torch.where(alive, each, 0.0))
            tokens[..., t].scatter_(1, rows, torch.where(alive, token.flatten(1), 0))
            if self.end is not None:
                alive &= token.flatten(1) != self.end
                most = int(alive.sum(1).max())
                if not most:
                    length = t + 1
                    break
                if FEW <= 2 * most <= rows.shape[1]:
                    left = alive.int().argsort(dim=1, descending=True, stable=True)[:, :most]
                    rows, alive = rows.gather(1, left), alive.gather(1, left)
                    token = token.flatten(1).gather(1, left)[..., None]
                    cache.keep(left, t + 1)
        tokens, mask, logp = (x[..., :length].unflatten(1, shape[1:]) for x in (tokens, mask, logp))
        return Batch(prompts, tokens, mask, logp_behaviour=logp, logp_proximal=logp.clone())

    def is_cut(self, batch: Batch) -> Bool[Tensor, "S P G"]:
        """Whether each response reached the length limit before it ended."""
        last = batch.responses.gather(-1, (batch.lengths - 1).clamp(min=0)[..., None]).squeeze(-1)
        return (batch.lengths == self.tokens) & (last != self.end)

    def _after(self, token: Int[Tensor, "S P g"], place: int, cache: Cache) -> Float[Tensor, "S P g V"]:
        """Log-probs of the token that follows this one at position `place`."""
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
            inner = Gelu.apply(linear(inner, w["up.weight"], w["up.bias"]))
            x = x + drop(linear(inner, w["down.weight"], w["down.bias"]))
        return layer_norm(x, self.weights["norm.gain"], self.weights["norm.bias"])


BLOCK = [f"{part}.{kind}" for part in ("qkv", "proj", "up", "down") for kind in ("weight", "bias")]
BLOCK += [f"{part}.{kind}" for part in ("norm1", "norm2") for kind in ("gain", "bias")]


def _block(name: str, width: int, residual: float) -> dict[str, Init]:
    """The parameters of one layer; `residual` is the standard deviation of projections into the residual stream."""
    inits: dict[str, Init] = {}
    dense = {"qkv": (1, 3, STD), "proj": (1, 1, residual), "up": (1, 4, STD), "down": (4, 1, residual)}
    for part, (fan_in, fan_out, std) in dense.items():
        inits[f"{name}.{part}.weight"] = Init((fan_in * width, fan_out * width), std)
        inits[f"{name}.{part}.bias"] = Init((fan_out * width,))
    for part in ("norm1", "norm2"):
        inits |= {f"{name}.{part}.gain": Init((width,), mean=1.0), f"{name}.{part}.bias": Init((width,))}
    return inits


def inputs(prompts: Int[Tensor, "S P"], responses: Int[Tensor, "S P G T"]) -> Int[Tensor, "S P*G T"]:
    """[x, y_1 … y_{T−1}]: the output at position t predicts y_t."""
    first = prompts[..., None, None].expand(*responses.shape[:-1], 1)
    return torch.cat([first, responses[..., :-1]], -1).flatten(1, 2)


class Gelu(torch.autograd.Function):
    """x σ(x(a + b x²)): the tanh form of GELU, by the logistic function, which is vectorised (tanh is not)."""

    LINEAR = 2 * math.sqrt(2 / math.pi)
    CUBIC = LINEAR * 0.044715

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = torch.addcmul(x.new_tensor(Gelu.LINEAR), x, x, value=Gelu.CUBIC).mul_(x).sigmoid_()
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """σ (1 + (1 − σ) x(a + 3b x²)) times the gradient."""
        x, gate = ctx.saved_tensors
        slope = torch.addcmul(x.new_tensor(Gelu.LINEAR), x, x, value=3 * Gelu.CUBIC).mul_(x)
        return slope.addcmul_(slope, gate, value=-1).add_(1).mul_(gate).mul_(grad)


class Attention(torch.autograd.Function):
    """softmax(q kᵀ/√d + mask) v within sequences of T rows, with one copy of q, k and v in each direction.

    Args of `apply`: rows [S, N, 3D] of q, k and v, the mask [T, T] to add, factors of the weights or None, heads.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, mask: Tensor, keep: Tensor | None, heads: int) -> Tensor:
        parts = split(qkv, len(mask), 3, heads)
        q, k, v = parts
        weights = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5).softmax(-1)
        ctx.save_for_backward(parts, weights, keep)
        ctx.heads = heads
        return join(torch.bmm(weights if keep is None else weights * keep, v)[None], heads, len(qkv))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        parts, weights, keep = ctx.saved_tensors
        (q, k, v), out = parts, torch.empty_like(parts)
        mixed = split(grad, weights.shape[-1], 1, ctx.heads)[0]
        back = torch.bmm(mixed, v.transpose(1, 2))
        torch.bmm((weights if keep is None else weights * keep).transpose(1, 2), mixed, out=out[2])
        back = torch._softmax_backward_data(back if keep is None else back * keep, weights, -1, weights.dtype)
        back.mul_(q.shape[-1] ** -0.5)
        torch.bmm(back, k, out=out[0])
        torch.bmm(back.transpose(1, 2), q, out=out[1])
        return join(out, ctx.heads, len(grad)), None, None, None


def split(x: Float[Tensor, "S N kD"], length: int, parts: int, heads: int) -> Float[Tensor, "k B T d"]:
    """Split rows of k concatenated vectors into one matrix [T, d] per vector, sequence and head."""
    x = x.reshape(-1, length, parts, heads, x.shape[-1] // parts // heads)
    return x.permute(2, 0, 3, 1, 4).reshape(parts, -1, length, x.shape[-1])


def join(x: Float[Tensor, "k B T d"], heads: int, runs: int) -> Float[Tensor, "S N kD"]:
    """The inverse of `split`."""
    x = x.unflatten(1, (-1, heads)).permute(1, 3, 0, 2, 4)
    return x.reshape(runs, -1, x[0, 0].numel())


class Cache:
    """Keys and values of the positions so far: [T, S, P, G, H, d] in every layer."""

    def __init__(self, shape: tuple[int, int, int], policy: GPT) -> None:
        place, self.heads, self.shape = policy.weights["place"], policy.heads, shape
        sizes = (policy.layers, 2, policy.tokens, *shape, self.heads, place.shape[-1] // self.heads)
        self.buffers = place.detach().new_empty(sizes)

    def attend(self, layer: int, place: int, qkv: Float[Tensor, "S P g threeD"]) -> Float[Tensor, "S N D"]:
        """Write keys and values of `place` (for the whole group at once if g is 1) and attend to all so far."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(3)
        self.buffers[layer, 0, place], self.buffers[layer, 1, place] = k, v
        keys, values = self.buffers[layer, :, : place + 1, :, :, : qkv.shape[2]]
        weights = ((keys * q).sum(-1) * q.shape[-1] ** -0.5).softmax(0)
        return (weights[..., None] * values).sum(0).flatten(3).flatten(1, 2)

    def keep(self, rows: Int[Tensor, "S R"], places: int) -> None:
        """Forget all other responses; those kept are in groups of one."""
        self.shape = (*rows.shape, 1)
        old, run = self.buffers.flatten(4, 5), torch.arange(len(rows))[:, None]
        self.buffers = old.new_empty((*old.shape[:4], *rows.shape[1:], 1, *old.shape[5:]))
        self.buffers[:, :, :places] = old[:, :, :places, run, rows][..., None, :, :]
