"""A short trial of an architecture on its own weights: do we compute and sample what the model itself would?

A trial costs a few passes over a dozen tokens. It cannot see what only long texts show, such as the edge of a window
of attention; tests compare these on small models of every architecture.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prefloop.core.errors import raised
from prefloop.policies.architecture import Model, close, inner_of, parts, plain_ids, unsupported
from prefloop.policies.decoding import Running

WRONG_CACHES = {"moshi"}  # kinds of models whose cache differs beyond the window of their attention
LENGTHS = (5, 3)  # tokens of the two prompts
NEW = 2  # tokens that follow each


def check_evaluation(model: Model) -> None:
    """Refuse a model whose log-probs we would get wrong: one that reads ahead, or that padding on the right changes.

    Raises:
        DataError: it does.
    """
    model = _precise(model)
    found, ids = parts(model), _ids(model)
    short, whole = ids[: LENGTHS[1]], ids[: LENGTHS[0]]
    with torch.no_grad():
        padded = pad_sequence([whole, short], batch_first=True)
        logits = found.head(found.backbone(padded, use_cache=False).last_hidden_state)
        alone, together = _logits(model, short), _logits(model, whole)
    if not close(together[: len(short)], alone):
        raise unsupported(model, "reads tokens behind the one that it predicts: it is not a causal language model")
    if not (close(logits[1, : len(short)], alone) and close(logits[0], together)):
        raise unsupported(model, "gives other log-probs to a text in a batch than alone")


def caching_fault(model: Model) -> str:
    """Why a model must be sampled without its cache; empty if the cache gives the log-probs of the whole text."""
    if inner_of(model).config.model_type in WRONG_CACHES:
        return "its cache gives other log-probs beyond its window of attention"
    if any(getattr(module, "time_step_limit", (0.0,))[0] > 0 for module in inner_of(model).modules()):
        return "its cache does not limit the time step as reading a whole text does"
    with torch.no_grad():
        return _difference(_precise(model))


def _precise(model: Model) -> Model:
    """The model, or a float32 copy if rounding would hide or feign a difference."""
    return copy.deepcopy(model).float() if model.dtype in (torch.bfloat16, torch.float16) else model


def _difference(model: Model) -> str:
    """Two prompts of different lengths, two rows each, one of which ends early, against one pass over each text."""
    ids, network = _ids(model), parts(model)
    prompts = [ids[i : i + n] for i, n in enumerate(LENGTHS)]
    new = ids[:4].view(4, 1).expand(4, NEW)
    kept = (0, 1, 3)
    try:
        running, logits = Running.start(network, prompts, 2, NEW)
        seen = [logits[list(kept)]]
        running.live[2] = False
        for token in new.unbind(1):
            seen.append(running.step(network, running.compacted(token[running.place])))
    except Exception as error:  # the model's own code may raise anything on a cache of ours
        return f"its cache cannot be used ({raised(error)})"
    expected = [_logits(model, torch.cat([prompts[row // 2], new[row]]))[-NEW - 1 :] for row in kept]
    same = close(torch.stack(seen, 1), torch.stack(expected))
    return "" if same else "its cache gives other log-probs than the whole text"


def _logits(model: Model, ids: Tensor) -> Tensor:
    """The model's own logits of one text."""
    logits: Tensor = inner_of(model)(ids[None], use_cache=False).logits[0]
    return logits


def _ids(model: Model) -> Tensor:
    return torch.tensor(plain_ids(inner_of(model), 8), device=model.device)
