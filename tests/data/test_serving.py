"""Which methods a file serves: what `data check` says is what `train` accepts, and hints lead to no second error."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from format_rows import ROWS
from prefloop.cli.main import execute
from prefloop.core.errors import DataError, UserError
from prefloop.core.methods import METHODS
from prefloop.data.formats import load, load_usable
from prefloop.data.serving import OFFLINE, given, served
from prefloop.runs import config as configuration
from prefloop.runs.world import check_reward, method_of, needs_of, plan_of, resolved
from prefloop.worlds.text.open_data import open_data

SHAPES: dict[str, dict[str, Any]] = {
    "pairs": {"chosen": "yes", "rejected": "no"},
    "labels": {"completion": "yes", "label": True},
    "demonstrations": {"completion": "yes"},
    "messages": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "rated": {"responses": ["a", "b", "c", "d"], "scores": [1, 2, 3, 4]},
    "rated singly": {"responses": ["a"], "scores": [3]},
    "unscored": {"responses": ["a", "b"]},
    "prompts": {},
}


def written(folder: Path, shape: str, count: int = 40) -> Path:
    path = folder / "data.jsonl"
    with path.open("w") as out:
        for i in range(count):
            row = {"prompt": f"Q {i}", **SHAPES[shape]}
            if "messages" in row or "instruction" in row:
                del row["prompt"]
            if "messages" in row:
                row["messages"] = [{"role": "user", "content": f"Q {i}"}, *row["messages"][1:]]
            if "instruction" in row:
                row["instruction"] = f"Q {i}"
            if shape == "rated singly":
                row["scores"] = [i % 5]
            if "label" in row:
                row["label"] = i % 2 == 0
            out.write(json.dumps(row) + "\n")
    return path


def accepted(flags: list[str]) -> None:
    """What `train` checks before it loads a model."""
    config = resolved(configuration.load(None, flags))
    method = method_of(config)
    plan_of(config, method)
    check_reward(config, method, open_data(config.data))


def test_the_table_of_needs_is_that_of_the_methods() -> None:
    assert {name: needs_of(method) for name, method in METHODS.items() if method.on_policy == 0} == OFFLINE


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_file_serves_is_what_training_accepts(tmp_path: Path, shape: str) -> None:
    path = written(tmp_path, shape)
    found = served(given(load(path)))
    for name in OFFLINE:
        flags = [f"--method={name}", f"--data.train={path}", "--data.held_out=split"]
        if name in found:
            more = " ".join(found[name]).replace("NUMBER", "2").split()
            accepted([*flags, *more])
        else:
            with pytest.raises(UserError):
                accepted(flags)
    assert bool(found) == (shape != "prompts")


@pytest.mark.parametrize("shape", SHAPES)
def test_hints_lead_to_a_method_that_works(tmp_path: Path, shape: str) -> None:
    """`sft` on pairs names `pref_ft`; `dpo` on labels names `kto`; no hint leads to a second error."""
    path = written(tmp_path, shape)
    flags = [f"--data.train={path}", "--data.held_out=split"]
    found = served(given(load(path)))
    for name in OFFLINE:
        try:
            accepted([f"--method={name}", *flags])
        except DataError:
            continue
        except UserError as error:
            named = [x for x in re.findall(r"\w+", error.fix) if x in OFFLINE]
            assert set(named) <= set(found), error.fix
            if "override: {responses:" in error.fix:
                size = re.findall(r"responses: (\d+)", error.fix)[0]
                more = ["--reward.label_threshold=2"] if shape == "rated" and name in ("kto", "binary_feedme") else []
                accepted([f"--method={name}", *flags, f"--override.responses={size}", *more])


@pytest.mark.parametrize(
    ("shape", "method", "parts"),
    [
        ("pairs", "sft", ["imitates every response", "pref_ft"]),
        ("labels", "sft", ["imitates every response", "kto, binary_feedme"]),
        ("labels", "dpo", ["compares responses to one prompt", "labels of single responses", "kto, binary_feedme"]),
        ("demonstrations", "dpo", ["reads scores", "without a score", "use sft"]),
        ("demonstrations", "kto", ["reads labels", "use sft"]),
        ("unscored", "dpo", ["reads scores", "responses without scores", "sft with --override.responses 2"]),
    ],
)
def test_a_method_that_cannot_use_a_file_is_refused(tmp_path: Path, shape: str, method: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        accepted([f"--method={method}", f"--data.train={written(tmp_path, shape)}", "--data.held_out=split"])
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize("shape", SHAPES)
def test_data_check_ends_with_a_command_that_works(
    tmp_path: Path, shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, shape)
    assert execute(["data", "check", str(path)]) == 0
    shown = capsys.readouterr().out
    last = shown.strip().splitlines()[-1]
    assert last.startswith("next: prefloop train --method ") and "serves" in shown
    flags = shlex.split(last.removeprefix("next: prefloop train "))
    flags = [{"module:function": "length_min", "NUMBER": "2"}.get(flag, flag) for flag in flags]
    accepted(flags)
    assert execute(["data", "check", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert f"next: {record['next']}" == last and set(record["serves"]) == set(served(given(load(path))))


def test_the_command_reads_the_file_as_it_was_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two words.jsonl"
    rows = [{"q": f"Q {i}", "response": "yes" * (i % 9 > 0), "rejected": "no", "id": i} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ["--columns", "prompt=q", "chosen=response", "--group-by", "id", "--faulty", "skip"]
    assert execute(["data", "check", str(path), *more]) == 0
    command = capsys.readouterr().out.strip().splitlines()[-1]
    flags = shlex.split(command.removeprefix("next: prefloop train "))
    config = resolved(configuration.load(None, flags))
    assert config.data.columns == {"prompt": "q", "chosen": "response"} and config.data.group_by == "id"
    assert config.data.train == str(path) and config.data.faulty == "skip"
    accepted(flags)


def test_pairs_are_written_as_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "pairs.jsonl", tmp_path / "labels.jsonl"
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (pair, {**pair, "preference": "tie"}, pair)))
    assert execute(["data", "convert", str(path), "--out", str(out), "--to", "labels"]) == 0
    assert "rows without a preference have no labels: 1 are left out" in capsys.readouterr().out
    found = load_usable(out)
    assert found.format == "unpaired"
    assert [(g.responses, g.scores) for g in found.groups] == [(("a",), (1.0,)), (("b",), (-1.0,))] * 2
    assert "kto" in served(given(found.groups)) and not served(given(found.groups))["kto"]
    for name, what in (("nectar", "the scores are ratings"), ("example", "no row has a preference")):
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name][0][0]))
        with pytest.raises(DataError, match=what):
            execute(["data", "convert", str(path), "--out", str(tmp_path / "x.jsonl"), "--to", "labels"])


def test_a_conversation_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"prompt": "What is it?", "chosen": "a", "rejected": "b", "id": 7}) + "\n")
    assert execute(["data", "show", str(path)]) == 0
    assert capsys.readouterr().out.count("What is it?") == 1
    assert execute(["data", "show", str(path), "--group-by", "id"]) == 0
    assert "key: 7" in capsys.readouterr().out
