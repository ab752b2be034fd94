"""Which device computes, what is refused, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from prefloop.cli.main import main
from prefloop.core import devices
from prefloop.core.errors import UserError
from prefloop.worlds.text.spec import ModelOptions

TWO = {"cuda:0": "NVIDIA H200, 139 GiB", "cuda:1": "NVIDIA L4, 22 GiB"}


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: TWO)


@pytest.mark.parametrize(
    ("setting", "device"),
    [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")],
)
def test_auto_takes_the_first_gpu(two: None, setting: str, device: str) -> None:
    assert devices.chosen(setting) == torch.device(device)


def test_auto_takes_mps_before_the_cpu_and_says_why_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", dict)
    assert devices.chosen("auto") == devices.CPU
    assert devices.said(devices.CPU, "auto") == "computing on cpu, because torch sees no GPU"
    assert devices.said(devices.CPU, "cpu") == "computing on cpu"
    monkeypatch.setattr(devices, "gpus", lambda: {"mps": "Apple GPU"})
    assert devices.chosen("auto") == torch.device("mps")
    assert devices.finest(torch.device("mps")) == torch.float32


def test_a_gpu_that_is_left_idle_is_said_in_one_line(two: None) -> None:
    first = devices.said(torch.device("cuda:0"), "auto")
    assert first == (
        "computing on cuda:0 (NVIDIA H200, 139 GiB), the first GPU; not used: cuda:1 (a run computes on one device)"
    )
    assert "not used: cuda:0, cuda:1" in devices.said(devices.CPU, "cpu")
    assert devices.recorded(torch.device("cuda:1")) == {"device": "cuda:1", "gpu": "NVIDIA L4, 22 GiB"}


def test_an_absent_device_is_refused(two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no device `cuda:2`: there are cuda:0, cuda:1") as refused:
        devices.chosen("cuda:2")
    assert refused.value.where == "model.device" and refused.value.fix == "use cuda:0, cuda:1"
    monkeypatch.setattr(devices, "gpus", dict)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="is built without CUDA"):
        devices.chosen("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match="torch sees no GPU") as blind:
        devices.chosen("cuda")
    assert blind.value.fix == "use cpu"
    with pytest.raises(UserError, match="torch sees no GPU"):
        devices.chosen("mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "", "CUDA"])
def test_a_name_that_is_none_is_refused_by_the_configuration(name: str) -> None:
    with pytest.raises(UserError, match=r"`model.device` cannot be") as refused:
        ModelOptions(device=name)
    assert refused.value.fix == "use auto, cpu, cuda, cuda:N or mps"


def test_an_absent_device_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the data nor the model exist."""
    monkeypatch.setattr(devices, "gpus", dict)
    words = [f"--model.path={tmp_path / 'none'}", f"--data.train={tmp_path / 'none.jsonl'}", "--data.held_out=split"]
    assert main(["train", *words, "--model.device=cuda"]) == 2
    said = capsys.readouterr().err
    assert "there is no device `cuda`" in said and "where: model.device" in said and "fix:   use cpu" in said


def test_the_gpus_are_named_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="NVIDIA H200", total_memory=139 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: card)
    assert devices.gpus() == {"cuda:0": "NVIDIA H200, 139 GiB", "cuda:1": "NVIDIA H200, 139 GiB"}
