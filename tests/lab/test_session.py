"""Methods and problems that a session without a file defines, such as a notebook or `python -c`, run in the lab."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from prefloop.core import user
from prefloop.core.methods import METHODS, own_code
from prefloop.lab.pool import InProcess, Pool
from prefloop.lab.setting import make
from prefloop.lab.store import Store
from prefloop.lab.sweep import sweep

ROOT = Path(__file__).parents[2]
SESSION = """
import json, sys
from pathlib import Path
from prefloop.lab.setting import make, seeds
from prefloop.lab.store import Store, missing
from prefloop.lab.sweep import sweep
from prefloop.scale.workers import pool_for

size = {"responses": 2, "batch": 8, "minibatch": 8, "steps": 4, "evaluate": 2, "lr": 0.1}
every = [*seeds(make("squared_hinge", "categorical", data=8, **size), range(2)), make("rloo", "__main__:Dice", **size)]
every.append(make("rloo", "categorical", **size))  # the workers know this one
store, pool = Store(Path(sys.argv[1])), pool_for(1)
left = len(missing(every, store))
runs = sweep(every, store, pool, quiet=True)
pool.close()
print(json.dumps([left, [s.in_session for s in every], [run.last("eval/gold") for run in runs]]))
"""


def page(name: str) -> str:
    """The Python of a how-to page."""
    text = (ROOT / "docs" / "how-to" / name).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]


def run(tmp_path: Path, text: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path / "runs")], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_session_runs_its_own_method_and_problem(tmp_path: Path) -> None:
    text = page("own-method.md") + page("own-problem.md")
    left, here, gold = run(tmp_path, text + SESSION)
    assert left == 4 and here == [True, True, True, False] and all(0 < g < 1 for g in gold)
    again = run(tmp_path, text + SESSION)
    assert again == [0, here, gold]
    changed = text.replace("clamp(min=0) ** 2", "clamp(min=0) ** 3")
    assert changed != text and run(tmp_path, changed + SESSION)[0] == 2  # runs of the method as it was are not reused


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module without a file, in the place of `__main__`."""
    own = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", own)
    return own


def define(session: ModuleType, text: str) -> Any:
    exec(text, vars(session))
    return vars(session)


def test_what_is_in_a_file_is_left_to_the_workers(session: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make("rloo", "categorical", responses=2)
    assert not one.in_session and own_code("rloo") is None and own_code("my_methods:hinge") is None
    monkeypatch.setitem(METHODS, "mine", METHODS["rloo"].override(reuse=2))
    own = make("mine", "categorical", responses=2)
    assert own.in_session and own_code("mine") is not None
    assert make("rloo", "categorical", {"weight": "__main__:f"}, responses=2).in_session
    monkeypatch.setitem(METHODS, "rloo", METHODS["grpo"])  # a built-in name with another method is the session's own
    assert one.in_session
    session.__file__ = __file__
    assert not own.in_session and not one.in_session


def test_a_run_is_named_by_the_code_of_its_method(session: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    named = set()
    for change in ({}, {"reuse": 2}, {"kl": 0.1}, {"weight": "advantage"}):
        monkeypatch.setitem(METHODS, "mine", METHODS["rloo"].override(**change))
        named.add(make("mine", "categorical", responses=2).run)
        monkeypatch.setitem(METHODS, "mine", METHODS["rloo"].override(**change))
        named.add(make("mine", "categorical", responses=2).run)
    assert len(named) == 4


FUNCTION = """
import math
import torch
A = 1.0
CALLS = {"n": 0}
def inner(x): return x + A
def outer(x, *, k=2):
    '''Says.'''
    return [inner(x) * k for _ in range(3) if x in {"a", "b"}]
class Own:
    size = 3
    def f(self): return inner(1)
    @property
    def g(self): return 2
    @staticmethod
    def h(): return 3
class Sub(Own):
    pass
def made(n):
    def closure(): return n
    return closure
five = made(5)
def again(n): return again(n - 1) if n else 0
tensor = torch.ones(2)
def uses(): return tensor, math.pi
"""


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("outer", "x + A", "x - A"),
        ("outer", "A = 1.0", "A = 2.0"),
        ("outer", "k=2", "k=3"),
        ("outer", "range(3)", "range(4)"),
        ("outer", '"b"', '"c"'),
        ("Own", "size = 3", "size = 4"),
        ("Own", "x + A", "x - A"),
        ("Own", "return 2", "return 4"),
        ("Own", "return 3", "return 4"),
        ("Sub", "return 3", "return 4"),
        ("five", "made(5)", "made(6)"),
        ("again", "n - 1", "n - 2"),
        ("uses", "ones(2)", "ones(3)"),
    ],
)
def test_the_code_of_a_session_changes_with_all_that_it_uses(
    session: ModuleType, name: str, old: str, new: str
) -> None:
    def digest(text: str) -> str:
        define(session, text)
        return user.digest(f"__main__:{name}")

    before = digest(FUNCTION)
    assert digest(FUNCTION) == before and digest("\n\n" + FUNCTION) == before  # wherever it stands
    assert old in FUNCTION and digest(FUNCTION.replace(old, new)) != before


def test_code_that_is_not_used_does_not_matter(session: ModuleType) -> None:
    define(session, FUNCTION)
    before = user.digest("__main__:again")
    define(session, FUNCTION.replace("A = 1.0", "A = 2.0"))
    assert user.digest("__main__:again") == before


def test_this_process_is_a_pool(tmp_path: Path) -> None:
    one = make("rloo", "categorical", responses=2, batch=8, minibatch=8, steps=3, evaluate=2, evaluation=2)
    pool, threads = InProcess(), torch.get_num_threads()
    assert isinstance(pool, Pool)
    torch.set_num_threads(2)
    try:
        (run,) = sweep([one], Store(tmp_path), pool, quiet=True)
        assert run.setting == one and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    pool.close()
