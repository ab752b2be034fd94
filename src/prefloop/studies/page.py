"""A study's page: numbers as JSON, figures, and a README with question, method and results."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefloop.analysis.numbers import against, compact, duration, number
from prefloop.core import files
from prefloop.core.errors import DataError
from prefloop.report import svg
from prefloop.report.chart import Table, as_json, as_record, from_record
from prefloop.report.markdown import grid, picture, prose, sentence
from prefloop.report.tables import SUFFIXES, written
from prefloop.studies.registry import STUDIES
from prefloop.studies.study import RULE, Effort, Finding, Outcome, Study

RESULT, PAGE, FINDINGS = "result.json", "README.md", "findings.md"
MARK = "<!-- written by `prefloop study run`: do not edit -->\n\n"
INTERVAL = "Intervals are 95 % bootstrap intervals over independent units: paired seeds or prompts, random instances."
SMOKE = "Runs of size `smoke` only show that the code works; their verdicts are not evidence."
HEAD = ("study", "claim", "prediction", "effect [95 % interval]", "must exceed", "verdict")  # table over all studies
GROUPS = {"supported": "Confirmed", "contradicted": "Not confirmed: contradicted", "inconclusive": "Not decided"}

KEYS = {
    "study",
    "question",
    "source",
    "size",
    "command",
    "effort",
    "claims",
    "figures",
    "notes",
}  # keys that pages read

Result = dict[str, Any]


def write(
    study: Study,
    outcome: Outcome,
    folder: Path,
    *,
    size: str,
    effort: Effort,
    command: str,
    versions: Mapping[str, str | None],
) -> Result:
    """Write `folder/NAME/` with result.json, README.md and the figures; results of an earlier run are replaced.

    Args:
        folder: folder with the pages of all studies.
        effort: time and runs of the study.
        command: command that reproduces it.
        versions: versions of packages that can change a number; None if not installed.

    Returns:
        The contents of result.json.

    Raises:
        ValueError: findings that do not match the study's claims, or a number that is not finite.
    """
    result = record(study, outcome, size=size, effort=effort, command=command, versions=versions)
    home = folder / study.name
    before = {name for old in readable(home.glob(RESULT))[0] for name in old["figures"]}
    svg.draw(outcome.figures, home)
    files.write(home / PAGE, page(result))
    files.write(home / RESULT, files.to_json(result, indent=1) + "\n")
    for name in before - set(result["figures"]):
        (home / svg.file_name(name)).unlink(missing_ok=True)
    return result


def redraw(folder: Path, *, pdf: bool = False, tables: str = "") -> list[Path]:
    """Redraw figures and pages of every study below a folder from its result.json; returns what is written but pages.

    Args:
        pdf: also write figures as PDF.
        tables: also write claims and tables in one of `report.tables.FORMATS`.

    Raises:
        DataError: a file that is not a result, or is from another version of Prefloop.
        UserError: PDF without its extra.
    """
    drawn: list[Path] = []
    for result in load(folder):
        home = folder / result["study"]
        figures = {name: [from_record(chart) for chart in charts] for name, charts in result["figures"].items()}
        drawn += svg.draw(figures, home, pdf=pdf)
        drawn += _write_tables(result, home, tables) if tables else []
        files.write(home / PAGE, page(result))
    return drawn


def _write_tables(result: Result, home: Path, format: str) -> list[Path]:
    """The claims with their numbers, and every table, as files for other programs."""
    keys = ("name", "value", "low", "high", "threshold", "unit", "verdict")
    every = {"claims": (keys, [[claim[key] for key in keys] for claim in result["claims"]])}
    every |= {f"table-{n}": (table["head"], table["rows"]) for n, table in enumerate(result["tables"], 1)}
    paths = {name: home / f"{name}.{SUFFIXES.get(format, format)}" for name in every}
    for name, (head, rows) in every.items():
        files.write(paths[name], written(head, rows, format) + "\n")
    return list(paths.values())


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
    places = {name: place for place, name in enumerate(STUDIES)}
    return sorted(results, key=lambda result: places.get(result["study"], len(places))), wrong


def load_one(path: Path) -> Result:
    """Read one result.json.

    Raises:
        DataError: not a result, or from another version of Prefloop.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"invalid result: {error}", where=str(path), fix="run the study again") from None
    if not (isinstance(result, dict) and result.keys() >= KEYS):
        raise DataError(
            "not a result of a study, or from another version",
            where=str(path),
            fix="run the study again, or move the file",
        )
    return result


# ---- the record ---------------------------------------------------------------------------------------------------


def record(
    study: Study, outcome: Outcome, *, size: str, effort: Effort, command: str, versions: Mapping[str, str | None]
) -> Result:
    """The complete record of a study as a JSON value.

    Raises:
        ValueError: findings that do not match the study's claims, or a number that is not finite.
    """
    claims = [finding.claim for finding in outcome.findings]
    due = [claim for claim in study.claims if claim.name not in outcome.left_out]
    if claims != due:
        judged, stated = [claim.name for claim in claims], [claim.name for claim in due]
        raise ValueError(f"{study.name}: judged {judged}, but stated {stated}; claims are fixed before the run")
    return {
        "study": study.name,
        "question": study.question,
        "source": study.source,
        "method": study.method,
        "size": size,
        "command": command,
        "effort": asdict(effort),
        "versions": {name: version for name, version in versions.items() if version is not None},
        "rule": RULE,
        "claims": [_claim(finding) for finding in outcome.findings],
        "figures": {svg.file_name(name): [*map(as_record, charts)] for name, charts in outcome.figures.items()},
        "tables": [_table(table) for table in outcome.tables],
        "notes": list(outcome.notes),
    }


def _claim(finding: Finding) -> Result:
    claim, effect = finding.claim, finding.effect
    numbers = {"value": effect.value, "low": effect.low, "high": effect.high, "threshold": claim.threshold}
    if not all(math.isfinite(number) for number in numbers.values()):
        raise ValueError(f"{claim.name}: {numbers}; findings must be finite")
    words = {k: v for k, v in asdict(claim).items() if k != "of"}
    return {**words, **numbers, "level": effect.level, "units": effect.units, "verdict": finding.verdict}


def _table(table: Table) -> Result:
    if any(len(row) != len(table.head) for row in table.rows):
        raise ValueError(f"table {table.title!r}: every row needs {len(table.head)} cells")
    return {"title": table.title, "head": list(table.head), "rows": as_json(table.rows)}


# ---- the page -----------------------------------------------------------------------------------------------------


def page(result: Result) -> str:
    """README.md of a study."""
    parts = [
        f"# {result['study']}: {result['question']}",
        f"Source: {result['source']}",
        f"## Verdicts\n\n{tally([result])} at size `{result['size']}`.{caution([result['size']])}",
        _verdicts(result["claims"]),
        f"{sentence(result['rule'])} {INTERVAL}",
        f"## Method\n\n{result['method']}",
        *(["## Figures"] if result["figures"] else []),
        *_pictures(result),
        *(["## Tables"] if result["tables"] else []),
        *(f"**{table['title']}**\n\n{grid(table['head'], table['rows'])}" for table in result["tables"]),
        _remarks(result, "## Remarks"),
        _again(result),
    ]
    return MARK + "\n\n".join(part for part in parts if part) + "\n"


def _remarks(result: Result, title: str, home: str = "") -> str:
    """The notes; `home` goes before links that are relative to the study's own folder."""
    lines = [re.sub(r"\]\((?!\w+:)", f"]({home}", prose(note)) for note in result["notes"]]
    notes = "\n".join(f"- {note}" for note in lines)
    return f"{title}\n\n{notes}" if notes else ""


def _verdicts(claims: Sequence[Result]) -> str:
    head = ("claim", "prediction", "effect (positive if it holds)", "measured", "must exceed", "units", "verdict")
    rows = [
        (f"`{c['name']}`", c["prediction"], c["effect"], measured(c), threshold(c), c["units"], f"**{c['verdict']}**")
        for c in claims
    ]
    return grid(head, rows)


def _again(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"## Reproduce\n\n```\n{result['command']}\n```\n\n"
        f"It took {took(result['effort'])}. Versions: {versions}. All numbers: [{RESULT}]({RESULT})."
    )


def _pictures(result: Result, home: str = "") -> list[str]:
    """The figures with their captions."""
    figures = {f"{home}{name}": [from_record(chart) for chart in charts] for name, charts in result["figures"].items()}
    return [picture(charts, name) for name, charts in figures.items()]


def measured(claim: Result) -> str:
    """`+0.31 [+0.22, +0.40] nats`."""
    return f"{against(*(claim[key] for key in ('value', 'low', 'high', 'threshold')))} {claim['unit']}".strip()


def threshold(claim: Result) -> str:
    """The threshold, in the unit of the effect."""
    return compact(claim["threshold"])


def took(effort: Result) -> str:
    """The time of a study; a short one may have reused runs of other studies."""
    runs, reused = effort["runs"], effort["runs"] - effort["computed"]
    reused_runs = f", {number(reused)} of which were reused" if reused else ""
    return duration(effort["seconds"]) + (f" for {number(runs)} runs of the lab{reused_runs}" if runs else "")


def caution(sizes: Sequence[str]) -> str:
    return f" {SMOKE}" if "smoke" in sizes else ""


def counts(results: Sequence[Result]) -> dict[str, int]:
    """The number of verdicts of each kind."""
    verdicts = [claim["verdict"] for result in results for claim in result["claims"]]
    return {verdict: verdicts.count(verdict) for verdict in GROUPS}


def tally(results: Sequence[Result]) -> str:
    """`3 supported, 0 contradicted, 1 inconclusive`."""
    return ", ".join(f"{count} {verdict}" for verdict, count in counts(results).items())


# ---- over all studies ---------------------------------------------------------------------------------------------


def write_findings(folder: Path) -> Path:
    """findings.md over every result.json of a folder; those that cannot be read are listed."""
    files.write(folder / FINDINGS, findings(*readable(folder.glob(f"*/{RESULT}"))))
    return folder / FINDINGS


def findings(results: Sequence[Result], wrong: Sequence[DataError] = (), at: str = "", except_for: str = "") -> str:
    """findings.md: all verdicts, then every study in words.

    Args:
        results: contents of result.json files.
        wrong: errors for results that cannot be read.
        at: prefix of links to a study's folder, such as `studies/`.
        except_for: claims that were not written down before the runs.
    """
    total = sum(len(result["claims"]) for result in results)
    sizes = list(dict.fromkeys(result["size"] for result in results))
    verdicts = f"**{tally(results)}**: {_of(total, 'prediction')} in {_of(len(results), 'study', 'studies')}"
    parts = [
        "# Findings",
        f"{verdicts}, size {', '.join(f'`{size}`' for size in sizes) or 'none'}.{caution(sizes)}",
        f"{sentence(RULE)} {INTERVAL} Predictions, effects and thresholds were written down before the runs"
        f"{except_for}.",
        "## All verdicts",
        grid(HEAD, [_row(result, claim, at) for result in results for claim in result["claims"]]),
        *(_section(result, at) for result in results),
        "\n".join(f"- Left out: {error.where}: {error.what}; {error.fix}." for error in wrong),
    ]
    return MARK + "\n\n".join(part for part in parts if part) + "\n"


def _row(result: Result, claim: Result, at: str) -> tuple[str, ...]:
    link = f"[{result['study']}]({at}{result['study']}/{PAGE})"
    numbers = measured(claim), threshold(claim)
    return link, f"`{claim['name']}`", claim["prediction"], *numbers, f"**{claim['verdict']}**"


def _of(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _section(result: Result, at: str) -> str:
    """One study: confirmed and unconfirmed claims, figures, and how to reproduce it."""
    home = f"{at}{result['study']}/"
    parts = [
        f"## {result['study']}: {result['question']}",
        *(_group(result["claims"], verdict, title) for verdict, title in GROUPS.items()),
        _remarks(result, "**Remarks**", home),
        *_pictures(result, home),
        f"[Method and all tables]({home}{PAGE}). Source: {result['source']}. Size `{result['size']}`, "
        f"{took(result['effort'])}: `{result['command']}`",
    ]
    return "\n\n".join(part for part in parts if part)


def _group(claims: Sequence[Result], verdict: str, title: str) -> str:
    chosen = [claim for claim in claims if claim["verdict"] == verdict]
    lines = [f"- `{claim['name']}`: {prose(sentence(claim['prediction']))} {_words(claim)}" for claim in chosen]
    return f"**{title}** ({len(lines)} of {len(claims)})\n\n" + "\n".join(lines) if lines else ""


def _words(claim: Result) -> str:
    """The measured effect of a prediction in words, without the verdict."""
    low, high, bound = claim["low"], claim["high"], claim["threshold"]
    text = f"Measured: {prose(claim['effect'].rstrip('.'))}, {measured(claim)}"
    if low > bound:
        return f"{text}."
    if high < bound:
        return f"{text}: {'the opposite' if high < 0 <= bound else f'less than the threshold {threshold(claim)}'}."
    above = ", but lies above 0" if low > 0 else ""
    return f"{text}: the interval contains {threshold(claim)}{above}."
