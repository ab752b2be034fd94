"""The diagnosis of a run, or of the runs of a store, as a page: checks against their thresholds, displacement by kind
of response, and the curves and answers of a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.analysis import several
from prefloop.analysis.diagnose import Diagnosis, Finding, State, counted, doubts, faulty, sentences
from prefloop.analysis.numbers import NONE, compact, plus_minus, share
from prefloop.analysis.statistics import Mean
from prefloop.report.chart import Chart, Line, Table
from prefloop.report.data import Run
from prefloop.report.figures import Drawn, draw
from prefloop.report.found_page import Found, Part, Value, drawn, side_by_side

KNOWN = ("sound", "fault")
STATES: tuple[State, ...] = ("fault", "sound", "cannot tell")
FAR = 3.0  # times its threshold beyond which a score is drawn at the edge
CHANGE = "Change of log π from before to after training, mean over prompts"


def found(
    runs: Sequence[Diagnosis], record: Mapping[str, Any], moved: Mapping[str, Any] | None, folders: Sequence[Run]
) -> Found:
    """The page of a diagnosis.

    Args:
        moved: change of log π by kind of response, if a probe set was measured.
        folders: the run as a report reads it, if it is a run folder.
    """
    if len(runs) != 1:
        return _several(runs, record)
    (one,) = runs
    checks = _checks(one)
    shown = [] if moved is None else _displacement(moved)
    parts = [
        Part("Each check against its threshold", [checks] if checks else [], [_table(one)], _left_out(one)),
        *(Part(table.title, tables=[table], said=[f"{what}."]) for what, table in tables(record).items()),
        Part("Displacement by kind of response", shown, said=[] if moved is None else [f"{CHANGE}."]),
        Part("Curves", draw(folders)),
    ]
    return Found(
        f"Diagnosis of {one.name}",
        [text for text in sentences(one) if not text.startswith("Cannot tell (")],
        parts,
        record,
        unknown=doubts(one),
        notes=[] if moved is None else moved["notes"],
        runs=folders,
    )


# ---- checks ---------------------------------------------------------------------------------------------------------


def _checks(run: Diagnosis) -> Drawn | None:
    """Scores as multiples of their thresholds, the highest first."""
    told = sorted(((_times(one), one) for one in run.findings if one.state in KNOWN), key=lambda item: -item[0])
    if not told:
        return None
    lines = [
        Line(one.state, [min(max(times, 0.0), FAR)], [float(i)], tag=_compact(times))
        for i, (times, one) in enumerate(told)
    ]
    chart = Chart(
        "Score over threshold",
        "times the threshold",
        "",
        lines,
        kind="points",
        rows=[one.check.name for _, one in told],
        guides={"threshold": 1.0},
        reach=[0.0, FAR],
    )
    note = f"A check is a fault beyond the dotted line. Scores beyond {FAR:g} times their threshold are at the edge."
    head = ["check", "times the threshold", "score", "threshold"]
    rows = [[one.check.name, _compact(times), _score(one), compact(one.check.threshold)] for times, one in told]
    return drawn(chart, KNOWN, note, head, rows)


def _table(run: Diagnosis) -> Table:
    """Every check that applies: faults first, then what is sound, and what cannot be told."""
    rows = [
        [one.check.name, state, one.said, _score(one), compact(one.check.threshold), _error_rate(one)]
        for state in STATES
        for one in run.of(state)
    ]
    return Table("", ["check", "state", "what was found", "score", "threshold", "false alarms"], rows)


def _left_out(run: Diagnosis) -> list[str]:
    names = ", ".join(one.check.name for one in run.of("not applicable"))
    return [f"These do not apply to the run, or it does not record what they need: {names}."] if names else []


def _times(one: Finding) -> float:
    return one.reading.score / one.check.threshold if one.reading else math.nan


def _score(one: Finding) -> str:
    return NONE if one.reading is None else _compact(one.reading.score)


def _compact(x: float) -> str:
    return "∞" if x == math.inf else compact(x)


def _error_rate(one: Finding) -> str:
    return "not measured" if math.isnan(one.check.error_rate) else share(one.check.error_rate)


def tables(record: Mapping[str, Any]) -> dict[str, Table]:
    """What a run measured that is no check, by what the numbers are."""
    out = {}
    if best := record.get("best_of"):
        out[several.heading(best)] = Table(
            "Several answers to a prompt", ["k", "before", "after", "change"], several.rows(best)
        )
    if kinds := record.get("forgetting"):
        rows = [[one["kind"], plus_minus(one["change"], one["change_se"], sign=True)] for one in kinds]
        out["Change of log π per token from the reference, by the probe set of the run"] = Table(
            "What is not trained on", ["kind of response", "nats per token"], rows
        )
    return out


# ---- a probe set ----------------------------------------------------------------------------------------------------


def kinds(moved: Mapping[str, Any]) -> Table:
    """The change by kind of response, in the order of the file."""
    rows = [
        [
            one["kind"],
            *(plus_minus(one[key], one[f"{key}_se"], sign=True) for key in ("change", "per_token")),
            share(one["fell"]),
        ]
        for one in moved["kinds"]
    ]
    return Table("", ["kind of response", "nats per response", "nats per token", "fell in"], rows)


def _displacement(moved: Mapping[str, Any]) -> list[Drawn]:
    table, out = kinds(moved), []
    for title, key in (("Per response", "change"), ("Per token", "per_token")):
        values: list[Value | None] = [Mean(one[key], one[f"{key}_se"], one["prompts"]) for one in moved["kinds"]]
        lines, rows = side_by_side([one["kind"] for one in moved["kinds"]], {title: values}, level=True)
        chart = Chart(title, "nats", "", lines, kind="points", rows=rows, guides={"no change": 0.0}, reach=[0.0])
        note = "Left of the dotted line, responses of that kind lost probability. Bars: ± one standard error."
        out.append(drawn(chart, [title], note, table.head, table.rows))
    return out


# ---- several runs ---------------------------------------------------------------------------------------------------


def _several(runs: Sequence[Diagnosis], record: Mapping[str, Any]) -> Found:
    """How often each check finds a fault, and the faults of the first runs."""
    names = list(dict.fromkeys(one.check.name for run in runs for one in run.findings))
    states = {name: [one.state for run in runs for one in run.findings if one.check.name == name] for name in names}
    order = (*STATES, "not applicable")
    rows = [[name, *(str(own.count(state)) for state in order)] for name, own in states.items()]
    counts = {name: own.count("fault") for name, own in states.items() if "fault" in own}
    shown = []
    if counts:
        line = Line("fault", list(map(float, counts.values())), list(map(float, range(len(counts)))))
        chart = Chart(
            "Runs with a fault",
            f"of {len(runs)} runs",
            "",
            [line],
            kind="points",
            rows=list(counts),
            reach=[0.0, float(len(runs))],
        )
        shown = [drawn(chart, KNOWN, "By check.", ["check", *order], [row for row in rows if row[0] in counts])]
    parts = [
        Part("Each check over the runs", shown, [Table("", ["check", *order], rows)]),
        *(Part(name, said=said) for name, *said in faulty(runs)),
    ]
    return Found(f"Diagnosis of {len(runs)} runs", counted(runs), parts, record)
