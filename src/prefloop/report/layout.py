"""From charts to a drawing: panels in rows, one legend, and a note on the intervals.

A figure is as wide as a column (one panel) or a page (more) of a paper, with letters of 7 and 8 points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prefloop.analysis.numbers import plus_minus
from prefloop.report.axes import Axis, along
from prefloop.report.chart import Change, Chart, Line, Look, labels, looks
from prefloop.report.marks import (
    LINE,
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
    width,
    wrap,
)
from prefloop.report.panel import GUIDES, Box, Frame, Panel, Shared, dashes, frames, groups, shared

COLUMN, PAGE = 252.0, 504.0  # points: 3.5 and 7 inches
ACROSS = 3  # maximum number of panels in a row
HEIGHTS = {1: 140.0, 2: 128.0, 3: 106.0}  # height of a panel's axes, by number of panels in a row
GAP, PAD = 14.0, 5.0  # between panels; around the figure
SAMPLE, APART = 20.0, 14.0  # width of a legend's sample; space between its entries
ROW = 12.0  # height of a row of the legend, or of a named row
SLANT = 40.0  # degrees


@dataclass(frozen=True)
class Around:
    """Space that a panel needs on the four sides of its axes."""

    left: Real
    right: Real
    top: Real
    bottom: Real


def figure(
    charts: Sequence[Chart],
    *,
    known: Sequence[str] = (),
    alone: bool = True,
    tips: bool = False,
    whole: Real | None = None,
    row: Real = ROW,
) -> Drawing:
    """The charts as one drawing.

    Args:
        known: labels whose order determines the colours; those of the charts by default.
        alone: whether to draw titles, legend and the note on intervals; a page may have its own.
        tips: whether to add tooltips with numbers.
        whole: width in points; a column for one panel and a page for more by default.
        row: height of a named row.

    Raises:
        ValueError: no chart, or a line with inconsistent numbers or numbers out of range.
    """
    if not charts:
        raise ValueError("a figure needs at least one chart")
    across = 2 if len(charts) == 4 else min(ACROSS, len(charts))
    usual = _usual(charts[0]) if across == 1 else PAGE
    whole = whole or usual
    common = shared(charts, list(known))
    axes = frames(charts)
    shown = charts if alone else [replace(chart, title="") for chart in charts]
    high = max(row * max(len(chart.rows) for chart in charts), 0 if charts[0].rows else HEIGHTS[across])
    boxes, bottom, words = _panels(shown, axes, across, whole, high * whole / usual)
    parts = [
        group for place in zip(charts, axes, boxes, strict=True) for group in groups(Panel(*place), common, tips=tips)
    ]
    parts.append(Group(tuple(words)))
    if alone:
        keys, bottom = _legend(charts, common, whole, bottom)
        note, bottom = _note(charts, whole, bottom)
        parts += [*keys, Group(tuple(note))]
    return Drawing(whole, round(bottom + PAD, 1), "; ".join(chart.title for chart in charts), tuple(parts))


def _usual(chart: Chart) -> Real:
    """Width of a figure of one panel: a column, and the space of the names and tags of rows."""
    if not chart.rows:
        return COLUMN
    tags = max((width(line.tag, "tick") for line in chart.lines), default=0.0)
    return min(PAGE, max(COLUMN, 0.6 * COLUMN + max(width(name, "tick") for name in chart.rows) + tags))


# ---- panels --------------------------------------------------------------------------------------------------------


def _panels(
    charts: Sequence[Chart], frames: Sequence[Frame], across: int, whole: Real, height: Real
) -> tuple[list[Box], Real, list[Words]]:
    """Positions of the axes, bottom of the panels, and the words around them."""
    down = math.ceil(len(charts) / across)
    rough = (whole - 2 * PAD - (across - 1) * GAP) / across - 34  # estimate until the margins are known
    around = [_around(charts, frames, i, across, rough, height) for i in range(len(charts))]
    lefts = [max(a.left for a in around[c::across]) for c in range(across)]
    rights = [max(a.right for a in around[c::across]) for c in range(across)]
    room = (whole - 2 * PAD - sum(lefts) - sum(rights) - (across - 1) * GAP) / across
    around = [_around(charts, frames, i, across, room, height) for i in range(len(charts))]
    boxes: list[Box] = []
    words: list[Words] = []
    y = PAD
    for r in range(down):
        row = range(r * across, min(len(charts), (r + 1) * across))
        y += max(around[i].top for i in row)
        for i in row:
            c = i - r * across
            x = PAD + sum(lefts[: c + 1]) + sum(rights[:c]) + c * (room + GAP)
            boxes.append(Box(x, y, room, height))
            words += _words(charts, frames, i, across, boxes[-1])
        y += height + max(around[i].bottom for i in row)
    return boxes, y, words


def _around(charts: Sequence[Chart], frames: Sequence[Frame], i: int, across: int, room: Real, height: Real) -> Around:
    chart, axes = charts[i], frames[i]
    left = max(width(text, "tick") for text in axes.y.labels) + 5.5
    if _says_y(charts, i, across):
        left += len(wrap(chart.y, 1.15 * height, "label")) * _line("label") + 3
    bottom = _ticks_below(axes, room) + 3
    if _says_x(charts, i, across):
        bottom += len(wrap(chart.x, room + 20, "label")) * _line("label") + 2
    top = len(wrap(chart.title, room + 8, "title")) * _line("title") + 5
    tagged = max((width(line.tag, "tick" if chart.rows else "tag") for line in chart.lines if line.tag), default=0.0)
    return Around(left, max(4.0, tagged + 8 if tagged else 0.0), top, bottom + 6)


def _says_y(charts: Sequence[Chart], i: int, across: int) -> bool:
    """Whether a panel shows its y label; panels in a row with the same label share the first."""
    first = i - i % across
    return i == first or charts[i].y != charts[i - 1].y


def _says_x(charts: Sequence[Chart], i: int, across: int) -> bool:
    """Whether a panel shows its x label; it does not if the panel below has the same axis."""
    return i + across >= len(charts) or charts[i + across].x != charts[i].x


def _words(charts: Sequence[Chart], frames: Sequence[Frame], i: int, across: int, box: Box) -> list[Words]:
    """Title, axis labels and tick labels of one panel."""
    chart, axes = charts[i], frames[i]
    out = _y_ticks(axes.y, box) + _x_ticks(axes, box)
    title = wrap(chart.title, box.width + 8, "title")
    for n, text in enumerate(reversed(title)):
        out.append(Words((box.left, box.top - 5 - n * _line("title")), text, "title"))
    if _says_x(charts, i, across):
        below = box.bottom + _ticks_below(axes, box.width) + 3
        for n, text in enumerate(wrap(chart.x, box.width + 20, "label")):
            out.append(Words((box.centre, below + (n + 0.85) * _line("label")), text, "label", "middle"))
    if _says_y(charts, i, across):
        edge = box.left - max(width(text, "tick") for text in axes.y.labels) - 8.5
        lines = wrap(chart.y, 1.15 * box.height, "label")
        for n, text in enumerate(reversed(lines)):
            out.append(Words((edge - n * _line("label"), box.middle), text, "label", "middle", -90))
    return out


def _y_ticks(axis: Axis, box: Box) -> list[Words]:
    return [
        Words((box.left - 4, box.y(axis, tick) + 2.5), text, "tick", "end")
        for tick, text in zip(axis.ticks, axis.labels, strict=True)
    ]


def _x_ticks(axes: Frame, box: Box) -> list[Words]:
    """Numbers or names: wrapped if the words fit side by side, otherwise slanted or upright."""
    out: list[Words] = []
    lines, turn = _wrapped(axes, box.width), _turn(axes, box.width)
    for tick, text in zip(axes.x.ticks, axes.x.labels, strict=True):
        x = box.x(axes.x, tick)
        if lines:
            for n, part in enumerate(wrap(text, _each(axes, box.width), "tick")):
                out.append(Words((x, box.bottom + 9 + n * _line("tick")), part, "tick", "middle"))
        else:
            out.append(Words((x + 2.4, box.bottom + (8 if turn < 90 else 4)), text, "tick", "end", -turn))
    return out


def _ticks_below(axes: Frame, room: Real) -> Real:
    """Height of the tick labels below the axes."""
    if lines := _wrapped(axes, room):
        return 3 + lines * _line("tick")
    down = math.sin(math.radians(_turn(axes, room)))
    return 10 + down * max(width(text, "tick") for text in axes.x.labels)


def _turn(axes: Frame, room: Real) -> Real:
    """Rotation of names in degrees, so that adjacent ones do not touch."""
    apart = room / max(1, len(axes.x.labels)) * math.sin(math.radians(SLANT))
    return SLANT if apart > _line("tick") else 90.0


def _wrapped(axes: Frame, room: Real) -> int:
    """Number of lines of the labels below the x axis; 0 if they do not fit side by side."""
    if not axes.named:
        return 1
    each = _each(axes, room)
    fit = all(width(word, "tick") <= each for text in axes.x.labels for word in text.split())
    return max(len(wrap(text, each, "tick")) for text in axes.x.labels) if fit else 0


def _each(axes: Frame, room: Real) -> Real:
    return room / max(1, len(axes.x.labels)) - 2


def _line(style: str) -> Real:
    return TYPES[style].size * LINE


# ---- legend and note -----------------------------------------------------------------------------------------------


def _legend(charts: Sequence[Chart], common: Shared, whole: Real, top: Real) -> tuple[list[Group], Real]:
    """One legend below the panels, and its end; none for a single label, or for rows, which have names."""
    unnamed = [chart for chart in charts if not chart.rows]
    first = {line.label: (chart, line) for chart in reversed(unnamed) for line in reversed(chart.lines)}
    shown = [label for label in labels(unnamed) if not first[label][1].faint]
    shown = shown if len(shown) > 1 else []
    names = [*shown, *common.guides]
    if not names:
        return [], top
    widest = max(width(text, "label") for text in names)
    places, end = _places(len(names), SAMPLE + 4 + widest + APART, whole, top)
    out = []
    for text, (x, y) in zip(shown, places, strict=False):
        look = common.looks[text]
        out.append(Group((*_sample(*first[text], look, x, y), _entry(text, x, y)), look.colour, look.place))
    for n, (text, (x, y)) in enumerate(zip(common.guides, places[len(shown) :], strict=True)):
        out.append(Group((Stroke(((x, y), (x + SAMPLE, y)), "guide", GUIDES[n % len(GUIDES)]), _entry(text, x, y))))
    return out, end


def _places(count: int, each: Real, whole: Real, top: Real) -> tuple[list[Point], Real]:
    """Positions of the legend's entries, in rows of similar length, and its end."""
    columns = max(1, int((whole - 2 * PAD + APART) / each))
    columns = math.ceil(count / math.ceil(count / columns))
    start = max(PAD, (whole - columns * each + APART) / 2)
    places = [(start + n % columns * each, top + 8 + n // columns * ROW) for n in range(count)]
    return places, top + 4 + math.ceil(count / columns) * ROW


def _entry(text: str, x: Real, y: Real) -> Words:
    return Words((x + SAMPLE + 4, y + 2.8), text, "label")


def _sample(chart: Chart, line: Line, look: Look, x: Real, y: Real) -> list[Mark]:
    """A line, a marker or a piece of a bar, as in the panel."""
    middle = (x + SAMPLE / 2, y)
    if chart.kind == "bars":
        a, b = x + SAMPLE / 2 - 5, x + SAMPLE / 2 + 5
        return [Area(((a, y - 3.5), (b, y - 3.5), (b, y + 3.5), (a, y + 3.5)), "bar")]
    curve = chart.kind != "points" or line.dashed
    stroke = Stroke(((x, y), (x + SAMPLE, y)), "line", dashes(line, look))
    marked = not (chart.kind == "points" and line.dashed)
    return [*([stroke] if curve else []), *([Marks((middle,), look.marker)] if marked else [])]


def _note(charts: Sequence[Chart], whole: Real, top: Real) -> tuple[list[Words], Real]:
    """The meaning of middle and intervals: once for all panels with the same note."""
    said = list(dict.fromkeys(chart.interval for chart in charts if chart.interval))
    text = "; ".join(said)
    lines = wrap(text[:1].upper() + text[1:], whole - 2 * PAD, "tick")
    downs = [top + 4 + (n + 0.85) * _line("tick") for n in range(len(lines))]
    out = [Words((whole / 2, y), line, "tick", "middle") for line, y in zip(lines, downs, strict=True)]
    return out, top + (4 + len(lines) * _line("tick") if lines else 0)


# ---- before and after ----------------------------------------------------------------------------------------------

STEP, REACH = 22.0, 4.0  # height of a row; half the height of the mark before


def changes(rows: Sequence[Change], title: str, x: str, known: Sequence[str]) -> Drawing:
    """Before and after of each row on one axis, with standard errors.

    Args:
        known: labels whose order determines the colours.
    """
    spread = [v + side * se for row in rows for v, se in (row.before, row.after) for side in (-1, 1)]
    axis, styles = along(spread), looks(known)
    box = Box(22.0, PAD, 420.0 - 22.0 - PAD, STEP * len(rows) + 4)
    at = [box.x(axis, tick) for tick in axis.ticks]
    words = [Words((a, box.bottom + 9), text, "tick", "middle") for a, text in zip(at, axis.labels, strict=True)]
    words.append(Words((box.centre, box.bottom + 21), x, "label", "middle"))
    words += [Words((PAD, box.top + STEP * (n + 0.5) + 4.5), row.tag, "tag") for n, row in enumerate(rows)]
    grid = Group(tuple(Stroke(((a, box.top), (a, box.bottom)), "grid") for a in at))
    bars = [
        Group(tuple(_change(row, box, axis, box.top + STEP * (n + 0.5) + 2, look)), look.colour, look.place)
        for n, row in enumerate(rows)
        for look in [styles[row.label]]
    ]
    return Drawing(420.0, box.bottom + 26, title, (grid, *bars, Group(tuple(words))))


def _change(row: Change, box: Box, axis: Axis, y: Real, look: Look) -> list[Mark]:
    (before, low), (after, high) = row.before, row.after
    a, b = box.x(axis, before), box.x(axis, after)
    text = f"{row.label}: {plus_minus(before, low)} → {plus_minus(after, high)}"
    errors = [
        Stroke(((box.x(axis, v - se), y), (box.x(axis, v + se), y)), "whisker") for v, se in (row.before, row.after)
    ]
    tick = Stroke(((a, y - REACH), (a, y + REACH)), "line")
    return [Stroke(((a, y), (b, y)), "bridge"), *errors, tick, Marks(((b, y),), look.marker), Tip((b, y), text)]
