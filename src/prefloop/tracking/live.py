"""Trackers of a run that trains: a thread for each reads the records on disk, so that no tracker can delay, change or
end the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prefloop.core.errors import raised
from prefloop.tracking.feed import Feed
from prefloop.tracking.record import Run

PATIENCE = 60.0  # seconds that trackers have after the run for what they have not sent yet
Tell = Callable[[str, str], None]  # (name of a tracker, sentence) -> None


class Sender(threading.Thread):
    """Sends what is new whenever it is woken, until it is told the exit code of the run."""

    def __init__(self, run: Run, to: str) -> None:
        super().__init__(name=f"tracking to {to}", daemon=True)
        self.to, self.error = to, ""
        self._run, self._news, self._code = run, threading.Event(), -1

    def run(self) -> None:
        try:
            feed = Feed(self._run, self.to)
            while True:
                code = self._code  # before reading: then nothing is written any more
                feed.send()
                if code >= 0:
                    break
                self._news.wait()
                self._news.clear()
            feed.close(code)
        except BaseException as error:  # some libraries raise SystemExit
            self.error = raised(error)

    def wake(self) -> None:
        """There is something new."""
        self._news.set()

    def end(self, code: int) -> None:
        """Everything is written; see `Tracker.close`."""
        self._code = code
        self._news.set()


@contextmanager
def tracked(run: Run, to: Sequence[str], tell: Tell) -> Iterator[Callable[[], None]]:
    """Send the metrics of a run while the body trains it, and what is left when it ends in any way.

    Args:
        to: names of trackers.
        tell: called once, from this thread, for a tracker that fails; the body goes on.

    Yields:
        A function to call after every line that is written.
    """
    senders = [Sender(run, name) for name in to]
    waiting = list(senders)

    def news() -> None:
        for sender in senders:
            sender.wake()
        for sender in [one for one in waiting if one.error]:
            waiting.remove(sender)
            tell(sender.to, _stopped(sender.to, sender.error, run.folder))

    for sender in senders:
        sender.start()
    code, patience = 0, PATIENCE
    try:
        yield news
    except BaseException as error:
        code = getattr(error, "exit_code", 1)
        patience = 0.0 if isinstance(error, KeyboardInterrupt) else PATIENCE  # a second Ctrl-C stops immediately
        raise
    finally:
        for sender in senders:
            sender.end(code)
        until = time.monotonic() + patience
        for sender in senders:
            sender.join(max(0.0, until - time.monotonic()))
        for sender in waiting:
            if sender.is_alive():
                sender.error = f"it has not answered for {patience:.0f} s"
        news()


def _stopped(to: str, why: str, folder: Path) -> str:
    rest = f"prefloop track {folder} --to {to}"
    return f"tracking to {to} has stopped, not the run: {why}. All metrics are in {folder}; to send the rest: {rest}"
