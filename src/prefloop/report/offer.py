"""What data offer a model, as a page of text: sentences with numbers first, then tables, then what cannot be told."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.geometry import best_of_kl
from prefloop.analysis.numbers import compact, fixed, number, plus_minus
from prefloop.analysis.offer import Value
from prefloop.analysis.statistics import Mean
from prefloop.report.chart import Table

WIDTH = 80
SMALL = 1e-3  # standard errors below it are told to four decimals
Measures = Mapping[str, Value]


@dataclass(frozen=True)
class About:
    """What was measured.

    Args:
        prompts, samples: numbers of prompts, and of samples of the reference to each.
        limit: tokens up to which the reference wrote.
        responses: number of responses of the data.
        cut, cut_data: share of the samples, and of the data's responses, that reach the limit.
        beta: strength of the KL penalty of the optimum.
    """

    model: str
    data: str
    reward: str
    prompts: int
    samples: int
    limit: int
    responses: int
    cut: float
    cut_data: float
    beta: float


def text(measures: Measures, about: About, notes: Sequence[str] = ()) -> str:
    """The page, at most 80 columns wide."""
    parts = [_filled(sentence) for sentence in sentences(measures, about)]
    shown = [_in_line(table.head, table.rows) for table in tables(measures)]
    told = [_filled(f"{name}: {reason}", "  ") for name, reason in unknown(measures).items()]
    parts += shown + (["\n".join(["Cannot tell", *told])] if told else [])
    return "\n\n".join([*parts, *(_filled(f"note: {note}") for note in notes)])


def sentences(measures: Measures, about: About) -> list[str]:
    """What was found, numbers first, after what was measured."""
    return [setting(about), *findings(measures, about)]


def findings(measures: Measures, about: About) -> list[str]:
    """What was found, numbers first."""
    return [*_likelihood(measures), *_shifts(measures), *_pairs(measures), *_rewards(measures, about)]


def unknown(measures: Measures) -> dict[str, str]:
    """Why a number cannot be told, by its name; equal reasons once."""
    names: dict[str, list[str]] = {}
    for key, value in measures.items():
        if isinstance(value, CannotTell):
            names.setdefault(value.reason, []).append(NAMES.get(key, _name(key)))
    return {", ".join(keys): reason for reason, keys in names.items()}


def _name(key: str) -> str:
    """`geometry/best_of/64` is best of 64."""
    return " ".join(key.split("/")[1:]).replace("_", " ")


NAMES = {
    "geometry": "reward of the reference's samples",
    "coverage": "coverage",
    "coverage/global": "coverage coefficients of 2406.01462",
    "coverage/pairs/shared_tokens": "pairs",
    "coverage/chosen/reward_percentile": "reward of the chosen among the samples",
    "coverage/rejected/reward_percentile": "reward of the rejected among the samples",
    "boundary/votes": "stage boundary",
    "geometry/optimum/kl": "optimum at the asked β",
}


# ---- sentences ------------------------------------------------------------------------------------------------------


def setting(about: About) -> str:
    """What was measured, in one sentence."""
    cut = f"; {_rounded(about.cut)} of the samples" if about.cut else ""
    data = f" and {_rounded(about.cut_data)} of the data's responses reach it" if cut and about.responses else ""
    return (
        f"{about.model} wrote {about.samples} samples to each of {about.prompts} prompts of {about.data}, up to"
        f" {about.limit} tokens{cut}{data or (' reach it' if cut else '')}. Numbers are means ± standard errors over"
        " prompts."
    )


def _likelihood(m: Measures) -> Iterator[str]:
    chosen, rejected = m.get("coverage/chosen/percentile"), m.get("coverage/rejected/percentile")
    first = next((x for x in (chosen, rejected) if isinstance(x, Mean)), None)
    if first is None:
        return
    side = "chosen" if isinstance(chosen, Mean) else "rejected"
    also = f", the rejected at the {_place(rejected)}" if side == "chosen" and isinstance(rejected, Mean) else ""
    yield (
        f"The {side} responses lie at the {_place(first)} percentile of the reference's own log-probs{also}; its own"
        " would lie at the 50th."
    )
    outside, tokens = m.get(f"coverage/{side}/unlikely"), m.get(f"coverage/{side}/tokens_outside")
    if isinstance(outside, Mean) and isinstance(tokens, Mean):
        yield (
            f"{_percent(outside)} of the {side} responses are outside the reference's likely set (of its own 1 %), and"
            f" {_percent(tokens)} of their tokens (of its own at most 1 %)."
        )


def _shifts(m: Measures) -> Iterator[str]:
    for side in ("chosen", "rejected"):
        longer, sd = m.get(f"coverage/{side}/length_shift"), m.get(f"coverage/{side}/length_shift_sd")
        if not isinstance(longer, Mean):
            continue
        than = "longer" if longer.value >= 0 else "shorter"
        spread = f" ({fixed(sd.value, 1, sign=True)} standard deviations)" if isinstance(sd, Mean) else ""
        size = Mean(abs(longer.value), longer.se, longer.units)
        new, own = m.get(f"coverage/{side}/novelty"), m.get("coverage/reference/novelty")
        known = (
            f"; {_percent(new)} of their 3-grams are in none of its samples (of its own {_percent(own)})"
            if isinstance(new, Mean) and isinstance(own, Mean)
            else ""
        )
        yield f"The {side} are {_plain(size)} tokens {than} than the reference's samples{spread}{known}."


def _pairs(m: Measures) -> Iterator[str]:
    shared, edit = m.get("coverage/pairs/shared_tokens"), m.get("coverage/pairs/edit_similarity")
    if not (isinstance(shared, Mean) and isinstance(edit, Mean)):
        return
    hidden, likelier = m.get("coverage/pairs/hidden_similarity"), m.get("coverage/pairs/likelier")
    states = f", centred hidden states {_plain(hidden)}" if isinstance(hidden, Mean) else ""
    order = f"; the reference finds {_percent(likelier)} of the chosen likelier" if isinstance(likelier, Mean) else ""
    yield (
        f"Chosen and rejected share {_percent(shared)} of their tokens (edit similarity {_plain(edit)}{states}){order}."
    )


def _rewards(m: Measures, about: About) -> Iterator[str]:
    mean, best, within = m.get("geometry/mean"), m.get(f"geometry/best_of/{about.samples}"), m.get("geometry/gain_sd")
    if not (isinstance(mean, Mean) and isinstance(best, Mean)):
        return
    sds = f", {_plain(within)} standard deviations within a prompt" if isinstance(within, Mean) else ""
    yield (
        f"{about.reward}: {_plain(mean)} for a sample of the reference, {_plain(best)} for the best of"
        f" {about.samples}{sds}, at a KL of at most {fixed(best_of_kl(about.samples), 2)} nats."
    )
    chosen, rank = m.get("coverage/chosen/reward"), m.get("coverage/chosen/as_best_of")
    place, agrees = m.get("coverage/chosen/reward_percentile"), m.get("coverage/pairs/reward_agrees")
    if isinstance(chosen, Mean):
        above = f"above the best of {about.samples}"
        of = f"about as the best of {rank.value:.0f}" if isinstance(rank, Mean) else above
        among = f", at the {_place(place)} percentile of the samples, {of}" if isinstance(place, Mean) else ""
        order = f"; it prefers {_percent(agrees)} of them to the rejected" if isinstance(agrees, Mean) else ""
        yield f"It scores the chosen responses {_plain(chosen)}{among}{order}."
    yield from _at(m, "optimum")
    yield from _at(m, "optimum_told")
    votes = m.get("boundary/votes")
    if isinstance(votes, Mean):
        side = "on-policy sampling now" if votes.value >= 0.5 else "training on the data first"
        clear = "" if abs(votes.value - 0.5) > 1.96 * votes.se else ", not decided"
        yield (
            f"The reference's samples score above the data's responses in {_percent(votes)} of the comparisons: by the"
            f" stage boundary of arXiv:2508.10530 (50 %) {side}{clear}. The rule has no published error rate."
        )


def _at(m: Measures, name: str) -> Iterator[str]:
    kl, beta, ess = (m.get(f"geometry/{name}/{key}") for key in ("kl", "beta", "ess"))
    if isinstance(kl, Mean) and isinstance(beta, Mean) and isinstance(ess, Mean):
        least = " (the smallest β that these samples carry)" if name == "optimum_told" else ""
        yield (
            f"At β = {compact(beta.value)}{least} the optimum of J_β is {_plain(kl)} nats of KL away; the median prompt"
            f" has {ess.value:.1f} effective samples."
        )


# ---- tables ---------------------------------------------------------------------------------------------------------


def tables(measures: Measures) -> list[Table]:
    """The data against the reference, the best of n, and the optimum: those that have rows."""
    return [table for table in (_coverage(measures), _geometry(measures), _optimum(measures)) if table.rows]


ROWS = {
    "log-prob, percentile": ("percentile", "50 %"),
    "per token, percentile": ("percentile_per_token", "50 %"),
    "outside the likely set": ("unlikely", "1 %"),
    "tokens outside top-p 0.99": ("tokens_outside", "≤ 1 %"),
    "tokens": ("length", ""),
    "tokens, minus own": ("length_shift", "0"),
    "new 3-grams": ("novelty", ""),
    "reward": ("reward", ""),
    "reward, percentile": ("reward_percentile", "50 %"),
}
SHARES = ("percentile", "percentile_per_token", "unlikely", "tokens_outside", "novelty", "reward_percentile")


def _coverage(m: Measures) -> Table:
    rows = []
    own = {"novelty": m.get("coverage/reference/novelty"), "reward": m.get("geometry/mean")}
    for name, (key, expected) in ROWS.items():
        sides = [m.get(f"coverage/{side}/{key}") for side in ("chosen", "rejected")]
        if any(isinstance(x, Mean) for x in sides):
            last = own.get(key)
            rows.append([name, *(cell(x, key) for x in sides), cell(last, key) if last else expected])
    return Table("", ["data against reference", "chosen", "rejected", "own"], rows)


def _geometry(m: Measures) -> Table:
    sizes = sorted(int(key.rpartition("/")[2]) for key in m if key.startswith("geometry/best_of/"))
    rows = [
        [
            str(n),
            cell(m.get(f"geometry/best_of/{n}")),
            fixed(best_of_kl(n), 2),
            cell(m.get(f"geometry/reach/{n}"), "reach"),
        ]
        for n in sizes
        if isinstance(m.get(f"geometry/best_of/{n}"), Mean)
    ]
    goal = m.get("geometry/target")
    return Table("", ["best of", "reward", "KL at most", f"chance of ≥ {_number(goal)}"], rows)


def _optimum(m: Measures) -> Table:
    names = {
        "beta": "optimum at β",
        "log_z": "log Z",
        "kl": "KL(π*‖π_ref)",
        "divergence": "1 + χ²",
        "ess": "effective samples",
    }
    told = [name for name in ("optimum", "optimum_told") if isinstance(m.get(f"geometry/{name}/kl"), Mean)]

    def row(key: str) -> list[str]:
        show = _number if key in ("beta", "ess") else cell
        return [names[key], *(show(m.get(f"geometry/{name}/{key}")) for name in told)]

    head, *rows = map(row, names)
    return Table("", head, rows if told else [])


def _in_line(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line, the first to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    gap = "  " if sum(widths) + 2 * len(widths) - 2 <= WIDTH else " "

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return gap.join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]).rstrip()

    return "\n".join([line(head), *map(line, rows)])


# ---- numbers --------------------------------------------------------------------------------------------------------


def _filled(sentence: str, indent: str = "") -> str:
    return textwrap.fill(sentence, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def cell(x: Value | None, key: str = "") -> str:
    """A value with its standard error; shares in percent."""
    if not isinstance(x, Mean):
        return "–"
    if key not in (*SHARES, "reach"):
        return _plain(x)
    same = x.se == 0 and x.value in (0.0, 1.0)  # all alike, which is no certainty
    return f"{100 * x.value:.0f} % of {x.units}" if same else _percent(x, alike=False)


def _plain(x: Mean) -> str:
    """To at most four decimals, so that a table has room for it."""
    if x.se == 0:
        return number(x.value)
    if x.se < SMALL and abs(x.value) < SMALL:
        return f"{compact(x.value)} ± {compact(x.se, 2)}"
    if x.se < SMALL:
        return f"{fixed(x.value, 4)} ± {_error(x.se, 4)}"
    return plus_minus(x.value, x.se).replace("\u00a0", " ")


def _number(x: Value | None) -> str:
    return number(x.value, 3) if isinstance(x, Mean) else "–"


def _percent(x: Mean, *, alike: bool = True) -> str:
    """`12.3 ± 2.1 %`; where all prompts have the same share, which is no certainty, that is said instead."""
    places = 1 if math.isnan(x.se) or 100 * x.se < 9.95 else 0
    value = fixed(100 * x.value, places)
    if math.isnan(x.se):
        return f"{value} %"
    if x.se == 0:
        return f"{value} %" + (f" (alike in all {x.units} prompts)" if alike else "")
    return f"{value} ± {_error(100 * x.se, places)} %"


def _error(se: float, places: int) -> str:
    """A standard error above 0, which no rounding turns into 0: `<0.05`."""
    half = 0.5 * 10**-places
    return f"<{half:.{places + 1}f}" if se < half else fixed(se, places)


def _rounded(share: float) -> str:
    return f"{100 * share:.0f} %"


def _place(x: Mean) -> str:
    """`12th (± 3)`."""
    n = round(100 * x.value)
    end = "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    if math.isnan(x.se):
        return f"{n}{end}"
    return f"{n}{end} (± {_error(100 * x.se, 1)})" if x.se else f"{n}{end} (alike in all {x.units} prompts)"
