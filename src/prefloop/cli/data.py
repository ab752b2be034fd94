"""`prefloop data check FILE` and `prefloop data show FILE`: what a file holds, before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from prefloop.data.check import Lengths, Report
    from prefloop.data.formats import Loaded
    from prefloop.data.records import Group

FAULTS_SHOWN = 20
BAD_ROWS = 3  # exit code, that of unusable data
WORTH_A_LOOK = 0.6  # share of "the longer wins", or of one label, from which on it is pointed out

File = Annotated[Path, tyro.conf.Positional]


def main(argv: list[str]) -> int:
    """Run one of the two; 3 when some rows of the file cannot be used."""
    verbs: dict[str, Callable[..., int]] = {"check": check, "show": show}
    plain = (tyro.conf.FlagCreatePairsOff,)  # --json, but no --no-json
    return tyro.extras.subcommand_cli_from_dict(
        verbs, prog="prefloop data", args=argv, description=__doc__, config=plain
    )


def check(
    file: File,
    *,
    format: str = "auto",
    group_by: str = "prompt",
    columns: tuple[str, ...] = (),
    limit: int | None = None,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    quiet: bool = False,
) -> int:
    """Count, measure and look for mistakes in a file of preferences, labels or prompts.

    Args:
        file: .jsonl, .json (both also .gz) or .parquet.
        format: auto, preference, unpaired, rated, implicit_prompt or prompt_only.
        group_by: column by which train and held-out are split; `prompt` is the prompt's text.
        columns: which columns of the file are ours, such as chosen=response.
        limit: read only the first so many rows.
        json: print JSON.
        quiet: print nothing; the exit code tells: 0 all rows can be used, 3 some cannot.
    """
    from prefloop.data.check import check as examine

    found = _read(file, format, group_by, columns, limit)
    report = examine(found.groups)
    if json:
        print(_as_json(file, found, report))
    elif not quiet:
        _print_report(file, found, report)
    return BAD_ROWS if found.faults else 0


def show(
    file: File,
    *,
    rows: int = 3,
    format: str = "auto",
    group_by: str = "prompt",
    columns: tuple[str, ...] = (),
) -> int:
    """Print the first rows of a file as Prefloop understands them.

    Args:
        file: .jsonl, .json (both also .gz) or .parquet.
        rows: how many to show.
        format: auto, preference, unpaired, rated, implicit_prompt or prompt_only.
        group_by: column by which train and held-out are split; `prompt` is the prompt's text.
        columns: which columns of the file are ours, such as chosen=response.
    """
    from prefloop.core.errors import UserError

    if rows < 1:
        raise UserError(f"`rows` cannot be {rows}", where="--rows", fix="use 1 or more")
    found = _read(file, format, group_by, columns, rows)
    for group in found.groups:
        _print_group(group)
    _print_faults(found)
    return BAD_ROWS if found.faults else 0


def _read(file: Path, format: str, group_by: str, columns: tuple[str, ...], limit: int | None) -> Loaded:
    from prefloop.data.formats import load_usable

    return load_usable(file, format=format, group_by=group_by, columns=_map(columns), limit=limit)


def _map(columns: tuple[str, ...]) -> dict[str, str]:
    from prefloop.core.errors import UserError

    pairs = [text.partition("=") for text in columns]
    for name, _, column in pairs:
        if not name or not column:
            raise UserError(f"`{name}` is no column map", where="--columns", fix="--columns chosen=response")
    return {name: column for name, _, column in pairs}


def _as_json(file: Path, found: Loaded, report: Report) -> str:
    faults = [{"row": f.row, "what": f.what} for f in found.faults]
    facts = {"file": str(file), "format": found.format, "columns": found.columns, **asdict(report), "faults": faults}
    return json.dumps(facts, indent=2, ensure_ascii=False)


def _print_report(file: Path, found: Loaded, report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from prefloop.data.formats import FORMATS

    console = Console(highlight=False)
    console.print(Text(str(file), style="bold"), soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("format", style="cyan"), Text(f"{found.format}: {FORMATS[found.format].help}"))
    for name, value in _facts(report).items():
        table.add_row(Text(name, style="cyan"), Text(value))
    console.print(table)
    for remark in _remarks(report):
        console.print(Text(f"note: {remark}", style="yellow"))
    _print_faults(found)


def _facts(report: Report) -> dict[str, str]:
    """What is known, as text; what the file cannot have is left out."""
    sizes = ", ".join(f"{groups:,} with {size}" for size, groups in report.group_sizes.items())
    facts = {
        "rows": f"{report.groups:,}",
        "questions": f"{report.keys:,} (a split goes by these); {report.prompts:,} distinct prompts",
        "responses": f"{report.responses:,} (rows: {sizes})",
        "prompt length": _lengths(report.prompt_length),
    }
    if report.response_length is not None:
        facts["response length"] = _lengths(report.response_length)
    if report.longer_wins is not None:
        facts["preferences"] = f"{report.preferences:,}; the longer response wins {report.longer_wins:.1%}"
    if report.positive_labels is not None:
        facts["labels"] = f"{report.positive_labels:.1%} positive"
    counts = f"{report.duplicates:,} duplicate rows, {report.ties:,} ties, {report.contradictions:,} contradictions"
    return facts | {"repeats": counts}


def _lengths(x: Lengths) -> str:
    return f"{x.min:,} to {x.max:,} characters, median {x.median:,.0f}, 95 % up to {x.p95:,.0f}"


def _remarks(report: Report) -> list[str]:
    """What somebody who is about to train on this should know."""
    remarks = []
    if report.longer_wins is not None and report.longer_wins >= WORTH_A_LOOK:
        remarks.append("longer responses win often: compare any accuracy with that of picking the longer")
    if report.positive_labels in (0.0, 1.0):
        remarks.append("all labels are the same: nothing can be learnt from their difference")
    if report.duplicates or report.contradictions:
        remarks.append("repeated prompts stay on one side of a split, but they weigh more")
    return remarks


def _print_group(group: Group) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"row {group.row}", style="bold"), Text(f" key: {group.key}", style="dim"))
    for message in group.prompt:
        console.print(Padding(Text.assemble((f"{message.role}: ", "cyan"), message.content), (0, 0, 0, 2)))
    scores: tuple[Any, ...] = group.scores or ("",) * len(group.responses)
    for response, score in zip(group.responses, scores, strict=True):
        console.print(Padding(Text.assemble((f"{score:>4} ", "green"), response), (0, 0, 0, 4)))


def _print_faults(found: Loaded) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if found.faults:
        console.print(Text(f"{len(found.faults)} rows cannot be used:", style="red"))
    for fault in found.faults[:FAULTS_SHOWN]:
        console.print(Text(f"  {fault}" + (f" ({fault.fix})" if fault.fix else "")))
    if len(found.faults) > FAULTS_SHOWN:
        console.print(f"  … and {len(found.faults) - FAULTS_SHOWN} more; --json lists all")
