"""How often the intervals of the studies hold the truth: the whole procedure, repeated on real runs of the bandit.

    python tools/coverage.py --out FOLDER

Runs 7 learning rates × 60 seeds of each cell (resumable, in the folder's store), takes them as the population, and
repeats tuning and decision on seeds drawn from it. Writes docs/studies/coverage.json.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from prefloop.analysis.compare import LEVEL
from prefloop.analysis.decisions import Rule
from prefloop.analysis.simulation import halving, simulate
from prefloop.core import files
from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition
from prefloop.studies.problems import RATES, THRESHOLD, attained, bandit
from prefloop.studies.trust import COVERAGE

SEEDS, FIRST = 60, 500_000  # no study has these seeds
PLANTED = (0.0, 0.5, 2.0, 3.0)  # thresholds
REPEATS = 1000
DOCS = Path(__file__).parents[1] / "docs" / "studies"


def contrasts(bench: Bench) -> dict[str, tuple[Condition, Condition]]:
    """Claims of the studies, of methods that differ more and less."""
    return {
        "on-policy DPO less RLOO, far": (bandit(bench, "DPO", "far"), bandit(bench, "RLOO", "far")),
        "on-policy best-of-N less on-policy DPO, far": (
            bandit(bench, "best-of-N", "far"),
            bandit(bench, "DPO", "far"),
        ),
        "offline DPO less offline best-of-N, far": (
            bandit(bench, "DPO", "far", on_policy=False),
            bandit(bench, "best-of-N", "far", on_policy=False),
        ),
    }


def table(bench: Bench, condition: Condition) -> np.ndarray:
    """Scores [rates, seeds] at the knob's start."""
    search = condition.search
    assert search is not None
    setting = condition.setting
    if search.knob is not None:
        setting = replace(setting, override={**setting.override, search.knob.name: search.knob.start})
    runs = bench.sweep([replace(setting, lr=lr, seed=FIRST + s) for lr in RATES["rotated"] for s in range(SEEDS)])
    return np.array([attained(run) for run in runs]).reshape(len(RATES["rotated"]), SEEDS)


def main() -> None:
    """Run, simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    with Bench("small", parser.parse_args().out) as bench:
        scale = bench.scale("rotated")
        rule = Rule(THRESHOLD, first=scale.first, most=scale.most)
        found = {}
        for name, pair in contrasts(bench).items():
            cells = [table(bench, one) for one in pair]
            found[name] = []
            for thresholds in PLANTED:
                done = simulate(cells, rule, planted=thresholds * THRESHOLD, tune=halving, repeats=REPEATS)
                found[name].append(
                    {"planted": thresholds * THRESHOLD, **vars(done), "error": done.error(done.coverage)}
                )
                print(f"{name}, planted {thresholds:g} thresholds: {100 * done.coverage:.1f} %", flush=True)
    about = {"rates": len(RATES["rotated"]), "seeds": SEEDS, "threshold": THRESHOLD, "level": LEVEL}
    files.write(DOCS / COVERAGE, files.to_json({**about, "contrasts": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
