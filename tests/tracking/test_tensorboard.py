"""The event files that TensorBoard reads, read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.tracking.test_feed import Rows, expected, lines, put, send

import run_folders
from prefloop.tracking.record import described
from prefloop.tracking.tensorboard import events

pytest.importorskip("tensorboardX", reason="pip install 'prefloop[tensorboard]'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return run_folders.make(tmp_path, "2026-01-05-dpo-abc123", steps=12, every=4)


def stored(folder: Path) -> Rows:
    """(step, scalars) of each event, in the order of the files' names."""
    scalars = [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in events(folder / "tensorboard")]
    return sorted(scalars, key=lambda row: (row[0], "eval/reward" in row[1]))


def wanted(folder: Path) -> Rows:
    """What the records hold, in TensorBoard's precision."""
    whole = expected(lines(folder))
    return [(step, {k: float(np.float32(x)) for k, x in values.items()}) for step, values in whole]


def test_every_line_is_an_event_with_all_its_numbers(folder: Path) -> None:
    assert send(folder, "tensorboard") == 16
    assert stored(folder) == wanted(folder)


def test_the_configuration_is_a_text(folder: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    send(folder, "tensorboard")
    send(folder, "tensorboard")
    found = b"".join(file.read_bytes() for file in (folder / "tensorboard").iterdir())
    assert found.count(b"config/text_summary") == 1 and b"| override.negative | 1.0 |" in found
    assert isinstance(next(events(folder / "tensorboard")), Event)


@pytest.mark.parametrize("stop", [1, 5, 6, 15])
@pytest.mark.parametrize("back", [0, 1, 4])
def test_a_run_that_goes_on_has_each_event_once(folder: Path, stop: int, back: int) -> None:
    """Also without the note, which a killed process may not have written: the files say what they hold."""
    whole = lines(folder)
    put(folder, whole[:stop])
    send(folder, "tensorboard")
    (folder / "tracking" / "tensorboard.json").unlink()
    put(folder, whole[: max(0, stop - back)])
    send(folder, "tensorboard")
    put(folder, whole)
    assert send(folder, "tensorboard") == len(whole) - stop
    assert stored(folder) == wanted(folder)


def test_an_event_that_was_torn_is_written_again(folder: Path) -> None:
    whole = lines(folder)
    put(folder, whole[:5])
    send(folder, "tensorboard")
    (file,) = (folder / "tensorboard").iterdir()
    for lost in (3, 40):
        file.write_bytes(file.read_bytes()[:-lost])
        assert len(stored(folder)) == 4
    put(folder, whole)
    assert send(folder, "tensorboard") == len(whole) - 4
    assert stored(folder) == wanted(folder)


def test_deleted_files_are_written_again(folder: Path) -> None:
    send(folder, "tensorboard")
    for file in (folder / "tensorboard").iterdir():
        file.unlink()
    assert send(folder, "tensorboard") == 16 and stored(folder) == wanted(folder)


def test_its_own_reader_finds_the_same(folder: Path) -> None:
    """Where TensorBoard itself is installed: its accumulator, which its pages use."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    send(folder, "tensorboard")
    found = reader.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("loss")]
    assert losses == [(step, values["loss"]) for step, values in wanted(folder) if "loss" in values]


def test_a_name_of_a_run_and_its_note(folder: Path) -> None:
    send(folder, "tensorboard")
    note = json.loads((folder / "tracking" / "tensorboard.json").read_text())
    assert note["id"] == described(folder).id and (note["step"], note["evaluation"]) == (12, True)
