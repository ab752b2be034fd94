"""Text-like responses of variable length with a known gold reward: the paper's synthetic LLM problem (§3, §5).

Responses are one-sentence answers in a vocabulary of 768 tokens. Two dials make the problem: `peak`, where the reward
is highest among the lengths that the reference writes (C1), and `coverage`, the share of preference data that is not
truncated (C2). The paper's three problems are settings of these dials.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from prefloop.core.batch import Batch
from prefloop.core.errors import DataError
from prefloop.core.fit import falling, minimise
from prefloop.core.streams import Stream
from prefloop.policies.gpt import GPT
from prefloop.rewards.rules import off_target
from prefloop.worlds.lengths.answers import END, Tokens, answers, encode, vocabulary
from prefloop.worlds.lengths.spec import Size
from prefloop.worlds.rewarded import Draw, Score

MOST_CUT = 0.2  # maximum share of answers that the limit may cut
HELD_OUT = 12  # held-out answers per instruction
BATCH = 256  # responses per step of the fit


NAMED = {"min": (0.0, 1.0), "mode": (25.0, 1.0), "skew": (0.0, 0.1)}  # peak, coverage: see tests/worlds/test_lengths.py


def prompt_tokens(first: int, known: int, count: int, rng: Stream) -> Int[Tensor, "S P"]:
    """Uniform over the tokens `first` to `first + known`."""
    return first + (rng.rand(count, dtype=torch.float64) * known).long()


def prompts(first: int, known: int) -> Draw:
    """Uniform over the known prompts."""

    def draw(start: int, count: int, rng: Stream) -> Tensor:
        return prompt_tokens(first, known, count, rng)

    return draw


# ------------------------------------------------------------------------------------------------------ gold rewards


def toward(target: Int[Tensor, " S"], scale: Float[Tensor, " S"]) -> Score:
    """−|tokens − target| / scale, END included; 0 at the peak. A target of 1 is the paper's Min Length."""

    def score(batch: Batch) -> Tensor:
        each = [x.to(torch.float32)[:, None, None] for x in (target, scale)]
        return torch.where(batch.present, off_target(batch.lengths, *each), 0.0)

    return score


def decode(batch: Batch) -> list[list[str]]:
    """Texts of the responses: S·P lists of G."""
    rows = zip(batch.responses.flatten(0, -2).tolist(), batch.lengths.flatten().tolist(), strict=True)
    texts, group = vocabulary().decode_batch([row[:n] for row, n in rows]), batch.mask.shape[-2]
    return [texts[i : i + group] for i in range(0, len(texts), group)]


def decode_prompts(batch: Batch) -> list[str]:
    """Texts of the prompts: S·P instructions."""
    first = vocabulary().get_vocab_size()
    instructions = [answered.prompt for answered in answers()]
    return [instructions[token - first] for token in batch.prompts.flatten().tolist()]


# ---------------------------------------------------------------------------------------------------------- two dials


def target(peak: float, lengths: Int[Tensor, " n"]) -> int:
    """The length at that percentile of the reference's lengths; 0 gives the shortest response, END alone.

    Args:
        lengths: lengths of reference responses.
    """
    if peak == 0:
        return 1
    ranked = lengths.sort().values
    return int(ranked[min(len(ranked) - 1, int(len(ranked) * peak / 100))])


def truncation(coverage: float, lengths: Int[Tensor, " n"]) -> float:
    """Mean μ of the exponential law that leaves a share `coverage` of responses complete: E[exp(−(L−1)/μ)]."""
    if coverage >= 1:
        return float("inf")
    low, high, rest = 1e-3, 1e6, lengths.double() - 1
    for _ in range(80):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if torch.exp(-rest / middle).mean() < coverage else (low, middle)
    return high


def truncated(batch: Batch, mean: Float[Tensor, " S"], rng: Stream) -> Batch:
    """Responses cut to at most 1 + ⌊Exp(mean)⌋ tokens, the last one END, like the paper's skewed data."""
    u = rng.rand(*batch.lengths.shape[1:], dtype=torch.float64)
    limit = 1 - (1 - u).log() * mean[:, None, None].double()
    limit = torch.where(limit.isfinite(), limit, float(batch.mask.shape[-1])).long().clamp(max=batch.mask.shape[-1])
    place = torch.arange(batch.mask.shape[-1])
    short = (batch.lengths > limit)[..., None]
    responses = torch.where(short & (place == limit[..., None] - 1), END, batch.responses)
    mask = batch.mask & (~short | (place < limit[..., None]))
    return replace(batch, responses=torch.where(mask, responses, 0), mask=mask)


def of_lengths(batch: Batch, lengths: Int[Tensor, "S P G"], limit: int) -> Batch:
    """Texts of these lengths: words of a response, then those of the others to its prompt as far as needed, and END.

    Args:
        lengths: 1 to `limit`; where the group has too few words, all of them are used.
        limit: of the responses made, in tokens.
    """
    group, words = batch.mask.shape[-2], batch.mask & (batch.responses != END)
    both = [torch.stack([x.roll(-g, 2).flatten(-2) for g in range(group)], 2) for x in (batch.responses, words)]
    first = both[1].int().argsort(dim=-1, descending=True, stable=True)  # places of words, in order
    ids = pad(both[0].gather(-1, first), (0, max(0, limit - first.shape[-1])))[..., :limit]
    n = torch.minimum(lengths, both[1].sum(-1) + 1)[..., None]
    place = torch.arange(limit)
    return replace(batch, responses=torch.where(place < n - 1, ids, END), mask=place < n)


def evened(data: Batch, whole: Batch, share: Float[Tensor, " S"], limit: int, rng: Stream) -> Batch:
    """The data, in which that share of the groups has texts of uniformly distributed lengths, made of `whole`."""
    u = rng.rand(*data.lengths.shape[1:], dtype=torch.float64)
    made = of_lengths(whole, 1 + (u * limit).long(), limit)
    groups = torch.arange(u.shape[1]) < (share * u.shape[1]).round()[:, None]
    rest = (0, limit - data.mask.shape[-1])
    responses, mask = (
        torch.where(groups[..., None, None], a, pad(b, rest))
        for a, b in ((made.responses, data.responses), (made.mask, data.mask))
    )
    return replace(data, responses=responses, mask=mask)


def overlap(a: Int[Tensor, " n"], b: Int[Tensor, " m"]) -> float:
    """Σ min(p, q) of two samples of lengths: 1 for equal distributions, 0 for disjoint ones."""
    most = int(max(a.max(), b.max())) + 1
    p, q = (torch.bincount(x, minlength=most) / len(x) for x in (a, b))
    return float(torch.minimum(p, q).sum())


# ---------------------------------------------------------------------------------------------------------- reference


@cache
def corpus(limit: int) -> Tokens:
    """The built-in answers as tokens.

    Raises:
        DataError: the limit cuts more than a fifth of them, so that they would not be full sentences.
    """
    known = answers()
    tokens = encode([a.texts for a in known], limit, [a.unended for a in known])
    cut = float(tokens.cut.float().mean())
    if cut > MOST_CUT:
        raise DataError(
            f"{cut:.0%} of the answers are longer than {limit} tokens", where="answers.jsonl", fix="use a larger limit"
        )
    return tokens


@dataclass(frozen=True)
class Fit:
    """A fitted reference and how good it is."""

    policy: GPT  # policy of one run
    perplexity: float  # per token, on held-out answers
    cut: float  # share of the answers that exceed the limit


def alike(order: Int[Tensor, " n"], lengths: Int[Tensor, " n"]) -> list[Int[Tensor, " b"]]:
    """Batches of rows of similar length, to save padding: sorted within every sixteen batches of an order."""
    chunks = order[: len(order) // BATCH * BATCH].split(16 * BATCH)
    batches = [part for c in chunks for part in c[lengths[c].argsort(stable=True)].split(BATCH)]
    return [batches[i] for i in (order[order < len(batches)]).tolist()]


def fit(size: Size, *, seed: int = 0) -> Fit:
    """A GPT of one run, fitted to the answers by maximum likelihood: Adam, with the learning rate falling to 0."""
    data = corpus(size.limit)
    groups, samples, limit = data.ids.shape
    words = vocabulary().get_vocab_size()
    shape: dict[str, Any] = {"tokens": limit, "layers": size.layers, "heads": size.heads, "width": size.width}
    policy = GPT.create([seed], vocabulary=words, prompts=groups, end=END, **shape)
    prompts = (words + torch.arange(groups))[:, None].expand(groups, samples)
    train, rest = (slice(None), slice(HELD_OUT, None)), (slice(None), slice(HELD_OUT))
    ids, mask, own = (x[train].flatten(0, 1) for x in (data.ids, data.mask, prompts))
    rng = Stream("fit", [seed], stacked=True)
    per_epoch, lengths = len(own) // BATCH, mask.sum(-1)
    usual = (
        BATCH * lengths.double().mean().item()
    )  # tokens of a typical batch: every token has the same weight in all batches
    epoch = cache(lambda number: alike(rng.epoch(len(own), number)[0], lengths))

    def losses(step: int) -> list[Tensor]:
        rows = epoch(step // per_epoch)[step % per_epoch]
        batch = Batch(own[rows][None], ids[rows][None, :, None], mask[rows][None, :, None])
        return [-policy.evaluate(batch).logp.sum() / usual]

    steps = size.epochs * per_epoch
    minimise(policy.parameters(), losses, steps, lr=falling(size.lr, steps, warmup=20), limit=1.0, stacked=True)
    held = Batch(prompts[rest].flatten()[None], *(x[rest].flatten(0, 1)[None, :, None] for x in (data.ids, data.mask)))
    with torch.no_grad():
        nats = -policy.evaluate(held).logp.sum() / held.mask.sum()
    return Fit(policy, float(nats.exp()), float(data.cut.float().mean()))
