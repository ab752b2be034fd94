"""The record of a study as JSON: what was asked, seen and decided, by which rules and at what cost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from prefloop.analysis.decisions import Verdict
from prefloop.analysis.numbers import duration
from prefloop.core import files
from prefloop.core.errors import DataError
from prefloop.report import svg
from prefloop.report.chart import Table, as_json, as_record
from prefloop.studies import rules
from prefloop.studies.registry import STUDIES
from prefloop.studies.study import Effort, Finding, Outcome, Study

RESULT = "result.json"
VERDICTS: tuple[str, ...] = get_args(Verdict)
CLAIM = {"name", "prediction", "effect", "unit", "threshold", "sense", "counts", "verdict", "value", "low", "high", "n"}
KEYS = {"study", "question", "source", "finding", "design", "size", "command", "rules", "asked", "effort", "claims"}
KEYS |= {"figures", "tables", "caveats"}  # that pages read
Result = dict[str, Any]


def record(
    study: Study,
    outcome: Outcome,
    *,
    size: str,
    effort: Effort,
    command: str,
    versions: Mapping[str, str | None],
    repetition: int = 0,
) -> Result:
    """The complete record of a study as a JSON value: what result.json holds.

    Args:
        effort: time and runs of the study.
        command: command that reproduces it.
        versions: versions of packages that can change a number; None if not installed.
        repetition: of the bench.

    Raises:
        ValueError: findings that do not match the study's claims, or an effect that is not finite.
    """
    claims = [finding.claim for finding in outcome.findings]
    due = [claim for claim in study.claims if claim.name not in outcome.left_out]
    if claims != due:
        judged, stated = [claim.name for claim in claims], [claim.name for claim in due]
        raise ValueError(f"{study.name}: judged {judged}, but stated {stated}; claims are fixed before the run")
    decided = [_claim(finding) for finding in outcome.findings]
    return {
        "study": study.name,
        "question": study.question,
        "source": study.source,
        "finding": study.finding,
        "design": dict(study.design),
        "size": size,
        "repetition": repetition,
        "command": command,
        "rules": rules.fingerprint(),
        "asked": rules.asked(study),
        "effort": {**asdict(effort), "time": duration(effort.seconds)},
        "versions": {name: version for name, version in versions.items() if version is not None},
        "verdicts": tally(decided),
        "claims": decided,
        "left_out": list(outcome.left_out),
        "caveats": list(outcome.caveats),
        "tables": [_table(table) for table in outcome.tables],
        "figures": {svg.file_name(name): [*map(as_record, charts)] for name, charts in outcome.figures.items()},
    }


def _claim(finding: Finding) -> Result:
    """A claim with all of its decision; an end that is not known is null."""
    claim, made = finding.claim, finding.decision
    if not math.isfinite(made.interval.value):
        raise ValueError(f"{claim.name}: an effect of {made.interval.value}; findings must be finite")
    decided = {"value": made.interval.value, "low": made.interval.low, "high": made.interval.high, "n": made.n}
    decided |= {"level": made.interval.level, "sign": made.sign, "p": made.p, "p_verdict": made.p_verdict}
    words = {key: value for key, value in vars(claim).items() if key != "of"}
    how = {"verdict": made.verdict, "reason": made.reason, "settled": made.settled}
    whole: Result = files.plain({**words, **how, **decided})
    return whole


def _table(table: Table) -> Result:
    if any(len(row) != len(table.head) for row in table.rows):
        raise ValueError(f"table {table.title!r}: every row needs {len(table.head)} cells")
    return {"title": table.title, "head": list(table.head), "rows": as_json(table.rows)}


def counted(claims: Iterable[Result]) -> list[Result]:
    """The findings: without manipulation checks and mathematics."""
    return [claim for claim in claims if claim["counts"]]


def tally(claims: Iterable[Result]) -> dict[str, int]:
    """The number of verdicts of each kind, over findings."""
    verdicts = [claim["verdict"] for claim in counted(claims)]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


# ---- files --------------------------------------------------------------------------------------------------------


def load(folder: Path) -> list[Result]:
    """Every result.json below a folder, in the order of the registry.

    Raises:
        DataError: a file that is not a result, or is from another version of Prefloop.
    """
    found, wrong = readable(folder.glob(f"*/{RESULT}"))
    if wrong:
        raise wrong[0]
    return found


def readable(paths: Iterable[Path]) -> tuple[list[Result], list[DataError]]:
    """The contents of result files, in the order of the registry, and errors for those that cannot be read."""
    results, wrong = [], []
    for path in sorted(paths):
        try:
            results.append(load_one(path))
        except DataError as error:
            wrong.append(error)
    return ordered(results), wrong


def ordered(results: Sequence[Result]) -> list[Result]:
    """In the order of the registry, others last."""
    places = {name: place for place, name in enumerate(STUDIES)}
    return sorted(results, key=lambda result: places.get(result["study"], len(places)))


def load_one(path: Path) -> Result:
    """Read one result.json.

    Raises:
        DataError: not a result, or from another version of Prefloop.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"invalid result: {error}", where=str(path), fix="run the study again") from None
    whole = isinstance(result, dict) and result.keys() >= KEYS
    if not (whole and all(claim.keys() >= CLAIM for claim in result["claims"])):
        raise DataError(
            "not a result of a study, or from another version",
            where=str(path),
            fix="run the study again, or move the file",
        )
    return dict(result)
