"""The run folder: deterministic bytes, crash repair, rewinding, locking, refusal of what is not finite."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefloop.core.errors import DataError, UserError
from prefloop.runs import folder
from prefloop.runs.config import Config, load, to_yaml
from prefloop.runs.folder import RunFolder
from prefloop.runs.manifest import hardware, manifest, versions


def facts() -> dict[str, Any]:
    objective = {"method": "dpo", "formula": "-log σ(β Δ)", "on_policy": 0.0, "reuse": 1, "negative": 1.0}
    return manifest(seeds={"run": 0}, objective=objective, data={"a": "0" * 64}, model={"path": "m"}, threads=1)


def new(output: Path) -> RunFolder:
    return RunFolder.create(output, "dpo", config=to_yaml(Config()), manifest=facts())


def test_a_new_folder_holds_configuration_and_manifest(tmp_path: Path) -> None:
    with new(tmp_path) as run:
        assert load(run.path / "config.yaml") == Config()
        written = folder.read_manifest(run.path)
        assert written["objective"]["negative"] == 1.0 and written["versions"]["torch"].startswith("2.")
        assert written["hardware"]["threads"] == 1 and written["hardware"]["cores"] >= 1
        assert folder.runs(tmp_path) == [run.path]


def test_folders_are_never_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["aaaaaa", "aaaaaa", "bbbbbb"])
    monkeypatch.setattr(folder.secrets, "token_hex", lambda _: next(drawn))
    with new(tmp_path) as first, new(tmp_path) as second:
        assert first.path.name.endswith("-dpo-aaaaaa") and second.path.name.endswith("-dpo-bbbbbb")


def test_same_results_same_bytes_whatever_type_they_come_in(tmp_path: Path) -> None:
    with new(tmp_path) as a, new(tmp_path) as b:
        a.metrics({"step": 1, "loss": torch.tensor(0.5), "kl": [np.float32(0.25), 1], "pair": np.array([1, 2])})
        a.timing({"step": 1, "seconds": 0.1})
        b.metrics({"step": 1, "loss": 0.5, "kl": (0.25, 1), "pair": torch.tensor([1, 2])})
        b.timing({"step": 1, "seconds": 0.2})
        assert (a.path / "metrics.jsonl").read_bytes() == (b.path / "metrics.jsonl").read_bytes()
        assert folder.read(a.path, "metrics") == [{"step": 1, "loss": 0.5, "kl": [0.25, 1], "pair": [1, 2]}]


@pytest.mark.parametrize("bad", [math.nan, math.inf, torch.tensor([0.0, math.nan]), {"deep": [-math.inf]}])
def test_what_is_not_finite_is_refused_by_name_and_nothing_is_written(tmp_path: Path, bad: object) -> None:
    with new(tmp_path) as run:
        with pytest.raises(DataError, match=r"metrics\.loss.* is -?(nan|inf)"):
            run.metrics({"step": 1, "loss": bad})
        assert folder.read(run.path, "metrics") == []


def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with new(tmp_path) as run, pytest.raises(DataError, match="is a PosixPath"):
        run.event("start", {"where": tmp_path})


def test_text_is_kept_as_written(tmp_path: Path) -> None:
    texts = ["π ≥ 0", 'line\nbreak "quoted"', "\u2028", "日本"]
    with new(tmp_path) as run:
        run.samples({"text": text} for text in texts)
        assert [line["text"] for line in folder.read(run.path, "samples")] == texts


def test_every_cut_of_the_last_line_is_repaired(tmp_path: Path) -> None:
    with new(tmp_path) as run:
        run.metrics({"step": 1})
        first = (run.path / "metrics.jsonl").read_bytes()
        run.metrics({"step": 2, "loss": 0.5})
        whole = (run.path / "metrics.jsonl").read_bytes()
    for end in range(len(first), len(whole)):
        (run.path / "metrics.jsonl").write_bytes(whole[:end])
        assert folder.read(run.path, "metrics") == [{"step": 1}]
        with RunFolder.open(run.path) as again:
            again.metrics({"step": 2, "loss": 0.5})
        assert (run.path / "metrics.jsonl").read_bytes() == whole


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    with new(tmp_path) as run:
        (run.path / "metrics.jsonl").write_text('{"step":1}\nxx\n{"step":3}\n')
        with pytest.raises(DataError) as caught:
            folder.read(run.path, "metrics")
        assert caught.value.where.endswith("metrics.jsonl:2")


def test_rewinding_and_going_on_gives_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    def work(run: RunFolder, steps: range) -> None:
        for step in steps:
            run.metrics({"step": step, "loss": 1 / step})
            run.samples([{"step": step, "text": "ü" * step}])
            run.timing({"step": step})

    with new(tmp_path) as unbroken:
        work(unbroken, range(1, 9))
    with new(tmp_path) as broken:
        work(broken, range(1, 5))
        kept = json.loads(json.dumps(broken.offsets()))
        work(broken, range(5, 7))
        broken.event("interrupted")
    with RunFolder.open(broken.path) as resumed:
        resumed.rewind(kept)
        resumed.event("resumed", {"step": 4})
        work(resumed, range(5, 9))
    for name in folder.RECORDS:
        assert (unbroken.path / f"{name}.jsonl").read_bytes() == (broken.path / f"{name}.jsonl").read_bytes()
    assert [e["event"] for e in folder.read(broken.path, "events")] == ["interrupted", "resumed"]


def test_records_that_lost_bytes_are_not_rewound(tmp_path: Path) -> None:
    with new(tmp_path) as run:
        run.metrics({"step": 1})
        run.timing({"step": 1})
        offsets = {**run.offsets(), "metrics": 999}
        with pytest.raises(DataError, match="988 bytes are missing"):
            run.rewind({**offsets, "timing": 0})
        assert folder.read(run.path, "timing") == [{"step": 1}]


HOLD = "import os, sys; from prefloop.runs.folder import RunFolder; run = RunFolder.open(sys.argv[1])"
DIE = "run.metrics({'step': 1}); log = run._files['metrics']; log.write(b'{\"st'); log.flush(); os.kill(os.getpid(), 9)"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with new(tmp_path) as run:
        with pytest.raises(UserError, match=r"process \d+ on .* is using this run"):
            RunFolder.open(run.path)
        other = subprocess.run([sys.executable, "-c", HOLD, run.path], capture_output=True, text=True)
        assert other.returncode == 1 and "is using this run" in other.stderr
    RunFolder.open(run.path).close()


def test_a_killed_process_lets_go_and_its_cut_line_is_repaired(tmp_path: Path) -> None:
    new(tmp_path).close()
    run = folder.runs(tmp_path)[0]
    killed = subprocess.run([sys.executable, "-c", f"{HOLD}; {DIE}", run], check=False)
    assert killed.returncode == -9
    with RunFolder.open(run) as again:
        again.metrics({"step": 2})
    assert folder.read(run, "metrics") == [{"step": 1}, {"step": 2}]


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    for action in (RunFolder.open, folder.read_manifest, lambda p: folder.read(p, "metrics")):
        with pytest.raises(UserError, match="not a run folder"):
            action(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create the run folder: Not a directory"):
        new(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="is not a folder"):
        new(tmp_path / "link")


def test_a_broken_manifest_is_said(tmp_path: Path) -> None:
    with new(tmp_path) as run:
        (run.path / "manifest.json").write_text("{")
        with pytest.raises(DataError, match="manifest is broken"):
            folder.read_manifest(run.path)


def test_facts_of_the_machine() -> None:
    assert hardware()["memory"] > 2**28 and versions()["python"] == sys.version.split()[0]
