"""Which method on which data? Outcomes of problems from a fixed prior, and a rule that is tested on those left out.

It has no claims of the paper: it tests advice, that of the paper among others, and is not counted in the findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefloop.advice import outcomes
from prefloop.advice.actions import ACTIONS
from prefloop.advice.features import FEATURES, SAMPLES
from prefloop.advice.fit import PARTS
from prefloop.advice.outcomes import FULL, LEAST, SURE, Outcome, Scale, key_of, measured, read, tabulated
from prefloop.advice.prior import Problem, problems
from prefloop.advice.value import FLOOR
from prefloop.analysis.numbers import compact
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
    "smoke": Size({"rotated": 2}, outcomes.SMOKE, "smoke"),
    "small": Size({"rotated": 128}),
    "paper": Size({"rotated": 600, "sequences": 80, "lengths": 80}),
}


@dataclass
class Place:
    """Where outcomes are, and who measures what is missing."""

    out: Path
    pool: Pool
    quiet: bool

    def known(self, problem: Problem, scale: Scale) -> bool:
        """Whether a problem's outcomes are on disk."""
        file = self.out / "advice" / f"{problem.name}.json"
        return file.is_file() and read(file).key == key_of(problem, scale)


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
    size = SIZES[bench.size]
    return shown(pilot(bench, size))


def pilot(bench: Bench, size: Size) -> list[Outcome]:
    """The outcomes of a size's problems; those that are on disk are read from there, with the runs that they took."""
    place = Place(bench.out / size.folder, bench.pool, bench.quiet)
    drawn = [problem for world, n in size.problems.items() for problem in problems(world, n)]
    left = [problem for problem in drawn if not place.known(problem, size.scale)]
    if left and not bench.quiet:
        print(f"{len(left)} of {len(drawn)} problems are to be measured; each is kept when it is complete", flush=True)
    out = []
    for problem in drawn:
        one = measured(problem, place, size.scale)
        tuning = sum(result.tuning for result in one.results.values())
        every = tuning + sum(len(result.values) for result in one.results.values())
        bench.runs, bench.tuning = bench.runs + every, bench.tuning + tuning
        bench.computed += every if problem in left else 0
        out.append(one)
    return out


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
        "rule": "ridge regression of the value on features × switches of the action; advised is the action whose lead"
        " over the best constant one has the highest lower bound",
        "regret": "(value of the best action − value of the advised one) ÷ value of the best, which is chosen on one"
        f" half of the seeds and scored on the other; where it is below {compact(FLOOR)}, regret has no meaning",
        "held out": f"problems ({PARTS} parts in turn); the corner of far peaks and poor data; whole worlds, where"
        " there are two or more",
    },
    claims=(),
    run=run,
)
