"""The diagnosis of a run: every check of the table applied, and the verdict in sentences, numbers first."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefloop.analysis.checks import TABLE, Check
from prefloop.analysis.evidence import SURE, Change, Evidence
from prefloop.analysis.numbers import compact, share
from prefloop.analysis.signs import Reading, in_words

State = Literal["fault", "sound", "cannot tell", "not applicable"]
WIDTH = 80
SHOWN = 5  # runs of a store that are told one by one


@dataclass(frozen=True)
class Finding:
    """What a check found in a run."""

    check: Check
    reading: Reading | None

    @property
    def state(self) -> State:
        if self.reading is None:
            return "not applicable"
        if math.isnan(self.reading.score):
            return "cannot tell"
        return "fault" if self.check.fires(self.reading) else "sound"

    @property
    def said(self) -> str:
        return "" if self.reading is None else self.reading.said

    def record(self) -> dict[str, Any]:
        """A row of the table with what was found, as a JSON value; what is not finite is null."""
        score = None if self.reading is None else self.reading.score
        return {
            "check": self.check.name,
            "state": self.state,
            "score": score if score is not None and math.isfinite(score) else None,
            "said": self.said,
            "fault": self.check.fault,
            "formula": self.check.formula,
            "threshold": self.check.threshold,
            "reason": self.check.reason,
            "error_rate": None if math.isnan(self.check.error_rate) else self.check.error_rate,
            "source": self.check.source,
            "do": self.check.cure,
        }


@dataclass(frozen=True)
class Diagnosis:
    """All findings on a run, in the order of the table, and whether it got better."""

    name: str
    outcome: Change | None
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> list[Finding]:
        return self.of("fault")

    def of(self, state: State) -> list[Finding]:
        return [one for one in self.findings if one.state == state]

    def record(self) -> dict[str, Any]:
        """The diagnosis as a JSON value."""
        found = self.outcome
        outcome = None
        if found is not None:
            se = None if math.isnan(found.se) else found.se
            outcome = {"metric": found.key, "before": found.before, "after": found.after, "se": se}
        return {
            "run": self.name,
            "outcome": outcome,
            "faults": [one.check.name for one in self.faults],
            "sentences": sentences(self),
            "checks": [one.record() for one in self.findings],
        }


def diagnose(run: Evidence, checks: Iterable[Check] = TABLE) -> Diagnosis:
    """Apply every check to a run."""
    return Diagnosis(run.name, run.outcome, tuple(Finding(check, check.sign(run)) for check in checks))


def sentences(found: Diagnosis) -> list[str]:
    """The verdict: whether the run got better, faults with numbers and cures, what is sound, what cannot be told."""
    healthy = [f"{capital(one.said)}." for one in found.of("sound") if one.reading and one.reading.worth_saying]
    faults = [_fault(one) for one in found.faults]
    sound = [one.check.name for one in found.of("sound")]
    unknown = [f"Cannot tell ({name}): {why}." for name, why in doubts(found).items()]
    nothing = f"Nothing found by {len(sound)} checks: {', '.join(sound)}." if sound else "No check could be applied."
    return [better(found.outcome), *faults, *healthy, nothing, *unknown, *_reliability(found)]


def doubts(found: Diagnosis) -> dict[str, str]:
    """Why checks cannot tell, by their names."""
    return {one.check.name: one.said for one in found.of("cannot tell")}


def counted(found: Sequence[Diagnosis]) -> list[str]:
    """How many runs have which fault, the most frequent first."""
    faults = Counter(one.check.name for run in found for one in run.faults)
    told = [f"{len(found)} runs; {sum(not run.faults for run in found)} without a fault."]
    return told + [f"{name}: in {count} of {len(found)} runs" for name, count in faults.most_common()]


def faulty(found: Sequence[Diagnosis]) -> Iterator[list[str]]:
    """The name and the faults of the first runs that have any."""
    for run in [run for run in found if run.faults][:SHOWN]:
        yield [run.name, *(text for text in sentences(run) if text.startswith("Fault"))]


def better(outcome: Change | None) -> str:
    """Whether what is held out got better."""
    if outcome is None:
        return "Whether the run got better cannot be told: nothing held out was measured before and after."
    said = in_words(outcome)
    if math.isnan(outcome.z):
        return f"{capital(said)}; its error is not known."
    word = "better" if outcome.z > SURE else "worse" if outcome.z < -SURE else "no change beyond noise"
    return f"{capital(said)}: {word}."


def _fault(one: Finding) -> str:
    score = compact(one.reading.score if one.reading else math.nan)
    limit = f"score {score}, threshold {compact(one.check.threshold)}"
    return f"Fault ({one.check.name}): {one.check.fault}. {capital(one.said)} ({limit}). Do: {one.check.cure}."


def _reliability(found: Diagnosis) -> list[str]:
    """How often the checks that fired are wrong."""
    known = [one for one in found.faults if not math.isnan(one.check.error_rate)]
    unknown = [one.check.name for one in found.faults if math.isnan(one.check.error_rate)]
    out = []
    if known:
        rates = ", ".join(f"{one.check.name} in {share(one.check.error_rate)}" for one in known)
        out.append(f"Measured false alarms on sound runs: {rates}.")
    if unknown:
        out.append(f"How often these thresholds are wrong is not measured yet: {', '.join(unknown)}.")
    return out


def short(found: Diagnosis, command: str, *, lines: int = 6) -> list[str]:
    """At most so many lines for the end of a training, the last one the command for the rest; 80 columns but for that.

    Args:
        command: shows the whole diagnosis.
    """
    faults = found.faults
    told = [f"{one.check.name}: {one.check.fault} ({one.said})" for one in faults]
    told += [one.said for one in found.of("sound") if one.reading and one.reading.worth_saying]
    count = f"{len(faults)} fault{'s' if len(faults) != 1 else ''}" if faults else "no fault"
    checks, unknown = len(found.of("sound")) + len(faults), len(found.of("cannot tell"))
    more = f", {unknown} cannot tell" if unknown else ""
    head, room = f"diagnosis: {count} found by {checks} checks{more}", lines - 2
    body = [line for text in told for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False)]
    if len(body) > room:
        body = [*body[: room - 1], f"{body[room - 1][: WIDTH - 4]} …"]
    return [head, *(f"  {line}" for line in body), f"all of it: {command}"]


def capital(text: str) -> str:
    """With a capital letter first, except in formulas: β stays β."""
    return text[:1].upper() + text[1:] if text[:1].isascii() else text
