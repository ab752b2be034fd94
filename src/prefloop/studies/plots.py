"""Figures of a study as SVG: the same charts give the same bytes.

Every label has one colour and one marker over all panels of a figure; legends and the names of guides stand outside the
axes, where they cover nothing.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from prefloop.core.files import write
from prefloop.studies.study import Array, Chart, Line

ACROSS = 3  # panels in one row
WIDTHS = {1: 4.9, 2: 3.7, 3: 3.2}  # inches of one panel, by panels in a row
HEIGHT = 1.85  # inches of one panel's axes; titles, ticks and legends come on top
MARKED = 12  # most markers on one line
TICKS = 34  # characters of numbers that fit below a panel
LETTER, TITLE_LETTER, TICK_LETTER = 5.4, 5.7, 4.8  # points, mean width of a letter in labels, titles, below bars
SLANT = 17  # points that slanted names need from one to the next
INK, FAINT, GRID = "#222222", "#666666", "#e6e6e6"
# Okabe & Ito (2008) without yellow, which white swallows; neighbours differ in lightness too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#333333", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")  # of another length than COLOURS: 56 pairs before one comes back
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.titlesize": 9.25,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.hspace": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.wspace": 0.05,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.0,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markeredgecolor": "white",
    "lines.markeredgewidth": 0.5,
    "lines.markersize": 5.5,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "prefloop",
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}


Stroke = Literal["none", "--", "-"]


@dataclass(frozen=True)
class Look:
    """How a label is drawn wherever it occurs."""

    colour: str
    marker: str


def draw(figures: Mapping[str, Sequence[Chart]], folder: Path) -> list[Path]:
    """Write one SVG file per figure and return their paths.

    Raises:
        ValueError: a figure without charts, a name that is no file name, or a line whose lengths differ.
    """
    drawn = {folder / file_name(name): svg(charts) for name, charts in figures.items()}
    for path, data in drawn.items():
        write(path, data)
    return list(drawn)


def file_name(name: str) -> str:
    """A figure's file.

    Raises:
        ValueError: the name is none for a file.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"{name!r} cannot name a figure: letters, digits, `_`, `.` and `-` only")
    return name if name.endswith(".svg") else f"{name}.svg"


def svg(charts: Sequence[Chart]) -> bytes:
    """The charts as one picture.

    Raises:
        ValueError: no chart, or a line whose lengths differ.
    """
    file, title = BytesIO(), "; ".join(chart.title for chart in charts)
    with matplotlib.style.context(["default", STYLE]):  # whatever the user's own settings are
        figure(charts).savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return file.getvalue()


def figure(charts: Sequence[Chart]) -> Figure:
    """The panels in rows of at most three; to be called inside the style."""
    if not charts:
        raise ValueError("a figure needs at least one chart")
    across = 2 if len(charts) == 4 else min(ACROSS, len(charts))
    down = math.ceil(len(charts) / across)
    out = Figure(figsize=(across * WIDTHS[across], down * (HEIGHT + 1)), layout="constrained")
    grid = out.subplots(down, across, squeeze=False).ravel()
    for place in grid[len(charts) :]:
        place.remove()
    places = list(grid[: len(charts)])
    held = [_labels([chart]) for chart in charts]
    apart = len(charts) > 1 and sum(map(len, held)) == len(_labels(charts))  # no label in two panels
    for place, chart in zip(places, charts, strict=True):
        _panel(place, chart, _looks(_labels([chart] if apart else charts)))
    _titles(out, places, charts)
    if apart:
        _legends(out, places, charts, across)
    else:
        _legend(out, charts)
    out.draw_without_rendering()
    missing = HEIGHT - min(place.bbox.height for place in places) / out.dpi
    out.set_figheight(out.get_figheight() + down * missing)
    return out


def _titles(out: Figure, places: Sequence[Axes], charts: Sequence[Chart]) -> None:
    """Titles, axis labels and names of bars, wrapped at what the panels measure once their ticks are known."""
    out.draw_without_rendering()
    for place, chart in zip(places, charts, strict=True):
        width = place.bbox.width * 72 / out.dpi
        place.set_title(textwrap.fill(chart.title, int(width / TITLE_LETTER)))
        place.set_xlabel(textwrap.fill(chart.x, int(width / LETTER)))
        place.set_ylabel(textwrap.fill(chart.y, int(1.1 * 72 * HEIGHT / LETTER)))
        if names := _names(chart):
            _name_ticks(place, names, width)


# ---- colours and legends ------------------------------------------------------------------------------------------


def _labels(charts: Sequence[Chart]) -> list[str]:
    return list(dict.fromkeys(line.label for chart in charts for line in chart.lines))


def _looks(labels: Sequence[str]) -> dict[str, Look]:
    """Colours that differ in hue; where the labels are one quantity in rising steps, from dark to light."""
    colours: list[str] = [COLOURS[i % len(COLOURS)] for i in range(len(labels))]
    if _rising(labels):
        ramp = matplotlib.colormaps["viridis"]
        colours = [matplotlib.colors.to_hex(ramp(x)) for x in np.linspace(0.0, 0.82, len(labels))]
    return {name: Look(colours[i], MARKERS[i % len(MARKERS)]) for i, name in enumerate(labels)}


def _rising(labels: Sequence[str]) -> bool:
    """Whether the labels are `T = 1`, `T = 2`, …: at least three, the words the same, the numbers sorted."""
    parts = [re.fullmatch(r"(.*?)(-?\d+(?:\.\d+)?)(\D*)", name) for name in labels]
    if len(labels) < 3 or not all(parts):
        return False
    found = [part.groups() for part in parts if part]
    numbers = [float(number) for _, number, _ in found]
    same = len({(before, after) for before, _, after in found}) == 1
    return same and numbers in (sorted(numbers), sorted(numbers, reverse=True))


def _legend(out: Figure, charts: Sequence[Chart]) -> None:
    """One legend below the figure; none for a label that stands alone."""
    handles: dict[str, Line2D] = {}
    looks = _looks(_labels(charts))
    for chart in charts:
        for line in chart.lines:
            handles.setdefault(line.label, _handle(chart, line, looks[line.label]))
    if len(handles) > 1:
        columns = _columns(handles, out.get_figwidth())
        out.legend(handles=list(handles.values()), loc="outside lower center", ncols=columns)


def _legends(out: Figure, places: Sequence[Axes], charts: Sequence[Chart], across: int) -> None:
    """A legend below every panel that has two labels or more."""
    columns = [_columns(_labels([chart]), out.get_figwidth() / across) for chart in charts]
    out.draw_without_rendering()  # only now it is known how far ticks and axis label reach down
    for place, chart, count in zip(places, charts, columns, strict=True):
        looks = _looks(_labels([chart]))
        if len(looks) > 1:
            _below(place, [_handle(chart, line, looks[line.label]) for line in chart.lines], count, out)


def _columns(labels: Collection[str], inches: float) -> int:
    """How many columns of a legend fit."""
    fit = max(1, int(inches * 72 / (LETTER * max(map(len, labels), default=1) + 40)))
    return math.ceil(len(labels) / math.ceil(len(labels) / fit)) if labels else 1  # rows of about one length


def _handle(chart: Chart, line: Line, look: Look) -> Line2D:
    curve = chart.kind == "points" and line.dashed
    shape = "s" if chart.kind == "bars" else "" if curve else look.marker
    stroke: Stroke = "--" if curve else "none" if chart.kind != "lines" else "--" if line.dashed else "-"
    return Line2D([], [], color=look.colour, marker=shape, linestyle=stroke, markeredgewidth=0, label=line.label)


def _below(place: Axes, handles: list[Line2D], columns: int, out: Figure) -> None:
    """A legend under the axis label of one panel."""
    reach = place.xaxis.get_tightbbox()
    drop = (min(reach.y0, place.bbox.y0) if reach else place.bbox.y0) - place.bbox.y0
    place.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=place.transAxes + ScaledTranslation(0, drop / out.dpi - 0.06, out.dpi_scale_trans),
        borderaxespad=0.0,
        ncols=columns,
    )


# ---- one panel ----------------------------------------------------------------------------------------------------


def _panel(place: Axes, chart: Chart, looks: Mapping[str, Look]) -> None:
    place.set(title=chart.title[:1], xlabel=chart.x[:1], ylabel=chart.y[:1])  # one line each until `_titles` wraps them
    if chart.log_x:
        place.set_xscale("log")
    names = _names(chart)
    for number, line in enumerate(chart.lines):
        x, y, ends = _numbers(line, names)
        if chart.kind == "bars":
            _bars(place, looks[line.label], (number, len(chart.lines)), x, y, ends)
        elif chart.kind == "points":
            _points(place, looks[line.label], line.dashed, x, y, ends)
        else:
            _curve(place, looks[line.label], line.dashed, x, y, ends)
    _ticks(place, chart, names)
    _guides(place, chart.guides)


def _names(chart: Chart) -> list[str] | None:
    """Names on the x axis in their first order, or None where x is a number."""
    found = list(dict.fromkeys(x for line in chart.lines for x in line.x))
    named = chart.kind == "bars" or any(isinstance(x, str) for x in found)
    return [x if isinstance(x, str) else f"{x:g}" for x in found] if named else None


def _numbers(line: Line, names: Sequence[str] | None) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """x, y and the ends of the intervals; names stand at 0, 1, …"""
    places = [names.index(x if isinstance(x, str) else f"{x:g}") for x in line.x] if names is not None else line.x
    x, y = np.asarray(places, dtype=np.float64), np.asarray(line.y, dtype=np.float64)
    if x.ndim != 1 or y.shape != x.shape:
        raise ValueError(f"{line.label}: {len(x)} values of x for y of shape {y.shape}")
    if line.low is None or line.high is None:
        if line.low is not line.high:
            raise ValueError(f"{line.label}: an interval has two ends")
        return x, y, None
    low, high = np.asarray(line.low, dtype=np.float64), np.asarray(line.high, dtype=np.float64)
    if low.shape != y.shape or high.shape != y.shape:
        raise ValueError(f"{line.label}: ends of intervals of shape {low.shape}, {high.shape} for y of shape {y.shape}")
    return x, y, (low, high)


def _curve(place: Axes, look: Look, dashed: bool, x: Array, y: Array, ends: tuple[Array, Array] | None) -> None:
    if ends is not None:
        place.fill_between(x, *ends, color=look.colour, alpha=0.15, linewidth=0)
    every = max(1, math.ceil(len(x) / MARKED))
    place.plot(x, y, color=look.colour, marker=look.marker, markevery=every, linestyle="--" if dashed else "-")


def _points(place: Axes, look: Look, dashed: bool, x: Array, y: Array, ends: tuple[Array, Array] | None) -> None:
    """Points; a dashed line among them is a curve that they are compared with."""
    if dashed:
        place.plot(x, y, color=look.colour, linestyle="--")
        return
    many = len(x) > 60
    if ends is not None:
        place.vlines(x, *ends, color=look.colour, linewidth=0.9, alpha=0.5)
    place.plot(
        x,
        y,
        color=look.colour,
        marker=look.marker,
        linestyle="none",
        markersize=3.5 if many else 5.0,
        alpha=0.45 if many else 0.9,
        markeredgewidth=0,
    )


def _bars(
    place: Axes, look: Look, order: tuple[int, int], x: Array, y: Array, ends: tuple[Array, Array] | None
) -> None:
    """Bars of one label, beside those of the others."""
    number, count = order
    width = 0.78 / count
    x = x + (number - (count - 1) / 2) * width
    place.bar(x, y, width=width * 0.92, color=look.colour, alpha=0.75, linewidth=0)
    if ends is not None:
        place.vlines(x, *ends, color=INK, linewidth=1.1)
    place.axhline(0, color=FAINT, linewidth=0.7)


def _ticks(place: Axes, chart: Chart, names: Sequence[str] | None) -> None:
    """Names below bars; on a logarithmic axis the values themselves where they fit."""
    if names is not None:
        place.set_xticks(range(len(names)), names)
        place.set_xlim(-0.6, len(names) - 0.4)
        place.grid(False, axis="x")
        place.tick_params(axis="x", length=0)
    elif chart.log_x:
        values = sorted({float(x) for line in chart.lines for x in line.x if x > 0})
        place.xaxis.set_major_locator(FixedLocator(_few(values)))
        place.xaxis.set_minor_locator(NullLocator())
        place.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _power(x)))


def _name_ticks(place: Axes, names: Sequence[str], width: float) -> None:
    """Wrapped where the words fit side by side, else slanted, else upright; `width` of the panel in points."""
    each = width / len(names)
    room = int(each / TICK_LETTER)
    if all(len(word) <= room for name in names for word in name.split()):
        wrapped = [textwrap.fill(name, max(room, 1), break_on_hyphens=False) for name in names]
        place.set_xticks(range(len(names)), wrapped)
    elif each > SLANT:
        place.set_xticks(range(len(names)), names, rotation=40, rotation_mode="anchor", ha="right")
    else:
        place.set_xticks(range(len(names)), names, rotation=90)


def _few(values: Sequence[float]) -> list[float]:
    """The values themselves where they fit below a panel, else 1, 2, 5, … over a short range, else powers of ten."""
    if sum(len(f"{x:g}") + 2 for x in values) <= TICKS:
        return list(values)
    first, last = math.floor(math.log10(values[0])), math.ceil(math.log10(values[-1]))
    steps = (1, 2, 5) if values[-1] / values[0] < 100 else (1,)
    apart = range(first, last + 1, 1 + (last - first) // 7)
    return [step * 10.0**power for power in apart for step in steps if values[0] <= step * 10.0**power <= values[-1]]


def _power(x: float) -> str:
    """Of a tick: plain up to four zeros, else a power of ten."""
    power = round(math.log10(x))
    return f"{x:g}" if 1e-3 <= x < 1e5 or not math.isclose(x, 10.0**power) else f"$10^{{{power}}}$"


def _guides(place: Axes, guides: Mapping[str, float]) -> None:
    """Dotted lines whose names stand to the right of the panel, apart from each other."""
    for height in guides.values():
        place.axhline(height, color=FAINT, linewidth=1.0, linestyle=(0, (1.2, 2)), zorder=1.5)
    low, high = place.get_ylim()
    place.set_ylim(low, high)
    texts = [textwrap.fill(name, 15) for name in sorted(guides, key=lambda name: guides[name])]
    rooms = [(10 * (text.count("\n") + 1) + 1) / (72 * HEIGHT) for text in texts]  # points as a share of the axes
    for text, at in zip(texts, _apart([(x - low) / (high - low) for x in sorted(guides.values())], rooms), strict=True):
        place.text(1.02, at, text, transform=place.transAxes, va="center", fontsize=8, color=FAINT, linespacing=1.05)


def _apart(heights: Sequence[float], rooms: Sequence[float]) -> list[float]:
    """Sorted heights, moved as little as keeps neighbours that take so much room from overlapping."""
    out = list(heights)
    for _ in range(100):
        for i in range(len(out) - 1):
            short = (rooms[i] + rooms[i + 1]) / 2 - (out[i + 1] - out[i])
            if short > 0:
                out[i], out[i + 1] = out[i] - short / 2, out[i + 1] + short / 2
    return out
