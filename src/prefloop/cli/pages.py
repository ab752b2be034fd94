"""The page of a verb that prints its result: written where it is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefloop.report.found_page import Found


def written(out: Path | None, found: Callable[[], Found]) -> str | None:
    """The path of the page with the command that made it; none if none is wanted.

    Raises:
        UserError: the page would be too large.
    """
    if out is None:
        return None
    from prefloop.report.found_page import write
    from prefloop.runs.manifest import command

    return str(write(found(), out, command=shlex.join(command())))


def at(page: str | None) -> str:
    """The last line of a text: where its page is."""
    return f"\n\npage: {page}" if page else ""
