"""Signals without loss: the first requests a stop at the next safe point, the second stops immediately."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType

import torch

from prefloop.core.processes import Processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a terminal that closes


class Interrupted(BaseException):
    """Raised at a safe point after a signal; an `except Exception` in a reward function cannot catch it."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        self.exit_code = 128 + number  # 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, as in shells
        super().__init__(f"stopped by {self.signal.name}")


class Interrupt:
    """A context in which SIGINT, SIGTERM and SIGHUP set a flag that `poll` reads; under `nohup` SIGHUP stays ignored.

    Outside the main thread, where Python handles no signals, it has no effect.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.requested: int | None = None  # number of the received signal
        self._quiet = quiet
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            chosen = [number for number in SIGNALS if not (number == signal.SIGHUP and ignored)]
            self._before = {number: signal.signal(number, self._handle) for number in chosen}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def poll(self) -> None:
        """Mark a safe point.

        Raises:
            Interrupted: a signal was received.
        """
        if self.requested is not None:
            raise Interrupted(self.requested)

    def poll_together(self, processes: Processes) -> None:
        """Mark a safe point of several processes, of which all stop if one received a signal.

        Raises:
            Interrupted: in all of them.
        """
        if int(processes.sum(torch.tensor(int(self.requested is not None)))):
            raise Interrupted(self.requested or signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = number
        if not self._quiet:  # unlike print(), write() is safe in a signal handler
            with suppress(OSError):  # the terminal has gone
                os.write(2, b"\nstopping at the next safe point; press again to stop immediately\n")
