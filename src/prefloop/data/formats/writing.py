"""Groups as rows of our own conversational format, without loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from prefloop.core.errors import DataError
from prefloop.data.formats.columns import KNOWN, answers
from prefloop.data.formats.loading import OWN, Loaded, question
from prefloop.data.formats.stated import CHOSEN, MEDIA, RATINGS, TIE
from prefloop.data.formats.table import ALIASES
from prefloop.data.records import Group

Shape = Literal["prompt_only", "example", "unpaired", "preference", "unscored", "rated"]
READ = {  # names that formats read: other columns of a group are written elsewhere if they have one
    *KNOWN,
    *ALIASES,
    *(name for names in ALIASES.values() for name in names),
    *MEDIA,
    *(name for pair in RATINGS for name in pair),
    *("status", "weight", "metadata", "preference", "label", OWN),
}


def shape(groups: Sequence[Group]) -> Shape:
    """The simplest format that can hold all the groups."""
    shapes = {_shape(group) for group in groups}
    if len(shapes) == 1:
        return shapes.pop()
    return "unscored" if shapes == {"example", "unscored"} else "rated"


def _shape(group: Group) -> Shape:
    count = len(group.responses)
    if count == 0:
        return "prompt_only"
    if group.scores is None:
        return "example" if count == 1 else "unscored"
    if count == 1 and group.scores[0] in (1.0, -1.0):
        return "unpaired"
    return "preference" if group.scores == CHOSEN else "rated"


def unpaired(loaded: Loaded, path: str | Path) -> Loaded:
    """Every response as a group of its own with a label, +1 for a chosen one and −1 for one that is not.

    Groups that say nothing about one response alone, ties and groups without scores, are left out and counted.

    Raises:
        DataError: the scores are ratings, or no label is left.
    """
    values = {score for group in loaded.groups for score in group.scores or ()}
    if ratings := sorted(values - {-1.0, 0.0, 0.5, 1.0})[:1]:
        fix = "labels come from chosen and rejected answers; for ratings, train with reward.label_threshold=NUMBER"
        raise DataError(f"the scores are ratings, such as {ratings[0]:g}, no preferences", where=str(path), fix=fix)
    made = [
        replace(group, responses=(text,), scores=(1.0 if score > 0 else -1.0,), more=group.more[n : n + 1])
        for group in loaded.groups
        for n, (text, score) in enumerate(zip(group.responses, group.scores or (), strict=False))
        if score != TIE[0]
    ]
    if not made:
        raise DataError("no row has a preference or a label", where=str(path), fix="use a file of pairs")
    lost = sum(group.scores is None or TIE[0] in group.scores for group in loaded.groups)
    notes = (*loaded.notes, *((f"rows without a preference have no labels: {lost:,} are left out",) if lost else ()))
    return replace(loaded, groups=made, notes=notes)


def to_row(group: Group, shape: Shape | None = None) -> dict[str, Any]:
    """The group as a row of messages in one of our formats; `load` gives the same group again.

    Args:
        shape: the format; by default the simplest that can hold this group. A file should have one, see `shape`.
    """
    row = {"prompt": [m.plain for m in group.prompt], **_answers(group, shape or _shape(group))}
    if group.tools:
        row["tools"] = json.loads(group.tools)
    own: dict[str, Any] = {} if group.key == question(group.prompt) else {"key": group.key}
    hidden = {name for name in group.columns if name in READ or answers(name)}
    if hidden:
        own["columns"] = {name: value for name, value in group.columns.items() if name in hidden}
    return row | {n: v for n, v in group.columns.items() if n not in hidden} | ({OWN: own} if own else {})


def _answers(group: Group, shape: Shape) -> dict[str, Any]:
    answers = [[a.plain] for a in group.answers]
    scores = group.scores or ()
    match shape:
        case "prompt_only":
            return {}
        case "example":
            return {"completion": answers[0]}
        case "unpaired":
            return {"completion": answers[0], "label": scores[0] > 0}
        case "preference":
            return {"chosen": answers[0], "rejected": answers[1]}
        case "unscored":
            return {"responses": answers}
        case "rated":
            return {"responses": answers, "scores": list(scores)}
