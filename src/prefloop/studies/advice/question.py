"""Which method on which data? Outcomes of problems from a fixed prior, and a rule that is tested on those left out.

It has no claims of the paper: it tests advice, that of the paper among others, and is not counted in the findings.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefloop.advice import kept, outcomes
from prefloop.advice.actions import ACTIONS
from prefloop.advice.features import FEATURES, SAMPLES
from prefloop.advice.fit import PARTS
from prefloop.advice.merit import REFITS
from prefloop.advice.outcomes import FULL, LEAST, SURE, Outcome, Scale, tabulated
from prefloop.advice.prior import problems
from prefloop.advice.value import FLOOR
from prefloop.analysis.numbers import compact, duration
from prefloop.core.errors import UserError
from prefloop.lab.pool import Pool
from prefloop.studies.advice.evidence import FEWEST, counts, told
from prefloop.studies.advice.shown import caveats, figures, tables
from prefloop.studies.bench import Bench
from prefloop.studies.study import Outcome as Shown
from prefloop.studies.study import Study

NAME = "advice"


@dataclass(frozen=True)
class Size:
    """What is measured: problems by world, how many runs an action gets, and a folder of their own, if any."""

    problems: Mapping[str, int]
    scale: Scale = FULL
    folder: str = ""


SIZES = {
    "smoke": Size({"rotated": 2, "sequences": 2, "lengths": 1}, outcomes.SMOKE, "smoke"),
    "small": Size({"rotated": 128, "sequences": 144, "lengths": 80}),  # of the sequences, two in five have no headroom
    "paper": Size({"rotated": 700, "sequences": 144, "lengths": 80}),  # and of the bandits one in ten
}


@dataclass
class Place:
    """Where outcomes are, and who measures what is missing."""

    out: Path
    pool: Pool
    quiet: bool


def run(bench: Bench) -> Shown:
    """Measure the problems that are not on disk, fit, and judge on problems that were left out.

    Raises:
        UserError: a repetition or a stack, which the problems do not have.
    """
    if bench.repetition or bench.stack is not None:
        fix = "leave out --repetition and --stack"
        raise UserError(
            "the problems of the advice have seeds and stacks of their own", where="prefloop study", fix=fix
        )
    return shown(pilot(bench, SIZES[bench.size]))


def pilot(bench: Bench, size: Size) -> list[Outcome]:
    """The outcomes of a size's problems, those that are on disk from there; of as many new ones as the bench allows.

    Worlds take turns, so that what there is after an interruption is of all of them. Problems that another process
    measures come last: this one waits for them.
    """
    place = Place(bench.out / size.folder, bench.pool, bench.quiet)
    drawn = [problem for world, n in size.problems.items() for problem in problems(world, n)]
    found = {problem.name: kept.known(problem, place.out, size.scale) for problem in drawn}
    left = [problem for problem in drawn if found[problem.name] is None]
    left = sorted(left, key=lambda one: one.number / size.problems[one.kind])[: bench.problems]
    if left and not bench.quiet:
        print(f"{len(left)} of {len(drawn)} problems are to be measured; each is kept when it is complete", flush=True)
    for wait in (False, True):
        for problem in [one for one in left if found[one.name] is None]:
            start = time.monotonic()
            found[problem.name] = one = kept.measured(problem, place, size.scale, wait=wait)
            if one is not None:
                bench.computed += _runs(one)[0]
                _tell(bench, one, time.monotonic() - start, sum(found[other.name] is None for other in left))
    out = [one for problem in drawn if (one := found[problem.name]) is not None]
    for every, tuning in map(_runs, out):
        bench.runs, bench.tuning = bench.runs + every, bench.tuning + tuning
    return out


def _tell(bench: Bench, one: Outcome, seconds: float, left: int) -> None:
    if not bench.quiet:
        what = f"{_runs(one)[0]} runs in {duration(seconds)}" if one.results else "dropped before training"
        print(f"{one.problem}: {what}; {left} left", flush=True)


def _runs(one: Outcome) -> tuple[int, int]:
    """All runs, and those of tuning."""
    tuning = sum(result.tuning for result in one.results.values())
    return tuning + sum(len(result.values) for result in one.results.values()), tuning


def shown(found: Sequence[Outcome]) -> Shown:
    """Tables and figures of outcomes."""
    trained = [one for one in found if one.results]
    evidence = told(tabulated(trained)) if len(trained) >= FEWEST else None
    return Shown(
        [],
        figures(evidence) if evidence is not None else {},
        tables(found, counts(found), evidence),
        caveats(found, evidence),
    )


STUDY = Study(
    name=NAME,
    question="Which method on which data: does a rule beat the best constant choice on problems that it has not seen?",
    source="Tajwar et al. 2024, Fig. 1 and §6",
    finding="On-policy samples and a negative gradient where the reward peaks far from the reference, supervised"
    " fine-tuning where it is near; what is far has no number, and the advice no error rate.",
    design={
        "problems": "drawn by a Sobol sequence from a fixed prior: mass of the reward's peak under the reference, its"
        " width and modes, number of responses, size and coverage of the data, labels and their noise, a given or a"
        " learned reward, β, budgets of steps and of fresh samples",
        "worlds": "; ".join(
            f"`{size}`: {', '.join(f'{n} {world}' for world, n in one.problems.items())}" for size, one in SIZES.items()
        ),
        "actions": ", ".join(f"`{name}`" for name in ACTIONS),
        "tuning": f"learning rate and knob of each action, by successive halving on seeds of their own; then"
        f" {FULL.seeds} other seeds",
        "value": "J = E gold − β KL(π‖π_ref) at the evaluation that its user would keep, as a share of what can be"
        " gained over the run's own reference, at least −1: how much more was lost tells nothing of other problems",
        "dropped": f"problems whose attainable gain is less than {compact(LEAST)} of the range of gold, or than"
        f" {compact(SURE)} times what the start is uncertain by, before any training",
        "features": f"{len(FEATURES)} numbers that are measured before training, from {SAMPLES} samples of the"
        " reference to each prompt and from the data",
        "rule": "lasso of the merit, value as a share of the best action's, on features × switches of the action;"
        " advised is the action whose lead over the best constant one has the highest lower bound"
        f" over {REFITS} refits to resampled problems",
        "regret": "(value of the best action − value of the advised one) ÷ value of the best, which is chosen on one"
        f" half of the seeds and scored on the other; where it is below {compact(FLOOR)}, regret has no meaning",
        "held out": f"problems ({PARTS} parts in turn); the corner of far peaks and poor data; whole worlds, where"
        " there are two or more",
    },
    claims=(),
    run=run,
)
