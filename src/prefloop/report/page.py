"""One self-contained page from run folders: it loads nothing, runs nothing, and treats model output as untrusted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from prefloop.analysis.compare import Difference
from prefloop.analysis.numbers import NONE, compact, duration, interval, number, share
from prefloop.analysis.overoptimisation import LEAST, overoptimisation
from prefloop.core import files
from prefloop.core.errors import UserError
from prefloop.core.metric_table import METRICS, warning
from prefloop.report.data import (
    Real,
    Run,
    Value,
    clean,
    comparisons,
    cut,
    flat,
    load,
    measured,
)
from prefloop.report.figures import draw, summary
from prefloop.report.panel import thin
from prefloop.report.svg import page_sheet

MEGABYTE = 1_000_000
PROMPTS = 12  # number of prompts in the sample browser
EVALUATIONS = 50  # evaluations per run in the embedded record
TEXT = 160_000  # maximum number of characters of samples on a page
TEMPLATES = Path(__file__).parent / "templates"


def write(
    folders: Sequence[Path], out: Path, *, title: str, verdict: Sequence[str], labels: Sequence[str] | None = None
) -> Path:
    """Write the page that compares the runs.

    Args:
        folders: run folders, in the order of the page.
        out: the file; an existing page is replaced.
        verdict: sentences about the results.
        labels: names of the runs; by default made from their differences.

    Raises:
        UserError: not a run folder, or so many runs that the page would exceed a megabyte.
        DataError: a broken record.
    """
    page = render(load(folders, labels), title=title, verdict=verdict)
    data = page.encode("utf-8")
    if len(data) > MEGABYTE:
        raise UserError(f"the page would take {len(data) / MEGABYTE:.1f} MB", fix="compare fewer runs on one page")
    files.write(out, data)
    return out


def render(runs: Sequence[Run], *, title: str, verdict: Sequence[str]) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    limit = max(200, TEXT // max(1, 2 * PROMPTS * len(runs)))
    environment.filters.update(cut=lambda text: cut(str(text), limit), number=number, paper=paper_link)
    page = environment.get_template("page.html").render(
        title=title,
        verdict=verdict,
        runs=runs,
        style=Markup(page_sheet() + "\n" + (TEMPLATES / "style.css").read_text(encoding="utf-8")),
        summary=summary(runs),
        table=table(runs),
        figures=draw(runs),
        samples=comparisons(runs, PROMPTS),
        greedy=any(line.get("greedy") for run in runs for line in run.samples),
        details=[details(run) for run in runs],
        data=embedded(runs),
        created=sorted({str(run.manifest.get("created", ""))[:10] for run in runs} - {""}),
        estimators=_estimators(runs),
    )
    return clean(page)


# ---- the table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One row of the table: a quantity, and a cell for each run."""

    name: str
    note: str
    cells: list[str]


Read = Callable[[Run], str]


def _ends(key: str) -> Read:
    return lambda run: f"{measured(run.before(key))} → {measured(run.after(key))}"


def _bounds(key: str, place: int) -> Read:
    """An evaluation's value with its interval [low, high]."""

    def read(run: Run) -> str:
        lines = [line for line in run.evaluations if line.get(key) is not None]
        if not lines:
            return NONE
        line = lines[place]
        low, high = line.get(f"{key}_low"), line.get(f"{key}_high")
        return number(line[key], 3) if low is None or high is None else interval(line[key], low, high)

    return read


def _change(run: Run) -> str:
    """The paired difference with its interval."""
    change = run.change()
    return NONE if change is None else interval(change.value, change.low, change.high)


def _after(key: str) -> Read:
    return lambda run: measured(run.after(key))


def _last(key: str) -> Read:
    return lambda run: number(run.last(key))


def _cut(run: Run) -> str:
    value = run.after("eval/cut")
    return share(value.value if value else None)


TABLE: dict[str, list[tuple[str, str, Read]]] = {
    "Outcome": [
        ("Reward before", "held-out prompts, ± SE", lambda run: measured(run.before("eval/reward"))),
        ("Reward after", "", _after("eval/reward")),
        ("Change", "the same prompts, 95 % interval", _change),
        ("Gold next to a learned reward", "before → after", _ends("eval/gold")),
        ("Preference accuracy before", "held-out pairs, 95 % interval", _bounds("eval/rewards/accuracies", 0)),
        ("Preference accuracy after", "by the implicit reward; ties count ½", _bounds("eval/rewards/accuracies", -1)),
        ("Accuracy of “pick the longer”", "baseline without a model", _bounds("eval/accuracy/longer", -1)),
        ("Margin after", "implicit rewards, held-out pairs", _bounds("eval/rewards/margins", -1)),
    ],
    "Distance from the reference": [
        ("KL(π‖π_ref)", "nats per response", _after("eval/kl_reverse")),
        ("KL(π_ref‖π)", "nats per response", _after("eval/kl_forward")),
        ("Length", "tokens, before → after", _ends("eval/length")),
        ("Cut at the limit", "share of answers after", _cut),
    ],
    "Switches, as measured": [
        ("On-policy share", "of the groups trained on", lambda run: share(run.mean("on_policy"))),
        ("Passes", "over each collection", lambda run: number(run.most("pass"))),
        ("Push-down mass", "mean per step", lambda run: number(run.mean("push/down"))),
        ("Push-up mass", "mean per step", lambda run: number(run.mean("push/up"))),
    ],
    "Cost": [
        ("Steps", "optimiser steps", _last("step")),
        ("Samples drawn", "responses", _last("samples")),
        ("Tokens sampled", "", _last("tokens/sampled")),
        ("Tokens trained", "repeats counted", _last("tokens/trained")),
        ("Time", "", lambda run: duration(run.seconds)),
    ],
}


def table(runs: Sequence[Run]) -> dict[str, list[Row]]:
    """Quantities by group, with a cell for each run; quantities that no run has are left out."""
    out = {}
    for group, lines in TABLE.items():
        rows = [Row(name, note, [read(run) for run in runs]) for name, note, read in lines]
        shown = [row for row in rows if any(cell.strip("– →") for cell in row.cells)]
        if shown:
            out[group] = shown
    return out


def _estimators(runs: Sequence[Run]) -> list[str]:
    """The KL estimators recorded by the runs."""
    said = [flat(run.manifest) for run in runs]
    names = [value for each in said for key, value in each.items() if key.rpartition(".")[2] == "kl_estimates"]
    return list(dict.fromkeys(map(str, names)))


# ---- each run -----------------------------------------------------------------------------------------------------

SHOWN_ALONE = ("formula", "paper")


def details(run: Run) -> dict[str, Any]:
    """The objective, how to reproduce the run, and its environment."""
    objective = flat(run.objective)
    command = run.manifest.get("command")
    environment = {k: v for k, v in run.manifest.items() if k in ("created", "versions", "hardware", "seeds", "seed")}
    environment |= {k: run.manifest[k] for k in ("data", "model") if k in run.manifest}
    return {
        "run": run,
        "formula": objective.get("formula", ""),
        "paper": objective.get("paper", ""),
        "settings": {k: _cell(v) for k, v in objective.items() if k not in SHOWN_ALONE},
        "command": shlex.join(map(str, command)) if isinstance(command, list) else str(command or ""),
        "again": f"prefloop train {shlex.quote(str(Path(run.path.name) / 'config.yaml'))}",
        "environment": {k: _cell(v) for k, v in flat(environment).items()},
        "notes": [str(note) for note in run.manifest.get("notes", [])],
    }


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or NONE
    if value is None or isinstance(value, bool):
        return {None: NONE, True: "yes", False: "no"}[value]
    return compact(value, 6) if isinstance(value, float) else str(value)


ARXIV, DOI = re.compile(r"arXiv:(\d{4}\.\d{4,5})"), re.compile(r"doi:(10\.\d{4,9}/[\w.()/;:-]+)")


def paper_link(paper: str) -> Markup:
    """A citation with its identifier as a link; everything else is escaped."""
    for pattern, host in ((ARXIV, "https://arxiv.org/abs/"), (DOI, "https://doi.org/")):
        match = pattern.search(str(paper))
        if match:
            before, after = paper[: match.start()], paper[match.end() :]
            link = Markup('<a href="{}{}" rel="noreferrer">{}</a>').format(host, match[1], match[0])
            return Markup("{}{}{}").format(before, link, after)
    return Markup("{}").format(paper)


def embedded(runs: Sequence[Run]) -> Markup:
    """The evaluations and outcomes as JSON inside the page, at full precision; `<` is escaped, so no tag can end it."""
    record = [
        {
            "letter": run.letter,
            "label": run.label,
            "folder": run.path.name,
            "method": run.method,
            "before": _plain(run.before("eval/reward")),
            "after": _plain(run.after("eval/reward")),
            "change": _judged(run.change()),
            "evaluations": thin(run.evaluations, EVALUATIONS),
        }
        for run in runs
    ]
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _judged(change: Difference | None) -> dict[str, Any] | None:
    return None if change is None else files.plain({**asdict(change), "verdict": change.verdict})


def _plain(value: Value | None) -> dict[str, Real | None] | None:
    return None if value is None else {"value": value.value, "se": value.se}


# ---- sentences ----------------------------------------------------------------------------------------------------


def findings(runs: Sequence[Run]) -> list[str]:
    """The results in sentences; differences are judged by the rule of `analysis.compare`."""
    own = [sentence for run in runs for sentence in (*_outcome(run), *_turn(run), *_warnings(run))]
    return own + _against_first(runs)


def _outcome(run: Run) -> list[str]:
    """Whether the reward on held-out prompts changed, and at what KL."""
    before, after, change = run.before("eval/reward"), run.after("eval/reward"), run.change()
    if not (before and after and len({line["step"] for line in run.evaluations}) > 1):
        return [f"{run.letter} ({run.label}) has no evaluation before and after training."]
    kl = run.after("eval/kl_reverse")
    cost = f", at KL(π‖π_ref) = {measured(kl)} nats" if kl else ""
    judged = (
        f". Change: {change}" if change else "; not judged, because the run has no scored answers to the same prompts"
    )
    return [
        f"{run.letter} ({run.label}): {_rewarded(run)} on held-out prompts {measured(before)} → {measured(after)} in"
        f" {number(run.last('step'))} steps{cost}{judged}."
    ]


def _against_first(runs: Sequence[Run]) -> list[str]:
    """Each later run against the first, if both are trained on the same reward and answered the same prompts."""
    first, *others = runs
    reward = _shared_reward(first)
    pairs = [(run, run.against(first)) for run in others if _shared_reward(run) == reward and reward is not None]
    return [
        f"{run.letter} minus {first.letter} at the end: {difference}."
        for run, difference in pairs
        if difference is not None
    ]


def _shared_reward(run: Run) -> Any:
    """The reward and its options, without which scores do not compare; None if each run fitted its own model."""
    reward = run.objective.get("reward", {})
    return None if reward.get("name") == "bradley_terry" and "path" not in reward else reward


def _warnings(run: Run) -> list[str]:
    """Metrics that show their red flag."""
    texts = (warning(key, [value for _, value in run.points(key)]) for key in METRICS)
    return [f"{run.letter}: {text}" for text in texts if text is not None]


def _rewarded(run: Run) -> str:
    """Name of the training reward: a learned one if gold was measured separately."""
    return "the learned reward" if run.points("eval/gold") else "reward"


def _turn(run: Run) -> list[str]:
    """Whether the gold reward fell while the learned one rose, if both were measured."""
    gold = dict(run.points("eval/gold"))
    both = [(step, proxy, gold[step]) for step, proxy in run.points("eval/reward") if step in gold]
    if not both:
        return []
    turn = overoptimisation(*map(list, zip(*both, strict=True)))
    change = f"gold {measured(run.before('eval/gold'))} → {measured(run.after('eval/gold'))}"
    if turn is None:
        few = (
            f"{len(both)} evaluations are too few to test for over-optimisation (need {LEAST}: lower evaluation.every)"
        )
        return [f"{run.letter}: {change}; {few}."]
    if not turn.overoptimised:
        return [f"{run.letter}: {change}; no over-optimisation beyond noise."]
    lost, gained = number(turn.gold_lost, 3), number(turn.proxy_gained, 3)
    what = f"from there to the end gold lost {lost} while the learned reward gained {gained}"
    return [f"{run.letter}: over-optimisation from step {number(turn.step)}: {what} ({change})."]
