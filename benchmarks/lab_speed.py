"""Speed of the bandit lab compared with the published code, a bare loop and the matmul rate, all in one run.

python benchmarks/lab_speed.py [--quick] writes benchmarks/lab_speed.json and docs/images/lab-scaling.svg. Two workers
of one thread each, with 16 runs each; timed are updates with sampling and an evaluation every 50, after a warm-up and
without the one-off fit of the reference. "Bare" is only sampling, forward, backward and Adam of a stacked GPT.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prefloop.core.optim import StackedAdam
from prefloop.core.streams import streams
from prefloop.lab.pool import WORKER, environment
from prefloop.lab.setting import Setting, make, seeds
from prefloop.lab.stack import Watch, build
from prefloop.policies.gpt import GPT
from prefloop.report.chart import COUNT, Chart, Line
from prefloop.report.svg import draw

HERE = Path(__file__).parent
RUNS, EVALUATE = 16, 50  # per worker; steps
ALL_PAIRS = {"pairs": "all_pairs"}
CASES: dict[str, tuple[Setting, str, str]] = {  # setting, published seconds per 1000 updates, target
    "arms, best-of-N": (make("best_of_n", "arms", evaluate=EVALUATE), "36", "1.5 s"),
    "arms, REINFORCE": (make("reinforce", "arms", evaluate=EVALUATE), "87", "–"),
    "arms, IPO, all pairs": (make("online_ipo", "arms", ALL_PAIRS, evaluate=EVALUATE), "1,060", "2 s"),
    "sequences, best-of-N": (
        make("best_of_n", "sequences", evaluate=EVALUATE),
        "10,200 (75 without diagnostics)",
        "12 s",
    ),
    "sequences, PPO": (
        make("ppo_critic_free", "sequences", {"reuse": 1}, evaluate=EVALUATE),
        "10,800 (415 without diagnostics)",
        "2 × bare",
    ),
    "sequences, PPO, T = 4": (
        make("ppo_critic_free", "sequences", {"reuse": 4}, evaluate=EVALUATE),
        "–",
        "–",
    ),
    "sequences, IPO, all pairs": (
        make("online_ipo", "sequences", ALL_PAIRS, evaluate=EVALUATE),
        "~15,000 (~3,800 without diagnostics)",
        "2 × bare",
    ),
}
SIZES = (1, 2, 4, 8, 16, 32)
CURVES = ("arms, best-of-N", "sequences, best-of-N", "sequences, PPO")
MLP_WEIGHTS = 100 * 50 + 50 * 256 + 256 * 256 + 256 * 100  # number of weights in matrix products, per context
GPT_WEIGHTS = 3 * (48 * 144 + 48 * 48 + 2 * 48 * 192) + 48 * 100  # per token
ATTENTION = 3 * 2 * 9 * 48  # multiply-adds per token: both products over nine places in three layers


def flops(setting: Setting) -> float:
    """FLOPs of matrix products in one update of one run: 2 per weight forward, 4 backward, without evaluations."""
    row, prompts, drawn = setting.row, setting.batch // setting.responses, setting.batch
    if setting.problem == "arms":
        return 2 * MLP_WEIGHTS * prompts * (3 + 1 / row.reuse)
    trained = prompts if setting.method == "best_of_n" else drawn  # only the best are evaluated
    return 2 * (GPT_WEIGHTS + ATTENTION) * 9 * (3 * trained + drawn / row.reuse)


def stack_seconds(settings: Sequence[Setting], warm: int) -> float:
    """Seconds per update of a stack, including everything that the lab does in a run."""
    torch.set_num_threads(1)
    world = build(settings)
    watch, steps = Watch(world, settings[0]), iter(world.loop)
    for _ in range(warm):
        watch.see(next(steps))
    start = time.perf_counter()
    for record in steps:
        watch.see(record)
    return (time.perf_counter() - start) / (settings[0].steps - warm)


def bare_seconds(runs: int, steps: int) -> float:
    """Seconds per update of sampling, forward, backward and Adam of a stacked GPT on 100 sequences."""
    torch.set_num_threads(1)
    policy = GPT.create(range(runs))
    optimizer, rng = StackedAdam(policy.parameters(), lr=1e-3), streams(list(range(runs)))["sampling"]
    taken = []
    for _ in range(steps):
        start = time.perf_counter()
        batch = policy.draw((rng.rand(10) * 100).long(), 10, rng)
        optimizer.zero_grad()
        (-policy.evaluate(batch).logp.sum() / 100).backward()
        optimizer.step()
        taken.append(time.perf_counter() - start)
    return statistics.mean(taken[2:])


def matmul_rate(seconds: float) -> float:
    """float32 FLOP/s of 1024³ products on one thread."""
    torch.set_num_threads(1)
    a, count = torch.randn(1024, 1024), 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ a
        count += 1
    return 2 * 1024**3 * count / (time.perf_counter() - start)


def busy() -> float:
    """CPU seconds of the whole machine so far."""
    fields = [float(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def both(pool: ProcessPoolExecutor, work: Callable[..., float], *jobs: tuple[Any, ...]) -> list[float]:
    """The same work in both workers at once."""
    return [f.result() for f in [pool.submit(work, *job) for job in jobs]]


def rows(pool: ProcessPoolExecutor, steps: dict[str, int], repeats: int) -> list[dict[str, Any]]:
    """One row per case: seconds per 1000 updates of one run, medians over repeats."""
    rate = statistics.median(sum(both(pool, matmul_rate, (1.0,), (1.0,))) for _ in range(3))
    bare = statistics.median(max(both(pool, bare_seconds, (RUNS, 12), (RUNS, 12))) for _ in range(repeats))
    out = [{"case": "sequences, bare loop", "seconds": 1000 * bare / (2 * RUNS), "published": "–", "target": "–"}]
    out[0]["share"] = flops(CASES["sequences, PPO"][0]) * 2 * RUNS / bare / rate
    for name, (setting, published, target) in CASES.items():
        n, warm = steps[setting.problem], 10 if setting.problem == "arms" else 4
        length = {"steps": n + warm}
        halves = [seeds(replace(setting, **length), range(k, k + RUNS)) for k in (0, RUNS)]
        taken = [max(both(pool, stack_seconds, (halves[0], warm), (halves[1], warm))) for _ in range(repeats)]
        step = statistics.median(taken)
        share = flops(setting) * 2 * RUNS / step / rate
        told = {"case": name, "seconds": 1000 * step / (2 * RUNS), "published": published, "target": target}
        out.append({**told, "share": share, "over_bare": step / bare if setting.problem == "sequences" else None})
        print(out[-1], flush=True)
    return [{"case": "matmul", "flops": rate}, *out]


def scaling(pool: ProcessPoolExecutor, steps: dict[str, int], repeats: int) -> dict[str, dict[int, float]]:
    """Milliseconds per run and update by stack size, one worker."""
    out: dict[str, dict[int, float]] = {}
    for name in CURVES:
        setting = CASES[name][0]
        out[name] = {}
        for size in SIZES:
            one = replace(setting, steps=steps[setting.problem] + 4)
            job = (seeds(one, range(size)), 4)
            taken = statistics.median(pool.submit(stack_seconds, *job).result() for _ in range(repeats))
            out[name][size] = 1000 * taken / size
        print(name, {k: round(v, 3) for k, v in out[name].items()}, flush=True)
    return out


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few updates, no figure: check that it runs")
    parser.add_argument("--draw", action="store_true", help="only draw the figure from lab_speed.json")
    args = parser.parse_args()
    if args.draw:
        figure()
        return
    quick = args.quick
    steps = {"arms": 20, "sequences": 4} if quick else {"arms": 300, "sequences": EVALUATE}
    start, cpu = time.perf_counter(), busy()
    with environment(WORKER), ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        table = rows(pool, steps, 1 if quick else 3)
        curve = scaling(
            pool, {"arms": 10, "sequences": 2} if quick else {"arms": 100, "sequences": 10}, 1 if quick else 3
        )
        own = sum(both(pool, time_of_worker, (0.2,), (0.2,))) + time.process_time()
    wall = time.perf_counter() - start
    foreign = (busy() - cpu - own) / wall
    print(f"{'case':28} {'s/1000':>8} {'share':>6} {'× bare':>7}  published, target")
    for row in table[1:]:
        ratio = f"{row['over_bare']:.2f}" if row.get("over_bare") else "–"
        comparison = f"{row['published']}, {row['target']}"
        print(f"{row['case']:28} {row['seconds']:8.2f} {row['share']:6.0%} {ratio:>7}  {comparison}")
    print(f"matmul {table[0]['flops'] / 1e9:.0f} GFLOP/s on both workers; other processes used {foreign:.2f} cores")
    for name, times in curve.items():
        worst = max(times[s] for s in SIZES if s > RUNS)
        print(f"{name}: S=16 costs {times[16] / times[1]:.2f} of S=1 per run; beyond it {worst / times[16] - 1:+.0%}")
    if not quick:
        told = {"rows": table, "scaling": curve, "foreign_cores": foreign}
        (HERE / "lab_speed.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        figure()


def figure() -> None:
    """Draw docs/images/lab-scaling.svg from the last results."""
    curves = json.loads((HERE / "lab_speed.json").read_text(encoding="utf-8"))["scaling"]
    lines = [Line(name, [int(size) for size in times], list(times.values())) for name, times in curves.items()]
    words = "Cost of a run in a stack", "runs in the stack, S", "ms per run and update"
    chart = Chart(*words, lines, log_x=True, range=COUNT, interval="median of three repeats")
    draw({"lab-scaling": [chart]}, HERE.parent / "docs" / "images")


def time_of_worker(seconds: float) -> float:
    """CPU seconds of a worker so far; it waits so that the other worker gets a task too."""
    time.sleep(seconds)
    return time.process_time()


if __name__ == "__main__":
    main()
