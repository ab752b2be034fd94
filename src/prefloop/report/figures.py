"""Which plots a page has, with what they show, and the table under each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from prefloop.report.data import Points, Real, Run, Value, measured, number
from prefloop.report.svg import Curve, dumbbell, plot

Item = TypeVar("Item")
POINTS = 1600  # per plot, over all its curves: keeps a page of many runs below a megabyte
MARKERS = 240  # per plot, over all its curves
ROWS = 24  # of the table under a plot of training steps
EVALUATIONS = 60  # rows of the table under a plot of evaluations


@dataclass(frozen=True)
class Figure:
    """One plot: keys of `metrics.jsonl` over the step, all runs together."""

    title: str
    note: str  # what to look for
    keys: tuple[str, ...]  # a second key is drawn dashed
    y: str
    mirrored: bool = False  # the second key points down


@dataclass(frozen=True)
class Drawn:
    """A figure ready for the page."""

    title: str
    note: str
    svg: Markup
    head: list[str]
    rows: list[list[str]]
    missing: list[str]  # letters of runs that did not record it


FIGURES = (
    Figure("Gold reward on held-out prompts", "Fresh answers to prompts never trained on; the band is ±1 standard "
           "error.", ("eval/reward",), "gold reward"),
    Figure("Gold beside the learned reward", "What the learned reward stands for, on the same answers; it is never "
           "trained on. Falling while the plot above rises is over-optimisation.", ("eval/gold",), "gold reward"),
    Figure("Distance from the reference", "KL(π‖π_ref) on the policy's own held-out answers, ±1 standard error.",
           ("eval/kl_reverse",), "KL(π‖π_ref), nats"),
    Figure("Training reward", "Score of what each step was trained on: the policy's own answers when on-policy, the "
           "dataset's when offline.", ("reward",), "reward"),
    Figure("Push up and push down", "Coefficient mass of each step: above the axis what is pulled up, below it "
           "(dashed) what is pushed down.", ("push/up", "push/down"), "Σ|c| up, down", mirrored=True),
    Figure("Implicit rewards", "Preferred responses solid, the others dashed. Both falling together is likelihood "
           "displacement.", ("rewards/chosen", "rewards/rejected"), "β log π/π_ref"),
    Figure("Margin", "Implicit reward of the preferred response less that of the other.", ("rewards/margins",),
           "margin"),
    Figure("Response length", "Mean length of held-out answers, ±1 standard error.", ("eval/length",), "tokens"),
    Figure("Gradient norm", "Before clipping.", ("grad_norm",), "norm"),
    Figure("Effective sample size", "1 while the policy is the one that wrote the responses; low means a stale "
           "collection.", ("ess",), "ESS / n"),
    Figure("Ratio tail", "99th percentile of π/π_collection per token.", ("ratio/p99",), "ratio"),
    Figure("Preference accuracy on held-out pairs", "By the implicit reward; ties count ½.",
           ("eval/rewards/accuracies",), "share"),
)  # fmt: skip


def draw(runs: Sequence[Run]) -> list[Drawn]:
    """Every figure that at least one run has numbers for."""
    drawn = [_figure(figure, runs) for figure in FIGURES if any(run.points(figure.keys[0]) for run in runs)]
    frontier = _frontier(runs)
    return [*drawn[:1], *([frontier] if frontier else []), *drawn[1:]]


def summary(runs: Sequence[Run]) -> Markup | None:
    """Gold reward before and after, one row per run."""
    rows = []
    for i, run in enumerate(runs):
        before, after = run.before("eval/reward"), run.after("eval/reward")
        if before and after:
            ends = (before.value, before.se or 0.0), (after.value, after.se or 0.0)
            rows.append((i, run.letter, *ends))
    title = "Gold reward on held-out prompts before and after training"
    return dumbbell(rows, title=title, x="gold reward, before ○ → after ●, ±1 SE") if rows else None


def _figure(figure: Figure, runs: Sequence[Run]) -> Drawn:
    curves = [c for i, run in enumerate(runs) for c in _curves(figure, i, run, len(runs))]
    svg = plot(curves, title=figure.title, x="steps", y=figure.y, mirrored=figure.mirrored)
    missing = [run.letter for run in runs if not run.points(figure.keys[0])]
    window = max((_window(len(run.points(figure.keys[0]))) for run in runs), default=1)
    note = figure.note
    if not figure.keys[0].startswith("eval/") and window > 1:
        note += f" Bold: mean of {window} steps around each; faint: every step."
    return Drawn(figure.title, note, svg, *_table(figure, runs), missing)


def _curves(figure: Figure, place: int, run: Run, count: int) -> list[Curve]:
    out = []
    for second, key in enumerate(figure.keys):
        raw = run.points(key)
        if second and figure.mirrored:
            raw = [(x, -y) for x, y in raw]
        evaluation, window = key.startswith("eval/"), _window(len(raw))
        if not raw:
            continue
        smooth = raw if evaluation or window == 1 else _smoothed(raw, window)
        budget = max(12, MARKERS // count) if evaluation else max(30, POINTS // (count * len(figure.keys) * 2))
        out.append(
            Curve(
                run=place,
                tag="" if second and not figure.mirrored else run.letter,
                name=f"{run.letter}, {run.label}" + (f", {key}" if len(figure.keys) > 1 else ""),
                points=thin(smooth, budget),
                errors=thin(run.errors(key), budget) if evaluation else (),
                faint=() if smooth is raw else thin(raw, budget),
                dashed=bool(second),
                marked=evaluation,
            )
        )
    return out


def _frontier(runs: Sequence[Run]) -> Drawn | None:
    """Reward against distance: what each run pays in KL for what it gains."""
    curves, rows = [], []
    for i, run in enumerate(runs):
        both = [e for e in run.evaluations if e.get("eval/reward") is not None and e.get("eval/kl_reverse") is not None]
        both = list(thin(both, max(12, MARKERS // len(runs))))
        points = [(float(e["eval/kl_reverse"]), float(e["eval/reward"])) for e in both]
        if points:
            curves.append(Curve(i, run.letter, f"{run.letter}, {run.label}", points, marked=True))
        for e in both:
            values = [Value(e[k], e.get(f"{k}_se")) for k in ("eval/kl_reverse", "eval/reward")]
            rows.append([run.letter, number(e["step"]), *map(measured, values)])
    if not curves:
        return None
    svg = plot(curves, title="Reward against KL", x="KL(π‖π_ref), nats", y="gold reward")
    note = "Each marker is an evaluation, from the start at the left. Higher at the same KL is better."
    missing = [run.letter for run in runs if run.letter not in {c.tag for c in curves}]
    return Drawn("Reward–KL frontier", note, svg, ["run", "step", "KL(π‖π_ref)", "gold reward"], rows, missing)


def _table(figure: Figure, runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """The recorded numbers by step; of long runs evenly spaced steps, the first and the last among them."""
    columns = [(run, key) for run in runs for key in figure.keys if run.points(key)]
    head = ["step"] + [f"{run.letter} {key}" if len(figure.keys) > 1 else run.letter for run, key in columns]
    cells = [_cells(run, key) for run, key in columns]
    steps = sorted({step for column in cells for step in column})
    chosen = thin(steps, EVALUATIONS if figure.keys[0].startswith("eval/") else ROWS)
    return head, [[number(s), *(column.get(s, "–") for column in cells)] for s in chosen]


def _cells(run: Run, key: str) -> dict[float, str]:
    errors: Iterable[Real | None] = run.errors(key) if key.startswith("eval/") else ()
    padded = [*errors, *[None] * len(run.points(key))]
    return {x: measured(Value(y, e)) for (x, y), e in zip(run.points(key), padded, strict=False)}


def _window(n: int) -> int:
    """Width of the moving average: odd, about a twenty-fifth of the run, none for short ones."""
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


def thin(items: Sequence[Item], limit: int) -> Sequence[Item]:
    """At most `limit` evenly spaced items, first and last kept."""
    if len(items) <= limit:
        return items
    places = [round(i * (len(items) - 1) / (limit - 1)) for i in range(limit)]
    return [items[i] for i in places]
