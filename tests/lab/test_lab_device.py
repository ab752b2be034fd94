"""Stacks of the lab on a second device, as a worker with `--device` computes them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from prefloop.cli.main import main
from prefloop.core import devices
from prefloop.lab.setting import Setting, make, seeds
from prefloop.lab.stack import Run, run_stack
from second_device import NAME, second_device

SMALL = {"steps": 2, "evaluate": 2, "evaluation": 8, "batch": 20, "minibatch": 20, "responses": 4}


def there(settings: list[Setting]) -> list[Run]:
    with second_device(), torch.device(NAME):
        return run_stack(settings)


@pytest.mark.parametrize(
    ("method", "problem", "more"),
    [
        ("best_of_n", "arms", {"hidden": 8}),
        ("ipo", "arms", {"hidden": 8, "scorer": "proxy", "labels": "noisy"}),
        ("ppo", "categorical", {}),
        ("dpo", "sequences", {"coverage": 0.5}),
    ],
)
def test_a_stack_gives_the_same_curves_there(method: str, problem: str, more: dict[str, object]) -> None:
    settings = seeds(make(method, problem, **SMALL, **more), [0, 1])  # type: ignore[arg-type]
    near = run_stack(settings)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as worker:  # nothing is left of other tests
        far = worker.submit(there, settings).result()
    for one, other in zip(far, near, strict=True):
        assert one.curves.keys() == other.curves.keys()
        for name, curve in one.curves.items():
            np.testing.assert_allclose(curve, other.curves[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_an_absent_device_and_one_on_a_cluster_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "gpus", dict)
    assert main(["lab", "--out", str(tmp_path / "lab"), "--device", "cuda"]) == 2
    assert "there is no device `cuda`" in capsys.readouterr().err
    assert main(["lab", "--out", str(tmp_path / "lab"), "--device", "gpu"]) == 2
    assert "use auto, cpu, cuda, cuda:N or mps" in capsys.readouterr().err
    monkeypatch.setattr(devices, "gpus", lambda: {"cuda:0": "a GPU"})
    words = ["--device", "cuda", "--ray", "local", "--steps", "1", "--seeds", "1"]
    assert main(["lab", "--out", str(tmp_path / "lab"), *words]) == 2
    assert "--device applies to workers on this machine" in capsys.readouterr().err
