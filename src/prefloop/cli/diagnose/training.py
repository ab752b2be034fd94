"""`prefloop diagnose RUN`: what went well and wrong in a run, or in every run of a store of the lab."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.cli.pages import at, written

if TYPE_CHECKING:
    from prefloop.analysis.diagnose import Diagnosis
    from prefloop.cli.diagnose import Options
    from prefloop.report.found_page import Found


def diagnose(options: Options) -> int:
    """Diagnose a run, or the runs of a store.

    Raises:
        UserError, DataError: a run that cannot be read.
    """
    from prefloop.analysis.diagnose import diagnose as diagnosed
    from prefloop.lab.evidence import evidences

    assert options.run is not None
    found = [diagnosed(run) for run in evidences(options.run)]
    moved = probed(options.run, options) if options.probe is not None else None
    record = {"runs": [one.record() for one in found], **({} if moved is None else {"probe": moved})}
    page = written(options.page, lambda: _found(options.run, found, moved, record))
    options.show(lambda: {**record, "page": page}, lambda: print(_text(found, moved) + at(page)))
    return 0


def _found(run: Path | None, found: list[Diagnosis], moved: dict[str, Any] | None, record: dict[str, Any]) -> Found:
    """For a page; with the curves and answers of a run folder."""
    from prefloop.report.cells import columns
    from prefloop.report.diagnosed_page import found as page_of
    from prefloop.runs.folder import CONFIG

    assert run is not None
    return page_of(found, record, moved, columns([run]) if (run / CONFIG).is_file() else [])


def _text(found: list[Diagnosis], moved: dict[str, Any] | None) -> str:
    from prefloop.analysis.diagnose import counted, faulty, sentences, wrapped

    if len(found) == 1:
        return "\n".join([wrapped(sentences(found[0])), *([] if moved is None else ["", *_probe(moved)])])
    return "\n\n".join([wrapped(counted(found)), *map(wrapped, faulty(found))])


# ---- a probe set -----------------------------------------------------------------------------------------------------


def probed(run: Path, options: Options) -> dict[str, Any]:
    """The change of log π by kind of response on a probe set, from the model before training to the trained one."""
    from prefloop.runs.probe import measured, read_probe
    from prefloop.runs.trained import trained, untrained

    assert options.probe is not None
    probe = read_probe(options.probe, options.limit)
    options.say(f"measuring {len(probe.rows):,} prompts × {len(probe.kinds)} kinds of response, before and after")
    shifts, notes = measured(probe, untrained(str(run)), trained(str(run)))
    kinds = [
        {
            "kind": one.kind,
            "change": one.change.value,
            "change_se": one.change.se,
            "per_token": one.per_token.value,
            "per_token_se": one.per_token.se,
            "fell": one.fell,
            "prompts": one.change.units,
        }
        for one in shifts
    ]
    return {"file": str(options.probe), "prompts": len(probe.rows), "kinds": kinds, "notes": notes}


def _probe(moved: dict[str, Any]) -> list[str]:
    """A table of kinds, in the order of the file."""
    from prefloop.report.diagnosed_page import CHANGE, kinds

    table = kinds(moved)
    lines = [f"{name[:25]:<26}{total:>20}{rate:>20}{fell:>10}" for name, total, rate, fell in [table.head, *table.rows]]
    return [f"{CHANGE}:", *lines, *(f"note: {note}" for note in moved["notes"])]
