"""The mutation tool itself; its verdict is a part of `make test-all`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "mutate.py"
spec = importlib.util.spec_from_file_location("mutate", TOOL)
assert spec is not None and spec.loader is not None
mutate = importlib.util.module_from_spec(spec)
sys.modules["mutate"] = mutate
spec.loader.exec_module(mutate)

SOURCE = '''
"""Numbers 1 + 2 in a docstring do not count."""
def f(x: Float[Tensor, "3"], *, eps: float = 0.5) -> int:
    """Nor here: 7 < 8."""
    if not x.argmax(-1) and x < 3:
        return max(x, 2) ** 2 + ~x
    return True if x is None else x.clamp(min=0.0)
'''
WANT = {
    'def f(x: Float[Tensor, "3"], *, eps: float=1.0) -> int:',
    "if x.argmax(-1) and x < 3:",
    "if not x.argmax(+1) and x < 3:",
    "if not x.argmax(-2) and x < 3:",
    "if not x.argmin(-1) and x < 3:",
    "if not x.argmax(-1) or x < 3:",
    "if not x.argmax(-1) and x <= 3:",
    "if not x.argmax(-1) and x > 3:",
    "if not x.argmax(-1) and x < 4:",
    "if not (not x.argmax(-1) and x < 3):",
    "return min(x, 2) ** 2 + ~x",
    "return max(x, 3) ** 2 + ~x",
    "return max(x, 2) * 2 + ~x",
    "return max(x, 2) ** 3 + ~x",
    "return max(x, 2) ** 2 - ~x",
    "return max(x, 2) ** 2 + x",
    "return False if x is None else x.clamp(min=0.0)",
    "return True if x is not None else x.clamp(min=0.0)",
    "return True if not x is None else x.clamp(min=0.0)",
    "return True if x is None else x.clamp(max=0.0)",
    "return True if x is None else x.clamp(min=1.0)",
}


def test_every_operator_constant_and_comparison_is_changed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "small.py").write_text(SOURCE)
    monkeypatch.setattr(mutate, "PACKAGE", tmp_path)
    found = [m.name.removeprefix("small.f: ") for m in mutate.mutants("core/small")]
    assert {name.replace("'", '"') for name in found} == WANT and len(found) == len(WANT)
    assert (tmp_path / "core" / "small.py").read_text() == SOURCE


def test_proofs_are_written_and_belong_to_mutants() -> None:
    names = [m.name for m in mutate.mutants("core/kl")]
    assert len(names) == len(set(names)) > 20
    proofs = mutate.reviewed()
    assert {n for n in proofs if n.startswith("kl.")} <= set(names), "stale entries in tools/mutants_reviewed.txt"
    assert all(len(proof) > 20 for proof in proofs.values())
