"""vLLM in this process, as an `Engine` of `scale.vllm_sampler`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from torch import Tensor

from prefloop.core.errors import UserError
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.sampler import Sampling
from prefloop.scale.vllm_sampler import Written

INSTALL = "in an environment of its own: pip install 'prefloop[vllm]'"


class InProcess:
    """vLLM on the model of a policy, with the policy's data type; weights are loaded in place.

    Args:
        max_len: longest prompt and response together, in tokens.

    Raises:
        UserError: vLLM cannot be imported.
    """

    def __init__(self, policy: CausalLM, *, max_len: int) -> None:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine must see this process's tensors
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        try:
            self._vllm: Any = import_module("vllm")
        except ImportError as error:
            raise UserError("vLLM cannot be imported", where="sampler", fix=INSTALL) from error
        with tempfile.TemporaryDirectory(prefix="prefloop-") as folder:
            policy.model.save_pretrained(folder)
            self._llm = self._vllm.LLM(
                folder,
                skip_tokenizer_init=True,
                dtype=str(policy.model.dtype).removeprefix("torch."),
                max_model_len=max_len,
                enforce_eager=True,
                logprobs_mode="processed_logprobs",
            )

    def load(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._llm.reset_prefix_cache()

    def write(
        self, prompts: Sequence[list[int]], responses: int, seed: int, sampling: Sampling, ends: Sequence[int]
    ) -> list[list[Written]]:
        plans = [
            self._vllm.SamplingParams(
                n=responses,
                seed=(seed + i) % 2**31,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_new_tokens,
                stop_token_ids=list(ends),
                ignore_eos=True,  # only `ends` end a response, and they belong to it
                logprobs=0,
                detokenize=False,
            )
            for i in range(len(prompts))
        ]
        done = self._llm.generate([{"prompt_token_ids": p} for p in prompts], plans, use_tqdm=False)
        return [[_written(answer) for answer in one.outputs] for one in done]

    def score(self, texts: Sequence[list[int]]) -> list[list[float]]:
        plan = self._vllm.SamplingParams(max_tokens=1, temperature=1.0, prompt_logprobs=0, detokenize=False)
        done = self._llm.generate([{"prompt_token_ids": text} for text in texts], plan, use_tqdm=False)
        return [
            [at[token].logprob for token, at in zip(text[1:], one.prompt_logprobs[1:], strict=True)]
            for text, one in zip(texts, done, strict=True)
        ]


def _written(answer: Any) -> Written:
    ids = list(answer.token_ids)
    return ids, [at[token].logprob for token, at in zip(ids, answer.logprobs, strict=True)]
