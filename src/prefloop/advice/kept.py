"""Outcomes on disk: a file of lines per world, a kilobyte per problem, small enough to be kept with the code.

The first line says what determines the numbers: prior, actions, runs and rules. A file of another version is refused.
Every other line is a problem, written at once when it is complete. Measures before training have a file of their own,
since they are cheap: they may change without the outcomes. Values have three digits after the point, far below the
noise of a seed.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from prefloop.advice import in_lab
from prefloop.advice.actions import ACTIONS
from prefloop.advice.features import FEATURES, SAMPLES
from prefloop.advice.in_lab import features_of
from prefloop.advice.outcomes import (
    BROKEN,
    FULL,
    LEAST,
    RATES,
    STARTS,
    SURE,
    Outcome,
    Result,
    Scale,
    key_of,
    measure,
)
from prefloop.advice.prior import DIALS, PROMPTS, VERSION, Problem, problems
from prefloop.analysis.offer import record
from prefloop.core.errors import DataError
from prefloop.core.files import digest, to_json
from prefloop.lab.pool import Pool
from prefloop.lab.setting import Setting
from prefloop.lab.stack import Run
from prefloop.lab.store import Store
from prefloop.lab.sweep import sweep

FORMAT = 1
DIGITS, ENDS, FEATURE = 3, 2, 4  # after the point: of values, of ends; and all of a feature's
FOLDER = Path("advice", "outcomes")
AGAIN = "move it away: `prefloop study run advice`, with the same --out, measures it again"
Line: TypeAlias = Mapping[str, Any]


@runtime_checkable
class Bench(Protocol):
    """What a pilot needs: a folder, workers, and whether to be quiet; a bench of the studies has them."""

    out: Path
    pool: Pool
    quiet: bool


# ------------------------------------------------------------------------------------------------------------- lines


@dataclass(frozen=True)
class Lines:
    """A file to which lines are added, a JSON object each, by one process or several.

    A process that is killed leaves at most an incomplete last line, which counts as not written.

    Args:
        head: the first line: what determines the others.
    """

    path: Path
    head: Line

    def read(self) -> dict[str, Line]:
        """Every line by its problem.

        Raises:
            DataError: no such file of lines, or one of another version.
        """
        whole = self.path.read_bytes().rpartition(b"\n")[0] if self.path.is_file() else b""
        if not whole:
            return {}
        try:
            first, *rest = map(json.loads, whole.split(b"\n"))
            found = {str(line["problem"]): line for line in rest}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError("not a file of outcomes of problems", where=str(self.path), fix=AGAIN) from error
        if other := [key for key in self.head if not isinstance(first, dict) or first.get(key) != self.head[key]]:
            what = f"outcomes of another version: {', '.join(f'`{key}`' for key in other)} differ"
            raise DataError(what, where=str(self.path), fix=AGAIN)
        return found

    def add(self, line: Line) -> None:
        """Write a line, after the last complete one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            complete = file.read().rfind(b"\n") + 1
            file.truncate(complete)
            rows = [line] if complete else [self.head, line]
            file.write(b"".join(to_json(row, separators=(",", ":")).encode() + b"\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())


def outcomes_in(out: Path, world: str, scale: Scale = FULL) -> Lines:
    """The outcomes of a world's problems."""
    rules = [BROKEN, LEAST, SURE, STARTS, RATES[world], PROMPTS[world], in_lab.EXACT, in_lab.SAMPLED]
    own = [problem.key for problem in problems(world, 4)]
    head = {
        "format": FORMAT,
        "world": world,
        "prior": VERSION,
        "actions": list(ACTIONS),
        "runs": scale.runs(world),
        "rules": digest([rules, own, [repr(action) for action in ACTIONS.values()]]),
    }
    return Lines(out / FOLDER / f"{world}.jsonl", json.loads(to_json(head)))


def features_in(out: Path, world: str) -> Lines:
    """What was measured of them before training."""
    own = [problem.key for problem in problems(world, 4)]
    head = {
        "format": FORMAT,
        "world": world,
        "features": list(FEATURES),
        "rules": digest([FEATURES, SAMPLES, in_lab.ASKED, own]),
    }
    return Lines(out / FOLDER / f"{world}-features.jsonl", head)


# ------------------------------------------------------------------------------------------------------------ a line


def line_of(outcome: Outcome) -> Line:
    """An outcome as a line; actions in their order, each as [rate, knob, interior, tuning runs, values, ends]."""
    line: dict[str, Any] = {"problem": outcome.problem, "key": outcome.key[:8]}
    if not outcome.results:
        return {**line, "dropped": outcome.no_headroom}
    every = [outcome.results[name] for name in ACTIONS]
    return {**line, "actions": [_row(one) for one in every]}


def _row(one: Result) -> list[Any]:
    values, ends = [round(x, DIGITS) for x in one.values], [_end(x) for x in one.ends]
    return [one.rate, one.knob, int(one.interior), one.tuning, values, ends]


def _end(value: float) -> float | None:
    """JSON has no nan, which is the end of a run that diverged."""
    return round(value, ENDS) if math.isfinite(value) else None


def outcome_of(line: Line, problem: Problem, scale: Scale, where: Path) -> Outcome:
    """The outcome in a line.

    Raises:
        DataError: not such a line, or another problem's.
    """
    key = key_of(problem, scale)
    try:
        rows = line.get("actions", [])
        if line["key"] != key[:8]:
            what = f"`{problem.name}` is another problem there, or was measured with other runs"
            raise DataError(what, where=str(where), fix=AGAIN)
        results = {name: _result(*row) for name, row in zip(ACTIONS, rows, strict=bool(rows))}
        return Outcome(problem.name, key, str(line.get("dropped", "")), results)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"not an outcome of `{problem.name}`", where=str(where), fix=AGAIN) from error


def _result(
    rate: float, knob: float, interior: int, tuning: int, values: Sequence[float], ends: Sequence[float | None]
) -> Result:
    lost = tuple(math.nan if value is None else value for value in ends)
    return Result(rate, knob, bool(interior), tuning, tuple(values), lost)


def _features(problem: Problem, out: Path) -> Mapping[str, Mapping[str, Any]]:
    """What can be measured before training, from disk if it is there; its value and error, or the reason for none."""
    lines = features_in(out, problem.kind)
    line = lines.read().get(problem.name)
    if line is None or line["key"] != problem.key[:8]:
        told = record(features_of(problem))
        line = {"problem": problem.name, "key": problem.key[:8], "features": [_short(told[name]) for name in FEATURES]}
        lines.add(line)
    return {name: _long(one) for name, one in zip(FEATURES, line["features"], strict=True)}


def _short(one: Mapping[str, Any]) -> str | list[float | None]:
    if "cannot_tell" in one:
        return str(one["cannot_tell"])
    return [float(f"{x:.{FEATURE}g}") if math.isfinite(x) else None for x in (one["value"], one["se"])]


def _long(one: str | Sequence[float | None]) -> dict[str, Any]:
    return {"cannot_tell": one} if isinstance(one, str) else dict(zip(("value", "se"), one, strict=True))


# ---------------------------------------------------------------------------------------------------------- problems


@contextmanager
def _claimed(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process measures what belongs to a folder; another one may. Ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def known(problem: Problem, out: Path, scale: Scale = FULL) -> Outcome | None:
    """The outcome of a problem with what was measured before; None if it is not on disk."""
    lines = outcomes_in(out, problem.kind, scale)
    line = lines.read().get(problem.name)
    if line is None:
        return None
    found = outcome_of(line, problem, scale, lines.path)
    return replace(found, features=_features(problem, out)) if found.results else found


def measured(problem: Problem, bench: Bench, scale: Scale = FULL, *, wait: bool = True) -> Outcome | None:
    """The outcome of a problem, measured if it is not on disk. Its runs are kept until it is complete.

    Args:
        wait: for another process that measures it; otherwise the result is None.
    """
    if (found := known(problem, bench.out, scale)) is not None:
        return found
    folder = bench.out / "runs" / "advice" / problem.name
    with _claimed(folder, wait=wait) as mine:
        if not mine:
            return None
        if known(problem, bench.out, scale) is None:
            store = Store(folder)

            def run(settings: Sequence[Setting]) -> list[Run]:
                return sweep(settings, store, bench.pool, label=problem.name, quiet=bench.quiet)

            outcomes_in(bench.out, problem.kind, scale).add(line_of(measure(problem, run, scale)))
        shutil.rmtree(folder)
    return known(problem, bench.out, scale)


def stored(out: Path, scale: Scale = FULL) -> list[Outcome]:
    """The outcomes below a folder of studies, in the order of the worlds and of their problems.

    Raises:
        DataError: there is none, or they are of another version.
    """
    found = []
    for world in DIALS:
        lines = outcomes_in(out, world, scale)
        numbers = sorted(int(name.rpartition("-")[2]) for name in lines.read())
        drawn = problems(world, numbers[-1] + 1) if numbers else []
        every = (known(drawn[number], out, scale) for number in numbers)
        found += [one for one in every if one is not None]
    if not found:
        fix = "prefloop study run advice, with the same --out"
        raise DataError("no outcomes of problems", where=str(out / FOLDER), fix=fix)
    return found
