"""Drawings as SVG with real text: a standalone file, or a picture inside a page whose style sheet colours it.

The same drawing gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path

from markupsafe import Markup, escape

from prefloop.core.files import write
from prefloop.report.chart import COLOURS, Chart
from prefloop.report.layout import figure
from prefloop.report.marks import (
    FILLS,
    INKS,
    PENS,
    RADIUS,
    SHAPES,
    TYPES,
    Area,
    Drawing,
    Group,
    Mark,
    Marks,
    Point,
    Real,
    Stroke,
    Tip,
    Words,
)

FONT = "Helvetica,Arial,'Liberation Sans',sans-serif"
SHOWN = 1.5  # pixels per point: files are shown larger than printed
UNIT = 10  # coordinates are in tenths of a point, so that they are integers


def draw(figures: Mapping[str, Sequence[Chart]], folder: Path, *, pdf: bool = False) -> list[Path]:
    """Write one SVG file per figure, optionally also a PDF, and return their paths.

    Raises:
        ValueError: a figure without charts, a name that is not a file name, or a line that cannot be drawn.
        UserError: PDF without its extra.
    """
    drawn = {file_name(name): figure(charts) for name, charts in figures.items()}
    files = {folder / name: standalone(drawing) for name, drawing in drawn.items()}
    if pdf:
        from prefloop.report.pdf import to_pdf

        files |= {(folder / name).with_suffix(".pdf"): to_pdf(drawing) for name, drawing in drawn.items()}
    for path, data in files.items():
        write(path, data)
    return list(files)


def file_name(name: str) -> str:
    """A figure's file.

    Raises:
        ValueError: not a file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"invalid figure name {name!r}: use letters, digits, `_`, `.` and `-` only")
    return name if name.endswith(".svg") else f"{name}.svg"


def standalone(drawing: Drawing) -> bytes:
    """A standalone file with its own colours and a white background."""
    w, h = drawing.width, drawing.height
    used = {getattr(mark, "style", "") for group in drawing.groups for mark in group.marks}
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w * SHOWN:.0f}" height="{h * SHOWN:.0f}" '
        f'viewBox="0 0 {_n(w)} {_n(h)}">\n<title>{escape(drawing.title)}</title>\n'
        f'<style>{sheet(INKS, used=used)}</style>\n<rect width="100%" height="100%" fill="{INKS["paper"]}"/>\n'
        + "\n".join(_group(group, f'color="{group.colour}"') for group in drawing.groups)
        + "\n</svg>\n"
    ).encode()


def inline(drawing: Drawing) -> Markup:
    """A picture for a page with `page_sheet`, which may be light or dark."""
    body = "".join(_group(group, f'class="k{group.place % len(COLOURS)}"') for group in drawing.groups)
    size = f"0 0 {_n(drawing.width)} {_n(drawing.height)}"
    return Markup(f'<svg viewBox="{size}" role="img" aria-label="{escape(drawing.title)}">{body}</svg>')


# ---- style sheets --------------------------------------------------------------------------------------------------


def sheet(inks: Mapping[str, str], scope: str = "", used: Collection[str] = ()) -> str:
    """CSS rules of the used styles (all by default); groups give the colour."""
    rules = {"text": f"font-family:{FONT}"}
    for name, pen in PENS.items():
        ink = inks[pen.ink] if pen.ink else "currentColor"
        more = _rule("stroke-opacity", pen.opacity, 1.0) + _rule("stroke-linecap", pen.cap, "butt")
        rules[f".{name}"] = f"fill:none;stroke:{ink};stroke-width:{_n(pen.width)}{more}"
    for name, fill in FILLS.items():
        ink = inks[fill.ink] if fill.ink else "currentColor"
        edge = f";stroke:{inks['paper']};stroke-width:{_n(fill.edge)}" if fill.edge else ""
        rules[f".{name}"] = f"fill:{ink}{_rule('fill-opacity', fill.opacity, 1.0)}{edge}"
    for name, type in TYPES.items():
        weight = ";font-weight:bold" if type.bold else ""
        rules[f".{name}"] = f"fill:{inks[type.ink]};font-size:{_n(type.size)}px{weight}"
    return "".join(f"{scope}{k}{{{v}}}" for k, v in rules.items() if not used or k[1:] in used or k == "text")


def page_sheet() -> str:
    """The same rules with a page's CSS variables for inks, and colours `--c0`, … by the order of labels."""
    inks = {
        "ink": "var(--ink)",
        "soft": "var(--soft)",
        "grid": "var(--grid)",
        "zone": "var(--grid)",
        "paper": "var(--card)",
    }
    colours = "".join(f"svg .k{i}{{color:var(--c{i})}}" for i in range(len(COLOURS)))
    return sheet(inks, "svg ") + "svg .tip{fill:transparent}" + colours


def _rule(name: str, value: object, default: object) -> str:
    return "" if value == default else f";{name}:{value}"


# ---- marks ---------------------------------------------------------------------------------------------------------


def _group(group: Group, colour: str) -> str:
    """Adjacent marks with the same style share an element."""
    body = "".join(_element(look, list(marks)) for look, marks in groupby(group.marks, _look))
    return f"<g {colour}>{body}</g>" if group.colour else body


def _look(mark: Mark) -> tuple[str, ...]:
    if isinstance(mark, Stroke):
        return "stroke", mark.style, mark.dash
    if isinstance(mark, Words):
        return "words", mark.style, mark.anchor
    return (type(mark).__name__, getattr(mark, "style", ""))


def _element(look: tuple[str, ...], marks: list[Mark]) -> str:
    style = f'class="{look[1]}"'
    if look[0] == "stroke":
        dash = f' stroke-dasharray="{_dashes(look[2])}"' if look[2] else ""
        return f'<path {style}{dash} d="{"".join(_path(m.points) for m in marks if isinstance(m, Stroke))}"/>'
    if look[0] == "words":
        anchor = "" if look[2] == "start" else f' text-anchor="{look[2]}"'
        return f"<g {style}{anchor}>{''.join(_words(m) for m in marks if isinstance(m, Words))}</g>"
    return "".join(_other(mark, style) for mark in marks)


def _other(mark: Mark, style: str) -> str:
    if isinstance(mark, Area):
        return f'<path {style} d="{_path(mark.points)}z"/>'
    if isinstance(mark, Marks):
        return f'<path {style} d="{"".join(_shape(mark.shape, at) for at in mark.points)}"/>'
    assert isinstance(mark, Tip)
    x, y = map(_n, mark.at)
    return f'<circle class="tip" cx="{x}" cy="{y}" r="{_n(5)}"><title>{escape(mark.text)}</title></circle>'


def _words(words: Words) -> str:
    x, y = map(_n, words.at)
    turn = f' transform="rotate({words.turn:.0f} {x} {y})"' if words.turn else ""
    return f'<text x="{x}" y="{y}"{turn}>{escape(words.text)}</text>'


def _path(points: Sequence[Point]) -> str:
    """`M` to the first point and steps from each to the next: of rounded positions, so that errors do not add up."""
    places = [(_n(x), _n(y)) for x, y in points]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(places)]
    return f"M{_joined(places[:1])}" + (f"l{_joined(steps)}" if steps else "")


def _shape(shape: int, at: Point) -> str:
    """A dot, a circle, or a polygon around the position."""
    x, y, r = _n(at[0]), _n(at[1]), _n(RADIUS)
    if shape < 0:
        return f"M{x} {y}h0"
    if shape == 0:
        return f"M{x} {y - r}a{r} {r} 0 1 1-1 0z"  # a full circle except for a tenth of a point
    return _path([(at[0] + dx, at[1] + dy) for dx, dy in SHAPES[shape]]) + "z"


def _joined(pairs: Sequence[tuple[int, int]]) -> str:
    """Numbers separated as briefly as possible: no space before a minus sign."""
    return " ".join(f"{x} {y}" for x, y in pairs).replace(" -", "-")


def _dashes(dash: str) -> str:
    return " ".join(str(_n(float(x))) for x in dash.split())


def _n(value: Real) -> int:
    return round(value * UNIT)
