"""Built-in everyday instructions, written for this package: short questions that have short answers."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from prefloop.core.errors import UserError, nearest
from prefloop.data.records import Group, Message

SPLITS = ("train", "held_out")


def builtin() -> Path:
    """The file of the built-in instructions."""
    return Path(str(files("prefloop.data").joinpath("instructions.jsonl")))


def instructions(split: str) -> list[Group]:
    """The 220 training or 80 held-out instructions, without responses; both mix all topics.

    Raises:
        UserError: no such split.
    """
    if split not in SPLITS:
        raise UserError(f"the built-in instructions have no split `{split}`", fix=nearest(split, SPLITS))
    text = builtin().read_text(encoding="utf-8")
    lines = [(number, json.loads(line)) for number, line in enumerate(text.splitlines(), 1)]
    return [
        Group((Message("user", row["prompt"]),), (), None, row["prompt"], number)
        for number, row in lines
        if row["split"] == split
    ]
