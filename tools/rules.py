"""The rules of studies as a commit has them, frozen before their first run: `python tools/rules.py COMMIT [STUDY…]`
writes them to docs/studies/rules.json, by default those of all that `study run all` runs. Published results must carry
these hashes."""

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
import json, sys
from prefloop.studies import registry, rules
names, shared = sys.argv[1:] or registry.STUDIES, rules.fingerprint()
print(json.dumps({name: {"rules": shared, "asked": rules.asked(registry.study(name))} for name in names}))
"""


def hashes(commit: str, *studies: str) -> dict[str, dict[str, str]] | None:
    """By study, the hash of the rules that all share and of its own; None if there is no such commit here."""
    source = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=False)
    if source.returncode:
        return None
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["tar", "-x", "-C", place], input=source.stdout, check=True)
        environment = {**os.environ, "PYTHONPATH": f"{place}/src"}
        shown = subprocess.run(
            [sys.executable, "-c", PRINT, *studies], env=environment, capture_output=True, text=True, check=True
        )
    found: dict[str, dict[str, str]] = json.loads(shown.stdout)
    return found


def main(commit: str, *studies: str) -> None:
    """Write the hashes of a commit."""
    told = subprocess.run(["git", "rev-parse", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, text=True)
    if told.returncode:
        raise SystemExit(told.stderr)
    frozen: dict[str, Any] = json.loads(FROZEN.read_text(encoding="utf-8")) if FROZEN.is_file() else {}
    frozen |= {name: {"commit": told.stdout.strip(), **own} for name, own in (hashes(commit, *studies) or {}).items()}
    FROZEN.write_text(json.dumps(frozen, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
