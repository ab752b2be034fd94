"""`prefloop data show FILE`: the first rows as Prefloop reads them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.cli.data import tokens
from prefloop.cli.data.shared import BAD_ROWS, print_faults, read
from prefloop.cli.options import Rows, require_positive
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.formats import Loaded
    from prefloop.data.records import Group


@dataclass(frozen=True, kw_only=True)
class Options(Rows):
    """Print the first rows of a file as Prefloop reads them.

    Exit code: 0 if all rows can be used, 3 if some cannot.
    """

    file: Annotated[Path, Flag(positional=True)]
    """.jsonl, .json (both also .gz) or .parquet."""
    rows: int = 3
    """Number of rows to show."""
    model: str | None = None
    """Show the tokens that this model would be trained on: prompt, answers, and what ends them."""
    template: str = "auto"
    """With --model: auto, chat, plain, chatml, zephyr, alpaca, human-assistant or a Jinja file."""
    system: str | None = None
    """System message for prompts that have none."""

    def __post_init__(self) -> None:
        require_positive(self, "rows", "limit")


def run(options: Options) -> int:
    """Show the rows; 3 if some cannot be used.

    Raises:
        UserError, DataError: a file, model or template that cannot be used, or rows that the template changes.
    """
    from prefloop.data.records import with_system

    loaded = read(options, options.file, min(options.rows, options.limit or options.rows))
    groups = with_system(options.system, loaded.groups)
    if options.model is None:
        options.show(lambda: [asdict(group) for group in groups], lambda: _print(groups, loaded))
    else:
        rendering = tokens.template(options.model, options.template)
        options.show(lambda: tokens.record(rendering, groups), lambda: tokens.show(rendering, groups))
    return BAD_ROWS if loaded.faults and options.faulty == "refuse" else 0


def _print(groups: list[Group], loaded: Loaded) -> None:
    for group in groups:
        _print_group(group)
    for remark in loaded.remarks:
        print(wrapped(f"note: {remark}"))
    print_faults(loaded)


def _print_group(group: Group) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from prefloop.data.formats.loading import question

    console = Console(highlight=False)
    key = "" if group.key == question(group.prompt) else f" key: {group.key}"
    console.print(Text(f"row {group.row}", style="bold"), Text(key, style="dim"))
    for message in group.prompt:
        console.print(Padding(Text.assemble((f"{message.role}: ", "cyan"), message.content), (0, 0, 0, 2)))
    scores: tuple[Any, ...] = group.scores or ("",) * len(group.responses)
    for response, score in zip(group.responses, scores, strict=True):
        console.print(Padding(Text.assemble((f"{score:>4} ", "green"), response), (0, 0, 0, 4)))
