"""A reward model fitted to a file of preferences, measured on questions held out, and saved with its manifest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefloop.analysis.numbers import duration
from prefloop.core.errors import DataError
from prefloop.core.files import write
from prefloop.rewards.bradley_terry.options import FitOptions, fit_options
from prefloop.worlds.text.spec import require, require_device

if TYPE_CHECKING:  # torch and transformers are imported after cheap checks
    import torch

    from prefloop.data.formats import Loaded
    from prefloop.data.records import Group
    from prefloop.rewards.bradley_terry.model import BradleyTerry

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What determines a reward model."""

    data: str
    """Preferences: .jsonl, .json (both also .gz) or .parquet."""
    model: str = "smollm2"
    """Base model: local folder, hub name in the cache, or smollm2."""
    fit: dict[str, Any] = field(default_factory=dict)
    """Options of the fit: see docs/reward-models.md."""
    template: str = "auto"
    """Rendering of conversations: auto, chat, plain, chatml, zephyr, alpaca, human-assistant or a Jinja file."""
    held_out: str = "split"
    """Held-out data: a file, `split` or `none`."""
    held_out_share: float = 0.2
    """Share of the questions that `split` holds out."""
    split_seed: int = 0
    """Seed of `split`."""
    format: str = "auto"
    """Format of the files; `auto` detects it from the columns."""
    group_by: str = "prompt"
    """Column whose equal values are one question."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column names and those of the files."""
    limit: int | None = None
    """Read at most this many rows."""
    faulty: Literal["refuse", "skip"] = "refuse"
    """Rows that cannot be used: refuse the file, or skip and count them."""
    system: str | None = None
    """System message for prompts that have none."""
    seed: int = 0
    """Seed of order, validation folds and new weights."""
    autocast: Literal["auto", True, False] = "auto"
    """bfloat16 matrix products."""
    device: str = "auto"
    """Where the model computes: cpu, cuda, cuda:N, mps or auto."""
    micro_tokens: int = FitOptions.micro_tokens
    """Tokens per forward pass; limits memory."""

    def __post_init__(self) -> None:
        require_device("device", self.device)
        share = self.held_out_share
        require(0 < share < 1, "held_out_share", share, "use a share between 0 and 1, or held_out: none")
        _ = self.how

    @property
    def how(self) -> FitOptions:
        """Options of the fit.

        Raises:
            UserError: an unknown or contradictory option.
        """
        return fit_options(self.fit, where="fit")


@dataclass(frozen=True)
class Sides:
    """Training groups, and held-out groups of other questions."""

    train: list[Group]
    held_out: list[Group]
    hashes: dict[str, str]  # SHA-256 by the name of the file
    notes: list[str]  # what was guessed, left out or replaced


def sides(config: RewardConfig, say: Say) -> Sides:
    """The preferences to fit to and those held out; held-out questions that are trained on are excluded, counted.

    Raises:
        DataError: a file that cannot be read, or a side without preferences.
    """
    from prefloop.data.reading import data_hash
    from prefloop.data.records import split
    from prefloop.rewards.bradley_terry.model import digests, known

    loaded = _read(config, config.data)
    whole, notes = loaded.groups, _noted(config.data, loaded, say)
    hashes = {config.data: data_hash(config.data)}
    if config.held_out == "none":
        return Sides(whole, [], hashes, notes)
    if config.held_out == "split":
        fitted_to, held_out = split(whole, config.held_out_share, config.split_seed)
    else:
        more = _read(config, config.held_out)
        fitted_to, held_out, notes = whole, more.groups, [*notes, *_noted(config.held_out, more, say)]
        hashes[config.held_out] = data_hash(config.held_out)
    trained_on = frozenset().union(*map(digests, fitted_to))
    unseen = [group for group in held_out if not known(group, trained_on)]
    if lost := len(held_out) - len(unseen):
        both = f"{lost:,} of {len(held_out):,} held-out rows are excluded: their questions are in the training data"
        notes = [*notes, both]
        say(both)
    for name, groups in (("training", fitted_to), ("held-out", unseen)):
        if not any(g.scores and len(set(g.scores)) > 1 for g in groups):
            fix = "use more data, another --held-out-share, or --held-out none"
            what = f"no {name} preferences" + (" on questions outside the training data" * (name == "held-out"))
            raise DataError(what, where=config.data, fix=fix)
    return Sides(fitted_to, unseen, hashes, notes)


def _read(config: RewardConfig, path: str) -> Loaded:
    """A file, with the given system message."""
    from prefloop.data.formats import load_usable
    from prefloop.data.records import with_system
    from prefloop.data.skipping import kept

    loaded = load_usable(
        Path(path), format=config.format, group_by=config.group_by, columns=config.columns, limit=config.limit
    )
    loaded = kept(Path(path), loaded, config.faulty)
    return replace(loaded, groups=with_system(config.system, loaded.groups))


def _noted(path: str, loaded: Loaded, say: Say) -> list[str]:
    notes = [f"{path}: {remark}" for remark in loaded.remarks]
    for note in notes:
        say(note)
    return notes


def train(config: RewardConfig, out: Path, *, say: Say, quiet: bool) -> dict[str, Any]:
    """Fit, measure and save; returns the record of the model.

    Args:
        out: folder for the model; absent or empty.
        quiet: draw no bar of progress.

    Raises:
        UserError, DataError: nothing was written.
    """
    from prefloop.core import devices
    from prefloop.rewards.bradley_terry.disk import require_free

    require_free(out)
    device = devices.chosen(config.device, "--device")
    devices.repeatable(device)
    say(devices.said(device, config.device))
    data = sides(config, say)
    say(f"{_size(data.train)} to fit to, {_size(data.held_out) if data.held_out else 'none'} held out")
    clock = time.monotonic()
    model, notes = _fitted(config, data.train, device, say, quiet)
    return _save(config, out, model, replace(data, notes=[*data.notes, *notes]), time.monotonic() - clock)


def _fitted(
    config: RewardConfig, groups: list[Group], device: torch.device, say: Say, quiet: bool
) -> tuple[BradleyTerry, list[str]]:
    """The fitted model, and notes about the model that it starts from."""
    from prefloop.policies.causal_lm import resolve_autocast
    from prefloop.rewards.bradley_terry import start
    from prefloop.rewards.bradley_terry.fit import fit, pooling_of
    from prefloop.rewards.bradley_terry.whole import template_for
    from prefloop.runs.interrupt import Interrupt
    from prefloop.runs.progress import Progress

    by = config.how
    base = start.load(config.model, seed=config.seed)
    template = template_for(base.tokenizer, config.template)
    notes = list(filter(None, (template.note, base.note(by.freeze_backbone, pooling_of(base.model, by.pooling)))))
    for note in notes:
        say(note)
    bar_quiet = quiet or by.freeze_backbone
    with Interrupt(quiet=quiet) as interrupt, Progress(by.steps, "reward model", quiet=bar_quiet) as bar:

        def foresee(seconds: float, steps: int) -> None:
            say(f"forecast: about {duration(seconds)} to fit")
            bar.total = steps

        fitted = fit(
            base.model.to(device),
            template,
            groups,
            by,
            seed=config.seed,
            autocast=resolve_autocast(config.autocast, base.model),
            poll=interrupt.poll,
            observe=lambda step, value: bar.advance(note=f"loss {value:.4f}"),
            foresee=foresee,
        )
    cut, rows = (int(fitted.facts[name]) for name in ("cut_responses", "distinct_responses"))
    if cut:
        notes.append(cut_remark(cut, rows, f"{fitted.max_tokens:,}"))
        say(notes[-1])
    return fitted, notes


def cut_remark(lost: int, count: int, limit: str) -> str:
    """How many responses did not fit."""
    return f"{lost:,} of {count:,} responses are longer than {limit} tokens, prompt included, and were cut."


def _save(config: RewardConfig, out: Path, model: BradleyTerry, data: Sides, seconds: float) -> dict[str, Any]:
    """Write the model and its manifest; returns the record to print."""
    import torch

    from prefloop.core import devices
    from prefloop.policies.pretrained import model_hash
    from prefloop.rewards.bradley_terry import disk as saved
    from prefloop.rewards.bradley_terry.accuracy import reward_accuracy
    from prefloop.runs.manifest import manifest

    seen = reward_accuracy(model, data.held_out, seed=config.seed) if data.held_out else None
    model = replace(model, facts={**model.facts, **(seen.metrics() if seen else {})})
    saved.save(model, out)
    made_of = manifest(
        seeds={"run": config.seed, "split": config.split_seed},
        objective={"method": "bradley_terry", **asdict(config.how.loss)},
        data=data.hashes,
        model={"path": config.model, "sha256": model_hash(config.model)},
        threads=torch.get_num_threads(),
        device=devices.recorded(model.head.weight.device),
        notes=[*data.notes, *([str(seen)] if seen else [])],
    )
    write(out / "manifest.json", json.dumps(made_of, indent=2) + "\n")
    record = {"model": str(out), "seconds": round(seconds, 1), "facts": dict(model.facts)}
    return {**record, "held_out": str(seen) if seen else None, "notes": data.notes}


def _size(groups: list[Group]) -> str:
    return f"{len(groups):,} rows of {len({g.key for g in groups}):,} questions"
