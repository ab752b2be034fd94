"""Fingerprints of all that decides a verdict: claims, thresholds, budgets, and the analysis code."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from prefloop.core.files import digest
from prefloop.studies.registry import ALONE, STUDIES, module_of
from prefloop.studies.study import Study

ANALYSIS = ("boundaries", "breaks", "choice", "decisions", "headroom", "statistics")
LAB = ("climb", "scores", "tuning")
SHOWN = ("findings", "forest", "page", "present", "readings", "record", "trust")  # they decide nothing
NEUTRAL = ("__init__", *SHOWN, "registry", "rules")


def fingerprint() -> str:
    """A hash of the rules that all studies share; comments, docstrings and layout do not change it."""
    return digest([ast.unparse(_bare(path)) for path in shared()])


def asked(study: Study) -> str:
    """A hash of a study's own file, or of all files of its package: its conditions and claims."""
    file = Path(inspect.getfile(inspect.unwrap(study.run)))
    packaged = study.run.__module__.startswith(f"{__package__}.") and file.parent != Path(__file__).parent
    return digest([ast.unparse(_bare(path)) for path in (sorted(file.parent.glob("*.py")) if packaged else [file])])


def shared() -> list[Path]:
    """The files that decide in every study."""
    chosen = [_file(f"prefloop.analysis.{name}") for name in ANALYSIS] + [_file(f"prefloop.lab.{name}") for name in LAB]
    own = {*NEUTRAL, *map(module_of, (*STUDIES, *ALONE))}
    return [*chosen, *sorted(p for p in _file("prefloop.studies.study").parent.glob("*.py") if p.stem not in own)]


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
