"""vLLM as the sampler of the loop: an engine writes the responses, and is checked after every load of new weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.protocols import no_op
from prefloop.core.streams import Stream
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.pretrained import check_prompt
from prefloop.policies.sampler import Sampling

Written = tuple[list[int], list[float]]  # ids of a response with its end, and the log-prob of each as it was drawn
BOUND = 0.1  # mean |difference| of log-probs per token in nats; bfloat16 explains about 0.04


@runtime_checkable
class Engine(Protocol):
    """What writes and scores token ids; it has weights of its own."""

    def load(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Take new weights by their names in the Hugging Face model, and forget what was computed with the old."""

    def write(
        self, prompts: Sequence[list[int]], responses: int, seed: int, sampling: Sampling, ends: Sequence[int]
    ) -> list[list[Written]]:
        """Responses to each prompt with log-probs of the tempered and truncated distribution."""

    def score(self, texts: Sequence[list[int]]) -> list[list[float]]:
        """Untempered log-prob of each token of each text but its first."""


@dataclass
class EngineSampler:
    """A `Sampler` whose responses an engine writes; it has the policy's weights after every `sync`, or training stops.

    Args:
        policy: the model that is trained.
        texts: token ids, at least two each, that both models score after every load of weights.
        bound: largest mean |difference| of these log-probs per token, in nats.
    """

    policy: CausalLM
    engine: Engine
    texts: Sequence[list[int]]
    bound: float = BOUND
    version: int | None = field(default=None, init=False)  # of the weights that the engine has
    difference: float = field(default=0.0, init=False)  # at the last check

    @property
    def exact_sampler(self) -> bool:
        return self.policy.exact_sampler

    def sync(self, version: int) -> None:
        """Load the policy's weights into the engine, and compare the two models.

        Raises:
            DataError: the engine does not give the policy's log-probs.
        """
        if version != self.version:
            self.version = None
            self.engine.load(weights(self.policy))
            self.check(version)
            self.version = version

    def check(self, version: int) -> None:
        """Compare log-probs of the fixed texts.

        Raises:
            DataError: they differ by more than the bound, or are not numbers.
        """
        batch = Batch.from_groups([text[:1] for text in self.texts], [[text[1:]] for text in self.texts])
        with torch.no_grad():
            own = self.policy.evaluate(batch).logp[batch.mask].double().cpu()
        theirs = torch.tensor([x for scores in self.engine.score(self.texts) for x in scores], dtype=torch.float64)
        if len(theirs) != len(own):
            raise DataError(f"the engine scored {len(theirs)} of {len(own)} tokens", where="sampler")
        self.difference = float((own - theirs).abs().mean())
        if not self.difference <= self.bound:
            what = f"after step {version} the engine's log-probs differ from the policy's by {self.difference:.3g} nats"
            fix = "weights are stale or partly loaded, or data types differ; sampler.bound is what may differ"
            raise DataError(f"{what} per token, more than {self.bound:.3g}", where="sampler", fix=fix)

    def draw(self, prompts: Sequence[Tensor], responses: int, rng: Stream, poll: Callable[[], None] = no_op) -> Batch:
        """Responses with the engine's log-probs, and the version of its weights as `source`.

        Raises:
            UserError: `sync` was not called.
            DataError: a prompt that does not fit, or an answer that is no response to it.
        """
        if self.version is None:
            raise UserError("the engine has no weights of this policy yet", where="sampler", fix="call sync first")
        for i, prompt in enumerate(prompts):
            check_prompt(len(prompt), self.policy.prompt_limit, f"prompt {i}")
        poll()
        seed = int(rng.rand(1, dtype=torch.float64).item() * 2**31)
        plan, ends = self.policy.sampling, self.policy.eos_ids
        groups = self.engine.write([p.tolist() for p in prompts], responses, seed, plan, ends)
        poll()
        if [len(group) for group in groups] != [responses] * len(prompts):
            raise DataError("the engine did not answer every prompt", where="sampler")
        batch = Batch.from_groups([p.tolist() for p in prompts], [[ids for ids, _ in group] for group in groups])
        logp = torch.zeros(batch.mask.shape, dtype=torch.float32)
        for p, group in enumerate(groups):
            for g, (ids, own) in enumerate(group):
                if not 0 < len(ids) == len(own) <= plan.max_new_tokens:
                    raise DataError(f"{len(ids)} tokens with {len(own)} log-probs", where=f"sampler, prompt {p}")
                logp[p, g, : len(ids)] = torch.tensor(own)
        if not bool(torch.isfinite(logp).all()):
            raise DataError("a log-prob of the engine is not finite", where="sampler")
        source = torch.full((len(prompts),), self.version)
        return replace(batch, prompts=list(prompts), logp_behaviour=logp, source=source)


def weights(policy: CausalLM) -> Iterator[tuple[str, Tensor]]:
    """Every weight by its name, a tied head too: an engine that is not told of it keeps the old one."""
    return iter({name: x.detach() for name, x in policy.model.state_dict().items()}.items())
