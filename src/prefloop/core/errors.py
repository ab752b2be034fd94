"""User errors: what went wrong, where, and how to fix it. The command line prints them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A wrong command, configuration or setting.

    Args:
        what: what is wrong, in one sentence.
        where: file, row, key.
        fix: how to fix it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        lines = (what, f"  where: {where}" if where else "", f"  fix:   {fix}" if fix else "")
        super().__init__("\n".join(line for line in lines if line))


class DataError(UserError):
    """Data, a model or a reward that cannot be used."""

    exit_code = 3


EXCERPT = 80  # characters of a text shown in a message


def excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def raised(error: Exception) -> str:
    """Type and message of an exception, for use in a sentence."""
    return f"{type(error).__name__}: {excerpt(str(error))}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, or list them all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"choose one of: {', '.join(names)}"
