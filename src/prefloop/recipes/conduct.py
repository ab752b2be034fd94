"""Running a recipe, each stage in the folder OUT/STAGE/HASH of what it is made of; finished stages are reused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from prefloop.analysis.numbers import compact, duration
from prefloop.core.errors import UserError, nearest
from prefloop.core.files import to_json, write
from prefloop.core.loop import Diverged
from prefloop.recipes import inputs
from prefloop.recipes.fitting import ADAPTER, order, outputs, root
from prefloop.recipes.measured import measured, scored
from prefloop.recipes.recipe import (
    OUTPUT,
    EvalStage,
    Recipe,
    RewardStage,
    Stage,
    TrainStage,
    cells,
    filled,
    reward_config,
    run_config,
)
from prefloop.runs.config import LOWER, Config
from prefloop.runs.folder import FINAL, read

DONE = "done.json"
DIGITS = 8  # of the hash in the name of a folder
ALL = "all"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """A stage, the folder of its results, and what it is made of."""

    stage: Stage
    home: Path
    pieces: Mapping[str, Any]
    identity: str

    @property
    def done(self) -> dict[str, Any] | None:
        """The record of the finished stage."""
        file = self.home / DONE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    @property
    def output(self) -> str:
        """The model that other stages use."""
        done = self.done
        return str(self.home / done["output"]) if done and done["output"] else ""


def works(recipe: Recipe, out: Path, rerun: Sequence[str] = ()) -> list[Work]:
    """The stages in their order, with folders; refuses a stage that is finished with other inputs.

    Args:
        rerun: stages that may run again with other inputs, and with them those that use their output; or `all`.

    Raises:
        UserError: a finished stage of other inputs, with what differs.
    """
    for name in rerun:
        if name not in (*recipe.stages, ALL):
            raise UserError(f"there is no stage `{name}`", where="--rerun", fix=nearest(name, (*recipe.stages, ALL)))
    made: dict[str, Work] = {}
    again = set(rerun)
    for stage in order(recipe):
        found = inputs.pieces(recipe, stage, {name: made[name].identity for name in stage.needs})
        identity = inputs.identity(found)
        work = Work(stage, out / stage.name / identity[:DIGITS], found, identity)
        again |= {stage.name} if set(stage.needs) & again else set()
        if work.done is None and not again & {stage.name, ALL}:
            _refuse_other(work, out)
        made[stage.name] = work
    return list(made.values())


def _refuse_other(work: Work, out: Path) -> None:
    ends = sorted((out / work.stage.name).glob(f"*/{DONE}"), key=lambda file: file.stat().st_mtime)
    if ends:
        then = json.loads(ends[-1].read_text(encoding="utf-8"))
        differs = "; ".join(inputs.changes(then["pieces"], dict(work.pieces))[:4])
        fix = f"undo the change, choose another --out, or --rerun {work.stage.name} (results so far are kept)"
        what = f"stage `{work.stage.name}` is finished with other inputs: {differs}"
        raise UserError(what, where=str(ends[-1].parent), fix=fix)


def run(recipe: Recipe, todo: Sequence[Work], *, say: Say, quiet: bool) -> list[dict[str, Any]]:
    """Run the stages that are not finished; returns the record of each.

    Raises:
        UserError, DataError: see the runs of `prefloop train`.
        Stopped: interrupted; the same call continues.
    """
    values = recipe.given
    records: dict[str, dict[str, Any]] = {}
    for work in todo:
        stage, done = work.stage, work.done
        if done is None:
            say(f"stage {stage.name} ({stage.kind})")
            clock = time.monotonic()
            found = _run(recipe, work, values, records, say, quiet)
            done = {"stage": stage.name, "kind": stage.kind, **found}
            done |= {"seconds": round(time.monotonic() - clock, 1), "pieces": dict(work.pieces)}
            work.home.mkdir(parents=True, exist_ok=True)
            write(work.home / DONE, to_json(done, indent=1) + "\n")
            say(f"stage {stage.name}: finished in {duration(done['seconds'])}")
        else:
            say(f"stage {stage.name}: finished before in {duration(done['seconds'])}, and reused")
        records[stage.name] = {**done, "folder": str(work.home)}
        if outputs(stage):
            values[f"{OUTPUT}{stage.name}"] = work.output
    return list(records.values())


def _run(
    recipe: Recipe, work: Work, values: Mapping[str, str], records: Mapping[str, Any], say: Say, quiet: bool
) -> dict[str, Any]:
    options = work.stage.options
    if isinstance(options, RewardStage):
        from prefloop.runs.reward_model import train

        out = work.home / "model"
        return {"output": out.name, **train(reward_config(recipe, work.stage, values), out, say=say, quiet=quiet)}
    if isinstance(options, EvalStage):
        rows = measured(recipe, work.stage, records, values, say)
        return {"output": "", "metric": options.metric, "source": options.source, "rows": [asdict(row) for row in rows]}
    return _train(recipe, work, values, say, quiet)


def _train(recipe: Recipe, work: Work, values: Mapping[str, str], say: Say, quiet: bool) -> dict[str, Any]:
    """Choose the learning rates, then train every cell with every seed."""
    from prefloop.runs.grid import grid

    options = work.stage.options
    assert isinstance(options, TrainStage)
    trials = _tuned(recipe, work, values, say, quiet) if options.tune.rates else {}
    rates = {cell: best_rate(tried, options.tune.metric) for cell, tried in trials.items()}
    if lost := [cell for cell, rate in rates.items() if rate is None]:
        raise UserError(
            f"every learning rate of `{lost[0]}` diverged", where=str(work.home), fix="try lower `tune.rates`"
        )
    for cell, rate in rates.items():
        say(f"{cell}: learning rate {compact(rate)}")
    wanted = configs(recipe, work.stage, values, str(work.home / "runs"), rates)
    folders = grid(wanted, quiet=quiet)
    runs = [
        {"cell": cell, "seed": seed, "run": str(folders[f"{cell}, seed {seed}"].relative_to(work.home))}
        for cell in cells(work.stage)
        for seed in options.seeds
    ]
    single = f"{runs[0]['run']}/{FINAL}" if outputs(work.stage) else ""
    tried = {cell: [[rate, value] for rate, value in found.items()] for cell, found in trials.items()}
    return {"output": single, "runs": runs, "rates": rates, "tuned": tried}


def configs(
    recipe: Recipe, stage: Stage, values: Mapping[str, str], output: str, rates: Mapping[str, float | None]
) -> dict[str, Config]:
    """The runs of a stage, by cell and seed.

    Args:
        rates: learning rate of each cell; those of the configuration where there is none.
    """
    assert isinstance(stage.options, TrainStage)
    return {
        f"{cell}, seed {seed}": run_config(
            recipe, stage, cell, values, {"seed": seed, "output": output, **_rate(rates.get(cell))}
        )
        for cell in cells(stage)
        for seed in stage.options.seeds
    }


def _rate(rate: float | None) -> dict[str, Any]:
    return {} if rate is None else {"training": {"lr": rate}}


def trials_of(
    recipe: Recipe, stage: Stage, values: Mapping[str, str], output: str
) -> dict[tuple[str, float, int], Config]:
    """The trials of learning rates, which save a model only to have it scored."""
    assert isinstance(stage.options, TrainStage)
    tune = stage.options.tune
    return {
        (cell, rate, seed): run_config(
            recipe,
            stage,
            cell,
            values,
            {"seed": seed, "output": output, "save": {"final": tune.scored_by is not None}, **_rate(rate)},
        )
        for cell in cells(stage)
        for rate in tune.rates
        for seed in tune.seeds
    }


Trials = dict[str, dict[float, float | None]]


def _tuned(recipe: Recipe, work: Work, values: Mapping[str, str], say: Say, quiet: bool) -> Trials:
    """By cell and learning rate, the mean of the metric at the end over the seeds; None where a run diverged."""
    from prefloop.runs.grid import grid

    options = work.stage.options
    assert isinstance(options, TrainStage)
    trials = trials_of(recipe, work.stage, values, str(work.home / "tuning"))
    say(f"{len(trials)} trials of learning rates")
    ends: dict[tuple[str, float, int], Path | None] = {}
    try:
        folders = grid({str(key): config for key, config in trials.items()}, quiet=quiet)
        ends |= dict(zip(trials, folders.values(), strict=True))
    except Diverged:  # a rate that is too high loses; the others are tried one by one, finished ones reused
        for key, config in trials.items():
            try:
                ends[key] = grid({str(key): config}, quiet=quiet)[str(key)]
            except Diverged as error:
                say(f"{key[0]} with learning rate {compact(key[1])} diverged: {error}")
                ends[key] = None
    by = None if options.tune.scored_by is None else str(filled(options.tune.scored_by, values))

    def end(run: Path | None) -> float | None:
        if run is None:
            return None
        return _last(run, options.tune.metric) if by is None else scored(run, by, options.tune.prompts, say)[1]

    return {
        cell: {rate: _mean([end(ends[cell, rate, seed]) for seed in options.tune.seeds]) for rate in options.tune.rates}
        for cell in cells(work.stage)
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _last(run: Path, metric: str) -> float:
    value = [line for line in read(run, "metrics") if line["kind"] == "evaluation"][-1].get(f"eval/{metric}")
    if value is None:
        what = f"the trials do not measure `{metric}`, which is to choose the learning rate"
        fix = "choose a metric that every cell measures, such as loss, or let `tune.scored_by` score their models"
        raise UserError(what, where=str(run), fix=fix)
    return float(value)


def best_rate(tried: Mapping[float, float | None], metric: str) -> float | None:
    """The learning rate with the best value; the lower one of two that are equal; None if every one diverged."""
    sign = -1.0 if metric in LOWER else 1.0
    known = {rate: sign * value for rate, value in tried.items() if value is not None}
    return min(known, key=lambda rate: (-known[rate], rate)) if known else None


# ---- forecast -------------------------------------------------------------------------------------------------------


def foreseen(recipe: Recipe, todo: Sequence[Work]) -> dict[str, float | None]:
    """Predicted seconds of each stage: 0 if it is finished, None if that is known only when it starts.

    A model that does not exist yet is timed as the one that it descends from, and a reward model as a rule.
    """
    from prefloop.runs.forecast import forecast

    values = recipe.given
    for work in todo:
        if outputs(work.stage):
            values[f"{OUTPUT}{work.stage.name}"] = work.output or root(recipe, work.stage, values)
    found: dict[str, float | None] = {}
    for work in todo:
        if work.done is not None:
            found[work.stage.name] = 0.0
        elif not isinstance(work.stage.options, TrainStage):
            found[work.stage.name] = None
        else:
            wanted = configs(recipe, work.stage, values, "-", {})
            trials = trials_of(recipe, work.stage, values, "-")
            every = {**wanted, **{str(key): config for key, config in trials.items()}}
            found[work.stage.name] = forecast({label: _timed(config) for label, config in every.items()})
    return found


def _timed(config: Config) -> Config:
    """The configuration with what is not there yet replaced by something of the same size."""
    learned = "path" in config.reward.options
    reward = replace(config.reward, name="length_min", options={}) if learned else config.reward
    model = replace(config.model, path=config.model.path.removesuffix(f"/{ADAPTER}"))
    return replace(config, reward=reward, model=replace(model, adapter=None))
