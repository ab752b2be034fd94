"""Trackers beside a training: they may fail, hang or end the program, and the training does not notice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tracking.doubles import DOUBLES
from tests.tracking.test_feed import expected, lines, put

import run_folders
from prefloop.tracking import live
from prefloop.tracking.live import tracked
from prefloop.tracking.record import described


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return run_folders.make(tmp_path, "2026-01-05-dpo-abc123", steps=30, every=10)


def until(holds: Any) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_lines_arrive_while_the_run_writes_them_and_the_rest_at_its_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, told, whole = DOUBLES["wandb"](monkeypatch), [], lines(folder)
    put(folder, whole[:2])
    with tracked(described(folder), ["wandb"], lambda to, text: told.append(text)) as news:
        until(lambda: len(double.rows[folder.name]) == 2)
        put(folder, whole[:9])
        news()
        until(lambda: len(double.rows[folder.name]) == 9)
        put(folder, whole)
    assert double.rows[folder.name] == expected(whole) and told == []
    assert double.named("finish") == [{"exit_code": 0}]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ConnectionError("gone"), SystemExit(1)])
def test_a_tracker_that_fails_is_told_once_and_the_others_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    double, told = DOUBLES["wandb"](monkeypatch), []
    other = DOUBLES["trackio"](monkeypatch)
    whole = lines(folder)
    (folder / "metrics.jsonl").write_bytes(b"")

    def fail(call: str, /, **given: Any) -> None:
        if call == "log" and len(double.rows[folder.name]) == 5:
            raise error

    monkeypatch.setattr(double, "called", fail)
    with tracked(described(folder), ["wandb", "trackio"], lambda to, text: told.append((to, text))) as news:
        for _ in grow(folder, whole):
            news()
            time.sleep(0.001)
    ((to, text),) = told
    assert to == "wandb" and type(error).__name__ in text and f"prefloop track {folder} --to wandb" in text
    assert other.rows[folder.name] == expected(whole)


def grow(folder: Path, whole: list[bytes]) -> Iterator[None]:
    for n in range(len(whole) + 1):
        put(folder, whole[:n])
        yield


def test_one_that_cannot_even_start_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    double = DOUBLES["wandb"](monkeypatch)
    double.broken = True
    with tracked(described(folder), ["wandb"], lambda to, text: told.append(text)):
        pass
    assert len(told) == 1 and "No space left" in told[0] and not (folder / "tracking").exists()


def test_one_that_hangs_ends_with_the_patience(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double, told, free = DOUBLES["wandb"](monkeypatch), [], threading.Event()
    monkeypatch.setattr(double, "called", lambda call, /, **given: free.wait(20) if call == "log" else None)
    monkeypatch.setattr(live, "PATIENCE", 0.2)
    began = time.monotonic()
    with tracked(described(folder), ["wandb"], lambda to, text: told.append(text)) as news:
        news()
    assert time.monotonic() - began < 5 and len(told) == 1 and "not answered" in told[0]
    free.set()


@pytest.mark.parametrize(("error", "code"), [(ValueError("bug"), 1), (KeyboardInterrupt(), 1)])
def test_the_error_of_the_run_is_that_of_the_body(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    double = DOUBLES["wandb"](monkeypatch)
    with pytest.raises(type(error)) as raised, tracked(described(folder), ["wandb"], lambda to, text: None):
        until(lambda: double.rows[folder.name])
        raise error
    assert raised.value is error
    until(lambda: double.named("finish"))
    assert double.named("finish") == [{"exit_code": code}]


def test_without_trackers_there_is_no_thread(folder: Path) -> None:
    before = threading.active_count()
    with tracked(described(folder), [], lambda to, text: None) as news:
        news()
        assert threading.active_count() == before
