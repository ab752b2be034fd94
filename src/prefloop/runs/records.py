"""Records of a run besides its metrics: answers, manifest, model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefloop.analysis.numbers import cell, is_part
from prefloop.core import devices, notebook
from prefloop.core.batch import Batch
from prefloop.core.describe import describe
from prefloop.core.errors import DataError
from prefloop.core.method import Method
from prefloop.policies.adapters import KEPT
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.pretrained import hub_name
from prefloop.runs import held_out
from prefloop.runs.config import Config
from prefloop.runs.folder import read_manifest
from prefloop.runs.manifest import manifest
from prefloop.runs.sources import sources
from prefloop.runs.world import TextWorld
from prefloop.worlds.text.problem import TextProblem


def samples(
    problem: TextProblem, policy: CausalLM, batch: Batch | None, step: int, log_ratio: Tensor | None = None
) -> list[dict[str, Any]]:
    """The first answer to each prompt, with its score if a reward has scored it, and its log π/π_ref if it is known."""
    if batch is None:
        return []
    texts, cut = problem.decode(batch), policy.is_cut(batch)
    asked = problem.decode_prompts(batch)
    scores = [{}] * len(asked) if batch.scores is None else [{"score": float(s[0])} for s in batch.scores]
    ratios = [{}] * len(asked) if log_ratio is None else [{"log_ratio": float(r[0])} for r in log_ratio]
    return [
        {"step": step, "prompt": p, "response": t[0], "tokens": int(n[0]), **s, **r, "cut": bool(c[0])}
        for p, t, n, s, r, c in zip(asked, texts, batch.lengths, scores, ratios, cut, strict=True)
    ]


def manifest_of(
    config: Config, method: Method, world: TextWorld, offline: Batch | None, said: Iterable[str]
) -> dict[str, Any]:
    """The manifest of a run, including the objective it really optimises.

    Args:
        offline: responses of the reference that the method trains on, if any.
        said: notes that were printed before.
    """
    row = describe(config.method, method)
    objective = {
        "method": config.method,
        "family": row.family,
        "formula": row.formula,
        "weight": row.weight,
        "pairs": row.pairs,
        "switches": {"on_policy": method.on_policy, "reuse": method.reuse, "negative": method.negative},
        "hyperparameters": row.options,
        "fields": row.fields,
        "needs": list(row.needs),
        "paper": row.paper,
        "reward": {"name": config.reward.name, **config.reward.options},
        **({"gold": {"name": config.reward.gold, **config.reward.gold_options}} if config.reward.gold else {}),
        "kl_estimates": "reverse: mean log π/π_ref on samples of π; forward: mean log π_ref/π on samples of π_ref"
        + ("" if world.model.reference.exact_sampler else "; biased: the sampler was tempered or truncated"),
    }
    notes = list(said)
    if method.on_policy < 1 and "behaviour" in method.needs:
        notes.append("dataset responses have no behaviour log-probs: those of the policy at collection are used")
    if offline is not None:
        notes.append(f"offline data: {len(offline.mask)} groups sampled from the reference, scored by the reward")
    return manifest(
        seeds={"run": config.seed, "split": config.data.split_seed},
        objective=objective,
        data=world.data.hashes,
        trained_on=world.data.counts,
        held_out=held_out.recorded(world.data.held_out),
        model={"path": config.model.path, "sha256": world.model.sha256, "dtype": config.model.dtype},
        sources=sources(config),
        threads=torch.get_num_threads(),
        device=devices.recorded(world.model.device),
        notes=notes,
    )


def continued(home: Path, config: Config, world: TextWorld) -> tuple[str, ...]:
    """Refuse to continue a run with different data, held-out examples or another model; files may have moved.

    Returns:
        Notes if the user's own code has changed, or if it continues on another device.

    Raises:
        DataError: a hash is not in the manifest, or the held-out examples are others.
    """
    recorded, device = read_manifest(home), str(world.model.device)
    known = {*recorded["data"].values(), recorded["model"]["sha256"]}
    for name, digest in {**world.data.hashes, "model": world.model.sha256}.items():
        if digest not in known:
            raise DataError(f"`{name}` has changed since the run was started", where=str(home), fix="restore it")
    held_out.check(home, config, recorded, world.data.held_out)
    before = recorded["hardware"].get("device", device)
    moved = f"{home}: it was started on {before} and continues on {device}, where numbers differ in their last digits"
    known_code = recorded.get("sources", {})
    edited = [name for name, digest in sources(config).items() if known_code.get(name, digest) != digest]
    said = [f"{home}: `{name}` has changed since the run was started; the rest uses it as it is now" for name in edited]
    return (*said, *([] if before == device else [moved]))


def card(config: Config, method: Method, note: str, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """The model card, with front matter for model hubs.

    Args:
        note: accuracy of a learned reward.
    """
    base = hub_name(config.model.path)
    rows = [
        f"| {key.removeprefix('eval/')} | {cell(before, key)} | {cell(after, key)} |"
        for key in after
        if key in before and not is_part(key)
    ]
    adapted = config.model.lora_rank > 0 or config.model.adapter == "continue"
    return "\n".join(
        [
            "---",
            *([f"base_model: {base}"] if base else []),
            "library_name: transformers",
            f"tags: [prefloop, preference-tuning, {config.method}]",
            "---",
            f"# {Path(config.model.path).name} tuned with {config.method}",
            "",
            f"Trained by Prefloop: {describe(config.method, method).formula}",
            "",
            f"Switches: on_policy={method.on_policy}, reuse={method.reuse}, negative={method.negative};"
            f" {config.training.steps} steps of {config.training.minibatch} responses, reward `{config.reward.name}`.",
            *([] if base else [f"Base model: `{config.model.path}`."]),
            *([f"The LoRA adapter is in `{KEPT}/`; here it is merged into the weights."] if adapted else []),
            note,
            "",
            "| held-out | before | after |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def html(folder: Path, before: Mapping[str, float], after: Mapping[str, float], notes: Iterable[str]) -> str:
    """Held-out numbers before and after training as a table of a notebook."""
    rows = [(key.removeprefix("eval/"), cell(before, key), cell(after, key)) for key in after if not is_part(key)]
    return notebook.table(str(folder), ("held-out", "before", "after"), rows, "; ".join(filter(None, notes)))
