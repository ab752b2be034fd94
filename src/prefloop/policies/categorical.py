"""A tabular policy over T-token responses: one softmax per context and prefix, so all sums are exact."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.kl import exact
from prefloop.core.protocols import Evaluation, no_op
from prefloop.core.streams import Stream
from prefloop.policies.stacked import inverse_cdf


class Categorical:
    """π(y|x) = Π_t softmax(logits[x, prefix_t])[y_t], responses of exactly `tokens` tokens.

    Args:
        logits: [*S, X, N, V] for X contexts, N = 1 + V + … + V^(tokens−1) prefixes and V arms. Prefixes are numbered
            like a V-ary heap: the empty one is 0 and appending token v to n gives n·V + 1 + v.
        tokens: response length T.
        anchor: reference logits of the same shape, for `exact_kl`.
    """

    def __init__(self, logits: Float[Tensor, "*S X N V"], tokens: int = 1, anchor: Tensor | None = None) -> None:
        prefixes = sum(logits.shape[-1] ** t for t in range(tokens))
        if logits.shape[-2] != prefixes:
            raise ValueError(f"{tokens} tokens need {prefixes} prefixes, not {logits.shape[-2]}")
        self.logits, self.tokens, self.anchor = logits.clone().requires_grad_(), tokens, anchor
        self.critic = torch.zeros_like(logits[..., 0]).requires_grad_()  # V of each context and prefix

    @property
    def exact_sampler(self) -> bool:
        return True

    @property
    def arms(self) -> int:
        return self.logits.shape[-1]

    def sync(self, version: int) -> None:
        """Nothing to do: the sampler is the policy itself."""

    def parameters(self) -> list[Tensor]:
        return [self.logits, self.critic]

    def reference(self) -> Categorical:
        """A frozen copy; it also becomes the anchor of this policy's exact KL."""
        self.anchor = self.logits.detach().clone()
        frozen = Categorical(self.anchor, self.tokens, self.anchor)
        for p in frozen.parameters():
            p.requires_grad_(False)
        return frozen

    def draw(
        self, prompts: Int[Tensor, "*S P"], responses: int, rng: Stream, poll: Callable[[], None] = no_op
    ) -> Batch:
        """Inverse-CDF sampling, one uniform number per token."""
        shape = (*prompts.shape, responses)
        u = rng.rand(prompts.shape[-1], responses, self.tokens, dtype=self.logits.dtype)
        node, chosen = torch.zeros(shape, dtype=torch.long), []
        for t in range(self.tokens):
            poll()
            chosen.append(inverse_cdf(self._logp_at(prompts, node[..., None]).squeeze(-2), u[..., t, None]).squeeze(-1))
            node = node * self.arms + 1 + chosen[-1]
        tokens = torch.stack(chosen, -1)
        batch = Batch(prompts, tokens, torch.ones_like(tokens, dtype=torch.bool))
        logp = self.evaluate(batch).logp.detach()
        return Batch(prompts, tokens, batch.mask, logp_behaviour=logp, logp_proximal=logp.clone())

    def evaluate(self, batch: Batch, *, entropy: bool = False, values: bool = False) -> Evaluation:
        nodes = self._nodes(batch.responses)
        full = self._logp_at(batch.prompts, nodes)
        logp = full.gather(-1, batch.responses[..., None]).squeeze(-1)
        logp = torch.where(batch.mask, logp, 0.0)
        spread = torch.where(batch.mask, -(full.exp() * full).sum(-1), 0.0) if entropy else None
        return Evaluation(logp, spread, self._at(self.critic, batch.prompts, nodes) if values else None)

    def next_logp(
        self, prompts: Int[Tensor, "*S P"], responses: Int[Tensor, "*S P G T"]
    ) -> Float[Tensor, "*S P G T V"]:
        """Log-probs of every arm before each token, differentiable."""
        return self._logp_at(prompts, self._nodes(responses))

    def micro_batches(self, batch: Batch) -> list[Int[Tensor, "*S m"]]:
        """One micro-batch with everything."""
        shape = batch.mask.shape[:-2]
        return [torch.arange(shape[-1]).expand(shape)]

    def every_response(self) -> Int[Tensor, "R T"]:
        """All V^T responses."""
        return torch.cartesian_prod(*[torch.arange(self.arms)] * self.tokens).view(-1, self.tokens)

    def distribution(self, prompts: Int[Tensor, "*S P"]) -> Float[Tensor, "*S P R"]:
        """Exact log-probs of `every_response`, differentiable."""
        every = self.every_response()
        responses = every.expand(*prompts.shape, *every.shape)
        return self.evaluate(Batch(prompts, responses, torch.ones_like(responses, dtype=torch.bool))).logp.sum(-1)

    def exact_kl(self, batch: Batch) -> Float[Tensor, "*S P G"]:
        """KL(π‖π_ref) per prompt over all responses, the same for each response of the group."""
        if self.anchor is None:
            raise ValueError("call `reference()` first: it fixes the reference of the KL")
        theirs = Categorical(self.anchor, self.tokens).distribution(batch.prompts).detach()
        divergence = exact(self.distribution(batch.prompts), theirs)
        return divergence[..., None].expand(batch.mask.shape[:-1])

    def state(self) -> dict[str, Tensor]:
        return {"logits": self.logits.detach().clone(), "critic": self.critic.detach().clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.logits.copy_(state["logits"])
            self.critic.copy_(state["critic"])

    def _nodes(self, responses: Int[Tensor, "*S P G T"]) -> Int[Tensor, "*S P G T"]:
        """The prefix number before each token."""
        nodes = [torch.zeros_like(responses[..., 0])]
        for t in range(responses.shape[-1] - 1):
            nodes.append(nodes[-1] * self.arms + 1 + responses[..., t])
        return torch.stack(nodes, -1)

    def _logp_at(self, prompts: Int[Tensor, "*S P"], nodes: Int[Tensor, "*S P G T"]) -> Float[Tensor, "*S P G T V"]:
        return self._at(self.logits, prompts, nodes).log_softmax(-1)

    def _at(self, table: Tensor, prompts: Int[Tensor, "*S P"], nodes: Int[Tensor, "*S P G T"]) -> Tensor:
        """Rows of a [*S, X, N, …] table."""
        place = (prompts[..., None, None].expand(nodes.shape), nodes)
        if prompts.ndim == 1:
            return table[place]
        run = torch.arange(len(prompts)).view(-1, 1, 1, 1).expand(nodes.shape)
        return table[(run, *place)]
