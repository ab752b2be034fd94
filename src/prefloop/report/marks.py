"""Elements of a drawing: strokes, areas, markers and words at positions, and their styles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Real = float | int
Point = tuple[Real, Real]


@dataclass(frozen=True)
class Stroke:
    """An open line through points."""

    points: tuple[Point, ...]
    style: str
    dash: str = ""


@dataclass(frozen=True)
class Area:
    """A filled polygon."""

    points: tuple[Point, ...]
    style: str


@dataclass(frozen=True)
class Marks:
    """One marker, an index into SHAPES, at many points."""

    points: tuple[Point, ...]
    shape: int
    style: str = "mark"


@dataclass(frozen=True)
class Words:
    """One line of text; `turn` in degrees, clockwise."""

    at: Point
    text: str
    style: str
    anchor: str = "start"
    turn: Real = 0.0


@dataclass(frozen=True)
class Tip:
    """A tooltip at a position."""

    at: Point
    text: str


Mark = Stroke | Area | Marks | Words | Tip


@dataclass(frozen=True)
class Group:
    """Marks of one colour; `colour` is empty for axes and words."""

    marks: tuple[Mark, ...]
    colour: str = ""
    place: int = 0  # index of the label: a page's style sheet colours by it


@dataclass(frozen=True)
class Drawing:
    """A figure in points of 1/72 inch, the origin at the upper left."""

    width: Real
    height: Real
    title: str
    groups: tuple[Group, ...]


# ---- styles --------------------------------------------------------------------------------------------------------


class Pen(NamedTuple):
    width: Real
    ink: str = ""  # a name in INKS; the group's colour if empty
    opacity: Real = 1.0
    cap: str = "butt"


class Fill(NamedTuple):
    opacity: Real = 1.0
    ink: str = ""
    edge: float = 0.0  # width of the paper-coloured edge


class Type(NamedTuple):
    size: Real
    ink: str = "ink"
    bold: bool = False


INKS = {"ink": "#222222", "soft": "#5c5c5c", "grid": "#e4e4e4", "zone": "#eef1f5", "paper": "#ffffff"}
PENS = {
    "grid": Pen(0.6, "grid"),
    "axis": Pen(0.6, "soft"),
    "guide": Pen(0.9, "soft"),
    "line": Pen(1.3, cap="round"),
    "faint": Pen(0.6, opacity=0.25),
    "whisker": Pen(0.8, opacity=0.6),
    "error": Pen(0.9, "ink"),
    "bridge": Pen(1.8, opacity=0.45),
    "dots": Pen(2.4, opacity=0.5, cap="round"),
}
FILLS = {"band": Fill(0.15), "zone": Fill(ink="zone"), "bar": Fill(0.75), "mark": Fill(edge=0.5)}
TYPES = {"title": Type(8, bold=True), "label": Type(8), "tick": Type(7, "soft"), "tag": Type(7.5, bold=True)}
LINE = 1.22  # height of a line of text over its size
DASHES = {"dash": "4 2.5", "dot": "1.2 2", "dashdot": "5 2 1 2"}

# Markers around the origin as polygons; the first is a circle of this radius
RADIUS = 2.3
SHAPES: tuple[tuple[Point, ...], ...] = (
    (),
    ((-2.1, -2.1), (2.1, -2.1), (2.1, 2.1), (-2.1, 2.1)),
    ((0, -2.9), (2.7, 2), (-2.7, 2)),
    ((0, -3), (3, 0), (0, 3), (-3, 0)),
    ((0, 2.9), (2.7, -2), (-2.7, -2)),
    ((-2.6, -2.4), (2.6, 2.4), (2.6, -2.4), (-2.6, 2.4)),
    ((-2.9, 0), (2, -2.7), (2, 2.7)),
    ((-2.4, -2.6), (2.4, 2.6), (-2.4, 2.6), (2.4, -2.6)),
)


# ---- width of text -------------------------------------------------------------------------------------------------

NARROW, SLIM, WIDE = set("iljI.,:;'|!‖"), set("ftr()[]-/ "), set("mwMW%@—…")


def width(text: str, style: str) -> float:
    """Approximate width of a line of text in points: Helvetica, by classes of letters."""
    size, _, bold = TYPES[style]
    ems = sum(
        0.26 if c in NARROW else 0.34 if c in SLIM else 0.86 if c in WIDE else 0.68 if c.isupper() else 0.56
        for c in text
    )
    return ems * size * (1.06 if bold else 1.0)


def wrap(text: str, room: Real, style: str) -> list[str]:
    """Lines of text that fit the width, broken at spaces; a word that is too long gets its own line."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}", style) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
