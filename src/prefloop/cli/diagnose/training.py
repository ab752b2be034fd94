"""`prefloop diagnose RUN`: what went well and wrong in a run, or in every run of a store of the lab."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.cli.pages import at, written
from prefloop.core.errors import UserError
from prefloop.core.wrapping import wrapped

if TYPE_CHECKING:
    from prefloop.analysis.diagnose import Diagnosis
    from prefloop.analysis.evidence import Evidence
    from prefloop.cli.diagnose import Options
    from prefloop.report.chart import Table
    from prefloop.report.found_page import Found


def diagnose(options: Options) -> int:
    """Diagnose a run, or the runs of a store.

    Raises:
        UserError, DataError: a run that cannot be read.
    """
    from prefloop.analysis.diagnose import diagnose as diagnosed
    from prefloop.analysis.forgetting import by_kind
    from prefloop.lab.evidence import evidences

    assert options.run is not None
    runs = evidences(options.run)
    found = [diagnosed(run) for run in runs]
    best = best_of(runs, options.solved)
    moved = probed(options.run, options) if options.probe is not None else None
    more = {"best_of": best, "forgetting": by_kind(runs[0]) if len(runs) == 1 else [], "probe": moved}
    record = {"runs": [one.record() for one in found], **{key: own for key, own in more.items() if own}}
    page = written(options.page, lambda: _found(options.run, found, moved, record))
    options.show(lambda: {**record, "page": page}, lambda: print(_text(found, record) + at(page)))
    return 0


def _found(run: Path | None, found: list[Diagnosis], moved: dict[str, Any] | None, record: dict[str, Any]) -> Found:
    """For a page; with the curves and answers of a run folder."""
    from prefloop.report.cells import columns
    from prefloop.report.diagnosed_page import found as page_of
    from prefloop.runs.folder import CONFIG

    assert run is not None
    return page_of(found, record, moved, columns([run]) if (run / CONFIG).is_file() else [])


def best_of(runs: list[Evidence], solved: float | None) -> dict[str, Any] | None:
    """The best of k answers before and after, of one run that recorded several answers to each prompt.

    Raises:
        UserError: a threshold is given, and there are none.
    """
    from prefloop.analysis.several import record

    seen = runs[0].several if len(runs) == 1 else None
    if seen is None and solved is not None:
        why = runs[0].notes.get("several", "it has no reward of fresh answers") if len(runs) == 1 else "give one run"
        raise UserError(f"pass@k cannot be told: {why}", where="--solved", fix="leave it out")
    return None if seen is None else record(seen, solved)


def _text(found: list[Diagnosis], record: dict[str, Any]) -> str:
    from prefloop.analysis.diagnose import counted, faulty, sentences
    from prefloop.report.diagnosed_page import tables

    if len(found) == 1:
        parts = [_columns(what, table) for what, table in tables(record).items()]
        parts += [_probe(record["probe"])] if "probe" in record else []
        return "\n\n".join([wrapped("\n".join(sentences(found[0]))), *("\n".join(part) for part in parts)])
    return "\n\n".join(wrapped("\n".join(said)) for said in (counted(found), *faulty(found)))


def _columns(what: str, table: Table) -> list[str]:
    """A table of at most four columns below what its numbers are."""
    first = 20 if len(table.head) > 3 else 26
    rows = (f"{row[0]:<{first}}" + "".join(f"{cell:>20}" for cell in row[1:]) for row in (table.head, *table.rows))
    return [wrapped(f"{what}:"), *rows]


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
