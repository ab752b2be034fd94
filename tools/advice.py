"""The rule that Prefloop ships, fitted to the outcomes of problems and tested on those left out: python tools/advice.py
DIR writes src/prefloop/advice/rule.json. DIR is the folder of the studies, the --out of `prefloop study run advice`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from prefloop.advice import kept, outcomes, regret, rule


def main(folder: Path, target: Path = rule.SHIPPED) -> None:
    """Fit, test, write, and print what the rule says of itself."""
    found = kept.stored(folder)
    made = regret.shipped(outcomes.tabulated(found))
    rule.save(made, target)
    dropped = Counter(one.problem.rpartition("-")[0] for one in found if not one.results)
    print(f"fitted to {dict(made.status.worlds)}; dropped before training: {dict(dropped)}; default: {made.default}")
    for name in ("rule", "best constant", "oracle"):
        value, low, high = made.status.regret[name]
        print(f"regret of {name}: {value:.3f} [{low:.3f}, {high:.3f}]")
    print(f"{made.level:.0%} intervals hold {made.status.coverage:.1%}; abstains on {made.status.abstains:.1%}")
    print(made.status.refusal or "it advises")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
