"""The responses of data beside samples of a reference to the same prompts: the numbers that `analysis.offer` reads."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from prefloop import __version__
from prefloop.analysis.offer import Given, Samples
from prefloop.core.batch import Batch
from prefloop.core.files import digest
from prefloop.core.protocols import no_op
from prefloop.core.streams import Stream
from prefloop.data.records import Group
from prefloop.policies import packing
from prefloop.policies.causal_lm import CausalLM
from prefloop.worlds.text.problem import Scorer, TextProblem
from prefloop.worlds.text.samples_cache import kept, read

Row: TypeAlias = tuple[int, int]  # group, response
PORTION = 4  # prompts that are sampled together
COVERED = 0.95  # share of the data's responses that the sampling limit leaves whole, if none is given
MOST = 256  # tokens of that limit, at most


def questions(groups: Sequence[Group], count: int, seed: int) -> list[Group]:
    """All rows of `count` prompts drawn at random, those of one prompt together.

    A draw depends on the prompts and the seed, not on their order.
    """
    rows: dict[object, list[Group]] = {}
    for group in groups:
        rows.setdefault((group.prompt, group.tools), []).append(group)
    known = sorted(rows, key=repr)
    picked = random.Random(seed).sample(known, min(count, len(known)))
    return [group for key in picked for group in rows[key]]


def limit_of(problem: TextProblem, groups: Sequence[Group]) -> int:
    """The sampling limit that leaves 95 % of the responses whole, at most 256 tokens; that for prompts only."""
    sizes = [size for _, each in problem.sizes(groups) for size in each]
    return min(MOST, int(np.quantile(sizes, COVERED, method="inverted_cdf"))) if sizes else MOST


# ---- the reference's own --------------------------------------------------------------------------------------------


def sampled(
    policy: CausalLM,
    prompts: Sequence[Tensor],
    count: int,
    *,
    seed: int,
    model: str,
    poll: Callable[[], None] = no_op,
    done: Callable[[int], None] = lambda _: None,
) -> Batch:
    """`count` samples to each prompt, portion by portion; those drawn before by the same model are read from disk.

    Args:
        model: hash of the weights.
        poll: called before every token step.
        done: called with the number of prompts of every finished portion.
    """
    portions = []
    for start in range(0, len(prompts), PORTION):
        some = list(prompts[start : start + PORTION])
        network = (policy.autocast, str(policy.network.wide), policy.network.device.type, policy.eos_ids)
        told = (__version__, model, policy.sampling, network, count, seed, start)
        key = digest([repr(told), *(repr(ids.tolist()) for ids in some)])
        drawn = read(key, some)
        if drawn is None:
            drawn = policy.draw(some, count, Stream(f"sampling/{start}", [seed], stacked=False), poll)
            kept(key, drawn)
        portions.append(drawn)
        done(len(some))
    return _joined(portions)


def _joined(portions: Sequence[Batch]) -> Batch:
    width = max(b.mask.shape[-1] for b in portions)

    def of(name: str) -> Tensor:
        parts = [getattr(b, name) for b in portions]
        return torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[-1])) for x in parts])

    prompts = [p for b in portions for p in b.prompts]
    return Batch(prompts, of("responses"), of("mask"), logp_proximal=of("logp_proximal"))


def samples_of(drawn: Batch, scorer: Scorer | None, problem: TextProblem, cut: float = 0.0) -> Samples:
    """Log-probs, lengths, tokens and rewards of samples, of which that share is cut."""
    assert drawn.logp_proximal is not None
    texts = [
        [ids[:n].tolist() for ids, n in zip(group, lengths, strict=True)]
        for group, lengths in zip(drawn.responses, drawn.lengths.tolist(), strict=True)
    ]
    reward = None if scorer is None else _scores(replace(problem, scorer=scorer), drawn).numpy()
    return Samples(drawn.logp_proximal.double().sum(-1).numpy(), drawn.lengths.double().numpy(), texts, reward, cut)


# ---- the data -------------------------------------------------------------------------------------------------------


def given(
    policy: CausalLM,
    problem: TextProblem,
    groups: Sequence[Group],
    limit: int,
    scorer: Scorer | None,
    *,
    poll: Callable[[], None] = no_op,
) -> Given | None:
    """The responses of the data up to the sampling limit, so that they are compared with samples of the same law; their
    rewards are those of the whole responses. None if there are none.

    Args:
        groups: those of one prompt together; prompts are numbered in this order.
    """
    some = [group for group in groups if group.responses]
    if not some:
        return None
    number = {key: i for i, key in enumerate(dict.fromkeys((group.prompt, group.tools) for group in groups))}
    whole = problem.batch_of(some)
    cut = replace(problem, max_response_tokens=limit).batch_of(some)
    logp, mass, state = _read(policy, cut, poll)
    rows = [(p, g) for p, group in enumerate(some) for g in range(len(group.responses))]
    place = {row: i for i, row in enumerate(rows)}
    ends = [_ends(group) for group in some]
    side = np.zeros(len(rows), dtype=np.intp)
    for p, (chosen, rejected) in enumerate(ends):
        for sign, some_rows in ((1, chosen), (-1, rejected)):
            side[[place[p, g] for g in some_rows]] = sign
    pairs = [(place[p, a[0]], place[p, b[0]]) for p, (a, b) in enumerate(ends) if a and b]
    index = tuple(torch.tensor(rows).T)
    lengths = cut.lengths[index]
    reward = None if scorer is None else _scores(replace(problem, scorer=scorer), whole)[index].numpy()
    return Given(
        np.array([number[some[p].prompt, some[p].tools] for p, _ in rows], dtype=np.intp),
        side,
        logp.sum(-1)[index].numpy(),
        lengths.double().numpy(),
        [cut.responses[row][:n].tolist() for row, n in zip(rows, lengths.tolist(), strict=True)],
        [mass[row][:n].numpy() for row, n in zip(rows, lengths.tolist(), strict=True)],
        np.array(pairs, dtype=np.intp).reshape(-1, 2),
        state[index].numpy(),
        reward,
    )


def _ends(group: Group) -> tuple[list[int], list[int]]:
    """Indices of the chosen and of the rejected responses: the best and the worst of several, the good and the bad of
    single ones, demonstrations as chosen; neither where all are equal."""
    scores = group.scores
    if scores is None:
        return list(range(len(group.responses))), []
    if len(scores) == 1:
        return ([0], []) if scores[0] > 0 else ([], [0])
    best, worst = max(scores), min(scores)
    return ([scores.index(best)], [scores.index(worst)]) if best > worst else ([], [])


def _read(policy: CausalLM, batch: Batch, poll: Callable[[], None]) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob of each token, probability of all likelier ones, and mean hidden state of each response."""
    shape = batch.mask.shape
    logp, mass = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    state = torch.zeros(*shape[:2], policy.network.size, dtype=torch.float64)
    with torch.no_grad():
        for rows in policy.micro_batches(batch):
            poll()
            some = batch[rows]
            ids = packing.inputs(some)
            hidden = policy.network.hidden(ids, packing.positions(some, ids.shape[1]))
            own, likelier = policy.network.likelier(hidden, some.responses[some.mask])
            for into, values in ((logp, own), (mass, likelier)):
                into[rows] = packing.spread(values.double().cpu(), some.mask)
            sums = torch.zeros(some.mask.numel(), hidden.shape[-1], dtype=torch.float64)
            sums[some.mask.flatten()] = hidden.double().cpu()
            state[rows] = sums.view(*some.mask.shape, -1).sum(2) / some.lengths.clamp(min=1)[..., None]
    return logp, mass, state


def _scores(problem: TextProblem, batch: Batch) -> Tensor:
    """The scorer's scores, portion by portion.

    Raises:
        DataError: a score is not finite.
    """
    out = []
    for rows in torch.arange(len(batch.prompts)).split(16):
        scores = problem.score(batch[rows]).scores
        assert scores is not None
        out.append(scores.double().cpu())
    return torch.cat(out)
