"""`prefloop reward train`: fit a reward model to preferences."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.analysis.numbers import duration
from prefloop.cli.options import require, require_place, require_positive, require_seed
from prefloop.cli.reward.shared import Shared, cut_remark, device_of, noted, read_data
from prefloop.core.errors import DataError
from prefloop.core.files import write
from prefloop.rewards.bradley_terry.options import NAMES, Asked, FitOptions, Schedule, Ties, fit_options
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    import torch

    from prefloop.data.records import Group
    from prefloop.rewards.bradley_terry.model import BradleyTerry


@dataclass(frozen=True, kw_only=True)
class Options(Shared):
    """Fit a reward model to preferences, measure it on held-out questions and save it."""

    out: Annotated[Path, Flag(metavar="DIR")]
    """Folder for the reward model."""
    model: str = "smollm2"
    """Base model: local folder, hub name in the cache, or smollm2."""
    template: str = "auto"
    """Rendering of conversations: auto, chat, plain, chatml, zephyr, alpaca, human-assistant or a Jinja file."""
    held_out: Annotated[str, Flag(metavar="FILE")] = "split"
    """Held-out data: a file, `split` or `none`."""
    held_out_share: float = 0.2
    """Share of the questions that `split` holds out."""
    split_seed: int = 0
    """Seed of `split`, as `data.split_seed` of `prefloop train`: the sides do not change with --seed."""
    freeze_backbone: bool | None = None
    """Fit only the head, in minutes (default); otherwise backbone and head, in hours."""
    pooling: Asked | None = None
    """What the last layer reads: last, mean, both, cls, head (default: by the architecture)."""
    steps: int | None = None
    """Steps that train backbone and head together (default: 200)."""
    epochs: float | None = None
    """In place of --steps: passes over the pairs."""
    lr: float | None = None
    """Highest learning rate of these steps (default: 1e-5)."""
    schedule: Schedule | None = None
    """Learning rate after warm-up (default: linear, falling to 0)."""
    warmup: float | None = None
    """Steps of warm-up; below 1: their share (default: 0)."""
    batch: int | None = None
    """Pairs per step (default: 16)."""
    label_smoothing: float | None = None
    """Assumed share of wrong preferences (default: 0)."""
    rating_margin: float | None = None
    """Required lead per unit of rating difference (Llama 2; default: 0)."""
    ties: Ties | None = None
    """Drop ties (default), or count each as half a preference each way."""
    centring: float | None = None
    """Coefficient of (s_w + s_l)², such as 0.01 (default: 0)."""
    max_tokens: int | None = None
    """Longer prompts and responses are cut on the left (default: 1024)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_place(self.out)
        require_positive(self, "steps", "epochs", "lr", "batch", "max_tokens")
        require_seed(self.split_seed, "split_seed")
        share = self.held_out_share
        require(0 < share < 1, "held_out_share", share, "use a share between 0 and 1, or --held-out none")

    @property
    def fit(self) -> FitOptions:
        """Options of the fit.

        Raises:
            UserError: contradictory options.
        """
        return fit_options({name: value for name in NAMES if (value := getattr(self, name)) is not None})


@dataclass(frozen=True)
class Sides:
    """Training groups, and held-out groups of other questions."""

    train: list[Group]
    held_out: list[Group]
    hashes: dict[str, str]  # SHA-256 by the name of the file
    notes: list[str]  # what was guessed, left out or replaced


def run(options: Options) -> int:
    """Fit, measure and save.

    Raises:
        UserError, DataError: nothing was written.
    """
    by = options.fit
    from prefloop.rewards.bradley_terry.disk import require_free

    require_free(options.out)
    device = device_of(options)
    sides = _sides(options)
    options.say(f"{_size(sides.train)} to fit to, {_size(sides.held_out) if sides.held_out else 'none'} held out")
    clock = time.monotonic()
    model, notes = _fitted(options, sides.train, by, device)
    record = _save(options, by, model, replace(sides, notes=[*sides.notes, *notes]), time.monotonic() - clock)
    options.show(lambda: record, lambda: _print(options, record))
    return 0


def _print(options: Options, record: dict[str, Any]) -> None:
    facts = record["facts"]
    pairs = f"{facts['train_pairs']:,} pairs of {facts['train_questions']:,} questions"
    print(f"fitted to {pairs} in {record['seconds']:.0f} s")
    print(record["held_out"] or "held-out accuracy: not measured")
    print(f"reward model: {options.out}")
    print(f"next: prefloop reward card {options.out} {options.data} --out {options.out}-card")


def _sides(options: Options) -> Sides:
    from prefloop.data.reading import data_hash
    from prefloop.data.records import split
    from prefloop.rewards.bradley_terry.model import digests, known

    loaded = read_data(options, options.data)
    whole, notes = loaded.groups, noted(options, options.data, loaded)
    hashes = {str(options.data): data_hash(str(options.data))}
    if options.held_out == "none":
        return Sides(whole, [], hashes, notes)
    if options.held_out == "split":
        fitted_to, held_out = split(whole, options.held_out_share, options.split_seed)
    else:
        more = read_data(options, Path(options.held_out))
        fitted_to, held_out, notes = whole, more.groups, [*notes, *noted(options, options.held_out, more)]
        hashes[options.held_out] = data_hash(options.held_out)
    trained_on = frozenset().union(*map(digests, fitted_to))
    unseen = [group for group in held_out if not known(group, trained_on)]
    if lost := len(held_out) - len(unseen):
        both = f"{lost:,} of {len(held_out):,} held-out rows are excluded: their questions are in the training data"
        notes = [*notes, both]
        options.say(both)
    held_out = unseen
    for name, groups in (("training", fitted_to), ("held-out", held_out)):
        if not any(g.scores and len(set(g.scores)) > 1 for g in groups):
            fix = "use more data, another --held-out-share, or --held-out none"
            what = f"no {name} preferences" + (" on questions outside the training data" * (name == "held-out"))
            raise DataError(what, where=str(options.data), fix=fix)
    return Sides(fitted_to, held_out, hashes, notes)


def _fitted(
    options: Options, groups: list[Group], by: FitOptions, device: torch.device
) -> tuple[BradleyTerry, list[str]]:
    """The fitted model, and notes about the model that it starts from."""
    from prefloop.policies.causal_lm import resolve_autocast
    from prefloop.rewards.bradley_terry import start
    from prefloop.rewards.bradley_terry.fit import fit, pooling_of
    from prefloop.rewards.bradley_terry.whole import template_for
    from prefloop.runs.interrupt import Interrupt
    from prefloop.runs.progress import Progress

    base = start.load(options.model, seed=options.seed)
    template = template_for(base.tokenizer, options.template)
    notes = list(filter(None, (template.note, base.note(by.freeze_backbone, pooling_of(base.model, by.pooling)))))
    for note in notes:
        options.say(note)
    quiet = options.silent
    bar_quiet = quiet or by.freeze_backbone
    with Interrupt(quiet=quiet) as interrupt, Progress(by.steps, "reward model", quiet=bar_quiet) as bar:

        def foresee(seconds: float, steps: int) -> None:
            options.say(f"forecast: about {duration(seconds)} to fit")
            bar.total = steps

        fitted = fit(
            base.model.to(device),
            template,
            groups,
            by,
            seed=options.seed,
            autocast=resolve_autocast(options.autocast, base.model),
            poll=interrupt.poll,
            observe=lambda step, value: bar.advance(note=f"loss {value:.4f}"),
            foresee=foresee,
        )
    cut, rows = (int(fitted.facts[name]) for name in ("cut_responses", "distinct_responses"))
    if cut:
        notes.append(cut_remark(cut, rows, f"{fitted.max_tokens:,}"))
        options.say(notes[-1])
    return fitted, notes


def _save(options: Options, by: FitOptions, model: BradleyTerry, sides: Sides, seconds: float) -> dict[str, Any]:
    """Write the model and its manifest; returns the record to print."""
    import torch

    from prefloop.core import devices
    from prefloop.policies.pretrained import model_hash
    from prefloop.rewards.bradley_terry import disk as saved
    from prefloop.rewards.bradley_terry.accuracy import reward_accuracy
    from prefloop.runs.manifest import manifest

    seen = reward_accuracy(model, sides.held_out, seed=options.seed) if sides.held_out else None
    model = replace(model, facts={**model.facts, **(seen.metrics() if seen else {})})
    saved.save(model, options.out)
    made_of = manifest(
        seeds={"run": options.seed, "split": options.split_seed},
        objective={"method": "bradley_terry", **asdict(by.loss)},
        data=sides.hashes,
        model={"path": options.model, "sha256": model_hash(options.model)},
        threads=torch.get_num_threads(),
        device=devices.recorded(model.head.weight.device),
        notes=[*sides.notes, *([str(seen)] if seen else [])],
    )
    write(options.out / "manifest.json", json.dumps(made_of, indent=2) + "\n")
    record = {"model": str(options.out), "seconds": round(seconds, 1), "facts": dict(model.facts)}
    return {**record, "held_out": str(seen) if seen else None, "notes": sides.notes}


def _size(groups: list[Group]) -> str:
    return f"{len(groups):,} rows of {len({g.key for g in groups}):,} questions"
