"""A piece of advice as a page of text: what to use, the numbers that decided it, what cannot be told. No torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from prefloop.advice.rule import Advice, Status
from prefloop.analysis import offer
from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.numbers import compact, fixed, minus, plus_minus
from prefloop.analysis.statistics import Mean
from prefloop.report.chart import Table

WIDTH = 80
SHOWN = 3  # features and flips that are named
LEAST = 0.005  # contribution of a feature that is named
Value = Mean | CannotTell


@dataclass(frozen=True)
class Page:
    """What is shown.

    Args:
        setting: what was measured, in one sentence.
        advice: what the rule says.
        status: how the rule was tested.
        titles: of the actions.
        refused: actions that the data cannot feed, with the reason.
        features, meanings: what was measured, and what it means.
        notes: what a reader must know.
        offer: coverage and geometry of the data (`analysis.offer`); empty for a problem of the lab.
    """

    setting: str
    advice: Advice
    status: Status
    titles: Mapping[str, str]
    refused: Mapping[str, str]
    features: Mapping[str, Value]
    meanings: Mapping[str, str]
    notes: Sequence[str] = ()
    offer: Mapping[str, Value] = field(default_factory=dict)


def text(page: Page) -> str:
    """The page, at most 80 columns wide."""
    parts = [_filled(sentence) for sentence in sentences(page)]
    parts += [part for part in (_ranking(page), _measurements(page), _unknown(page)) if part]
    return "\n\n".join([*parts, *(_filled(f"note: {note}") for note in page.notes)])


def record(page: Page) -> dict[str, Any]:
    """For JSON."""
    action = page.advice.action
    return {
        "action": None if isinstance(action, CannotTell) else action,
        "cannot_tell": action.reason if isinstance(action, CannotTell) else None,
        "sentences": sentences(page),
        "ranked": [asdict(one) for one in page.advice.ranked],
        "would_change": [asdict(one) for one in page.advice.flips],
        "because": dict(page.advice.because),
        "not_measured": list(page.advice.filled),
        "outside": list(page.advice.outside),
        "refused": dict(page.refused),
        "rule": asdict(page.status),
        "features": {
            name: {"cannot_tell": x.reason} if isinstance(x, CannotTell) else {"value": x.value, "se": x.se}
            for name, x in page.features.items()
        },
        "measures": offer.record(page.offer),
        "notes": list(page.notes),
    }


def sentences(page: Page) -> list[str]:
    """What to do and why, numbers first."""
    return [*_verdict(page), *_why(page), *_feeds(page), *_tested(page.status), page.setting]


# ---------------------------------------------------------------------------------------------------------- sentences


def _verdict(page: Page) -> list[str]:
    advice = page.advice
    if isinstance(advice.action, CannotTell) and page.status.refusal is not None:
        return [f"Cannot tell yet: {advice.action.reason}. Below are the measurements on which it will decide."]
    if isinstance(advice.action, CannotTell):
        return [f"Cannot tell: {advice.action.reason}."]
    first = advice.ranked[0]
    said = (
        f"Use {advice.action}: {page.titles[advice.action]}. It is expected to keep {_percent(first.value)} of what"
        f" can be gained in E[reward] − β KL ({_percent(first.low)} to {_percent(first.high)} in 80 % of the problems"
        f" that the rule had not seen); {_percent(first.breaks)} of its runs break."
    )
    if len(advice.ranked) < 2:
        return [said]
    second = advice.ranked[1]
    return [said, f"Next best: {second.action}, {_percent(second.value)}: {page.titles[second.action]}."]


def _why(page: Page) -> list[str]:
    advice, out = page.advice, []
    if len(advice.ranked) > 1 and advice.because:
        named = "; ".join(
            f"{name} = {_shown(page.features.get(name))} ({'for' if part > 0 else 'against'} it by {abs(part):.2f})"
            for name, part in advice.because[:SHOWN]
            if abs(part) >= LEAST
        )
        out.append(f"What decides between {advice.ranked[0].action} and {advice.ranked[1].action}: {named}.")
    if advice.flips:
        named = ", ".join(
            f"{f.feature} {'above' if f.away > 0 else 'below'} {compact(f.at)}" for f in advice.flips[:SHOWN]
        )
        out.append(f"What would change its mind, each alone: {named}.")
    if advice.filled:
        out.append(f"Not measured, so that the average of the rule's problems stands in: {', '.join(advice.filled)}.")
    if advice.outside:
        out.append(f"Outside what the rule has seen, so take it with care: {', '.join(advice.outside)}.")
    return out


def _feeds(page: Page) -> list[str]:
    able = [name for name in page.titles if name not in page.refused]
    out = [f"Your data can feed {len(able)} of the {len(page.titles)} methods compared: {', '.join(able) or 'none'}."]
    reasons: dict[str, list[str]] = {}
    for name, reason in page.refused.items():
        reasons.setdefault(reason, []).append(name)
    return out + [f"They cannot feed {', '.join(names)}: {reason}." for reason, names in reasons.items()]


def _tested(status: Status) -> list[str]:
    if not status.regret:
        return [f"Status of the rule: fitted to {status.problems} problems; {status.minimum} are needed, and a test."]
    parts = [f"{name} {_interval(status.regret[name])}" for name in ("rule", "best constant") if name in status.regret]
    worlds = ", ".join(f"{count} {world}" for world, count in status.worlds.items())
    return [
        f"Status of the rule: {status.problems} problems ({worlds}); mean regret on unseen ones: {'; '.join(parts)}."
    ]


def _interval(found: Sequence[float]) -> str:
    value, low, high = found
    return f"{fixed(value)} [{fixed(low)}, {fixed(high)}]"


def _percent(value: float) -> str:
    return f"{minus(f'{100 * value:.0f}')} %"


def _shown(value: Value | None) -> str:
    if not isinstance(value, Mean):
        return "not measured"
    return plus_minus(value.value, value.se) if value.se > 0 else compact(value.value)


# ------------------------------------------------------------------------------------------------------------- tables


def ranking(page: Page) -> Table:
    """The methods that the data can feed, the advised one first; no rows where the rule may not advise."""
    rows = [
        [
            one.action,
            fixed(one.value, 2),
            f"{fixed(one.low, 2)} to {fixed(one.high, 2)}",
            _percent(one.breaks),
            _percent(one.sure) if one.sure is not None else "default",
        ]
        for one in page.advice.ranked
    ]
    return Table("", ["method", "gain kept", "80 % interval", "breaks", "beats default"], rows)


def measurements(page: Page) -> Table:
    """What was measured, and what it means."""
    rows = [[name, _shown(x), page.meanings[name]] for name, x in page.features.items() if isinstance(x, Mean)]
    return Table("", ["measurement", "value", "meaning"], rows)


def unknown(page: Page) -> dict[str, str]:
    """Why measurements cannot be told, by their names; equal reasons once."""
    reasons: dict[str, list[str]] = {}
    for name, value in page.features.items():
        if isinstance(value, CannotTell):
            reasons.setdefault(value.reason, []).append(name)
    return {", ".join(names): reason for reason, names in reasons.items()}


def _ranking(page: Page) -> str:
    table = ranking(page)
    lines = [table.head, *table.rows] if table.rows else []
    return "\n".join(f"{a:<20}{b:>12}{c:>20}{d:>10}{e:>16}" for a, b, c, d, e in lines)


def _measurements(page: Page) -> str:
    lines = ["What was measured"]
    for name, value, meaning in measurements(page).rows:
        head = f"  {name:<16}{value:>18}  "
        lines.append(textwrap.fill(meaning, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)))
    return "\n".join(lines)


def _unknown(page: Page) -> str:
    told = [_filled(f"{names}: {reason}", "  ") for names, reason in unknown(page).items()]
    return "\n".join(["Cannot be told", *told]) if told else ""


def _filled(said: str, indent: str = "") -> str:
    return textwrap.fill(said, WIDTH, initial_indent=indent, subsequent_indent=indent + "  " * bool(indent))
