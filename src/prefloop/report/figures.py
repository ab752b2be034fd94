"""The plots of a page, with descriptions and a table below each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import Markup

from prefloop.analysis.forgetting import PROBE
from prefloop.analysis.numbers import number
from prefloop.report.chart import ANY, COUNT, SHARE, Change, Chart, Line, Range, frontier
from prefloop.report.data import Points, Real, Run, Value, flat, measured
from prefloop.report.findings import criterion
from prefloop.report.layout import changes, figure
from prefloop.report.panel import thin
from prefloop.report.svg import inline

POINTS = 1600  # points per plot, over all its curves: keeps a page of many runs below a megabyte
MARKERS = 240  # markers per plot, over all its curves
WIDTH = 330.0  # width of a plot in points: letters of twelve pixels on a page
ROWS = 24  # rows of the table below a plot of training steps
EVALUATIONS = 60  # rows of the table below a plot of evaluations


@dataclass(frozen=True)
class Plot:
    """One plot: keys of `metrics.jsonl` against steps, for all runs."""

    title: str
    note: str  # what the plot shows
    keys: tuple[str, ...]  # a second key is drawn dashed
    y: str
    range: Range = ANY
    mirrored: bool = False  # the second key points down
    scaled: bool = False  # multiplied by the method's β
    fresh: bool = False  # only of responses that the policy writes: the mean score of given ones says nothing


@dataclass(frozen=True)
class Drawn:
    """A figure ready for the page."""

    title: str
    note: str
    svg: Markup
    head: list[str]
    rows: list[list[str]]
    missing: list[str] = field(default_factory=list)  # letters of runs that did not record it
    legend: Mapping[str, int] = field(default_factory=dict)  # colours by label, where the lines are no runs


PLOTS = (
    Plot("Reward on held-out prompts", "Fresh answers to prompts not used in training; the band is ±1 standard "
           "error.", ("eval/reward",), "reward"),
    Plot("Gold next to the learned reward", "What the learned reward stands for, on the same answers; not used for "
           "training. Falling while the plot above rises is over-optimisation.", ("eval/gold",), "gold reward"),
    Plot("Distance from the reference", "KL(π‖π_ref) on the policy's own held-out answers, ±1 standard error.",
           ("eval/kl_reverse",), "KL(π‖π_ref), nats", COUNT),
    Plot("Preference accuracy on held-out pairs", "By the implicit reward; ties count ½. Band: 95 % interval; the "
           "line across is picking the longer response.", ("eval/rewards/accuracies",), "share", SHARE),
    Plot("Accuracy by log-prob per token", "The same pairs by what methods without a reference train.",
           ("eval/accuracy/mean_logp",), "share", SHARE),
    Plot("Held-out labels", "Probability that a response labelled good has a higher implicit reward than one labelled "
           "bad, ±1 standard error.", ("eval/labels/auc",), "probability", SHARE),
    Plot("Accuracy on training pairs", "Share of the pairs of each step that the implicit reward ranks as given.",
           ("rewards/accuracies",), "share", SHARE),
    Plot("Training reward", "Score of the policy's own answers in each step.", ("reward",), "reward", fresh=True),
    Plot("Push up and push down", "Coefficient mass of each step: pulled up above the axis, pushed down below "
           "it (dashed).", ("push/up", "push/down"), "Σ|c| up, down", mirrored=True),
    Plot("Implicit rewards", "Preferred responses solid, the others dashed. Both falling together is likelihood "
           "displacement.", ("rewards/chosen", "rewards/rejected"), "β log π/π_ref", scaled=True),
    Plot("Margin", "Implicit reward of the preferred response minus that of the other.", ("rewards/margins",),
           "margin", scaled=True),
    Plot("Response length", "Mean length of held-out answers, ±1 standard error.", ("eval/length",), "tokens", COUNT),
    Plot("Probe set", "log π − log π_ref per token of responses that are not trained on, ±1 standard error. Falling is "
           "forgetting.", (PROBE,), "nats per token"),
    Plot("Gradient norm", "Before clipping.", ("grad_norm",), "norm", COUNT),
    Plot("Effective sample size", "1 while the policy equals the one that wrote the responses; low means a stale "
           "collection.", ("ess",), "ESS / n", SHARE),
    Plot("Ratio tail", "99th percentile of π/π_collection per token.", ("ratio/p99",), "ratio", COUNT),
    Plot("Loss on held-out demonstrations", "Mean negative log-likelihood per token, ±1 standard error.",
           ("eval/loss",), "nats per token"),
)  # fmt: skip


def draw(runs: Sequence[Run]) -> list[Drawn]:
    """Every figure for which some run has numbers, with the reward–KL frontier first."""
    path = _frontier(runs)
    curves = [_drawn(*_shown(plot, runs)) for plot in PLOTS if any(_applies(plot, run) for run in runs)]
    return [*([path] if path else []), *curves]


def _applies(plot: Plot, run: Run) -> bool:
    """Whether a plot shows a run."""
    own = plot.keys[0] != "eval/accuracy/mean_logp" or criterion(run) == "mean"
    return bool(run.points(plot.keys[0])) and own and not (plot.fresh and not run.mean("on_policy"))


def _shown(plot: Plot, runs: Sequence[Run]) -> tuple[Plot, list[Run]]:
    """The runs without what the plot does not show; in nats if their β differ, which would scale their curves."""
    shown = [run if _applies(plot, run) else replace(run, steps=[], evaluations=[]) for run in runs]
    if not plot.scaled or len({scale(run) for run in shown if run.steps}) < 2:
        return plot, shown
    plot = replace(plot, y="log π/π_ref, nats", note=f"{plot.note} Divided by each run's β, which differ.")
    return plot, [_in_nats(run, plot.keys) for run in shown]


def _in_nats(run: Run, keys: Sequence[str]) -> Run:
    return replace(run, steps=[{**line, **{k: line[k] / scale(run) for k in keys if k in line}} for line in run.steps])


def scale(run: Run) -> float:
    """The β of a run's implicit rewards; 1 for methods without one."""
    values = {key.rpartition(".")[2]: value for key, value in flat(run.objective).items()}
    beta = values.get("beta")
    return float(beta) if isinstance(beta, int | float) and beta > 0 else 1.0


def name(run: Run) -> str:
    """Name of a run in tooltips."""
    return f"{run.letter}, {run.label}"


def summary(runs: Sequence[Run]) -> Markup | None:
    """Reward before and after, one row per run."""
    rows = []
    for run in runs:
        before, after = run.before("eval/reward"), run.after("eval/reward")
        if before and after:
            ends = (before.value, before.se or 0.0), (after.value, after.se or 0.0)
            rows.append(Change(name(run), run.letter, *ends))
    title = "Reward on held-out prompts before and after training"
    known = [name(run) for run in runs]
    return inline(changes(rows, title, "reward, before | → after ●, ±1 SE", known)) if rows else None


def _picture(chart: Chart, runs: Sequence[Run]) -> Markup:
    return inline(figure([chart], known=[name(run) for run in runs], whole=WIDTH, alone=False, tips=True))


def _drawn(plot: Plot, runs: Sequence[Run]) -> Drawn:
    lines = [line for run in runs for line in _lines(plot, run, len(runs))]
    guides = _guides(plot, runs)
    chart = Chart(plot.title, "steps", plot.y, lines, range=plot.range, mirrored=plot.mirrored, guides=guides)
    missing = [run.letter for run in runs if not run.points(plot.keys[0])]
    window = max((_window(len(run.points(plot.keys[0]))) for run in runs), default=1)
    note = plot.note
    if not plot.keys[0].startswith("eval/") and window > 1:
        note += f" Bold: moving average over {window} steps; faint: every step."
    return Drawn(plot.title, note, _picture(chart, runs), *_table(plot, runs), missing)


def _guides(plot: Plot, runs: Sequence[Run]) -> dict[str, float | int]:
    """The accuracy of picking the longer response, if it is the same for all runs."""
    if plot.keys != ("eval/rewards/accuracies",):
        return {}
    values = {y for run in runs for _, y in run.points("eval/accuracy/longer")}
    return {"picking the longer response": values.pop()} if len(values) == 1 else {}


def _lines(plot: Plot, run: Run, count: int) -> list[Line]:
    """The plot's keys of one run; training metrics are smoothed, with every step shown faintly."""
    out = []
    for second, key in enumerate(plot.keys):
        raw = run.points(key)
        if second and plot.mirrored:
            raw = [(x, -y) for x, y in raw]
        if not raw:
            continue
        evaluation, window = key.startswith("eval/"), _window(len(raw))
        smooth = raw if evaluation or window == 1 else _smoothed(raw, window)
        if smooth is not raw:
            behind = thin(raw, max(30, POINTS // (count * len(plot.keys))))
            out.append(Line(name(run), *_columns(behind), faint=True))
        tag = "" if second and not plot.mirrored else run.letter
        low, high = (run.bounds(key) or _ends(raw, run.errors(key))) if evaluation else (None, None)
        out.append(Line(name(run), *_columns(smooth), low, high, dashed=bool(second), tag=tag))
    return out


def _columns(points: Sequence[tuple[Real, Real]]) -> tuple[list[Real], list[Real]]:
    return [x for x, _ in points], [y for _, y in points]


def _ends(points: Points, errors: Sequence[Real | None]) -> tuple[list[float], list[float]]:
    """One standard error to each side; nan if unknown."""
    known = [math.nan if error is None else error for error in errors]
    pairs = list(zip([y for _, y in points], known, strict=True))
    return [y - e for y, e in pairs], [y + e for y, e in pairs]


KL, REWARD = "eval/kl_reverse", "eval/reward"


def _frontier(runs: Sequence[Run]) -> Drawn | None:
    """Reward against KL: the cost of each run's gain."""
    lines, rows = [], []
    for run in runs:
        both = [e for e in run.evaluations if e.get(REWARD) is not None and e.get(KL) is not None]
        both = list(thin(both, max(12, MARKERS // len(runs))))
        if both:
            lines.append(path(name(run), run.letter, both))
        for e in both:
            values = [Value(e[k], e.get(f"{k}_se")) for k in (KL, REWARD)]
            rows.append([run.letter, number(e["step"]), *map(measured, values)])
    if not lines:
        return None
    note = "Each marker is an evaluation, ±1 standard error, starting before training. Higher at the same KL is better."
    missing = [run.letter for run in runs if run.letter not in {line.tag for line in lines}]
    head = ["run", "step", "KL(π‖π_ref)", "reward"]
    return Drawn("Reward–KL frontier", note, _picture(frontier("Reward–KL frontier", lines), runs), head, rows, missing)


def path(label: str, tag: str, evaluations: Sequence[dict[str, Any]]) -> Line:
    """Evaluations of one run as a path of reward against KL, ±1 standard error each way."""
    kl, reward = ([(0.0, float(e[key])) for e in evaluations] for key in (KL, REWARD))
    across, up = (
        _ends(points, [e.get(f"{key}_se") for e in evaluations]) for points, key in ((kl, KL), (reward, REWARD))
    )
    return Line(label, [x for _, x in kl], [y for _, y in reward], *up, *across, tag=tag)


def _table(plot: Plot, runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """The recorded numbers by step; for long runs evenly spaced steps, including the first and the last."""
    columns = [(run, key) for run in runs for key in plot.keys if run.points(key)]
    head = ["step"] + [f"{run.letter} {key}" if len(plot.keys) > 1 else run.letter for run, key in columns]
    cells = [_cells(run, key) for run, key in columns]
    steps = sorted({step for column in cells for step in column})
    chosen = thin(steps, EVALUATIONS if plot.keys[0].startswith("eval/") else ROWS)
    return head, [[number(s), *(column.get(s, "–") for column in cells)] for s in chosen]


def _cells(run: Run, key: str) -> dict[float, str]:
    errors: Iterable[Real | None] = run.errors(key) if key.startswith("eval/") else ()
    padded = [*errors, *[None] * len(run.points(key))]
    return {x: measured(Value(y, e)) for (x, y), e in zip(run.points(key), padded, strict=False)}


def _window(n: int) -> int:
    """Width of the moving average: odd, about 1/25 of the run, none for short runs."""
    return 1 if n < 50 else 2 * (n // 50) + 1


def _smoothed(points: Points, window: int) -> Points:
    """Centred moving average; narrower towards the ends."""
    half, ys = window // 2, [y for _, y in points]
    out = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(ys) - 1 - i)
        near = ys[i - reach : i + reach + 1]
        out.append((x, sum(near) / len(near)))
    return out
