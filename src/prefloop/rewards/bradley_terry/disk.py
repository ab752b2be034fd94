"""Reward models on disk, as safetensors.

A language model that reads only the last state, and an encoder that keeps the layers of its own head, are stored as a
transformers sequence classifier whose logit is the score minus `offset` in reward.json. Other models have backbone and
head in one weights file in our own layout.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefloop.core.errors import DataError, UserError
from prefloop.core.files import published
from prefloop.policies.architecture import state_size
from prefloop.policies.conversation import Tokenizer
from prefloop.policies.folder import check_files, read_config, read_tokenizer
from prefloop.policies.templates import CHAT
from prefloop.rewards.bradley_terry import classifier as sequence_classifier
from prefloop.rewards.bradley_terry.model import BradleyTerry
from prefloop.rewards.bradley_terry.options import Pooling
from prefloop.rewards.bradley_terry.pooling import WIDTH
from prefloop.rewards.bradley_terry.whole import PAIR, Whole, is_encoder, template_for, unmarked, without_pooler

WEIGHTS, FACTS = "model.safetensors", "reward.json"
BACKBONE, HEAD = "backbone.", "head."  # prefixes in the weights file of our own layout
OWN, CLASSIFIER = "prefloop", "sequence_classification"  # layouts
CONTEXT = 4096  # maximum number of tokens for third-party models, whose own limit may far exceed their training length


def save(model: BradleyTerry, folder: Path | str) -> None:
    """Write backbone, head, tokenizer and facts atomically; `load` reads them.

    Raises:
        UserError: the folder exists and is not empty.
    """
    folder, tokenizer = Path(folder), unmarked(model.template)
    alike = model.pooling == ("head" if isinstance(model.backbone, Whole) else "last")
    require_free(folder)
    with published(folder) as home:
        offset = sequence_classifier.write(home, model.backbone, model.head, tokenizer) if alike else None
        if offset is None:
            _write_own(model, tokenizer, home)
        facts = {
            "layout": OWN if offset is None else CLASSIFIER,
            "pooling": model.pooling,
            "max_tokens": model.max_tokens,
            "offset": float(model.head.bias.item()) if offset is None else offset,
            "template": model.template.kind,
            "template_options": dict(model.template.options),
            "whole": model.whole,
            "facts": dict(model.facts),
            "trained_on": sorted(model.trained_on),
        }
        (home / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def require_free(folder: Path) -> None:
    """Refuse to overwrite an existing folder.

    Raises:
        UserError: the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("the folder already exists", where=str(folder), fix="choose another folder")


def load(
    folder: Path | str, *, micro_tokens: int = 8192, autocast: bool = False, date: str | None = None
) -> BradleyTerry:
    """A saved reward model: one of ours, or a third-party sequence classifier with one label.

    Args:
        date: see `template_of`.

    Raises:
        UserError: the folder does not exist.
        DataError: a file or the head is missing, or the weights do not match the configuration.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError("the reward model does not exist", where=str(folder), fix=sequence_classifier.TRAIN_ONE)
    if not (folder / FACTS).is_file():
        return _third_party(folder, micro_tokens, autocast, date)
    facts = _facts(folder)
    if facts["layout"] == CLASSIFIER:
        read = sequence_classifier.read(folder)
        backbone, head, tokenizer = read.backbone, _with_bias(read.head, facts["offset"]), read.tokenizer
    else:
        backbone, head, tokenizer = _read_own(folder, facts["pooling"], encoder=facts["whole"])
    return BradleyTerry(
        backbone=backbone.eval(),
        head=head,
        template=template_for(tokenizer, facts["template"], facts["template_options"], date=date),
        whole=facts["whole"],
        pooling=backbone.pooling if isinstance(backbone, Whole) else facts["pooling"],
        max_tokens=facts["max_tokens"],
        micro_tokens=micro_tokens,
        autocast=autocast,
        facts=facts["facts"],
        trained_on=frozenset(facts["trained_on"]),
    )


def _third_party(folder: Path, micro_tokens: int, autocast: bool, date: str | None) -> BradleyTerry:
    read = sequence_classifier.read(folder)
    paired = isinstance(read.backbone, Whole) and not read.tokenizer.chat_template and is_encoder(read.tokenizer)
    template = template_for(read.tokenizer, PAIR if paired else CHAT, date=date)
    if not paired:
        template.check(str(folder))
    most = min(CONTEXT, read.context or CONTEXT)
    return BradleyTerry(
        backbone=read.backbone,
        head=_with_bias(read.head, 0.0),
        template=template,
        whole=True,
        pooling="head" if isinstance(read.backbone, Whole) else "last",
        padding=read.padding,
        max_tokens=most,
        micro_tokens=micro_tokens,
        autocast=autocast,
    )


def _facts(folder: Path) -> dict[str, Any]:
    """The contents of reward.json."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"the reward model cannot be read: {error}", where=str(folder / FACTS)) from error
    known = {
        "layout",
        "pooling",
        "max_tokens",
        "offset",
        "template",
        "template_options",
        "whole",
        "facts",
        "trained_on",
    }
    if not isinstance(facts, dict) or not known <= facts.keys():
        raise DataError("the facts of the reward model are incomplete", where=str(folder / FACTS), fix="train again")
    return facts


def _with_bias(head: nn.Linear, offset: float) -> nn.Linear:
    """The head with what its layer in transformers lacks."""
    made = nn.utils.skip_init(nn.Linear, head.in_features, 1)
    with torch.no_grad():
        made.weight.copy_(head.weight)
        made.bias.fill_(offset if head.bias is None else float(head.bias.item()) + offset)
    return made.requires_grad_(False)


def _write_own(model: BradleyTerry, tokenizer: Tokenizer, folder: Path) -> None:
    backbone: Any = model.backbone.model if isinstance(model.backbone, Whole) else model.backbone
    modules = {BACKBONE: backbone, HEAD: model.head}
    weights = {f"{k}{name}": x.cpu().contiguous() for k, m in modules.items() for name, x in m.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    backbone.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read_own(folder: Path, pooling: Pooling, *, encoder: bool) -> tuple[nn.Module, nn.Linear, Tokenizer]:
    from transformers import AutoModel

    what = sequence_classifier.WHAT
    check_files(folder, what)
    weights, config, tokenizer = load_file(folder / WEIGHTS), read_config(folder, what), read_tokenizer(folder, what)
    missing = {f"{HEAD}weight", f"{HEAD}bias"} - weights.keys()
    if missing:  # a newly initialised head would give random scores
        raise DataError(f"the reward model has no head: {min(missing)} is missing", where=str(folder / WEIGHTS))
    dtype = next((x.dtype for name, x in weights.items() if name.startswith(BACKBONE)), torch.float32)
    with torch.random.fork_rng(devices=[]):  # the backbone's initialisation uses the global generator
        backbone = AutoModel.from_config(config, dtype=dtype, trust_remote_code=False).eval()
    if encoder:
        without_pooler(backbone)
    head = nn.utils.skip_init(nn.Linear, WIDTH[pooling] * state_size(backbone), 1)
    for prefix, module in ((BACKBONE, backbone), (HEAD, head)):
        _fill(module, {k.removeprefix(prefix): x for k, x in weights.items() if k.startswith(prefix)}, folder)
    if not encoder:
        return backbone, head, tokenizer
    typed = "token_type_ids" in tokenizer.model_input_names
    return Whole(backbone, typed=typed, size=head.in_features, pooling=pooling), head, tokenizer


def _fill(module: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        what = "the weights do not match the reward model's configuration"
        raise DataError(f"{what}: {str(error).splitlines()[-1].strip()}", where=str(folder / WEIGHTS)) from error
    module.requires_grad_(False)
