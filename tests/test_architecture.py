"""Packages and layers: which imports are allowed, what the core may depend on, and how large it may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import prefloop

ROOT = Path(prefloop.__file__).parent
CORE = ("batch", "streams", "protocols", "objectives", "weights", "pairs", "kl", "optim", "method", "terms", "loop")
PURE = ("objectives", "weights", "pairs", "kl", "optim")  # tensor functions
RANK = {  # packages: imports point down, or stay in one package
    "core": 0,
    **dict.fromkeys(("analysis", "policies", "data", "tracking"), 1),
    "rewards": 2,
    "worlds": 3,
    "runs": 4,
    **dict.fromkeys(("judging", "lab"), 5),
    **dict.fromkeys(("scale", "report", "advice", "detectors"), 6),
    **dict.fromkeys(("studies", "recipes"), 7),
    "cli": 8,
}
LAYER = {  # inside the core
    **dict.fromkeys(("errors", "metric_table", "notebook"), 0),
    **dict.fromkeys(("devices", "files", "streams", "ranges", "shapes", "user", "wrapping"), 1),
    "batch": 2,
    **dict.fromkeys(("protocols", *PURE), 3),
    **dict.fromkeys(("fit", "processes"), 4),
    "method": 5,
    **dict.fromkeys(("methods", "terms"), 6),
    "loop": 7,
    **dict.fromkeys(("metrics", "describe"), 8),
}
WORLDS = ("policies", "rewards", "data")
OUTSIDE = {"transformers", "tokenizers", "safetensors", "os", "pathlib", "io", "json", "sys", "shutil", "yaml", "rich"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    parts = {p: p.relative_to(ROOT.parent).with_suffix("").parts for p in sorted(ROOT.rglob("*.py"))}
    return {".".join(names[:-1] if names[-1] == "__init__" else names): path for path, names in parts.items()}


MODULES = modules()


def package(module: str) -> str:
    """`prefloop.runs.folder` is in `runs`; Prefloop itself and its entry point are in none."""
    return [*module.split("."), ""][1]


def imports(module: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, also of those inside functions; a submodule counts as the module itself."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in MODULES else (str(node.module), alias.name)


def inner(module: str) -> set[str]:
    """Modules of the package that a module imports."""
    return {name for name, _ in imports(module) if name.split(".")[0] == "prefloop"}


PACKAGED = [name for name in MODULES if package(name) not in ("", "__main__")]


def test_every_module_has_a_package() -> None:
    assert {package(name) for name in PACKAGED} <= set(RANK)


@pytest.mark.parametrize("module", PACKAGED)
def test_imports_point_down(module: str) -> None:
    here = package(module)
    assert {n for n in inner(module) if package(n) and package(n) != here and RANK[package(n)] > RANK[here]} == set()


@pytest.mark.parametrize("name", LAYER)
def test_imports_inside_the_core_point_down(name: str) -> None:
    layers = [LAYER[n.removeprefix("prefloop.core.")] for n in inner(f"prefloop.core.{name}") if package(n) == "core"]
    assert all(layer <= LAYER[name] for layer in layers)


def test_every_file_of_the_core_has_a_layer() -> None:
    assert {p.stem for p in (ROOT / "core").glob("*.py")} - {"__init__"} == set(LAYER)


def test_there_is_no_cycle() -> None:
    graph = {name: {n for n in inner(name) if n != name and n != "prefloop"} for name in PACKAGED}
    while leaves := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}


@pytest.mark.parametrize("module", [name for name in PACKAGED if package(name) in WORLDS])
def test_worlds_know_neither_the_methods_nor_the_loop(module: str) -> None:
    assert inner(module) & {f"prefloop.core.{name}" for name in ("method", "methods", "loop")} == set()


@pytest.mark.parametrize("name", (*CORE, "ranges", "shapes", "methods"))
def test_the_core_knows_no_files_no_models_and_does_not_print(name: str) -> None:
    module = f"prefloop.core.{name}"
    assert {imported.split(".")[0] for imported, _ in imports(module)} & OUTSIDE == set()
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert called & {"print", "open", "input", "exec", "eval"} == set()


@pytest.mark.parametrize("name", PURE)
def test_tensor_functions_need_torch_and_jaxtyping_only(name: str) -> None:
    roots = {imported.split(".")[0] for imported, _ in imports(f"prefloop.core.{name}")}
    assert roots - set(sys.stdlib_module_names) <= {"torch", "jaxtyping", "prefloop"}


def heavy(module: str, seen: set[str]) -> set[str]:
    """Third-party packages that a module imports, directly or through modules of the package."""
    seen.add(module)
    roots = {name.split(".")[0] for name, _ in imports(module)}
    return roots.union(*(heavy(name, seen) for name in inner(module) if name in MODULES and name not in seen))


@pytest.mark.parametrize(
    "module", [*(n for n in PACKAGED if package(n) == "report"), "prefloop.runs.folder", "prefloop.runs.config"]
)
def test_what_reads_runs_needs_no_torch(module: str) -> None:
    assert heavy(module, {"prefloop"}) & {"torch", "transformers", "jaxtyping"} == set()


ALONE = """
import importlib, sys
for module in sys.argv[1:]:
    for name in [n for n in sys.modules if n.split(".")[0] == "prefloop"]:
        del sys.modules[name]
    importlib.import_module(module)
"""


def test_every_module_can_be_imported_first() -> None:
    """In a process of its own: modules that are imported twice would give the other tests two of every class."""
    done = subprocess.run([sys.executable, "-c", ALONE, *MODULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def code_lines(path: Path) -> int:
    """Lines that hold code: no blanks, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    tree, noted = ast.parse(text), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            noted |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code = (line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in noted)
    return sum(1 for line in code if line and not line.startswith("#"))


def test_the_core_stays_small_enough_to_read() -> None:
    """Batch to loop, without the table of methods, which is as long as there are methods, `ranges` and `shapes`."""
    sizes = {name: code_lines(ROOT / "core" / f"{name}.py") for name in CORE}
    assert sum(sizes.values()) <= 1200, sizes  # see docs/design.md


@pytest.mark.parametrize("module", MODULES)
def test_no_pickle_and_no_foreign_code(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert {name.split(".")[0] for name, _ in imports(module)} & {"pickle", "dill", "joblib"} == set()
    assert "torch.load" not in text and "trust_remote_code=True" not in text


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_too_long_to_read(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 400
