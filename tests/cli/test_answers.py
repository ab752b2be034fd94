"""`sample` and `chat`: the trained model of a run with its own template, the one before, and any other model."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny
from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.policies import pretrained
from prefloop.policies.causal_lm import CausalLM
from prefloop.runs.folder import read, runs
from prefloop.runs.trained import trained

SYSTEM = "a b c"


def train(model: Path, output: Path, *more: str) -> Path:
    data = output.parent / "pairs.jsonl"
    rows = [{"prompt": f"{a} {b}", "chosen": a, "rejected": f"{b} no"} for a in "abc" for b in ("a", "b", "c", "yes")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [f"--model.path={model}", f"--data.train={data}", "--data.held_out=split", "--reward.name=labels"]
    words += ["--training.steps=3", "--training.batch=4", "--training.minibatch=4", "--training.lr=3e-2"]
    words += ["--sampling.max_new_tokens=5", f"--data.system={SYSTEM}", f"--output={output}", "--quiet", *more]
    assert main(["train", *words]) == 0
    return runs(output)[-1]


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(model, tmp_path_factory.mktemp("finished") / "runs")


@pytest.fixture(scope="module")
def unfinished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(model, tmp_path_factory.mktemp("unfinished") / "runs", "--save.final=false", "--save.every=2")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Rows of a format for training: the same question twice."""
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "a b", "chosen": "c", "rejected": x} for x in ("no", "yes")]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "prompt": "c a"}]), encoding="utf-8")
    return path


def test_a_run_answers_greedily_as_its_own_record_says(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answers before and after are those that the run recorded: same model, template, system message and limit."""
    recorded = {(line["step"], line["prompt"]): line["response"] for line in read(finished, "samples")}
    asked = sorted({prompt for _, prompt in recorded})
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked), encoding="utf-8")
    assert main(["sample", str(finished), "--prompts", str(path), "--before", "--output", "-"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["prompt"][-1]["content"] for line in lines] == asked
    assert [line["responses"] for line in lines] == [[recorded[3, prompt]] for prompt in asked]
    assert [line["responses_before"] for line in lines] == [[recorded[0, prompt]] for prompt in asked]
    assert f"model: {finished / 'final'}" in " ".join(err.split())


@pytest.mark.parametrize("final", [True, False])
def test_a_run_that_trains_adapters_answers_too(
    model: Path, prompts: Path, tmp_path: Path, final: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--model.lora_rank=2", "--model.lora_alpha=4")
    run = train(model, tmp_path / "runs", *more, f"--save.final={str(final).lower()}", "--save.every=2")
    assert main(["sample", str(run), "--prompts", str(prompts), "--before", "--unfinished", "--json"]) == 0
    assert all(
        line["responses"] and line["responses_before"] for line in json.loads(capsys.readouterr().out)["answers"]
    )


def test_every_prompt_is_answered_once_and_the_file_has_what_is_shown(
    finished: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", str(finished), "--prompts", str(prompts), "--samples", "3", "--temperature", "1"]
    assert main([*words, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [line["row"] for line in answers] == [1, 3] and all(len(line["responses"]) == 3 for line in answers)
    file = tmp_path / "answers.jsonl"
    assert main([*words, "--output", str(file)]) == 0
    assert [json.loads(line) for line in file.read_text().splitlines()] == answers
    assert main([*words, "--output", str(file)]) == 2  # nothing is overwritten
    capsys.readouterr()
    assert main(words) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.split("row 1")[1].splitlines()) and "cut at the limit" in text


def test_the_best_model_of_a_run_answers_as_the_run_does(
    finished: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the same template, system message and limit."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "final").rename(run / "best")
    answers = []
    for name in (finished, finished / "final", run / "best"):
        assert main(["sample", str(name), "--prompts", str(prompts), "--before", "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["answers"])
    assert answers[0] == answers[1] == answers[2]


def test_a_run_without_a_best_model_does_not_answer_with_another(finished: Path, unfinished: Path) -> None:
    for run in (finished, unfinished):
        with pytest.raises(UserError, match="kept no model better"):
            trained(str(run / "best"), unfinished=True)


def test_an_unfinished_run_offers_its_checkpoint(
    unfinished: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", str(unfinished), "--prompts", str(prompts)]
    assert main(words) == 2
    assert "step 2 of 3" in (err := capsys.readouterr().err) and "--unfinished" in err and "--resume" in err
    assert main([*words, "--before", "--unfinished", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert any("step 2 of 3" in note for note in made["notes"])


def test_mistakes_are_named(
    model: Path, finished: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "a " * 90}) + "\n" + json.dumps({"prompt": "a"}) + "\n", encoding="utf-8")
    assert main(["sample", str(model), "--prompts", str(prompts), "--before"]) == 2
    assert main(["sample", str(finished), "--prompts", str(prompts), "--samples", "2"]) == 2
    assert "temperature" in capsys.readouterr().err
    assert main(["sample", str(model), "--prompts", str(long)]) == 3
    assert "1 of 2 prompts" in capsys.readouterr().err
    assert main(["sample", str(model), "--prompts", str(long), "--faulty", "skip", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [line["row"] for line in made["answers"]] == [2] and any("left out" in note for note in made["notes"])


def test_control_characters_of_an_answer_do_not_reach_the_terminal() -> None:
    from prefloop.cli.sample import text_of

    shown = text_of(
        {"row": 1, "prompt": [{"role": "user", "content": "a\x1b[2J"}], "responses": ["\x1b]0;x\x07 ☺"], "cut": [False]}
    )
    assert "\x1b" not in shown and "\\x1b" in shown and "☺" in shown


def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: str, *words: str) -> Any:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main(["chat", *words, "--max-new-tokens", "6"]) == 0
    return capsys.readouterr()


def test_a_conversation_has_turns_and_starts_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once = json.loads(talk(monkeypatch, capsys, "a b\n", str(finished), "--json").out)["turns"]
    twice = json.loads(talk(monkeypatch, capsys, "a b\n\nc a\n/exit\nno\n", str(finished), "--json").out)["turns"]
    again = json.loads(talk(monkeypatch, capsys, "c a\n/reset\na b\n", str(finished), "--json").out)["turns"]
    assert [turn["role"] for turn in twice] == ["user", "assistant"] * 2 and twice[:2] == once == again


def test_a_pipe_gets_the_answers_only_and_streaming_changes_none(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = json.loads(talk(monkeypatch, capsys, "a b\nc a\n", str(finished), "--json").out)["turns"]
    out, err = talk(monkeypatch, capsys, "a b\nc a\n", str(finished))
    shown = out.removesuffix("\n").replace(" … (cut at the limit)", "").replace("(an empty answer)", "").split("\n")
    assert shown == [turn["content"] for turn in turns if turn["role"] == "assistant"] and "model:" in err


def test_a_turn_that_is_stopped_or_does_not_fit_is_not_kept(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = talk(monkeypatch, capsys, "a " * 80 + "\na b\n", str(finished), "--json")
    assert "/reset" in err and len(json.loads(out)["turns"]) == 2
    draw, calls = CausalLM.draw, 0

    def stopped(self: CausalLM, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyboardInterrupt
        return draw(self, *args, **options)

    monkeypatch.setattr(CausalLM, "draw", stopped)
    out, err = talk(monkeypatch, capsys, "c\na b\n", str(finished), "--json")
    turns = json.loads(out)["turns"]
    assert "not kept" in err and [turn["content"] for turn in turns if turn["role"] == "user"] == ["a b"]


def test_a_base_model_continues_each_line_alone_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    pretrained.save(tiny.llama(len(tiny.WORDS)).float(), tiny.tokenizer(None), base, "a base model")
    monkeypatch.setattr("sys.stdin", io.StringIO("a b\na b\n"))
    assert main(["chat", str(base), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert any("each line as plain text" in note for note in made["notes"])
    answers = [turn["content"] for turn in made["turns"] if turn["role"] == "assistant"]
    assert len(answers) == 2 and answers[0] == answers[1]
