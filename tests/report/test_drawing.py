"""Figures: what is drawn stands where the numbers are, inside the range of the quantity, and covers nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from math import cos, radians, sin
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import made_studies
from prefloop.core.errors import UserError
from prefloop.report import marks, svg
from prefloop.report.axes import Axis, along, ticks
from prefloop.report.chart import (
    ANY,
    COLOURS,
    COUNT,
    SHARE,
    Chart,
    Line,
    as_record,
    from_record,
    frontier,
    looks,
    numbers,
    rising,
    styles,
)
from prefloop.report.layout import figure
from prefloop.report.marks import Area, Drawing, Group, Marks, Stroke, Tip, Words
from prefloop.report.panel import Box, frame, frames, thin

DOCS = Path(__file__).parents[2] / "docs"
MOST = 60_000  # bytes of a figure


def charts() -> list[Chart]:
    return made_studies.charts("mean; band: 95 %")


def every(drawing: Drawing, kind: type[Any], style: str = "") -> Iterator[tuple[Group, Any]]:
    """Marks of a kind and, where given, a style, each with its group."""
    for group in drawing.groups:
        yield from ((group, m) for m in group.marks if isinstance(m, kind) and style in ("", getattr(m, "style", "")))


class Rect(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Rect) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def around(words: Words) -> Rect:
    """The room of a line of text, turned or not, by the widths the layout counts with."""
    x, y = words.at
    wide, size = marks.width(words.text, words.style), marks.TYPES[words.style].size
    start = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[words.anchor]
    corners = [(a - x, b - y) for a in (start, start + wide) for b in (y - 0.72 * size, y + 0.2 * size)]
    c, s = cos(radians(words.turn)), sin(radians(words.turn))
    turned = [(x + a * c - b * s, y + a * s + b * c) for a, b in corners]
    xs, ys = [p[0] for p in turned], [p[1] for p in turned]
    return Rect(min(xs), min(ys), max(xs), max(ys))


def panels(drawing: Drawing) -> list[Rect]:
    """Axes by their left and lower lines."""
    lines = [stroke.points for _, stroke in every(drawing, Stroke, "axis")]
    uprights = [p for p in lines if p[0][0] == p[1][0]]
    levels = [p for p in lines if p[0][1] == p[1][1]]
    return [Rect(u[0][0], u[0][1], lv[1][0], max(u[1][1], lv[0][1])) for u, lv in zip(uprights, levels, strict=True)]


# ---- files ---------------------------------------------------------------------------------------------------------


def test_same_charts_same_bytes() -> None:
    first = svg.standalone(figure(charts()))
    assert svg.standalone(figure(charts())) == first
    moved = Line("stale", [0.0, 1.0], [1.0, 0.1], [0.5, -1], [2, 1])
    other = [*charts()[:2], Chart("Each seed", "margin", "fall", [moved], kind="points")]
    assert svg.standalone(figure(other)) != first


def test_figures_are_xml_with_a_title_and_stand_alone() -> None:
    data = svg.standalone(figure(charts()))
    root = ElementTree.fromstring(data)
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None and title.text == "Reward [mean]; After training; Each seed"
    ground = next(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert ground.attrib["fill"] == "#ffffff"  # readable on a dark page
    assert not re.search(rb"href=|@import|url\(", data)  # neither fonts nor files from elsewhere
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Reward [mean]", "B", "reward", "fresh", "stale", "best arm", "near", "far"} <= texts  # real text


def test_names_are_escaped() -> None:
    hostile = "</text><script>alert(1)</script>"
    chart = Chart(hostile, hostile, hostile, [Line(hostile, [0, 1], [0, 1], tag=hostile)], guides={hostile: 0.5})
    for data in (svg.standalone(figure([chart])).decode(), str(svg.inline(figure([chart], tips=True)))):
        assert "<script" not in data
        assert ElementTree.fromstring(data) is not None


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
def test_figures_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="invalid figure name"):
        svg.draw({name: charts()}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_long_curves_and_large_scatters_stay_small() -> None:
    x = np.linspace(0, 50, 2000)
    lines = [Line(f"method {c}", x.tolist(), np.sin(x + i), np.sin(x + i) - 1, np.sin(x + i) + 1)
             for i, c in enumerate("abcdefgh")]  # fmt: skip
    assert len(svg.standalone(figure([Chart("t", "x", "y", lines)] * 6))) <= MOST
    rng = np.random.default_rng(0)
    cloud = [Line(c, rng.random(1000).tolist(), rng.random(1000)) for c in "abc"]
    assert len(svg.standalone(figure([Chart("t", "x", "y", cloud, kind="points")]))) <= MOST


def test_pdf_is_small_and_repeats(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = svg.draw({"a": charts()}, tmp_path, pdf=True)
    assert [path.name for path in paths] == ["a.svg", "a.pdf"]
    data = (tmp_path / "a.pdf").read_bytes()
    assert data.startswith(b"%PDF") and len(data) <= MOST
    svg.draw({"a": charts()}, tmp_path, pdf=True)
    assert (tmp_path / "a.pdf").read_bytes() == data


def test_pdf_without_matplotlib_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="matplotlib"):
        svg.draw({"a": charts()}, tmp_path, pdf=True)
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_pdf_imports_matplotlib() -> None:
    source = Path(svg.__file__).parents[1]
    named = [p.name for p in source.rglob("*.py") if re.search(r"^\s*(import|from) matplotlib", p.read_text(), re.M)]
    assert named == ["pdf.py"]
    code = "import sys, prefloop.report.svg, prefloop.report.pdf; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(source.parent)}).returncode == 0


# ---- panels, legend and words --------------------------------------------------------------------------------------


def test_panels_wrap_after_three() -> None:
    rows = [len({round(box.top) for box in panels(figure(charts()[:1] * n))}) for n in (1, 3, 4, 6)]
    assert rows == [1, 1, 2, 2]


WORDY = Chart("many words " * 12, "x", "y", [Line(c * 40, [0, 1], [0, 1]) for c in "abcde"])


@pytest.mark.parametrize("shown", [charts(), charts()[:1], [WORDY], [WORDY, *charts()], charts() * 2])
def test_words_cover_neither_each_other_nor_the_panels(shown: list[Chart]) -> None:
    drawing = figure(shown)
    words = [(w.text, around(w)) for _, w in every(drawing, Words) if w.turn in (0.0, -90.0)]
    boxes = panels(drawing)
    for text, rect in words:
        assert not any(rect.meets(box) for box in boxes), text
        assert rect.top >= 0 and rect.bottom <= drawing.height and rect.left >= 0, text
    assert not [(a, b) for (a, one), (b, two) in combinations(words, 2) if one.meets(two)]


def test_one_legend_for_all_panels() -> None:
    drawing = figure(charts() * 2)
    found = [w.text for _, w in every(drawing, Words, "label")]
    assert [found.count(name) for name in ("fresh", "stale", "best arm", "reference", "data")] == [1] * 5
    below = max(box.bottom for box in panels(drawing))
    assert all(w.at[1] > below for _, w in every(drawing, Words, "label") if w.text in ("fresh", "best arm"))
    assert [w.text for _, w in every(drawing, Words, "tick")].count("Mean; band: 95 %") == 1
    alone = figure([Chart("t", "x", "y", [Line("only", [0, 1], [0, 1])])])
    assert "only" not in [w.text for _, w in every(alone, Words)]


def test_guides_are_told_apart_and_stand_at_their_values() -> None:
    chart = charts()[0]
    drawing, axis = figure([chart]), frame(chart).y
    (box,) = panels(drawing)
    lines = [s for _, s in every(drawing, Stroke, "guide")]
    own = [s for s in lines if s.points[0][0] == box.left]
    heights = [axis.low + (box.bottom - s.points[0][1]) / (box.bottom - box.top) * (axis.high - axis.low) for s in own]
    assert heights == pytest.approx([1.0, 0.1, 0.12])
    assert len({s.dash for s in own}) == 3 and [s.dash for s in lines[3:]] == [s.dash for s in own]  # as in the legend


def test_a_label_looks_the_same_in_every_panel_and_no_two_look_alike() -> None:
    drawing = figure(charts())
    shown = {(g.colour, m.shape) for g, m in every(drawing, Marks)}
    assert shown == {(COLOURS[0], 0), (COLOURS[1], 1)}  # fresh and stale
    found = looks([f"method {chr(97 + i)}" for i in range(50)])
    assert len({(look.colour, look.marker) for look in found.values()}) == 50


def test_labels_keep_their_colour_where_others_are_missing() -> None:
    line = Line("stale", [0, 1], [0, 1])
    (group, _), *_ = every(figure([Chart("t", "x", "y", [line])], known=["fresh", "stale"]), Marks)
    assert (group.colour, group.place) == (COLOURS[1], 1)


def test_a_method_has_one_colour_everywhere_and_its_variants_other_dashes() -> None:
    alone = styles(["DPO"])["DPO"]
    found = styles(
        ["PPO, T = 8", "on-policy DPO", "offline DPO", "DPO, offline, as many", "Pref-FT", "best-of-N", "ties"]
    )
    dpo = [found[label] for label in ("on-policy DPO", "offline DPO", "DPO, offline, as many")]
    assert {(look.colour, look.marker) for look in dpo} == {(alone.colour, alone.marker)}
    assert [look.dash for look in dpo] == ["", "dash", "dot"] and alone.dash == ""
    assert found["Pref-FT"].colour == found["best-of-N"].colour and found["Pref-FT"].dash == "dash"
    assert len({(look.colour, look.dash) for look in found.values()}) == len(found)
    assert found["ties"].colour not in {found[label].colour for label in found if label != "ties"}
    assert styles(["DPO offline"])["DPO offline"].dash == "dash"  # never solid
    assert styles(["a", "b"]) == looks(["a", "b"]) and styles(["T = 1", "T = 2", "T = 8"]) == looks(
        ["T = 1", "T = 2", "T = 8"]
    )
    assert styles(["cDPO", "DPOP"]) == looks(["cDPO", "DPOP"])  # other methods


def test_dashes_are_drawn_and_in_the_legend() -> None:
    lines = [Line(label, [1, 2], [i, i + 1]) for i, label in enumerate(["DPO on-policy", "DPO offline"])]
    drawing = figure([Chart("t", "x", "y", lines)])
    strokes = [(group.colour, stroke.dash) for group, stroke in every(drawing, Stroke, "line")]
    assert sorted(strokes) == sorted([(COLOURS[0], ""), (COLOURS[0], marks.DASHES["dash"])] * 2)


def test_labels_of_a_page_keep_the_colours_of_its_runs() -> None:
    line = Line("B, offline DPO", [0, 1], [0, 1])
    (group, _), *_ = every(figure([Chart("t", "x", "y", [line])], known=["A, DPO", "B, offline DPO"]), Marks)
    assert group.place == 1


# ---- rows ----------------------------------------------------------------------------------------------------------


def rows() -> Chart:
    lines = [
        Line("effect", [x], [float(i)], left=[x - 1], right=[x + 0.5], tag=f"tag {i}")
        for i, x in enumerate((3.0, -2, 0))
    ]
    names = ("helps far", "is free", "a name that is rather long")
    return Chart("Effects", "effect", "", lines, kind="points", rows=names, zone=(-1.0, 1.0), guides={"optimum": 4.0})


def test_rows_are_names_from_above_with_their_points_intervals_and_tags() -> None:
    drawing, axes = figure([rows()]), frame(rows())
    names = sorted((w for _, w in every(drawing, Words, "tick") if w.anchor == "end"), key=lambda w: w.at[1])
    assert tuple(w.text for w in names) == rows().rows
    points = [m.points[0] for _, m in every(drawing, Marks)]
    assert [p[1] for p in points] == pytest.approx([w.at[1] - 2.5 for w in names])
    ((_, shade),) = every(drawing, Area, "zone")
    left, right = shade.points[0][0], shade.points[1][0]
    unit = (right - left) / 2
    assert [(p[0] - left) / unit - 1 for p in points] == pytest.approx([3, -2, 0])
    assert axes.x.low <= -3 and axes.x.high >= 4  # intervals and guides are inside
    bars = [s.points for _, s in every(drawing, Stroke, "line")]
    assert [(b[1][0] - b[0][0]) / unit for b in bars] == pytest.approx([1.5] * 3)
    tags = sorted((w for _, w in every(drawing, Words, "tick") if w.text.startswith("tag")), key=lambda w: w.at[1])
    assert [w.text for w in tags] == ["tag 0", "tag 1", "tag 2"] and len({w.at[0] for w in tags}) == 1
    guides = [s.points for _, s in every(drawing, Stroke, "guide")]
    assert sum(a[0] == b[0] for a, b in guides) == 1  # upright in the panel, level in the legend
    texts = [w.text for _, w in every(drawing, Words)]
    assert "effect" in texts and texts.count("effect") == 1  # the axis, and no legend of rows


def test_rows_make_a_figure_wide_and_high_enough() -> None:
    few, many = rows(), replace(rows(), rows=[f"row {i}" for i in range(12)])
    assert figure([many]).height > figure([few]).height
    drawing = figure([few])
    for _, words in every(drawing, Words):
        rect = around(words)
        assert rect.left >= 0 and rect.right <= drawing.width, words.text


def test_panels_that_measure_the_same_share_their_axes() -> None:
    low, high = (Chart("t", "steps", "y", [Line("a", [1, n], [0, n])]) for n in (2, 8))
    a, b = frames([low, high])
    assert a.x == b.x and a.y == b.y and a.y.high >= 8
    c, d = frames([low, replace(high, y="other", x="other")])
    assert c.x != d.x and c.y != d.y and c.y == frame(low).y


def light(colour: str) -> float:
    return float(np.dot([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], (0.2126, 0.7152, 0.0722)))


def test_rising_labels_get_darker_to_lighter_colours() -> None:
    found = [light(look.colour) for look in looks(["T = 1", "T = 2", "T = 8"]).values()]
    assert found == sorted(found) and found[-1] - found[0] > 0.4
    assert next(iter(looks(["T = 1", "T = 8", "T = 2"]).values())).colour == COLOURS[0]
    assert rising(["B = 16M", "B = 4M", "B = 1M"]) and not rising(["a", "b", "c"]) and not rising(["T = 1", "T = 2"])


@pytest.mark.parametrize("deficiency", ["none", "deuteranopia", "protanopia"])
def test_colours_are_told_apart_without_red_or_green(deficiency: str) -> None:
    """Colours of Machado et al. (2009) at full severity, distances in CIELAB; 2.3 is just noticeable."""
    matrix = {
        "none": np.eye(3),
        "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9690]],
        "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    }[deficiency]  # fmt: skip
    seen = []
    for colour in COLOURS:
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.asarray(matrix) @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]] @ linear.clip(0, 1)
        f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
        seen.append(np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]))
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 15


def test_tags_at_the_ends_do_not_overlap() -> None:
    lines = [Line(f"run {c}", [0, 1], [0, 1 + i / 100], tag=c) for i, c in enumerate("ABCD")]
    tags = [around(w) for _, w in every(figure([Chart("t", "x", "y", lines)]), Words, "tag")]
    assert len(tags) == 4 and not any(a.meets(b) for a, b in combinations(tags, 2))


@pytest.mark.parametrize("shown", [1, 3])
@pytest.mark.parametrize("names", [["DPO, offline", "best-of-N"], ["REINFORCE", "on-policy", "offline", "ten"] * 3])
def test_names_of_bars_do_not_touch(shown: int, names: list[str]) -> None:
    names = [f"{name} {i}" for i, name in enumerate(names)]
    drawing = figure([Chart("t", "x", "y", [Line("a", names, np.ones(len(names)))], kind="bars")] * shown)
    box = panels(drawing)[0]
    words = [w for _, w in every(drawing, Words, "tick")]
    below = [w for w in words if w.at[1] > box.bottom and w.at[0] < box.right + 4 and (w.turn or w.anchor == "middle")]
    slanted = [w for w in below if w.turn]
    if slanted:  # lines of text at 40° are apart by sin 40° of the distance of their ends
        assert [w.text for w in slanted] == names
        apart = min(b.at[0] - a.at[0] for a, b in pairwise(slanted))
        assert apart * sin(radians(-slanted[0].turn)) > marks.TYPES["tick"].size
    else:
        assert " ".join(w.text for w in sorted(below, key=lambda w: (w.at[0], w.at[1]))) == " ".join(names)


def test_axes_are_equally_high_whatever_stands_around_them() -> None:
    for shown in (charts(), [WORDY, *charts()[:2]]):
        assert len({round(box.bottom - box.top, 6) for box in panels(figure(shown))}) == 1


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_curves_stand_where_the_numbers_are() -> None:
    """A straight line goes from corner to corner of its values, whatever ticks surround it."""
    chart = Chart("t", "x", "y", [Line("a", [2.0, 4.0, 6.0], [10.0, 20.0, 30.0])])
    (box,), axes = panels(figure([chart])), frame(chart)
    (stroke,) = [s for _, s in every(figure([chart]), Stroke, "line")]
    back_x = [
        axes.x.low + (x - box.left) / (box.right - box.left) * (axes.x.high - axes.x.low) for x, _ in stroke.points
    ]
    back_y = [
        axes.y.low + (box.bottom - y) / (box.bottom - box.top) * (axes.y.high - axes.y.low) for _, y in stroke.points
    ]
    assert back_x == pytest.approx([2, 4, 6]) and back_y == pytest.approx([10, 20, 30])


def test_bars_and_points_stand_where_the_numbers_are() -> None:
    shown = charts()
    drawing = figure(shown)
    box, axes = panels(drawing)[1], frames(shown)[1]
    place = Box(box.left, box.top, box.right - box.left, box.bottom - box.top)
    bars = [bar.points for _, bar in every(drawing, Area, "bar")][:4]
    fresh_near = bars[0]
    assert fresh_near[0][1] == pytest.approx(place.y(axes.y, 0.0)) and fresh_near[1][1] == pytest.approx(
        place.y(axes.y, 1.0)
    )
    centre = (fresh_near[0][0] + fresh_near[3][0]) / 2
    assert (
        centre < place.x(axes.x, 0.0) < (bars[2][0][0] + bars[2][3][0]) / 2 < place.x(axes.x, 1.0)
    )  # beside each other
    errors = [s.points for _, s in every(drawing, Stroke, "error")]
    assert [[p[1] for p in e] for e in errors] == [
        pytest.approx([place.y(axes.y, low), place.y(axes.y, high)]) for low, high in ((0.8, 1.2), (-0.7, -0.3))
    ]
    whiskers = [s.points for _, s in every(drawing, Stroke, "whisker")]
    assert len(whiskers) == 2 and all(a[0] == b[0] for a, b in whiskers)


def test_gaps_break_a_curve() -> None:
    y = [0.0, 1.0, float("nan"), None, 3.0, 4.0, float("inf")]
    strokes = [s for _, s in every(figure([Chart("t", "x", "y", [Line("a", range(7), y)])]), Stroke, "line")]
    assert [len(s.points) for s in strokes] == [2, 2]


@pytest.mark.parametrize("limits", [SHARE, COUNT, (None, 1.0), ANY])
def test_bands_respect_the_range_of_the_quantity(limits: tuple[float | None, float | None]) -> None:
    line = Line("a", [0, 1, 2], [0.02, 0.5, 0.99], [-0.3, 0.2, 0.7], [0.4, 0.8, 1.4])
    chart = Chart("t", "x", "y", [line], range=limits)
    axes = frame(chart)
    low, high = -0.3 if limits[0] is None else 0.0, 1.4 if limits[1] is None else 1.0
    assert (axes.lines[0].low.min(), axes.lines[0].high.max()) == (low, high)
    assert low <= axes.y.ticks[0] + 0.2 and axes.y.ticks[-1] - 0.2 <= high
    if limits == SHARE:
        assert (axes.y.low, axes.y.high) == (0.0, 1.0)


def test_frontier_marks_every_evaluation_with_errors_both_ways() -> None:
    kl, reward = [0.0, 2.0, 1.5, 4.0], [0.1, 0.4, 0.5, 0.3]  # KL may fall again: the path keeps its order
    line = Line("A", kl, reward, low=[0, 0.3, 0.4, 0.2], high=[0.2, 0.5, 0.6, 0.4],
                left=[0, 1.8, 1.3, 3.5], right=[0, 2.2, 1.7, 4.5])  # fmt: skip
    drawing = figure([frontier("Reward–KL frontier", [line])])
    ((_, found),) = every(drawing, Marks)
    ((_, path),) = every(drawing, Stroke, "line")
    assert found.points == path.points and len(found.points) == 4
    assert path.points[2][0] < path.points[1][0] < path.points[3][0]
    whiskers = [s.points for _, s in every(drawing, Stroke, "whisker")]
    assert (
        len([w for w in whiskers if w[0][0] == w[1][0]]) >= 4 and len([w for w in whiskers if w[0][1] == w[1][1]]) == 4
    )


def test_readers_are_told_the_numbers() -> None:
    tips = [tip.text for _, tip in every(figure(charts(), tips=True), Tip)]
    assert "fresh: 0.5 [0.4, 0.6] at 10 B" in tips and "fresh: −0.5 [−0.7, −0.3] at far peak" in tips
    mirrored = Chart("t", "steps", "y", [Line("a", [1, 2], [-3.0, -4.0])], mirrored=True)
    drawing = figure([mirrored], tips=True)
    assert [tip.text for _, tip in every(drawing, Tip)] == ["a: 3 at 1 steps", "a: 4 at 2 steps"]
    assert not any("−" in w.text for _, w in every(drawing, Words, "tick"))


@pytest.mark.parametrize(
    "line",
    [
        Line("a", [1, 2], [1.0]),
        Line("a", [1], [1.0], low=[0.0]),
        Line("a", [1], [1.0], low=[0.0], high=[1.0, 2.0]),
        Line("a", [1], [1.0], left=[0.0]),
    ],
)
def test_lines_of_unequal_length_are_refused(line: Line) -> None:
    with pytest.raises(ValueError, match="a: "):
        figure([Chart("t", "x", "y", [line])])


def test_what_holds_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one chart"):
        figure([])
    with pytest.raises(ValueError, match="no number"):
        figure([Chart("t", "x", "y", [Line("a", [1], [float("nan")])])])


# ---- axes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([64, 256, 1024], ["64", "256", "1024"]),
        (list(np.geomspace(0.3, 4, 30)), ["0.5", "1", "2"]),
        (list(np.geomspace(1e-6, 1, 30)), ["10⁻⁶", "10⁻⁵", "10⁻⁴", "0.001", "0.01", "0.1", "1"]),
    ],
)
def test_ticks_of_logarithmic_axes_are_few_and_inside(values: list[float], shown: list[str]) -> None:
    axis = along(values, log=True)
    assert list(axis.labels) == shown and all(axis.low <= tick <= axis.high for tick in axis.ticks)


def test_logarithmic_axes_place_equal_ratios_equally_far_apart() -> None:
    axis = Axis((1.0, 100.0), ("1", "100"), 1.0, 100.0, log=True)
    assert [axis.share(x) for x in (1, 10, 100)] == pytest.approx([0, 0.5, 1])


def test_ticks_cover_and_are_even() -> None:
    for low, high in ((0.0, 1.0), (-52.0, -13.7), (0.0, 1e-7), (3.0, 3.0), (-1e6, 2e6)):
        found = ticks(low, high)
        step = found[1] - found[0]
        assert found[0] <= low + 0.11 * step and found[-1] >= high - 0.11 * step and 3 <= len(found) <= 9
        assert all(b - a == pytest.approx(step) for a, b in pairwise(found))


def test_thin_keeps_both_ends() -> None:
    assert thin(range(10), 20) == range(10)
    assert list(thin(range(1001), 3)) == [0, 500, 1000]


# ---- records -------------------------------------------------------------------------------------------------------


def test_a_record_draws_the_same_figure() -> None:
    """At full precision, through JSON, with gaps and infinite values."""
    line = Line("A", [0.0, 1 / 3], [0.1, float("inf")], left=[0.0, 0.3], right=[0.0, 0.4], low=[0, 0], high=[1, 1])
    for chart in [*charts(), rows(), frontier("f", [line]), Chart("t", "x", "y", [line], range=COUNT, mirrored=True)]:
        record = json.loads(json.dumps(as_record(chart), allow_nan=False))
        again = from_record(record)
        assert as_record(again) == record and (again.range, again.kind) == (chart.range, chart.kind)
        assert again.zone == chart.zone and list(again.rows) == list(chart.rows)
        assert svg.standalone(figure([again])) == svg.standalone(figure([chart]))
        assert numbers(again.lines[0], names=frame_names(again)).x.tolist() == frame(chart).lines[0].x.tolist()


def frame_names(chart: Chart) -> list[str] | None:
    return list(frame(chart).x.labels) if frame(chart).named else None


@pytest.mark.skipif(not (DOCS / "studies").is_dir(), reason="no documents beside the tests")
def test_committed_figures_are_those_of_the_records_and_small() -> None:
    from prefloop.studies import page, record

    found, wrong = record.readable((DOCS / "studies").glob("*/result.json"))
    if wrong:
        pytest.skip(f"{wrong[0]}")
    whole = 0
    for result in found:
        home, shown = DOCS / "studies" / result["study"], page.drawings(result)
        assert {p.name for p in home.glob("*.svg")} == shown.keys()
        for name, drawn in shown.items():
            data = (home / name).read_bytes()
            assert data == svg.standalone(figure(drawn)), f"{home}: {name}"
            assert len(data) <= MOST
            whole += len(data)
    assert whole <= 400_000
