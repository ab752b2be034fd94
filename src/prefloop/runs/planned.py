"""What a run will take before anything is trained: steps, samples, tokens, memory part by part. No weights are read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from prefloop.core import devices
from prefloop.core.errors import UserError
from prefloop.core.method import Method
from prefloop.policies import adapters, packing, pretrained
from prefloop.policies.causal_lm import has_bf16
from prefloop.policies.conversation import template_of
from prefloop.policies.folder import read_config
from prefloop.runs import memory
from prefloop.runs.config import Config
from prefloop.runs.length import with_steps
from prefloop.runs.memory import Shape, Work
from prefloop.runs.rates import Load
from prefloop.runs.speed import trained
from prefloop.runs.world import method_of, plan_of, resolved
from prefloop.worlds.text.open_data import TextData, open_data

READ, DRAWS = 400, 20  # examples whose tokens are counted, batches that are put together from them
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class Planned:
    """A run in numbers."""

    config: Config  # resolved, with its number of steps
    shape: Shape
    work: Work
    load: Load
    samples: int  # responses drawn in training
    collections: int

    @property
    def peak(self) -> tuple[str, dict[str, int]]:
        """The stage that needs most memory, and its parts in bytes."""
        return memory.peak(self.shape, self.work)

    @property
    def bytes(self) -> int:
        return sum(self.peak[1].values())


def planned(config: Config, *, gpu: bool = False) -> Planned:
    """Count what a run will do.

    Args:
        gpu: whether it will compute on a GPU with bfloat16 rather than on this machine.

    Raises:
        UserError, DataError: as a run would, and an architecture that the formulas do not describe.
    """
    config = resolved(config)
    method = method_of(config)
    data = open_data(config.data)
    config = with_steps(config, method, len(data.train))
    plan_of(config, method)
    shape = shape_of(config)
    batches = _batches(config, method, data)
    largest = max((pack for packs in batches for pack in packs), key=lambda pack: pack[0])
    padded = sum(pack[0] for packs in batches for pack in packs) / len(batches)
    draws = method.on_policy > 0 or not data.has_responses or _answers(config) > 0
    longest = max(prompt for prompt, _ in _sizes(config, data)) + config.sampling.max_new_tokens
    work = Work(
        half=config.model.dtype == "bfloat16",
        autocast=_autocast(config, gpu),
        checkpointing=config.model.gradient_checkpointing,
        tokens=largest[0],
        predicted=largest[1],
        micro_batches=max(map(len, batches)),
        reference="reference" in method.needs,
        entropy=method.entropy > 0,
        critic=method.critic,
        rows=config.sampling.rows if draws else 0,
        length=longest if draws else 0,
    )
    return Planned(config, shape, work, *_load(config, method, shape, work, padded, longest))


def shape_of(config: Config) -> Shape:
    """The sizes of the model, counted on a copy without numbers.

    Raises:
        UserError: not a decoder of the Llama kind.
    """
    from transformers import AutoModelForCausalLM

    model = config.model
    folder = pretrained.resolve(model.path)
    if adapters.is_adapter(folder):
        folder = pretrained.resolve(adapters.base_of(folder))
    read = read_config(folder)
    sizes: Any = read.get_text_config()
    if any(not getattr(sizes, name, None) for name in SIZES) or getattr(sizes, "num_local_experts", None):
        fix = "use --plan of `prefloop train` for its time, and a short run for its memory"
        raise UserError(f"the formulas do not describe {type(read).__name__}", where=model.path, fix=fix)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(read)
    count = sum(p.numel() for p in whole.parameters())
    linear = sum(m.weight.numel() for m in whole.modules() if isinstance(m, nn.Linear))
    if model.trained_layers:
        pretrained.train_last_layers(whole, model.trained_layers)
    if model.lora_rank:
        lora = adapters.Lora(model.lora_rank, model.lora_alpha, model.lora_dropout, model.lora_targets)
        whole = adapters.with_lora(whole, lora)
    heads = sizes.num_attention_heads
    return Shape(
        parameters=count,
        trained=sum(p.numel() for p in whole.parameters() if p.requires_grad),
        linear=linear,
        hidden=sizes.hidden_size,
        layers=sizes.num_hidden_layers,
        trained_layers=model.trained_layers or sizes.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(sizes, "num_key_value_heads", None) or heads,
        head=getattr(sizes, "head_dim", None) or sizes.hidden_size // heads,
        inner=sizes.intermediate_size,
        vocabulary=sizes.vocab_size,
        adapters=model.lora_rank > 0,
    )


def _autocast(config: Config, gpu: bool) -> bool:
    setting = config.model.autocast
    if setting != "auto":
        return setting
    return config.model.dtype == "float32" and (gpu or has_bf16(devices.chosen(config.model.device)))


def _sizes(config: Config, data: TextData) -> list[tuple[int, tuple[int, ...]]]:
    """Tokens of prompt and responses of some training examples, evenly spaced."""
    tokenizer, stops = pretrained.tokenizer_of(config.model.path)
    options = config.data
    named, date = options.template_options, options.template_date
    template = template_of(tokenizer, options.template, named, stops=stops, date=date)
    groups = data.train[:: max(1, len(data.train) // READ)][:READ]
    return data.problem(template, pretrained.limits_of(config.model.path)).sizes(groups)


def _batches(config: Config, method: Method, data: TextData) -> list[list[tuple[int, int]]]:
    """Micro-batches of steps that are put together from the data: padded and response tokens of each.

    Sampled responses count as long as they may be.
    """
    sizes, rng, t = _sizes(config, data), random.Random(0), config.training
    groups, rows = t.minibatch // method.responses, max(1, round(method.responses * trained(method)))
    limit = config.sampling.max_new_tokens if method.on_policy > 0 or not data.has_responses else None
    found = []
    for _ in range(DRAWS):
        drawn = rng.choices(sizes, k=groups) if groups > len(sizes) else rng.sample(sizes, groups)
        answers = [[limit] * rows if limit else sorted(x)[-rows:] for _, x in drawn]
        wide = [prompt + max(some) - 1 for (prompt, _), some in zip(drawn, answers, strict=True)]
        packs = packing.packs(wide, t.micro_tokens, [rows] * groups)
        found.append([(max(wide[i] for i in p) * rows * len(p), sum(sum(answers[i]) for i in p)) for p in packs])
    return found


def _answers(config: Config) -> int:
    return 0 if config.reward.name == "labels" else config.evaluation.prompts * config.evaluation.samples


def _load(
    config: Config, method: Method, shape: Shape, work: Work, padded: float, longest: int
) -> tuple[Load, int, int]:
    """Tokens in all, responses drawn in training, and collections."""
    t = config.training
    collections = -(-t.steps * t.minibatch // (t.batch * method.reuse))
    samples = round(collections * t.batch * method.on_policy)
    used = max(1e-9, trained(method))
    reads = ("reference" in method.needs) + ("behaviour" in method.needs) + ("values" in method.needs)
    evaluations = 1 + -(-t.steps // (config.evaluation.every or max(1, t.steps)))
    answers = _answers(config) * evaluations
    read = collections * t.batch * reads * padded / (t.minibatch * used) + 2 * answers * longest
    drawn = float((samples + answers) * config.sampling.max_new_tokens)
    frozen = shape.adapters
    load = Load(t.steps * padded, read, drawn, work.rows, shape.parameters, work.product, frozen, work.checkpointing)
    return load, samples, collections


def smaller(config: Config, *, gpu: bool = False) -> list[tuple[str, int]]:
    """Changes that need less memory, and the bytes that each leaves."""
    model, training, sampling = config.model, config.training, config.sampling
    ways: list[tuple[str, Config]] = []
    if not model.gradient_checkpointing:
        key = "model.gradient_checkpointing: true"
        ways.append((key, replace(config, model=replace(model, gradient_checkpointing=True))))
    if training.micro_tokens > 512:
        less = training.micro_tokens // 4
        ways.append((f"training.micro_tokens: {less}", replace(config, training=replace(training, micro_tokens=less))))
    if sampling.rows > 8:
        less = sampling.rows // 4
        ways.append((f"sampling.rows: {less}", replace(config, sampling=replace(sampling, rows=less))))
    if not model.lora_rank and model.trained_layers is None:
        ways.append(("model.lora_rank: 16", replace(config, model=replace(model, lora_rank=16))))
    now = planned(config, gpu=gpu).bytes
    found: Sequence[tuple[str, int]] = [(key, planned(other, gpu=gpu).bytes) for key, other in ways]
    return sorted((x for x in found if x[1] < now), key=lambda x: x[1])
