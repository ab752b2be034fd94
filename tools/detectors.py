"""Run the detector benchmark and print its table: python tools/detectors.py --out detectors.json [--runs 20].

Thresholds and error rates of `analysis/checks.py` are copied from what it prints.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from prefloop.analysis.checks import CHECKS
from prefloop.analysis.statistics import Interval
from prefloop.core.files import plain
from prefloop.detectors.benchmark import Result, benchmark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="runs of each kind of fault")
    parser.add_argument("--sound", type=int, default=66, help="sound runs")
    parser.add_argument("--only", nargs="*", default=[], help="kinds of fault")
    parser.add_argument("--out", type=Path, required=True, help="file for all scores, JSON")
    options = parser.parse_args()
    start = time.monotonic()

    def tick(text: str) -> None:
        print(f"{time.monotonic() - start:7.0f} s  {text}", flush=True)

    found = benchmark(options.runs, options.sound, tick=tick, only=options.only)
    options.out.write_text(json.dumps(record(found), indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines(found)))


def record(found: Result) -> dict[str, Any]:
    """Everything as a JSON value; what is not finite is null."""
    cases = [{"kind": c.kind, "scores": dict(c.scores), "alarms": dict(c.alarms)} for c in found.cases]
    areas = {name: None if roc is None else [roc.auc, roc.low, roc.high] for name, roc in found.rocs.items()}
    judged = {
        name: {
            "found": {kind: _ends(x) for kind, x in one.found.items()},
            "noticed": {kind: _ends(x) for kind, x in one.noticed.items()},
            "false_alarms": _ends(one.false_alarms),
            "by_check": {check: _ends(x) for check, x in one.by_check.items()},
        }
        for name, one in found.detectors.items()
    }
    return dict(plain({"thresholds": dict(found.thresholds), "detectors": judged, "auc": areas, "cases": cases}))


def _ends(x: Interval) -> list[float]:
    return [x.value, x.low, x.high, x.units]


def lines(found: Result) -> list[str]:
    """Detection by kind for the right reason, false alarms, and the fitted thresholds."""
    names = list(found.detectors)
    out = ["", f"{'found for the right reason':<28}" + "".join(f"{name:>26}" for name in names)]
    for kind in next(iter(found.detectors.values())).found:
        out.append(f"{kind:<28}" + "".join(f"{found.detectors[name].found[kind]!s:>26}" for name in names))
    out.append(f"{'false alarms':<28}" + "".join(f"{found.detectors[name].false_alarms!s:>26}" for name in names))
    out += ["", f"{'check':<16}{'threshold':>12}{'before':>12}{'AUC':>24}{'false alarms':>26}"]
    for name, check in CHECKS.items():
        roc, rate = found.rocs[name], found.detectors[names[0]].by_check.get(name)
        area = "–" if roc is None else f"{roc.auc:.3f} [{roc.low:.3f}, {roc.high:.3f}]"
        out.append(f"{name:<16}{found.thresholds[name]:>12.4g}{check.threshold:>12.4g}{area:>24}{rate!s:>26}")
    return out


if __name__ == "__main__":
    main()
