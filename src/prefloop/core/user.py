"""Objects from the user's own files, named as `module:name`."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from prefloop.core import files
from prefloop.core.errors import UserError, nearest, raised
from prefloop.core.files import sha256


def module(name: str, *, where: str) -> ModuleType:
    """Import a user's module, from the current directory or installed.

    Raises:
        UserError: no such module, or importing it raised.
    """
    here = str(Path.cwd())
    if here not in sys.path:  # permanently, as `python -m` does: its functions may import sibling modules later
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's file may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            files = [f.relative_to(here) for pattern in ("*.py", "*/*.py") for f in Path(here).glob(pattern)]
            close = difflib.get_close_matches(name, [".".join(f.with_suffix("").parts) for f in files], n=1, cutoff=0.5)
            fix = f"did you mean `{close[0]}`?" if close else "put it in the current directory, or install it"
            raise UserError(f"no module named `{name}`", where=where, fix=fix) from error
        raise UserError(f"importing `{name}` raised {raised(error)}", where=where) from error


def function(path: str, *, where: str) -> Any:
    """Import the function of `module:function`.

    Raises:
        UserError: not of that form, or no such module or function; the nearest name is suggested.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name.isidentifier():
        raise UserError(f"`{path}` must have the form module:function", where=where)
    home = module(module_name, where=f"{where}={path}")
    known = [k for k, v in vars(home).items() if callable(v) and not k.startswith("_")]
    if not callable(getattr(home, name, None)):
        fix = nearest(name, known) if known else "the module defines no function"
        raise UserError(f"`{module_name}` has no function `{name}`", where=where, fix=fix)
    return getattr(home, name)


def digest(path: str) -> str:
    """SHA-256 of what is behind `module:name`: results made with an earlier version of it are not reused.

    It is that of the module's file; without a file, as in a notebook, that of the object's code.
    """
    home, _, name = path.partition(":")
    own = module(home, where=path)
    file = getattr(own, "__file__", None)
    return sha256(file) if file else files.digest(code(getattr(own, name, None)))


def without_file(name: str) -> bool:
    """Whether a module is this session only, such as a notebook, so that no other process can import it."""
    return not getattr(sys.modules.get(name), "__file__", None)


def code(x: Any, seen: set[int] | None = None) -> Any:
    """What a function or class computes, as JSON: its code, and that of what it uses; of a file, the file's hash.

    Args:
        seen: what is in the result already.
    """
    seen = set() if seen is None else seen
    if isinstance(x, property | staticmethod | classmethod):
        return code(x.fget if isinstance(x, property) else x.__func__, seen)
    if not isinstance(x, FunctionType | type):
        return x.__name__ if isinstance(x, ModuleType) else repr(x)
    name = f"{x.__module__}.{x.__qualname__}"
    if id(x) in seen or name.startswith("prefloop."):
        return name
    seen.add(id(x))
    if not without_file(x.__module__):
        return [name, sha256(str(sys.modules[x.__module__].__file__))]
    if isinstance(x, type):
        own = {k: v for kind in reversed(x.__mro__) if kind.__module__ == x.__module__ for k, v in vars(kind).items()}
        return [name, {k: code(v, seen) for k, v in sorted(own.items()) if isinstance(v, PARTS)}]
    used = {name: x.__globals__[name] for name in sorted(_names(x.__code__)) if name in x.__globals__}
    given = (x.__defaults__, x.__kwdefaults__, *(cell.cell_contents for cell in x.__closure__ or ()))
    return [
        name,
        _instructions(x.__code__),
        [code(v, seen) for v in given],
        {k: code(v, seen) for k, v in used.items()},
    ]


PARTS = (bool, int, float, str, FunctionType, property, staticmethod, classmethod)  # what a class computes with


def _instructions(own: CodeType) -> list[Any]:
    constants = [
        _instructions(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c)
        for c in own.co_consts
    ]
    return [own.co_code.hex(), own.co_names, own.co_varnames, constants]


def _names(own: CodeType) -> set[str]:
    return {*own.co_names, *(n for c in own.co_consts if isinstance(c, CodeType) for n in _names(c))}
