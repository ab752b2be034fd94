"""`prefloop run`: the stages of a recipe, from files to judged models."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from prefloop.analysis.numbers import duration
from prefloop.cli.options import Output, require_folder
from prefloop.runs.schema import Flag

PAGE = "recipe.html"
LATER = "known when it starts"


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Run the stages of a recipe that are not finished, and write one page.

    Everything is checked before anything is trained. The same command continues after an interruption.
    """

    recipe: Annotated[str, Flag(positional=True, metavar="RECIPE")]
    """A recipe (YAML), or the name of one that is shipped: alpacafarm, ultrafeedback, alpacafarm-mini, …"""
    data: Annotated[dict[str, str], Flag(metavar="NAME=FILE")] = field(default_factory=dict)
    """Files that the recipe needs, such as --data.pairs FILE."""
    out: Annotated[Path, Flag(metavar="FOLDER")] = Path("recipe")
    """Folder of all results."""
    rerun: Annotated[tuple[str, ...], Flag(commas=True, metavar="STAGES")] = ()
    """Stages that may run again because their inputs have changed, and with them those after; or `all`."""
    plan: bool = False
    """Check the recipe and predict the time of each stage without running it."""

    def __post_init__(self) -> None:
        require_folder(self.out)


def run(options: Options) -> int:
    """Check, run, and print where the page is.

    Raises:
        UserError, DataError: before anything is trained, as far as it can be known.
    """
    from prefloop.recipes import conduct, fitting, recipe

    whole = recipe.read(recipe.find(options.recipe), options.data)
    options.say(f"{whole.title}: checking {len(whole.stages)} stages")
    notes = fitting.check(whole)
    for note in notes:
        options.say(note)
    todo = conduct.works(whole, options.out, options.rerun)
    if options.plan:
        seconds = conduct.foreseen(whole, todo)
        options.show(lambda: {"stages": seconds}, lambda: _print_plan(todo, seconds))
        return 0
    records = conduct.run(whole, todo, say=options.say, quiet=options.silent)
    from prefloop.recipes import page
    from prefloop.runs.manifest import command

    where = page.page(whole, records, notes, options.out / PAGE, shlex.join(command()))
    options.show(lambda: {"page": str(where), "stages": records, "notes": notes}, lambda: _print(records, where))
    return 0


def _print_plan(todo: Sequence[Any], seconds: dict[str, float | None]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "kind", "uses", "time", box=None, header_style="bold", pad_edge=False)
    for work in todo:
        time = seconds[work.stage.name]
        said = "finished" if work.done else LATER if time is None else f"about {duration(time)}"
        table.add_row(work.stage.name, work.stage.kind, ", ".join(work.stage.needs), said)
    Console().print(table)


def _print(records: Sequence[dict[str, Any]], where: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from prefloop.recipes.page import HEAD, table

    for record in records:
        if record["kind"] == "eval":
            shown = Table(*HEAD, box=None, header_style="bold", pad_edge=False)
            for row in table(record):
                shown.add_row(*row)
            Console().print(shown)
            print(record["source"])
    print(f"page: {where}")
