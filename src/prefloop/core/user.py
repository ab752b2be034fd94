"""Objects from the user's own files, named as `module:name`."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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
    """SHA-256 of the file behind `module:name`: results made with an earlier version of it are not reused."""
    file = module(path.partition(":")[0], where=path).__file__
    return sha256(file) if file else ""
