"""A study with made-up findings, and the numbers of a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.analysis.decisions import Decision, words
from prefloop.analysis.statistics import Interval
from prefloop.report.chart import Chart, Line, Table
from prefloop.studies import page, record
from prefloop.studies.study import Claim, Effort, Finding, Outcome, Study

TOLD: dict[str, Any] = {
    "size": "small",
    "effort": Effort(75.04, runs=1200, computed=1188, tuning=700),
    "command": "prefloop study run toy --size small",
    "versions": {"python": "3.11", "peft": None},
}
TOOK = "1 min 15 s for 1,200 runs of the lab (1,188 computed anew, 700 for tuning)"
UNIT = "share of the attainable gain"
CLAIMS = (
    Claim("fresh-helps", "Fresh samples help.", "fresh less stale", 0.1, UNIT),
    Claim("reuse-is-free", "Reuse costs nothing|at all", "reward lost", 0.1, "nats", sense="equal"),
    Claim("push-helps", "Pushing down helps", "difference", 0.1, UNIT),
    Claim("push-is-off", "the switch removes the push", "push left", 0.1, UNIT, counts=False),
)


def finding(
    claim: Claim, low: float, high: float, *, value: float | None = None, n: int = 12, why: str = ""
) -> Finding:
    """The verdict on an interval, as `decide` gives it."""
    verdict = words(low, high, claim.rule(12, 40)).item()
    mean = (low + high) / 2 if value is None else value
    p = 1e-3 if low * high > 0 else 0.4
    made = Interval(mean, low, high, 0.95, n)
    return Finding(
        claim, Decision(verdict, why or f"it is {verdict}", made, p, p if verdict != "undecided" else 1.0, True)
    )


def charts(interval: str = "mean of 12 seeds") -> list[Chart]:
    x = [1, 10, 100]
    curve = Line("fresh", x, [0.1, 0.5, float("nan")], [0.0, 0.4, 0.8], [0.2, 0.6, 1.0])
    bars = Line("fresh", ["near", "far"], [1.0, -0.5], [0.8, -0.7], [1.2, -0.3])
    return [
        Chart("Reward [mean]", "B", "reward", [curve, Line("stale", x, np.array([0.1, 0.3, 0.2]), dashed=True)],
              log_x=True, guides={"best arm": 1.0, "reference": 0.1, "data": 0.12}, interval=interval),
        Chart("After training", "peak", "reward", [bars, Line("stale", ["near", "far"], [0.5, -1.0])], kind="bars"),
        Chart("Each seed", "margin", "fall", [Line("stale", [0.0, 1.0], [1.0, 0.0], [0.5, -1], [2, 1])], kind="points"),
    ]  # fmt: skip


ENDS = ((0.2, 0.4), (-0.5, -0.3), (-0.1, 0.4), (0.15, 0.2))


def outcome(names: tuple[str, ...] = ("reward", "each.svg"), ends: tuple[tuple[float, float], ...] = ENDS) -> Outcome:
    """Supported, contradicted, undecided; and a check that holds."""
    found = [finding(claim, *interval) for claim, interval in zip(CLAIMS, ends, strict=True)]
    table = Table("Rows", ("method", "reward", "|x|"), [("a|b", np.float64(0.123456), None), ("c", float("nan"), True)])
    return Outcome(found, dict(zip(names, [charts(), charts()[2:]], strict=False)), [table], ["Only one problem."])


def study(run: Callable[[Any], Outcome] | None = None, name: str = "toy", claims: tuple[Claim, ...] = CLAIMS) -> Study:
    design = {"compared": "two cells", "tuning": "none: lr 0.01"}
    asked = "Do fresh samples help?", "section 5.1", "Fresh samples help by 10 %."
    return Study(name, *asked, design, claims, run or (lambda bench: outcome()))


# ---- numbers of a page ---------------------------------------------------------------------------------------------

NUMBER = r"[+−-]?\d[\d,]*(?:\.\d+)?(?:e[−-]?\d+)?"


def strange(text: str, record: Any) -> list[str]:
    """The numbers of a text that are neither a rounded number of the record nor in one of its texts."""
    leaves = list(_leaves(record))
    said = {token for leaf in leaves if isinstance(leaf, str) for token in re.findall(NUMBER, leaf)}
    known = np.array([float(leaf) for leaf in leaves if isinstance(leaf, int | float)])
    return [token for token in re.findall(NUMBER, text) if token not in said and not _rounds(token, known)]


def _rounds(token: str, known: np.ndarray) -> bool:
    mantissa, _, power = token.replace("−", "-").replace(",", "").partition("e")
    places = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(power or 0) - places)
    value = float(mantissa) * 10.0 ** int(power or 0)
    return bool((np.abs(known - value) <= 0.5001 * unit).any())


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield str(key)
            yield from _leaves(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one)
    elif value is not None and not isinstance(value, bool):
        yield value


def published(asked: Study, found: Outcome, folder: Path, **told: Any) -> record.Result:
    """The record of a study, with its page written."""
    result = record.record(asked, found, **told)
    page.write(result, folder)
    return result
