"""Effects of a study side by side, in units of the smallest effect that counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from prefloop.analysis.numbers import against
from prefloop.report.chart import Chart, Line

NAME, SMALL = "forest.svg", "forest-small.svg"
ZONE = (-1.0, 1.0)
AXIS = "effect ÷ smallest effect that counts"


def charts(claims: Sequence[Any]) -> dict[str, list[Chart]]:
    """The figure of a study's findings, and a small one for the table over all studies; none without findings.

    Args:
        claims: of a record, those that count.
    """
    if not claims:
        return {}
    names = [claim["name"].replace("-", " ") for claim in claims]
    said = "means over seeds with their intervals; shaded: too small to count; right of it: as the paper says"
    if any(claim["sense"] == "equal" for claim in claims):
        said += ", or inside it where the paper says that there is no difference (=)"
    names = [f"{name} (=)" if claim["sense"] == "equal" else name for name, claim in zip(names, claims, strict=True)]
    rows = [row(claim, i) for i, claim in enumerate(claims)]
    small = [Line(line.label, line.x, line.y, left=line.left, right=line.right) for line in rows]
    common: dict[str, Any] = {"kind": "points", "rows": names, "zone": ZONE}
    return {
        NAME: [Chart("Effects", AXIS, "", rows, interval=said, **common)],
        SMALL: [Chart("", AXIS, "", small, **common)],
    }


def row(claim: Any, place: int) -> Line:
    """The effect and its interval."""
    value, low, high = (end / claim["threshold"] for end in _ends(claim))
    tag = f"{claim['verdict']}: {measured(claim)}"
    return Line("effect", [value], [float(place)], left=[low], right=[high], tag=tag)


def measured(claim: Any) -> str:
    """`+0.31 [+0.22, +0.40]`, to the decimals at which no end is rounded over 0 or the threshold."""
    t = claim["threshold"]
    return against(*_ends(claim), -t, 0.0, t, sign=claim["counts"])


def _ends(claim: Any) -> tuple[float, float, float]:
    """Effect, and the ends of its interval, which may not be known."""
    value, low, high = (math.nan if claim[key] is None else float(claim[key]) for key in ("value", "low", "high"))
    return value, low, high
