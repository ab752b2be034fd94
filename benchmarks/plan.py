"""`prefloop plan` against measured runs: peak memory and time on this machine, a child process for each.

    python benchmarks/plan.py [NAME ...]

The model is random (about 22 million parameters, the tokenizer of `smollm2`). Peak memory is the largest resident set
(VmHWM) of a process that trains, less that of one that has only imported the same libraries. A fixed mmap threshold
makes glibc return every tensor at once, so that the peak is of what is alive. Time is that of `experiment.run`, against
the forecast of another process just before it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ONLINE = ["--reward.name=length_min", "--data.held_out=split"]
CASES = {
    "dpo": ["--method=dpo"],
    "dpo, micro-batches of 1,024 tokens": ["--method=dpo", "--training.micro_tokens=1024"],
    "dpo, gradient checkpointing": ["--method=dpo", "--model.gradient_checkpointing=true"],
    "dpo, LoRA 16": ["--method=dpo", "--model.lora_rank=16"],
    "dpo, bfloat16": ["--method=dpo", "--model.dtype=bfloat16"],
    "dpo, autocast": ["--method=dpo", "--model.autocast=true"],
    "online_dpo": ["--method=online_dpo", *ONLINE],
    "ppo": ["--method=ppo", *ONLINE],
}
COMMON = ["--training.steps=6", "--training.batch=16", "--training.minibatch=16", "--model.autocast=false",
          "--data.held_out=split", "--sampling.max_new_tokens=48", "--sampling.rows=16", "--evaluation.prompts=4",
          "--evaluation.pairs=8", "--evaluation.greedy=0", "--evaluation.max_cut=1", "--evaluation.every=0",
          "--save.state=false", "--model.path=model", "--data.train=pairs.jsonl", "--model.device=cpu"]  # fmt: skip
CHILD = """
import json, sys, time
import peft, torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from prefloop.runs import config, experiment, forecast, planned
torch.set_num_threads(1)
what, *words = sys.argv[1:]
found = {}
if what == "plan":
    one = config.load(None, words)
    plan = planned.planned(one)
    found = {"bytes": plan.bytes, "stage": plan.peak[0], "parts": plan.peak[1]}
    found["seconds"] = forecast.forecast({"": one})
if what == "train":
    clock = time.monotonic()
    experiment.run(config.load(None, words), quiet=True)
    found["seconds"] = time.monotonic() - clock
high = next(x for x in open("/proc/self/status") if x.startswith("VmHWM"))
print(json.dumps(found | {"high": int(high.split()[1]) * 1024}))
"""


def child(what: str, words: list[str]) -> dict[str, float]:
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, "-c", CHILD, what, *words], capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def prepare() -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from prefloop.policies.smollm2 import smollm2

    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": True}
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **more, **ids)).save_pretrained("model")
    tokenizer.save_pretrained("model")
    rng, words = random.Random(0), ("water", "soil", "light", "plant", "leaf", "root", "seed")
    text = lambda n: " ".join(rng.choices(words, k=n))  # noqa: E731
    rows = [{"prompt": text(40), "chosen": text(60), "rejected": text(rng.randint(30, 70))} for _ in range(80)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        prepare()
        base = child("idle", [])["high"]
        print(f"idle: {base / 2**20:.0f} MiB; load {os.getloadavg()[0]:.1f}", flush=True)
        print("| run | stage of the peak | memory, predicted | measured | ratio | time, predicted | measured | ratio |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for name in sys.argv[1:] or CASES:
            words = [*COMMON, *CASES[name]]
            words = [w for i, w in enumerate(words) if w.split("=")[0] not in {x.split("=")[0] for x in words[i + 1 :]}]
            plan, run = child("plan", words), child("train", words)
            high = run["high"] - base
            print(
                f"| {name} | {plan['stage']} | {plan['bytes'] / 2**20:.0f} MiB | {high / 2**20:.0f} MiB |"
                f" {plan['bytes'] / high:.2f} | {plan['seconds']:.1f} s | {run['seconds']:.1f} s |"
                f" {plan['seconds'] / run['seconds']:.2f} |",
                flush=True,
            )
        print(f"load {os.getloadavg()[0]:.1f}")


main()
