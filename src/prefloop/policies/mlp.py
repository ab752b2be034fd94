"""Stacked networks from a context to a softmax over arms: the published MLP, or a linear map. One token, so exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.kl import exact
from prefloop.core.protocols import Evaluation, no_op
from prefloop.core.streams import Stream
from prefloop.policies.stacked import Init, Stacked, initialise, inverse_cdf, layer_norm, linear, xavier

PUBLISHED = (50, 256, 256)  # hidden widths; a LayerNorm precedes the first ReLU
GAIN = 0.01


class MLP(Stacked):
    """π(a|x) = softmax(f(x))[a], f = Linear – LayerNorm – ReLU – (Linear – ReLU)* – Linear, or one Linear alone.

    With the published widths, 100 contexts and 100 arms a run has 109,698 parameters, and 257 more in the value head.
    """

    @classmethod
    def create(
        cls,
        seeds: Sequence[int],
        *,
        context: int = 100,
        arms: int = 100,
        hidden: Sequence[int] = PUBLISHED,
        dtype: torch.dtype = torch.float32,
    ) -> MLP:
        """New networks, one per seed: Xavier weights with gain 0.01, biases 0, value head 0."""
        widths = (context, *hidden, arms)
        inits: dict[str, Init] = {}
        for i, (a, b) in enumerate(pairwise(widths)):
            inits |= {f"layer{i}.weight": xavier(a, b, GAIN), f"layer{i}.bias": Init((b,))}
            if i == 0 and hidden:
                inits |= {"norm.gain": Init((b,), mean=1.0), "norm.bias": Init((b,))}
        inits |= {"value.weight": Init((widths[-2], 1)), "value.bias": Init((1,))}
        return cls(initialise(inits, seeds, dtype))

    anchor: MLP | None = None  # the reference of `exact_kl`

    @property
    def layers(self) -> int:
        return sum(name.startswith("layer") for name in self.weights) // 2

    def reference(self) -> MLP:
        """A frozen copy; it also becomes the anchor of this policy's exact KL."""
        self.anchor = self.frozen()
        return self.anchor

    def _hidden(self, contexts: Float[Tensor, "S P D"]) -> Float[Tensor, "S P H"]:
        w, x = self.weights, contexts
        for i in range(self.layers - 1):
            x = linear(x, w[f"layer{i}.weight"], w[f"layer{i}.bias"])
            if i == 0:
                x = layer_norm(x, w["norm.gain"], w["norm.bias"])
            x = x.relu()
        return x

    def _outputs(self, hidden: Float[Tensor, "S P H"]) -> Float[Tensor, "S P V"]:
        last = self.layers - 1
        return linear(hidden, self.weights[f"layer{last}.weight"], self.weights[f"layer{last}.bias"])

    def logits(self, prompts: Float[Tensor, "S P D"]) -> Float[Tensor, "S P V"]:
        """The outputs before the softmax, differentiable."""
        return self._outputs(self._hidden(prompts))

    def distribution(self, prompts: Float[Tensor, "S P D"]) -> Float[Tensor, "S P V"]:
        """Log-probs of every arm, differentiable."""
        return self.logits(prompts).log_softmax(-1)

    def next_logp(
        self, prompts: Float[Tensor, "S P D"], responses: Int[Tensor, "S P G 1"]
    ) -> Float[Tensor, "S P G 1 V"]:
        """The same as `distribution`, for every response."""
        full = self.distribution(prompts)[:, :, None, None]
        return full.expand(*responses.shape, full.shape[-1])

    def draw(
        self, prompts: Float[Tensor, "S P D"], responses: int, rng: Stream, poll: Callable[[], None] = no_op
    ) -> Batch:
        poll()
        with torch.no_grad():
            full = self.distribution(prompts)
        arms = inverse_cdf(full, rng.rand(prompts.shape[1], responses, dtype=full.dtype))
        logp = full.gather(-1, arms)[..., None]
        mask = torch.ones_like(logp, dtype=torch.bool)
        return Batch(prompts, arms[..., None], mask, logp_behaviour=logp, logp_proximal=logp.clone())

    def evaluate(self, batch: Batch, *, entropy: bool = False, values: bool = False) -> Evaluation:
        hidden = self._hidden(batch.prompts)
        full = self._outputs(hidden).log_softmax(-1)
        logp = torch.where(batch.mask, full.gather(-1, batch.responses[..., 0])[..., None], 0.0)
        spread = -(full.exp() * full).sum(-1)[..., None, None].expand_as(logp) if entropy else None
        value = None
        if values:
            value = linear(hidden, self.weights["value.weight"], self.weights["value.bias"])
            value = value[..., None].expand_as(logp)
        return Evaluation(logp, spread, value)

    def exact_kl(self, batch: Batch) -> Float[Tensor, "S P G"]:
        """KL(π‖π_ref) per prompt over all arms, the same for each response of the group."""
        if self.anchor is None:
            raise ValueError("call `reference()` first: it fixes the reference of the KL")
        with torch.no_grad():
            theirs = self.anchor.distribution(batch.prompts)
        divergence = exact(self.distribution(batch.prompts), theirs)
        return divergence[..., None].expand(batch.mask.shape[:-1])
