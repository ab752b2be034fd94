"""What the verbs share. Each verb is a module with a frozen dataclass `Options` and a `run(options)`; its flags and its
help are made from the dataclass by `prefloop.runs.flags`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from prefloop.core.errors import UserError
from prefloop.runs.schema import Flag


@dataclass(frozen=True, kw_only=True)
class Output:
    """How every verb speaks."""

    json: bool = False
    """Print one JSON value and nothing else."""
    quiet: Annotated[bool, Flag(short="q")] = False
    """Print nothing; the exit code tells."""

    @property
    def silent(self) -> bool:
        """No text for a reader."""
        return self.json or self.quiet

    def say(self, text: str) -> None:
        """A line for a reader, at once."""
        if not self.silent:
            print(text, flush=True)

    def show(self, record: Callable[[], Any], text: Callable[[], None]) -> None:
        """The result, as JSON or as text."""
        if self.json:
            from prefloop.core.files import to_json

            print(to_json(record()))
        elif not self.quiet:
            text()


@dataclass(frozen=True, kw_only=True)
class Rows(Output):
    """How a data file is read."""

    format: str = "auto"
    """auto (by the columns), preference, unpaired, rated, implicit_prompt or prompt_only."""
    group_by: Annotated[str, Flag(metavar="COLUMN")] = "prompt"
    """Column whose equal values are one question: training and held-out data never share one."""
    columns: Annotated[dict[str, str], Flag(metavar="OURS=THEIRS")] = field(default_factory=dict)
    """What the file calls our columns, such as chosen=response."""
    limit: int | None = None
    """Read only this many rows."""


def require(holds: bool, flag: str, value: Any, fix: str) -> None:
    """Refuse the value of a flag.

    Raises:
        UserError: where `holds` is false.
    """
    if not holds:
        shown = f"{value:g}" if isinstance(value, float) else value
        raise UserError(f"`{flag}` cannot be {shown}", where="--" + flag.replace("_", "-"), fix=fix)


def require_positive(options: Any, *names: str) -> None:
    """Refuse options that are given and not finite numbers above 0.

    Raises:
        UserError: the first of these.
    """
    for name in names:
        value = getattr(options, name)
        fix = "use 1 or more" if isinstance(value, int) else "use a finite number above 0"
        require(value is None or 0 < value < math.inf, name, value, fix)


def require_seed(seed: int) -> None:
    """Refuse what no random stream can start from."""
    require(0 <= seed < 2**63, "seed", seed, "use a whole number from 0 to 2^63 - 1")


def require_folder(out: Path) -> None:
    """Refuse an output folder that is a file, or that lies below one.

    Raises:
        UserError: with the file's name.
    """
    if out.exists() and not out.is_dir():
        raise UserError("the output folder is a file", where=str(out), fix="name a folder")
    require_place(out)


def require_place(out: Path) -> None:
    """Refuse a place that nothing can be written to, because a file is in the way.

    Raises:
        UserError: with the file's name.
    """
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        what = f"`{above}` is a file, so nothing can be put into it"
        raise UserError(what, where=f"--out {out}", fix="choose another folder")
