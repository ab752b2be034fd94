"""Mutation test of the core and of what judges its runs: one operator, constant or comparison changes; who notices?

Each mutant lives in a temporary copy of the package; the source tree is never written. A worker process imports torch
once and forks for every mutant, so a killed mutant costs less than a second.

    python tools/mutate.py                 # everything, two workers
    python tools/mutate.py core/pairs core/kl  # some modules
    python tools/mutate.py --only "pairs.all_pairs"

Exit code 1 if a mutant survives that tools/mutants_reviewed.txt does not prove equivalent, or if an entry there is
stale. That file holds, per mutant, its name as printed here and, indented below it, the proof.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "prefloop"
REVIEWED = ROOT / "tools" / "mutants_reviewed.txt"
TESTS = {  # module in the package -> files of tests that notice its mutants, those that kill most first
    "core/objectives": ["core/test_objectives.py", "core/test_methods.py", "core/test_laws.py", "core/test_kl.py"],
    "core/weights": ["core/test_weights.py", "core/test_methods.py", "core/test_laws.py"],
    "core/pairs": ["core/test_pairs.py", "core/test_methods.py", "core/test_laws.py"],
    "core/metrics": ["core/test_metrics.py"],
    "core/kl": ["core/test_kl.py", "core/test_laws.py", "core/test_methods.py"],
    "core/streams": ["core/test_streams.py"],
    "core/batch": ["core/test_batch.py", "core/test_shapes.py", "core/test_methods.py"],
    "core/optim": ["core/test_optim.py"],
    "core/terms": ["core/test_terms.py"],
    "core/method": ["core/test_method.py", "core/test_methods.py", "core/test_ranges.py", "core/test_shapes.py"],
    "core/loop": ["core/test_loop_by_hand.py", "core/test_loop.py"],
    "core/ranges": ["core/test_ranges.py"],
    "core/shapes": ["core/test_shapes.py"],
    "core/fit": ["core/test_fit.py"],
    "core/files": ["core/test_files.py"],
    "analysis/compare": ["analysis/test_compare.py", "analysis/test_crossed.py"],
    "runs/offline": ["runs/test_offline.py"],
}
TIMEOUT = 60  # seconds; a mutant that hangs is noticed
OPERATORS: dict[type[ast.operator], list[type[ast.operator]]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.Mult],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
}
COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
NAMES = {"argmax": "argmin", "amax": "amin", "max": "min", "maximum": "minimum"}
NAMES |= {v: k for k, v in NAMES.items()}


@dataclass(frozen=True)
class Mutant:
    module: str  # in the package: `core/kl`
    name: str  # file.function: the changed line
    source: str


Change = tuple[ast.AST, Callable[[ast.AST], None]]


def changes(node: ast.AST) -> Iterator[Callable[[ast.AST], None]]:
    """Ways to change this node in place."""

    def put(field: str, value: object) -> Callable[[ast.AST], None]:
        return lambda n: setattr(n, field, value)

    if isinstance(node, ast.BinOp):
        yield from (put("op", op()) for op in OPERATORS.get(type(node.op), []))
    elif isinstance(node, ast.BoolOp):
        yield put("op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp):
        yield put("op", ast.UAdd()) if isinstance(node.op, ast.USub) else put("__class__", ast.Expr)
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                yield put("ops", [*node.ops[:i], other(), *node.ops[i + 1 :]])
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield put("value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield put("value", node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield put("value", node.value * 2 if node.value else 1.0)
    elif isinstance(node, ast.Attribute | ast.Name | ast.keyword):
        field = {ast.Attribute: "attr", ast.Name: "id", ast.keyword: "arg"}[type(node)]
        if (name := getattr(node, field)) in NAMES:
            yield put(field, NAMES[name])
    elif isinstance(node, ast.If | ast.IfExp):
        yield put("test", ast.UnaryOp(ast.Not(), node.test))


def annotations(tree: ast.AST) -> set[int]:
    """Nodes that only describe: annotations and the docstrings they stand beside."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        notes = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        skipped |= {id(inner) for note in notes if note is not None for inner in ast.walk(note)}
    return skipped


def visible(tree: ast.Module) -> Iterator[tuple[int, ast.AST, str]]:
    """(position in the walk, node, enclosing function) of all code that runs."""
    owner: dict[int, str] = {}
    for top in ast.walk(tree):
        if isinstance(top, ast.FunctionDef):
            owner |= {id(inner): top.name for inner in ast.walk(top)}
    aliases = {id(t.value) for t in tree.body if isinstance(t, ast.Assign) and isinstance(t.value, ast.Subscript)}
    skipped = annotations(tree)
    for i, node in enumerate(ast.walk(tree)):
        if id(node) not in skipped | aliases:
            yield i, node, owner.get(id(node), "<module>")


def file(package: Path, module: str) -> Path:
    return package / f"{module}.py"


def mutants(module: str) -> Iterator[Mutant]:
    tree = ast.parse(file(PACKAGE, module).read_text())
    base, seen = ast.unparse(tree), Counter[str]()
    for i, node, function in visible(tree):
        for j in range(len(list(changes(node)))):
            other = copy.deepcopy(tree)
            target = list(ast.walk(other))[i]
            apply = list(changes(target))[j]
            source = render(other, target, apply)
            if source == base:
                continue
            line = next(b for a, b in zip(base.splitlines(), source.splitlines(), strict=True) if a != b).strip()
            name = f"{Path(module).name}.{function}: {line}"
            seen[name] += 1
            yield Mutant(module, name + (f" #{seen[name]}" if seen[name] > 1 else ""), source)


def render(tree: ast.Module, target: ast.AST, apply: Callable[[ast.AST], None]) -> str:
    """Source of the changed tree; a removed `not` or `~` leaves its operand."""
    if isinstance(target, ast.UnaryOp) and not isinstance(target.op, ast.USub):
        operand = target.operand

        class Remove(ast.NodeTransformer):
            def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
                return operand if node is target else self.generic_visit(node)

        return ast.unparse(Remove().visit(tree))
    apply(target)
    return ast.unparse(tree)


# ----------------------------------------------------------------------------------------------------- running tests


def run_tests(folder: Path, module: str) -> int:
    """In a forked child: the module's tests against the package in `folder`; 0 = nothing noticed."""
    child = os.fork()
    if child == 0:
        signal.alarm(TIMEOUT)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.chdir(ROOT)
        import pytest

        options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:randomly", "-o", "addopts="]
        options += ["--hypothesis-profile=mutants", "-p", "no:unraisableexception"]  # which collects all garbage
        options += ["-o", f"pythonpath={folder}", "-m", "not slow", "-k", "not converges"]
        sys.path.insert(0, str(folder))
        for name in TESTS[module]:  # the golden values first: most mutants get no further
            if (code := int(pytest.main([*options, f"tests/{name}"]))) != 0:
                os._exit(code)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


FOLDER = Path()  # of this worker


def prepare(scratch: str) -> None:
    """Start of a worker: its own copy of the package; heavy imports happen once, before any fork."""
    global FOLDER
    import hypothesis  # noqa: F401
    import jaxtyping  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch
    import torch._dynamo  # an optimiser imports it
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    sys.dont_write_bytecode = True  # a stale cache of another mutant must not be read
    gc.freeze()  # what is imported already is no garbage: forks need not look at it
    FOLDER = Path(tempfile.mkdtemp(dir=scratch))
    shutil.copytree(PACKAGE, FOLDER / "prefloop", ignore=shutil.ignore_patterns("__pycache__"))


def judge(mutant: Mutant) -> tuple[Mutant, int]:
    """Exit code of the tests: 0 = survived, anything else = killed."""
    target = file(FOLDER / "prefloop", mutant.module)
    original = file(PACKAGE, mutant.module).read_text()
    target.write_text(mutant.source)
    try:
        return mutant, run_tests(FOLDER, mutant.module)
    finally:
        target.write_text(original)


def reviewed() -> dict[str, str]:
    """Name -> proof."""
    found: dict[str, str] = {}
    name = ""
    for line in REVIEWED.read_text().splitlines() if REVIEWED.exists() else []:
        if line.startswith((" ", "\t")) and name:
            found[name] = f"{found[name]} {line.strip()}".strip()
        elif line.strip() and not line.startswith("#"):
            name = line.strip()
            found[name] = ""
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation test of the core and of what judges its runs.")
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TESTS)}; all of them by default")
    parser.add_argument("--only", default="", help="only mutants whose name contains this")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    args.modules = args.modules or list(TESTS)
    if unknown := set(args.modules) - TESTS.keys():
        parser.error(f"unknown module: {', '.join(sorted(unknown))}")
    found = [m for module in args.modules for m in mutants(module) if args.only in m.name]
    proofs, started, survivors = reviewed(), time.monotonic(), []
    os.environ["OMP_NUM_THREADS"] = "1"
    workers = multiprocessing.get_context("spawn").Pool
    with (
        tempfile.TemporaryDirectory(prefix="prefloop-mutants-") as scratch,
        workers(args.jobs, prepare, (scratch,)) as pool,
    ):
        for module in args.modules:
            clean = Mutant(module, f"{module}: unchanged", file(PACKAGE, module).read_text())
            if pool.apply(judge, (clean,))[1] != 0:
                print(f"the tests of {module} fail without any change")
                return 1
        for done, (mutant, code) in enumerate(pool.imap_unordered(judge, found), 1):
            if code == 0:
                survivors.append(mutant.name)
            if code == 0 and mutant.name not in proofs:
                print(f"SURVIVED  {mutant.name}", flush=True)
            elif done % 50 == 0:
                print(f"{done} of {len(found)} after {time.monotonic() - started:.0f} s", flush=True)
    fresh = sorted(set(survivors) - proofs.keys())
    complete = not args.only and set(args.modules) == set(TESTS)
    stale = sorted(proofs.keys() - set(survivors)) if complete else []
    empty = sorted(name for name, proof in proofs.items() if not proof)
    killed = len(found) - len(survivors)
    share = 100 * killed / max(1, len(found) - len(survivors) + len(fresh)) if found else math.nan
    print(
        f"{len(found)} mutants, {killed} killed, {len(survivors) - len(fresh)} proven equivalent, {len(fresh)} survived"
        f" ({share:.1f} % of what can be killed) in {time.monotonic() - started:.0f} s"
    )
    for name in stale:
        print(f"STALE     {name}")
    for name in empty:
        print(f"NO PROOF  {name}")
    return 1 if fresh or stale or empty else 0


if __name__ == "__main__":
    sys.exit(main())
