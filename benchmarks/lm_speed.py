"""Tokens per second of the language-model policy, compared with the matrix-product rate of the same process.

    python benchmarks/lm_speed.py [--rows 16] [--tokens 48]

FLOPs: 2 per weight and token forward (the embedding is not a product, the tied head is), twice that again backward;
attention over a hundred positions is ignored (under 2 %). Training counts all tokens through the backbone and
response tokens through the head.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from prefloop.cli.doctor import gflops
from prefloop.core.batch import Batch
from prefloop.core.streams import streams
from prefloop.data.instructions import instructions
from prefloop.policies import pretrained
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.conversation import template_of
from prefloop.policies.sampler import Sampling
from prefloop.worlds.text.problem import TextProblem


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    args = parser.parse_args()
    model, tokenizer = pretrained.load("smollm2")
    head = model.config.vocab_size * model.config.hidden_size
    body = sum(p.numel() for p in model.parameters()) - head
    problem = TextProblem(instructions("train"), template_of(tokenizer))
    prompts = problem.prompts(0, args.rows // 2, streams(0)["prompts"])
    g = torch.Generator().manual_seed(0)
    responses = torch.randint(10, 40_000, (len(prompts), 2, args.tokens), generator=g)
    batch = Batch(prompts, responses, torch.ones_like(responses, dtype=torch.bool))
    answer = responses.numel()
    through = answer + 2 * sum(map(len, prompts))
    print(f"threads {torch.get_num_threads()}, {args.rows} rows, {through} tokens of which {answer} responses")
    for name, autocast, dtype in (("bfloat16", True, torch.bfloat16), ("float32", False, torch.float32)):
        limit = gflops(dtype) * 1e9
        policy = CausalLM(model, tokenizer, sampling=Sampling(args.tokens), autocast=autocast)
        policy.eos_ids = (-1,)  # every row runs to the limit, so that the count is fixed
        sampled = median_seconds(lambda policy=policy: policy.draw(prompts, 2, streams(0)["sampling"]), 3)
        trained = median_seconds(lambda policy=policy: policy.evaluate(batch).logp.sum().backward(), 3)
        flops = 6 * (body * through + head * answer)
        print(
            f"{name}: matmul {limit / 1e9:.0f} GFLOP/s · sampled {answer / sampled:.0f} tok/s"
            f" ({2 * (body + head) * answer / sampled / limit:.0%} of the matmul rate)"
            f" · trained {through / trained:.0f} tok/s ({flops / trained / limit:.0%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
