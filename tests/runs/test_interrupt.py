"""Signals and progress: what the user sees while a run is going on."""

from __future__ import annotations

import io
import os
import signal
import threading

import pytest
from rich.console import Console

from prefloop.analysis.numbers import clock
from prefloop.runs.interrupt import SIGNALS, Interrupt, Interrupted
from prefloop.runs.progress import Progress


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_stops_at_the_next_safe_point(
    number: int, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with Interrupt() as interrupt:
        interrupt.poll()
        send(number)
        assert capfd.readouterr().err.count("next safe point") == 1
        with pytest.raises(Interrupted) as caught:
            interrupt.poll()
    assert caught.value.exit_code == code
    assert not isinstance(caught.value, Exception)  # no reward function's `except Exception` swallows it


def test_the_second_signal_stops_at_once() -> None:
    with Interrupt(quiet=True), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
        send(signal.SIGINT)


def test_handlers_are_put_back_also_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="x"), Interrupt():
        assert [signal.getsignal(number) for number in SIGNALS] != before
        raise ValueError("x")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_other_threads_may_use_it() -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            with Interrupt() as interrupt:
                interrupt.poll()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == []


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(total: int, seconds: float, *, quiet: bool = False) -> list[str]:
    """What a job of `total` units of `seconds` each prints where there is no terminal."""
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=False, width=20, soft_wrap=True)
    with Progress(total, "[dpo]", quiet=quiet, console=console, clock=clock) as progress:
        for done in range(1, total + 1):
            clock.now += seconds
            progress.advance(note=f"loss {done / 4}")
    return out.getvalue().splitlines()


def test_plain_lines_at_every_tenth_with_remaining_time() -> None:
    seen = lines(20, 2.0)
    assert len(seen) == 10
    assert seen[0] == "[dpo]  2/20  0:36 left  loss 0.5"
    assert seen[-1] == "[dpo]  20/20  0:40 in all  loss 5.0"


def test_fast_work_prints_little_and_slow_work_is_not_silent() -> None:
    assert lines(1000, 0.0001) == ["[dpo]  1000/1000  0:00 in all  loss 250.0"]
    assert len(lines(10, 600.0)) == 10
    assert len(lines(1000, 1.0)) == 100  # every 10 s


def test_quiet_is_silent() -> None:
    assert lines(10, 100.0, quiet=True) == []


def test_a_terminal_gets_a_bar_and_texts_are_not_markup() -> None:
    out = io.StringIO()
    with Progress(4, "[x]", console=Console(file=out, force_terminal=True, width=100)) as progress:
        progress.advance(2)
        progress.advance(2, note="[loss] 1")
    assert [text for text in ("[x]", "4/4", "[loss] 1", "0:00 left") if text not in out.getvalue()] == []


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0:00"), (59.6, "1:00"), (3599.0, "59:59"), (3661.0, "1:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
