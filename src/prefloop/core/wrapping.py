"""What a command tells people, in lines that fit a terminal: notes, warnings and what it is doing."""

from __future__ import annotations

import re

from prefloop.core.errors import COLUMNS

HANGING = "  "  # before the second line of a sentence and those after it
UNIT = re.compile(r"\S*: prefloop .*|(?:`[^`]*`|\S)+")  # a command to its end; `code`, a word or a path


def wrapped(text: str) -> str:
    """A text in lines of at most 80 columns; a path or a command that is longer stays whole."""
    return "\n".join(line if len(line) <= COLUMNS else _broken(line) for line in text.split("\n"))


def _broken(line: str) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    first, *units = UNIT.findall(line)
    made = [indent + first]
    for unit in units:
        if len(made[-1]) + 1 + len(unit) <= COLUMNS:
            made[-1] += f" {unit}"
        else:
            made.append(f"{indent}{HANGING}{unit}")
    return "\n".join(made)
