"""What a run leaves beside its metrics: answers, the manifest of what was optimised, the model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prefloop.core.batch import Batch
from prefloop.core.describe import describe
from prefloop.policies import pretrained
from prefloop.runs.build import Parts
from prefloop.runs.manifest import manifest


def samples(parts: Parts, batch: Batch | None, step: int) -> list[dict[str, Any]]:
    """The first answer to each held-out prompt."""
    if batch is None or batch.scores is None:
        return []
    texts, cut = parts.problem.decode(batch), parts.policy.is_cut(batch)
    asked = parts.problem.decode_prompts(batch)
    return [
        {"step": step, "prompt": p, "response": t[0], "tokens": int(n[0]), "score": float(s[0]), "cut": bool(c[0])}
        for p, t, n, s, c in zip(asked, texts, batch.lengths, batch.scores, cut, strict=True)
    ]


def manifest_of(parts: Parts) -> dict[str, Any]:
    """What the run was made with and what it really optimises."""
    config = parts.config
    row = describe(config.method, parts.method)
    m = parts.method
    objective = {
        "method": config.method,
        "family": row.family,
        "formula": row.formula,
        "weight": row.weight,
        "pairs": row.pairs,
        "switches": {"on_policy": m.on_policy, "reuse": m.reuse, "negative": m.negative},
        "hyperparameters": row.options,
        "fields": row.fields,
        "needs": list(row.needs),
        "paper": row.paper,
        "reward": {"name": config.reward.name, **config.reward.options},
        **({"gold": {"name": config.reward.gold, **config.reward.gold_options}} if config.reward.gold else {}),
        "kl_estimates": "reverse: mean log π/π_ref on samples of π; forward: mean log π_ref/π on samples of π_ref"
        + ("" if parts.policy.exact_sampler else "; biased: the sampler was tempered or truncated"),
    }
    notes = [parts.scorer_note] if parts.scorer_note else []
    if m.on_policy < 1 and "behaviour" in m.needs:
        notes.append("dataset responses have no behaviour log-prob: the policy at collection stands in")
    if parts.problem.offline is not None:
        notes.append(f"offline data: {len(parts.problem.offline.mask)} groups that the reference wrote, gold-scored")
    return manifest(
        seeds={"run": config.seed},
        objective=objective,
        data=parts.hashes,
        model={"path": config.model.path, "sha256": pretrained.model_hash(config.model.path)},
        threads=torch.get_num_threads(),
        notes=notes,
    )


def card(parts: Parts, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """The model card, with the front matter that model hubs read."""
    config, m = parts.config, parts.method
    rows = [f"| {k.removeprefix('eval/')} | {before[k]:.4g} | {after[k]:.4g} |" for k in after if k in before]
    return "\n".join(
        [
            "---",
            f"base_model: {config.model.path}",
            "library_name: transformers",
            f"tags: [prefloop, preference-tuning, {config.method}]",
            "---",
            f"# {Path(config.model.path).name} tuned with {config.method}",
            "",
            f"Trained by Prefloop: {describe(config.method, m).formula}",
            "",
            f"Switches: on_policy={m.on_policy}, reuse={m.reuse}, negative={m.negative};"
            f" {config.training.steps} steps of {config.training.minibatch} responses, reward `{config.reward.name}`.",
            parts.scorer_note,
            "",
            "| held-out | before | after |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
