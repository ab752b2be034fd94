"""Any Hugging Face causal language model as a policy: sampling, and log-probs at response positions only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.core.protocols import Evaluation, no_op
from prefloop.core.streams import Stream
from prefloop.policies import sampler
from prefloop.policies.pretrained import Model, Tokenizer, check_prompt, end_ids, is_adapted, parts, prompt_limit
from prefloop.policies.sampler import Sampling

LOGITS_BUDGET = 2**27  # logits held at a time (512 MiB in float32); more are recomputed in the backward pass
CPU_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


class CausalLM:
    """A causal language model as a policy, in eval mode always: dropout would make the first ratio differ from 1.

    Args:
        model: a Hugging Face causal language model, with or without LoRA adapters; its weights are trained in place.
        sampling: how responses are drawn.
        micro_tokens: most tokens, padding included, of a micro-batch.
        autocast: bfloat16 matrix products of backbone and head; weights and log-softmax stay float32.
        critic: adds a value head, linear on the last hidden state and zero at first.
        gradient_checkpointing: recompute each layer in the backward pass.
        frozen: no gradient, and no adapters: the reference.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        sampling: Sampling,
        micro_tokens: int = 8192,
        autocast: bool = False,
        critic: bool = False,
        gradient_checkpointing: bool = False,
        frozen: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.sampling = model.eval(), tokenizer, sampling
        self.micro_tokens, self.autocast, self.frozen = micro_tokens, autocast, frozen
        self.backbone, self.head = parts(model)
        self.eos_ids = end_ids(model, tokenizer)
        self.prompt_limit = prompt_limit(model, sampling.max_new_tokens)
        self.wide = torch.float64 if model.dtype == torch.float64 else torch.float32  # of log-probs and values
        self.value_head = _value_head(model.config.hidden_size, self.wide, model.device) if critic else None
        self.checkpointed = _checkpointed_layers(model) if gradient_checkpointing else []

    @property
    def exact_sampler(self) -> bool:
        return self.sampling.exact

    def sync(self, version: int) -> None:
        """Nothing to take over: what samples is what trains."""

    def draw(
        self,
        prompts: Sequence[Int[Tensor, " _"]],
        responses: int,
        rng: Stream,
        poll: Callable[[], None] = no_op,
    ) -> Batch:
        """Answers to each prompt with their log-probs; see `sampler.sample`.

        Raises:
            DataError: a prompt is empty, or leaves no room for a response in the context.
        """
        for i, prompt in enumerate(prompts):
            check_prompt(len(prompt), self.prompt_limit, f"prompt {i}")
        with self._weights():
            drawn = sampler.sample(
                self.model,
                prompts,
                responses,
                rng,
                sampling=self.sampling,
                eos_ids=self.eos_ids,
                poll=poll,
                autocast=self.autocast,
            )
        return Batch(list(prompts), **vars(drawn))

    def is_cut(self, batch: Batch) -> Bool[Tensor, "P G"]:
        """True where a response ended at the length limit, without EOS."""
        return sampler.is_cut(batch, self.eos_ids)

    def evaluate(self, batch: Batch, *, entropy: bool = False, values: bool = False) -> Evaluation:
        """Log-probs of the response tokens, and on demand the exact entropy and the value before each.

        Padding stands on the right, where causal attention never looks, and vocabulary logits exist only at the
        positions that predict a response token.
        """
        row, place = _positions(batch)
        targets = batch.responses[batch.mask].to(self.model.device)
        with self._weights(), torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            hidden = self._hidden(_inputs(batch), row, place)
            logp, spread = self._token_logp(hidden, targets, entropy)
            value = self._values(hidden) if values else None
            return Evaluation(
                logp=_spread(logp, batch.mask),
                entropy=_spread(spread, batch.mask) if entropy else None,
                values=None if value is None else _spread(value, batch.mask),
            )

    def micro_batches(self, batch: Batch) -> list[Int[Tensor, " _"]]:
        """Prompt indices of each micro-batch: groups of similar length, longest first, within the token budget."""
        rows, width = (batch.lengths > 0).sum(-1), _widths(batch).amax(-1)
        order = sorted(range(len(width)), key=lambda i: -int(width[i]))
        packs: list[list[int]] = []
        used, widest = 0, 0
        for i in order:
            used += int(rows[i])
            if not packs or used * widest > self.micro_tokens:
                packs.append([])
                used, widest = int(rows[i]), int(width[i])
            packs[-1].append(i)
        return [torch.tensor(pack) for pack in packs]

    def parameters(self) -> list[Tensor]:
        """The trainable ones, the value head's last."""
        return list(self._trainable().values())

    def state(self) -> dict[str, Tensor]:
        """A copy of every trainable tensor, by name."""
        return {name: p.detach().clone() for name, p in self._trainable().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set every trainable tensor.

        Raises:
            ValueError: the names are not those of this policy.
        """
        own = self._trainable()
        if own.keys() != state.keys():
            raise ValueError(f"names differ: {sorted(own.keys() ^ state.keys())[:4]}")
        with torch.no_grad():
            for name, p in own.items():
                p.copy_(state[name])

    def reference(self) -> CausalLM:
        """This policy as it is now, frozen; with LoRA the same weights without their adapters, and no copy."""
        model = self.model if is_adapted(self.model) else copy.deepcopy(self.model).requires_grad_(False)
        return CausalLM(
            model,
            self.tokenizer,
            sampling=self.sampling,
            micro_tokens=self.micro_tokens,
            autocast=self.autocast,
            frozen=True,
        )

    def _trainable(self) -> dict[str, Tensor]:
        if self.frozen:
            return {}
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return named if self.value_head is None else named | dict(self.value_head.named_parameters("value_head"))

    def _weights(self) -> AbstractContextManager[object]:
        """With the policy's own weights: a frozen model with adapters switches them off."""
        return self.model.disable_adapter() if self.frozen and is_adapted(self.model) else nullcontext()

    def _bf16(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.autocast)

    def _hidden(self, ids: Int[Tensor, "R L"], row: Int[Tensor, " N"], place: Int[Tensor, " N"]) -> Tensor:
        """Hidden states `[N, H]` that predict the response tokens."""
        width, device = ids.shape[1], self.model.device
        if len(row) == 0:
            empty = torch.zeros(0, self.model.config.hidden_size, dtype=self.wide, device=device)
            return empty.requires_grad_(torch.is_grad_enabled())
        with self._bf16(), _recomputed(self.checkpointed if torch.is_grad_enabled() else []):
            hidden = self.backbone(ids.to(device), use_cache=False).last_hidden_state
        return hidden.flatten(0, 1).index_select(0, (row * width + place).to(device))

    def _token_logp(self, hidden: Tensor, targets: Int[Tensor, " N"], entropy: bool) -> tuple[Tensor, Tensor]:
        """Log-prob and entropy `[N]`, in chunks over tokens where the logits would not fit the budget."""
        size = max(LOGITS_BUDGET // self.model.config.vocab_size, 1)
        if len(targets) <= size:
            return self._chunk_logp(hidden, targets, entropy)
        recompute = torch.is_grad_enabled()
        pieces = [
            checkpoint(self._chunk_logp, h, y, entropy, use_reentrant=False, preserve_rng_state=False)
            if recompute
            else self._chunk_logp(h, y, entropy)
            for h, y in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        logp, spread = zip(*pieces, strict=True)
        return torch.cat(logp), torch.cat(spread)

    def _chunk_logp(self, hidden: Tensor, targets: Int[Tensor, " N"], entropy: bool) -> tuple[Tensor, Tensor]:
        with self._bf16():
            logits = self.head(hidden)
        logits = logits.to(self.wide)
        logp = -F.cross_entropy(logits, targets, reduction="none")
        if not entropy:
            return logp, logp
        log_z = logits.logsumexp(-1)
        return logp, log_z - ((logits - log_z[:, None]).exp() * logits).sum(-1)

    def _values(self, hidden: Tensor) -> Float[Tensor, " N"]:
        if self.value_head is None:
            raise ValueError("this policy has no value head: make it with critic=True")
        return self.value_head(hidden.to(self.wide)).squeeze(-1)


def resolve_autocast(setting: str | bool, model: Model) -> bool:
    """Whether to autocast: "auto" does where the model is float32 and its device computes in bfloat16."""
    if setting == "auto":
        return model.dtype == torch.float32 and has_bf16(model.device)
    if not isinstance(setting, bool):
        raise UserError(f"`autocast` is {setting!r}", where="model.autocast", fix="it must be auto, true or false")
    return setting


def has_bf16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """True where the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpuinfo.is_file() and not CPU_BF16.isdisjoint(cpuinfo.read_text().split())


def _value_head(size: int, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    head = nn.utils.skip_init(nn.Linear, size, 1, dtype=dtype, device=device)
    for p in head.parameters():
        nn.init.zeros_(p)
    return head


def _checkpointed_layers(model: Model) -> list[GradientCheckpointingLayer]:
    # transformers 5 renamed it on the way
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:  # some layers drop out by themselves, and a layer is checkpointed only when training
        for name in [n for n, v in vars(layer).items() if "dropout" in n and isinstance(v, float)]:
            setattr(layer, name, 0.0)
    return layers


@contextmanager
def _recomputed(layers: Sequence[GradientCheckpointingLayer]) -> Iterator[None]:
    for layer in layers:
        layer.training = True  # of the layer alone, not of its dropout modules
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _starts(batch: Batch) -> Int[Tensor, "P 1"]:
    return torch.tensor([len(p) for p in batch.prompts], device=batch.mask.device)[:, None]


def _ends(batch: Batch) -> Int[Tensor, "P G"]:
    """One past the last response token, 0 for an empty response."""
    return (batch.mask * torch.arange(1, batch.mask.shape[-1] + 1, device=batch.mask.device)).amax(-1)


def _widths(batch: Batch) -> Int[Tensor, "P G"]:
    """Tokens that the backbone reads: the last response token is predicted and not read."""
    ends = _ends(batch)
    return torch.where(ends > 0, _starts(batch) + ends - 1, 0)


def _inputs(batch: Batch) -> Int[Tensor, "R L"]:
    """Prompt and response of every row with a response token, padded on the right with 0."""
    rows = [
        torch.cat([prompt.to(answer.device), answer[: max(end - 1, 0)]])
        for prompt, group, ends in zip(batch.prompts, batch.responses, _ends(batch).tolist(), strict=True)
        for answer, end in zip(group, ends, strict=True)
        if end > 0
    ]
    return pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0, dtype=torch.long)


def _positions(batch: Batch) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Row of `_inputs` and position in it that predict each response token."""
    used = _ends(batch).flatten() > 0
    prompt, answer, token = batch.mask.nonzero(as_tuple=True)
    row = (used.cumsum(0) - 1)[prompt * batch.mask.shape[1] + answer]
    return row, _starts(batch).squeeze(-1)[prompt] - 1 + token


def _spread(x: Float[Tensor, " N"], mask: Bool[Tensor, "P G T"]) -> Float[Tensor, "P G T"]:
    """Values of the response tokens at their places, 0 elsewhere."""
    x = x.to(mask.device)
    return torch.zeros(mask.shape, dtype=x.dtype, device=mask.device).masked_scatter(mask, x)
