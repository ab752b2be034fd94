"""`prefloop diagnose RUN`: what went well and wrong in a run, or in every run of a store of the lab."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from prefloop.analysis.diagnose import Diagnosis
    from prefloop.cli.diagnose import Options

SHOWN = 5  # runs of a store that are told one by one


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
    options.show(lambda: record, lambda: print(_text(found, moved)))
    return 0


def _text(found: list[Diagnosis], moved: dict[str, Any] | None) -> str:
    from prefloop.analysis.diagnose import sentences, wrapped

    if len(found) == 1:
        return "\n".join([wrapped(sentences(found[0])), *([] if moved is None else ["", *_probe(moved)])])
    faults = Counter(one.check.name for run in found for one in run.faults)
    told = [f"{len(found)} runs; {sum(not run.faults for run in found)} without a fault."]
    told += [f"{name}: in {count} of {len(found)} runs" for name, count in faults.most_common()]
    parts = [wrapped(told)]
    for run in [run for run in found if run.faults][:SHOWN]:
        parts.append(wrapped([run.name, *(text for text in sentences(run) if text.startswith("Fault"))]))
    return "\n\n".join(parts)


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
    from prefloop.analysis.numbers import plus_minus, share

    out = ["Change of log π from before to after training, mean over prompts:"]
    out.append(f"{'kind of response':<26}{'nats per response':>20}{'nats per token':>20}{'fell in':>10}")
    for kind in moved["kinds"]:
        total, rate = (plus_minus(kind[key], kind[f"{key}_se"], sign=True) for key in ("change", "per_token"))
        out.append(f"{kind['kind'][:25]:<26}{total:>20}{rate:>20}{share(kind['fell']):>10}")
    return [*out, *(f"note: {note}" for note in moved["notes"])]
