"""`prefloop data show FILE --model M`: the tokens that a model would be trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from prefloop.cli.data.check import Options
from prefloop.cli.main import main
from prefloop.policies import pretrained
from prefloop.worlds.text.spec import DataOptions


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


@pytest.fixture
def long(tmp_path: Path) -> str:
    rows = [{"prompt": f"a {'b ' * n}", "chosen": "yes b", "rejected": "no"} for n in (1, 2, 3, 30)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "long.jsonl")


def test_check_counts_tokens(model: str, long: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", long, "--model", model, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["tokens"]
    assert [counts[part]["max"] for part in ("prompt", "response", "row")] == [36, 3, 39]
    assert counts["prompt"]["median"] == 8.5 and counts["response"]["median"] == 2.5
    assert main(["data", "check", long, "--model", model]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "prompt tokens 7 to 36, median 8" in shown and "over limits" not in shown


def test_check_counts_what_is_over_a_limit(model: str, long: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--max-prompt-tokens=20", "--max-response-tokens=2", "--over-limit=cut"]
    assert main(["data", "check", long, "--model", model, "--json", *more]) == 3
    counts = json.loads(capsys.readouterr().out)
    assert "more than 20 tokens" in counts["faults"][0]["what"]
    assert (counts["tokens"]["over_prompt"], counts["tokens"]["over_context"]) == (1, 0)
    assert counts["tokens"]["cut"]["cut"] == 3 and counts["tokens"]["cut"]["share"] == 0.5
    assert counts["tokens"]["limits"] == {"prompt": 20, "response": 2, "context": 64}


def test_check_has_the_limits_of_train() -> None:
    for name in ("max_prompt_tokens", "max_response_tokens", "over_limit", "template", "system"):
        assert getattr(Options(file=Path("x")), name) == getattr(DataOptions(), name)


def test_a_row_beyond_the_context_is_counted(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "a", "chosen": "yes " * n, "rejected": "no"} for n in (2, 3, 70)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "check", str(tmp_path / "rows.jsonl"), "--model", model]) == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 rows over the context of 64" in shown and "row 3: prompt and response have 77 tokens" in shown


def train(model: str, data: str, output: Path, *more: str) -> list[str]:
    words = ["train", "--method=dpo", f"--model.path={model}", "--reward.name=labels", f"--data.train={data}"]
    words += [
        "--data.held_out=builtin",
        "--training.steps=2",
        "--training.batch=4",
        "--training.minibatch=4",
        f"--output={output}",
    ]
    return [*words, "--evaluation.prompts=2", "--evaluation.max_cut=1", "--sampling.max_new_tokens=1", "--json", *more]


def test_responses_of_a_file_have_their_own_limit(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"a {'b ' * n}", "chosen": "yes b a", "rejected": "no"} for n in range(4)]
    data = str(tmp_path / "rows.jsonl")
    Path(data).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(train(model, data, tmp_path)) == 0  # one token of a sample, but whole responses
    assert not any("cut" in note for note in json.loads(capsys.readouterr().out)["notes"])
    said = "4 of 8 training responses (50.0%) have more than 3 tokens"
    assert main(train(model, data, tmp_path, "--data.max_response_tokens=3")) == 3
    refused = capsys.readouterr().err
    assert said in refused and "the longest has 4" in refused and "data.over_limit=cut" in refused
    check = ["data", "check", data, "--model", model, "--max-response-tokens=3"]
    assert main(check) == 3
    assert said in capsys.readouterr().err
    assert main([*check, "--over-limit=cut"]) == 0
    assert "4 of 8 responses cut (50.0%)" in " ".join(capsys.readouterr().out.split())
    assert main(train(model, data, tmp_path, "--data.max_response_tokens=3", "--data.over_limit=cut")) == 0
    result = json.loads(capsys.readouterr().out)
    notes = json.loads((Path(result["run"]) / "manifest.json").read_text())["notes"]
    for said in (result["notes"], notes):
        (note,) = (note for note in said if "4 of 8 responses cut (50.0%)" in note)
        assert note.endswith("data.max_response_tokens is 3")


def test_held_out_responses_that_are_cut_are_counted(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (("rows", "yes"), ("held", "yes b a")):
        rows = [{"prompt": f"{name[0]} {'b ' * n}", "chosen": said, "rejected": "no"} for n in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ("--data.max_response_tokens=3", f"--data.held_out={tmp_path / 'held.jsonl'}")
    assert main(train(model, str(tmp_path / "rows.jsonl"), tmp_path, *more)) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert "held-out responses: 4 of 8 cut (50.0%); data.max_response_tokens is 3" in notes


def test_a_few_long_responses_are_cut_and_counted(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a " * (n + 1), "chosen": "yes" + " b" * (n == 0), "rejected": "no"} for n in range(10)]
    data = str(tmp_path / "rows.jsonl")
    Path(data).write_text("".join(json.dumps(row) + "\n" for row in rows))
    limited = train(model, data, tmp_path, "--data.max_response_tokens=2", "--training.steps=5")
    assert main(limited) == 0
    assert any("1 of 20 responses cut (5.0%)" in note for note in json.loads(capsys.readouterr().out)["notes"])
    assert main(["data", "check", data, "--model", model, "--max-response-tokens=2"]) == 0
    assert "1 of 20 responses cut (5.0%)" in " ".join(capsys.readouterr().out.split())


def test_check_finds_what_the_template_refuses(
    model: str, pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    assert main(["data", "check", pairs, "--model", model, "--template", str(tmp_path / "no.jinja")]) == 3
    assert "roles must alternate" in capsys.readouterr().err


def test_a_run_leaves_out_what_cannot_be_rendered_if_told_so(
    model: str, long: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train(model, long, tmp_path, "--data.max_prompt_tokens=20")
    assert main(words) == 3 and "more than 20 tokens" in capsys.readouterr().err
    assert main([*words, "--data.faulty=skip"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("training: 1 of 4 rows are left out" in note for note in notes)


def test_check_refuses_questions_that_are_held_out_too(
    pairs: str, long: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", long, "--held-out", pairs]) == 0
    capsys.readouterr()
    assert main(["data", "check", long, "--held-out", long]) == 3
    assert "4 of 4 training rows ask questions that are held out too" in capsys.readouterr().err


def test_a_token_without_an_embedding_is_refused_by_check_and_train(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tiny.tokenizer(tiny.TEMPLATE.replace("{{ bos_token }}", "<image>"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tokenizer, tmp_path / "image", "a tiny model")
    model = str(tmp_path / "image")
    said = "row 1: `<image>` is token 12, but the model's embedding has 12 rows"
    assert main(["data", "check", pairs, "--model", model]) == 3
    assert said in " ".join(capsys.readouterr().err.split())
    for method in ("dpo", "online_dpo"):
        words = ["train", f"--method={method}", f"--model.path={model}", f"--data.train={pairs}", "--training.steps=1"]
        words += ["--data.faulty=skip", "--reward.name=length_min", f"--output={tmp_path}"]
        assert main(words) == 3
        assert "<image>" in capsys.readouterr().err
