"""The card of a reward model as a folder: card.json, figures, and a Markdown page that explains them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from prefloop.analysis.numbers import compact, fixed, number
from prefloop.core import files
from prefloop.report import svg
from prefloop.report.chart import SHARE, Chart, Line
from prefloop.report.markdown import cell, grid, picture, prose
from prefloop.rewards.bradley_terry.card import Bin, Card, Correlation, as_record
from prefloop.rewards.bradley_terry.measures import Measure, Section

RECORD, PAGE = "card.json", "README.md"
CHANCE = math.log(2)  # mean NLL of random guessing
INTERVAL = "mean over pairs with its 95 % interval over questions"
WIDTH = 80
HEAD = ("quantity", "value [95 % interval]", "meaning")
LEAST = 20  # minimum number of questions for a verdict: with fewer, intervals are too short


def write(
    card: Card,
    folder: Path,
    *,
    title: str,
    about: Mapping[str, Any],
    remarks: Sequence[str] = (),
    sections: Sequence[Section] = (),
) -> Path:
    """Write the card's folder and return its page; an existing card is replaced.

    Args:
        title: title of the page.
        about: model, data and so on, for page and record; plain values only.
        remarks: remarks for readers, one sentence each.
        sections: further measures.
    """
    charts = figures(card)
    svg.draw(charts, folder)
    files.write(folder / RECORD, files.to_json(record(card, about, remarks, sections), indent=1) + "\n")
    files.write(folder / PAGE, page(card, charts, title=title, about=about, remarks=remarks, sections=sections))
    return folder / PAGE


def record(
    card: Card, about: Mapping[str, Any], remarks: Sequence[str], sections: Sequence[Section] = ()
) -> dict[str, Any]:
    """All numbers as a JSON value, with what each means."""
    more = {s.key: {"title": s.title, **{m.key: _as_json(m) for m in s.measures}} for s in sections}
    meanings = {name: meaning for name, _, meaning in _rows(card)}
    return {
        "about": dict(about),
        "remarks": list(remarks),
        **as_record(card),
        "meanings": meanings,
        "sections": more,
    }


def _as_json(one: Measure) -> dict[str, Any]:
    return {"name": one.name, **dict(files.plain(asdict(one.value))), "meaning": one.meaning}


def terminal(card: Card, sections: Sequence[Section] = ()) -> list[str]:
    """Every number with its interval, and below it what it means, in 80 columns."""
    lines = [line for row in _rows(card) for line in _shown(*row)]
    for section in sections:
        lines += [
            "",
            section.title,
            *(line for m in section.measures for line in _shown(m.name, str(m.value), m.meaning)),
        ]
    return ["", *lines, ""]


def _shown(name: str, value: str, meaning: str) -> list[str]:
    indent = " " * 6
    told = textwrap.wrap(meaning, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return [f"  {name:<42} {value}".rstrip(), *told]


def figures(card: Card) -> dict[str, list[Chart]]:
    """Calibration, accuracy by gap and the histogram of margins, by file name."""
    predicted, gaps = [b.predicted for b in card.bins], [b.gap for b in card.bins]
    ends: dict[str, Any] = {
        "low": [b.accuracy.low for b in card.bins],
        "high": [b.accuracy.high for b in card.bins],
    }
    seen = [b.accuracy.value for b in card.bins]
    span = [0.5, max(*predicted, 0.55)]
    calibration = Chart(
        "Calibration",
        "predicted: mean σ(gap)",
        "share of pairs ordered correctly",
        [Line("observed", predicted, seen, **ends), Line("predicted = observed", span, span, dashed=True)],
        kind="points",
        range=SHARE,
        interval=INTERVAL,
    )
    by_gap = Chart(
        "Accuracy by score gap",
        "gap between the two scores",
        "share of pairs ordered correctly",
        [Line("accuracy", gaps, seen, **ends)],
        guides={"chance": 0.5},
        range=SHARE,
        interval=INTERVAL,
    )
    edges, counts = card.histogram.edges, card.histogram.counts
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    margins = Chart(
        "Margins",
        "score of the preferred response minus that of the other",
        "pairs",
        [Line("pairs", [float(f"{x:.6g}") for x in middles], list(counts))],
        kind="bars",
    )
    return {"calibration": [calibration], "gap": [by_gap], "margins": [margins]}


def page(
    card: Card,
    charts: Mapping[str, Sequence[Chart]],
    *,
    title: str,
    about: Mapping[str, Any],
    remarks: Sequence[str] = (),
    sections: Sequence[Section] = (),
) -> str:
    """The page in Markdown."""
    images = [picture(drawn, svg.file_name(name)) for name, drawn in charts.items()]
    parts = [
        f"# {prose(title)}",
        "\n".join(f"- {name}: {cell(value)}" for name, value in about.items()),
        verdict(card),
        "\n".join(f"- {prose(remark)}" for remark in remarks),
        "## Numbers",
        grid(HEAD, [*_rows(card)]),
        *(part for s in sections for part in (f"### {prose(s.title)}", grid(HEAD, [_cells(m) for m in s.measures]))),
        f"Intervals resample whole questions ({card.questions}); those of shares are at least as wide as Wilson's. "
        f"All numbers: [{RECORD}]({RECORD}).",
        "## Figures",
        *images,
        "## Accuracy by score gap",
        grid(("gap from", "to", "pairs", "predicted", "observed [95 % interval]"), [_bin(b) for b in card.bins]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cells(one: Measure) -> tuple[str, str, str]:
    return one.name, str(one.value), one.meaning


def verdict(card: Card) -> str:
    """The results in two sentences."""
    size = f"{number(card.pairs)} held-out pairs of {number(card.questions)} questions"
    if card.questions < LEAST:
        few = f"with fewer than {LEAST} questions this is not shown to be better than chance"
        return f"It orders {card.accuracy!s} of {size} correctly; {few} or than picking the longer response."
    above = "better than chance" if card.accuracy.low > 0.5 else "not shown to be better than chance"
    first = f"It orders {card.accuracy!s} of {size} correctly: {above}."
    if card.lead.low > 0:
        second = "better than picking the longer response"
    elif card.lead.high < 0:
        second = "worse than picking the longer response"
    else:
        second = "not significantly different from picking the longer response"
    return f"{first} That is {second}, which is correct for {card.longer!s}: a lead of {card.lead!s}."


def _rows(card: Card) -> list[tuple[str, str, str]]:
    rows = [
        ("accuracy", str(card.accuracy), "share of pairs ordered correctly; ties count ½; chance is 0.5"),
        ("“pick the longer”", str(card.longer), "the same without a model; a similar accuracy may reflect length only"),
        ("lead", str(card.lead), "accuracy minus “pick the longer” on the same pairs; significant if 0 is outside"),
        ("NLL", str(card.nll), f"−log σ(margin) in nats; chance is {fixed(CHANCE)}, more is overconfident"),
        ("margin", str(card.margin), "score of the preferred response minus that of the other"),
        ("calibration error", fixed(card.calibration_error), "mean |predicted − observed|; above 0 by noise alone"),
        ("the same by chance", str(card.chance_error), "for a calibrated model; an error above the range is not noise"),
        ("spread", str(card.spread), "standard deviation of scores within a prompt; near 0 there is little signal"),
        *_correlations("length", card.length, "rank correlation with tokens; far from 0: length is rewarded"),
    ]
    if card.gold is not None:
        rows += _correlations("gold", card.gold, "rank correlation with the gold reward; 1 is best")
    return rows


def _correlations(name: str, x: Correlation, meaning: str) -> list[tuple[str, str, str]]:
    return [
        (f"{name}, all responses", str(x.overall), meaning),
        (f"{name}, within prompts", str(x.within), "the same among responses to one prompt"),
    ]


def _bin(b: Bin) -> tuple[str, str, int, str, str]:
    return compact(b.low), compact(b.high), b.pairs, fixed(b.predicted), str(b.accuracy)
