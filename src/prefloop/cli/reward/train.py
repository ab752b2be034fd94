"""`prefloop reward train`: fit a reward model to preferences."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.cli.options import require, require_place, require_positive
from prefloop.cli.reward.shared import Shared, read_data
from prefloop.core.errors import DataError
from prefloop.core.files import write
from prefloop.rewards.bradley_terry.options import NAMES, FitOptions, Pooling, Ties, fit_options
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
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
    """Rendering of conversations: auto, chat, plain or a Jinja file."""
    held_out: Annotated[str, Flag(metavar="FILE")] = "split"
    """Held-out data: a file, `split` or `none`."""
    held_out_share: float = 0.2
    """Share of the questions that `split` holds out."""
    freeze_backbone: bool | None = None
    """Fit only the head, in minutes (default); otherwise backbone and head, in hours."""
    pooling: Pooling | None = None
    """States that the head reads (default: last)."""
    steps: int | None = None
    """Steps that train backbone and head together (default: 200)."""
    lr: float | None = None
    """Learning rate of these steps (default: 1e-5)."""
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
        require_positive(self, "steps", "lr", "batch", "max_tokens")
        share = self.held_out_share
        require(0 < share < 1, "held_out_share", share, "use a share between 0 and 1, or --held-out none")

    @property
    def fit(self) -> FitOptions:
        """Options of the fit.

        Raises:
            UserError: contradictory options.
        """
        return fit_options({name: value for name in NAMES if (value := getattr(self, name)) is not None})


def run(options: Options) -> int:
    """Fit, measure and save.

    Raises:
        UserError, DataError: nothing was written.
    """
    by = options.fit
    from prefloop.rewards.bradley_terry.disk import require_free

    require_free(options.out)
    fitted_to, held_out, hashes = _sides(options)
    options.say(f"{_size(fitted_to)} to fit to, {_size(held_out) if held_out else 'none'} held out")
    clock = time.monotonic()
    model = _fitted(options, fitted_to, by)
    record = _save(options, by, model, held_out, hashes, time.monotonic() - clock)
    options.show(lambda: record, lambda: _print(options, record))
    return 0


def _print(options: Options, record: dict[str, Any]) -> None:
    facts = record["facts"]
    pairs = f"{facts['train_pairs']:,} pairs of {facts['train_questions']:,} questions"
    print(f"fitted to {pairs} in {record['seconds']:.0f} s")
    print(record["held_out"] or "held-out accuracy: not measured")
    print(f"reward model: {options.out}")
    print(f"next: prefloop reward card {options.out} {options.data} --out {options.out}-card")


def _sides(options: Options) -> tuple[list[Group], list[Group], dict[str, str]]:
    """Training groups, held-out groups of other questions, and the SHA-256 of their files."""
    from prefloop.data.reading import data_hash
    from prefloop.data.records import split
    from prefloop.rewards.bradley_terry.model import digests, known

    whole = read_data(options, options.data).groups
    hashes = {str(options.data): data_hash(str(options.data))}
    if options.held_out == "none":
        return whole, [], hashes
    if options.held_out == "split":
        fitted_to, held_out = split(whole, options.held_out_share, options.seed)
    else:
        fitted_to, held_out = whole, read_data(options, Path(options.held_out)).groups
        hashes[options.held_out] = data_hash(options.held_out)
    trained_on = frozenset().union(*map(digests, fitted_to))
    unseen = [group for group in held_out if not known(group, trained_on)]
    if lost := len(held_out) - len(unseen):
        options.say(
            f"{lost:,} of {len(held_out):,} held-out rows are excluded: their questions are in the training data"
        )
    held_out = unseen
    for name, groups in (("training", fitted_to), ("held-out", held_out)):
        if not any(g.scores and len(set(g.scores)) > 1 for g in groups):
            fix = "use more data, another --held-out-share, or --held-out none"
            what = f"no {name} preferences" + (" on questions outside the training data" * (name == "held-out"))
            raise DataError(what, where=str(options.data), fix=fix)
    return fitted_to, held_out, hashes


def _fitted(options: Options, groups: list[Group], by: FitOptions) -> BradleyTerry:
    import torch

    from prefloop.policies import pretrained
    from prefloop.policies.causal_lm import resolve_autocast
    from prefloop.policies.conversation import template_of
    from prefloop.rewards.bradley_terry.fit import fit
    from prefloop.runs.interrupt import Interrupt
    from prefloop.runs.progress import Progress

    torch.manual_seed(options.seed)
    model, tokenizer = pretrained.load(options.model)
    quiet = options.silent
    bar_quiet = quiet or by.freeze_backbone
    with Interrupt(quiet=quiet) as interrupt, Progress(by.steps, "reward model", quiet=bar_quiet) as bar:
        return fit(
            model,
            template_of(tokenizer, options.template),
            groups,
            by,
            seed=options.seed,
            autocast=resolve_autocast(options.autocast, model),
            poll=interrupt.poll,
            observe=lambda step, value: bar.advance(note=f"loss {value:.4f}"),
        )


def _save(
    options: Options,
    by: FitOptions,
    model: BradleyTerry,
    held_out: list[Group],
    hashes: dict[str, str],
    seconds: float,
) -> dict[str, Any]:
    """Write the model and its manifest; returns the record to print."""
    from dataclasses import asdict, replace

    import torch

    from prefloop.policies.pretrained import model_hash
    from prefloop.rewards.bradley_terry import disk as saved
    from prefloop.rewards.bradley_terry.accuracy import reward_accuracy
    from prefloop.runs.manifest import manifest

    seen = reward_accuracy(model, held_out, seed=options.seed) if held_out else None
    model = replace(model, facts={**model.facts, **(seen.metrics() if seen else {})})
    saved.save(model, options.out)
    made_of = manifest(
        seeds={"run": options.seed},
        objective={"method": "bradley_terry", **asdict(by.loss)},
        data=hashes,
        model={"path": options.model, "sha256": model_hash(options.model)},
        threads=torch.get_num_threads(),
        notes=[str(seen)] if seen else [],
    )
    write(options.out / "manifest.json", json.dumps(made_of, indent=2) + "\n")
    record = {"model": str(options.out), "seconds": round(seconds, 1), "facts": dict(model.facts)}
    return {**record, "held_out": str(seen) if seen else None}


def _size(groups: list[Group]) -> str:
    return f"{len(groups):,} rows of {len({g.key for g in groups}):,} questions"
