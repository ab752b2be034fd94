"""One panel: its axes, and the marks of its lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from prefloop.report.axes import Axis, along, named, rows, upright
from prefloop.report.chart import Array, Chart, Line, Look, Numbers, labels, looks, names, numbers, styles
from prefloop.report.marks import DASHES, Area, Group, Mark, Marks, Point, Real, Stroke, Tip, Words

Item = TypeVar("Item")
MARKED = 6  # maximum number of markers on a curve
TIPS = 24  # maximum number of tooltips on a curve
MANY = 60  # scatters with more points use dots
CURVE, FIGURE = 64, 2000  # maximum number of points of a curve, and of all curves of a figure: more are thinned
GUIDES = (DASHES["dot"], DASHES["dash"], DASHES["dashdot"])
SHARE = 0.78  # share of the space between two names that bars take


@dataclass(frozen=True)
class Box:
    """Position of the axes on the drawing."""

    left: Real
    top: Real
    width: Real
    height: Real

    @property
    def bottom(self) -> Real:
        return self.top + self.height

    @property
    def right(self) -> Real:
        return self.left + self.width

    @property
    def centre(self) -> Real:
        return self.left + self.width / 2

    @property
    def middle(self) -> Real:
        return self.top + self.height / 2

    def x(self, axis: Axis, value: Real) -> Real:
        return self.left + self.width * axis.share(value)

    def y(self, axis: Axis, value: Real) -> Real:
        return self.bottom - self.height * axis.share(value)


@dataclass(frozen=True)
class Frame:
    """The axes of a chart and the numbers of its lines."""

    x: Axis
    y: Axis
    lines: tuple[Numbers, ...]
    named: bool


def frame(chart: Chart) -> Frame:
    """The axes of a chart alone: see `frames`."""
    return frames([chart])[0]


def frames(charts: Sequence[Chart]) -> list[Frame]:
    """Axes that contain every line, interval and guide, shared by charts that measure the same along them.

    Raises:
        ValueError: no number to draw, inconsistent numbers, or numbers out of range.
    """
    words = [names(chart) for chart in charts]
    lines = [tuple(numbers(line, c.range, w) for line in c.lines) for c, w in zip(charts, words, strict=True)]
    xs, ys = zip(*(_reach(chart, own) for chart, own in zip(charts, lines, strict=True)), strict=True)
    across = _together([(c.x, c.log_x, w is None) for c, w in zip(charts, words, strict=True)], xs)
    up = _together([(c.y, c.range, c.mirrored, len(c.rows)) for c in charts], ys)
    out = []
    for chart, name, own, x, y in zip(charts, words, lines, across, up, strict=True):
        level = named(name) if name is not None else along(x, log=chart.log_x)
        upper = rows(chart.rows) if chart.rows else upright(y, chart.range, mirrored=chart.mirrored)
        out.append(Frame(level, upper, own, name is not None))
    return out


def _reach(chart: Chart, lines: Sequence[Numbers]) -> tuple[list[float], list[float]]:
    """What the axes of a chart must contain."""
    xs = _finite([part for line in lines for part in (line.x, line.left, line.right)])
    ys = _finite([part for line in lines for part in (line.y, line.low, line.high)])
    if not xs or not ys:
        raise ValueError(f"{chart.title}: no numbers to draw")
    more = [*chart.guides.values(), *chart.reach, *(end for end in chart.zone if end is not None)]
    return (xs + more, ys) if chart.rows else (xs, ys + more + ([0.0] if chart.kind == "bars" else []))


def _together(keys: Sequence[object], values: Sequence[list[float]]) -> list[list[float]]:
    """The values of all charts with the same key, for each."""
    return [[v for other, own in zip(keys, values, strict=True) if other == key for v in own] for key in keys]


def _finite(parts: Sequence[Array]) -> list[float]:
    return [float(v) for part in parts for v in part if math.isfinite(v)]


@dataclass(frozen=True)
class Panel:
    """A chart with positioned axes."""

    chart: Chart
    axes: Frame
    box: Box

    def at(self, x: Real, y: Real) -> Point:
        return self.box.x(self.axes.x, x), self.box.y(self.axes.y, y)


@dataclass(frozen=True)
class Shared:
    """What the panels of a figure share: looks by label, names of guides, maximum number of points of a curve."""

    looks: Mapping[str, Look]
    guides: Sequence[str]
    most: int


def shared(charts: Sequence[Chart], known: Sequence[str]) -> Shared:
    """Looks by the order of known labels, otherwise those of methods; with more curves, each has fewer points."""
    curves = sum(len(chart.lines) for chart in charts)
    guides = list(dict.fromkeys(name for chart in charts for name in chart.guides))
    return Shared(
        looks(known) if known else styles(labels(charts)), guides, max(16, min(CURVE, FIGURE // max(1, curves)))
    )


def groups(panel: Panel, common: Shared, *, tips: bool = False) -> list[Group]:
    """Grid and guides, then each line in its colour: bands below, curves above, tooltips on top."""
    out = [Group(tuple(_grid(panel, common.guides)))]
    pairs = list(zip(panel.chart.lines, panel.axes.lines, strict=True))
    for layer in (_under, _over):
        for number, (line, values) in enumerate(pairs):
            look = common.looks[line.label]
            marks = layer(panel, line, values, number, look, common.most)
            out += [Group(tuple(marks), look.colour, look.place)] if marks else []
    out.append(Group(tuple(_tags(panel))))
    if tips:
        out.append(Group(tuple(tip for line, v in pairs for tip in _tips(panel, line, v))))
    return [group for group in out if group.marks]


def _grid(panel: Panel, guides: Sequence[str]) -> list[Mark]:
    axes, box, chart = panel.axes, panel.box, panel.chart
    out: list[Mark] = _zone(panel)
    out += [_level(box, box.y(axes.y, tick), "grid") for tick in axes.y.ticks]
    if not axes.named:
        out += [_upright(box, box.x(axes.x, tick), "grid") for tick in axes.x.ticks]
    base = box.y(axes.y, 0.0) if axes.y.low < 0 < axes.y.high else box.bottom
    out.append(_level(box, base, "axis"))
    out.append(_upright(box, box.left, "axis"))
    for name, value in chart.guides.items():
        dash = GUIDES[guides.index(name) % len(GUIDES)]
        at = box.x(axes.x, value) if chart.rows else box.y(axes.y, value)
        out.append((_upright if chart.rows else _level)(box, at, "guide", dash))
    return out


def _zone(panel: Panel) -> list[Mark]:
    """The shaded range, and a line at 0 if that is in it."""
    (low, high), box, x = panel.chart.zone, panel.box, panel.axes.x
    if low is None or high is None:
        return []
    a, b = box.x(x, low), box.x(x, high)
    shade = Area(((a, box.top), (b, box.top), (b, box.bottom), (a, box.bottom)), "zone")
    return [shade, *([_upright(box, box.x(x, 0.0), "axis")] if low < 0 < high else [])]


def _level(box: Box, y: Real, style: str, dash: str = "") -> Stroke:
    return Stroke(((box.left, y), (box.right, y)), style, dash)


def _upright(box: Box, x: Real, style: str, dash: str = "") -> Stroke:
    return Stroke(((x, box.top), (x, box.bottom)), style, dash)


# ---- lines ---------------------------------------------------------------------------------------------------------


def _under(panel: Panel, line: Line, v: Numbers, number: int, look: Look, most: int) -> list[Mark]:
    """The band of a curve, or the bars."""
    if panel.chart.kind == "bars":
        return _bars(panel, v, number)
    if panel.chart.kind != "lines" or line.faint:
        return []
    out: list[Mark] = []
    for places in _runs(np.isfinite(v.low) & np.isfinite(v.high)):
        if len(places) > 1:
            part = thin(places, most)
            upper = [panel.at(v.x[i], v.high[i]) for i in part]
            out.append(Area((*upper, *(panel.at(v.x[i], v.low[i]) for i in reversed(part))), "band"))
    return out


def _over(panel: Panel, line: Line, v: Numbers, number: int, look: Look, most: int) -> list[Mark]:
    """The curve with some markers, a path with all of them, or points."""
    if panel.chart.kind == "bars":
        return []
    known = np.isfinite(v.x) & np.isfinite(v.y)
    places = [int(i) for i in np.flatnonzero(known)]
    if panel.chart.kind == "points" and not line.dashed:
        return [*_whiskers(panel, v, places), *_scatter([panel.at(v.x[i], v.y[i]) for i in places], look)]
    curves = [thin(part, most) for part in _runs(known) if len(part) > 1]
    style, dash = "faint" if line.faint else "line", dashes(line, look)
    out: list[Mark] = [Stroke(tuple(panel.at(v.x[i], v.y[i]) for i in part), style, dash) for part in curves]
    if line.faint or panel.chart.kind == "points":
        return out
    every = 1 if panel.chart.kind == "path" else max(1, math.ceil(len(places) / MARKED))
    marked = tuple(panel.at(v.x[i], v.y[i]) for i in places[look.place % every :: every])
    errors = _whiskers(panel, v, places) if panel.chart.kind == "path" else []
    return [*errors, *out, Marks(marked, look.marker)]


def dashes(line: Line, look: Look) -> str:
    """Of a line that is dashed by itself, or of a variant of a method."""
    return DASHES.get("dash" if line.dashed else look.dash, "")


def _scatter(at: Sequence[Point], look: Look) -> list[Mark]:
    """Markers, or dots if there are many."""
    return [Marks(tuple(at), -1, "dots") if len(at) > MANY else Marks(tuple(at), look.marker)] if at else []


def _whiskers(panel: Panel, v: Numbers, places: Sequence[int]) -> list[Mark]:
    """Error bars both ways, if there are intervals."""
    up = [((i, v.low[i]), (i, v.high[i])) for i in places if np.isfinite(v.low[i]) and np.isfinite(v.high[i])]
    style = "line" if panel.chart.rows else "whisker"
    out: list[Mark] = [Stroke((panel.at(v.x[i], low), panel.at(v.x[i], high)), style) for (i, low), (_, high) in up]
    across = [i for i in places if np.isfinite(v.left[i]) and np.isfinite(v.right[i])]
    out += [Stroke((panel.at(v.left[i], v.y[i]), panel.at(v.right[i], v.y[i])), style) for i in across]
    return out


def _bars(panel: Panel, v: Numbers, number: int) -> list[Mark]:
    """Bars of one label, next to those of the others."""
    each = SHARE / len(panel.chart.lines)
    out: list[Mark] = []
    for x, y, low, high in zip(v.x, v.y, v.low, v.high, strict=True):
        middle = x + (number - (len(panel.chart.lines) - 1) / 2) * each
        a, b = (panel.box.x(panel.axes.x, middle + side * each * 0.46) for side in (-1, 1))
        if math.isfinite(y):
            top, base = panel.box.y(panel.axes.y, y), panel.box.y(panel.axes.y, 0.0)
            out.append(Area(((a, base), (a, top), (b, top), (b, base)), "bar"))
        if math.isfinite(low) and math.isfinite(high):
            out.append(Stroke((panel.at(middle, low), panel.at(middle, high)), "error"))
    return out


def _runs(known: np.ndarray) -> list[list[int]]:
    """Indices of consecutive known points: a gap breaks a curve."""
    out: list[list[int]] = []
    for i in map(int, np.flatnonzero(known)):
        if out and out[-1][-1] == i - 1:
            out[-1].append(i)
        else:
            out.append([i])
    return out


# ---- words at lines ------------------------------------------------------------------------------------------------


def _tags(panel: Panel) -> list[Words]:
    """Each line's tag at its end, moved down if two would overlap; with rows, beside the panel."""
    ends, rows = [], panel.chart.rows
    for line, v in zip(panel.chart.lines, panel.axes.lines, strict=True):
        known = np.flatnonzero(np.isfinite(v.x) & np.isfinite(v.y))
        if line.tag and len(known):
            ends.append((*panel.at(v.x[known[-1]], v.y[known[-1]]), line.tag))
    placed: list[Point] = []
    out = []
    for x, y, tag in sorted(ends, key=lambda end: end[1]):
        x = panel.box.right if rows else x
        y = max([y, *(other + 8 for at, other in placed if abs(at - x) < 14)])
        placed.append((x, y))
        out.append(Words((x + 5, y + 2.7), tag, "tick" if rows else "tag"))
    return out


def _tips(panel: Panel, line: Line, v: Numbers) -> list[Tip]:
    """Tooltips with the numbers of a line."""
    if line.faint:
        return []
    known = thin([int(i) for i in np.flatnonzero(np.isfinite(v.x) & np.isfinite(v.y))], TIPS)
    out = []
    for i in known:
        if panel.chart.rows:
            out.append(Tip(panel.at(v.x[i], v.y[i]), _of_row(panel.chart, line, v, i)))
            continue
        y = abs(v.y[i]) if panel.chart.mirrored else v.y[i]
        x = panel.axes.x.labels[int(v.x[i])] if panel.axes.named else _short(v.x[i])
        text = f"{line.label}: {_short(y)}{_ends(v.low[i], v.high[i])} at {x} {panel.chart.x.partition(',')[0]}"
        out.append(Tip(panel.at(v.x[i], v.y[i]), text))
    return out


def _of_row(chart: Chart, line: Line, v: Numbers, i: int) -> str:
    """A number with its interval and the name of its row."""
    name = chart.rows[round(v.y[i])]
    row = "" if name in line.label else f", {name}"
    return f"{line.label}{row}: {_short(v.x[i])}{_ends(v.left[i], v.right[i])}"


def _ends(low: Real, high: Real) -> str:
    return f" [{_short(low)}, {_short(high)}]" if math.isfinite(low) else ""


def _short(x: Real) -> str:
    return f"{x:.4g}".replace("-", "−")


def thin(items: Sequence[Item], limit: int) -> Sequence[Item]:
    """At most `limit` evenly spaced items, including the first and the last."""
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]
