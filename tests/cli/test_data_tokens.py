"""`prefloop data show FILE --model M`: the tokens that a model would be trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from prefloop.cli.main import main
from prefloop.policies import pretrained


@pytest.fixture
def model(tmp_path: Path) -> str:
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), tmp_path / "model", "a tiny model")
    return str(tmp_path / "model")


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "a", "chosen": " yes b", "rejected": " no"}) + "\n")
    return str(tmp_path / "pairs.jsonl")


def test_the_ids_are_those_of_training(model: str, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", pairs, "--model", model, "--system", "c", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["prompt"]["text"] == "<bos> system : c user : a assistant :"
    assert [a["text"] for a in row["answers"]] == ["yes b <eos>", "no <eos>"]
    assert [a["score"] for a in row["answers"]] == [1.0, 0.0] and row["answers"][1]["ids"][-1] == tiny.EOS


def test_parts_are_named_and_tokens_separated(model: str, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", pairs, "--model", model]) == 0
    shown = capsys.readouterr().out
    assert "answers end with `<eos>`" in shown and "row 1: prompt, 6 tokens, not trained" in shown
    assert "yes┊b┊<eos>" in shown and "answer, score 1, 3 tokens, trained" in shown


def test_plain_text_has_no_roles(model: str, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", pairs, "--model", model, "--template", "plain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["prompt"]["text"] == "<bos> a"


def test_an_unknown_model_is_refused(pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", pairs, "--model", str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err
