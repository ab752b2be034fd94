"""Make src/prefloop/data/answers.jsonl: one-sentence answers of SmolLM2-135M-Instruct to the package's instructions.

python tools/make_answers.py --out answers [--part 0/2] writes one file per instruction and skips existing ones;
python tools/make_answers.py --out answers --pack joins them and learns the vocabulary. Takes half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from prefloop.core.streams import Stream
from prefloop.data.instructions import builtin
from prefloop.data.records import Message
from prefloop.policies import pretrained
from prefloop.policies.conversation import template_of
from prefloop.policies.sampler import Sampling, sample

SAMPLES, TEMPERATURE, LIMIT = 112, 0.8, 48  # per instruction; tokens of the model
SHOTS = (  # so that the small model answers in one sentence
    ("What is the largest planet?", "Jupiter is the largest planet."),
    ("How do I keep bread fresh?", "Wrap it in a cloth."),
    ("Thank my neighbour for watering the plants.", "Thank you for looking after my plants!"),
)
STOPS = (".", "!", "?")
VOCABULARY = 768  # size of the vocabulary, including the end of a response


def ends(model: pretrained.Model, tokenizer: pretrained.Tokenizer) -> list[int]:
    """Tokens that end a sentence or a line, in addition to the model's own."""
    out = set(pretrained.end_ids(model, tokenizer))
    for token, number in tokenizer.get_vocab().items():
        text = tokenizer.convert_tokens_to_string([token])
        if "\n" in text or text.rstrip("\"')").endswith(STOPS):
            out.add(number)
    return sorted(out)


def answers(
    model: pretrained.Model, tokenizer: pretrained.Tokenizer, stop: list[int], row: dict[str, str], seed: int
) -> dict[str, object]:
    """One instruction with its answers, and the indices of those that the limit cut."""
    talk = [Message(r, c) for q, a in SHOTS for r, c in (("user", q), ("assistant", a))]
    template = template_of(tokenizer, stops=stop)
    prompt = template.prompt([*talk, Message("user", row["prompt"])])
    plan = Sampling(max_new_tokens=LIMIT, temperature=TEMPERATURE, rows=SAMPLES)
    drawn = sample(model, [prompt], SAMPLES, Stream("answers", [seed], False), sampling=plan, eos_ids=stop)
    ids = [r[m] for r, m in zip(drawn.responses[0], drawn.mask[0], strict=True)]
    texts = [template.response(one.tolist()) for one in ids]
    cut = [i for i, one in enumerate(ids) if int(one[-1]) not in stop]
    return {"id": row["id"], "prompt": row["prompt"], "seed": seed, "cut": cut, "answers": texts}


def learned(texts: list[str]) -> Tokenizer:
    """Byte-pair encoding of the answers; token 0 ends a response."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<end>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def pack(out: Path, rows: list[dict[str, str]]) -> None:
    """Write the package's two files from those of all instructions."""
    data = builtin().parent
    lines = [(out / f"{row['id']}.json").read_text(encoding="utf-8") for row in rows]
    (data / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    texts = [text for line in lines for text in json.loads(line)["answers"]]
    learned(texts).save(str(data / "answers_vocabulary.json"), pretty=False)


def main() -> None:
    """Sample answers to a part of the instructions, or join the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the files per instruction")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th instruction from the i-th on")
    parser.add_argument("--pack", action="store_true", help="join the files into the package's own")
    args = parser.parse_args()
    rows = [json.loads(line) for line in builtin().read_text(encoding="utf-8").splitlines()]
    if args.pack:
        pack(args.out, rows)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    first, step = map(int, args.part.split("/"))
    model, tokenizer = pretrained.load("smollm2", dtype=torch.bfloat16)
    stop = ends(model, tokenizer)
    for seed in range(first, len(rows), step):
        file = args.out / f"{rows[seed]['id']}.json"
        if not file.exists():
            told = json.dumps(answers(model, tokenizer, stop, rows[seed], seed), ensure_ascii=False)
            file.write_text(told + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
