"""Rules before results: the published results were decided by the rules of one commit, made before the first run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from prefloop.studies import findings, registry, rules

ROOT = Path(__file__).parents[2]
FROZEN = ROOT / "docs" / "studies" / "rules.json"
PRINT = """
import json
from prefloop.studies import registry, rules
asked = {name: rules.asked(registry.study(name)) for name in registry.STUDIES}
print(json.dumps({"rules": rules.fingerprint(), "asked": asked}))
"""


def test_results_are_by_the_frozen_rules() -> None:
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    found = {one["study"]: (one["rules"], one["asked"]) for one in findings.evidence()}
    assert found == {name: (frozen["rules"], frozen["asked"][name]) for name in found}


def test_the_frozen_rules_are_those_of_their_commit(tmp_path: Path) -> None:
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    commit = frozen.pop("commit")
    told = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=False)
    if told.returncode:
        pytest.skip("the commit of the rules is not in this copy of the history")
    with tarfile.open(fileobj=io.BytesIO(told.stdout)) as archive:
        archive.extractall(tmp_path, filter="data")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    shown = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == frozen


def test_words_do_not_change_the_rules_and_numbers_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = '"""A comment."""\nLEAST = 0.05  # the least\n\n\ndef f(x):\n    """Half."""\n    return x / 2\n'
    file = tmp_path / "claims.py"
    monkeypatch.setattr(rules, "shared", lambda: [file])

    def seen(text: str) -> str:
        file.write_text(text, encoding="utf-8")
        return rules.fingerprint()

    first = seen(code)
    assert seen(code.replace("A comment", "Another").replace("# the least", "# 5 %").replace("Half", "½")) == first
    assert seen(code.replace("0.05", "0.04")) != first and seen(code.replace("x / 2", "x / 3")) != first


def test_what_decides_is_in_the_rules() -> None:
    names = {path.stem for path in rules.shared()}
    assert {"bench", "conduct", "problems", "study", "decisions", "headroom", "tuning", "climb"} <= names
    assert not names & {registry.module_of(name) for name in (*registry.STUDIES, *registry.ALONE)}
