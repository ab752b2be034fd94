"""The predicted time of several runs on a language model, before they start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefloop.cli.options import Output

if TYPE_CHECKING:
    from prefloop.runs.config import Config


def predict(cells: Mapping[str, Config], options: Output, *, since: float | None = None, hint: str = "") -> float:
    """Seconds that the unfinished runs will take, by timing a small part of their work; printed. 0 if all are finished.

    Args:
        since: when the command started, if its beginning counts too; a value of `time.monotonic`.
        hint: how to shorten them, for the printed line.
    """
    from prefloop.runs.forecast import forecast
    from prefloop.runs.grid import finished

    clock = time.monotonic() if since is None else since
    done = finished(cells)
    left = {label: config for label, config in cells.items() if label not in done}
    if not left:
        options.say("these runs are finished: their results are reused")
        return 0.0
    of = f"{len(left)} runs" if not done else f"{len(left)} of {len(cells)} runs, the others are finished"
    options.say(f"{of}: timing a small part of the work")
    predicted = forecast(left) + time.monotonic() - clock
    options.say(f"about {predicted / 60:.1f} min in all{hint}")
    return predicted
