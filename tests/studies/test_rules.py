"""Rules before results: the published results were decided by the rules of one commit, made before the first run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from prefloop.studies import findings, registry, rules

ROOT = Path(__file__).parents[2]
FROZEN = ROOT / "docs" / "studies" / "rules.json"


def test_results_are_by_the_frozen_rules() -> None:
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    found = {one["study"]: (one["rules"], one["asked"]) for one in findings.evidence()[0]}
    assert found == {name: (frozen[name]["rules"], frozen[name]["asked"]) for name in found}


def test_the_frozen_rules_are_those_of_their_commits() -> None:
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    assert set(registry.STUDIES) <= set(frozen)
    found = importlib.util.spec_from_file_location("rules_tool", ROOT / "tools" / "rules.py")
    assert found is not None and found.loader is not None
    tool = importlib.util.module_from_spec(found)
    found.loader.exec_module(tool)
    for commit in {one["commit"] for one in frozen.values()}:
        own = {name: one for name, one in frozen.items() if one["commit"] == commit}
        made = tool.hashes(commit, *own)
        if made is None:
            pytest.skip("the commit of the rules is not in this copy of the history")
        assert {name: {"commit": commit, **one} for name, one in made.items()} == own


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
