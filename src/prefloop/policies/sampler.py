"""Batched sampling with a key-value cache: what was drawn, and its log-probs under the distributions it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.devices import finest, sent, unchecked
from prefloop.core.errors import UserError
from prefloop.core.processes import ALONE, Processes, share
from prefloop.core.protocols import no_op
from prefloop.core.streams import Stream
from prefloop.policies.architecture import Model, Parts, parts
from prefloop.policies.decoding import Reread, Running

BLOCK = 256  # tokens whose mass is summed first when the CDF is inverted in two steps
NUCLEUS = 512  # most likely tokens looked at before the whole vocabulary is sorted
LOOK = 16  # tokens after which a GPU is asked which rows have finished: it has to be waited for


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: temperature first, then top-k, then top-p, each renormalised.

    Args:
        max_new_tokens: longest response, EOS included.
        temperature: 0 takes the most likely token.
        top_p: smallest set of most likely tokens with at least this mass; 1 keeps all.
        top_k: number of most likely tokens kept; 0 keeps all. Ties at either edge are kept.
        rows: responses sampled at a time.

    Raises:
        UserError: a value is out of range.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    rows: int = 64

    def __post_init__(self) -> None:
        rules = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (self.temperature >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "rows": (self.rows >= 1, "at least 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                where = f"sampling.{name}"
                raise UserError(f"`{name}` is {getattr(self, name)}", where=where, fix=f"it must be {rule}")

    @property
    def exact(self) -> bool:
        """True where responses come from the model's own distribution."""
        return self.temperature == 1.0 and self.top_p == 1.0 and self.top_k == 0


@dataclass(frozen=True)
class Samples:
    """Responses with their log-probs, 0 beyond the mask."""

    responses: Int[Tensor, "*P G T"]
    mask: Bool[Tensor, "*P G T"]
    logp_behaviour: Float[Tensor, "*P G T"]  # under the distribution that they were drawn from
    logp_proximal: Float[Tensor, "*P G T"]  # under the untempered model


def sample(
    model: Model,
    prompts: Sequence[Int[Tensor, " _"]],
    responses: int,
    rng: Stream,
    *,
    sampling: Sampling,
    eos_ids: Sequence[int],
    poll: Callable[[], None] = no_op,
    emit: Callable[[Tensor], None] | None = None,
    autocast: bool = False,
    cached: bool = True,
    processes: Processes = ALONE,
) -> Samples:
    """Draw `responses` answers to each prompt; T is the length of the longest.

    One uniform number per response and token, drawn up front, decides everything: neither the order of the prompts,
    nor chunks, nor which rows have finished can change what a response becomes. They are drawn on the CPU, and so are
    the same for every device.

    Args:
        model: in eval mode.
        prompts: token ids, each at least one.
        rng: draws `[P, G, max_new_tokens]` uniforms.
        eos_ids: a response ends with any of these, which belongs to it.
        poll: called before every token step.
        emit: called with the token of every living row of a chunk after every step, for display.
        autocast: bfloat16 matrix products.
        cached: read each text once and keep its keys, values or states; False reads it again for every token.
        processes: each answers its share of the prompts, and all have all answers.
    """
    plan, network, kind = sampling, parts(model), Running if cached else Reread
    uniform = rng.rand(len(prompts), responses, plan.max_new_tokens, dtype=torch.float64)
    device, wide = model.device, torch.float64 if model.dtype == torch.float64 else torch.float32
    drawn = _nothing(uniform.shape, wide)
    stop = torch.tensor(eos_ids, device=device)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=autocast)
    with torch.no_grad(), unchecked(), _cast_once(model, autocast), bf16:
        mine = share(len(prompts), processes).tolist()
        for places, answers in _chunks([len(prompts[i]) for i in mine], responses, plan.rows):
            groups = [mine[i] for i in places]
            numbers = sent(uniform[groups, answers].to(finest(device)), device)
            asked = [sent(prompts[i], device) for i in groups]
            chunk = _sample_chunk(kind, network, asked, numbers, plan, stop, wide, poll, emit)
            for into, part in zip(_tensors(drawn), _tensors(chunk), strict=True):
                into[groups, answers] = part.view(numbers.shape).to(into.device)
    drawn = Samples(*(processes.sum(x) for x in _tensors(drawn)))
    length = max(int(drawn.mask.sum(-1).max()), 1) if len(prompts) else 1
    return Samples(*(x[..., :length] for x in _tensors(drawn)))


@contextmanager
def _cast_once(model: Model, autocast: bool) -> Iterator[None]:
    """Let autocast keep its bfloat16 copies of frozen weights too, which it would make anew for every token."""
    frozen = [p for p in model.parameters() if autocast and not p.requires_grad and p.is_floating_point()]
    for p in frozen:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)


def is_cut(batch: Batch, eos_ids: Sequence[int]) -> Bool[Tensor, "P G"]:
    """True where a response ended at the length limit, without EOS."""
    last = (batch.lengths - 1).clamp(min=0)
    token = batch.responses.gather(-1, last[..., None]).squeeze(-1)
    return (batch.lengths > 0) & ~torch.isin(token, torch.tensor(eos_ids, device=token.device))


def _nothing(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Samples:
    ids, logp = torch.zeros(*shape, dtype=torch.long, device=device), torch.zeros(*shape, dtype=dtype, device=device)
    return Samples(ids, torch.zeros_like(ids, dtype=torch.bool), logp, logp.clone())


def _tensors(samples: Samples) -> tuple[Tensor, ...]:
    return samples.responses, samples.mask, samples.logp_behaviour, samples.logp_proximal


def _chunks(lengths: Sequence[int], responses: int, rows: int) -> Iterator[tuple[list[int], slice]]:
    """Prompt indices and response places of each chunk: prompts of similar length together, at most `rows` rows."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    width = max(rows // responses, 1)
    for start in range(0, len(order), width):
        for first in range(0, responses, rows):
            yield order[start : start + width], slice(first, min(first + rows, responses))


def _sample_chunk(
    kind: type[Running] | type[Reread],
    network: Parts,
    prompts: list[Tensor],
    uniform: Float[Tensor, "n g T"],
    plan: Sampling,
    stop: Int[Tensor, " E"],
    wide: torch.dtype,
    poll: Callable[[], None],
    emit: Callable[[Tensor], None] | None,
) -> Samples:
    """All responses of a chunk, `[n·g, T]`: each prompt is read once for all its rows."""
    poll()
    uniform = uniform.flatten(0, 1)
    rows, limit = uniform.shape
    out = _nothing((rows, limit), wide, uniform.device)
    every = 1 if uniform.device.type == "cpu" or emit is not None else LOOK
    running, logits = kind.start(network, prompts, rows // len(prompts), limit)
    for t in range(limit):
        token, behaviour, proximal = draw(logits.to(wide), uniform[running.place, t], plan)
        for into, values in zip(_tensors(out), (token, running.live, behaviour, proximal), strict=True):
            into[running.place, t] = values.masked_fill(~running.live, 0)
        if emit is not None:
            emit(token[running.live])
        running.live &= ~torch.isin(token, stop)
        look = (t + 1) % every == 0
        if t + 1 == limit or (look and not running.live.any()):
            break
        poll()
        logits = running.step(network, running.compacted(token) if look else token)
    return out


def draw(
    logits: Float[Tensor, "R V"], uniform: Float[Tensor, " R"], plan: Sampling
) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"], Float[Tensor, " R"]]:
    """One token per row by inverting the CDF at `uniform`, its log-prob as drawn, and its untempered log-prob."""
    shifted = logits - logits.amax(-1, keepdim=True)
    if plan.temperature == 0:
        token = shifted.argmax(-1)
        proximal = _at(shifted, token) - shifted.logsumexp(-1)
        return token, torch.zeros_like(proximal), proximal
    weights = truncate((shifted / plan.temperature).exp(), plan.top_k, plan.top_p)
    token, total = _invert_cdf(weights, uniform)
    chosen = _at(shifted, token)
    behaviour = (chosen / plan.temperature - total.log()).to(logits.dtype)
    return token, behaviour, behaviour if plan.exact else chosen - shifted.logsumexp(-1)


def truncate(weights: Float[Tensor, "R V"], top_k: int, top_p: float) -> Float[Tensor, "R V"]:
    """Unnormalised probabilities, 0 outside the top-k and then outside the nucleus (Holtzman et al. 2020)."""
    if 0 < top_k < weights.shape[-1]:
        weights = weights.where(weights >= weights.topk(top_k).values[:, -1:], 0)
    return weights if top_p == 1.0 else weights.where(weights >= _nucleus_floor(weights, top_p), 0)


def _nucleus_floor(weights: Float[Tensor, "R V"], top_p: float) -> Float[Tensor, "R 1"]:
    """The smallest weight inside each row's nucleus: a token belongs to it if those before it have less than top_p."""
    size = weights.shape[-1]
    exact, on_cpu = finest(weights.device), weights.device.type == "cpu"  # a GPU would have to be waited for
    enough = top_p * weights.sum(-1, keepdim=True, dtype=exact)
    for width in (min(NUCLEUS, size), size) if on_cpu else (size,):
        largest = weights.topk(width).values
        inside = largest.cumsum(-1, dtype=exact) - largest < enough
        if on_cpu and not inside[:, -1].any():
            break
    return largest.gather(-1, inside.sum(-1, keepdim=True) - 1)


def _invert_cdf(
    weights: Float[Tensor, "R V"], uniform: Float[Tensor, " R"]
) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
    """Token at which the cumulated weight passes uniform·total, and the total: first its block, then its place."""
    blocks = F.pad(weights, (0, -weights.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    mass = blocks.sum(-1).to(uniform.dtype)
    total = mass.sum(-1)
    block, before = _first_above(mass, uniform * total)
    inside = blocks[torch.arange(len(block), device=block.device), block].to(uniform.dtype)
    place, _ = _first_above(inside, uniform * total - before)
    return block * BLOCK + place, total


def _first_above(
    mass: Float[Tensor, "R K"], point: Float[Tensor, " R"]
) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
    """First place at which the cumulated mass is above the point, never one without mass, and the mass before it."""
    cumulated = mass.cumsum(-1)
    below_end = torch.nextafter(cumulated[:, -1], torch.zeros_like(point))  # rounding may put the point past the end
    place = torch.searchsorted(cumulated, torch.minimum(point, below_end)[:, None], right=True).squeeze(-1)
    return place, _at(cumulated, place) - _at(mass, place)


def _at(x: Float[Tensor, "R K"], place: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
    return x.gather(-1, place[:, None]).squeeze(-1)
