"""Groups as rows of our own conversational format, without loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from prefloop.data.formats.columns import KNOWN, answers
from prefloop.data.formats.loading import OWN, question
from prefloop.data.formats.stated import CHOSEN, MEDIA, RATINGS
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
