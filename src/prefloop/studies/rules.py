"""The fingerprint of all that decides a verdict: questions, claims, thresholds, budgets, and the analysis code."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from prefloop.core.files import digest

ANALYSIS = ("boundaries", "breaks", "choice", "decisions", "headroom", "statistics")
LAB = ("climb", "scores", "tuning")
SHOWN = ("findings", "forest", "page", "present", "readings", "record")  # they decide nothing
NEUTRAL = ("__init__", *SHOWN, "real_model", "registry", "rules")


def fingerprint() -> str:
    """A hash of the code of the rules; comments, docstrings and layout do not change it."""
    return digest([ast.unparse(_bare(path)) for path in rules()])


def rules() -> list[Path]:
    """The files that decide."""
    chosen = [_file(f"prefloop.analysis.{name}") for name in ANALYSIS] + [_file(f"prefloop.lab.{name}") for name in LAB]
    return [*chosen, *sorted(p for p in _file("prefloop.studies.study").parent.glob("*.py") if p.stem not in NEUTRAL)]


def _file(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin)


def _bare(path: Path) -> ast.Module:
    """The syntax of a file without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [*_code(node.body)]
    return tree


def _code(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    return (s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)))
