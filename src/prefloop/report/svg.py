"""Plots as inline SVG: colours come from the page's style, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from prefloop.report.data import Real, number

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 30, 34, 46
COLOURS = 8
DASHES = ("", "7 4", "2 4")  # a second and third round of colours is told apart by dashes
Point = tuple[Real, Real]
Scale = Callable[[Real], float]


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Args:
        run: place of the run, which decides colour and marker.
        tag: what stands at the line's end.
        name: what a tooltip says.
        errors: standard error of each y, drawn as a band.
        faint: the same curve before smoothing.
        dashed: the second of two quantities in one plot.
        marked: a marker with a tooltip at every point; else only tooltips.
    """

    run: int
    tag: str
    name: str
    points: Sequence[Point]
    errors: Sequence[Real | None] = ()
    faint: Sequence[Point] = field(default=())
    dashed: bool = False
    marked: bool = False


def ticks(low: Real, high: Real, count: int = 5) -> list[float]:
    """Round numbers that cover the interval, but for a tenth of a step at either end."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999) * power
    first, last = math.floor(low / step + 0.1), math.ceil(high / step - 0.1)
    return [float(i * step) for i in range(first, last + 1)]


def plot(curves: Sequence[Curve], *, title: str, x: str, y: str, mirrored: bool = False) -> Markup:
    """Lines over two axes, with bands, end labels and tooltips.

    Args:
        title: for screen readers.
        x, y: axis labels.
        mirrored: show the size of values below zero, as for masses that point down.
    """
    shown = [q for c in curves for q in (*c.points, *c.faint)]
    spread = [(v, e) for c in curves for (_, v), e in zip(c.points, c.errors, strict=False) if e]
    xs, ys = [p[0] for p in shown], [p[1] for p in shown] + [v + s * e for v, e in spread for s in (-1, 1)]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    right = max(xs) if max(xs) > min(xs) else x_ticks[-1]
    x_ticks = [t for t in x_ticks if t <= right * (1 + 1e-9)] if right > 0 else x_ticks
    sx = _scale(x_ticks[0], max(right, x_ticks[-1]), LEFT, WIDTH - RIGHT)
    sy = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_axes(x_ticks, y_ticks, sx, sy, x, y, mirrored)]
    parts += [_band(c, sx, sy) for c in curves]
    parts += [_line(c, sx, sy) for c in curves]
    parts += [_points(c, sx, sy, x, mirrored) for c in curves]
    parts.append(_end_labels(curves, sx, sy))
    return _svg(title, Markup("").join(parts), HEIGHT)


def dumbbell(rows: Sequence[tuple[int, str, Point, Point]], *, title: str, x: str) -> Markup:
    """Before and after of each run on one axis: (place, letter, (before, se), (after, se))."""
    height = BOTTOM + 16 + 40 * len(rows)
    spread = [v + s * e for _, _, a, b in rows for v, e in (a, b) for s in (-1, 1)]
    x_ticks = ticks(min(spread), max(spread), 6)
    sx = _scale(x_ticks[0], x_ticks[-1], 40, WIDTH - RIGHT)
    base = height - BOTTOM
    line = Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="8" y2="{1}"/>')
    out = [line.format(sx(t), base) for t in x_ticks]
    out += [_text(sx(t), base + 19, tick_label(t, x_ticks), "middle", "tick") for t in x_ticks]
    out.append(_text((40 + WIDTH - RIGHT) / 2, height - 6, x, "middle", "axis"))
    for i, (run, letter, before, after) in enumerate(rows):
        out.append(_dumbbell(run, letter, before, after, 30 + 40 * i, sx))
    return _svg(title, Markup("").join(out), height)


def _dumbbell(run: int, letter: str, before: Point, after: Point, y: Real, sx: Scale) -> Markup:
    tip = f"{letter}: {number(before[0])} ± {number(before[1])} → {number(after[0])} ± {number(after[1])}"
    whisker = '<line class="whisker s{run}" x1="{a:.1f}" x2="{b:.1f}" y1="{y}" y2="{y}"/>'
    bars = Markup("").join(
        Markup(whisker).format(run=run % COLOURS, a=sx(v - e), b=sx(v + e), y=y) for v, e in (before, after)
    )
    return Markup(
        '<g class="dumbbell"><title>{tip}</title>{label}'
        '<line class="bridge s{run}" x1="{a:.1f}" x2="{b:.1f}" y1="{y}" y2="{y}"/>{bars}'
        '<circle class="hollow s{run}" cx="{a:.1f}" cy="{y}" r="6"/>'
        '<circle class="f{run}" cx="{b:.1f}" cy="{y}" r="7.5"/></g>'
    ).format(
        tip=tip,
        label=_text(16, y + 5, letter, "middle", f"tag f{run % COLOURS}"),
        run=run % COLOURS,
        a=sx(before[0]),
        b=sx(after[0]),
        y=y,
        bars=bars,
    )


def _svg(title: str, body: Markup, height: int) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{t}" preserveAspectRatio="xMidYMid meet">{b}</svg>'
    ).format(w=WIDTH, h=height, t=title, b=body)


def _scale(low: Real, high: Real, start: Real, end: Real) -> Scale:
    return lambda v: start + (v - low) / (high - low) * (end - start)


def _text(x: Real, y: Real, text: str, anchor: str, style: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(style, x, y, anchor, text)


def tick_label(value: Real, of: Sequence[Real]) -> str:
    """A tick with as many decimals as its axis needs."""
    step = of[1] - of[0] if len(of) > 1 else abs(value) or 1.0
    if max(abs(t) for t in of) >= 1e5 or step < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−") if value else "0"
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, places) != round(step, places + 1):  # a step of 2.5
        places += 1
    return f"{value:.{places}f}".replace("-", "−") if abs(value) > step / 1e6 else "0"


def _axes(xt: Sequence[Real], yt: Sequence[Real], sx: Scale, sy: Scale, x: str, y: str, mirrored: bool) -> Markup:
    parts = []
    for t in yt:
        style = "zero" if t == 0 else "grid"
        line = '<line class="{}" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
        parts.append(Markup(line).format(style, LEFT, WIDTH - RIGHT, y=sy(t)))
        parts.append(_text(LEFT - 9, sy(t) + 5, tick_label(abs(t) if mirrored else t, yt), "end", "tick"))
    parts += [_text(sx(t), HEIGHT - BOTTOM + 20, tick_label(t, xt), "middle", "tick") for t in xt]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x, "middle", "axis"))
    parts.append(_text(0, 14, y, "start", "axis"))
    return Markup("").join(parts)


def _path(points: Sequence[Point], sx: Scale, sy: Scale) -> str:
    return " ".join(f"{sx(px):.1f},{sy(py):.1f}" for px, py in points)


def _band(curve: Curve, sx: Scale, sy: Scale) -> Markup:
    known = [(p, e) for p, e in zip(curve.points, curve.errors, strict=False) if e is not None]
    if len(known) < 2:
        return Markup("")
    upper = [(px, py + e) for (px, py), e in known]
    lower = [(px, py - e) for (px, py), e in reversed(known)]
    style = f"band f{curve.run % COLOURS}"
    return Markup('<polygon class="{}" points="{}"/>').format(style, _path([*upper, *lower], sx, sy))


def _line(curve: Curve, sx: Scale, sy: Scale) -> Markup:
    dash = "5 5" if curve.dashed else DASHES[curve.run // COLOURS % len(DASHES)]
    form = '<polyline class="{}" points="{}" stroke-dasharray="{}"/>'
    colour = f"s{curve.run % COLOURS}"
    faint = Markup(form).format(f"faint {colour}", _path(curve.faint, sx, sy), "") if curve.faint else Markup("")
    return faint + Markup(form).format(f"line {colour}", _path(curve.points, sx, sy), dash or "none")


def _points(curve: Curve, sx: Scale, sy: Scale, x: str, mirrored: bool) -> Markup:
    """Markers, or invisible places that only carry a tooltip."""
    every = 1 if curve.marked else max(1, len(curve.points) // 24)
    errors = [*curve.errors, *[None] * (len(curve.points) - len(curve.errors))]
    out = []
    for (px, py), error in list(zip(curve.points, errors, strict=True))[::every]:
        spread = "" if error is None else f" ± {number(error)}"
        tip = f"{curve.name}: {number(abs(py) if mirrored else py)}{spread} at {number(px)} {x.partition(',')[0]}"
        shape = _marker(curve.run) if curve.marked else Markup('<circle class="ghost" r="8"/>')
        place = Markup('<g transform="translate({:.1f} {:.1f})"><title>{}</title>{}</g>')
        out.append(place.format(sx(px), sy(py), tip, shape))
    return Markup("").join(out)


def _marker(run: int) -> Markup:
    """Circle, square, triangle, diamond: runs differ without colour too."""
    shape = (
        '<circle r="4.5" class="mark f{0}"/>',
        '<rect x="-4" y="-4" width="8" height="8" class="mark f{0}"/>',
        '<path d="M0 -5.5 L5 4 L-5 4 Z" class="mark f{0}"/>',
        '<path d="M0 -5.5 L5.5 0 L0 5.5 L-5.5 0 Z" class="mark f{0}"/>',
    )[run % 4]
    return Markup(shape).format(run % COLOURS)


def _end_labels(curves: Sequence[Curve], sx: Scale, sy: Scale) -> Markup:
    """Each line's letter beside its end, moved apart where they would overlap."""
    ends = [(sx(c.points[-1][0]), sy(c.points[-1][1]), c) for c in curves if c.points and c.tag]
    placed: list[tuple[float, float]] = []
    out = []
    for ex, ey, curve in sorted(ends, key=lambda end: end[1]):
        near = [y for x, y in placed if abs(x - ex) < 26]
        y = max([ey, *[other + 15 for other in near]])
        placed.append((ex, y))
        out.append(_text(ex + 9, y + 5, curve.tag, "start", f"tag f{curve.run % COLOURS}"))
    return Markup("").join(out)
