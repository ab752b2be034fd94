"""A method's description, derived from the method: family, entry in the paper's Table 1, effect of each switch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core.batch import Batch, label
from prefloop.core.method import Method
from prefloop.core.objectives import clipped

FAMILIES = ("supervised", "policy gradient", "contrastive")
PATTERNS = {
    "supervised": "c ≥ 0: every response is pulled up or left alone",
    "policy gradient": "c = A·ρ: better than the baseline is pulled up, worse is pushed down",
    "contrastive": "c_w > 0 > c_l: the preferred response is pulled up, the other is pushed down",
}
JUDGED = {"scores": " and the reward scores them.", "labels": " and a threshold on the reward labels them."}
SWITCHES = ("on_policy", "reuse", "negative")
PARTS = ("objective", "weight", "pairs", "paper", "summary", "options", "refuses_mixture")  # not numbers or choices


@dataclass(frozen=True)
class Description:
    """One method in words and numbers."""

    name: str
    summary: str
    family: str  # one of FAMILIES
    on_policy: float
    reuse: int | None  # passes over a collection; None if the data are offline (N/A in Table 1)
    negative: bool  # whether any coefficient is below 0
    needs: tuple[str, ...]
    paper: str
    formula: str  # first paragraph of the objective's docstring
    weight: str  # the same of the weight; "" if there is none
    pairs: str  # the same of the pairs; "" if there are none
    switches: dict[str, str]  # what each switch does to this method
    fields: dict[str, Any]  # settings of the loop: group size, reduction, KL, …
    options: dict[str, Any]  # hyper-parameters of the parts


def describe(name: str, method: Method) -> Description:
    """Derive a method's description from the method."""
    coefficient = probe(method)
    pushes = bool((coefficient < 0).any())
    own = {f.name: getattr(method, f.name) for f in fields(method) if f.name not in (*PARTS, *SWITCHES)}
    return Description(
        name=name,
        summary=method.summary,
        family=_family(method, pushes),
        on_policy=method.on_policy,
        reuse=None if method.on_policy == 0 else method.reuse,
        negative=pushes,
        needs=tuple(sorted(method.needs)),
        paper=method.paper,
        formula=paragraph(method.objective),
        weight="" if method.weight is None else paragraph(method.weight),
        pairs="" if method.pairs is None else paragraph(method.pairs),
        switches=_switches(method, pushes),
        fields=own,
        options=method.defaults,
    )


def probe(method: Method, *, prompts: int = 8, tokens: int = 5, seed: int = 0) -> Float[Tensor, "P G T"]:
    """The method's coefficients c = −∂loss/∂log π on a small fixed random batch with ragged lengths, in float64."""
    g = torch.Generator().manual_seed(seed)
    shape = (prompts, method.responses, tokens)
    lengths = torch.randint(1, tokens + 1, shape[:-1], generator=g)
    mask = torch.arange(tokens) < lengths[..., None]
    logp, near = (torch.rand(shape, generator=g, dtype=torch.float64) for _ in range(2))
    logp = torch.where(mask, -0.1 - logp, 0.0)
    other = torch.where(mask, logp + 0.05 * (near - 0.5), 0.0)  # inside PPO's clip range
    scores = torch.randn(shape[:-1], generator=g, dtype=torch.float64)
    batch = Batch(
        prompts=torch.arange(prompts),
        responses=torch.zeros(shape, dtype=torch.long),
        mask=mask,
        scores=scores,
        labels=label(scores, 0.0),
        logp_behaviour=other,
        logp_proximal=other,
        logp_reference=other,
        values=torch.zeros(shape, dtype=torch.float64),
        z=torch.tensor(0.1, dtype=torch.float64),
    )
    return method.coefficients(logp, batch)


def paragraph(part: Callable[..., Any]) -> str:
    """The first paragraph of a part's docstring, on one line."""
    return " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())


def details(part: Callable[..., Any]) -> str:
    """The whole docstring of a part."""
    return inspect.getdoc(part) or ""


def corrected(method: Method) -> bool:
    """Whether an importance ratio corrects for updates since the responses were sampled."""
    return "behaviour" in getattr(method.objective, "needs", ())


def _family(method: Method, pushes: bool) -> str:
    if corrected(method):
        return "policy gradient"
    return "contrastive" if pushes else "supervised"


# ---- the switches in words ----------------------------------------------------------------------------------------


def _switches(method: Method, pushes: bool) -> dict[str, str]:
    return {"on_policy": _on_policy(method), "reuse": _reuse(method), "negative": _negative(method, pushes)}


def _on_policy(method: Method) -> str:
    words = [
        f"Default {method.on_policy:g}. At 0 the responses and their scores come from the dataset; at 1 the current"
        " policy writes the responses"
        + next((text for need, text in JUDGED.items() if need in method.needs), "; this method reads no scores.")
    ]
    if method.refuses_mixture:
        words.append(f"Values between 0 and 1 are not allowed: {method.refuses_mixture}.")
    else:
        words.append("In between, the policy answers that share of the prompts; one scorer scores every group.")
    if corrected(method):
        words.append(
            "The log-probs of whoever wrote dataset text are unknown: the policy's own at collection are used, so the"
            " ratio corrects for later updates only."
        )
    return " ".join(words)


def _reuse(method: Method) -> str:
    words = [f"Default {method.reuse}. Passes over one collection before the next one."]
    if method.on_policy == 0:
        words.append("With dataset responses a pass is one more epoch; the paper's table says N/A.")
    if corrected(method):
        words.append("After the first update the ratio ρ = π/π_collection corrects for the change of the policy")
        words[-1] += ", and the clip stops tokens that have moved too far." if method.objective is clipped else "."
    elif method.on_policy > 0:
        signal = "pairs" if method.pairs is not None else "weights" if method.weight is not None else "labels"
        words.append(f"Nothing corrects for policy updates: later passes keep the {signal} of the collection.")
    return " ".join(words)


def _negative(method: Method, pushes: bool) -> str:
    if not pushes:
        return "No effect: no coefficient of this method is negative, so there is nothing to remove."
    effect = {
        "policy gradient": "responses better than their baseline are pulled up, worse ones are left alone",
        "contrastive": "preferred responses are pulled up as strongly as before, the others are left alone",
    }[_family(method, pushes)]
    value = method.negative if isinstance(method.negative, int | float) else 1.0
    return (
        f"Default {value:g}: share of the push-down gradient that is kept. 1 is the method as published; at 0 no token"
        f" coefficient is negative: {effect} (their log-prob can still fall, because probabilities sum to one)."
    )
