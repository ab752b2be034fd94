"""`prefloop data check FILE`: statistics and problems of a data file, before training on it."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefloop.cli.data import tokens
from prefloop.cli.data.shared import BAD_ROWS, facts, print_faults, read
from prefloop.cli.options import Rows, require_positive
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.check import Report
    from prefloop.data.formats import Loaded
    from prefloop.worlds.text.measure import Counts

READ_AS = ("format", "group_by", "limit", "faulty")  # options that are keys of `data` too
RENDERED = ("template", "system", "max_prompt_tokens", "max_response_tokens", "over_limit")  # with --model
ONLINE = "with a reward, every method that writes its own responses (online_dpo, rloo, grpo, …)"
MANY = 500  # rows from which rendering is worth a line before it
NOTABLE = 0.6  # share of preferences for the longer response, or of one label, above which a note is printed


@dataclass(frozen=True, kw_only=True)
class Options(Rows):
    """Count, measure and check the rows of a file of preferences, labels or prompts.

    Exit code: 0 if all rows can be used, 3 if some cannot.
    """

    file: Annotated[Path, Flag(positional=True)]
    """A data file, see docs/formats.md."""
    model: str | None = None
    """Also render every row as this model would be trained on it, and count its tokens."""
    template: str = "auto"
    """With --model: auto, chat, plain, chatml, zephyr, alpaca, human-assistant or a Jinja file."""
    system: str | None = None
    """With --model: system message for prompts that have none."""
    max_prompt_tokens: int = 256
    """With --model: rows with a longer prompt cannot be used; as `data.max_prompt_tokens`."""
    max_response_tokens: int | None = None
    """With --model: longer responses are cut; as `data.max_response_tokens`."""
    over_limit: Literal["refuse", "cut"] = "refuse"
    """With --model: more than 5 % of the responses over that limit; as `data.over_limit`."""
    held_out: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Held-out file: questions in both are refused, as `train` does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "max_prompt_tokens", "max_response_tokens")


def run(options: Options) -> int:
    """Check the file; 3 if some rows cannot be used.

    Raises:
        DataError: a file that cannot be read, questions that are held out too, or too many responses over their limit.
    """
    from prefloop.data.check import check
    from prefloop.data.serving import command, given, served
    from prefloop.data.skipping import apart

    loaded = read(options, options.file, options.limit)
    counts, refused = None, None
    if options.model is not None:
        if len(loaded.groups) >= MANY:
            options.say(f"rendering {len(loaded.groups):,} rows with the template of {options.model}")
        loaded, counts, refused = tokens.measure(loaded, tokens.template(options.model, options.template), options)
    if options.held_out is not None:
        _, notes = apart(loaded.groups, read(options, options.held_out, options.limit).groups, options.faulty)
        loaded = replace(loaded, notes=(*loaded.notes, *notes))
    report, found = check(loaded.groups), given(loaded.groups)
    use = {"serves": served(found), "next": command(shlex.quote(str(options.file)), found, _read_as(options, loaded))}
    options.show(
        lambda: {**_record(options.file, loaded, report), **use, **({"tokens": counts.record} if counts else {})},
        lambda: _print_report(options.file, loaded, report, counts, use),
    )
    if refused:
        raise refused
    return BAD_ROWS if loaded.faults and options.faulty == "refuse" else 0


def _record(file: Path, loaded: Loaded, report: Report) -> dict[str, Any]:
    from prefloop.data.fault import by_reason

    faults = [fault.record for fault in loaded.faults]
    read_as = {"format": loaded.format, "columns": loaded.columns, "unused": loaded.unused, "notes": loaded.notes}
    return {"file": str(file), **read_as, **asdict(report), "reasons": by_reason(loaded.faults), "faults": faults}


def _read_as(options: Options, loaded: Loaded) -> list[str]:
    """The flags with which `train` reads the file as it is checked here."""
    own = [f"{ours}={theirs}" for ours, theirs in options.columns.items()]
    values: dict[str, list[str]] = {"data.held_out": [str(options.held_out or "split")], "data.columns": own}
    keys = (*READ_AS, *(RENDERED if options.model else {}))
    default = {field.name: field.default for field in fields(Options)}
    values |= {f"data.{key}": [str(x)] for key in keys if (x := getattr(options, key)) != default[key]}
    values |= {"data.faulty": ["skip"]} if loaded.faults else {}
    values |= {"model.path": [options.model]} if options.model else {}
    return [" ".join((f"--{key}", *map(shlex.quote, given))) for key, given in values.items() if given]


def _print_report(file: Path, loaded: Loaded, report: Report, counts: Counts | None, use: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from prefloop.data.formats import FORMATS
    from prefloop.data.serving import listed

    console = Console(highlight=False)
    console.print(Text(str(file), style="bold"), soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("format", style="cyan"), Text(f"{loaded.format}: {FORMATS[loaded.format].help}"))
    serves = {"serves": "; ".join(filter(None, (listed(use["serves"]), ONLINE)))}
    for name, value in {**facts(report), **(counts.facts if counts else {}), **serves}.items():
        table.add_row(Text(name, style="cyan"), Text(value))
    console.print(table)
    for remark in (*loaded.remarks, *_remarks(report)):
        console.print(Text(wrapped(f"note: {remark}"), style="yellow"), soft_wrap=True)
    print_faults(loaded)
    console.print(Text(f"next: {use['next']}"), soft_wrap=True)


def _remarks(report: Report) -> list[str]:
    """Notes for anyone about to train on these data."""
    remarks = []
    if report.longer_wins is not None and report.longer_wins >= NOTABLE:
        remarks.append("longer responses are often preferred: compare any accuracy with that of picking the longer one")
    if report.systems:
        what = f"{report.systems:,} rows ask a question that others ask under another system message"
        remarks.append(f"{what}: a split keeps them on one side; --group-by COLUMN identifies questions otherwise")
    if report.positive_labels in (0.0, 1.0):
        remarks.append("all labels are equal: there is nothing to learn from them")
    if report.duplicates or report.contradictions:
        remarks.append("repeated prompts stay on one side of a split, but have more weight")
    return remarks
