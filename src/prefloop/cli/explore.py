"""`prefloop explore`: a page on which methods move a categorical policy."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from prefloop.cli.options import Output, require_place
from prefloop.core.errors import UserError
from prefloop.runs.schema import Flag


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Write and open a page on which methods move the mass of a small policy, step by step."""

    output: Annotated[Path, Flag(metavar="FILE")] = Path("explore.html")
    """File of the page; an existing page is replaced."""
    no_open: bool = False
    """Do not open the page in a browser."""

    def __post_init__(self) -> None:
        require_place(self.output, "--output")
        if self.output.is_dir():
            raise UserError(
                "the file of the page is a folder", where=f"--output {self.output}", fix="name a file in it"
            )


def run(options: Options) -> int:
    """Write the page, print its path, and open it where there is a browser.

    Raises:
        UserError: the file is a folder or lies below a file.
    """
    from prefloop.report.explorer import write
    from prefloop.worlds.arms.problem import reference_law
    from prefloop.worlds.arms.spec import Bandit

    page = write(options.output, reference_law().tolist(), Bandit.skew_width)
    opened = not options.no_open and has_display() and webbrowser.open(page.resolve().as_uri())
    hint = "" if opened or options.no_open else "\nno display or browser here: open the file in one"
    options.show(lambda: {"page": str(page), "opened": opened}, lambda: print(f"{page}{hint}"))
    return 0


def has_display() -> bool:
    """Whether a browser could show a window: otherwise a text browser would take over the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
