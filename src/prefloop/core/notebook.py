"""Records as a notebook shows them: a table of their fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any


class Shown:
    """A dataclass that a notebook shows as a table of its fields, without those that have their default.

    Class attribute:
        shown: names of fields and properties that are always shown.
    """

    shown: Sequence[str] = ()

    def _repr_html_(self) -> str:
        kind: Any = type(self)
        changed = [f.name for f in fields(kind) if not _equal(getattr(self, f.name), f.default)]
        rows = [(name, text(getattr(self, name))) for name in dict.fromkeys((*changed, *kind.shown))]
        return table(kind.__name__, ("", ""), [row for row in rows if row[1]])


def _equal(x: Any, default: Any) -> bool:
    return x is default or (not hasattr(x, "dtype") and bool(x == default))


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> str:
    """A table in HTML, which any theme of a notebook colours; a head without a word is left out."""
    cells = [[escape(str(cell)) for cell in row] for row in rows]
    top = "".join(f'<th style="text-align:left">{escape(cell)}</th>' for cell in head)
    body = "".join(f"<tr>{''.join(f'<td style={LEFT!r}>{cell}</td>' for cell in row)}</tr>" for row in cells)
    above = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    below = f"<div><small>{escape(note)}</small></div>" if note else ""
    return f"<div><strong>{escape(title)}</strong></div><table>{above}<tbody>{body}</tbody></table>{below}"


LEFT = "text-align:left"


def text(x: Any) -> str:
    """A value in few words: a tensor by type and shape, a function by its name; empty for what is empty."""
    if x is None or (isinstance(x, str | Mapping | list | tuple | frozenset | set) and not x):
        return ""
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" if x.shape else f"{float(x):.4g}"
    if isinstance(x, Mapping):
        return ", ".join(f"{key} = {text(value) or 'none'}" for key, value in x.items())
    if isinstance(x, frozenset | set):
        return ", ".join(sorted(map(str, x)))
    if isinstance(x, list | tuple):
        return f"{len(x)} items" if len(x) > SHORT or any(hasattr(v, "dtype") for v in x) else ", ".join(map(text, x))
    if isinstance(x, float):
        return f"{x:.4g}"
    return str(x.__name__) if callable(x) and hasattr(x, "__name__") else str(x)


SHORT = 6  # items of a list that are written out
