"""Tensors as users give them: shapes and types checked by the annotations of the batch, lists of token ids padded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, get_args, get_type_hints

import torch
from jaxtyping import AbstractArray, Bool, Float, Int
from torch import Tensor

from prefloop.core.errors import UserError, shown

Ids = Sequence[int] | Tensor  # token ids of one text
Scores = Sequence[Iterable[float]] | None  # one number per response
KINDS: Mapping[Any, tuple[str, str, Callable[[torch.dtype], bool]]] = {  # name, conversion, whether a dtype is of it
    Bool: ("bool", "bool", lambda d: d == torch.bool),
    Float: ("floating point", "float", lambda d: d.is_floating_point),
    Int: ("whole numbers", "long", lambda d: not (d.is_floating_point or d.is_complex or d == torch.bool)),
}
TOKENS = ("P", "G", "T")  # prompts, responses to each, tokens of the longest


COMPUTED = {  # fields that a loop of one's own computes, and with what
    "logp_reference": "log_probs(reference, batch)",
    "z": "mismatched_kl(model, reference, batch)",
}


class MissingNeed(UserError):
    """A batch lacks a field that the method needs."""

    def __init__(self, need: str) -> None:
        how = f": replace(batch, {need}=prefloop.{COMPUTED[need]})" if need in COMPUTED else ""
        super().__init__(f"this method needs `{need}`, which the batch does not have", fix=f"fill `Batch.{need}`{how}")


def check(batch: Any) -> None:
    """Refuse a batch in which a field has not the shape or type of its annotation; the mask gives the sizes.

    Raises:
        UserError: names the field, what it is and what it must be.
    """
    kind: Any = type(batch)
    name, mask, prompts = kind.__name__, batch.mask, batch.prompts
    if not isinstance(mask, Tensor) or mask.ndim < len(TOKENS):
        given = str(list(mask.shape)) if isinstance(mask, Tensor) else type(mask).__name__
        fix = "one response to each prompt is mask[:, None], pairs side by side are mask.view(-1, 2, mask.shape[-1])"
        raise UserError(f"`{name}.mask` must be a tensor [prompts, responses to each, tokens], not {given}", fix=fix)
    *runs, p, g, t = mask.shape
    sizes = {"*S": tuple(runs), "P": (p,), "G": (g,), "T": (t,)}
    for field, (letters, array) in _annotated(kind).items():
        if (x := getattr(batch, field)) is not None:
            fits(x, tuple(n for one in letters for n in sizes[one]), f"{name}.{field}", letters, array)
    wrong = None
    if isinstance(prompts, Tensor) and prompts.shape[: len(runs) + 1] != (*runs, p):
        wrong = str(list(prompts.shape))
    elif isinstance(prompts, list | tuple) and len(prompts) != p:
        wrong = str(len(prompts))
    if wrong is not None:
        raise UserError(f"`{name}.prompts` must be one for each of {p} groups of responses, not {wrong}")


def fits(x: Any, shape: tuple[int, ...], name: str, letters: Sequence[str] = TOKENS, kind: Any = Float) -> None:
    """Refuse what is no tensor of that shape and kind.

    Args:
        letters: names of the axes.
        kind: Float, Int or Bool of jaxtyping.

    Raises:
        UserError: names the shape or type that it has and must have.
    """
    called, conversion, belongs = KINDS[kind]
    if not isinstance(x, Tensor):
        raise UserError(f"`{name}` must be a tensor, not {shown(x)}", fix="torch.tensor(...)")
    if not belongs(x.dtype):
        raise UserError(f"`{name}` must be {called}, not {x.dtype}", fix=f"convert it: x.{conversion}()")
    if x.shape != shape:
        axes = ", ".join(letters[len(letters) - len(shape) :])
        what = f"`{name}` must have shape [{axes}] = {list(shape)}, not {list(x.shape)}"
        raise UserError(what, fix=_cure(x.shape, shape, per_token=letters[-1] == "T"))


def one_of(x: Any, shapes: Sequence[tuple[int, ...]], part: str, per: str) -> None:
    """Refuse what a user's own part of a method computed, unless it has one of the shapes.

    Raises:
        UserError: it would be broadcast, and the method would silently be another.
    """
    if not isinstance(x, Tensor) or x.shape not in shapes:
        given = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise UserError(f"the {part} must give one number per {per}, of shape {wanted}, not {given}")


def _cure(given: torch.Size, shape: tuple[int, ...], per_token: bool) -> str:
    if per_token and given == shape[:-1]:
        return "give one number per token, not their sum over a response: the mask says which tokens count"
    if per_token and given[:-1] == shape:
        return "give the log-prob of the token that was written, not one for each word of the vocabulary"
    if given.numel() == torch.Size(shape).numel():
        return f"x.view({', '.join(map(str, shape))}), if its numbers are in that order"
    if per_token and given[:-1] == shape[:-1]:
        return "give one number per response token, without the prompt: entry t is of token t of the response"
    return "P prompts, G responses to each, T tokens of the longest response; a single prompt is P = 1"


@cache
def _annotated(kind: Any) -> dict[str, tuple[list[str], Any]]:
    """The letters of the axes and the kind of number, of every field that is an array."""
    hints = get_type_hints(kind)
    each = {f.name: (hints[f.name], *get_args(hints[f.name])) for f in fields(kind)}
    arrays = {k: x for k, some in each.items() for x in some if isinstance(x, type) and issubclass(x, AbstractArray)}
    return {k: (x.dim_str.split(), x.dtype) for k, x in arrays.items()}


# ---- lists of token ids --------------------------------------------------------------------------------------------


def grouped(
    prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]], scores: Scores, slots: int | None
) -> dict[str, Any]:
    """Fields of a batch; see `Batch.from_groups`."""
    tokens, mask = padded(responses, slots)
    valid = mask.any(-1)
    return {
        "prompts": [ids_of(x, f"prompt {p}") for p, x in enumerate(prompts)],
        "responses": tokens,
        "mask": mask,
        "scores": None if scores is None else filled(scores, valid),
        "valid": None if bool(valid.all()) else valid,
    }


def padded(groups: Sequence[Sequence[Ids]], slots: int | None = None) -> tuple[Tensor, Tensor]:
    """Token ids [P, G, T], padded on the right with 0, and the mask of the tokens.

    Args:
        groups: token ids of the responses to each prompt.
        slots: G; by default the size of the largest group.

    Raises:
        UserError: no response, an empty one, or what is no list of token ids.
    """
    rows = [[ids_of(y, f"response {g} of prompt {p}") for g, y in enumerate(row)] for p, row in enumerate(groups)]
    if not any(rows):
        raise UserError("there are no responses")
    size = max(map(len, rows)) if slots is None else slots
    tokens = torch.zeros(len(rows), size, max(len(y) for row in rows for y in row), dtype=torch.long)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for p, row in enumerate(rows):
        for g, y in enumerate(row):
            tokens[p, g, : len(y)], mask[p, g, : len(y)] = y, True
    return tokens, mask


def ids_of(given: Any, where: str) -> Tensor:
    """The token ids of one text as a tensor.

    Raises:
        UserError: a text, no whole numbers, or none at all.
    """
    try:
        ids = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        fix = "tokenise it first: prefloop.encode(tokenizer, rows) takes texts"
        raise UserError(f"token ids are whole numbers, not {shown(given)}", where=where, fix=fix) from None
    if ids.ndim != 1 or not len(ids):
        what = "it has no tokens" if not ids.numel() else f"token ids of one text are one row, not {list(ids.shape)}"
        raise UserError(what, where=where, fix="give at least the token that ends it" if not ids.numel() else "")
    fits(ids, ids.shape, where, ("T",), Int)
    return ids


def filled(rows: Sequence[Iterable[float]], valid: Tensor) -> Tensor:
    """One number per response as a tensor [P, G]; 0 in the slots of `valid` that are empty.

    Raises:
        UserError: a group has more or fewer numbers than responses.
    """
    out, counts = torch.zeros(valid.shape), valid.sum(1).tolist()
    if len(rows) != len(out):
        raise UserError(f"there are scores of {len(rows)} groups for {len(out)} groups of responses")
    for p, row in enumerate(rows):
        count = counts[p]
        numbers = torch.as_tensor(list(row), dtype=out.dtype)
        if len(numbers) != count:
            raise UserError(f"{len(numbers)} scores for {count} responses", where=f"prompt {p}")
        out[p, :count] = numbers
    return out
