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
from prefloop.core.processes import ALONE, Alone, add_gradients, check_shares, share, shared_out
from prefloop.core.streams import streams
from prefloop.runs import config, experiment
from prefloop.runs.folder import read
from prefloop.scale import together
from prefloop.scale.processes import Group
from toys import tabular

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
WEIGHTS = ("whole", "parted")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny.llama(dtype=torch.float32).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


Folders = dict[tuple[str, str], list[Path]]


@pytest.fixture(scope="module")
def folders(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The run of each method: alone, and those of both processes, with whole and with parted weights."""
    place = tmp_path_factory.mktemp("runs")
    runs = [[f"--model.path={model}", f"--method={name}", *FIXED, *more] for name, more in METHODS.items()]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = [experiment.run(config.load(None, [*r, f"--output={place / 'alone'}"]), quiet=True).folder for r in runs]
    torch.set_num_threads(threads)
    found: Folders = {(name, "alone"): [folder] for name, folder in zip(METHODS, alone, strict=True)}
    for weights in WEIGHTS:
        flags = [[*run, f"--model.parted={str(weights == 'parted').lower()}"] for run in runs]
        outputs = [place / f"{weights}-{rank}" for rank in range(2)]
        started = [_start(rank, 2, place / weights, output, flags, weights) for rank, output in enumerate(outputs)]
        for process in started:
            said = process.communicate(timeout=240)[0]
            assert process.returncode == 0, said
        found |= {(name, weights): [_run(output, name) for output in outputs] for name in METHODS}
    return found


def _start(
    rank: int, count: int, meeting: Path, output: Path, runs: list[list[str]], weights: str
) -> subprocess.Popen[str]:
    command = [sys.executable, HERE / "share_of_runs.py", str(rank), str(count), str(meeting), str(output), weights]
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


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_give_what_one_gives(name: str, weights: str, folders: Folders) -> None:
    (alone,), (first, _) = folders[name, "alone"], folders[name, weights]
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


def _saved(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("*/*.safetensors"))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", METHODS)
def test_both_processes_hold_the_same(name: str, weights: str, folders: Folders) -> None:
    """To the last bit, or they would drift apart. What is parted is gathered, and written by the first."""
    first, second = folders[name, weights]
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    if weights == "whole":
        assert _saved(first) and [x.read_bytes() for x in _saved(first)] == [x.read_bytes() for x in _saved(second)]
    else:
        assert _saved(first) and not _saved(second) and not (second / "final").exists()


@pytest.mark.parametrize("name", METHODS)
def test_the_state_of_parted_weights_is_that_of_whole_ones(name: str, folders: Folders) -> None:
    """So that a run continues on any number of processes, with or without parts."""
    one, two = (load_file(_saved(folders[name, kind][0])[-1]) for kind in ("alone", "parted"))
    assert one.keys() == two.keys()
    for key, x in one.items():
        torch.testing.assert_close(two[key], x, rtol=1e-3, atol=1e-4, msg=key)


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


def test_fewer_prompts_than_processes_leave_the_others_an_empty_part() -> None:
    """So that all of them evaluate equally often."""
    policy = tabular()
    batch = policy.draw(torch.arange(3), 2, streams(0)["sampling"])
    for prompts in (3, 1):
        some = batch[torch.arange(prompts)]
        parts = [shared_out(policy, some, Alone(rank, 2)) for rank in range(2)]
        assert len(parts[0]) == len(parts[1])
        assert sorted(int(i) for part in parts for rows in part for i in rows) == list(range(prompts))


@pytest.mark.parametrize("key", ["--model.dtype=bfloat16", "--model.lora_rank=4", "--model.trained_layers=1"])
def test_what_cannot_be_parted_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=r"model\.parted"):
        config.load(None, ["--model.parted=true", key])


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
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_run_of_two_processes_is_stopped_and_finished_by_one(model: Path, tmp_path: Path, weights: str) -> None:
    words = [f"--model.path={model}", "--method=rloo", *FIXED, "--training.steps=40", "--evaluation.every=0"]
    whole = experiment.run(config.load(None, [*words, f"--output={tmp_path / 'whole'}"]), quiet=True).folder
    parted = f"--model.parted={str(weights == 'parted').lower()}"
    process = _launched([*words, parted, f"--output={tmp_path / 'stopped'}"])
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
