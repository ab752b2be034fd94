"""`prefloop methods`: the study's Table 1, computed from the rows, and one row in full."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.cli.options import Output
from prefloop.runs.schema import Flag

if TYPE_CHECKING:  # torch comes in only when there is something to compute, so that --help is quick
    from prefloop.core.describe import Description


WIDE = 124  # columns from which on papers are printed with their identifiers
PIPE = 140  # columns where the output is no terminal
NOTES = (
    "reuse: passes over one collection; N/A where the responses come from a dataset",
    "negative: probed; yes where some coefficient of the row is below 0",
    "One row in full: prefloop methods NAME. Every switch works on every row: --override.on_policy, .reuse, .negative",
)


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Every method in parts: on-policy sampling, sample reuse, negative gradient, needs."""

    name: Annotated[str | None, Flag(positional=True, metavar="NAME")] = None
    """Explain this method, one of the list or `module:name` of yours: formula, defaults, switches."""
    names: bool = False
    """Print names only."""


def run(options: Options) -> int:
    """Print the table, or one method in full.

    Raises:
        UserError: an unknown method; the nearest one is suggested.
    """
    rows = _descriptions([options.name] if options.name else None)
    records = [as_record(row) for row in rows]
    options.show(lambda: records[0] if options.name else records, lambda: _print(options, rows))
    return 0


def _print(options: Options, rows: Sequence[Description]) -> None:
    if options.names:
        print("\n".join(row.name for row in rows))
    elif options.name:
        _print_row(rows[0])
    else:
        _print_table(rows)


def _descriptions(names: Iterable[str] | None) -> list[Description]:
    from prefloop.core.describe import FAMILIES, describe
    from prefloop.core.methods import METHODS, method

    rows = [describe(name, method(name)) for name in names or METHODS]
    return sorted(rows, key=lambda row: FAMILIES.index(row.family))  # stable: the order of METHODS inside a family


def as_record(row: Description) -> dict[str, Any]:
    """A row for JSON; `reuse` is null where the data are offline."""
    return {key: value for key, value in asdict(row).items() if value not in ("", ())} | {"needs": list(row.needs)}


def on_policy_word(row: Description) -> str:
    return {0.0: "no", 1.0: "yes"}.get(float(row.on_policy), f"{row.on_policy:.0%}")


def reuse_word(row: Description) -> str:
    """How often a collection is passed over, as the study's table says it."""
    return "N/A" if row.reuse is None else f"{row.reuse}×"


def negative_word(row: Description) -> str:
    return "yes" if row.negative else "no"


def number(value: Any) -> str:
    """A hyper-parameter as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def run_command(row: Description) -> str:
    """A command line that trains this row, with the switch that changes it."""
    return f"prefloop train CONFIG.yaml --method {row.name}" + (" --override.negative 0" if row.negative else "")


def _print_table(rows: Sequence[Description]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = console if console.is_terminal else Console(width=PIPE)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("method", no_wrap=True)
    for title in ("on-policy", "reuse", "negative"):
        table.add_column(title, justify="center", no_wrap=True)
    table.add_column("needs")
    table.add_column("paper", style="dim")
    family = ""
    for row in rows:
        if row.family != family:
            family = row.family
            table.add_row(f"[bold]{family}[/]")
        cells = (on_policy_word(row), reuse_word(row), negative_word(row), ", ".join(row.needs) or "–")
        table.add_row(f"  {row.name}", *cells, row.paper if console.width >= WIDE else row.paper.partition(",")[0])
    console.print(table)
    for note in NOTES:
        console.print(note, style="dim")


def _print_row(row: Description) -> None:
    from rich.console import Console
    from rich.text import Text

    from prefloop.core.describe import PATTERNS

    console = Console(highlight=False)
    console.print(Text(row.name, style="bold"), Text(f"  {row.family}; {PATTERNS[row.family]}", style="dim"))
    if row.summary:
        console.print(Text(row.summary))
    _block(console, "Loss", [("", row.formula)])
    _block(console, "Signal", [(k, v) for k, v in (("weight", row.weight), ("pairs", row.pairs)) if v])
    _block(console, "Switches", list(row.switches.items()))
    _block(console, "Hyper-parameters", [(k, number(v)) for k, v in row.options.items()])
    _block(console, "Loop", [(k, number(v)) for k, v in row.fields.items()])
    _block(console, "Needs", [("", ", ".join(row.needs) or "nothing but the responses")])
    _block(console, "Paper", [("", row.paper)])
    _block(console, "Run it", [("", run_command(row))])


def _block(console: Any, title: str, lines: Sequence[tuple[str, str]]) -> None:
    """A heading over `key  text` lines whose text is wrapped under itself."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if not lines:
        return
    grid = Table.grid(padding=(0, 2))
    if any(key for key, _ in lines):
        grid.add_column(no_wrap=True, style="cyan")
    grid.add_column(overflow="fold")
    for key, text in lines:
        grid.add_row(*([key] if key else []), Text(text))
    console.print()
    console.print(title, style="bold")
    console.print(Padding(grid, (0, 0, 0, 2)))
