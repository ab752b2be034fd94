"""`prefloop data convert FILE --out OUT`: any format as rows of messages, which are read again without loss."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefloop.cli.data.shared import read
from prefloop.cli.options import Rows, require_new, require_positive
from prefloop.core.files import write
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.formats import Loaded


@dataclass(frozen=True, kw_only=True)
class Options(Rows):
    """Write a file as JSON Lines of messages, in the simplest format that can hold it: preference, unpaired, example,
    prompt_only, rated or unscored.
    """

    file: Annotated[Path, Flag(positional=True)]
    """A data file of any format, see docs/formats.md."""
    out: Annotated[Path, Flag(metavar="FILE")]
    """Output file, JSON Lines."""
    to: Literal["same", "labels"] = "same"
    """`labels`: every response is a row of its own, with the label true if it is the chosen one and false if not."""

    def __post_init__(self) -> None:
        require_positive(self, "limit")
        require_new(self.out)


def run(options: Options) -> int:
    """Convert the file.

    Raises:
        UserError, DataError: nothing was written.
    """
    from prefloop.data.formats import faulty, shape, to_row, unpaired

    loaded = read(options, options.file, options.limit)
    if loaded.faults and options.faulty == "refuse":
        raise faulty(options.file, loaded)
    if options.to == "labels":
        loaded = unpaired(loaded, options.file)
    found = shape(loaded.groups)
    rows = (json.dumps(to_row(group, found), ensure_ascii=False) for group in loaded.groups)
    write(options.out, "".join(row + "\n" for row in rows))
    record = _record(options, loaded, found)
    options.show(lambda: record, lambda: print("\n".join(map(wrapped, _lines(record, loaded)))))
    return 0


def _record(options: Options, loaded: Loaded, found: str) -> dict[str, Any]:
    from prefloop.data.reading import by_reason

    counts = {"rows": len(loaded.groups), "left_out": len(loaded.faults), "reasons": by_reason(loaded.faults)}
    remarks = {"unused": loaded.unused, "notes": loaded.notes}
    return {"file": str(options.out), "from": loaded.format, "format": found, **counts, **remarks}


def _lines(record: dict[str, Any], loaded: Loaded) -> list[str]:
    left_out = [f"left out: {count:,} × {reason}" for reason, count in record["reasons"].items()]
    written = f"{record['rows']:,} rows of `{record['from']}` are written as `{record['format']}`: {record['file']}"
    return [written, *left_out, *(f"note: {remark}" for remark in loaded.remarks)]
