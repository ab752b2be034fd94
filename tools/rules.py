"""The rules of the studies as a commit has them, frozen before the first run: `python tools/rules.py COMMIT` writes
docs/studies/rules.json. Published results must carry these hashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FROZEN = ROOT / "docs" / "studies" / "rules.json"
PRINT = """
import json
from prefloop.studies import registry, rules
asked = {name: rules.asked(registry.study(name)) for name in registry.STUDIES}
print(json.dumps({"rules": rules.fingerprint(), "asked": asked}))
"""


def hashes(commit: str) -> dict[str, Any] | None:
    """The hash of the rules that all studies share, and of each study's own; None if there is no such commit here."""
    source = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=False)
    if source.returncode:
        return None
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["tar", "-x", "-C", place], input=source.stdout, check=True)
        environment = {**os.environ, "PYTHONPATH": f"{place}/src"}
        shown = subprocess.run(
            [sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True
        )
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def main(commit: str) -> None:
    """Write the hashes of a commit."""
    told = subprocess.run(["git", "rev-parse", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, text=True)
    if told.returncode:
        raise SystemExit(told.stderr)
    frozen = {"commit": told.stdout.strip(), **(hashes(commit) or {})}
    FROZEN.write_text(json.dumps(frozen, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
