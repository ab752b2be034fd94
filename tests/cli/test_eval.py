"""`prefloop eval`: files, runs and models against each other, by a reward, a reward model and a judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from judge_server import better, judge, says
from prefloop.cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")


def file(path: Path, answers: dict[str, str], keys: tuple[str, str] = ("instruction", "output")) -> str:
    rows = [dict(zip(keys, pair, strict=True)) for pair in answers.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[str, str]:
    first = {f"question {i}": "the best answer" if i < 18 else "a bad one" for i in range(24)}
    second = {f"question {i}": "the best answer" if i >= 15 else "another long bad answer" for i in range(30)}
    return file(tmp_path / "a.jsonl", first), file(tmp_path / "b.jsonl", second, ("prompt", "response"))


def seen(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["eval", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(words: list[str], capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    assert main(["eval", *words]) in (2, 3)
    said = " ".join(capsys.readouterr().err.split())
    assert all(part in said for part in parts), said


def test_two_files_by_a_rule(sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = seen([*sides, "--by", "keyword", "--output", str(tmp_path / "out.jsonl")], capsys)
    assert (found["prompts"], found["wins"], found["ties"], found["losses"]) == (24, 15, 3, 6)
    assert found["win_rate"] == pytest.approx(16.5 / 24) and found["low"] < found["win_rate"] < found["high"]
    assert any("6 answers to prompts that only one side answers are left out" in note for note in found["notes"])
    assert "consistent" not in found and found["length_controlled"] is not None
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == 24 and lines[0]["win"] == 1.0 and lines[0]["first"] == "the best answer"


def test_the_table_says_what_could_be_seen_first(sides: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *sides, "--by", "keyword"]) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines())
    assert said.index("prompts: 24; a win rate can be told") < said.index("win rate of a.jsonl: 68.8 % [")
    assert "15 wins, 3 ties, 6 losses" in said and "at equal lengths: " in said


def test_a_judge_on_a_server(sides: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def reply(body: Any, n: int) -> Any:
        return says("Sorry, no.") if "question 3\n" in body["messages"][1]["content"] else better("best")(body, n)

    with judge(reply) as (url, server):
        prices = ["--price-in", "1", "--price-out", "2"]
        words = [*sides, "--judge", "j", "--judge-url", url, "--cache", str(tmp_path / "c"), *prices]
        found = seen(words, capsys)
        asked = len(server.asked)
        again = seen(words, capsys)
        assert len(server.asked) == asked and again["spent"]["requests"] == 0
        assert main(["eval", *words]) == 0
    assert (found["wins"], found["losses"], found["no_verdict"]) == (14, 6, 1)
    assert (found["win_rate"], found["consistent"]) == (again["win_rate"], 1.0)
    assert found["cost"] == pytest.approx((found["spent"]["tokens_in"] + 2 * found["spent"]["tokens_out"]) / 1e6)
    said = capsys.readouterr().out
    assert "no verdict on 1 prompts" in said and "agrees with itself in both orders on 100 %" in said


def test_a_judge_that_never_decides_is_paid_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (file(tmp_path / f"{name}.jsonl", {"p": name, "q": name}) for name in "ab")
    with judge(lambda body, n: says("I would rather not say.")) as (url, _):
        assert main(["eval", one, two, "--judge", "j", "--judge-url", url, "--price-in", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "prompts: 2; too few to tell any win rate from 50 %" in said and "win rate of" not in said
    assert "no verdict on any of 2 prompts" in said and "requests: 8 (" in said and "cost 8e-05" in said


def test_a_model_against_a_file_on_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    tiny.llama(dtype=torch.float32).save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    prompts = [f"{x} {y}" for x in ("yes", "no", "a") for y in ("a", "b", "c")]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    other = file(tmp_path / "b.jsonl", dict.fromkeys(prompts, "no no"))
    words = [str(model), other, "--prompts", str(tmp_path / "p.jsonl"), "--by", "repetition", "--max-new-tokens", "6"]
    found = seen(words, capsys)
    assert found["prompts"] == 9 and found["wins"] + found["ties"] + found["losses"] == 9
    assert seen([*words, "--limit", "4"], capsys)["prompts"] == 4
    few = file(tmp_path / "few.jsonl", dict.fromkeys(prompts[:5], "no"))
    refused([str(model), few, *words[2:]], capsys, "4 of 9 prompts have no answer", "few.jsonl")
    refused([str(model), other, "--by", "repetition"], capsys, "which prompts are to be answered?", "--prompts")


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ([], ("who decides?", "--by REWARD")),
        (["--by", "keyword", "--judge", "j"], ("who decides?",)),
        (["--judge", "j"], ("a judge has a name and an address",)),
        (["--by", "length_min"], ("counts the tokens of a model", "--by")),
        (["--by", "keyward"], ("unknown reward `keyward`", "keyword")),
        (["--judge", "j", "--judge-url", "127.0.0.1"], ("not the address of a server",)),
        (["--judge", "j", "--judge-url", "http://127.0.0.1:9/v1", "--retries", "0"], ("no server answers",)),
    ],
)
def test_mistakes_are_named(
    sides: tuple[str, str], more: list[str], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    refused([*sides, *more], capsys, *parts)


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([{"instruction": "a", "output": "x"}, {"instruction": "a", "output": "y"}], "a second, different answer"),
        ([{"text": "a"}], "not a prompt and an answer"),
        ([{"prompt": "a", "responses": ["x", "y"]}], "2 answers to one prompt"),
        ([{"instruction": "other", "output": "x"}], "answer no prompt in common"),
    ],
)
def test_files_that_cannot_be_compared(
    sides: tuple[str, str], rows: list[Any], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused([sides[0], str(tmp_path / "x.jsonl"), "--by", "keyword"], capsys, part)
