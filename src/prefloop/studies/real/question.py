"""Do the findings hold for a real model? Three methods on SmolLM2-135M-Instruct, at matched KL, for two rewards.

Min Length has its peak far from the reference's answers. Sentiment is VADER's, which reads words and not lengths; its
word list comes with the extra `demo`, which the model needs as well, so that it costs no further package.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from prefloop.analysis.compare import LEAST_SEEDS
from prefloop.analysis.decisions import Decision
from prefloop.analysis.headroom import headroom
from prefloop.analysis.numbers import compact, duration, share
from prefloop.core.files import write
from prefloop.lab.summary import TUNING
from prefloop.report import page
from prefloop.report.data import load
from prefloop.report.findings import findings
from prefloop.rewards.rules import vader
from prefloop.runs.forecast import forecast
from prefloop.studies.bench import BLOCK, Bench
from prefloop.studies.real.budget import gains
from prefloop.studies.real.cells import (
    INSTALL,
    METHODS,
    NAME,
    OFF,
    ON,
    RATES,
    REWARDS,
    SUPERVISED,
    Cell,
    Runs,
    Size,
    course,
    reach,
    unit,
)
from prefloop.studies.real.rates import Chosen, Gains, choose, wanted
from prefloop.studies.real.shown import UNIT, Courses, Key, conditions, figures, within
from prefloop.studies.real.verdicts import decision
from prefloop.studies.study import Claim, Finding, Outcome, Study

SIZES = {
    "smoke": Size(1, 1, 1, every=1, batch=8, prompts=3, tuning=3, tokens=24, max_cut=1.0, rates=RATES[1:2], grow=0),
    "small": Size(3, 3, 9, every=3, batch=8, prompts=40, tuning=20, tokens=48, max_cut=0.5),
    "paper": Size(3, 11, 48, every=4, batch=32, prompts=80, tuning=80, tokens=96, max_cut=0.2),
}
BUDGET, NEARER = 4.0, 2.0  # nats per response: the one that is judged, and one that is shown too
THRESHOLD = 0.1
TIME = "time.json"  # next to the offline data
KEYS: list[Key] = [(reward, method) for reward in REWARDS for method in METHODS]
PAIRS = {
    "on-policy-beats-offline": (ON, OFF, "on-policy DPO gains more than offline DPO"),
    "contrast-beats-supervision": (OFF, SUPERVISED, "offline, DPO gains more than Pref-FT on the same pairs"),
}
VERSUS = {f"{name}-{reward}": (reward, a, b) for reward in REWARDS for name, (a, b, _) in PAIRS.items()}
CLAIMS = tuple(
    Claim(
        f"{name}-{reward}",
        f"{said}: {own.title}",
        f"largest gain in gold within {BUDGET:g} nats of {a}, less that of {b}",
        THRESHOLD,
        UNIT,
    )
    for reward, own in REWARDS.items()
    for name, (a, b, said) in PAIRS.items()
)
Train = Callable[[Sequence[Cell]], Mapping[Cell, Path]]


def run(bench: Bench) -> Outcome:
    """Predict the time, draw the offline data, tune, compare, and judge; what is finished is not run again.

    Raises:
        UserError, DataError: no model or no VADER, or too many answers cut by the length limit.
        Stopped: interrupted; the same command continues.
    """
    vader()  # before anything takes time
    runs = Runs(SIZES[bench.size], bench.out, bench.size, bench.repetition, bench.quiet)
    clock, left = time.monotonic(), outlook(runs)
    predicted = forecast(runs.planned(left)) + time.monotonic() - clock if left else 0.0
    if left and not bench.quiet:
        more = ", more where the best learning rate is at an end" if any(c.seed >= TUNING for c in left) else ""
        print(f"about {duration(predicted)} for {len(left)} runs, if answers keep their length{more}", flush=True)
    seen, _ = tried(runs, runs.train)
    chosen = {key: choose(runs.size, own) for key, own in seen.items()}
    folders, courses, judged = compare(runs, chosen)
    if left:
        spent = {"predicted": predicted, "measured": time.monotonic() - clock, "runs": len(left)}
        write(runs.data / TIME, json.dumps(spent) + "\n")
    return _outcome(runs, chosen, folders, courses, judged)


# ---- tuning and time -----------------------------------------------------------------------------------------------


def tried(runs: Runs, get: Train) -> tuple[dict[Key, dict[float, Gains]], list[Cell]]:
    """The rates that were tried for each condition, with their gains; and the runs that the tuning lacks.

    Args:
        get: `runs.train`, which lacks none, or `runs.finished`.
    """
    seen: dict[Key, dict[float, Gains]] = {key: {} for key in KEYS}
    while asked := [Cell(*key, rate, TUNING) for key in KEYS for rate in wanted(runs.size, seen[key])]:
        got = get(asked)
        units = _units(runs) if got else {}
        for cell, folder in got.items():
            seen[cell.reward, cell.method][cell.rate] = gains(course(folder), BUDGET, units[cell.reward])
        if lacking := [cell for cell in asked if cell not in got]:
            return seen, lacking
    return seen, []


def outlook(runs: Runs) -> list[Cell]:
    """The runs that are left, as far as is known: a rate that is not chosen yet does not change the time of a run."""
    seen, lacking = tried(runs, runs.finished)
    rates = {key: choose(runs.size, own).rate for key, own in seen.items() if not wanted(runs.size, own)}
    middle = runs.size.rates[len(runs.size.rates) // 2]
    compared = [Cell(*key, rates.get(key, middle), seed) for key in KEYS for seed in range(runs.size.seeds)]
    done = runs.finished([cell for cell in compared if (cell.reward, cell.method) in rates])
    return [*lacking, *(cell for cell in compared if cell not in done)]


def _units(runs: Runs) -> dict[str, float]:
    drawn = runs.reference()
    return {reward: unit(drawn, reward) for reward in REWARDS}


# ---- comparison ----------------------------------------------------------------------------------------------------


def compare(runs: Runs, chosen: Mapping[Key, Chosen]) -> tuple[dict[Key, list[Path]], Courses, dict[str, Decision]]:
    """Seeds in blocks until every claim is settled; the conditions of a reward whose claims are settled get no more."""
    folders: dict[Key, list[Path]] = {}
    judged: dict[str, Decision] = {}
    seeds, due = runs.size.seeds, KEYS
    while due:
        cells = {key: [Cell(*key, chosen[key].rate, seed) for seed in range(seeds)] for key in due}
        got = runs.train([cell for own in cells.values() for cell in own])
        folders |= {key: [got[cell] for cell in own] for key, own in cells.items()}
        courses = {key: dict(enumerate(map(course, folders[key]))) for key in KEYS}
        if seeds < LEAST_SEEDS:
            break
        open_ = [c for c in CLAIMS if c.name not in judged or not judged[c.name].settled]
        judged |= {claim.name: judge(claim, runs.size, courses, chosen, _units(runs)) for claim in open_}
        still = {VERSUS[name][0] for name, made in judged.items() if not made.settled}
        due, seeds = [key for key in KEYS if key[0] in still], seeds + BLOCK
    return folders, courses, judged


def judge(
    claim: Claim, size: Size, courses: Courses, chosen: Mapping[Key, Chosen], units: Mapping[str, float]
) -> Decision:
    """The verdict on a claim, on the seeds that its conditions have."""
    reward, *pair = VERSUS[claim.name]
    own, one = {method: courses[reward, method] for method in METHODS}, units[reward]
    scores = {name: {s: gains(run, BUDGET, one) for s, run in runs.items()} for name, runs in own.items()}
    means = {name: [float(np.mean([*each.values()])) for each in runs.values()] for name, runs in scores.items()}
    before = np.mean([run.gold[0].mean() for run in own[pair[0]].values()])
    rates = {method: chosen[reward, method] for method in pair}
    return decision(
        scores[pair[0]],
        scores[pair[1]],
        claim.rule(size.seeds, size.most),
        choice_se=math.hypot(*(rate.se for rate in rates.values())),
        edge=[f"{method}: {rate.why}" for method, rate in rates.items() if rate.edge],
        no_headroom=headroom(means, largest=float(REWARDS[reward].largest - before) / one, cells=pair),
    )


# ---- what is told --------------------------------------------------------------------------------------------------


def _outcome(
    runs: Runs,
    chosen: Mapping[Key, Chosen],
    folders: Mapping[Key, Sequence[Path]],
    courses: Courses,
    judged: Mapping[str, Decision],
) -> Outcome:
    units = _units(runs)
    return Outcome(
        [Finding(claim, judged[claim.name]) for claim in CLAIMS if claim.name in judged],
        figures(courses, units, BUDGET),
        [conditions(courses, folders, chosen, units, BUDGET), within(courses, units, NEARER, VERSUS)],
        [
            *_caveats(runs, chosen, units),
            f"Curves, KLs and the answers of one seed: {_pages(runs, folders)}.",
            *_time(runs),
        ],
        left_out=[claim.name for claim in CLAIMS if claim.name not in judged],
    )


def _pages(runs: Runs, folders: Mapping[Key, Sequence[Path]]) -> str:
    """Links to the page of `prefloop report` for the first seed of each reward, next to the study's own."""
    links = []
    for reward, own in REWARDS.items():
        labels, places, name = (
            list(METHODS),
            [folders[reward, method][0] for method in METHODS],
            f"report-{reward}.html",
        )
        said, title = findings(load(places, labels)), f"{own.title}: three methods, one seed"
        page.write(places, runs.out / NAME / name, title=title, verdict=said, labels=labels)
        links.append(f"[{name}]({name})")
    return ", ".join(links)


def _caveats(runs: Runs, chosen: Mapping[Key, Chosen], units: Mapping[str, float]) -> list[str]:
    """The limits of the numbers."""
    size = runs.size
    sd = ", ".join(f"{compact(x)} in {REWARDS[name].title}" for name, x in units.items())
    few = f"Nothing is judged: a verdict needs {LEAST_SEEDS} seeds of training or more, and this size has {size.seeds}."
    three = (
        "Intervals are about the next seed and the next prompt. With three seeds they are ±2.5 standard deviations of a"
        " seed's effect or wider, so that only large effects can be decided, and equivalence hardly."
    )
    return [
        few if size.seeds < LEAST_SEEDS else three,
        "The choice of the learning rate is uncertain by its prompts in these intervals, but not by its seed: there was"
        " one.",
        f"Gold is in standard deviations of the reference's answers: {sd}.",
        f"Evaluations are after every {size.every} of {size.steps} steps, and a curve is straight between them: a"
        " method that passes the budget in one leap gets less than it would by stopping earlier.",
        "A score is the largest of several noisy evaluations, which raises it for all methods.",
        f"Answers are those to {size.prompts} held-out prompts, the same for all ({size.tuning} in tuning). β and all"
        " other settings are the methods' defaults.",
        f"Answers are cut at {size.tokens} tokens, which {share(reach(runs.reference(), size.tokens))} of the"
        " reference's answers reach: Min Length sees no difference beyond, and its standard deviation is smaller.",
        "Equal steps do not cost the same: see the responses sampled and the minutes in the table.",
        "On-policy DPO sees the order of its own answers by gold; in the paper a reward model that was learned from"
        " pairs scores them.",
        *(f"{REWARDS[reward].title}, {method}: {one.why}." for (reward, method), one in chosen.items() if one.edge),
    ]


def _time(runs: Runs) -> list[str]:
    """Predicted and measured time of the last call that trained; empty if none finished."""
    if not (runs.data / TIME).is_file():
        return []
    spent = json.loads((runs.data / TIME).read_text(encoding="utf-8"))
    predicted, taken = duration(spent["predicted"]), duration(spent["measured"])
    return [f"Time of {spent['runs']} runs: {predicted} predicted before the start; {taken} measured."]


STUDY = Study(
    name=NAME,
    question="Do the findings hold for a real model?",
    source="Tajwar et al. 2024, §5.3, Fig. 19 (and §5.1.1, §5.2.1)",
    finding="On-policy DPO does better than offline DPO, and offline DPO better than Pref-FT, where the reward peaks"
    " far from the reference.",
    design={
        "model": "SmolLM2-135M-Instruct, all weights trained; it answers the package's instructions in one short"
        f" sentence. It is installed by `{INSTALL}`",
        "rewards": "Min Length, −tokens/10, whose peak is far from the reference's answers; sentiment by VADER (word"
        " list of Hutto & Gilbert 2014)",
        "compared": "on-policy DPO, offline DPO (one switch turned) and Pref-FT, equally many steps of as many"
        " responses",
        "information": "ordinal, from gold: offline, which of two answers that the reference wrote to a training prompt"
        " is better; on-policy, which of two of its own answers to the same prompts. Ties say nothing",
        "objective": f"the largest gain in gold at KL(π‖π_ref) ≤ {BUDGET:g} nats per response, on held-out prompts with"
        " the same random numbers for all methods; straight lines between evaluations",
        "tuning": "a learning rate for each method and reward, from 1e-5, 3.2e-5, 1e-4 on a seed of its own; the grid"
        " grows until the best is inside, by two steps of √10 on either side at most",
        "decision": f"paired by seed and prompt, {LEAST_SEEDS} seeds or more; {THRESHOLD:g} {UNIT} are the least that"
        " counts",
    },
    claims=CLAIMS,
    run=run,
)
