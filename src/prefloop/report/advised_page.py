"""A piece of advice as a page: the methods with what is expected of them, what was measured, and where the data lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefloop.report import offer, offer_page
from prefloop.report.advised import Page, measurements, ranking, sentences, unknown
from prefloop.report.chart import Chart, Line
from prefloop.report.figures import Drawn
from prefloop.report.found_page import Found, Part, drawn, side_by_side

SHARES = (  # measurements between 0 and 1
    "winner_reward", "winner_logp", "winner_unlikely", "votes", "likelier", "alike", "agrees", "top_agrees",
)  # fmt: skip
GAIN, SHARE = "gain kept", "share"


def found(page: Page, record: Mapping[str, Any], title: str) -> Found:
    """The page of a piece of advice."""
    methods, shares = _methods(page), _shares(page)
    return Found(
        title,
        [text for text in sentences(page) if text != page.setting],
        [
            Part("The methods that the data can feed", [methods] if methods else []),
            Part("What was measured", [shares] if shares else [], [measurements(page)]),
            *offer_page.parts(page.offer),
        ],
        record,
        setting=page.setting,
        unknown=unknown(page) | offer.unknown(page.offer),
        notes=page.notes,
    )


def _methods(page: Page) -> Drawn | None:
    """What is expected of each method, with the interval of the rule's test."""
    ranked = page.advice.ranked
    if not ranked:
        return None
    values, rows = [one.value for one in ranked], list(map(float, range(len(ranked))))
    left, right = [one.low for one in ranked], [one.high for one in ranked]
    line = Line(GAIN, values, rows, left=left, right=right)
    axis = "share of what can be gained in E[reward] − β KL"
    names = [one.action for one in ranked]
    chart = Chart("Expected gain", axis, "", [line], kind="points", rows=names, reach=[0.0])
    table = ranking(page)
    note = "Bars: 80 % of the problems that the rule had not seen. The advised method is the first."
    return drawn(chart, [GAIN], note, table.head, table.rows)


def _shares(page: Page) -> Drawn | None:
    """The measurements that are shares, on one axis."""
    lines, rows = side_by_side(SHARES, {SHARE: [page.features.get(name) for name in SHARES]}, level=True)
    if not lines:
        return None
    chart = Chart("Shares", "share", "", lines, kind="points", rows=rows, reach=[0.0, 1.0])
    table = measurements(page)
    told = [row for row in table.rows if row[0] in SHARES]
    return drawn(chart, [SHARE], offer_page.ERRORS, table.head, told)
