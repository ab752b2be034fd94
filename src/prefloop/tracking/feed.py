"""One run to one tracker: every line of its metrics once and in order, however often the run stops and goes on.

What was sent is noted in `tracking/NAME.json` of the run folder. A resumed run writes the same lines again from its
checkpoint on; those that the tracker has already are left out.
"""

from __future__ import annotations

import json

from prefloop.core.errors import DataError
from prefloop.core.files import to_json, write
from prefloop.tracking.record import METRICS, Line, Mark, Run, Tail
from prefloop.tracking.trackers import Sent, adapter

CHUNK = 200  # lines between two notes


class Feed:
    """An open connection of a run to a tracker.

    Args:
        to: name of the tracker.

    Raises:
        Exception: whatever its library raises.
    """

    def __init__(self, run: Run, to: str) -> None:
        own = adapter(to)
        self.place = str(own.place(run))  # where the tracker keeps the run, in words
        self._file = run.folder / "tracking" / f"{to}.json"
        self._tracker = own.open_run(run, self._earlier())
        self._tail = Tail(run.folder / METRICS)

    def send(self) -> int:
        """Send the lines that are new; returns how many."""
        new = [line for line in self._tail.new() if line.mark > self._tracker.sent]
        for start in range(0, len(new), CHUNK):
            self._send(new[start : start + CHUNK])
        return len(new)

    def close(self, code: int) -> None:
        """See `Tracker.close`."""
        self._tracker.close(code)

    def _send(self, lines: list[Line]) -> None:
        if told := [line for line in lines if line.values]:
            self._tracker.log(told)
        self._tracker.sent = sent = lines[-1].mark
        note = {"place": self.place, "id": self._tracker.id, "step": sent.step, "evaluation": sent.evaluation}
        write(self._file, to_json(note) + "\n")

    def _earlier(self) -> Sent | None:
        """What the run folder remembers, if it is of the same place.

        Raises:
            DataError: the note is broken.
        """
        if not self._file.exists():
            return None
        try:
            note = json.loads(self._file.read_text(encoding="utf-8"))
            earlier = Sent(str(note["id"]), Mark(int(note["step"]), bool(note["evaluation"])))
            return earlier if note["place"] == self.place else None
        except (ValueError, KeyError, TypeError):
            fix = "delete it: then everything is sent once more"
            raise DataError("the note of what was sent is broken", where=str(self._file), fix=fix) from None
