"""§5, Fig. 19 on a real model: do the findings on lengths hold for SmolLM2-135M-Instruct?

Five methods, one learning rate, equal steps. Effects are tokens per answer, one number per seed of training.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.analysis.numbers import duration
from prefloop.core.files import write
from prefloop.lab.summary import band, means
from prefloop.report import page
from prefloop.report.chart import COUNT, SHARE, Array, Chart, Line, Table
from prefloop.report.data import load, measured
from prefloop.report.findings import findings
from prefloop.runs.config import Config, DataOptions, RewardOptions
from prefloop.runs.folder import read
from prefloop.runs.forecast import forecast
from prefloop.runs.grid import finished, grid
from prefloop.studies.bench import Bench
from prefloop.studies.real_model import (
    LR,
    SCALE,
    Recipe,
    Size,
    draw,
    lines,
    median,
    place,
    preferences,
    stored,
)
from prefloop.studies.real_model import config as cell_config
from prefloop.studies.study import Claim, Outcome, Study, judged

NAME = "length-real"
DRAWN, TIME = "reference.jsonl", "time.json"  # stored next to the preferences of each problem
ON, OFF, SUPERVISED, BEST, RLOO = "on-policy DPO", "offline DPO", "Pref-FT", "best-of-N", "RLOO"
METHODS = {
    ON: Recipe("dpo", {"on_policy": 1.0}),  # offline DPO with one switch changed
    OFF: Recipe("dpo"),
    SUPERVISED: Recipe("pref_ft"),
    BEST: Recipe("best_of_n"),
    RLOO: Recipe("rloo"),
}
PROBLEMS = {"min": "Min Length", "mode": "Mode Length"}
SIZES = {
    "smoke": Size(("min",), seeds=1, steps=1, every=1, batch=8, prompts=3, tokens=32, max_cut=1.0),
    "small": Size(("min",), seeds=1, steps=12, every=3, batch=16, prompts=40),
    "paper": Size(("min", "mode"), seeds=3, steps=50, every=5, batch=32, prompts=80),
}
UNIT = "tokens"
THRESHOLD = 1.0
SEEDS = 3  # fewest for a verdict
MEAN = "mean over the evaluations after step 0"
VERSUS = {  # claim: shorter, longer, prediction
    "on-policy-beats-offline": (ON, OFF, "on-policy DPO gets to shorter answers than offline DPO in as many steps"),
    "contrast-beats-supervision": (OFF, SUPERVISED, "offline, the contrastive loss gets further than supervision"),
    "on-policy-dpo-beats-best-of-n": (ON, BEST, "on-policy DPO gets further than on-policy supervision, best-of-4"),
    "on-policy-dpo-beats-rloo": (ON, RLOO, "on-policy DPO gets further than an on-policy policy gradient, RLOO"),
}
LESS = {  # claim: the gap of VERSUS that is smaller in Mode Length, prediction
    "on-policy-matters-less-in-mode": ("on-policy-beats-offline", "on-policy samples matter less in Mode Length"),
    "contrast-matters-less-in-mode": ("contrast-beats-supervision", "the contrastive loss matters less in Mode Length"),
}
CLAIMS = (
    *(
        Claim(name, said, f"tokens of {longer} less those of {shorter}, Min Length, {MEAN}", THRESHOLD, UNIT)
        for name, (shorter, longer, said) in VERSUS.items()
    ),
    *(
        Claim(name, said, f"the effect of `{gap}` less the same in tokens from the target", THRESHOLD, UNIT)
        for name, (gap, said) in LESS.items()
    ),
)


@dataclass(frozen=True)
class Cell:
    """One run of the study."""

    problem: str
    label: str  # of METHODS
    seed: int


# of a problem and a method: tokens, or tokens from the target [seeds, evaluations, prompts]
Costs = Mapping[tuple[str, str], Array]


def run(bench: Bench) -> Outcome:
    """Predict the time, draw the offline data, train what is missing, and judge.

    Raises:
        UserError, DataError: no model, or too many answers cut by the length limit.
        Stopped: interrupted; the same command continues.
    """
    size, home = SIZES[bench.size], bench.out / NAME
    data, clock = place(home, bench.size, size), time.monotonic()
    cells = [Cell(p, m, s) for p in size.problems for s in range(size.seeds) for m in METHODS]
    left = _left(cells, size, bench.out, data)
    predicted = _predict(left, size, bench.out, data) if left else 0.0
    if left and not bench.quiet:
        prediction = f"about {duration(predicted)} for {len(left)} of {len(cells)} runs, if answers keep their length"
        print(prediction, flush=True)
    folders = _train(cells, size, bench.out, data, bench.quiet)
    if left:
        spent = {"predicted": predicted, "measured": time.monotonic() - clock, "runs": len(left)}
        write(data / TIME, json.dumps(spent) + "\n")
    return _outcome(folders, size, data, _pages(folders, size, home))


# ---- the cells ----------------------------------------------------------------------------------------------------


def cost(problem: str, peak: int, tokens: Any) -> Any:
    """The cost: tokens or, in Mode Length, the distance from the peak in tokens."""
    return abs(tokens - peak) if problem == "mode" else tokens


def _reward(problem: str, peak: int) -> RewardOptions:
    """Gold: −cost / SCALE."""
    options = {"target": peak, "scale": SCALE} if problem == "mode" else {"scale": SCALE}
    return RewardOptions(f"length_{problem}", options)


def _configs(cells: Sequence[Cell], size: Size, out: Path, data: Path) -> dict[str, Config]:
    """The configuration of every cell by name; first makes preference files from the reference's answers."""
    drawn = stored(data / DRAWN, partial(draw, size))
    peak = median(drawn)
    files = {problem: data / f"{problem}.jsonl" for problem in size.problems}
    for problem, file in files.items():
        stored(file, partial(preferences, drawn, partial(cost, problem, peak)))
    output = out / "runs" / NAME
    return {
        _name(c, size): cell_config(
            size, METHODS[c.label], DataOptions(str(files[c.problem])), _reward(c.problem, peak), c.seed, output
        )
        for c in cells
    }


def _left(cells: Sequence[Cell], size: Size, out: Path, data: Path) -> list[Cell]:
    """The unfinished cells: all, if the data do not exist yet."""
    if not (data / DRAWN).is_file():
        return list(cells)
    done = finished(_configs(cells, size, out, data))
    return [cell for cell in cells if _name(cell, size) not in done]


def _predict(cells: Sequence[Cell], size: Size, out: Path, data: Path) -> float:
    """Seconds from now on, those of the measurement among them."""
    clock = time.monotonic()
    if (data / DRAWN).is_file():
        configs = _configs(cells, size, out, data)
    else:  # the same work on prompts, to which the reference draws its answers
        reward = _reward("min", 0)
        configs = {
            _name(c, size): cell_config(size, METHODS[c.label], DataOptions(), reward, c.seed, out) for c in cells
        }
    return forecast(configs) + time.monotonic() - clock


def _train(cells: Sequence[Cell], size: Size, out: Path, data: Path, quiet: bool) -> dict[Cell, Path]:
    """The folder of every cell's finished run."""
    folders = grid(_configs(cells, size, out, data), quiet=quiet)
    return {cell: folders[_name(cell, size)] for cell in cells}


def _name(cell: Cell, size: Size) -> str:
    """A name that is unique within a size."""
    problem = f"{PROBLEMS[cell.problem]}: " if len(size.problems) > 1 else ""
    return f"{problem}{cell.label}" + (f", seed {cell.seed}" if size.seeds > 1 else "")


def _pages(folders: Mapping[Cell, Path], size: Size, home: Path) -> list[str]:
    """The page of `prefloop report` for each problem, next to the study's own."""
    names = []
    for problem in size.problems:
        chosen = {cell: folder for cell, folder in folders.items() if cell.problem == problem}
        labels, places = [_name(cell, size) for cell in chosen], list(chosen.values())
        name = f"report-{problem}.html"
        sentences = findings(load(places, labels))
        page.write(places, home / name, title=f"{PROBLEMS[problem]}: five methods", verdict=sentences, labels=labels)
        names.append(name)
    return names


# ---- what they say ------------------------------------------------------------------------------------------------


def measure(costs: Costs) -> dict[str, Array]:
    """One effect per seed for every claim whose problems were run; positive if the claim holds."""

    def gap(problem: str, name: str) -> Array:
        shorter, longer, _ = VERSUS[name]
        return _over_training(costs[problem, longer]) - _over_training(costs[problem, shorter])

    effects = {name: gap("min", name) for name in VERSUS}
    if ("mode", ON) in costs:
        effects |= {name: gap("min", other) - gap("mode", other) for name, (other, _) in LESS.items()}
    return effects


def _over_training(cost: Array) -> Array:
    """[S, E, N] to [S]: the mean over prompts and over evaluations, except the first, which all methods share."""
    over: Array = cost[:, 1:].mean((1, 2))
    return over


def answers(folder: Path) -> tuple[list[int], Array]:
    """Evaluation steps of a run, and answer lengths in tokens [E, N] in the order of the held-out prompts."""
    rows = [row for row in read(folder, "samples") if not row.get("greedy")]
    steps = sorted({row["step"] for row in rows})
    return steps, np.array([[row["tokens"] for row in rows if row["step"] == step] for step in steps], dtype=float)


def _outcome(folders: Mapping[Cell, Path], size: Size, data: Path, pages: Sequence[str]) -> Outcome:
    peak = median(lines(data / DRAWN))
    seen = {cell: answers(folder) for cell, folder in folders.items()}
    steps = next(iter(seen.values()))[0]
    keys = [(problem, label) for problem in size.problems for label in METHODS]
    tokens = {k: np.stack([x for c, (_, x) in seen.items() if (c.problem, c.label) == k]) for k in keys}
    costs = {k: cost(k[0], peak, x) for k, x in tokens.items()}
    effects = measure(costs) if size.seeds >= SEEDS else {}
    return Outcome(
        judged([claim for claim in CLAIMS if claim.name in effects], effects),
        {"length": _curves(tokens, costs, steps, size, peak), "answers": [_law(tokens, p) for p in size.problems]},
        [_table(folders, costs)],
        [*_caveats(size, peak, pages), *_time(data / TIME)],
        left_out=[claim.name for claim in CLAIMS if claim.name not in effects],
    )


def _curves(tokens: Costs, costs: Costs, steps: Sequence[int], size: Size, peak: int) -> list[Chart]:
    """Mean length against steps for each problem, and for Mode Length the distance as well."""
    charts = []
    for problem in size.problems:
        guides = {"target": float(peak)} if problem == "mode" else {}
        lines = [_line(label, steps, tokens[problem, label]) for label in METHODS]
        charts.append(Chart(PROBLEMS[problem], "gradient steps", "tokens per answer", lines, guides=guides, **MEASURED))
        if problem == "mode":
            lines = [_line(label, steps, costs[problem, label]) for label in METHODS]
            charts.append(Chart("Mode Length: distance", "gradient steps", "tokens from the target", lines, **MEASURED))
    return charts


MEASURED: dict[str, Any] = {
    "range": COUNT,
    "interval": "mean over prompts; band: 95 % bootstrap interval over prompts",
}


def _line(label: str, steps: Sequence[int], values: Array) -> Line:
    """Mean over seeds and prompts with its 95 % band over prompts; values [S, E, N]."""
    return Line(label, steps, *band(values.mean(0).T, means))


def _law(tokens: Costs, problem: str) -> Chart:
    """Cumulative distribution of answer lengths: of the reference, and of each method at the end."""
    grid = list(range(int(max(x.max() for x in tokens.values())) + 1))

    def share(x: Array) -> list[float]:
        return [float((x <= n).mean()) for n in grid]

    lines = [Line(label, grid, share(tokens[problem, label][:, -1])) for label in METHODS]
    lines.append(
        Line("reference", grid, share(tokens[problem, ON][:, 0]), dashed=True)
    )  # last, so that colours stay the same
    return Chart(
        f"{PROBLEMS[problem]}: answers after training", "tokens", "share of answers no longer", lines, range=SHARE
    )


def _table(folders: Mapping[Cell, Path], costs: Costs) -> Table:
    head = ("problem", "method", "seed", "tokens before", "after", "cost over training", "KL(π‖ref), nats")
    rows: list[list[Any]] = []
    for cell, one in zip(folders, load(list(folders.values())), strict=True):
        ends = [measured(value) for value in (one.before("eval/length"), one.after("eval/length"))]
        mean = float(costs[cell.problem, cell.label][cell.seed, 1:].mean())
        numbers = [*ends, mean, measured(one.after("eval/kl_reverse"))]
        spent = [one.last("samples"), round((one.seconds or 0.0) / 60, 1)]
        rows.append([PROBLEMS[cell.problem], cell.label, cell.seed, *numbers, *spent])
    title = "Cells (cost: tokens, or tokens from the target; ± standard error over prompts)"
    return Table(title, [*head, "responses sampled", "minutes"], rows)


def _caveats(size: Size, peak: int, pages: Sequence[str]) -> list[str]:
    """The limits of the numbers."""
    links = ", ".join(f"[{name}]({name})" for name in pages)
    alone = f"Nothing is judged: a verdict needs {SEEDS} seeds of training or more, and this size has {size.seeds}."
    unjudged = "Claims on Mode Length are not judged: this size trains on Min Length only."
    return [
        *([] if size.seeds >= SEEDS else [alone]),
        *([] if "mode" in size.problems or size.seeds < SEEDS else [unjudged]),
        f"Answers are those to {size.prompts} held-out prompts, the same for all; bands are over prompts.",
        f"All methods have one learning rate, {LR:g}, which was tried on cells of DPO; none has a best one of its own.",
        "Equal steps do not cost the same: see the responses sampled and the minutes in the table.",
        "On-policy methods are scored by gold; in the paper a reward model that was learned from pairs scores them.",
        f"The median answer of the reference has {peak} tokens; answers are cut at {size.tokens}.",
        f"Curves, KLs and the answers themselves: {links}.",
    ]


def _time(path: Path) -> list[str]:
    """Predicted and measured time of the last call that trained; empty if none finished."""
    if not path.is_file():
        return []
    spent = json.loads(path.read_text(encoding="utf-8"))
    predicted, taken = duration(spent["predicted"]), duration(spent["measured"])
    time = f"Time of {spent['runs']} runs: {predicted} predicted before the start, as if answers kept their length"
    return [f"{time}; {taken} measured."]


STUDY = Study(
    name=NAME,
    question="Do the findings on lengths hold for a real model?",
    source="Tajwar et al. 2024, §5.3, Fig. 19 (and §5.1.1, §5.2.1)",
    finding="On-policy DPO does best on Min Length; on Mode Length all methods are alike.",
    design={
        "problem": "SmolLM2-135M-Instruct answers the package's instructions in one sentence; gold is −tokens/10 in Min"
        " Length, −|tokens − target|/10 in Mode Length, the target being the median length of the reference's answers",
        "compared": "five methods, equally many steps of as many responses; on-policy DPO is offline DPO with one"
        " switch turned",
        "information": "offline, pairs of answers that the reference wrote to the training prompts, drawn once and"
        " ordered by gold; on-policy methods answer the same prompts and see gold",
        "objective": f"tokens per answer to held-out prompts, {MEAN}, with the same random numbers in all cells; one"
        " number per seed of training",
        "tuning": f"none: a learning rate of {LR:g} for all",
    },
    claims=CLAIMS,
    run=run,
)
