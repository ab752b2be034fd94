"""Traps, best of n with ties, the human ceiling and the spread under a policy: by hand, and by other formulas."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from paths import real
from prefloop.cli.main import main
from prefloop.data.formats import load_usable
from prefloop.policies import pretrained
from prefloop.rewards.bradley_terry.measures import Ranked, Section, best_of, ceiling, top_credit, traps, under_policy

pytestmark = pytest.mark.usefixtures("one_thread")


def values(section: Section | None) -> dict[str, float]:
    assert section is not None
    for one in section.measures:
        assert one.value.low <= one.value.value <= one.value.high and one.meaning
    return {one.key: one.value.value for one in section.measures}


def test_traps_by_hand() -> None:
    found = values(traps([1.0, -1.0, 2.0, 0.0], [5, -5, -1, 0], "abcd", name="t", n=50))
    assert found == {"accuracy": 0.625, "longer": 0.375, "trap": 0.5, "no_trap": 1.0}


def test_whoever_likes_length_falls_into_every_trap() -> None:
    longer = np.random.default_rng(0).integers(-9, 9, 200)
    found = values(traps(longer * 0.1, longer, range(200), name="t", n=50))
    assert found["trap"] == 0 and found["no_trap"] == 1 and found["accuracy"] == found["longer"]


def test_the_credit_of_ties_is_the_chance_of_picking_right_at_random_among_the_best() -> None:
    rng = np.random.default_rng(1)
    for scores in product((0.0, 1.0, 2.0), repeat=4):
        top = [i for i, s in enumerate(scores) if s == max(scores)]
        assert top_credit(Ranked(scores, [True, False, False, False], "k")) == (1 / len(top) if 0 in top else 0)
    rows = [Ranked(rng.permutation(4).astype(float).tolist(), [True, False, False, False], f"{i}") for i in range(4000)]
    section = best_of(rows, n=50)
    assert values(section)["best_of"] == pytest.approx(0.25, abs=0.03)
    assert section is not None and "chance is 0.250" in section.measures[0].meaning
    assert best_of([Ranked([1.0, 0.0], [True, False], "a")], n=20) is None  # a pair is no choice among several


def test_ties_are_scored_as_by_rewardbench_2() -> None:
    """Its formula written out for two pairs of prompts: one is perfect, one has a wrong answer above a right one."""
    rows = [
        Ranked([3.0, 2.5, 0.0], [True, True, False], "a", "tied:1"),
        Ranked([2.0, 1.0], [True, False], "a", "ref:1"),
        Ranked([3.0, 0.0, 1.0], [True, True, False], "b", "tied:2"),
        Ranked([1.0, 0.0], [True, False], "b", "ref:2"),
    ]
    margins = [np.tanh(min(1.0, 2.5) / 0.5 - 1), np.tanh(min(1.0, -1.0) / 3.0 - 1)]
    expected = 0.3 * 0.5 + 0.3 * 1.0 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * float(np.mean(margins))
    found = values(best_of(rows, n=50))
    assert found["ties_score"] == pytest.approx(expected)
    assert found["ties_accuracy"] == 0.5 and found["ties_preferred"] == 0.5 and "best_of" not in found


def test_the_ceiling_by_enumeration() -> None:
    """Every vote of three: what one says against two others that agree."""
    votes = [list(v) for v in product((1.0, 0.0, 0.5), repeat=3)]
    margin, longer = [1.0] * 27, [-1.0] * 27
    cases = [(v[i], v[j]) for v in votes for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1)) if v[j] == v[k] != 0.5]
    found = values(ceiling(votes, margin, longer, range(27), n=50))
    assert found["human"] == pytest.approx(np.mean([1 - abs(own - other) for own, other in cases]))
    assert found["model"] == pytest.approx(np.mean([other for _, other in cases]))
    assert found["longer"] == pytest.approx(1 - found["model"])
    assert found["lead"] == pytest.approx(found["model"] - found["human"])
    assert ceiling([[1.0, 0.0]], [1.0], [1.0], "a") is None


def test_the_ceiling_of_pandalm_is_that_of_its_annotators(preference_data: Path) -> None:
    groups = [g for g in load_usable(real(preference_data, "pandalm/testset-v1.json")).groups if len(g.responses) == 2]
    votes = [g.columns["votes"] for g in groups]
    assert all(len(v) == 3 for v in votes)
    agree = []
    for v in votes:
        for i in range(3):
            others = v[:i] + v[i + 1 :]
            if others[0] == others[1] != 0.5:
                agree.append(0.5 if v[i] == 0.5 else float(v[i] == others[0]))
    found = values(ceiling(votes, [1.0] * len(votes), [1.0] * len(votes), [g.key for g in groups], n=50))
    assert found["human"] == pytest.approx(np.mean(agree)) and 0.85 < found["human"] < 0.99


def test_spread_under_a_policy() -> None:
    rng = np.random.default_rng(2)
    table = rng.normal(size=(400, 4)) * 0.5 + rng.normal(size=(400, 1)) * 2
    table[:100] = table[:100, :1]
    found = values(under_policy(table.tolist(), n=50))
    assert found["alike"] == 0.25
    assert found["within"] == pytest.approx(np.mean([np.std(row, ddof=1) for row in table]))
    assert found["across"] == pytest.approx(np.std([np.mean(row) for row in table], ddof=1))


def test_from_the_command_line_to_page_terminal_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), tmp_path / "tiny", "")
    words = [word for word in tiny.WORDS if word.isalpha()][:5]
    pairs, rm = tmp_path / "pairs.jsonl", tmp_path / "rm"
    asked = [f"{a} {b}" for a in words for b in words]
    write(pairs, [{"prompt": q, "chosen": f"yes {q}", "rejected": f"no {q}"} for q in asked])
    votes = {"response1": "yes", "response2": "no a", "annotator1": 1, "annotator2": 1, "annotator3": 2}
    write(tmp_path / "human.jsonl", [{"instruction": f"c {q}", "input": "", **votes} for q in asked])
    write(tmp_path / "traps.jsonl", [{"prompt": f"b b {q}", "chosen": "yes", "rejected": "no a b c"} for q in asked])
    many = [{"prompt": f"a a {q}", "chosen": ["yes"], "rejected": ["no", "no a", "b"]} for q in asked]
    write(tmp_path / "many.jsonl", many)
    flags = ["--model", str(tmp_path / "tiny"), "--held-out", "none", "--autocast", "false", "--quiet"]
    assert main(["reward", "train", str(pairs), "--out", str(rm), *flags]) == 0
    more = ["--traps", str(tmp_path / "traps.jsonl"), "--best-of", str(tmp_path / "many.jsonl")]
    more += [
        "--policy",
        str(tmp_path / "tiny"),
        "--policy-prompts",
        "4",
        "--policy-answers",
        "2",
        "--policy-tokens",
        "4",
    ]
    card = ["reward", "card", str(rm), str(tmp_path / "human.jsonl"), "--out", str(tmp_path / "card"), *more]
    capsys.readouterr()
    assert main([*card, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    sections = told["sections"]
    assert set(sections) == {"ceiling", "best_of", "traps traps.jsonl", "policy"}
    assert (
        sections["ceiling"]["human"]["value"] == 0.0
    )  # the third stands against the other two, who are no majority for
    assert sections["traps traps.jsonl"]["trap"]["value"] == sections["traps traps.jsonl"]["accuracy"]["value"] == 1.0
    assert 0 <= sections["best_of"]["best_of"]["value"] <= 1 and sections["policy"]["within"]["value"] >= 0
    assert not any("lineage" in remark for remark in told["remarks"]) and "accuracy" in told["meanings"]
    assert json.loads((tmp_path / "card" / "card.json").read_text())["sections"] == sections
    assert main(card) == 0
    shown, page = capsys.readouterr().out, (tmp_path / "card" / "README.md").read_text()
    for title in (section["title"] for section in sections.values()):
        assert title in shown and title.split(":")[0] in page.replace("\\", "")
    assert main([*card[:-6], "--policy-answers", "1", *card[-6:-4]]) == 2


def test_another_lineage_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_encoder_training import folder_of

    base = folder_of("bert", tmp_path / "bert")
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), tmp_path / "tiny", "")
    data = tmp_path / "pairs.jsonl"
    write(data, [{"prompt": f"{a} {b}", "chosen": f"yes {a}", "rejected": f"no {b}"} for a in "abc" for b in "abc"])
    fixed = ["--autocast", "false", "--held-out-share", "0.5", "--model", str(base), "--quiet"]
    assert main(["reward", "train", str(data), "--out", str(tmp_path / "rm"), *fixed]) == 0
    more = ["--policy", str(tmp_path / "tiny"), "--policy-tokens", "4", "--autocast", "false", "--json"]
    capsys.readouterr()
    assert main(["reward", "card", str(tmp_path / "rm"), str(data), "--out", str(tmp_path / "card"), *more]) == 0
    remarks = json.loads(capsys.readouterr().out)["remarks"]
    assert any("different lineage" in r and "architecture (bert, policy llama)" in r for r in remarks)


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
