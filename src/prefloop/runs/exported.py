"""A run's model as a plain Hugging Face folder: which files it takes, where its base is from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prefloop.core.errors import UserError
from prefloop.core.files import published
from prefloop.runs.folder import BEST, CONFIG, FINAL, existing

CARD, ADAPTER, KEPT = "README.md", "adapter_config.json", "adapter"
WHOLE_ONLY = re.compile(r".*\.safetensors(\.index\.json)?|config\.json|generation_config\.json")  # not of an adapter
LICENSES = {"smollm2": "apache-2.0"}  # of models that come without a card
FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """What is exported: the whole model, adapters merged, or the adapter alone."""

    run: Path
    model: Path  # RUN/final or RUN/best
    adapter: bool

    @property
    def files(self) -> Iterator[Path]:
        """Weights, configuration and tokenizer, without the card that training wrote."""
        beside = (f for f in sorted(self.model.iterdir()) if f.is_file() and f.name != CARD)
        if not self.adapter:
            yield from beside
            return
        yield from sorted(f for f in (self.model / KEPT).iterdir() if f.is_file())
        yield from (f for f in beside if not WHOLE_ONLY.fullmatch(f.name))

    @property
    def base(self) -> str:
        """What the adapter's file names as the model that it belongs to; empty for a whole model."""
        if not self.adapter:
            return ""
        return str(json.loads((self.model / KEPT / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"])


def source(name: str | Path, *, adapter: bool) -> Source:
    """The model of a run that a name stands for.

    Args:
        name: a run folder, or RUN/best.
        adapter: whether the adapter alone is wanted.

    Raises:
        UserError: no run, no such model in it, or no adapter.
    """
    from prefloop.runs.trained import home_of

    home = existing(home_of(str(name)))
    which = BEST if Path(name).name == BEST else FINAL
    model = home / which
    if not model.is_dir():
        fix = f"finish it (prefloop train --resume {home}), or train with save.final=true"
        if which == BEST:
            fix = f"train with evaluation.keep_best=METRIC, or export the run itself: {home}"
        raise UserError(f"this run has no {which} model", where=str(home), fix=fix)
    if adapter and not (model / KEPT / ADAPTER).is_file():
        what = "this run has trained the weights themselves, not an adapter"
        raise UserError(what, where=str(home / CONFIG), fix="leave --adapter out, or train with model.lora_rank=16")
    return Source(home, model, adapter)


def require_empty(out: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UserError: with its name.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError("the output already exists", where=str(out), fix="choose another folder")


def write(source: Source, out: Path, card: str, *, base: str = "") -> None:
    """Copy the files and write the card, all or nothing.

    Args:
        base: hub name that an adapter gives as its base model in place of `source.base`.

    Raises:
        UserError: the folder holds something already.
    """
    require_empty(out)
    with published(out) as temporary:
        for file in source.files:
            shutil.copyfile(file, temporary / file.name)
        if source.adapter and base:
            settings = json.loads((temporary / ADAPTER).read_text(encoding="utf-8"))
            text = json.dumps(settings | {"base_model_name_or_path": base}, indent=2)
            (temporary / ADAPTER).write_text(text + "\n", encoding="utf-8")
        (temporary / CARD).write_text(card, encoding="utf-8")


def license_of(path: str) -> str:
    """The license that the card of a model states; empty if there is no card, or it states none.

    Args:
        path: `model.path` of a run; the model need not be there any more.
    """
    from prefloop.policies import adapters, pretrained

    if path in LICENSES:
        return LICENSES[path]
    try:
        folder = pretrained.resolve(path)
        folder = pretrained.resolve(adapters.base_of(folder)) if adapters.is_adapter(folder) else folder
    except UserError:
        return ""
    found = _front(folder / CARD).get("license", "")
    return found if isinstance(found, str) else ""


def _front(card: Path) -> dict[str, Any]:
    """The front matter of a model card; empty if it has none that can be read."""
    found = FRONT.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    try:
        values = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}
