"""Supervised fine-tuning on demonstrations: held-out loss and perplexity before and after, in every result."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from prefloop.cli.main import main
from prefloop.runs.folder import read
from prefloop.worlds.text.open_data import open_data
from prefloop.worlds.text.spec import DataOptions

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = [w for w in tiny.WORDS if w.isalpha()]


def written(tmp_path: Path, form: str) -> Path:
    rows = []
    for a in WORDS:
        for b in WORDS:
            asked, answer = f"{a} {b}", f"{b} {a} yes"
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            rows.append({"messages": turns} if form == "messages" else {"prompt": asked, "completion": answer})
    path = tmp_path / f"{form}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["prompt and completion", "messages"])
def test_held_out_loss_and_perplexity(
    model: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path, form)
    flags = ["--method=sft", f"--model.path={model}", f"--output={tmp_path}", f"--data.train={data}"]
    flags += ["--data.held_out=split", "--training.batch=8", "--training.minibatch=8", "--training.lr=1e-2"]
    flags += ["--training.epochs=2", "--model.autocast=false", "--sampling.max_new_tokens=8"]
    assert main(["train", *flags, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    before, after = result["before"], result["after"]
    assert after["eval/loss"] < before["eval/loss"]
    for end, loaded in ((before, model), (after, Path(result["run"]) / "final")):
        assert end["eval/perplexity"] == pytest.approx(math.exp(end["eval/loss"]))
        loss, count = by_hand(loaded, data)
        assert end["eval/loss"] == pytest.approx(loss, abs=1e-5) and end["eval/demonstrations"] == count
    recorded = read(result["run"], "examples")
    for step, end in ((0, before), (max(line["step"] for line in recorded), after)):
        lines = [line for line in recorded if line["step"] == step]
        loss = -sum(line["logp"] for line in lines) / sum(line["tokens"] for line in lines)
        assert loss == pytest.approx(end["eval/loss"]) and len(lines) == end["eval/demonstrations"]
    assert main(["report", result["run"], "--json"]) == 0
    (said,) = [text for text in json.loads(capsys.readouterr().out)["findings"] if "nats per token" in text]
    assert ". Change: −" in said and said.endswith("questions): better.")
    page = next(Path(result["run"]).glob("*.html")).read_text(encoding="utf-8")
    assert "Held-out loss" in page and "Perplexity after" in page


def by_hand(folder: Path, data: Path) -> tuple[float, int]:
    """Loss per token of the held-out answers and their number, with transformers alone."""
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    held_out = open_data(DataOptions(str(data), held_out="split")).held_out
    total, tokens = 0.0, 0
    for group in held_out:
        asked = tokenizer.apply_chat_template([group.prompt[0].plain], add_generation_prompt=True, tokenize=False)
        start = tokenizer.encode(asked, add_special_tokens=False)
        answer = [*tokenizer.encode(group.responses[0], add_special_tokens=False), tiny.EOS]
        with torch.no_grad():
            logp = lm(torch.tensor([start + answer])).logits.log_softmax(-1)[0, len(start) - 1 : -1]
        total += float(logp.gather(-1, torch.tensor(answer)[:, None]).sum())
        tokens += len(answer)
    return -total / tokens, len(held_out)
