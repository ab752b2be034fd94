"""What tools/fresh.sh runs on: a tiny random model, a file of pairs, configurations, a reward that can stop its run."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ("<unk>", "<eos>", "user", "assistant", "system", ":", *"abcdefgh")
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
REWARD = '''"""Longer answers score higher; `STOP_AT` asks the process to stop at that call, as Ctrl-C would."""
import itertools, os, signal

calls = itertools.count(1)

def longer(prompt, response):
    if next(calls) == int(os.environ.get("STOP_AT", 0)):
        os.kill(os.getpid(), signal.SIGINT)
    return len(response) / 10
'''
RUN = """\
method: online_dpo
model: {path: model}
data: {train: pairs.jsonl, held_out: split}
reward: {name: "my_reward:longer"}
sampling: {max_new_tokens: 8}
training: {steps: 3, batch: 8, minibatch: 8, lr: 1.0e-3}
evaluation: {prompts: 4, max_cut: 1.0}
"""
LABELS = """\
extends: run.yaml
method: dpo
reward: {name: labels}
output: runs
"""


def main() -> None:
    """Write everything into the current folder."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained("model")
    tokenizer.save_pretrained("model")
    pairs = permutations("abcdefgh", 2)
    rows = [json.dumps({"prompt": f"{a} {b}", "chosen": f"{b} {a} {b}", "rejected": a}) for a, b in pairs]
    Path("pairs.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for name, text in (("my_reward.py", REWARD), ("run.yaml", RUN), ("labels.yaml", LABELS)):
        Path(name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
