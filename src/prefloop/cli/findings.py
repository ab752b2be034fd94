"""`prefloop findings`: the answers to the paper's questions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from prefloop.cli.options import Output
from prefloop.runs.schema import Flag

WIDTH, INDENT = 80, 22


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Show what was found on each question of the paper: those of the package, or of your own runs."""

    folder: Annotated[Path | None, Flag(positional=True, metavar="DIR")] = None
    """The --out folder of prefloop study run (default: the results that come with Prefloop)."""
    against: Annotated[Path | None, Flag(metavar="DIR")] = None
    """Another repetition: how often both give the same verdict, and where they do not."""


def run(options: Options) -> int:
    """Print the findings, or how far two repetitions agree.

    Raises:
        UserError: no results, or no finding in both folders.
        DataError: a file that is not a result.
    """
    from prefloop.studies import findings, trust

    results, known = findings.evidence(options.folder)
    if options.against is not None:
        found = trust.agreement(results, findings.evidence(options.against)[0])
        options.show(lambda: found, lambda: print("\n".join(_agreement(found))))
        return 0
    whole = findings.summary(results, known)
    options.show(lambda: whole, lambda: print("\n".join([*_table(whole), "", *_reliable(whole)])))
    return 0


def _reliable(whole: Mapping[str, Any]) -> Iterator[str]:
    """Counts of verdicts, and in how many a repetition agrees."""
    from prefloop.studies import findings

    yield from _wrapped(_plain(findings.outcome(whole)))
    if whole["repeated"]:
        yield from _wrapped(f"With other seeds everywhere: {next(_agreement(whole['repeated']))}.")


def _table(whole: Mapping[str, Any]) -> Iterator[str]:
    """Every study: what the paper says, the verdict on each finding, and advice."""
    from prefloop.studies.page import effect

    for one in whole["studies"]:
        if not one["claims"]:
            continue
        yield from _wrapped(f"{one['study']}: {one['finding'] or one['question']}")
        for claim in one["claims"]:
            said = f"{claim['prediction'].rstrip('.')}: {effect(claim, whole['unit'])}"
            yield from _wrapped(f"  {claim['verdict']:<{INDENT - 2}}{said}", INDENT)
        yield from (
            text
            for do in ([one["do"]] if one["do"] else [])
            for text in _wrapped(f"  {'do':<{INDENT - 2}}{do}", INDENT)
        )
        yield ""
    yield from _wrapped(f"Effects: {whole['unit']}, unless another unit is named.")


def _agreement(found: Mapping[str, Any]) -> Iterator[str]:
    """The share of equal verdicts, and the others."""
    yield f"{found['same']} of {found['claims']} findings have the same verdict ({found['share']:.0%})"
    for one in found["different"]:
        yield f"{one['study']}: {one['claim']}"
        yield from (f"  {one[side]['verdict']:<{INDENT - 2}}{one[side]['measured']}" for side in ("first", "second"))
    alone = [f"{one['study']}/{one['claim']}" for one in found["in_one"]]
    notes = {"in one folder only": alone, "of the same seeds, no repetition": found["same_seeds"]}
    notes["of different rules"] = found["other_rules"]
    yield from (text for note, names in notes.items() if names for text in _wrapped(f"{note}: {', '.join(names)}"))


def _wrapped(text: str, indent: int = 2) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def _plain(text: str) -> str:
    return text.replace("`", "")
