"""`prefloop data rank FILE --model M`: the order, the exported rows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from prefloop.cli.main import main
from prefloop.policies import pretrained

ROWS = [
    {"prompt": "a b", "chosen": "yes a", "rejected": "yes b", "source": "x"},
    {"prompt": "b", "chosen": "no", "rejected": "yes b c", "source": "y"},
    {"prompt": "c", "chosen": "a b c", "rejected": "a b b", "source": "z"},
    {"prompt": "c a", "chosen": "no c", "rejected": "b", "source": "z"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rank") / "model"
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), path, "a tiny model")
    return str(path)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(tmp_path / "pairs.jsonl")


def test_rows_are_ordered_and_can_be_read_again(
    model: str, pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ranked.jsonl"
    assert main(["data", "rank", pairs, "--model", model, "--output", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    scores = [row["displacement"]["chosen"] for row in written]
    assert scores == sorted(scores) and record["pairs"] == len(scores) == 4
    assert [row["displacement"] for row in written] == record["ranked"]
    for row in written:
        given = ROWS[row["displacement"]["row"] - 1]
        assert (row["chosen"][0]["content"], row["source"]) == (given["chosen"], given["source"])
    assert record["falling"] == sum(score < 0 for score in scores) / 4
    assert main(["data", "check", str(out)]) == 0


def test_sgd_also_tells_what_a_pair_does_to_itself(model: str, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "rank", pairs, "--model", model, "--optimizer", "sgd", "--json"]) == 0
    ranked = json.loads(capsys.readouterr().out)["ranked"]
    assert all(isinstance(row[name], float) for row in ranked for name in ("own", "negative", "ches"))


def test_the_verdict_comes_first_and_fits(model: str, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "rank", pairs, "--model", model]) == 0
    shown = capsys.readouterr().out
    assert "The first step of dpo with Adam lowers log π(chosen) of" in shown and "--output" in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if model not in line)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "rloo"], "compares no pairs"),
        (["--method", "dpoo"], "did you mean"),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    model: str, pairs: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "rank", pairs, "--model", model, *words]) == 2
    assert said in capsys.readouterr().err


def test_rows_without_a_preference_are_refused(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a"}) + "\n")
    assert main(["data", "rank", str(tmp_path / "prompts.jsonl"), "--model", model]) == 3
    assert "preferred" in capsys.readouterr().err
