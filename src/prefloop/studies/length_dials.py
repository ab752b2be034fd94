"""Which method wins where? A map over two dials: the reward's peak and the coverage of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from prefloop.lab.summary import Cell
from prefloop.report.chart import Array, Chart, Table
from prefloop.studies.bench import Bench
from prefloop.studies.cells import SCORE_AXIS, SCORED, by, gains, middles, over_seeds
from prefloop.studies.lengths import METHODS, SCORE, SETTING, UNIT, about, setting, tuned, versus
from prefloop.studies.study import Claim, Outcome, Study, judged

PEAKS = {"smoke": (0.0, 75.0), "small": (0.0, 25.0, 75.0), "paper": (0.0, 10.0, 25.0, 50.0, 75.0)}  # percentiles
NEAR = 25.0  # the mode of the reference's lengths
COVERAGES = {"smoke": (1.0, 0.1), "small": (1.0, 0.4, 0.1), "paper": (1.0, 0.7, 0.4, 0.2, 0.1)}
NAMES = ("on-policy DPO", "offline DPO", "PPO", "Pref-FT")
OFFLINE = ("offline DPO", "Pref-FT")
Cells = Mapping[tuple[str, float, float], Cell]  # method, peak, coverage


def _peaks(cells: Cells) -> list[float]:
    return sorted({peak for _, peak, _ in cells})


def _coverages(cells: Cells) -> list[float]:
    return sorted({coverage for _, _, coverage in cells}, reverse=True)


def sampled(cells: Cells) -> Array:
    """Score of on-policy DPO minus offline DPO at peak 0, minus the same near the mode, mean over coverages."""
    near = NEAR if NEAR in _peaks(cells) else _peaks(cells)[-1]

    def gap(peak: float) -> Array:
        own, given = ([(m, peak, c) for c in _coverages(cells)] for m in ("on-policy DPO", "offline DPO"))
        return versus(cells, own, given)

    return gap(0.0) - gap(near)


def covered(cells: Cells, methods: Sequence[str]) -> Array:
    """Mean score at the highest peak with the most coverage minus that with the least."""
    peak, coverages = _peaks(cells)[-1], _coverages(cells)
    whole, skewed = ([(m, peak, c) for m in methods] for c in (coverages[0], coverages[-1]))
    return versus(cells, whole, skewed)


def pushed(cells: Cells) -> Array:
    """Score of offline DPO minus Pref-FT at peak 0 with the least coverage, minus the same with the most."""
    most, *_, least = _coverages(cells)
    skewed, whole = (versus(cells, [("offline DPO", 0.0, c)], [("Pref-FT", 0.0, c)]) for c in (least, most))
    return skewed - whole


CLAIMS = (
    Claim(
        "on-policy-where-far",
        "on-policy sampling matters most where the reward peaks far from the reference",
        "score of on-policy DPO less offline DPO at peak 0, less the same at peak 25, mean over coverages",
        0.02,
        UNIT,
        of=sampled,
    ),
    Claim(
        "offline-needs-coverage",
        "offline methods need data that cover the responses that the reward wants",
        "mean score of the offline methods at the highest peak: coverage 1 less coverage 0.1",
        0.02,
        UNIT,
        of=partial(covered, methods=OFFLINE),
    ),
    Claim(
        "proxy-needs-coverage",
        "so do on-policy methods, whose reward model saw the same data",
        "mean score of the on-policy methods at the highest peak: coverage 1 less coverage 0.1",
        0.02,
        UNIT,
        of=partial(covered, methods=[m for m in NAMES if m not in OFFLINE]),
    ),
    Claim(
        "negative-gradient-where-skewed",
        "offline, a negative gradient helps more where the data are skewed",
        "score of offline DPO less Pref-FT at peak 0: coverage 0.1 less coverage 1",
        0.02,
        UNIT,
        of=pushed,
    ),
)


def run(bench: Bench) -> Outcome:
    """Every method at every point of the map."""
    peaks, coverages = PEAKS[bench.size], COVERAGES[bench.size]
    keys = [(name, peak, coverage) for name in NAMES for peak in peaks for coverage in coverages]
    settings = [setting(bench, "min", *METHODS[n], peak=peak, coverage=coverage) for n, peak, coverage in keys]
    cells = by(tuned(bench, settings), keys)
    figures = {"map": [_panel(cells, peak, coverages) for peak in peaks]}
    return Outcome(judged(CLAIMS, cells), figures, [winners(cells)], [about(bench)])


def winners(cells: Cells) -> Table:
    """The best method at every point, and its lead over the next one."""
    rows: list[list[Any]] = []
    for place in sorted({k[1:] for k in cells}, key=lambda at: (at[0], -at[1])):
        scores = {name: gains([cells[(name, *place)]]) for name in NAMES}
        first, second = sorted(NAMES, key=lambda name: -scores[name].mean())[:2]
        lead = scores[first] - scores[second]
        error = lead.std(ddof=1) / np.sqrt(len(lead))
        means = [f"{scores[name].mean():.3f}" for name in NAMES]
        rows.append([f"{place[0]:g}", f"{place[1]:g}", first, f"{lead.mean():.3f} ± {error:.3f} ({second})", *means])
    return Table("Who wins where", ("peak, percentile", "coverage", "best", "lead over the next", *NAMES), rows)


def _panel(cells: Cells, peak: float, coverages: tuple[float, ...]) -> Chart:
    lines = []
    for name in NAMES:
        scores = np.stack([gains([cells[name, peak, c]]) for c in coverages])
        lines.append(middles(name, coverages, scores))
    return Chart(
        f"Peak at percentile {peak:g}",
        "coverage: share of the data left whole",
        SCORE_AXIS,
        lines,
        range=SCORED,
        interval=over_seeds(cells[NAMES[0], peak, coverages[0]]),
    )


STUDY = Study(
    name="length-dials",
    question="Which method wins where, over the place of the reward's peak and the coverage of the data?",
    source="Tajwar et al. 2024, Fig. 1 and §3: the two conditions as dials",
    method=(
        f"{SETTING} Peak: the length that the reward wants, as a percentile of the reference's lengths, 0 being one"
        f" token. Coverage: share of the preference data that is left whole. {SCORE}"
    ),
    claims=CLAIMS,
    run=run,
)
