"""A base model trained with a chat template by name: its folder holds the template, and stops where the run stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.policies.chat_family import named
from tests.policies.chat_tokenizers import TIKTOKEN, made
from transformers import AutoTokenizer, GenerationConfig

import tiny
from prefloop.cli.main import main
from prefloop.data.records import Message
from prefloop.policies import pretrained
from prefloop.policies.templates import CHATML
from prefloop.runs.folder import read_manifest, runs
from prefloop.runs.trained import trained

ASKED = Message("user", "Which fruit is red?")
SAID = "`chatml`; answers end with `<|im_end|>`"


def base(folder: Path, *special: str) -> Path:
    tokenizer = made(TIKTOKEN, special, **named("</s>", "<unk>", "<s>", "<unk>"))
    model = tiny.llama(len(tokenizer), torch.float32, context=128)
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    pretrained.save(model, tokenizer, folder, "a base model")
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Name fruit {n}.", "chosen": f"Apple {n}.", "rejected": "No."} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_base_model_is_trained_and_asked_with_chatml(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = base(tmp_path / "base", "<|im_start|>", "<|im_end|>")
    words = [f"--model.path={model}", f"--data.train={pairs}", "--data.template=chatml", "--training.steps=1"]
    words += ["--training.batch=4", "--training.minibatch=4", "--reward.name=labels", "--sampling.max_new_tokens=4"]
    words += ["--data.held_out=split", "--evaluation.greedy=0", "--model.autocast=false"]
    assert main(["train", "--method=dpo", *words, f"--output={tmp_path / 'runs'}", "--quiet"]) == 0
    (run,) = runs(tmp_path / "runs")
    manifest = read_manifest(run)
    assert any(SAID in note for note in manifest["notes"])
    assert "template: chatml" in (run / "config.yaml").read_text()

    tokenizer = AutoTokenizer.from_pretrained(run / "final")
    assert tokenizer.chat_template == CHATML
    stopped = GenerationConfig.from_pretrained(run / "final").eos_token_id
    assert stopped == tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    started = tokenizer.apply_chat_template([ASKED.plain], add_generation_prompt=True, return_dict=False)
    for name in (run, run / "final"):
        assert trained(str(name)).template.prompt([ASKED]).tolist() == started
    capsys.readouterr()
    asked = ["sample", str(model), "--prompts", str(pairs), "--limit", "1", "--max-new-tokens=2", "--json"]
    assert main([*asked, "--template", "chatml"]) == 0
    assert any(SAID in note for note in json.loads(capsys.readouterr().out)["notes"])


def test_a_vocabulary_without_the_tokens_is_refused_before_training(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = base(tmp_path / "base")
    assert main(["data", "check", str(pairs), "--model", str(model), "--template", "chatml"]) == 2
    assert "are no special tokens of this model" in " ".join(capsys.readouterr().err.split())
    assert main(["data", "check", str(pairs), "--model", str(model), "--template", "zephyr"]) == 0
    assert "answers end with `</s>`" in " ".join(capsys.readouterr().out.split())
