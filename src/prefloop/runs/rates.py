"""Rates of named GPUs, and the time of a run that follows from them. Pure formulas; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.core.errors import UserError, nearest

BUSY, READ = 0.4, 0.6  # assumed shares of the peak rates of products and of memory; measure yours with a short run


@dataclass(frozen=True)
class Gpu:
    """Peak rates as the data sheet states them: dense products, no sparsity."""

    half: float  # bfloat16 FLOP/s
    single: float  # float32 FLOP/s, without tensor cores
    bandwidth: float  # bytes of memory a second
    memory: float  # bytes
    source: str


GPUS = {
    "A100": Gpu(312e12, 19.5e12, 2039e9, 80e9, "NVIDIA A100 80GB SXM data sheet"),
    "H100": Gpu(989e12, 67e12, 3350e9, 80e9, "NVIDIA H100 SXM data sheet"),
    "H200": Gpu(989e12, 67e12, 4800e9, 141e9, "NVIDIA H200 SXM data sheet"),
    "L4": Gpu(121e12, 30.3e12, 300e9, 24e9, "NVIDIA L4 data sheet"),
    "L40S": Gpu(362e12, 91.6e12, 864e9, 48e9, "NVIDIA L40S data sheet"),
    "A10": Gpu(125e12, 31.2e12, 600e9, 24e9, "NVIDIA A10 data sheet"),
}


def gpu(name: str) -> Gpu:
    """The rates of a GPU.

    Raises:
        UserError: it is not in the table.
    """
    if name.upper() not in GPUS:
        raise UserError(f"no rates of the GPU `{name}`", where="--gpu", fix=nearest(name.upper(), GPUS))
    return GPUS[name.upper()]


@dataclass(frozen=True)
class Load:
    """What a run computes in all, in tokens of prompt and response."""

    trained: float  # forward and backward
    read: float  # forward only: by the reference, by the policy at collection, in evaluations
    drawn: float  # sampled one by one
    rows: int  # sampled together
    parameters: int
    weight: int  # bytes of a number as products read it
    frozen: bool  # only adapters get gradients
    recomputed: bool  # gradient checkpointing


def seconds(load: Load, rates: Gpu, *, count: int = 1) -> float:
    """Time on `count` GPUs that share each batch.

    A token costs 2 FLOP a parameter forward and 4 backward (Kaplan et al. 2020, §2.1), 2 backward if weights are
    frozen, 2 more if layers are recomputed. A sampled token reads all weights once for the rows together.
    """
    peak = BUSY * (rates.half if load.weight == 2 else rates.single)
    each = 2 * load.parameters
    passes = (2 if load.frozen else 3) + load.recomputed
    products = each * (passes * load.trained + load.read) / peak
    rows = max(1, load.rows)
    token = max(each * rows / peak, load.weight * load.parameters / (READ * rates.bandwidth))
    return (products + load.drawn / rows * token) / count
