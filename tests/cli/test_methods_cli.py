"""`prefloop methods` against the paper's Table 1, and pages that match the methods."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from prefloop.cli.main import execute
from prefloop.cli.methods import negative_word, on_policy_word, reuse_word, run_command
from prefloop.core.describe import describe, probe
from prefloop.core.errors import UserError
from prefloop.core.methods import METHODS
from prefloop.runs.config import load
from prefloop.runs.world import method_of

ROOT = Path(__file__).parents[2]


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("method_pages", ROOT / "tools" / "method_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert execute(["methods", "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_every_row_is_listed(rows: dict[str, dict[str, Any]]) -> None:
    assert rows.keys() == METHODS.keys()
    for name, row in rows.items():
        assert row["paper"] == METHODS[name].paper
        assert set(row["needs"]) == METHODS[name].needs
        assert row["options"] == json.loads(json.dumps(METHODS[name].defaults))


@pytest.mark.parametrize(
    ("names", "on_policy", "reuse", "negative"),
    [
        (("ppo",), 1, "yes", True),
        (("reinforce",), 1, "no", True),
        (("dpo", "ipo"), 0, "N/A", True),
        (("pref_ft", "binary_feedme", "best_of_n_offline"), 0, "N/A", False),
        (("rest", "rwr", "best_of_n"), 1, "any", False),
        (("online_dpo", "online_ipo"), 1, "any", True),
    ],
)
def test_table_one_of_the_study(
    rows: dict[str, dict[str, Any]], names: tuple[str, ...], on_policy: float, reuse: str, negative: bool
) -> None:
    for name in names:
        row = rows[name]
        assert (row["on_policy"], row["negative"]) == (on_policy, negative), name
        assert {"N/A": row["reuse"] is None, "no": row["reuse"] == 1, "yes": (row["reuse"] or 0) > 1}.get(
            reuse, (row["reuse"] or 0) >= 1
        ), name


def test_families(rows: dict[str, dict[str, Any]]) -> None:
    found = {name: row["family"] for name, row in rows.items()}
    for name in ("sft", "pref_ft", "best_of_n", "rest", "rwr", "awr"):
        assert found[name] == "supervised"
    for name in ("reinforce", "rloo", "grpo", "grpo_no_std", "ppo", "ppo_critic_free"):
        assert found[name] == "policy gradient"
    for name in ("dpo", "ipo", "slic", "kto", "simpo", "orpo", "dpop", "rso", "best_of_n_negative", "online_dpo"):
        assert found[name] == "contrastive"


@pytest.mark.parametrize("name", METHODS)
def test_negative_switch_in_words_is_what_it_does(name: str) -> None:
    row = METHODS[name]
    full, none = probe(row), probe(row.override(negative=0.0))
    assert full.dtype == torch.float64
    assert bool((full > 0).any())
    assert not bool((none < 0).any())
    words = describe(name, row).switches["negative"]
    assert words.startswith("No effect") == torch.equal(full, none)
    assert describe(name, row.override(negative=0.0)).negative is False


@pytest.mark.parametrize("name", METHODS)
def test_reuse_in_words_follows_the_ratio(name: str) -> None:
    row = METHODS[name].override(on_policy=1.0)
    words = describe(name, row).switches["reuse"]
    assert ("corrects for the change of the policy" in words and "Nothing" not in words) == ("behaviour" in row.needs)
    assert ("the clip stops" in words) == ("clip" in row.defaults)


def test_mixture_is_a_share() -> None:
    row = describe("dpo", METHODS["dpo"].override(on_policy=0.5, reuse=3))
    assert (on_policy_word(row), reuse_word(row), negative_word(row)) == ("50%", "3×", "yes")


def test_printed_table_and_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["methods"]) == 0
    table = capsys.readouterr().out
    for name, row in METHODS.items():
        (line,) = [line for line in table.splitlines() if line.split()[:1] == [name]]
        assert row.paper[:20] in line
    assert execute(["methods", "dpo"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("log σ(β h)", "beta", "0.1", "smoothing", "on_policy", "reuse", "negative", "reference, scores"):
        assert part in shown
    assert execute(["methods", "--names"]) == 0
    assert set(capsys.readouterr().out.split()) == METHODS.keys()


def test_unknown_method_is_named_and_the_nearest_suggested() -> None:
    with pytest.raises(UserError, match="did you mean `dpo`") as error:
        execute(["methods", "dpoo"])
    assert error.value.exit_code == 2


def test_pages_are_current() -> None:
    assert tool().stale(ROOT / "docs") == [], "run: python tools/method_pages.py"


def test_every_row_has_a_plain_sentence() -> None:
    for row in METHODS.values():
        assert row.summary.endswith(".") and row.summary.count(".") == 1 and "|" not in row.summary


@pytest.mark.parametrize("name", METHODS)
def test_the_command_of_a_method_trains_it_as_published(name: str) -> None:
    """Not an ablation of it, such as without its negative gradient."""
    verb, *flags = run_command(describe(name, METHODS[name])).removeprefix("prefloop ").split()
    config = load(None, flags)
    assert verb == "train" and config.method == name and config.override == {}
    assert describe(name, method_of(config)) == describe(name, METHODS[name])
