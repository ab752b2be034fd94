"""A trained model that reads images too keeps the files that say how: its processor loads from `final/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

import architectures
import tiny
from prefloop.policies import pretrained
from prefloop.policies.folder import read_tokenizer
from prefloop.runs import config as configuration
from prefloop.runs import experiment

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = {"boi_token": "<image>", "image_token": "<part>", "eoi_token": "</image>"}
SIZE = {"height": 32, "width": 32}


def tokenizer() -> Any:
    special = {"unk_token": "<unk>", "eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<eos>"}
    inner = tiny.tokenizer().backend_tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, chat_template=tiny.TEMPLATE, extra_special_tokens=NAMES, **special
    )


@pytest.fixture
def gemma(tmp_path: Path) -> Path:
    """A tiny Gemma 3 with the processor of its images."""
    folder = tmp_path / "gemma"
    architectures.model("gemma3").save_pretrained(folder)
    images = transformers.Gemma3ImageProcessorPil(size=SIZE)
    kept = transformers.Gemma3Processor(images, tokenizer(), image_seq_length=4, chat_template=tiny.TEMPLATE)
    kept.save_pretrained(folder)
    return folder


def old_layout(folder: Path) -> None:
    """As older versions of transformers save it: a file for the images, and the template in JSON."""
    config = json.loads((folder / "processor_config.json").read_text())
    images = config.pop("image_processor") | {"processor_class": "Gemma3Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "processor_config.json").write_text(json.dumps(config))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))


@pytest.mark.parametrize("old", [False, True])
def test_a_trained_model_of_images_and_text_keeps_its_processor(old: bool, gemma: Path, tmp_path: Path) -> None:
    if old:
        old_layout(gemma)
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"yes {word}", "chosen": "yes", "rejected": "no"} for word in ("yes", "no", "user", "system")]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed = ["--method=dpo", "--reward.name=labels", f"--data.train={pairs}", "--data.held_out=split"]
    sizes = ["--training.steps=1", "--training.batch=4", "--training.minibatch=4", "--sampling.max_new_tokens=6"]
    where = [f"--model.path={gemma}", f"--output={tmp_path / 'runs'}", "--model.autocast=false"]
    more = ["--evaluation.prompts=2", "--evaluation.max_cut=1", "--data.held_out_share=0.5"]
    result = experiment.run(configuration.load(None, [*fixed, *sizes, *where, *more]), quiet=True)
    final = result.folder / "final"
    before, after = (AutoProcessor.from_pretrained(folder) for folder in (gemma, final))
    assert type(after) is type(before) and after.image_processor.to_dict() == before.image_processor.to_dict()
    assert after.image_processor.size == SIZE and after.chat_template == before.chat_template == tiny.TEMPLATE
    assert after.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    assert AutoModelForImageTextToText.from_pretrained(final).dtype == torch.float32


def test_a_tokenizer_takes_the_template_of_an_older_processor(gemma: Path) -> None:
    old_layout(gemma)
    assert read_tokenizer(gemma).chat_template == tiny.TEMPLATE


def test_what_the_model_writes_itself_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    pretrained.save(tiny.llama(dtype=torch.float32), tiny.tokenizer(), folder, "")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("generation_config.json", "video_preprocessor_config.json"):
        (other / name).write_text("{}")
    pretrained.save(
        tiny.llama(dtype=torch.float32), tiny.tokenizer(), tmp_path / "again", "", beside=sorted(other.iterdir())
    )
    own, again = ((tmp_path / name / "generation_config.json").read_text() for name in ("model", "again"))
    assert own == again and (tmp_path / "again" / "video_preprocessor_config.json").read_text() == "{}"
