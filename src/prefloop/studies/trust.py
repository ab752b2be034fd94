"""How far the findings can be trusted: an independent repetition of them, and how often their intervals hold the truth.

Both are files beside the studies: `keep` writes the repetition, tools/coverage.py the coverage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.core import files
from prefloop.core.errors import UserError
from prefloop.report.markdown import grid
from prefloop.studies.page import measured
from prefloop.studies.record import Result, counted, ordered

REPETITION, COVERAGE = "repetition.json", "coverage.json"
KEPT = ("study", "size", "repetition", "command", "rules", "asked", "effort", "claims")


@dataclass(frozen=True)
class Trust:
    """What is known beside the results.

    Args:
        repetition: results of the same studies with other seeds, without figures and tables.
        coverage: what tools/coverage.py measures, or None.
    """

    repetition: Sequence[Result] = ()
    coverage: Mapping[str, Any] | None = None


UNKNOWN = Trust()


def read(folder: Path) -> Trust:
    """What is in the folder of the studies."""
    again, coverage = (json.loads(path.read_text(encoding="utf-8")) if (path := folder / name).is_file() else None
                       for name in (REPETITION, COVERAGE))  # fmt: skip
    return Trust(again or (), coverage)


def keep(second: Sequence[Result], folder: Path) -> None:
    """Put the results of a repetition beside the studies, in place of earlier ones of the same studies."""
    new = [{key: result[key] for key in KEPT} for result in second if result["claims"]]
    names = {result["study"] for result in new}
    old = [result for result in read(folder).repetition if result["study"] not in names]
    files.write(folder / REPETITION, files.to_json(ordered([*old, *new]), indent=1) + "\n")


# ---- two repetitions ----------------------------------------------------------------------------------------------


def repeated(results: Sequence[Result], known: Trust) -> dict[str, Any] | None:
    """`agreement` with the repetition that is kept; None without one."""
    here = {(result["study"], result["asked"]) for result in results}
    again = [result for result in known.repetition if (result["study"], result["asked"]) in here]
    return agreement(results, again) if any(counted(result["claims"]) for result in again) else None


def agreement(first: Sequence[Result], second: Sequence[Result]) -> dict[str, Any]:
    """How often two repetitions give the same verdict, and where they do not.

    Raises:
        UserError: no finding is in both.
    """
    a, b = ({(r["study"], c["name"]): c for r in some for c in counted(r["claims"])} for some in (first, second))
    both = [key for key in a if key in b]
    if not both:
        raise UserError("no finding is in both folders", fix="compare two repetitions of the same studies")
    different = [
        {"study": key[0], "claim": key[1], "first": _brief(a[key]), "second": _brief(b[key])}
        for key in both
        if a[key]["verdict"] != b[key]["verdict"]
    ]
    same = len(both) - len(different)
    pairs = [(one, other) for one in first for other in second if one["study"] == other["study"]]
    return {
        "claims": len(both),
        "same": same,
        "share": same / len(both),
        "different": different,
        "in_one": [{"study": study, "claim": claim} for study, claim in sorted(a.keys() ^ b.keys())],
        "same_seeds": [one["study"] for one, other in pairs if one.get("repetition") == other.get("repetition")],
        "other_rules": [one["study"] for one, other in pairs if _by(one) != _by(other)],
    }


def _by(result: Result) -> tuple[str, str]:
    """The rules of a result: those of all studies, and its own claims and conditions."""
    return result["rules"], result["asked"]


def _brief(claim: Result) -> dict[str, Any]:
    return {**{key: claim[key] for key in ("verdict", "value", "low", "high", "n")}, "measured": measured(claim)}


# ---- the page -----------------------------------------------------------------------------------------------------


def sections(again: Mapping[str, Any] | None, coverage: Mapping[str, Any] | None) -> list[str]:
    """Markdown of both, as far as they are known."""
    return [*([_again(again)] if again else []), *([_coverage(coverage)] if coverage else [])]


def _again(found: Mapping[str, Any]) -> str:
    """How many verdicts a repetition gives again, and the others as a table."""
    text = (
        f"## Repeated with other seeds\n\nA repetition whose data, tuning and comparison have other seeds gives the"
        f" same verdict on {found['same']} of {found['claims']} findings (a share of {found['share']:.3f})."
    )
    rows = [
        (
            f"{one['study']}: {one['claim']}",
            *(f"{one[k]['verdict']}, {one[k]['measured']}" for k in ("first", "second")),
        )
        for one in found["different"]
    ]
    return "\n\n".join([text, *([grid(("not the same", "here", "repetition"), rows)] if rows else [])])


def _coverage(measured: Mapping[str, Any]) -> str:
    """How often intervals hold the truth, and the verdicts on planted effects."""
    shares = [cell["coverage"] for row in measured["contrasts"].values() for cell in row]
    repeats = max(cell["repeats"] for row in measured["contrasts"].values() for cell in row)
    text = (
        f"## How often the intervals are right\n\nThe whole procedure, with its tuning and its stops, was repeated"
        f" {repeats:,} times on runs of the bandit ({measured['rates']} learning rates × {measured['seeds']} seeds of"
        f" each cell), with planted effects; {measured['threshold']:g} is the smallest that counts. Of its"
        f" {measured['level']:g} intervals a share of {min(shares):.3f} to {max(shares):.3f} held the truth."
    )
    rows = [
        (name, cell["planted"], f"{cell['coverage']:.3f}", f"{cell['wrong']:.3f}", _often(cell["verdicts"]))
        for name, row in measured["contrasts"].items()
        for cell in row
    ]
    return text + "\n\n" + grid(("difference", "planted", "coverage", "false verdicts", "verdicts"), rows)


def _often(verdicts: Mapping[str, float]) -> str:
    """Shares of verdicts, the most frequent first."""
    order = sorted(verdicts, key=lambda word: -verdicts[word])
    return ", ".join(f"{word} {verdicts[word]:.3f}" for word in order)
