"""`prefloop diagnose RUN`: run folders, stores of the lab, probe sets; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import run_folders
import tiny
from paths import real
from prefloop.cli import train
from prefloop.cli.main import main
from prefloop.lab.evidence import of_run
from prefloop.lab.setting import make
from prefloop.lab.stack import run_stack
from prefloop.lab.store import Store, to_bytes
from prefloop.policies import pretrained
from prefloop.runs.evidence import evidence, overlap
from prefloop.runs.experiment import Result
from prefloop.runs.probe import read_probe

Capture = pytest.CaptureFixture[str]


def test_a_run_folder_is_read(tmp_path: Path, capsys: Capture) -> None:
    run = run_folders.make(tmp_path, "one", on_policy=1.0)
    found = evidence(run)
    assert found.curves["eval/reward"].step[0] == 0 and found.curves["loss"].step[0] == 1
    assert found.curves["eval/reward"].se[0] == pytest.approx(1.9)
    assert (len(found.answers), found.limit, found.method) == (6, 64, "dpo")
    assert main(["diagnose", str(run)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Held-out reward −") and "better." in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_json_has_every_row_of_the_table(tmp_path: Path, capsys: Capture) -> None:
    run = run_folders.make(tmp_path, "one")
    assert main(["diagnose", str(run), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)["runs"]
    assert {row["state"] for row in record["checks"]} <= {"fault", "sound", "cannot tell", "not applicable"}
    assert record["outcome"]["metric"] == "eval/reward" and record["sentences"]


def test_the_html_page_holds_the_json(tmp_path: Path, capsys: Capture) -> None:
    run, page = run_folders.make(tmp_path, "one"), tmp_path / "page.html"
    assert main(["diagnose", str(run), "--json", "--page", str(page)]) == 0
    record = json.loads(capsys.readouterr().out)
    text = page.read_text(encoding="utf-8")
    assert record.pop("page") == str(page) and json.loads(text.split('id="found">')[1].split("</script>")[0]) == record
    assert main(["diagnose", str(run), "--page", str(page)]) == 0
    assert capsys.readouterr().out.endswith(f"\n\npage: {page}\n")


def with_answers(run: Path, before: list[list[float]], after: list[list[float]]) -> str:
    """The run with rewards of several answers to each prompt, before and after."""
    rows = [
        {"step": step, "prompt": f"p{i}", "question": f"p{i}", "reward": rewards}
        for step, table in ((0, before), (120, after))
        for i, rewards in enumerate(table)
    ]
    (run / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(run)


def test_the_best_of_several_answers_before_and_after(tmp_path: Path, capsys: Capture) -> None:
    """Before training every prompt is solved now and then, afterwards half of them always and half never."""
    before = [[0.0, 0.0, 1.0, 0.0]] * 20
    after = [[float(i % 2)] * 4 for i in range(20)]
    run = with_answers(run_folders.make(tmp_path, "one"), before, after)
    assert main(["diagnose", run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    one, two, four = found["best_of"]["curve"]
    assert found["best_of"]["solved_from"] == 1.0 and [row["k"] for row in (one, two, four)] == [1, 2, 4]
    assert [one["before"], two["before"], four["before"]] == pytest.approx([0.25, 0.5, 1.0])
    assert [one["after"], two["after"], four["after"]] == pytest.approx([0.5, 0.5, 0.5])
    assert "best_of" in found["runs"][0]["faults"]
    assert main(["diagnose", run, "--solved", "2"]) == 0
    shown = capsys.readouterr().out
    assert "a training reward of at least 2" in shown and all(len(line) <= 80 for line in shown.splitlines())


def test_the_probe_set_of_a_run_is_shown_by_kind(tmp_path: Path, capsys: Capture) -> None:
    run, page = run_folders.make(tmp_path, "one"), tmp_path / "page.html"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in (line for line in lines if line["kind"] == "evaluation"):
        for kind, rate in (("", -2e-3), ("/right", -1e-3), ("/shuffled", -3e-3)):
            line |= {f"eval/probe{kind}": rate * line["step"], f"eval/probe{kind}_se": 0.001}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["diagnose", str(run), "--page", str(page)]) == 0
    shown = capsys.readouterr().out.replace("\u00a0", " ")
    assert "Fault (forgetting)" in shown and "shuffled" in shown and "−0.3600 ± 0.0010" in shown
    assert "shuffled" in page.read_text(encoding="utf-8")
    assert main(["diagnose", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "forgetting" in found["runs"][0]["faults"]
    assert [row["kind"] for row in found["forgetting"]] == ["all", "right", "shuffled"]


def test_too_few_answers_to_a_prompt_cannot_be_told(tmp_path: Path, capsys: Capture) -> None:
    run = run_folders.make(tmp_path, "one")
    assert "does not record the rewards" in evidence(run).notes["several"]
    with_answers(run, [[0.0]] * 20, [[1.0]] * 20)
    assert main(["diagnose", str(run)]) == 0
    assert "set evaluation.samples to 4 or more" in " ".join(capsys.readouterr().out.split())
    assert main(["diagnose", str(run), "--solved", "1"]) == 2
    assert "pass@k cannot be told" in capsys.readouterr().err


def test_margins_of_old_runs_cannot_be_told(tmp_path: Path) -> None:
    run = run_folders.labelled(tmp_path, "old", right=[1.0] * 50, longer=[0.5] * 50)
    found = evidence(run)
    assert found.margins == [] and "margins" in found.notes
    assert found.pairs and found.reference and found.beta == 0.1


def test_an_interval_gives_an_error(tmp_path: Path) -> None:
    run = run_folders.labelled(tmp_path, "run", right=[1.0] * 50, longer=[0.5] * 50)
    assert evidence(run).curves["eval/rewards/accuracies"].se[-1] == pytest.approx(0.2 / 3.92)


def test_questions_in_common_are_counted_from_the_data(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i}?", "chosen": "yes", "rejected": "no"} for i in range(8)]
    held = [
        {"prompt": "question 3", "chosen": "yes", "rejected": "no"},
        {"prompt": "Z", "chosen": "a", "rejected": "b"},
    ]
    for name, some in (("train", rows), ("held", held)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    run = run_folders.make(tmp_path, "run")
    files = {str(tmp_path / f"{name}.jsonl") for name in ("train", "held")}
    (run / "config.yaml").write_text(
        f"data: {{train: {tmp_path / 'train.jsonl'}, held_out: {tmp_path / 'held.jsonl'}}}\n"
    )
    assert overlap(run)[0] is None and "have changed" in overlap(run)[1]
    from prefloop.data.reading import data_hash

    manifest = json.loads((run / "manifest.json").read_text())
    manifest["data"] = {name: data_hash(name) for name in files}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert overlap(run) == (0.5, "")


def test_what_is_neither_a_run_nor_a_store_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "neither a run folder nor a store" in capsys.readouterr().err
    assert main(["diagnose", str(tmp_path), "--model", "m"]) == 2
    assert main(["diagnose", "--probe", "x"]) == 2


def test_every_run_of_a_store_is_diagnosed(tmp_path: Path, capsys: Capture) -> None:
    size: dict[str, Any] = {"responses": 2, "batch": 8, "minibatch": 8, "steps": 8, "evaluate": 2, "evaluation": 8}
    settings = [make("dpo", "categorical", {"beta": 1e-6}, seed=seed, data=8, **size) for seed in (0, 1)]
    runs = run_stack(settings)
    Store(tmp_path / "store").add(settings, to_bytes(runs))
    found = of_run(runs[0])
    assert (found.beta, found.pairs, found.reference) == (1e-6, True, True)
    assert main(["diagnose", str(tmp_path / "store"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["runs"]
    assert len(record) == 2 and all("beta" in one["faults"] for one in record)
    assert main(["diagnose", str(tmp_path / "store")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("2 runs; 0 without a fault.") and "beta: in 2 of 2 runs" in shown


def test_a_training_ends_with_a_short_diagnosis(tmp_path: Path, capsys: Capture) -> None:
    folder = run_folders.make(tmp_path, "run", on_policy=1.0)
    done = Result(folder, {"eval/reward": 1.0}, {"eval/reward": 2.0}, 1.0, "", ())
    train._table(done)
    lines = capsys.readouterr().out.splitlines()
    (first,) = [i for i, text in enumerate(lines) if text.startswith("diagnosis: ")]
    (last,) = [i for i, text in enumerate(lines) if text.startswith("run folder: ")]
    assert 1 <= last - first <= 6 and f"prefloop diagnose {folder}" in " ".join(lines[first:last])
    assert train._record(done)["diagnosis"]["checks"]


# ---- a probe set -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model before and after training are two tiny ones."""
    root = tmp_path_factory.mktemp("probed")
    path = run_folders.make(root, "run")
    for seed, place in ((0, root / "model"), (1, path / "final")):
        pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32, seed=seed), tiny.tokenizer(), place, "tiny")
    (path / "config.yaml").write_text(f"model: {{path: {root / 'model'}}}\ndata: {{train: builtin}}\n")
    return path


def probe(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "probe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "probe.jsonl")


ROWS = [
    {"prompt": "a b", "chosen": "yes", "rejected": "no b", "shuffled": "b no"},
    {"prompt": [{"role": "user", "content": "c"}], "chosen": "yes c", "rejected": "no"},
]


def test_a_probe_set_shows_the_change_by_kind(run: Path, tmp_path: Path, capsys: Capture) -> None:
    file = probe(tmp_path, ROWS)
    assert main(["diagnose", str(run), "--probe", file, "--json"]) == 0
    moved = json.loads(capsys.readouterr().out)["probe"]
    assert [kind["kind"] for kind in moved["kinds"]] == ["chosen", "rejected", "shuffled"]
    assert [kind["prompts"] for kind in moved["kinds"]] == [2, 2, 1]
    assert moved["kinds"][0]["change"] != 0 and moved["kinds"][0]["change_se"] > 0
    assert main(["diagnose", str(run), "--probe", file]) == 0
    shown = capsys.readouterr().out
    assert "kind of response" in shown and all(len(line) <= 80 for line in shown.splitlines())


@pytest.mark.parametrize(
    ("rows", "said"),
    [([{"chosen": "yes"}], "no `prompt`"), ([{"prompt": "a"}], "no responses"), ([], "no rows"),
     ([{"prompt": 3, "chosen": "yes"}], "neither a text nor")],
)  # fmt: skip
def test_a_broken_probe_set_is_refused(
    rows: list[dict[str, Any]], said: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["diagnose", str(run), "--probe", probe(tmp_path, rows)]) == 3
    assert said in capsys.readouterr().err


def test_the_published_probe_set_is_read(preference_data: Path) -> None:
    found = read_probe(real(preference_data, "displacement_probe/hh_test.jsonl.gz"), 5)
    assert len(found.rows) == 5 and len(found.kinds) == 13
