"""Run folders as the cells of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from prefloop.analysis.compare import Scores
from prefloop.analysis.frontier import Path as Curve
from prefloop.core.errors import UserError
from prefloop.report.cells import by_cell, ordered, settings
from prefloop.report.compared import COSTS, Cell, Need
from prefloop.report.data import Run, load
from prefloop.report.findings import finished, progress, questions, ranked
from prefloop.runs import held_out

WHOLE = {"gold": "eval/gold", "reward": "eval/reward", "labels": "eval/labels/auc", "loss": "eval/loss"}
KL = "eval/kl_reverse"


def cells_of(folders: Sequence[Path]) -> tuple[list[Cell], list[str]]:
    """The cells of finished runs, and what is to be said of the others.

    Raises:
        UserError: not a run folder, the same run twice, or no finished run.
        DataError: a broken record.
    """
    runs = ordered(load(list(dict.fromkeys(folders))))
    _check_once(runs)
    done = [run for run in runs if finished(run)]
    notes = [f"left out, not finished: {run.path} ({progress(run)})" for run in runs if run not in done]
    if not done:
        raise UserError(
            "no finished run", where=str(runs[0].path), fix="finish it: prefloop train " + str(runs[0].path)
        )
    merged = by_cell(done)
    places = _places(merged)
    return [_cell(run, places[i]) for i, run in enumerate(merged)], notes


def _check_once(runs: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        key = json.dumps([settings(run), run.seed], sort_keys=True, default=str)
        if key in seen:
            what = f"`{run.path}` and `{seen[key].path}` have the same settings and seed"
            raise UserError(what, fix="give one of them: they are not two seeds of a method")
        seen[key] = run


def _cell(run: Run, place: int) -> Cell:
    members = run.members or (run,)
    scores = {key: table for key, table in _scores(run, members).items() if all(table.values())}
    return Cell(
        label=run.label,
        method=run.method,
        runs=tuple(str(one.path) for one in members),
        scores=scores,
        needs={key: _needs(run, key, place) for key in scores},
        clusters=questions(run) if "pairs" in scores else run.asked,
        paths={key: _paths(members, WHOLE[key]) for key in ("gold", "reward") if key in scores},
        costs=_costs(members),
    )


def _scores(run: Run, members: Sequence[Run]) -> dict[str, Scores]:
    """Numbers at the end by measure, by prompt where they are recorded."""
    out: dict[str, Scores] = {}
    for key, name in WHOLE.items():
        last = {one.seed: one.after(name) for one in members}
        if all(last.values()):
            answers = run.by_seed(max, key)
            whole = {seed: {"": float(value.value)} for seed, value in last.items() if value}
            out[key] = answers if len(set.intersection(*map(set, answers.values()))) > 1 else whole
    if "reward" not in out and (judged := ranked(run)) and all(judged.values()):
        out["pairs"] = judged
    return out


def _needs(run: Run, key: str, place: int) -> dict[str, Need]:
    """What must be the same, so that a measure means the same."""
    model = run.manifest.get("model", {})
    common = {"held-out examples": Need(place), "reference": Need(model.get("sha256"), str(model.get("path", "")))}
    if key == "reward":
        return common | {"reward": _reward(run, "reward")}
    return common | {"gold reward": _reward(run, "gold")} if key == "gold" else common


def _reward(run: Run, key: str) -> Need:
    """A reward with its options and the hash of its code; one that each run fitted is like no other."""
    reward: Mapping[str, Any] = run.objective.get(key, {})
    name = str(reward.get("name", "not named"))
    if name == "bradley_terry" and "path" not in reward:
        return Need(str(run.path), f"fitted in {run.path.name}")
    code = {n: h for n, h in run.manifest.get("sources", {}).items() if n == name or n in str(reward.get("path", ""))}
    return Need(json.dumps([reward, code], sort_keys=True, default=str), name)


def _places(runs: Sequence[Run]) -> list[int]:
    """A number for each run; equal if their held-out examples are. A cell whose seeds differ is like no other."""
    kinds: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    out = []
    for i, run in enumerate(runs):
        records = [(one.config, one.manifest) for one in run.members or (run,)]
        alike = all(held_out.are_same(records[0], record) for record in records)
        place = next((n for n, kind in enumerate(kinds) if held_out.are_same(kind, records[0])), len(kinds))
        if place == len(kinds):
            kinds.append(records[0])
        out.append(place if alike else -1 - i)
    return out


def _paths(members: Sequence[Run], name: str) -> dict[Any, Curve]:
    """(KL, number) of each evaluation that has both."""
    each: dict[Any, Curve] = {
        run.seed: [(float(e[KL]), float(e[name])) for e in run.evaluations if e.get(KL) is not None and name in e]
        for run in members
    }
    return each if all(each.values()) else {}


def _costs(members: Sequence[Run]) -> dict[str, float]:
    """Means per run of what all recorded."""
    found = {key: [_cost(run, key) for run in members] for key in COSTS}
    return {key: fmean(x for x in values if x is not None) for key, values in found.items() if None not in values}


def _cost(run: Run, key: str) -> float | None:
    if key != "hours":
        return run.last(key)
    return None if run.seconds is None else run.seconds / 3600
