"""Made-up run folders, as the loop and the evaluations write them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]
PROMPTS = (
    "How do I keep basil alive on a kitchen windowsill?",
    "Name a good first book about astronomy.",
    "Why is bread sour?",
)
EASE = (-3.0, 0.0, 3.0)  # of each prompt: mean 0
CHANGED = (-0.4, 0.5, -0.1)  # how much more than the others a prompt gained: mean 0
HOSTILE = '</script><script>alert(1)</script><img src="http://evil.example/x.png" onerror="x()"> \x00\ud800 ‮'


def make(root: Path, name: str, *, on_policy: float = 0.0, negative: float = 1.0, steps: int = 120, gain: float = 1.0,
         method: str = "dpo", answer: str = "Water it when the soil is dry.", every: int = 20) -> Path:  # fmt: skip
    """A run folder whose numbers are smooth curves with noise."""
    path = root / name
    path.mkdir(parents=True)
    noise = random.Random(name)
    override = f"{{on_policy: {on_policy}, negative: {negative}}}"
    (path / "config.yaml").write_text(f"method: {method}\noverride: {override}\nseed: 0\noutput: runs\n")
    (path / "manifest.json").write_text(json.dumps(_manifest(method, on_policy, negative)))
    lines = [_evaluation(0, steps, gain, noise)]
    for n in range(1, steps + 1):
        lines.append(_step(n, steps, on_policy, negative, gain, noise))
        if n % every == 0:
            lines.append(_evaluation(n, steps, gain, noise))
    _jsonl(path / "metrics.jsonl", lines)
    _jsonl(path / "timing.jsonl", [{"step": n, "seconds": 1.5} for n in range(1, steps + 1)])
    long = "Basil likes light, warmth and steady moisture. " * 5
    first, *_, last = (line["eval/reward"] for line in lines if line["kind"] == "evaluation")
    turn = len(name) % len(CHANGED)  # so that other runs gain on other prompts
    before = [first + x for x in EASE]
    after = [last + x + y for x, y in zip(EASE, CHANGED[turn:] + CHANGED[:turn], strict=True)]
    start, end = {"step": 0, "response": long, "cut": True}, {"step": steps, "response": answer, "cut": False}
    sample = [{**start, "prompt": p, "score": x} for p, x in zip(PROMPTS, before, strict=True)]
    sample += [{**end, "prompt": p, "score": x} for p, x in zip(PROMPTS, after, strict=True)]
    _jsonl(path / "samples.jsonl", sample)
    return path


def labelled(root: Path, name: str, *, right: Sequence[float], longer: Sequence[float], method: str = "dpo",
             seed: int = 0, beta: float = 0.1, steps: int = 20, held_out: str = "q") -> Path:  # fmt: skip
    """A run on labels: after training each held-out pair, a question of its own, is ordered right (1) or not (0)."""
    path = root / name
    path.mkdir(parents=True)
    config = f"method: {method}\noverride: {{beta: {beta}}}\nseed: {seed}\noutput: runs\ntraining: {{steps: {steps}}}\n"
    (path / "config.yaml").write_text(config)
    manifest = _manifest(method, 0.0, 1.0)
    needs = ["scores"] if method == "simpo" else ["reference", "scores"]
    manifest["objective"] |= {"pairs": "best against worst", "needs": needs, "hyperparameters": {"beta": beta}}
    manifest["objective"]["reward"] = {"name": "labels"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    start = [0.5] * len(right)
    step = {"kind": "step", "loss": 0.7, "reward": 0.5, "on_policy": 0.0, "rewards/accuracies": 0.5}
    taken = [{**step, "step": n, "rewards/margins": beta * n} for n in range(1, steps + 1)]
    lines = [_ranking(0, start, longer, beta), *taken, _ranking(steps, right, longer, beta)]
    _jsonl(path / "metrics.jsonl", lines)
    judged = [
        {"step": step, "pair": f"{held_out}{i}", "question": f"{held_out}{i}", "implicit": x, "mean": x, "longer": y}
        for step, ranked in ((0, start), (steps, right))
        for i, (x, y) in enumerate(zip(ranked, longer, strict=True))
    ]
    _jsonl(path / "pairs.jsonl", judged)
    greedy = {"prompt": PROMPTS[0], "response": "Water it.", "tokens": 3, "cut": False, "greedy": True}
    _jsonl(path / "samples.jsonl", [{"step": step, **greedy} for step in (0, steps)])
    return path


def _ranking(n: int, right: Sequence[float], longer: Sequence[float], beta: float) -> Line:
    values = {"rewards/accuracies": sum(right) / len(right), "accuracy/mean_logp": sum(right) / len(right),
              "accuracy/longer": sum(longer) / len(longer), "rewards/margins": beta * n}  # fmt: skip
    bounds = {
        f"eval/{key}{end}": x + d for key, x in values.items() for end, d in (("", 0), ("_low", -0.1), ("_high", 0.1))
    }
    return {"kind": "evaluation", "step": n, **bounds, "eval/pairs": len(right), "eval/questions": len(right)}


def _manifest(method: str, on_policy: float, negative: float) -> Line:
    objective = {
        "method": method,
        "formula": "−(1−ε) log σ(β h) − ε log σ(−β h), h the margin of log π/π_ref (arXiv:2305.18290, eq. 7).",
        "paper": "Rafailov 2023, arXiv:2305.18290",
        "switches": {"on_policy": on_policy, "reuse": 1, "negative": negative},
        "hyper_parameters": {"beta": 0.1, "smoothing": 0.0, "threshold": 0.0},
    }
    return {
        "created": "2026-01-05T10:00:00+00:00",
        "command": ["prefloop", "train", "examples/two by two.yaml", "--method", method],
        "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.1.0"},
        "hardware": {"system": "Linux 6.1", "features": ["amx_bf16"], "cores": 2},
        "seeds": {"run": 0},
        "objective": objective,
        "data": {"builtin": "0" * 64},
        "model": {"path": "smollm2", "sha256": "1" * 64},
        "notes": ["dataset responses have no behaviour log-prob"],
    }


def _progress(n: int, steps: int) -> float:
    return 1 - math.exp(-3 * n / steps)


def _evaluation(n: int, steps: int, gain: float, noise: random.Random) -> Line:
    rise = _progress(n, steps) * gain
    return {
        "kind": "evaluation",
        "step": n,
        "eval/reward": -52.0 + 36 * rise + noise.gauss(0, 0.6),
        "eval/reward_se": 1.9 - rise,
        "eval/length": 53.0 - 35 * rise,
        "eval/length_se": 1.7,
        "eval/cut": max(0.02, 0.18 - 0.15 * rise),
        "eval/kl_reverse": 18 * rise**1.5 + abs(noise.gauss(0, 0.05)) * (n > 0),
        "eval/kl_reverse_se": 0.02 + 0.6 * rise,
        "eval/kl_forward": 24 * rise**1.5,
        "eval/kl_forward_se": 0.02 + 0.9 * rise,
    }


def _step(n: int, steps: int, on_policy: float, negative: float, gain: float, noise: random.Random) -> Line:
    rise = _progress(n, steps) * gain
    up = 2.4 * math.exp(-rise) * math.exp(noise.gauss(0, 0.12))
    return {
        "kind": "step",
        "step": n,
        "iteration": n - 1,
        "pass": 1,
        "loss": 0.693 * math.exp(-rise) + noise.gauss(0, 0.01),
        "grad_norm": 30 * math.exp(noise.gauss(0, 0.25)),
        "learning_rate": 1e-6,
        "completions/mean_length": 50 - on_policy * 30 * rise,
        "samples": 64 * n * on_policy,
        "tokens/sampled": 3000 * n * on_policy,
        "tokens/trained": 3000 * n,
        "reward_queries": 64 * n * on_policy,
        "push/up": up,
        "push/down": up * negative * 0.97,
        "on_policy": on_policy,
        "reward": -50 + on_policy * 33 * rise + noise.gauss(0, 3),
        "rewards/chosen": (0.9 * on_policy - 0.3) * rise + noise.gauss(0, 0.05),
        "rewards/rejected": -1.6 * negative * rise + noise.gauss(0, 0.05),
        "rewards/margins": (0.9 * on_policy - 0.3 + 1.6 * negative) * rise + noise.gauss(0, 0.05),
        **({"ess": math.exp(-rise * noise.random()), "ratio/p99": 1 + rise * 0.3} if on_policy else {}),
    }


def _jsonl(path: Path, lines: list[Line]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
