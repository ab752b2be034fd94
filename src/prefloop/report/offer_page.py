"""What data offer a model, as pictures: the model's own samples and the data on one axis, each with its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefloop.analysis.geometry import best_of_kl
from prefloop.analysis.numbers import fixed
from prefloop.analysis.offer import QUANTILES
from prefloop.analysis.statistics import Mean
from prefloop.report.chart import SHARE, Chart, Line
from prefloop.report.figures import Drawn
from prefloop.report.found_page import Found, Part, Value, drawn, side_by_side
from prefloop.report.offer import About, Measures, cell, findings, setting, tables, unknown

CHOSEN, REJECTED, OWN = "chosen", "rejected", "the model's own"
KNOWN = (CHOSEN, REJECTED, OWN)
PLACES = {
    "log-prob": "percentile",
    "log-prob per token": "percentile_per_token",
    "reward": "reward_percentile",
}
OUTSIDE = {
    "responses": "unlikely",
    "tokens": "tokens_outside",
    "3-grams": "novelty",
}
ERRORS = "Bars: ± one standard error over prompts."


def found(measures: Measures, about: About, record: Mapping[str, Any], notes: Sequence[str] = ()) -> Found:
    """The page of a diagnosis of data."""
    said = findings(measures, about)
    return Found(
        f"What {about.data} offers {about.model}",
        said or ["Cannot tell: nothing could be measured, for the reasons below."],
        [*parts(measures), Part("All numbers", tables=tables(measures))],
        record,
        setting=setting(about),
        unknown=unknown(measures),
        notes=notes,
    )


def parts(measures: Measures) -> list[Part]:
    """Sections with the pictures of coverage and of geometry."""
    coverage = [one for one in (_places(measures), _outside(measures), _length(measures)) if one]
    geometry = [one for one in (_rewards(measures), _best_of(measures), _reach(measures)) if one]
    return [
        Part("Where the data lie among the model's own answers", coverage),
        Part("How far away the reward's peak is", geometry),
    ]


# ---- the data -------------------------------------------------------------------------------------------------------


def _sides(m: Measures, keys: Mapping[str, str]) -> dict[str, list[Value | None]]:
    return {side: [m.get(f"coverage/{side}/{key}") for key in keys.values()] for side in (CHOSEN, REJECTED)}


def _places(m: Measures) -> Drawn | None:
    lines, rows = side_by_side(list(PLACES), _sides(m, PLACES), scale=100.0)
    if not lines:
        return None
    chart = Chart(
        "Percentile among its own samples",
        "% of the model's samples to the prompt that are lower",
        "",
        lines,
        kind="points",
        rows=rows,
        guides={OWN: 50.0},
        reach=[0.0, 100.0],
    )
    note = f"Dotted: where the model's own answers would lie on average. {ERRORS}"
    return drawn(chart, KNOWN, note, ["", CHOSEN, REJECTED], _rows(m, PLACES, own=False))


def _outside(m: Measures) -> Drawn | None:
    values = {**_sides(m, OUTSIDE), OWN: [None, None, m.get("coverage/reference/novelty")]}
    lines, rows = side_by_side(list(OUTSIDE), values, scale=100.0)
    if not lines:
        return None
    chart = Chart("Outside what it writes", "%", "", lines, kind="points", rows=rows, reach=[0.0])
    note = (
        "Responses outside its likely set (1 % of its own are), tokens outside its top-p 0.99 (at most 1 % of its own),"
        f" and 3-grams that none of its samples has. {ERRORS}"
    )
    return drawn(chart, KNOWN, note, ["", CHOSEN, REJECTED, OWN], _rows(m, OUTSIDE, own=True))


def _rows(m: Measures, keys: Mapping[str, str], *, own: bool) -> list[list[str]]:
    out = []
    for name, key in keys.items():
        sides = [m.get(f"coverage/{side}/{key}") for side in (CHOSEN, REJECTED)]
        if any(isinstance(x, Mean) for x in sides):
            last = [cell(m.get("coverage/reference/novelty") if key == "novelty" else None, key)] if own else []
            out.append([name, *(cell(x, key) for x in sides), *last])
    return out


def _length(m: Measures) -> Drawn | None:
    values = {side: [m.get(f"coverage/{side}/length_shift")] for side in (CHOSEN, REJECTED)}
    lines, rows = side_by_side(["tokens"], values)
    if not lines:
        return None
    chart = Chart(
        "Longer or shorter",
        "tokens of a response minus those of the model's samples",
        "",
        lines,
        kind="points",
        rows=rows,
        guides={OWN: 0.0},
        reach=[0.0],
    )
    table = [
        [side, cell(m.get(f"coverage/{side}/length")), cell(values[side][0])]
        for side in values
        if isinstance(values[side][0], Mean)
    ]
    return drawn(chart, KNOWN, f"Dotted: the model's own length. {ERRORS}", ["", "tokens", "minus own"], table)


# ---- the reward -----------------------------------------------------------------------------------------------------


def _sizes(m: Measures, key: str) -> Iterator[tuple[int, Mean]]:
    """What is known of n samples, by n."""
    ns = sorted(int(name.rpartition("/")[2]) for name in m if name.startswith(f"geometry/{key}/"))
    for n in ns:
        if isinstance(x := m[f"geometry/{key}/{n}"], Mean):
            yield n, x


def _rewards(m: Measures) -> Drawn | None:
    """Rewards of the model's samples and of the data on one axis."""
    own: dict[str, Value | None] = {
        f"{100 * q:.0f} % quantile": m.get(f"geometry/{name}") for name, q in QUANTILES.items()
    }
    own |= {"mean": m.get("geometry/mean")} | {f"best of {n}": x for n, x in _sizes(m, "best_of") if n > 1}
    data = {side: m.get(f"coverage/{side}/reward") for side in (CHOSEN, REJECTED)}
    if not isinstance(own["mean"], Mean):
        return None
    names = [*own, *data]
    blank: list[Value | None] = [None] * len(own)
    values: dict[str, Sequence[Value | None]] = {
        OWN: [*own.values(), None, None],
        CHOSEN: [*blank, data[CHOSEN], None],
        REJECTED: [*blank, None, data[REJECTED]],
    }
    lines, rows = side_by_side(names, values, level=True)
    note = f"Quantiles, mean and best of n of the model's samples; means of the data's responses. {ERRORS}"
    chart = Chart("Rewards of its samples and of the data", "reward", "", lines, kind="points", rows=rows)
    table = [[name, cell(x)] for name, x in {**own, **data}.items() if isinstance(x, Mean)]
    return drawn(chart, KNOWN, note, ["", "reward"], table)


def _best_of(m: Measures) -> Drawn | None:
    known = list(_sizes(m, "best_of"))
    if len(known) < 2:
        return None
    ns, means = [n for n, _ in known], [x for _, x in known]
    values, errors = [x.value for x in means], [x.se for x in means]
    low, high = ([x + side * e for x, e in zip(values, errors, strict=True)] for side in (-1, 1))
    data = {side: x.value for side in (CHOSEN, REJECTED) if isinstance(x := m.get(f"coverage/{side}/reward"), Mean)}
    line = Line(OWN, ns, values, low=low, high=high)
    chart = Chart("Best of n samples", "n", "reward", [line], log_x=True, guides=data)
    lines = [f"{dash}: mean of the {side}" for dash, side in zip(("Dotted", "Dashed"), data, strict=False)]
    note = ". ".join(["Mean reward of the best of n, band ± one standard error over prompts", *lines]) + "."
    rows = [[str(n), cell(x), fixed(best_of_kl(n), 2)] for n, x in known]
    return drawn(chart, KNOWN, note, ["n", "reward", "KL at most"], rows)


def _reach(m: Measures) -> Drawn | None:
    known, goal = list(_sizes(m, "reach")), m.get("geometry/target")
    if len(known) < 2 or not isinstance(goal, Mean):
        return None
    values, errors = [x.value for _, x in known], [x.se for _, x in known]
    low, high = ([x + side * e for x, e in zip(values, errors, strict=True)] for side in (-1, 1))
    line = Line(OWN, [n for n, _ in known], values, low=low, high=high)
    chart = Chart("Chance to find a good answer", "n", "chance", [line], log_x=True, range=SHARE)
    note = f"That one of n samples has a reward of {cell(goal)} or more, band ± one standard error over prompts."
    return drawn(chart, KNOWN, note, ["n", "chance"], [[str(n), cell(x, "reach")] for n, x in known])
