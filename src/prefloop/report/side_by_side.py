"""What runs without held-out pairs or a common reward have in common, side by side; said where they have nothing."""

from __future__ import annotations

from collections.abc import Sequence

from prefloop.analysis.numbers import NONE, fixed, number
from prefloop.report.data import Run, measured
from prefloop.runs import held_out

GOOD, BAD = "eval/labels/accuracy/good", "eval/labels/accuracy/bad"
MEASURED = {  # what is set side by side: its number of examples, and their name
    "eval/loss": ("eval/demonstrations", "held-out demonstrations"),
    "eval/labels/auc": ("eval/labels/count", "held-out labels"),
}


def side_by_side(runs: Sequence[Run]) -> list[str]:
    """Held-out loss and accuracy by label of the runs that measure it on the same examples; no verdict."""
    said = _old_splits(runs)
    if len(runs) < 2:
        return said
    for key, (count, name) in MEASURED.items():
        having = [run for run in runs if run.after(key) is not None]
        if len(having) < 2:
            continue
        first = having[0]
        same = [run for run in having if _same(run, first) and run.after(count) == first.after(count)]
        if others := [run.letter for run in having if run not in same]:
            what = f"{', '.join(others)} and {first.letter} were evaluated on different {name}"
            said.append(f"{what}, so they are not compared. Give all runs the same data.held_out and split.")
        if len(same) > 1:
            size = number(first.evaluations[-1].get(count))
            said.append(f"On the same {size} {name}, {_values(key, same)} (side by side; not tested).")
    own = _metrics(runs[0])
    if own and (apart := [run.letter for run in runs[1:] if _metrics(run) and not _metrics(run) & own]):
        said.append(f"{runs[0].letter} shares no held-out measurement with {', '.join(apart)}.")
    return said


def _values(key: str, runs: Sequence[Run]) -> str:
    if key == "eval/loss":
        return "loss in nats per token: " + ", ".join(f"{run.letter} {measured(run.after(key))}" for run in runs)
    shares = (f"{run.letter} {_share(run, GOOD)} and {_share(run, BAD)}" for run in runs)
    return "share judged right of the good and of the bad ones: " + ", ".join(shares)


def _share(run: Run, key: str) -> str:
    value = run.after(key)
    return NONE if value is None else fixed(value.value)


def _metrics(run: Run) -> set[str]:
    return {key for key in run.evaluations[-1] if key.startswith("eval/")} if run.evaluations else set()


def _same(run: Run, other: Run) -> bool:
    """Whether all seeds of both were evaluated on the same examples."""
    all_runs = (*(run.members or (run,)), *(other.members or (other,)))
    records = [(one.config, one.manifest) for one in all_runs]
    return all(held_out.are_same(records[0], record) for record in records[1:])


def _old_splits(runs: Sequence[Run]) -> list[str]:
    """Runs from before `data.split_seed`, whose held-out examples a run of today would not hold out."""
    old = [one for run in runs for one in (run.members or (run,)) if held_out.is_old_split(one.config, one.manifest)]
    if not old:
        return []
    names = ", ".join(f"{one.path.name} (seed {one.seed})" for one in old)
    return [f"Held-out examples drawn with the seed of the run, before data.split_seed: {names}."]
