"""Shared options. Each verb is a module with a frozen dataclass `Options` and a `run(options)`; `prefloop.runs.flags`
makes its flags and help from the dataclass."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from prefloop.core.errors import UserError
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

CUT, EMPTY = " … (cut at the limit)", "(an empty answer)"  # how answers of a model are marked


@dataclass(frozen=True, kw_only=True)
class Output:
    """Output options of every verb."""

    json: bool = False
    """Print one JSON value and nothing else."""
    quiet: Annotated[bool, Flag(short="q")] = False
    """Print nothing; see the exit code."""

    @property
    def silent(self) -> bool:
        """Whether to print no text."""
        return self.json or self.quiet

    def say(self, text: str) -> None:
        """Print a sentence immediately, unless silent."""
        if not self.silent:
            print(wrapped(text), flush=True)

    def show(self, record: Callable[[], Any], text: Callable[[], None]) -> None:
        """Print the result, as JSON or as text."""
        if self.json:
            from prefloop.core.files import to_json

            print(to_json(record()))
        elif not self.quiet:
            text()


@dataclass(frozen=True, kw_only=True)
class Rows(Output):
    """Options for reading a data file."""

    format: str = "auto"
    """auto (by the columns), preference, unpaired, rated, …: the names in docs/formats.md."""
    group_by: Annotated[str, Flag(metavar="COLUMN")] = "prompt"
    """Column whose equal values are one question, which is never in both training and held-out data."""
    columns: Annotated[dict[str, str], Flag(metavar="OURS=THEIRS")] = field(default_factory=dict)
    """Our column names and those of the file, such as chosen=response."""
    limit: int | None = None
    """Read at most this many rows."""
    faulty: Literal["refuse", "skip"] = "refuse"
    """Rows that cannot be used: refuse the file, or skip and count them."""

    def __post_init__(self) -> None:
        require_positive(self, "limit")


def printable(text: str) -> str:
    """A text of a model or a file without characters that control the terminal; line breaks and tabs remain."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else repr(c)[1:-1] for c in text)


def require(holds: bool, flag: str, value: Any, fix: str) -> None:
    """Refuse the value of a flag.

    Raises:
        UserError: `holds` is false.
    """
    if not holds:
        shown = f"{value:g}" if isinstance(value, float) else value
        raise UserError(f"`{flag}` cannot be {shown}", where="--" + flag.replace("_", "-"), fix=fix)


def require_positive(options: Any, *names: str) -> None:
    """Refuse options that are given but not finite numbers above 0.

    Raises:
        UserError: for the first such option.
    """
    for name in names:
        value = getattr(options, name)
        fix = "use 1 or more" if isinstance(value, int) else "use a finite number above 0"
        require(value is None or 0 < value < math.inf, name, value, fix)


def require_seed(seed: int, flag: str = "seed") -> None:
    """Refuse an invalid seed."""
    require(0 <= seed < 2**63, flag, seed, "use a whole number from 0 to 2^63 - 1")


def require_folder(out: Path) -> None:
    """Refuse an output folder that is a file or lies below one.

    Raises:
        UserError: with the file's name.
    """
    if out.exists() and not out.is_dir():
        raise UserError("the output folder is a file", where=str(out), fix="give a folder")
    require_place(out)


def require_place(out: Path, flag: str = "--out") -> None:
    """Refuse an output path below a file.

    Raises:
        UserError: with the file's name.
    """
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        what = f"`{above}` is a file, not a folder"
        raise UserError(what, where=f"{flag} {out}", fix="choose another folder")


def require_page(out: Path | None, flag: str = "--page") -> None:
    """Refuse a page, if one is wanted, that is a folder or lies below a file.

    Raises:
        UserError: with its name.
    """
    if out is None:
        return
    if out.is_dir():
        raise UserError("the page is a folder", where=f"{flag} {out}", fix="name a file in it")
    require_place(out, flag)


def require_new(out: Path) -> None:
    """Refuse an output file that exists, or lies below a file.

    Raises:
        UserError: with the file's name.
    """
    require_place(out)
    if out.exists():
        raise UserError("the file already exists", where=str(out), fix="choose another name")
