"""`prefloop train`: a run from a configuration file and flags, or the rest of an interrupted one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.analysis.numbers import cell, is_part
from prefloop.cli import train_grid
from prefloop.cli.options import Output
from prefloop.cli.plan import predict
from prefloop.core.errors import UserError
from prefloop.core.wrapping import wrapped
from prefloop.runs import config as configuration
from prefloop.runs.folder import BEST
from prefloop.runs.schema import Flag

if TYPE_CHECKING:  # torch and transformers are imported after cheap checks
    from prefloop.analysis.diagnose import Diagnosis
    from prefloop.runs.experiment import Result


COUNTS = {"eval/pairs": "pairs", "eval/questions": "questions", "eval/labels/count": "labelled responses"}
AXES = ("method", "seed", "override", "training", "model.lora_rank", "model.trained_layers")  # may be lists
TRACKED = ("tracking.to", "tracking.project", "tracking.name")
HERE = ("training.micro_tokens", "sampling.rows", "model.device", "model.parted")
RESUMED = ("training.steps", *HERE, *TRACKED)  # with --resume


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Fine-tune a model from a YAML file, flags, or both.

    Every key of the file is a flag too: --training.steps 20, --override.beta 0.2. `--keys` lists them all with their
    defaults. Lists make a grid of runs: --method dpo,simpo --override.beta 0.05,0.1 --seed 0,1,2.
    """

    config: Annotated[Path | None, Flag(positional=True, metavar="CONFIG.yaml")] = None
    """Configuration file (YAML)."""
    resume: Annotated[Path | None, Flag(metavar="RUN")] = None
    """Continue the interrupted run in this folder; with --training.steps N also a finished one."""
    keys: bool = False
    """List every key with its default."""
    plan: bool = False
    """Name the runs and predict their time without training."""
    ray: Annotated[str, Flag(metavar="ADDRESS")] = ""
    """Train each run as a task of this Ray cluster; `local` starts one."""
    changes: Annotated[list[dict[str, Any]], Flag(of=configuration.Config, lists=AXES)] = field(default_factory=list)
    """Keys given as flags, for each run of a grid."""


def run(options: Options) -> int:
    """Train, and print held-out numbers before and after and the path of the run.

    Raises:
        UserError, DataError: before anything is trained or overwritten.
    """
    if options.keys:
        options.show(_keys, _print_keys)
        return 0
    flags = options.changes[0]
    if not (options.config or options.resume or flags):
        fix = "prefloop train CONFIG.yaml, or prefloop train --data.train FILE"
        raise UserError("give a configuration file, keys as flags, or --resume RUN", fix=fix)
    if options.config and options.resume:
        raise UserError("a resumed run keeps its configuration", where=str(options.config), fix="leave the file out")
    if options.resume:
        _check_resumed(options)
    configs = [] if options.resume else [configuration.changed(options.config, tree) for tree in options.changes]
    if len(configs) > 1 or options.plan or options.ray:
        if several():
            fix = "start one run with the launcher, or several without it"
            raise UserError("processes that share a run train one at a time", where="torchrun, accelerate", fix=fix)
        return _grid(options, dict(zip(train_grid.labels(options.changes), configs, strict=True)))
    of = [f"{one.model.path} and {one.data.train}" for one in configs]
    if os.environ.get("RANK", "0") == "0":
        options.say(f"opening {of[0] if of else options.resume}")
    quiet, trainer = options.silent, _trainer()
    if configs:
        result = trainer.run(configs[0], quiet=quiet)
    else:
        training = dict(flags.get("training", {}))
        steps = training.pop("steps", None)
        here = {**flags, "training": training}
        result = trainer.resume(str(options.resume), steps=steps, here=here, quiet=quiet)
    if result is not None:
        options.show(lambda: _record(result), lambda: _table(result))
    return 0


def _trainer() -> Any:
    """The functions that train: in this process, or in those that a launcher has started."""
    from prefloop.runs import experiment

    if not several():
        return experiment
    from prefloop.scale import together

    return together


def several() -> bool:
    """Whether this is one of several processes that `torchrun` or `accelerate launch` has started."""
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in needed) and os.environ["WORLD_SIZE"] != "1"


def _check_resumed(options: Options) -> None:
    """Refuse to change what a run computes; where it computes, and in what portions, is up to the machine.

    Raises:
        UserError: another key, --plan or --ray.
    """
    given = {f"{part}.{key}".rstrip(".") for part, keys in options.changes[0].items() for key in _names(keys)}
    other = sorted(given - set(RESUMED)) or ["--plan"] * options.plan or ["--ray"] * bool(options.ray)
    if other or len(options.changes) > 1:
        fix = f"remove the other flags: {RESUMED[0]} may grow, and {', '.join(RESUMED[1:])} be changed"
        where = ", ".join(other) or ", ".join(sorted(given))
        raise UserError("a resumed run keeps its configuration", where=where, fix=fix)


def _names(keys: Any) -> list[str]:
    return list(keys) if isinstance(keys, dict) else [""]


def _grid(options: Options, configs: dict[str, configuration.Config]) -> int:
    """Predict the time of several runs, train those that are not finished, and compare them."""
    from prefloop.runs.grid import grid

    seconds = predict(configs, options)
    if options.plan:
        plan = {"runs": list(configs), "seconds": seconds}
        options.show(lambda: plan, lambda: print("\n".join(label or "one run" for label in configs)))
        return 0
    if options.ray:
        from prefloop.scale import ray_runs

        folders = ray_runs.grid(configs, options.ray, say=options.say)
    else:
        folders = grid(configs, quiet=options.silent)
    found, output = train_grid.results(folders), next(iter(configs.values())).output
    options.show(lambda: train_grid.record(*found), lambda: train_grid.show(*found, output))
    return 0


def _keys() -> list[dict[str, Any]]:
    return [{"key": key, "default": default, "note": note} for key, default, note in configuration.options()]


def _print_keys() -> None:
    for key, default, note in configuration.options():
        print(f"{key} = {default!r}\n    {note}")


def _record(result: Result) -> dict[str, Any]:
    return {
        "run": str(result.folder),
        "before": result.before,
        "after": result.after,
        "findings": _findings(result),
        "diagnosis": _diagnosis(result).record(),
        "notes": list(result.notes),
        "best": _best(result),
    }


def _best(result: Result) -> dict[str, Any] | None:
    """The best evaluation and its model, if one is kept: none for the untrained model, which is where it was."""
    if result.best is None:
        return None
    model = str(result.folder / BEST) if result.best.step else None
    return {"metric": result.best.metric, "value": result.best.value, "step": result.best.step, "model": model}


def _findings(result: Result) -> list[str]:
    """What the held-out numbers say, as in the report."""
    from prefloop.report.cells import columns
    from prefloop.report.findings import findings

    return findings(columns([result.folder]))


def _diagnosis(result: Result) -> Diagnosis:
    """Every check of the table on the run's records; `prefloop diagnose RUN` also reads its data."""
    from prefloop.analysis.diagnose import diagnose
    from prefloop.runs.evidence import evidence

    return diagnose(evidence(result.folder))


def _table(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    from prefloop.analysis.diagnose import short

    table = Table("held-out", "before", "after", box=None, header_style="bold", pad_edge=False)
    counts = {key: title for key, title in COUNTS.items() if key in result.after}
    for key in result.after:
        if not is_part(key) and key not in counts:
            table.add_row(key.removeprefix("eval/"), cell(result.before, key), cell(result.after, key))
    Console().print(table)
    if counts:
        print(f"on {', '.join(f'{result.after[key]:.0f} {title}' for key, title in counts.items())}")
    for sentence in _findings(result):
        print(wrapped(sentence))
    print("\n".join(short(_diagnosis(result), f"prefloop diagnose {result.folder}")))
    if best := _best(result):
        where = f"at step {best['step']}: {best['model']}" if best["model"] else "of the untrained model"
        print(f"best {best['metric']}: {best['value']:.4g} {where}")
    print(f"run folder: {result.folder}\nnext: prefloop report {result.folder}, which explains every number")
