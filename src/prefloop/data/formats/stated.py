"""What a row says about its answers: a preference, a label, ratings, and marks that forbid to train on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prefloop.data.formats.row import Row, Unusable, kind, number, shown

CHOSEN, TIE = (1.0, 0.0), (0.5, 0.5)
WITHDRAWN = ("bad", "rejected", "discarded", "pending", "draft", "truncated", "deleted", "failed", "error", "invalid")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
RATINGS = (  # of the chosen and of the rejected answer
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)


def refuse_marked(row: Row) -> None:
    """Refuse rows that say of themselves that they are not to be trained as others are.

    Raises:
        Unusable: a status, a weight, or media.
    """
    status = row.get("status")
    if isinstance(status, str) and status.lower() in WITHDRAWN:
        raise Unusable(f"its `status` is {shown(status)}", "leave such rows out, or rename the column")
    weight = row.get("weight")
    if weight is not None and weight != 1:
        raise Unusable(
            f"its `weight` is {shown(weight)}, but all rows count alike", "repeat rows, or rename the column"
        )
    for name in MEDIA:
        if row.get(name):
            raise Unusable(f"`{name}` is not empty; only text can be trained")


def stated(row: Row) -> tuple[float, ...]:
    """The scores of a chosen and a rejected answer; other columns may say that it is a tie.

    Raises:
        Unusable: another column contradicts `chosen` and `rejected`, or cannot be understood.
    """
    _check_ratings(row, row)
    if isinstance(row.get("metadata"), dict):
        _check_ratings(row, row["metadata"])
    label = row.get("label")
    if isinstance(label, bool | int | float) and label != 1:
        raise Unusable(f"`label` {shown(label)} beside `chosen` and `rejected` is unclear", "remove or rename it")
    if row.get("status") == "tie":
        row.take("status")
        return TIE
    return _share(row.take("preference"))


def _share(preference: Any) -> tuple[float, ...]:
    """`preference` beside `chosen` and `rejected`: their names, a tie, or the share that prefers the chosen answer."""
    if preference is None or preference in ("chosen", "a", "A"):
        return CHOSEN
    if preference in ("tie", "equal"):
        return TIE
    if isinstance(preference, float | int) and not isinstance(preference, bool) and 0.5 <= preference <= 1:
        return (float(preference), 1 - float(preference))
    if preference in ("rejected", "b", "B", 2) and not isinstance(preference, bool):
        raise Unusable(f"`preference` {shown(preference)} contradicts `chosen`", "mend the row, or remove the column")
    raise Unusable(f"`preference` {shown(preference)} beside `chosen` and `rejected` is unclear", "rename the column")


def _check_ratings(row: Row, rated: Mapping[str, Any]) -> None:
    for better, worse in RATINGS:
        if rated.get(better) is not None and rated.get(worse) is not None:
            high, low = number(rated[better], better), number(rated[worse], worse)
            if high < low:
                fix = "mend or leave out the row; are the answers swapped?"
                raise Unusable(f"`{better}` {shown(rated[better])} is below `{worse}` {shown(rated[worse])}", fix)
            if high == low:
                row.notes.append(f"rows with equal `{better}` and `{worse}` are read as chosen over rejected")


def first_share(verdicts: Iterable[float]) -> tuple[float, float]:
    """Shares of the first and the second answer by several verdicts: below 0 for the first, 0 a tie, above 0."""
    votes = [0.5 if v == 0 else float(v < 0) for v in verdicts]
    first = sum(votes) / len(votes)
    return (first, 1 - first)


def coded(value: Any, column: str, codes: Mapping[Any, tuple[float, float]]) -> tuple[float, float]:
    """The scores that a code stands for.

    Raises:
        Unusable: an unknown code.
    """
    if isinstance(value, str | int | float) and not isinstance(value, bool) and value in codes:
        return codes[value]
    raise Unusable(f"`{column}` is {shown(value)}", f"it can be {', '.join(map(str, codes))}")


def likelihood(value: Any, column: str) -> tuple[float, float]:
    """AlpacaFarm's and alpaca_eval's `preference`: 1 the first, 2 the second, between them a share; 0 and 1.5 a tie."""
    code = number(value, column)
    if code == 0:
        return TIE
    if not 1 <= code <= 2:
        raise Unusable(f"`{column}` is {shown(value)}", "it can be 1 (the first), 2 (the second), 1.5 or 0 (a tie)")
    return (2 - code, code - 1)


def binary(value: Any) -> float:
    """The label of one answer: +1 or −1.

    Raises:
        Unusable: it is no label.
    """
    if isinstance(value, bool | int | float) and value in (-1, 0, 1):
        return 1.0 if value > 0 else -1.0
    what = f"invalid `label` {shown(value)}" if not isinstance(value, dict | list) else f"`label` is {kind(value)}"
    raise Unusable(what, "use true or false, 1 or 0, or 1 or -1")
