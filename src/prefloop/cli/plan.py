"""`prefloop plan CONFIG`: what a run will take, before anything is trained; and the time of several runs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.analysis.numbers import duration, gibibytes
from prefloop.cli.options import Output, require
from prefloop.core.errors import UserError
from prefloop.core.wrapping import wrapped
from prefloop.runs import config as configuration
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.runs.config import Config
    from prefloop.runs.planned import Planned


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Say how many steps, samples and tokens a run has, how much memory it needs, and how long it takes.

    Every key of the configuration is a flag too. Time comes from a few seconds of the run's work on this machine, or
    from the rates of a named GPU.
    """

    config: Annotated[Path | None, Flag(positional=True, metavar="CONFIG.yaml")] = None
    """Configuration file (YAML)."""
    gpu: Annotated[str, Flag(metavar="NAME")] = ""
    """Plan for this GPU: A10, A100, H100, H200, L4 or L40S."""
    gpus: int = 1
    """GPUs that share each batch; each holds a whole model."""
    changes: Annotated[dict[str, Any], Flag(of=configuration.Config)] = field(default_factory=dict)
    """Keys given as flags."""

    def __post_init__(self) -> None:
        require(self.gpus >= 1, "gpus", self.gpus, "use 1 or more")
        require(self.gpus == 1 or bool(self.gpu), "gpus", self.gpus, "name the GPU: --gpu H100")


def run(options: Options) -> int:
    """Print the plan.

    Raises:
        UserError, DataError: as a run would.
    """
    if not (options.config or options.changes):
        fix = "prefloop plan CONFIG.yaml, or prefloop plan --data.train FILE"
        raise UserError("give a configuration file, or keys as flags", fix=fix)
    config = configuration.changed(options.config, options.changes)
    from prefloop.runs.planned import planned, smaller
    from prefloop.runs.rates import gpu, seconds

    rates = gpu(options.gpu) if options.gpu else None
    found = planned(config, gpu=rates is not None)
    room = rates.memory if rates else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    fits = found.bytes <= room
    took = seconds(found.load, rates, count=options.gpus) if rates else _timed(options, config) if fits else None
    ways = [] if fits else smaller(config, gpu=rates is not None)
    record = _record(found) | {"room": room, "fits": fits, "seconds": took, "smaller": dict(ways)}
    options.show(lambda: record, lambda: print("\n".join(map(wrapped, _lines(options, found, record)))))
    return 0


def _timed(options: Options, config: Config) -> float:
    from prefloop.runs.forecast import forecast

    options.say("timing a small part of the work on this machine")
    return forecast({"": config})


def _record(found: Planned) -> dict[str, Any]:
    from prefloop.runs.memory import stages

    stage, parts = found.peak
    return {
        "steps": found.config.training.steps,
        "collections": found.collections,
        "samples": found.samples,
        "tokens": {"trained": found.load.trained, "read": found.load.read, "sampled, at most": found.load.drawn},
        "parameters": found.shape.parameters,
        "trained": found.shape.trained,
        "memory": {"bytes": found.bytes, "stage": stage, "parts": parts},
        "stages": {name: sum(some.values()) for name, some in stages(found.shape, found.work).items()},
    }


def _lines(options: Options, found: Planned, record: dict[str, Any]) -> list[str]:
    from prefloop.runs.rates import BUSY, READ, gpu

    tokens, where = record["tokens"], options.gpu or "this machine"
    lines = [
        f"steps: {record['steps']:,}, of {found.config.training.minibatch} responses; {record['collections']:,}"
        f" collections; {record['samples']:,} responses sampled in training",
        "tokens: " + ", ".join(f"{name} {count:,.0f}" for name, count in tokens.items()),
        f"parameters: {record['parameters']:,}, of which {record['trained']:,} are trained",
        f"peak memory: {gibibytes(found.bytes)} (in {record['memory']['stage']}), beside the libraries",
        *(f"  {part}: {gibibytes(count)}" for part, count in record["memory"]["parts"].items()),
    ]
    if record["seconds"] is not None:
        lines.append(f"time: about {duration(record['seconds'])} on {where}")
    if options.gpu:
        lines.append(
            f"  by the {gpu(options.gpu).source}, at {BUSY:.0%} of its products and {READ:.0%} of its memory rate; not"
            " measured here"
        )
    if not record["fits"]:
        lines.append(f"does not fit: {where} has {gibibytes(record['room'])}. What to change:")
        lines += [f"  {key} leaves {gibibytes(left)}" for key, left in record["smaller"].items()]
    return lines


def predict(cells: Mapping[str, Config], options: Output, *, since: float | None = None, hint: str = "") -> float:
    """Seconds that the unfinished runs will take, by timing a small part of their work; printed. 0 if all are finished.

    Args:
        since: when the command started, if its beginning counts too; a value of `time.monotonic`.
        hint: how to shorten them, for the printed line.
    """
    from prefloop.runs.forecast import forecast
    from prefloop.runs.grid import finished

    clock = time.monotonic() if since is None else since
    done = finished(cells)
    left = {label: config for label, config in cells.items() if label not in done}
    if not left:
        options.say("these runs are finished: their results are reused")
        return 0.0
    of = f"{len(left)} runs" if not done else f"{len(left)} of {len(cells)} runs, the others are finished"
    options.say(f"{of}: timing a small part of the work")
    predicted = forecast(left) + time.monotonic() - clock
    options.say(f"about {predicted / 60:.1f} min in all{hint}")
    return predicted
