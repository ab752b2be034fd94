"""Files with rows that cannot be used, and questions that are both trained on and held out: refused, or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from prefloop.core.errors import DataError
from prefloop.data.fault import Fault, by_reason, counted
from prefloop.data.formats import Loaded, faulty
from prefloop.data.records import Group

Faulty = Literal["refuse", "skip"]  # what is done with rows that cannot be used
MOST = 0.5  # share of a file that may be left out


def kept(path: Path, loaded: Loaded, how: Faulty) -> Loaded:
    """The file with a note about the rows that are left out, counted by reason.

    Raises:
        DataError: rows that cannot be used and are not to be skipped, or more than half of the file.
    """
    if not loaded.faults:
        return loaded
    bad = sum(not fault.part for fault in loaded.faults)
    if how == "refuse" or bad > MOST * (len(loaded.groups) + bad):
        raise faulty(path, loaded)
    return replace(loaded, notes=(*loaded.notes, left_out(loaded.faults, len(loaded.groups))))


def left_out(faults: Sequence[Fault], usable: int) -> str:
    """A note about rows, and answers of usable rows, that are left out, counted by reason."""
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in by_reason(faults).items())
    return f"{counted(faults, usable)} are left out: {reasons}"


def apart(train: Sequence[Group], held_out: Sequence[Group], how: Faulty) -> tuple[list[Group], tuple[str, ...]]:
    """The training groups whose questions are not held out, and a note if some are left out.

    A question is recognised by its prompt or by its key.

    Raises:
        DataError: such groups, if they are not to be skipped, or if none is left.
    """
    held = {group.prompt for group in held_out}
    keys = {group.key for group in held_out}
    left = [group for group in train if group.prompt not in held and group.key not in keys]
    both = len(train) - len(left)
    if not both:
        return list(train), ()
    what = f"{both:,} of {len(train):,} training rows ask questions that are held out too"
    if how == "refuse" or not left:
        first = next(group.row for group in train if group.prompt in held or group.key in keys)
        fix = "use data.held_out=split, or remove them" + ("; data.faulty=skip does not train on them" if left else "")
        raise DataError(what, where=f"data.train and data.held_out, first in row {first} of data.train", fix=fix)
    return left, (f"{what}: they are not trained on",)
