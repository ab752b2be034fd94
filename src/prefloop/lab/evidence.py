"""One reader for a diagnosis: run folders and stores of the lab."""

from __future__ import annotations

from pathlib import Path

from prefloop.analysis.evidence import Evidence, curve
from prefloop.analysis.numbers import is_part
from prefloop.core.errors import UserError
from prefloop.lab.stack import Run
from prefloop.lab.store import SUFFIX
from prefloop.lab.store import read as read_file
from prefloop.runs.evidence import evidence as of_folder
from prefloop.runs.evidence import with_overlap
from prefloop.runs.folder import CONFIG


def evidences(path: Path) -> list[Evidence]:
    """The evidence of a run folder, or of every run in a store of the lab.

    Raises:
        UserError: neither of them, or a store without runs of this version.
        DataError: a broken record.
    """
    if (path / CONFIG).is_file():
        return [with_overlap(of_folder(path), path)]
    files = [path] if path.suffix == SUFFIX else sorted(path.glob(f"*{SUFFIX}"))
    if not files or not path.exists():
        fix = f"give a run folder (it has a {CONFIG}), or a folder or file of runs of the lab ({SUFFIX})"
        raise UserError("neither a run folder nor a store of the lab", where=str(path), fix=fix)
    found = [of_run(run) for file in files for run in read_file(file)]
    if not found:
        raise UserError("no run of this version of Prefloop", where=str(path), fix="run the grid again")
    return found


def of_run(run: Run) -> Evidence:
    """The evidence of a run in the lab: its step metrics are those of the steps before evaluations."""
    method = run.setting.resolved_method
    beta, world = method.defaults.get("beta"), run.setting.world
    step = run.curves["step"]
    made = {
        key: curve(step, values, run.curves.get(f"{key}_se"))
        for key, values in run.curves.items()
        if key != "step" and not is_part(key)
    }
    return Evidence(
        name=f"{run.setting.method} on {run.setting.problem}, seed {run.setting.seed} ({run.setting.run[:8]})",
        method=run.setting.method,
        curves={key: known for key, known in made.items() if known is not None},
        beta=float(beta) if isinstance(beta, int | float) else None,
        pairs=method.pairs is not None,
        reference="reference" in method.needs,
        learned_reward=getattr(world, "scorer", "") == "proxy",
        reward=str(getattr(world, "gold", "gold")),
        limit=world.tokens,
    )
