"""Several processes that train one run are as one: metrics, answers and weights; stopping, resuming and refusing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny
from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.core.processes import ALONE, Alone, add_gradients, check_shares, share
from prefloop.runs import config, experiment
from prefloop.runs.folder import read
from prefloop.scale import together
from prefloop.scale.processes import Group

HERE = Path(__file__).parent
FIXED = ["--reward.name=length_min", "--sampling.max_new_tokens=8", "--evaluation.prompts=5", "--evaluation.max_cut=1",
         "--training.steps=3", "--training.lr=3e-3", "--model.autocast=false", "--evaluation.every=2",
         "--training.batch=12", "--training.minibatch=12"]  # fmt: skip
METHODS = {
    "dpo": [],
    "online_dpo": ["--override.reuse=2"],
    "ppo": ["--override.kl=0.1", "--training.batch=16", "--training.minibatch=8"],
    "rloo": ["--evaluation.samples=2"],
    "best_of_n": ["--training.schedule=cosine"],
    "kto": ["--reward.label_threshold=-0.5"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny.llama(dtype=torch.float32).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folders(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The run of each method: alone, and those of both processes."""
    place = tmp_path_factory.mktemp("runs")
    runs = [[f"--model.path={model}", f"--method={name}", *FIXED, *more] for name, more in METHODS.items()]
    together = [_start(rank, 2, place / "meeting", place / f"{rank}", runs) for rank in range(2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = [experiment.run(config.load(None, [*r, f"--output={place / 'alone'}"]), quiet=True).folder for r in runs]
    torch.set_num_threads(threads)
    for process in together:
        said = process.communicate(timeout=240)[0]
        assert process.returncode == 0, said
    return {name: [one, *(_run(place / f"{rank}", name) for rank in range(2))]
            for name, one in zip(METHODS, alone, strict=True)}  # fmt: skip


def _start(rank: int, count: int, meeting: Path, output: Path, runs: list[list[str]]) -> subprocess.Popen[str]:
    command = [sys.executable, HERE / "share_of_runs.py", str(rank), str(count), str(meeting), str(output)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, text=True, **pipes)
    assert process.stdin is not None
    process.stdin.write(json.dumps(runs))
    process.stdin.close()
    process.stdin = None
    return process


def _run(output: Path, name: str) -> Path:
    (found,) = output.glob(f"*-{name}-*")
    return found


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_give_what_one_gives(name: str, folders: dict[str, list[Path]]) -> None:
    alone, first, _ = folders[name]
    lines = list(zip(read(alone, "metrics"), read(first, "metrics"), strict=True))
    assert [line["kind"] for line, _ in lines] == ["evaluation", "step", "step", "evaluation", "step", "evaluation"]
    for one, two in lines:
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert two[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-4)), key
    said = [[line["response"] for line in read(run, "samples")] for run in (alone, first)]
    assert said[0] == said[1]
    for key, weight in _weights(alone).items():
        torch.testing.assert_close(_weights(first)[key], weight, rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_both_processes_hold_the_same(name: str, folders: dict[str, list[Path]]) -> None:
    """To the last bit, or they would drift apart."""
    _, first, second = folders[name]
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    saved = [sorted((run / "checkpoints").glob("*/*.safetensors")) for run in (first, second)]
    assert saved[0] and [x.read_bytes() for x in saved[0]] == [x.read_bytes() for x in saved[1]]


# ------------------------------------------------------------------------------------------------------------ the parts


class Twice(Alone):
    """Two processes that hold the same."""

    def __init__(self) -> None:
        super().__init__(rank=0, count=2)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_every_prompt_is_in_one_share() -> None:
    shares = [share(7, Alone(rank, 3)).tolist() for rank in range(3)]
    assert sorted(i for own in shares for i in own) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    check_shares(6, 2, Alone(0, 3))
    with pytest.raises(UserError, match="a minibatch of 3 prompts cannot be shared by 4 processes"):
        check_shares(6, 2, Alone(0, 4))


def test_gradients_are_added_in_pieces_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefloop.core.processes.PIECE", 10)
    parameters = [torch.zeros(n, requires_grad=True) for n in (3, 20, 4, 4, 4)]
    parameters.append(torch.zeros(5, dtype=torch.float64, requires_grad=True))
    unused = torch.zeros(2, requires_grad=True)
    for i, p in enumerate(parameters):
        p.grad = torch.full_like(p, float(i + 1))
    add_gradients([*parameters, unused], ALONE)
    assert [float(p.grad[0]) for p in parameters] == [1, 2, 3, 4, 5, 6]  # type: ignore[index]
    add_gradients([*parameters, unused], Twice())
    for i, p in enumerate(parameters):
        assert p.grad is not None and torch.equal(p.grad, torch.full_like(p, 2.0 * (i + 1)))
    assert unused.grad is None


@pytest.mark.parametrize(("name", "what"), [("DEEPSPEED", "DeepSpeed"), ("FSDP", "FSDP"), ("MEGATRON_LM", "Megatron")])
def test_engines_that_do_not_fit_are_refused(name: str, what: str) -> None:
    launcher = together.joined({f"ACCELERATE_USE_{name}": "true"})
    with pytest.raises(UserError, match=f"does not run under {what}"), launcher:
        pass


def test_a_grid_is_not_shared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--method", "dpo,ipo", "--reward.name", "length_min"]) == 2
    assert "one at a time" in capsys.readouterr().err


def test_what_a_group_sums_keeps_its_type_and_is_not_changed(tmp_path: Path) -> None:
    group = Group(0, 1, f"file://{tmp_path / 'meeting'}")
    try:
        for x in (torch.tensor([True, False]), torch.tensor(3), torch.tensor([0.5]).double(), torch.ones(4)[::2]):
            assert torch.equal(group.sum(x), x) and group.sum(x).dtype == x.dtype and group.sum(x) is not x
        group.check_alike("a", "flags")
    finally:
        group.close()


# --------------------------------------------------------------------------------------------------------- the launcher


def _launched(words: list[str]) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    own = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.Popen([*launcher, "-m", "prefloop", "train", *words], text=True, env=own, **pipes)


@pytest.mark.slow
def test_a_run_of_two_processes_is_stopped_and_finished_by_one(model: Path, tmp_path: Path) -> None:
    words = [f"--model.path={model}", "--method=rloo", *FIXED, "--training.steps=40", "--evaluation.every=0"]
    whole = experiment.run(config.load(None, [*words, f"--output={tmp_path / 'whole'}"]), quiet=True).folder
    process = _launched([*words, f"--output={tmp_path / 'stopped'}"])
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        written = [file.read_text() for file in (tmp_path / "stopped").glob("*-rloo-*/metrics.jsonl")]
        if written and written[0].count('"step"') >= 5:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    (run,) = (tmp_path / "stopped").glob("*-rloo-*")
    assert f"to continue: prefloop train --resume {run}" in " ".join(said.split()), said
    assert len(list((tmp_path / "stopped").iterdir())) == 1  # the other process leaves nothing
    experiment.resume(run, quiet=True)
    for one, two in zip(read(whole, "metrics"), read(run, "metrics"), strict=True):
        numbers = {key: value for key, value in one.items() if not isinstance(value, str)}
        assert {key: two[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-4)
    again = _launched(["--resume", str(run), "--training.steps=44"])
    assert again.wait(timeout=120) == 0
    assert [line["step"] for line in read(run, "metrics") if line["kind"] == "step"] == list(range(1, 45))
