"""A sweep on a local Ray of two workers gives what worker processes give, byte for byte."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.core.errors import DataError, UserError
from prefloop.lab.pool import Done, LocalPool
from prefloop.lab.setting import Setting, make, seeds
from prefloop.lab.store import Store
from prefloop.lab.sweep import jobs_of, sweep
from prefloop.scale.ray_pool import Counter, RayPool, _new, _result
from prefloop.worlds.arms.spec import Arms

STEPS = 12
STACK = 2
DPO, RLOO = (
    make(m, "arms", policy="tabular", contexts=4, batch=20, minibatch=20, data=20, steps=STEPS, evaluate=4)
    for m in ("dpo", "rloo")
)
SETTINGS = [s for one in (DPO, RLOO) for s in seeds(one, range(3))]

ABSENT = importlib.util.find_spec("ray") is None
skip = pytest.mark.skipif(ABSENT, reason="Ray is not installed: pip install 'prefloop[ray]'")


def on_ray(test: Any) -> Any:
    """Marks of a test that uses Ray."""
    return pytest.mark.slow(skip(test))


@pytest.fixture(scope="module")
def pool() -> Iterator[RayPool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "1")
        made = RayPool("local")
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        yield made
        made.close()


class Counted:
    """A pool that notes how many jobs it was given and how many run-steps it told."""

    def __init__(self, pool: Any) -> None:
        self.pool, self.workers, self.jobs, self.ticks = pool, pool.workers, 0, [0]

    def run(self, jobs: Sequence[Sequence[Setting]], tick: Any) -> Iterator[Done]:
        def heard(steps: int) -> None:
            self.ticks.append(steps)
            tick(steps)

        self.jobs += len(jobs)
        return iter(self.pool.run(jobs, heard))

    def close(self) -> None:
        """The pool inside is ended by who made it."""


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.parquet")}


class Sabotaged(Counted):
    """A pool whose last job is another one than it was asked for."""

    def __init__(self, pool: Any, last: Setting) -> None:
        super().__init__(pool)
        self.last = last

    def run(self, jobs: Sequence[Sequence[Setting]], tick: Any) -> Iterator[Done]:
        return super().run([*jobs[:-1], [self.last]], tick)


class Deadly(Setting):
    """It ends the process that receives it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


# ---- without Ray --------------------------------------------------------------------------------------------------


def test_without_ray_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'prefloop\[ray\]'"):
        RayPool("local")


def test_steps_are_told_once_and_never_taken_back() -> None:
    """A counter that was started again knows less than before."""
    told, counter = [0, 0], Counter()
    counter.report(0, 30)
    assert _new(counter.steps(), told) == 30
    assert _new(Counter().steps(), told) == 0
    assert _new({0: 20, 1: 5}, told) == 5
    assert _new({0: 40}, told) == 10
    assert told == [40, 5]


# ---- on a local Ray -----------------------------------------------------------------------------------------------


@on_ray
def test_the_same_bytes_as_worker_processes_and_nothing_twice(pool: RayPool, tmp_path: Path) -> None:
    remote, local = Counted(pool), Counted(LocalPool(1))
    runs = sweep(SETTINGS, Store(tmp_path / "ray"), remote, stack=STACK, quiet=True)
    sweep(SETTINGS, Store(tmp_path / "local"), local, stack=STACK, quiet=True)
    local.pool.close()
    assert len(files(tmp_path / "ray")) == remote.jobs == local.jobs == 4
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    assert sum(remote.ticks) == sum(local.ticks) == STEPS * len(SETTINGS)
    assert [run.setting for run in runs] == SETTINGS

    again = Counted(pool)
    assert [
        run.last("eval/kl_reverse_exact")
        for run in sweep(SETTINGS, Store(tmp_path / "ray"), again, stack=STACK, quiet=True)
    ] == [run.last("eval/kl_reverse_exact") for run in runs]
    assert again.jobs == 0


@on_ray
def test_progress_is_told_while_a_stack_runs(pool: RayPool) -> None:
    long = replace(RLOO, steps=3000, evaluate=1000)
    ticks: list[int] = []
    (done,) = pool.run([[long]], ticks.append)
    assert done.table and not done.error
    assert sum(ticks) == 3000
    assert sum(1 for steps in ticks if steps) > 1


@on_ray
@pytest.mark.parametrize(
    ("last", "message"),
    [
        (Setting("no_such_method", Arms()), "no_such_method"),
        (Deadly("dpo", Arms()), "a worker of the Ray cluster died"),
    ],
    ids=["mistake", "death"],
)
def test_a_stack_that_fails_does_not_take_the_others(
    pool: RayPool, tmp_path: Path, last: Setting, message: str
) -> None:
    store, jobs = Store(tmp_path), jobs_of(SETTINGS, STACK)
    with pytest.raises(DataError, match="1 of 4 stacks failed") as error:
        sweep(SETTINGS, store, Sabotaged(pool, last), stack=STACK, quiet=True)
    assert message in error.value.where
    assert [all(s in store for s in job) for job in jobs] == [True, True, True, False]
    missing = Counted(pool)
    sweep(SETTINGS, store, missing, stack=STACK, quiet=True)
    assert missing.jobs == 1


@on_ray
def test_a_sweep_that_is_left_frees_the_workers(pool: RayPool) -> None:
    def leave(steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pool.run([[replace(RLOO, steps=10**6, seed=n)] for n in range(4)], leave))
    start = time.monotonic()
    (done,) = pool.run([[DPO]], lambda steps: None)
    assert done.table
    assert time.monotonic() - start < 60


@on_ray
def test_nothing_listens_beyond_this_machine(pool: RayPool) -> None:
    import psutil

    heard = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # idle workers come and go
            heard += [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(heard) >= 4
    assert {ip.removeprefix("::ffff:") for ip in heard} <= {"127.0.0.1", "::1"}
    assert pool.workers == 2


# ---- addresses ----------------------------------------------------------------------------------------------------


@on_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:port", "ray://127.0.0.1:1"])
def test_a_wrong_address_is_refused_soon(address: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="no Ray cluster at"):
        RayPool(address)
    assert time.monotonic() - start < 10


@on_ray
def test_what_listens_but_is_no_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefloop.scale.ray_connection.ANSWER", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(UserError, match="no Ray cluster at"):
        RayPool(f"127.0.0.1:{mute.getsockname()[1]}")


DRIVER = """
import sys
from pathlib import Path
from prefloop.lab.store import Store
from prefloop.lab.sweep import sweep
from prefloop.scale.ray_pool import RayPool
from test_ray_pool import SETTINGS, STACK

pool = RayPool(sys.argv[1])
sweep(SETTINGS, Store(Path(sys.argv[2])), pool, stack=STACK, quiet=True)
pool.close()
"""


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a cluster with a token of its own, in other processes, on the loopback interface."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # 127.0.0.1 is meant
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    told = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
    words = (
        f"start --head --block --num-cpus=2 --include-dashboard=false --node-ip-address=127.0.0.1 --port={address[10:]}"
    )
    log = tmp_path_factory.mktemp("cluster") / "log"
    with log.open("w") as out:
        command = [sys.executable, "-m", "ray.scripts.scripts", *words.split()]
        head = subprocess.Popen(command, env=os.environ | told, stdout=out, stderr=subprocess.STDOUT)
    try:
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"{address} {told['RAY_AUTH_TOKEN']}"
    finally:
        head.terminate()
        head.wait(30)


@on_ray
def test_a_cluster_at_an_address(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its token is wanted; with it the same bytes come back, and the terminal stays clean."""
    address, token = cluster.split()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="requires its token"):
        RayPool(address)
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "PYTHONPATH": str(Path(__file__).parent)}
    told = [sys.executable, "-c", DRIVER, address, str(tmp_path / "ray")]
    done = subprocess.run(told, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    local = LocalPool(1)
    sweep(SETTINGS, Store(tmp_path / "local"), local, stack=STACK, quiet=True)
    local.close()
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    assert len(files(tmp_path / "ray")) == 4


@on_ray
def test_workers_without_prefloop_are_a_mistake_and_a_defect_is_none() -> None:
    import ray

    class Raises:
        """Ray, with a task that failed."""

        exceptions = ray.exceptions

        def get(self, ref: str) -> None:
            raise ray.exceptions.RayTaskError("_task", ref, RuntimeError(ref))

    with pytest.raises(UserError, match="cannot import Prefloop"):
        _result(Raises(), "The remote function failed to import on the worker.", 0, [0])
    with pytest.raises(ray.exceptions.RayTaskError):
        _result(Raises(), "division by zero", 0, [0])
