"""Contents of figures: frozen records of panels, lines and tables, and the style of each label. No drawing here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefloop.core import files

Array = NDArray[np.float64]
Kind = Literal["lines", "path", "points", "bars"]
Range = tuple[float | int | None, float | int | None]
SHARE: Range = (0.0, 1.0)  # shares and probabilities
COUNT: Range = (0.0, None)  # lengths, counts, divergences
ANY: Range = (None, None)

# Okabe & Ito (2008) without yellow, which is invisible on white: distinct with deuteranopia and protanopia too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#333333", "#e69f00", "#56b4e9")
MARKERS = 8  # coprime to the number of colours, so that 56 labels differ
# A method has one colour in all figures, and its variants other dashes. Pref-FT is best-of-N offline, on pairs.
METHODS = {"PPO without its clip": 4, "reference": 4, "best-of-N": 1, "Pref-FT": 1, "RLOO": 5, "DPO": 0, "IPO": 6,
           "PPO": 3, "RWR": 2}  # fmt: skip
OFFLINE = ("offline", "Pref-FT", "reference")  # never drawn as a solid line
VARIANTS = ("", "dash", "dot", "dashdot")
DARK_TO_LIGHT = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98))  # the lower part of viridis


@dataclass(frozen=True)
class Line:
    """A curve, a path, the points of a scatter, or bars.

    Args:
        label: name in the legend; lines with the same label share colour and marker in all panels.
        x: numbers, or names of bars.
        y: numbers of the same length; nan leaves a gap.
        low, high: ends of intervals around y.
        left, right: ends of intervals around x; drawn for paths and points.
        dashed: the second of two quantities; among points, a curve for comparison.
        faint: drawn pale and without a marker, such as the values behind a smoothed curve.
        tag: short text at the line's end.
    """

    label: str
    x: Sequence[Any]
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    left: ArrayLike | None = None
    right: ArrayLike | None = None
    dashed: bool = False
    faint: bool = False
    tag: str = ""


@dataclass(frozen=True)
class Chart:
    """One panel of a figure.

    Args:
        x, y: axis labels with units.
        kind: `path` joins the points in order and marks each, as for reward against KL over evaluations.
        guides: horizontal lines by name, such as a ceiling.
        range: possible values of y; intervals and ticks end there.
        interval: meaning of middle and intervals, such as `mean over 10 seeds; band: ±1.96 standard errors`.
        mirrored: values below zero are magnitudes that point down.
        reach: values of y (with rows: of x) that the axis contains in any case, so that panels can be compared.
        rows: names on the y axis, from above: y are the numbers of rows, from 0, and guides are upright.
        zone: ends of a shaded range of x, such as effects that are too small to count; for charts with rows.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    kind: Kind = "lines"
    log_x: bool = False
    guides: Mapping[str, float | int] = field(default_factory=dict)
    range: Range = ANY
    interval: str = ""
    mirrored: bool = False
    reach: Sequence[float] = ()
    rows: Sequence[str] = ()
    zone: Range = ANY


@dataclass(frozen=True)
class Change:
    """A quantity before and after, each with its standard error."""

    label: str
    tag: str
    before: tuple[float | int, float | int]
    after: tuple[float | int, float | int]


@dataclass(frozen=True)
class Table:
    """Rows of a Markdown table."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


def frontier(title: str, lines: Sequence[Line], *, y: str = "reward", interval: str = "") -> Chart:
    """Reward against KL(π‖π_ref): a path over the evaluations of each line, starting before training."""
    return Chart(title, "KL(π‖π_ref), nats", y, lines, kind="path", interval=interval)


# ---- numbers of a line ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """A line as arrays of equal length; ends are nan if there is no interval."""

    x: Array
    y: Array
    low: Array
    high: Array
    left: Array
    right: Array


def numbers(line: Line, range: Range = ANY, names: Sequence[str] | None = None) -> Numbers:
    """The line's numbers, with intervals of y cut at the range; names of bars are at 0, 1, ….

    Raises:
        ValueError: different lengths, or an interval with only one end.
    """
    x = floats([names.index(name(v)) for v in line.x] if names is not None else line.x)
    y = floats(line.y)
    if x.ndim != 1 or y.shape != x.shape:
        raise ValueError(f"{line.label}: {len(x)} values of x for y of shape {y.shape}")
    low, high = _ends(line.label, "y", line.low, line.high, y)
    left, right = _ends(line.label, "x", line.left, line.right, x)
    bottom, top = -math.inf if range[0] is None else range[0], math.inf if range[1] is None else range[1]
    return Numbers(x, y, low.clip(bottom, top), high.clip(bottom, top), left, right)


def _ends(label: str, axis: str, low: ArrayLike | None, high: ArrayLike | None, middle: Array) -> tuple[Array, Array]:
    if low is None or high is None:
        if low is not high:
            raise ValueError(f"{label}: an interval of {axis} needs two ends")
        return np.full_like(middle, np.nan), np.full_like(middle, np.nan)
    ends = floats(low), floats(high)
    if any(end.shape != middle.shape for end in ends):
        shapes = ", ".join(str(end.shape) for end in ends)
        raise ValueError(f"{label}: ends of intervals of shape {shapes} for {axis} of shape {middle.shape}")
    return ends


def floats(values: ArrayLike | Sequence[Any]) -> Array:
    """An array of floats; anything that cannot be drawn, such as None or words for infinity, becomes nan."""
    if isinstance(values, list | tuple):
        values = [math.nan if v is None or isinstance(v, str) else v for v in values]
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def names(chart: Chart) -> list[str] | None:
    """Names on the x axis in order of appearance, or None if x is a number."""
    values = list(dict.fromkeys(x for line in chart.lines for x in line.x))
    named = chart.kind == "bars" or any(isinstance(x, str) for x in values)
    return [name(x) for x in values] if named else None


def name(x: Any) -> str:
    return x if isinstance(x, str) else f"{x:g}"


# ---- styles of labels ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """The style of a label: its index among the labels or colours, colour, marker, and a name in `marks.DASHES`."""

    place: int
    colour: str
    marker: int
    dash: str = ""


def labels(charts: Sequence[Chart]) -> list[str]:
    """Labels of all lines in order of appearance."""
    return list(dict.fromkeys(line.label for chart in charts for line in chart.lines))


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """Colours that differ in hue; if the labels are rising values of one quantity, from dark to light."""
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(labels))]
    if rising(labels):
        colours = [_ramp(i / (len(labels) - 1)) for i in range(len(labels))]
    return {label: Look(i, colours[i], i % MARKERS) for i, label in enumerate(labels)}


def styles(labels: Sequence[str]) -> dict[str, Look]:
    """Looks of labels that name methods: colour and marker of the method, dashes of the variant; of others, `looks`."""
    own = {label: next((at for name, at in METHODS.items() if _names(label, name)), None) for label in labels}
    if all(place is None for place in own.values()):
        return looks(labels)
    free = cycle(sorted({*range(len(COLOURS))} - {*own.values()}) or [0])
    out: dict[str, Look] = {}
    for label, fixed in own.items():
        place = next(free) if fixed is None else fixed
        used = [look.dash for look in out.values() if look.place == place]
        solid = not any(word in label for word in OFFLINE)
        dash = next((d for d in VARIANTS if d not in used and (solid or d)), VARIANTS[-1])
        out[label] = Look(place, COLOURS[place], place % MARKERS, dash)
    return out


def _names(label: str, method: str) -> bool:
    return re.search(rf"\b{re.escape(method)}\b", label) is not None


def rising(labels: Sequence[str]) -> bool:
    """Whether the labels are `T = 1`, `T = 2`, …: at least three, with equal words and increasing numbers."""
    parts = [re.fullmatch(r"(.*?)(-?\d+(?:\.\d+)?)(\D*)", label) for label in labels]
    if len(labels) < 3 or not all(parts):
        return False
    groups = [part.groups() for part in parts if part]
    values = [float(number) for _, number, _ in groups]
    same = len({(before, after) for before, _, after in groups}) == 1
    return same and values in (sorted(values), sorted(values, reverse=True))


def _ramp(share: float | int) -> str:
    """A colour between dark violet (0) and light green (1)."""
    at = share * (len(DARK_TO_LIGHT) - 1)
    i = min(int(at), len(DARK_TO_LIGHT) - 2)
    pairs = zip(DARK_TO_LIGHT[i], DARK_TO_LIGHT[i + 1], strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (at - i)):02x}" for a, b in pairs)


# ---- records as JSON -----------------------------------------------------------------------------------------------


RARE = {"reach": (), "rows": (), "zone": ANY}  # not in the record where they say nothing


def as_record(chart: Chart) -> dict[str, Any]:
    """The chart as a JSON value, at full precision; `from_record` is the inverse."""
    whole = {**asdict(chart), "lines": [_line(line) for line in chart.lines]}
    plain: dict[str, Any] = as_json({key: value for key, value in whole.items() if value != RARE.get(key)})
    return plain


def _line(line: Line) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(line).items()
        if value is not None and not (isinstance(value, bool | str) and not value)
    }


def from_record(record: Mapping[str, Any]) -> Chart:
    """The chart of a record.

    Raises:
        TypeError: an unknown key.
    """
    lines = [Line(**line) for line in record["lines"]]
    ranges = {key: tuple(record.get(key, ANY)) for key in ("range", "zone")}
    return Chart(**{**record, "lines": lines, **ranges})


def as_json(value: Any) -> Any:
    """The value as JSON: null for undefined numbers, words for infinity."""
    return files.plain(value, _in_words)


def _in_words(x: float, place: str) -> str | None:
    return None if math.isnan(x) else "∞" if x > 0 else "−∞"
