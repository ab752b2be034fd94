"""The findings of all studies on one page, and as one JSON object from which the page is made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefloop.analysis.decisions import false_discovery
from prefloop.core import files
from prefloop.core.errors import DataError, UserError
from prefloop.report.markdown import grid, prose, sentence
from prefloop.studies import forest, trust
from prefloop.studies.page import MARK, PAGE, SMOKE, effect
from prefloop.studies.readings import READINGS, Reading
from prefloop.studies.record import RESULT, Result, counted, load, readable, tally
from prefloop.studies.registry import STUDIES
from prefloop.studies.trust import UNKNOWN, Trust

FINDINGS = "findings.md"
EVIDENCE = Path(__file__).with_name("evidence.json")
ROWS, HEADLINES = 12, 2  # studies in the table, and claims of each
RATE = 0.05  # false discovery rate
KEY = {
    "supported": "the whole interval is beyond the smallest effect that counts, or inside it where the paper says that"
    " there is no difference",
    "smaller than claimed": "the sign is the paper's, but the whole interval is below the smallest effect that counts",
    "equivalent": "the whole interval is too small to count, in either direction",
    "contradicted": "the sign is the opposite, with an interval clear of zero; or there is an effect that counts where"
    " the paper says that there is none",
    "undecided": "the interval allows more than one of these when the seeds are used up, or a learning rate is best at"
    " an edge of what was tried",
    "no headroom": "no method can do better or worse on this problem, so that it cannot tell",
}


# ---- evidence -----------------------------------------------------------------------------------------------------


def evidence(folder: Path | None = None) -> tuple[list[Result], Trust]:
    """The results below a folder and what is known of their reliability, or those of the package, without figures.

    Raises:
        UserError: none there.
        DataError: a file that is not a result, or is from another version of Prefloop.
    """
    if folder is None:
        packaged = json.loads(EVIDENCE.read_text(encoding="utf-8"))
        found, known, where = packaged["results"], Trust(packaged["repetition"], packaged["coverage"]), "the package"
    else:
        found, known, where = load(folder) if folder.is_dir() else [], trust.read(folder), str(folder)
    if not found:
        raise UserError("no results of studies", where=where, fix="prefloop study run all, then name its --out folder")
    return found, known


def write_evidence(results: Sequence[Result], known: Trust = UNKNOWN, path: Path = EVIDENCE) -> None:
    """The results for the package, without figures."""
    bare = [{**result, "figures": {}} for result in claiming(results)]
    whole = {"results": bare, "repetition": known.repetition, "coverage": known.coverage}
    files.write(path, files.to_json(whole, indent=1) + "\n")


def claiming(results: Sequence[Result]) -> list[Result]:
    """Those with claims: a study without any, such as that of the advice, finds nothing about the paper."""
    return [result for result in results if result["claims"] or result.get("left_out")]


# ---- one object ---------------------------------------------------------------------------------------------------


def summary(
    results: Sequence[Result], known: Trust = UNKNOWN, readings: Mapping[str, Reading] = READINGS
) -> dict[str, Any]:
    """Everything that the page says: findings of each study with adjusted p values, readings, counts, reliability."""
    results = claiming(results)
    every = {(r["study"], claim["name"]): claim for r in results for claim in counted(r["claims"])}
    adjusted = false_discovery({"/".join(key): claim["p_verdict"] for key, claim in every.items()})
    unit = Counter(claim["unit"] for claim in every.values()).most_common(1)
    given = [name for name, claim in _named(every) if claim["verdict"] not in ("undecided", "no headroom")]
    return {
        "sizes": list(dict.fromkeys(result["size"] for result in results)),
        "repetitions": list(dict.fromkeys(result.get("repetition", 0) for result in results)),
        "rules": list(dict.fromkeys(result["rules"] for result in results)),
        "unit": unit[0][0] if unit else "",
        "answered": len({study for study, _ in every}),
        "claims": len(every),
        "verdicts": tally(every.values()),
        "false_discovery": {
            "rate": RATE,
            "verdicts": len(given),
            "bh": sum(adjusted[name].bh <= RATE for name in given),
            "by": sum(adjusted[name].by <= RATE for name in given),
            "not_bh": [name for name in given if adjusted[name].bh > RATE],
            "not_by": [name for name in given if adjusted[name].by > RATE],
        },
        "repeated": trust.repeated(results, known),
        "coverage": known.coverage,
        "key": KEY,
        "missing": [name for name in STUDIES if name not in {result["study"] for result in results}],
        "studies": [_study(result, adjusted, readings.get(result["study"], Reading())) for result in results],
    }


def _named(every: Mapping[tuple[str, str], Result]) -> list[tuple[str, Result]]:
    return [("/".join(key), claim) for key, claim in every.items()]


def _study(result: Result, adjusted: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    """A study without figures and tables."""
    kept = ("study", "question", "source", "finding", "design", "size", "rules", "asked", "caveats", "verdicts")
    claims = [{**c, **asdict(adjusted[f"{result['study']}/{c['name']}"])} for c in counted(result["claims"])]
    checks = [claim for claim in result["claims"] if not claim["counts"]]
    return {**{key: result[key] for key in kept}, "claims": claims, "checks": checks, **asdict(reading)}


# ---- the page -----------------------------------------------------------------------------------------------------


def write(folder: Path, path: Path | None = None, at: str = "") -> Path:
    """findings.md over every result.json of a folder; those that cannot be read are listed."""
    results, wrong = readable(folder.glob(f"*/{RESULT}"))
    path = folder / FINDINGS if path is None else path
    files.write(path, page(summary(results, trust.read(folder)), wrong, at))
    return path


def page(whole: Mapping[str, Any], wrong: Sequence[DataError] = (), at: str = "") -> str:
    """findings.md.

    Args:
        whole: see `summary`.
        wrong: errors for results that cannot be read.
        at: prefix of links to a study's folder, such as `studies/`.
    """
    studies = [one for one in whole["studies"] if one["claims"]]
    parts = [
        "# Findings",
        _about(whole),
        _table([_row(one, whole["unit"], at) for one in studies[:ROWS]]),
        f"## How many\n\n{outcome(whole)}",
        "\n".join(f"- **{sentence(word).removesuffix('.')}**: {prose(text)}." for word, text in whole["key"].items()),
        *trust.sections(whole["repeated"], whole["coverage"]),
        _others(studies, whole["unit"], at),
        _checks(whole["studies"], at),
        f"Not run yet by these rules: {', '.join(whole['missing'])}." if whole["missing"] else "",
        "\n".join(f"- Left out: {error.where}: {error.what}; {error.fix}." for error in wrong),
    ]
    return MARK + "\n\n".join(part for part in parts if part) + "\n"


def _about(whole: Mapping[str, Any]) -> str:
    """How to read the numbers, and by which rules they were made."""
    sizes = ", ".join(f"`{size}`" for size in whole["sizes"]) or "none"
    rules = ", ".join(f"`{one}`" for one in whole["rules"])
    several = " **These results are of different rules.**" if len(whole["rules"]) > 1 else ""
    if not whole["claims"]:
        return "No study here has findings on the paper."
    return (
        f"Effects are in {whole['unit']}, unless another unit is named; intervals are of the whole procedure, with its"
        " stops and its tuning; n seeds each. In the figures the unit is the smallest effect that counts. Size"
        f" {sizes}; rules {rules}.{several}" + (f" {SMOKE}" if "smoke" in whole["sizes"] else "")
    )


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """One row per study, without a column that is empty in all of them."""
    head = ("the paper", "here", "why, what it costs, what to do")
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return grid([head[i] for i in kept], [[row[i] for i in kept] for row in rows]) if rows else ""


def _row(one: Mapping[str, Any], unit: str, at: str) -> tuple[str, str, str]:
    said = one["finding"] or f"not asked: {one['question']}"
    link = f"[{one['study']}]({at}{one['study']}/{PAGE})"
    here = [*(line(claim, unit) for claim in one["claims"][:HEADLINES])]
    figure = f"![effects of {one['study']}]({at}{one['study']}/{forest.SMALL})"
    told = {"Why": one["why"], "Cost": one["cost"], "Do": one["do"]}
    return f"{link}: {said}", "<br>".join([*here, figure]), "<br>".join(f"**{k}**: {v}" for k, v in told.items() if v)


def line(claim: Mapping[str, Any], unit: str) -> str:
    """A finding in one sentence."""
    said = sentence(claim["verdict"]).removesuffix(".")
    return f"**{said}**: {prose(claim['prediction'].rstrip('.'))}: {effect(dict(claim), unit)}."


def outcome(whole: Mapping[str, Any]) -> str:
    """Counts of verdicts, and the false discovery rate."""
    rate, given = whole["false_discovery"], [f"{n} {word}" for word, n in whole["verdicts"].items() if n]
    said = f"Of {_of(whole['claims'], 'finding')} in {_of(whole['answered'], 'study', 'studies')}:"
    said = f"{said} {', '.join(given) or 'none'}."
    if not rate["verdicts"]:
        return said
    stand = (
        f"{rate['bh']} of {rate['verdicts']} verdicts stand by Benjamini and Hochberg, {rate['by']} by Benjamini and"
    )
    fall = f"; not {', '.join(f'`{name}`' for name in rate['not_bh'])} by the former" if rate["not_bh"] else ""
    return f"{said} At a false discovery rate of {rate['rate']:g}, {stand} Yekutieli, who allow any dependence{fall}."


def _of(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _others(studies: Sequence[Mapping[str, Any]], unit: str, at: str) -> str:
    """The findings that are not in the table, one line each."""
    lines = [
        f"- [{one['study']}]({at}{one['study']}/{PAGE}): {line(claim, unit)}"
        for place, one in enumerate(studies)
        for claim in one["claims"][HEADLINES if place < ROWS else 0 :]
    ]
    return "## Other findings\n\n" + "\n".join(lines) if lines else ""


def _checks(studies: Sequence[Mapping[str, Any]], at: str) -> str:
    """Links to what does not count."""
    links = [f"[{one['study']}]({at}{one['study']}/{PAGE})" for one in studies if one["checks"]]
    return f"Mathematics and manipulation checks, not counted: {', '.join(links)}." if links else ""
