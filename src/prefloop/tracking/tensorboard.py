"""TensorBoard: event files in the folder `tensorboard` of the run, written and read back by tensorboardX."""

from __future__ import annotations

import os
import secrets
import shlex
import struct
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from prefloop.tracking.record import START, Line, Mark, Run
from prefloop.tracking.trackers import Sent

EVENTS = "events.out.tfevents.*"


def place(run: Run) -> Path:
    return run.folder / "tensorboard"


def look(run: Run) -> str:
    return f"`tensorboard --logdir {shlex.quote(str(run.folder.parent))}`"


def open_run(run: Run, earlier: Sent | None) -> Writer:
    """A new event file beside those of earlier parts of the run, which say what was sent."""
    return Writer(run)


class Writer:
    """Writes one event per line, which is on disk when `log` returns: a SummaryWriter queues them, and hides errors."""

    def __init__(self, run: Run) -> None:
        folder = place(run)
        self.id = run.id
        self.sent = max((_mark(event) for event in events(folder)), default=START)
        folder.mkdir(exist_ok=True)
        own = f".{os.getpid()}.{secrets.token_hex(4)}"  # two files of one second are two files
        self._events = import_module("tensorboardX.event_file_writer").EventsWriter(str(folder / "events"), own)
        self._summary: Any = import_module("tensorboardX.summary")
        if self.sent == START:
            rows = "\n".join(f"| {key} | {value} |" for key, value in run.config.items())
            self._write(0, self._summary.text("config", f"| key | value |\n|---|---|\n{rows}").value)

    def log(self, lines: Sequence[Line]) -> None:
        for (step, _), values in lines:
            self._write(step, [v for key, x in values.items() for v in self._summary.scalar(key, x).value])
        self._events.flush()

    def _write(self, step: int, values: Any) -> None:
        proto = import_module("tensorboardX.proto.event_pb2")
        summary = import_module("tensorboardX.proto.summary_pb2").Summary(value=values)
        self._events.write_event(proto.Event(wall_time=time.time(), step=step, summary=summary))

    def close(self, code: int) -> None:
        self._events.close()


def events(folder: Path) -> Iterator[Any]:
    """The events with scalars in the files of a folder; what a killed process has not written whole ends its file."""
    proto = import_module("tensorboardX.proto.event_pb2")
    for file in sorted(folder.glob(EVENTS)):
        data, at = file.read_bytes(), 0
        while at + 12 <= len(data):  # length, its checksum, the event, its checksum
            end = at + 12 + struct.unpack_from("<Q", data, at)[0]
            if end + 4 > len(data):
                break
            event = proto.Event.FromString(data[at + 12 : end])
            if any(value.HasField("simple_value") for value in event.summary.value):
                yield event
            at = end + 4


def _mark(event: Any) -> Mark:
    return Mark(event.step, any(value.tag.startswith("eval/") for value in event.summary.value))
