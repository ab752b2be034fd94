"""The rules of the studies, frozen before their runs: writes docs/studies/rules.json for the last commit. Tag that
commit; results on the pages must carry these hashes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from prefloop.studies import registry, rules

ROOT = Path(__file__).parents[1]
FROZEN = ROOT / "docs" / "studies" / "rules.json"


def hashes() -> dict[str, object]:
    """The hash of the shared rules, and of each study's own file."""
    asked = {name: rules.asked(registry.study(name)) for name in registry.STUDIES}
    return {"rules": rules.fingerprint(), "asked": asked}


def main() -> None:
    """Refuses a tree with changes: the hash must be that of a commit."""
    if subprocess.run(["git", "status", "--porcelain", "--", "src"], cwd=ROOT, capture_output=True, text=True).stdout:
        raise SystemExit("commit the changes of src/ first")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    FROZEN.write_text(json.dumps({"commit": commit.strip(), **hashes()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
