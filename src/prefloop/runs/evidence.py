"""What a diagnosis reads of a run folder. Imports no torch until the data are read for questions in common."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.analysis.evidence import Answer, Curve, Evidence, curve
from prefloop.analysis.numbers import is_part
from prefloop.analysis.several import Several
from prefloop.core.errors import UserError
from prefloop.runs.config import load
from prefloop.runs.folder import CONFIG, existing, read, read_manifest

Line = Mapping[str, Any]
LEAST_TRIES = 4  # answers to a prompt from which a best of them is looked at
WIDTH_OF_INTERVAL = 2 * 1.96  # standard errors


def evidence(folder: str | Path) -> Evidence:
    """The curves, answers and held-out pairs of a run folder.

    Raises:
        UserError: not a run folder.
        DataError: a broken record.
    """
    path = existing(folder)
    objective = dict(read_manifest(path).get("objective", {}))
    options = dict(objective.get("hyperparameters", {}))
    metrics, pairs = read(path, "metrics"), read(path, "pairs")
    curves = curves_of(metrics)
    reward = str(dict(objective.get("reward", {})).get("name", ""))
    beta = options.get("beta")
    margins, why = _margins(pairs)
    several, too_few = _several(read(path, "scores"), curves)
    return Evidence(
        name=str(path),
        method=str(objective.get("method", "?")),
        curves=curves,
        beta=float(beta) if isinstance(beta, int | float) else None,
        pairs=objective.get("pairs") is not None,
        reference="reference" in objective.get("needs", ()),
        learned_reward=reward == "bradley_terry" or "eval/gold" in curves,
        reward=reward,
        limit=_limit(path),
        margins=margins,
        answers=[_answer(line) for line in read(path, "samples") if not line.get("greedy")],
        several=several,
        notes={name: text for name, text in (("margins", why), ("several", too_few)) if text},
    )


def curves_of(lines: Iterable[Line]) -> dict[str, Curve]:
    """The curves of a record; steps and evaluations may have a key in common, which then belongs to the steps."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for kind in ("step", "evaluation"):
        for line in (line for line in lines if line.get("kind") == kind):
            for key, value in line.items():
                if key in ("kind", "step") or is_part(key) or not isinstance(value, int | float):
                    continue
                found.setdefault(key, []).append((float(line["step"]), float(value), _error(line, key)))
    made = {key: curve(*map(list, zip(*sorted(points), strict=True))) for key, points in found.items()}
    return {key: known for key, known in made.items() if known is not None}


def _error(line: Line, key: str) -> float:
    """The standard error of a metric, also from its 95 % interval; nan if neither is known."""
    if isinstance(line.get(f"{key}_se"), int | float):
        return float(line[f"{key}_se"])
    low, high = line.get(f"{key}_low"), line.get(f"{key}_high")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return (high - low) / WIDTH_OF_INTERVAL
    return math.nan


def _margins(pairs: Sequence[Line]) -> tuple[list[float], str]:
    """The margins of the last evaluation, or why there are none."""
    last = max((line["step"] for line in pairs), default=0)
    lines = [line for line in pairs if line["step"] == last]
    if not last:
        return [], ""
    if any("margin" not in line for line in lines):
        return [], "the run is of a version that does not record margins of held-out pairs"
    return [float(line["margin"]) for line in lines], ""


def _several(lines: Sequence[Line], curves: Mapping[str, Curve]) -> tuple[Several | None, str]:
    """Rewards of several answers to each held-out prompt before and after, gold if there is one; or why there are none.

    Both are None and empty if the run has no evaluations with a reward before and after.
    """
    key = next((name for name in ("gold", "reward") if f"eval/{name}" in curves), None)
    steps = [] if key is None else curves[f"eval/{key}"].step.tolist()
    if key is None or len(steps) < 2:
        return None, ""
    before, after = ([line for line in lines if line["step"] == step and key in line] for step in (steps[0], steps[-1]))
    if not before or [line["prompt"] for line in before] != [line["prompt"] for line in after]:
        return None, "the run is of a version that does not record the rewards of each prompt"
    count = min(len(line[key]) for line in (*before, *after))
    if count < LEAST_TRIES:
        return None, f"the best of {count} says little: set evaluation.samples to {LEAST_TRIES} or more"
    old, new = (np.array([line[key][:count] for line in some], dtype=np.float64) for some in (before, after))
    return Several(key, old, new, [line["question"] for line in before]), ""


def _answer(line: Line) -> Answer:
    score = line.get("score")
    return Answer(
        step=int(line["step"]),
        prompt=str(line.get("prompt", "")),
        text=str(line.get("response", "")),
        tokens=int(line.get("tokens", 0)),
        score=None if score is None else float(score),
    )


def _limit(path: Path) -> int | None:
    try:
        return load(path / CONFIG).sampling.max_new_tokens
    except UserError:  # written by another version
        return None


# ---- questions in common ---------------------------------------------------------------------------------------------


def with_overlap(run: Evidence, folder: str | Path) -> Evidence:
    """The evidence with the share of held-out questions that are trained on too; read from the data of the run."""
    found, why = overlap(folder)
    return replace(run, overlap=found) if found is not None else replace(run, notes={**run.notes, "overlap": why})


def overlap(folder: str | Path) -> tuple[float | None, str]:
    """The share of held-out questions that are trained on too, but for case, spaces and punctuation; or why not known.

    The same prompt on both sides is refused before a training; this finds near copies.
    """
    from prefloop.worlds.text.open_data import data_hashes, open_data

    path = existing(folder)
    try:
        config = load(path / CONFIG)
        recorded = read_manifest(path).get("data", {})
        now = data_hashes(config.data)
        if any(now[name] != recorded.get(name) for name in now):
            return None, "the data files are not there any more, or have changed"
        data = open_data(config.data)
    except UserError as error:
        return None, f"the data of the run cannot be read: {error.what.splitlines()[0]}"
    known = {_key(group.text) for group in data.train}
    held = {_key(group.text) for group in data.held_out}
    return len(held & known) / len(held), ""


def _key(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
