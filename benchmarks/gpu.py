"""Sampling and training on a device: tokens per second, share of its own rate of matrix products, and peak memory.

    python benchmarks/gpu.py [--device auto] [--layers 16] [--width 2048] [--rows 64] [--tokens 256]

The model is a Llama of random weights, so that nothing is needed from outside. Every row runs to the limit. FLOPs:
2 per weight and token forward, twice that again backward; attention is ignored. Sampling is compared with a sampler
that looks at every token which rows have finished, instead of at every sixteenth.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from prefloop.cli.doctor import gflops
from prefloop.core import devices
from prefloop.core.streams import streams
from prefloop.policies import sampler
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.sampler import Sampling

VOCABULARY, PROMPT, REPEATS = 32_000, 128, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="auto")
    for name, default in (("layers", 16), ("width", 2048), ("rows", 64), ("tokens", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    device = devices.chosen(args.device, "--device")
    print(devices.said(device, args.device))
    for dtype, autocast in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
        measure(args, device, dtype, autocast)


def measure(args: argparse.Namespace, device: torch.device, dtype: torch.dtype, autocast: bool) -> None:
    """Print one line for a data type."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model = llama(args.layers, args.width).to(dtype).to(device)
    size = sum(p.numel() for p in model.parameters()) - VOCABULARY * args.width  # without the embedding
    plan = Sampling(args.tokens, rows=args.rows)
    policy = CausalLM(model, None, sampling=plan, ends=(VOCABULARY,), autocast=autocast)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=True)
    g = torch.Generator().manual_seed(0)
    prompts = list(torch.randint(0, VOCABULARY, (args.rows // 2, PROMPT), generator=g))
    batch = policy.draw(prompts, 2, streams(0)["sampling"])
    reference = torch.zeros(batch.mask.shape[:2])

    def step() -> None:
        """DPO's, with a constant in place of the reference."""
        optimizer.zero_grad()
        for rows in policy.micro_batches(batch):
            d = policy.evaluate(batch[rows]).logp.sum(-1) - reference[rows]
            (-F.logsigmoid(0.1 * (d[:, 0] - d[:, 1])).sum() / len(prompts)).backward()
        optimizer.step()

    limit = gflops(torch.bfloat16 if autocast else dtype, device) * 1e9
    drawn = seconds(lambda: policy.draw(prompts, 2, streams(0)["sampling"]), device)
    trained = seconds(step, device)
    written, read = args.rows * args.tokens, args.rows * (args.tokens + PROMPT)
    name = f"{str(dtype).removeprefix('torch.')}{' with bfloat16 products' if autocast else ''}"
    peak = f", {torch.cuda.max_memory_allocated(device) / devices.GIB:.1f} GiB" if device.type == "cuda" else ""
    print(
        f"{name}: {size / 1e6:.0f} M weights, matmul {limit / 1e12:.1f} TFLOP/s · sampled {written / drawn:,.0f} tok/s"
        f" · trained {read / trained:,.0f} tok/s ({6 * size * read / trained / limit:.0%} of matmul){peak}",
        flush=True,
    )
    every, sampler.LOOK = sampler.LOOK, 1
    asked = seconds(lambda: policy.draw(prompts, 2, streams(0)["sampling"]), device)
    sampler.LOOK = every
    print(f"  looking at every token which rows have finished: {asked / drawn:.2f} × the time", flush=True)


def llama(layers: int, width: int) -> Any:
    torch.manual_seed(0)
    heads = max(1, width // 128)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        max_position_embeddings=4096,
    )
    return LlamaForCausalLM(config).eval()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of a piece of work, after one to warm up."""
    times = []
    for _ in range(REPEATS + 1):
        devices.wait(device)
        start = time.perf_counter()
        work()
        devices.wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
