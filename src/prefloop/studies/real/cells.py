"""Cells of a study on a real model: offline data sampled from the reference, run folders, predicted time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.core.files import write
from prefloop.data.instructions import instructions
from prefloop.runs.config import Config, EvaluationConfig, SaveConfig, TrainingConfig
from prefloop.runs.offline import collect_offline
from prefloop.worlds.text.open_data import open_data
from prefloop.worlds.text.open_model import OpenModel, open_model
from prefloop.worlds.text.problem import TextProblem
from prefloop.worlds.text.spec import DataOptions, ModelOptions, RewardOptions, SamplingOptions

MODEL = "smollm2"
SYSTEM = "You are a helpful assistant. Answer in one short sentence."
LR = 3e-5  # of every method
MICRO_TOKENS = 4096
SCALE = 10.0  # tokens per unit of gold reward
DRAWING = 0  # seed of the offline data, which all seeds of training share
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The settings of a size.

    Args:
        steps, every: optimiser steps of a run, and between evaluations.
        batch: responses per step, all of one collection.
        prompts: number of held-out prompts, one answer each.
        tokens: maximum response length.
        max_cut: maximum share of the reference's answers that `tokens` may cut.
    """

    problems: tuple[str, ...]
    seeds: int
    steps: int
    every: int
    batch: int
    prompts: int
    tokens: int = 96
    max_cut: float = 0.2


@dataclass(frozen=True)
class Recipe:
    """A method with its overrides."""

    method: str
    override: Mapping[str, Any] = field(default_factory=dict)


def config(size: Size, recipe: Recipe, data: DataOptions, reward: RewardOptions, seed: int, output: Path) -> Config:
    """The configuration of a cell."""
    return Config(
        method=recipe.method,
        override=dict(recipe.override),
        model=ModelOptions(MODEL),
        data=replace(data, system=SYSTEM, max_response_tokens=size.tokens, over_limit="cut"),
        reward=reward,
        sampling=SamplingOptions(max_new_tokens=size.tokens),
        training=TrainingConfig(size.steps, batch=size.batch, minibatch=size.batch, lr=LR, micro_tokens=MICRO_TOKENS),
        evaluation=EvaluationConfig(size.prompts, every=size.every, greedy=0, max_cut=size.max_cut),
        save=SaveConfig(final=False),
        seed=seed,
        output=str(output),
    )


# ---- offline data -------------------------------------------------------------------------------------------------


def place(home: Path, name: str, size: Size) -> Path:
    """The data folder of a size: other settings draw other data."""
    return home / "data" / f"{name}-{hashlib.sha256(repr((size, MODEL, SYSTEM, DRAWING)).encode()).hexdigest()[:8]}"


def stored(path: Path, make: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a JSON Lines file, created if it does not exist."""
    if not path.is_file():
        write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in make()))
    return lines(path)


def lines(path: Path) -> list[Row]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def draw(size: Size) -> list[Row]:
    """Two answers of the reference to each training prompt of a run, rated by length in tokens.

    Groups with an empty answer are skipped: data files do not allow them.
    """
    model, problem = _reference(size)
    batch = collect_offline(problem, model.reference, groups(size), 2, seed=DRAWING)
    both = [
        [
            str(model.tokenizer.decode(ids[:n].tolist(), skip_special_tokens=True)).strip()
            for ids, n in zip(*row, strict=True)
        ]
        for row in zip(batch.responses, batch.lengths.tolist(), strict=True)
    ]  # special tokens inside a response would be text in a file
    texts = zip(problem.decode_prompts(batch), both, batch.lengths.tolist(), strict=True)
    rows = [{"prompt": prompt, "responses": both, "scores": tokens} for prompt, both, tokens in texts]
    return [row for row in rows if all(row["responses"])]


def preferences(drawn: Sequence[Row], cost: Callable[[Any], Any]) -> list[Row]:
    """Pairs of answers with different costs, the cheaper one chosen; ties are skipped.

    Args:
        drawn: rows from `draw`.
        cost: cost of a number of tokens; lower is better.
    """
    out = []
    for row in drawn:
        (a, b), (x, y) = row["responses"], map(cost, row["scores"])
        if x != y and a != b:
            out.append({"prompt": row["prompt"], "chosen": a if x < y else b, "rejected": b if x < y else a})
    return out


def median(drawn: Sequence[Row]) -> int:
    """Median length of the reference's answers in tokens."""
    return round(float(np.median([tokens for row in drawn for tokens in row["scores"]])))


def groups(size: Size) -> int:
    """Number of pairs of reference answers that a run can use, at most one per training prompt."""
    return min(len(instructions("train")), size.steps * size.batch // 2)


def _reference(size: Size) -> tuple[OpenModel, TextProblem]:
    """The untrained model and the built-in instructions, without a reward."""
    sampling = SamplingOptions(max_new_tokens=size.tokens)
    model = open_model(ModelOptions(MODEL), sampling, micro_tokens=MICRO_TOKENS, seed=DRAWING)
    return model, open_data(DataOptions(system=SYSTEM)).problem(model.template)
