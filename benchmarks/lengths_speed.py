"""Speed of the lengths problem: 600 on-policy steps of the small GPT, eight seeds, compared with the matmul rate.

python benchmarks/lengths_speed.py [--steps 600] prints wall time, tokens per second and the share of the rate that
float32 matrix products reach in the same run. Two workers of one thread with four seeds each; sampling, scoring by the
proxy, training and an evaluation every 60 steps are included, the one-off fits of reference and proxies are not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import torch
from lab_speed import both, matmul_rate

from prefloop.lab.pool import WORKER, environment
from prefloop.lab.setting import Setting, make, seeds
from prefloop.lab.stack import Watch, build
from prefloop.worlds.lengths.build import reference

CASES = {
    "on-policy DPO, Min Length": ("online_dpo", {}, 0.0),
    "on-policy DPO, Mode Length": ("online_dpo", {}, 25.0),
    "PPO, Mode Length": ("ppo_critic_free", {"reuse": 1}, 25.0),
}
LR = 3e-4


def trained(settings: Sequence[Setting]) -> tuple[float, int, int, int]:
    """Seconds, tokens sampled, tokens trained on, and tokens with a forward pass only, of a stack."""
    torch.set_num_threads(1)
    world = build(settings)
    watch = Watch(world, settings[0])
    start, loop = time.perf_counter(), world.loop
    for record in loop:
        watch.see(record)
    frozen = loop.sampled_tokens * (1 + int("reference" in loop.method.needs))  # proxy, and the reference if needed
    return time.perf_counter() - start, loop.sampled_tokens, loop.trained_tokens, frozen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps
    policy = reference("small").policy
    weights = sum(x.numel() for k, x in policy.weights.items() if x.ndim == 3 and k not in ("token", "place"))
    print(f"{'case':28} {'wall, s':>8} {'sampled/s':>10} {'trained/s':>10} {'share':>6}")
    with environment(WORKER), ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        rate = statistics.median(sum(both(pool, matmul_rate, (1.0,), (1.0,))) for _ in range(3))
        for name, (method, override, peak) in CASES.items():
            fields = {"peak": peak, "scorer": "proxy", "responses": 4, "data": 500, "lr": LR}
            one = make(
                method, "lengths", override, batch=32, minibatch=32, steps=steps, evaluate=60, evaluation=32, **fields
            )
            found = both(pool, trained, *((seeds(one, range(k, k + 4)),) for k in (0, 4)))
            wall = max(f[0] for f in found)
            sampled, learned, frozen = (sum(f[i] for f in found) for i in (1, 2, 3))
            flops = 2 * weights * (sampled + frozen + 3 * learned)
            rates = f"{sampled / wall:10.0f} {learned / wall:10.0f} {flops / wall / rate:6.0%}"
            print(f"{name:28} {wall:8.1f} {rates}", flush=True)
    print(f"matmul {rate / 1e9:.0f} GFLOP/s on both workers; {weights:,} weights in products")


if __name__ == "__main__":
    main()
