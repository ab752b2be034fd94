"""Sweeps: only what is missing runs, whatever was killed before; workers that really are other processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefloop import lab
from prefloop.core.errors import DataError, UserError
from prefloop.lab import setting as setting_module
from prefloop.lab import stack as stack_module
from prefloop.lab.pool import Done, LocalPool, run_job
from prefloop.lab.setting import Setting, make, seeds
from prefloop.lab.stack import Run, run_stack
from prefloop.lab.store import Store, missing, to_bytes
from prefloop.lab.sweep import jobs_of, sweep
from prefloop.runs import progress
from prefloop.runs.interrupt import Interrupted
from prefloop.worlds.arms.spec import Arms, Sequences

ONE = make("rloo", "categorical", responses=4, batch=8, minibatch=8, steps=3, evaluate=2, evaluation=2)
FOUR = seeds(ONE, range(4))


class Killed(BaseException):
    """What no handler of the package knows."""


@dataclass
class Here:
    """Jobs in this process, one after the other; `stop_at` is the job before which all ends."""

    stop_at: int = -1
    workers: int = 1
    ran: list[list[Setting]] = field(default_factory=list)
    steps: int = 0

    def run(self, jobs: Sequence[Sequence[Setting]], tick: Callable[[int], None]) -> Iterator[Done]:
        def told(steps: int) -> None:
            self.steps += steps
            tick(steps)

        for number, job in enumerate(jobs):
            if number == self.stop_at:
                self.stop()
            self.ran.append(list(job))
            yield run_job(number, job, told)

    def stop(self) -> None:
        raise Killed

    def close(self) -> None:
        """There is nothing to end."""


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def assert_equal(got: Sequence[Run], want: Sequence[Run]) -> None:
    assert [run.setting for run in got] == [run.setting for run in want]
    for a, b in zip(got, want, strict=True):
        assert a.curves.keys() == b.curves.keys()
        for name, column in b.curves.items():
            np.testing.assert_array_equal(a.curves[name], column, err_msg=name)


# ----------------------------------------------------------------------------------------------------- what is run


def test_results_come_in_the_order_of_their_settings_and_duplicates_run_once(tmp_path: Path) -> None:
    long = replace(ONE, method="best_of_n", steps=6)
    asked = [FOUR[2], long, FOUR[0], FOUR[2], FOUR[1]]
    pool = Here()
    got = sweep(asked, Store(tmp_path), pool, quiet=True)
    assert [run.setting for run in got] == asked
    assert pool.ran == [[FOUR[2], FOUR[0], FOUR[1]], [long]]  # 9 run-steps before 6
    assert pool.steps == 3 * 3 + 6
    assert_equal(got[2:3], run_stack(pool.ran[0])[1:2])


def test_what_the_store_has_is_not_run_again(tmp_path: Path) -> None:
    first = sweep(FOUR[:2], Store(tmp_path), Here(), quiet=True)
    pool = Here()
    assert missing([FOUR[3], *FOUR, FOUR[2]], Store(tmp_path)) == [FOUR[3], FOUR[2]]
    again = sweep(FOUR, Store(tmp_path), pool, stack=1, quiet=True)
    assert pool.ran == [[FOUR[2]], [FOUR[3]]] and pool.steps == 6
    assert_equal(again[:2], first)
    none = Here()
    assert_equal(sweep(FOUR[::-1], Store(tmp_path), none, quiet=True), again[::-1])
    assert none.ran == []
    changed = replace(FOUR[0], lr=2e-3)
    sweep([FOUR[0], changed], Store(tmp_path), none, quiet=True)
    assert none.ran == [[changed]]


def test_jobs_are_stacks_of_a_size_the_longest_first() -> None:
    arms, sequences = (seeds(replace(ONE, world=w), range(40)) for w in (Arms(), Sequences()))
    assert sorted(len(job) for job in jobs_of([*arms, *sequences], None)) == [8, 8, 16, 16, 32]
    assert [len(job) for job in jobs_of(arms, 15)] == [15, 15, 10]
    short, long = replace(ONE, steps=10), replace(ONE, steps=500)
    assert jobs_of([short, long, *seeds(replace(ONE, steps=20), [1, 2])], None) == [
        [long],
        seeds(replace(ONE, steps=20), [1, 2]),
        [short],
    ]


def test_a_bad_setting_is_refused_before_any_job(tmp_path: Path) -> None:
    pool = Here()
    with pytest.raises(UserError, match="did you mean `rloo`"):
        sweep([*FOUR, replace(ONE, method="rlo")], Store(tmp_path), pool, quiet=True)
    with pytest.raises(UserError, match="`lr` must be a positive number"):
        sweep([*FOUR, replace(ONE, lr=-1.0)], Store(tmp_path), pool, quiet=True)
    with pytest.raises(UserError, match="`stack` must be at least 1"):
        sweep(FOUR, Store(tmp_path), pool, stack=0, quiet=True)
    assert pool.ran == [] and files(tmp_path) == {}
    with pytest.raises(UserError, match="`workers` must be at least 1, not 0"):
        LocalPool(0)


@pytest.mark.parametrize("change", ["version", "field"])
def test_results_of_another_version_are_computed_again(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(FOUR[:2], Store(tmp_path), Here(), quiet=True)
    if change == "version":
        monkeypatch.setattr(setting_module, "VERSION", setting_module.VERSION + 1)
    else:  # one that this package does not have
        known = setting_module.names
        monkeypatch.setattr(setting_module, "names", lambda kind: [n for n in known(kind) if n != "skew_width"])
    assert missing(FOUR[:2], Store(tmp_path)) == FOUR[:2]


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_a_sweep_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = sweep(FOUR, Store(tmp_path / "whole"), Here(), stack=1, quiet=True)
    with pytest.raises(Killed):
        sweep(FOUR, Store(tmp_path / "cut"), Here(stop_at=1), stack=1, quiet=True)
    assert len(files(tmp_path / "cut")) == 1
    pool = Here()
    assert_equal(sweep(FOUR, Store(tmp_path / "cut"), pool, stack=1, quiet=True), whole)
    assert pool.ran == [[s] for s in FOUR[1:]]
    assert files(tmp_path / "cut") == files(tmp_path / "whole") and len(files(tmp_path / "whole")) == 4


def test_a_signal_stops_at_the_next_safe_point_and_keeps_what_is_done(tmp_path: Path) -> None:
    class Signalled(Here):
        def stop(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"):
        sweep(FOUR, Store(tmp_path), Signalled(stop_at=2), stack=1, quiet=True)
    assert signal.getsignal(signal.SIGTERM) is before
    assert missing(FOUR, Store(tmp_path)) == FOUR[2:]


def test_a_job_that_fails_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that only the run itself finds out; here one that is usually refused before."""
    monkeypatch.setattr(Setting, "check", lambda self: None)
    bad = replace(ONE, responses=1, batch=4, minibatch=4)
    with pytest.raises(
        DataError,
        match=r"1 of 3 stacks failed; the runs of the others are stored\n.*compares responses[^\n]*\n.*responses >= 2",
    ) as found:
        sweep([FOUR[0], bad, FOUR[1]], Store(tmp_path), Here(), stack=1, quiet=True)
    assert found.value.exit_code == 3
    assert missing([FOUR[0], bad, FOUR[1]], Store(tmp_path)) == [bad]


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(stack_module.DTYPES, ONE.precision)
    with pytest.raises(KeyError):
        run_job(0, [ONE], lambda steps: None)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = to_bytes(run_stack(FOUR[:2]))
    store = Store(tmp_path)

    def cut(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", cut)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # who is killed does not clean up
        store.add(FOUR[:2], table)
    (left,) = files(tmp_path)
    assert left.startswith(".tmp-") and FOUR[0] not in store
    (tmp_path / "notes.txt").write_text("not ours")
    assert missing(FOUR, Store(tmp_path)) == FOUR
    assert list(files(tmp_path)) == ["notes.txt"]  # what was left is gone, and nothing else
    store.add(FOUR[:2], table)
    assert FOUR[0] in store and FOUR[1] in Store(tmp_path) and FOUR[2] not in store
    assert [run.setting for run in (store[FOUR[0]], store[FOUR[1]])] == FOUR[:2]


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    Store(tmp_path).add(FOUR[:1], to_bytes(run_stack(FOUR[:1])))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"not a table of runs\n.*{file.name}\n.*delete it"):
        Store(tmp_path)


def test_a_table_of_something_else_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"step": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"other\.parquet"):
        Store(tmp_path)


# --------------------------------------------------------------------------------------------------- real processes

LONG = replace(ONE, steps=20_000, evaluate=10_000)  # longer than anybody waits


class Reaper(LocalPool):
    """Kills one of its workers, once, when they have told of their first steps."""

    def run(self, jobs: Sequence[Sequence[Setting]], tick: Callable[[int], None]) -> Iterator[Done]:
        killed: list[int] = []

        def strike(steps: int) -> None:
            tick(steps)
            if steps and not killed:
                (victim, *_) = multiprocessing.active_children()
                killed.append(victim.pid or 0)
                victim.kill()

        return super().run(jobs, strike)


def test_two_workers_give_the_bytes_of_this_process(tmp_path: Path) -> None:
    ours = sweep(FOUR, Store(tmp_path / "here"), Here(), stack=2, quiet=True)
    pool = LocalPool(2)
    try:
        theirs = sweep(FOUR, Store(tmp_path / "there"), pool, stack=2, quiet=True)
        assert len(multiprocessing.active_children()) == 2
        more = seeds(ONE, [7, 8])
        assert [run.setting for run in sweep(more, Store(tmp_path / "there"), pool, stack=1, quiet=True)] == more
    finally:
        pool.close()
    assert_equal(theirs, ours)
    there = files(tmp_path / "there")
    assert len(there) == 4 and files(tmp_path / "here").items() <= there.items()
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_is_a_clear_error_and_leaves_no_damaged_file(tmp_path: Path) -> None:
    done = sweep(FOUR[:1], Store(tmp_path), Here(), quiet=True)
    pool = Reaper(2)
    try:
        with pytest.raises(UserError, match=r"a worker process died\n.*--workers"):
            sweep([FOUR[0], *seeds(LONG, [0, 1])], Store(tmp_path), pool, stack=1, quiet=True)
    finally:
        pool.close()
    assert len(files(tmp_path)) == 1
    assert_equal(sweep(FOUR[:1], Store(tmp_path), Here(), quiet=True), done)


SCRIPT = """
import sys
from pathlib import Path
from prefloop.lab.pool import LocalPool
from prefloop.lab.setting import Setting
from prefloop.lab.store import Store
from prefloop.lab.sweep import sweep
from prefloop.worlds.arms.spec import Categorical

if __name__ == "__main__":
    sweep({settings!r}, Store(Path(sys.argv[1])), LocalPool(2), stack=1, quiet=True)
"""


def children(parent: int) -> list[int]:
    """Its living children, in Linux' own words: pid (name) state parent."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, over = file.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(over) == parent and state != "Z":
            found.append(int(file.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
def test_a_sweep_that_is_killed_with_its_process_goes_on_and_leaves_no_worker(tmp_path: Path) -> None:
    """Of three jobs one is short and two are long: the kill finds the long ones running."""
    short, long = FOUR[:1], seeds(replace(LONG, steps=20_000), [0, 1])
    script, store = tmp_path / "sweep.py", tmp_path / "store"
    script.write_text(SCRIPT.format(settings=[long[0], *short, replace(short[0], seed=9)]))
    env = {**os.environ, "PYTHONPATH": str(Path(lab.__file__).parents[2])}
    process = subprocess.Popen([sys.executable, str(script), str(store)], env=env)
    try:
        assert wait_until(lambda: store.is_dir() and len(list(store.glob("[!.]*.parquet"))) == 2, 120)
        workers = children(process.pid)
        assert len(workers) >= 2 and process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert wait_until(lambda: not any(map(alive, workers)), 20)
    quick = [*short, replace(short[0], seed=9), replace(short[0], seed=10)]
    pool = Here()
    got = sweep(quick, Store(store), pool, stack=1, quiet=True)
    assert pool.ran == [quick[2:]]
    assert_equal(got, sweep(quick, Store(tmp_path / "whole"), Here(), stack=1, quiet=True))
    assert missing([long[0], *quick], Store(store)) == [long[0]]


def test_a_sweep_says_that_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A reference may be fitted for minutes before the first step."""

    class Slow(Here):
        def run(self, jobs: Sequence[Sequence[Setting]], tick: Callable[[int], None]) -> Iterator[Done]:
            monkeypatch.setattr(progress, "SECONDS", 0.0)
            tick(0)
            monkeypatch.setattr(progress, "SECONDS", 10.0)
            yield from super().run(jobs, tick)

    sweep([ONE], Store(tmp_path), Slow())
    assert "categorical  0/3  -:-- left  0 of 1 runs, starting" in capsys.readouterr().err
