"""`prefloop demo`: the 2×2 of the paper on a real language model, out of one method and two switches.

The reward is high for one complete sentence about the question; the reference rambles. The paper predicts that
on-policy sampling and the negative gradient each help where the reference rarely writes what the reward wants. The rule
was fixed before any run: a prediction holds in a comparison of two cells if the 95 % interval of the paired difference
of reward on held-out prompts lies above 0, is contradicted if it lies below 0, and is open otherwise.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from prefloop.cli.demo_cells import EXTRA, GRID, LABELS, configs
from prefloop.cli.options import Output, require_folder, require_positive, require_seed
from prefloop.cli.plan import predict
from prefloop.core.errors import UserError, nearest
from prefloop.runs.schema import Flag


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Fine-tune a small language model four ways, by turning two switches of one method, and compare the results."""

    steps: int | None = None
    """Optimiser steps of each cell; a smaller number shortens the whole demo."""
    seed: int = 0
    """The first seed."""
    seeds: int = 1
    """Repeat over this many seeds, for intervals over seeds."""
    output: Annotated[Path, Flag(metavar="FOLDER")] = Path("runs")
    """Where the run folders and demo.html go; finished runs in it are reused."""
    cells: Annotated[tuple[str, ...], Flag(commas=True)] = GRID
    """Cells to run, such as online_dpo,offline_dpo."""
    extra: bool = False
    """Pref-FT and best-of-4 too."""

    def __post_init__(self) -> None:
        require_positive(self, "steps", "seeds")
        require_seed(self.seed)
        require_folder(self.output)
        for name in self.cells:
            if name not in LABELS:
                raise UserError(f"unknown cell `{name}`", where="--cells", fix=nearest(name, LABELS))

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.cells, *(name for name in EXTRA if self.extra and name not in self.cells))


def run(options: Options) -> int:
    """Train the cells, print the table and the verdicts, write one HTML page.

    Raises:
        UserError, DataError: before anything is trained.
    """
    clock, seeds = time.monotonic(), range(options.seed, options.seed + options.seeds)
    cells = {
        (name, seed): config
        for seed in seeds
        for name, config in configs(options.names, seed=seed, output=str(options.output), steps=options.steps).items()
    }
    labels = {key: LABELS[key[0]] + (f", seed {key[1]}" if options.seeds > 1 else "") for key in cells}
    wanted = {labels[key]: config for key, config in cells.items()}

    from prefloop.runs.grid import grid  # torch and transformers load here

    predicted = None if options.silent else predict(wanted, options, since=clock, hint="; --steps N shortens it")
    folders = grid(wanted, quiet=options.silent)
    _report({name: [folders[labels[name, s]] for s in seeds] for name in options.names}, options, clock, predicted)
    return 0


def _report(folders: dict[str, list[Path]], options: Options, clock: float, predicted: float | None) -> None:
    from prefloop.cli import demo_result as result
    from prefloop.report import page
    from prefloop.report.data import load

    names = [LABELS[name] for name in folders]
    by_seed = [load(each, names) for each in zip(*folders.values(), strict=True)]
    cells = dict(zip(folders, zip(*by_seed, strict=True), strict=True))
    where = page.write(
        [each[0] for each in folders.values()],
        options.output / "demo.html",
        title="One method, two switches: what does each do?",
        verdict=[*result.answer(cells), " ".join([*result.sentences(cells), result.scope(cells)])],
        labels=names,
    )
    seconds = time.monotonic() - clock

    def record() -> dict[str, Any]:
        verdicts = [asdict(v) | {"verdict": v.word} for v in result.verdicts(cells)]
        return {"cells": result.record(cells), "verdicts": verdicts, "page": str(where), "seconds": seconds}

    def text() -> None:
        from prefloop.cli.demo_terminal import show

        show(cells)
        said = "" if not predicted else f" (predicted {predicted / 60:.1f})"
        print(f"\n{seconds / 60:.1f} min in all{said}. Frontier, curves and all answers: {where}")

    options.show(record, text)
