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
from prefloop.analysis.forgetting import PROBE
from prefloop.analysis.numbers import NONE, compact, duration, gibibytes, interval, is_part, number, share
from prefloop.core import files
from prefloop.core.errors import UserError
from prefloop.report.cells import columns
from prefloop.report.chart import Table
from prefloop.report.data import (
    Real,
    Run,
    Value,
    clean,
    comparisons,
    cut,
    flat,
    measured,
)
from prefloop.report.figures import Drawn, draw, scale, summary
from prefloop.report.findings import AUC, CRITERIA, LONGER, criterion
from prefloop.report.panel import thin
from prefloop.report.svg import page_sheet
from prefloop.runs.best import best_of

MEGABYTE = 1_000_000
PROMPTS = 12  # number of prompts in the sample browser
EVALUATIONS = 50  # evaluations per run in the embedded record
TEXT = 160_000  # maximum number of characters of samples on a page
WORDS = 32  # characters of a cell that holds a sentence
TEMPLATES = Path(__file__).parent / "templates"


def write(
    folders: Sequence[Path],
    out: Path,
    *,
    title: str,
    verdict: Sequence[str],
    labels: Sequence[str] | None = None,
    reload: float | None = None,
) -> Path:
    """Write the page that compares the runs.

    Args:
        folders: run folders, in the order of the page.
        out: the file; an existing page is replaced.
        verdict: sentences about the results.
        labels: names of the runs; by default made from their differences.
        reload: seconds after which a browser reloads the page; None: never.

    Raises:
        UserError: not a run folder, or so many runs that the page would exceed a megabyte.
        DataError: a broken record.
    """
    page = render(columns(folders, labels), title=title, verdict=verdict, reload=reload)
    return save(page, out, limit=MEGABYTE, fix="compare fewer runs on one page")


def save(page: str, out: Path, *, limit: int, fix: str) -> Path:
    """Write a page; an existing one is replaced.

    Raises:
        UserError: more than so many bytes.
    """
    data = page.encode("utf-8")
    if len(data) > limit:
        raise UserError(f"the page would take {len(data) / MEGABYTE:.1f} MB", fix=fix)
    files.write(out, data)
    return out


def render(runs: Sequence[Run], *, title: str, verdict: Sequence[str], reload: float | None = None) -> str:
    """The page as text."""
    template = environment(len(runs)).get_template("page.html")
    page = template.render(
        title=title,
        verdict=verdict,
        reload=reload,
        runs=runs,
        style=style(),
        summary=summary(runs),
        table=table(runs),
        figures=draw(runs),
        samples=comparisons(runs, PROMPTS),
        greedy=any(line.get("greedy") for run in runs for line in run.samples),
        details=[details(run, place) for place, cell in enumerate(runs) for run in (cell.members or (cell,))],
        data=embedded(runs),
        seeds=any(run.members for run in runs),
        created=sorted({str(run.manifest.get("created", ""))[:10] for run in runs} - {""}),
        kl=any(run.points("eval/kl_reverse") for run in runs),
        estimators=_estimators(runs),
    )
    return clean(page)


def environment(runs: int = 1) -> Environment:
    """The templates; everything that they print is escaped, and samples of so many runs are cut to fit on a page."""
    own = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    limit = max(200, TEXT // max(1, 2 * PROMPTS * runs))
    own.filters.update(cut=lambda text: cut(str(text), limit), number=number, paper=paper_link, wordy=_wordy, code=code)
    return own


def code(text: str) -> Markup:
    """A sentence in which what stands between backticks is code; escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(Markup.escape(text))))


def _wordy(table: Drawn | Table) -> list[bool]:
    """Which columns hold sentences, which are wrapped and aligned to the left."""
    return [any(len(row[i]) > WORDS for row in table.rows) for i in range(len(table.head))]


def style() -> Markup:
    """The style sheet of a page and of its figures."""
    return Markup(page_sheet() + "\n" + (TEMPLATES / "style.css").read_text(encoding="utf-8"))


def as_script(value: Any) -> Markup:
    """A value as JSON inside a page, at full precision; `<` is escaped, so no tag can end it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


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


def _per_token(place: int) -> Read:
    """Accuracy by log-prob per token, of the methods that train it."""
    read = _bounds(CRITERIA["mean"][0], place)
    return lambda run: read(run) if criterion(run) == "mean" else NONE


def _margin(run: Run) -> str:
    value, beta = _bounds("eval/rewards/margins", -1)(run), scale(run)
    return NONE if value == NONE else f"{value} (β {compact(beta)})"


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


def _best(run: Run) -> str:
    best = best_of(run.evaluations, run.config.get("evaluation", {}).get("keep_best"))
    return NONE if best is None else f"{best.metric} {best.value:.4g} at step {best.step}"


TABLE: dict[str, list[tuple[str, str, Read]]] = {
    "Outcome": [
        ("Reward before", "held-out prompts, ± SE", lambda run: measured(run.before("eval/reward"))),
        ("Reward after", "", _after("eval/reward")),
        ("Change", "the same prompts, 95 % interval", _change),
        ("Gold next to a learned reward", "before → after", _ends("eval/gold")),
        ("Preference accuracy before", "held-out pairs, 95 % interval", _bounds("eval/rewards/accuracies", 0)),
        ("Preference accuracy after", "by the implicit reward; ties count ½", _bounds("eval/rewards/accuracies", -1)),
        ("By log-prob per token before", "the criterion of methods without a reference", _per_token(0)),
        ("By log-prob per token after", "", _per_token(-1)),
        ("Accuracy of “pick the longer”", "baseline without a model", _bounds(LONGER, -1)),
        ("Margin after", "implicit rewards, each × its own β: not comparable", _margin),
        ("Good labels above bad ones", "probability by the implicit reward, before → after", _ends(AUC)),
        ("The same by length", "baseline without a model", _after("eval/labels/longer")),
        ("Held-out loss", "demonstrations, nats per token, before → after", _ends("eval/loss")),
        ("Perplexity before", "95 % interval", _bounds("eval/perplexity", 0)),
        ("Perplexity after", "", _bounds("eval/perplexity", -1)),
        ("Best evaluation", "by evaluation.keep_best: the model in best/", _best),
    ],
    "Distance from the reference": [
        ("KL(π‖π_ref)", "nats per response", _after("eval/kl_reverse")),
        ("KL(π_ref‖π)", "nats per response", _after("eval/kl_forward")),
        ("Length", "tokens, before → after", _ends("eval/length")),
        ("Best of several answers", "training reward, before → after", _ends("eval/reward/best")),
        ("The same by gold", "before → after", _ends("eval/gold/best")),
        ("Different bigrams", "share among the answers to one prompt, before → after", _ends("eval/distinct_2")),
        ("Tokens in common", "share of two answers to one prompt, before → after", _ends("eval/overlap")),
        ("Cut at the limit", "share of answers after", _cut),
        ("Probe set", "log π − log π_ref per token, after", _after(PROBE)),
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
    for group, lines in {**TABLE, BY_KIND: _by_kind(runs)}.items():
        rows = [Row(name, note, [read(run) for run in runs]) for name, note, read in lines]
        shown = [row for row in rows if any(cell.strip("– →") for cell in row.cells)]
        if shown:
            out[group] = shown
    return out


BY_KIND = "Probe set by kind of response"


def _by_kind(runs: Sequence[Run]) -> list[tuple[str, str, Read]]:
    """What the runs' own probe sets measure, after training."""
    keys = dict.fromkeys(key for run in runs for line in run.evaluations for key in line if key.startswith(f"{PROBE}/"))
    return [
        (key.removeprefix(f"{PROBE}/"), "log π − log π_ref per token", _after(key)) for key in keys if not is_part(key)
    ]


def _estimators(runs: Sequence[Run]) -> list[str]:
    """The KL estimators recorded by the runs."""
    said = [flat(run.manifest) for run in runs]
    names = [value for each in said for key, value in each.items() if key.rpartition(".")[2] == "kl_estimates"]
    return list(dict.fromkeys(map(str, names)))


# ---- each run -----------------------------------------------------------------------------------------------------

SHOWN_ALONE = ("formula", "paper")
MEMORY = "hardware.memory"  # in bytes


def details(run: Run, place: int) -> dict[str, Any]:
    """The objective, how to reproduce the run, and its environment.

    Args:
        place: of its column, which determines its colour.
    """
    objective = flat(run.objective)
    command = run.manifest.get("command")
    environment = {k: v for k, v in run.manifest.items() if k in ("created", "versions", "hardware", "seeds", "seed")}
    environment |= {k: run.manifest[k] for k in ("data", "model") if k in run.manifest}
    return {
        "run": run,
        "place": place,
        "formula": objective.get("formula", ""),
        "paper": objective.get("paper", ""),
        "settings": {k: _cell(v) for k, v in objective.items() if k not in SHOWN_ALONE},
        "command": shlex.join(map(str, command)) if isinstance(command, list) else str(command or ""),
        "again": f"prefloop train {shlex.quote(str(Path(run.path.name) / 'config.yaml'))}",
        "environment": {k: gibibytes(v) if k == MEMORY else _cell(v) for k, v in flat(environment).items()},
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
    """The evaluations and outcomes as JSON inside the page."""
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
        for cell in runs
        for run in (cell.members or (cell,))
    ]
    return as_script(record)


def _judged(change: Difference | None) -> dict[str, Any] | None:
    return None if change is None else files.plain({**asdict(change), "verdict": change.verdict})


def _plain(value: Value | None) -> dict[str, Real | None] | None:
    return None if value is None else {"value": value.value, "se": value.se}
