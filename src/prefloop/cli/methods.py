"""`prefloop methods`: the paper's Table 1, computed from the methods, and one method in full."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.cli.options import Output
from prefloop.runs.schema import Flag

if TYPE_CHECKING:  # torch is imported only to compute something, so that --help is fast
    from prefloop.core.describe import Description


WIDE = 124  # minimum width at which papers are printed with identifiers
PIPE = 140  # width if the output is not a terminal
NOTES = (
    "reuse: passes over one collection; N/A if the responses come from a dataset",
    "negative: probed; yes if some coefficient of the method is below 0",
    "One method in full: prefloop methods NAME. Switches work on every method: --override.on_policy, .reuse, .negative",
)


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """List every method: on-policy sampling, sample reuse, negative gradient, needs."""

    name: Annotated[str | None, Flag(positional=True, metavar="NAME")] = None
    """Explain this method (from the list, or your own `module:name`): formula, defaults, switches."""
    names: bool = False
    """Print names only."""


def run(options: Options) -> int:
    """Print the table, or one method in full.

    Raises:
        UserError: an unknown method; the nearest one is suggested.
    """
    rows = _descriptions([options.name] if options.name else None)
    records = [as_record(method) for method in rows]
    options.show(lambda: records[0] if options.name else records, lambda: _print(options, rows))
    return 0


def _print(options: Options, rows: Sequence[Description]) -> None:
    if options.names:
        print("\n".join(method.name for method in rows))
    elif options.name:
        _print_method(rows[0])
    else:
        _print_table(rows)


def _descriptions(names: Iterable[str] | None) -> list[Description]:
    from prefloop.core.describe import FAMILIES, describe
    from prefloop.core.methods import METHODS, method

    rows = [describe(name, method(name)) for name in names or METHODS]
    return sorted(
        rows, key=lambda method: FAMILIES.index(method.family)
    )  # stable: the order of METHODS inside a family


def as_record(method: Description) -> dict[str, Any]:
    """A method for JSON; `reuse` is null if the data are offline."""
    return {key: value for key, value in asdict(method).items() if value not in ("", ())} | {
        "needs": list(method.needs)
    }


def on_policy_word(method: Description) -> str:
    return {0.0: "no", 1.0: "yes"}.get(float(method.on_policy), f"{method.on_policy:.0%}")


def reuse_word(method: Description) -> str:
    """The number of passes over a collection, as in the paper's table."""
    return "N/A" if method.reuse is None else f"{method.reuse}×"


def negative_word(method: Description) -> str:
    return "yes" if method.negative else "no"


def number(value: Any) -> str:
    """A hyper-parameter as typed on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def run_command(method: Description) -> str:
    """A command that trains this method as published."""
    source = "--data.train FILE" if method.on_policy == 0 else "--reward.name REWARD"
    return f"prefloop train --method {method.name} {source}"


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
    for method in rows:
        if method.family != family:
            family = method.family
            table.add_row(f"[bold]{family}[/]")
        cells = (on_policy_word(method), reuse_word(method), negative_word(method), ", ".join(method.needs) or "–")
        table.add_row(
            f"  {method.name}", *cells, method.paper if console.width >= WIDE else method.paper.partition(",")[0]
        )
    console.print(table)
    for note in NOTES:
        console.print(note, style="dim")


def _print_method(method: Description) -> None:
    from rich.console import Console
    from rich.text import Text

    from prefloop.core.describe import PATTERNS

    console = Console(highlight=False)
    console.print(Text(method.name, style="bold"), Text(f"  {method.family}; {PATTERNS[method.family]}", style="dim"))
    if method.summary:
        console.print(Text(method.summary))
    _block(console, "Loss", [("", method.formula)])
    _block(console, "Signal", [(k, v) for k, v in (("weight", method.weight), ("pairs", method.pairs)) if v])
    _block(console, "Switches", list(method.switches.items()))
    _block(console, "Hyper-parameters", [(k, number(v)) for k, v in method.options.items()])
    _block(console, "Loop", [(k, number(v)) for k, v in method.fields.items()])
    _block(console, "Needs", [("", ", ".join(method.needs) or "nothing but the responses")])
    _block(console, "Paper", [("", method.paper)])
    _block(console, "Run it", [("", run_command(method))])


def _block(console: Any, title: str, lines: Sequence[tuple[str, str]]) -> None:
    """A heading above `key  text` lines with hanging indentation."""
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
