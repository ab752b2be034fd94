"""The results of runs in sentences; differences are judged by the rule of `analysis.compare`."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from prefloop.analysis.compare import LEAST_SEEDS, Difference, Scores, crossed
from prefloop.analysis.numbers import fixed, interval, number
from prefloop.analysis.overoptimisation import LEAST, overoptimisation
from prefloop.core.metric_table import METRICS, warning
from prefloop.report import examples
from prefloop.report.data import Line, Run, measured
from prefloop.report.side_by_side import side_by_side
from prefloop.runs.folder import FINAL

ALL_PAIRS = 3  # runs up to which each is compared with each, otherwise with the first
CRITERIA = {
    "implicit": ("eval/rewards/accuracies", "implicit reward"),
    "mean": ("eval/accuracy/mean_logp", "log-prob per token"),
}
LONGER, AUC, BY_LENGTH, LOSS = "eval/accuracy/longer", "eval/labels/auc", "eval/labels/longer", "eval/loss"


def findings(runs: Sequence[Run]) -> list[str]:
    """What each run reached, and how it compares with the others."""
    own = [sentence for run in runs for sentence in (*_outcomes(run), *_turn(run), *_warnings(run))]
    if len(runs) == 1:
        own = [_alone(sentence, runs[0]) for sentence in own]
    return own + _against_first(runs) + _rankings(runs) + side_by_side(runs)


def _alone(sentence: str, run: Run) -> str:
    """The sentence without a letter, which tells nothing apart."""
    return sentence.replace(_name(run), run.label, 1).removeprefix(f"{run.letter}: ")


def criterion(run: Run) -> str:
    """What the method trains to order pairs: the implicit reward, or without a reference the log-prob per token."""
    pairs, needs = run.objective.get("pairs"), run.objective.get("needs", ["reference"])
    return "mean" if pairs and "reference" not in needs else "implicit"


# ---- one run --------------------------------------------------------------------------------------------------------


def _outcomes(run: Run) -> list[str]:
    """What the held-out numbers say, for those that the run has."""
    said = [sentence for read in (_reward, _ranking, _labels, _likelihood) for sentence in read(run)]
    if said:
        return [f"{_name(run)}: {sentence}" for sentence in said]
    if len(run.evaluations) == 1:
        return [f"{_name(run)} has no evaluation after training yet: {progress(run)}."]
    return [f"{_name(run)} has no evaluation before and after training."]


def _name(run: Run) -> str:
    return f"{run.letter} ({run.label})"


def finished(run: Run) -> bool:
    """Whether the last planned step is evaluated or the final model is there, in all seeds."""
    return all((one.path / FINAL).is_dir() or _reached(one) for one in run.members or (run,))


def _reached(run: Run) -> bool:
    planned = _planned(run)
    return planned is not None and bool(run.evaluations) and run.evaluations[-1]["step"] >= planned


def progress(run: Run) -> str:
    """The step that a run has reached."""
    return f"step {number(run.last('step') or 0)} of {number(_planned(run))}"


def _planned(run: Run) -> float | None:
    steps = run.config.get("training", {}).get("steps")
    return float(steps) if isinstance(steps, int | float) else run.last("step")


def _when(run: Run) -> str:
    """At which step the last evaluation is, and that more are planned if so."""
    step, planned = run.evaluations[-1]["step"], _planned(run)
    of = f" of {number(planned)}" if planned and planned > step else ""
    return f"after {number(step)}{of} steps"


def _on_labels(run: Run) -> bool:
    """Whether no reward scores answers: then the policy is trained to rank responses of the data."""
    return not run.points("eval/reward")


def _compared(run: Run, key: str) -> bool:
    """Whether a metric was measured before and after."""
    return len({line["step"] for line in run.evaluations if line.get(key) is not None}) > 1


def _reward(run: Run) -> Iterator[str]:
    """Whether the reward on held-out prompts changed, and at what KL."""
    if not _compared(run, "eval/reward"):
        return
    kl, change = run.after("eval/kl_reverse"), run.change()
    cost = f", at KL(π‖π_ref) = {measured(kl)} nats" if kl else ""
    judged = (
        f". Change: {change}" if change else "; not judged, because the run has no scored answers to the same prompts"
    )
    before, after = (measured(value) for value in (run.before("eval/reward"), run.after("eval/reward")))
    yield f"{rewarded(run)} on held-out prompts {before} → {after} {_when(run)}{cost}{judged}."


def _ranking(run: Run) -> Iterator[str]:
    """How many held-out pairs the policy orders as the data do, against picking the longer response."""
    key, by = CRITERIA[criterion(run)]
    if not (_on_labels(run) and _compared(run, key)):
        return
    last = [line for line in run.evaluations if line.get(key) is not None][-1]
    count, longer = last.get("eval/pairs"), last.get(LONGER)
    over = f" (mean and 95 % interval of {len(run.members)} seeds)" if run.members else ""
    start = (
        f", before training {fixed(before.value)}"
        if key != CRITERIA["implicit"][0] and (before := run.before(key))
        else ""
    )
    first = (
        f"{_when(run)} the policy ranks {_bounds(last, key)}{over} of {number(count)} held-out pairs as the data do,"
        f" by its {by}{start}"
    )
    if longer is None:
        yield f"{first}."
        return
    rule, share = _baseline(longer)
    other = "" if rule == "longer" else f" (the longer one: {fixed(longer)})"
    judged = against_length(run, rule)
    said = f" Policy minus {rule}: {judged}{_undecided(judged)}." if judged else ""
    yield f"{first}; picking the {rule} response: {fixed(share)}{other}.{said}"


def _baseline(longer: float) -> tuple[str, float]:
    """The better one of picking the longer and picking the shorter response, which a policy must beat."""
    return ("longer", longer) if longer >= 0.5 else ("shorter", 1 - longer)


def _bounds(line: Line, key: str) -> str:
    low, high = line.get(f"{key}_low"), line.get(f"{key}_high")
    return fixed(line[key]) if low is None or high is None else interval(line[key], low, high)


def _labels(run: Run) -> Iterator[str]:
    """How well held-out labels are separated, if there are no pairs."""
    if not _compared(run, AUC):
        return
    after, longer = run.after(AUC), run.after(BY_LENGTH)
    count = number(run.evaluations[-1].get("eval/labels/count"))
    yield (
        f"{_when(run)} a held-out response labelled good has a higher implicit reward than one labelled bad with"
        f" probability {measured(after)} ({count} responses; by length alone {measured(longer)}).{_separated(run)}"
    )


def _separated(run: Run) -> str:
    """Whether labels are separated better than before training, and than by length; empty if it was not recorded."""
    change, before, length = examples.change(run, examples.separation), run.before(AUC), run.after(BY_LENGTH)
    if change is None or before is None:
        return ""
    said = f" Change from {fixed(before.value)} before training: {change}{_undecided(change)}."
    rule, share = _baseline(length.value) if length else ("longer", 0.5)
    judged = examples.minus(run, examples.separation, partial(examples.by_length, longer=rule == "longer"))
    taken = f" ({fixed(share)})" if rule == "shorter" else ""
    return f"{said} Policy minus {rule}{taken}: {judged}{_undecided(judged)}." if judged else said


def _likelihood(run: Run) -> Iterator[str]:
    """The loss on held-out demonstrations, before and after."""
    if not _compared(run, LOSS):
        return
    before, after = (measured(value) for value in (run.before(LOSS), run.after(LOSS)))
    ends = [run.before("eval/perplexity"), run.after("eval/perplexity")]
    perplexity = " → ".join(number(value.value if value else None) for value in ends)
    last = [line for line in run.evaluations if line.get(LOSS) is not None][-1]
    count = number(last.get("eval/demonstrations"))
    change = examples.change(run, examples.loss, higher_is_better=False)
    judged = f" Change: {change}{_undecided(change)}." if change else ""
    yield (
        f"{_when(run)} the loss on {count} held-out demonstrations went {before} → {after} nats per token (perplexity"
        f" {perplexity}).{judged}"
    )


def against_length(run: Run, rule: str) -> Difference | None:
    """Accuracy of the policy minus that of picking by length, on the same pairs."""
    by = criterion(run)
    length = {one.seed: {line["pair"]: _picked(line, rule) for line in one.judged()} for one in run.members or (run,)}
    return crossed(ranked(run, by), length, unit="questions", clusters=questions(run)) if all(length.values()) else None


def _picked(line: Line, rule: str) -> float:
    """Whether picking by length orders a pair as the annotator did."""
    return float(line["longer"] if rule == "longer" else 1 - line["longer"])


def ranked(run: Run, by: str = "implicit") -> Scores:
    """Whether each held-out pair is ordered as the annotator did, of each seed; ties count ½."""
    return {one.seed: {line["pair"]: float(line[by]) for line in one.judged()} for one in run.members or (run,)}


def questions(run: Run) -> dict[Hashable, Hashable]:
    """The question of each held-out pair."""
    return {line["pair"]: line["question"] for line in run.judged()}


def _undecided(judged: Difference) -> str:
    return "" if judged.is_significant else ", so not decided"


def rewarded(run: Run) -> str:
    """Name of the training reward: a learned one is called so."""
    learned = run.objective.get("reward", {}).get("name") == "bradley_terry" or run.points("eval/gold")
    return "the learned reward" if learned else "reward"


def _warnings(run: Run) -> list[str]:
    """Metrics that show their red flag."""
    texts = (warning(key, [value for _, value in run.points(key)]) for key in METRICS)
    return [f"{run.letter}: {text}" for text in texts if text is not None]


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


# ---- several runs ---------------------------------------------------------------------------------------------------


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


def _rankings(runs: Sequence[Run]) -> list[str]:
    """Runs against each other by the held-out pairs that they order as the data do, all by the implicit reward."""
    ranked = [run for run in runs if run.judged() and _on_labels(run) and _compared(run, CRITERIA["implicit"][0])]
    mixed = [run.letter for run in ranked if len({_pairs(member) for member in run.members}) > 1]
    said = [f"The seeds of {', '.join(mixed)} were evaluated on different held-out pairs."] if mixed else []
    if len(ranked) < 2:
        return said
    same = [run for run in ranked if _pairs(run) == _pairs(ranked[0])]
    others = [run.letter for run in ranked if run not in same]
    if others:
        what = f"{', '.join(others)} and {ranked[0].letter} were evaluated on different held-out pairs"
        said.append(f"{what}: their accuracies are not compared. Give all runs the same data.held_out and split.")
    couples = combinations(same, 2) if len(same) <= ALL_PAIRS else ((same[0], run) for run in same[1:])
    judged = [(a, b, d) for a, b in couples if (d := ranked_against(b, a)) is not None]
    if judged:
        said.append(f"On the same {len(_pairs(same[0]))} held-out pairs, all ranked by the implicit reward:")
        said += [f"{b.letter} minus {a.letter}: {d}{_undecided(d)}." for a, b, d in judged]
    if any(d.unit == "questions" for _, _, d in judged):
        few = "One seed each" if not any(run.members for run in same) else f"Fewer than {LEAST_SEEDS} seeds in common"
        said.append(f"{few}: these intervals do not cover differences between seeds.")
    return said


def ranked_against(run: Run, other: Run) -> Difference | None:
    """Accuracy of one run minus that of another on the same pairs."""
    if _pairs(run) != _pairs(other):
        return None
    return crossed(ranked(run), ranked(other), unit="questions", clusters=questions(run))


def _pairs(run: Run) -> frozenset[str]:
    """The held-out pairs; of several seeds, those of all."""
    return frozenset(line["pair"] for one in (run.members or (run,)) for line in one.judged())
