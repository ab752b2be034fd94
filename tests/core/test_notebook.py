"""What a notebook shows: tables in HTML, safe for any text, without a wall of numbers."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prefloop.core.batch import Batch, Signal
from prefloop.core.methods import METHODS
from prefloop.core.notebook import table, text
from prefloop.lab.setting import make
from prefloop.lab.stack import Run
from prefloop.lab.summary import summary
from prefloop.runs.experiment import Result
from toys import make_batch


def rows(shown: str) -> dict[str, Any]:
    """Cells by the first of their row; the page must be well-formed."""
    page = ElementTree.fromstring(f"<page>{shown}</page>")
    cells = [[cell.text or "" for cell in row.findall("td")] for row in page.iter("tr")]
    return {row[0]: row[1] if len(row) == 2 else tuple(row[1:]) for row in cells if row}


def test_a_method_shows_its_choices() -> None:
    shown = rows(METHODS["grpo"].override(reuse=2)._repr_html_())
    assert shown["objective"] == "clipped" and shown["weight"] == "group_zscore" and shown["reuse"] == "2"
    assert shown["on_policy"] == "1" and "clip = 0.2" in shown["defaults"] and shown["needs"] == "behaviour, scores"
    assert "no critic" in shown["summary"] and "kl_in" not in shown and "pairs" not in shown
    stacked = METHODS["dpo"].override(beta=torch.tensor([0.1, 0.2]), negative=torch.tensor([0.0, 1.0]))
    assert "float32 [2]" in rows(stacked._repr_html_())["negative"]


def test_a_batch_shows_shapes() -> None:
    shown = rows(make_batch()._repr_html_())
    assert shown["responses"] == "int64 [3, 4, 5]" and shown["mask"] == "bool [3, 4, 5]" and "valid" not in shown
    assert shown["scores"] == "float64 [3, 4]"
    listed = Batch.from_pairs([[1], [2]], [[3], [4]], [[5], [6]])
    assert rows(listed._repr_html_())["prompts"] == "2 items"
    assert rows(Signal(weight=torch.ones(2, 2))._repr_html_()) == {"weight": "float32 [2, 2]"}


def test_any_text_is_safe_and_well_formed() -> None:
    shown = table("<script>", ("a&b", "c"), [("<i>", "x\"y'")], "1 < 2")
    assert "<script>" not in shown and rows(shown) == {"<i>": "x\"y'"}
    assert "<thead>" not in table("t", ("", ""), [])


def test_values_in_few_words() -> None:
    assert [text(x) for x in (None, "", {}, [], (), 0.12345, 3, True, len, {"b", "a"}, torch.tensor(0.5))] == [
        "", "", "", "", "", "0.1235", "3", "True", "len", "a, b", "0.5",
    ]  # fmt: skip
    assert text(list(range(9))) == "9 items" and text((1, 2)) == "1, 2" and text({"a": None}) == "a = none"


def lab_run(seed: int, reward: float, **fields: Any) -> Run:
    curves = {"step": np.array([0.0, 5.0]), "eval/gold": np.array([0.1, reward]), "diverged": np.zeros(2)}
    curves |= {"eval/kl_reverse_exact": np.array([0.0, 1.5]), "eval/gold_se": np.ones(2), "ess": np.full(2, np.nan)}
    return Run(make("rloo", "arms", steps=5, seed=seed, **fields), curves)


def test_a_run_of_the_lab_shows_where_it_began_and_ended() -> None:
    shown = lab_run(3, 0.5)._repr_html_()
    assert "rloo on arms, seed 3" in shown
    assert rows(shown) == {
        "step": ("0", "5"), "eval/gold": ("0.1", "0.5"), "diverged": ("0", "0"), "eval/kl_reverse_exact": ("0", "1.5"),
    }  # fmt: skip


def test_runs_are_compared_over_their_seeds() -> None:
    runs = [lab_run(s, 0.2 + 0.1 * s, centre=c) for c in (20.0, 70.0) for s in range(4)]
    found = summary(runs)
    assert [len(cell.runs) for cell in found.cells] == [4, 4]
    assert found.head == ("method", "centre", "lr", "reward, IQM [95 %]", "KL", "seeds", "diverged")
    assert [row[:3] for row in found.rows] == [("rloo", "20", "0.001"), ("rloo", "70", "0.001")]
    assert found.rows[0][3].startswith("0.350 [") and found.rows[0][4:] == ("1.5", "4", "0")
    assert "0.350 [" in found._repr_html_() and rows(found._repr_html_())["rloo"][0] == "70"
    lines = str(found).splitlines()
    assert lines[0].split()[:3] == ["method", "centre", "lr"] and len(lines) == 3
    assert len(summary([lab_run(0, 0.5), lab_run(1, 0.5, lr=0.1)]).cells) == 2


def test_the_result_of_a_run_shows_before_and_after() -> None:
    ends = {"eval/pairs": 40.0, "eval/rewards/accuracies": 0.5}
    after = ends | {
        "eval/rewards/accuracies": 0.75,
        "eval/rewards/accuracies_low": 0.6,
        "eval/rewards/accuracies_high": 0.9,
    }
    shown = Result(Path("runs/a"), ends, after, 1.0, "", ("a guess", "another"))._repr_html_()
    assert rows(shown)["rewards/accuracies"][1].startswith("0.75") and "a guess; another" in shown and "runs/a" in shown
