"""Drawings as PDF, for a paper: the same marks at the same positions, drawn by matplotlib (extra `figures`)."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from prefloop.core.errors import UserError
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
    Marks,
    Real,
    Stroke,
    Words,
)

SHRINK = 0.9  # matplotlib's DejaVu Sans is wider than Helvetica
SETTINGS: dict[str, Any] = {
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "path.simplify": False,
}  # publishers refuse Type 3 fonts


def to_pdf(drawing: Drawing) -> bytes:
    """One page with the drawing's size; the same drawing gives the same bytes.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("PDF figures need matplotlib", fix="pip install 'prefloop[figures]'") from None
    file = BytesIO()
    settings: Any = {**matplotlib.rcParamsDefault, **SETTINGS}  # independent of the user's settings
    with matplotlib.rc_context(settings):
        page = Figure(figsize=(drawing.width / 72, drawing.height / 72))
        axes = page.add_axes((0, 0, 1, 1), xlim=(0, drawing.width), ylim=(drawing.height, 0))
        axes.axis("off")
        for order, group in enumerate(drawing.groups):
            for mark in group.marks:
                _put(axes, group, mark, order)
        page.savefig(file, format="pdf", metadata={"Title": drawing.title, "CreationDate": None})
    return file.getvalue()


def _put(axes: Any, group: Group, mark: Any, order: int) -> None:
    own = group.colour or INKS["ink"]
    if isinstance(mark, Stroke):
        pen = PENS[mark.style]
        axes.plot(*zip(*mark.points, strict=True), **_pen(mark.style, own), dashes=_dashes(mark.dash, pen.width),
                  zorder=order, clip_on=False)  # fmt: skip
    elif isinstance(mark, Area):
        fill = FILLS[mark.style]
        colour = INKS[fill.ink] if fill.ink else own
        axes.fill(*zip(*mark.points, strict=True), color=colour, alpha=fill.opacity, linewidth=0, zorder=order)
    elif isinstance(mark, Marks):
        _markers(axes, mark, own, order)
    elif isinstance(mark, Words):
        kind = TYPES[mark.style]
        axes.text(*mark.at, mark.text, color=INKS[kind.ink], fontsize=kind.size * SHRINK, ha=_side(mark.anchor),
                  va="baseline", weight="bold" if kind.bold else "normal", rotation=-mark.turn,
                  rotation_mode="anchor", zorder=order, parse_math=False)  # fmt: skip


def _pen(style: str, own: str) -> dict[str, Any]:
    pen = PENS[style]
    ends = {"dash_capstyle": "butt", "solid_capstyle": pen.cap, "solid_joinstyle": "round"}
    return {"color": INKS[pen.ink] if pen.ink else own, "linewidth": pen.width, "alpha": pen.opacity, **ends}


def _dashes(dash: str, width: Real) -> tuple[float | None, ...]:
    """Dashes in units of the line width, as in matplotlib."""
    return tuple(float(x) / width for x in dash.split()) or (None, None)


def _markers(axes: Any, mark: Marks, own: str, order: int) -> None:
    pen, fill = PENS.get(mark.style), FILLS.get(mark.style)
    shape: Any = "o"
    if mark.shape > 0:
        shape = [(x, -y) for x, y in SHAPES[mark.shape]]
    size = pen.width if pen and mark.shape < 0 else 2 * (RADIUS if mark.shape <= 0 else _reach(mark.shape))
    edge = 0.0 if mark.shape < 0 or not fill else fill.edge
    axes.plot(*zip(*mark.points, strict=True), color=own, linestyle="none", marker=shape, markersize=size,
              markeredgecolor=INKS["paper"], markeredgewidth=edge, alpha=pen.opacity if pen and mark.shape < 0 else 1.0,
              zorder=order, clip_on=False)  # fmt: skip


def _reach(shape: int) -> Real:
    """The scale of a marker: matplotlib scales a polygon so that its farthest coordinate is half the size."""
    return max(abs(v) for point in SHAPES[shape] for v in point)


def _side(anchor: str) -> str:
    return {"start": "left", "middle": "center", "end": "right"}[anchor]
