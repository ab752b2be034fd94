"""Reward models of others score as transformers' own forward does on the same text, alone and in a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

import architectures
import tiny
from prefloop.cli.main import main
from prefloop.core.errors import DataError, UserError
from prefloop.data.records import Group, Message
from prefloop.rewards.bradley_terry import disk as saved
from prefloop.rewards.bradley_terry.whole import Whole
from prefloop.worlds.text.problem import TextProblem

ANSWERS = ("yes a b", "no", "c c a b yes no a", "b")


def classifier(kind: str, folder: Path, tokenizer: Any, **options: Any) -> Any:
    """A classifier whose scores are far apart, as another library would save it."""
    config = architectures.config(kind, num_labels=1, pad_token_id=tokenizer.pad_token_id, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim > 1:
                    p.normal_(std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def theirs(model: Any, **inputs: Tensor) -> float:
    with torch.no_grad():
        return float(model(**inputs).logits[0, 0])


def group(*answers: str, question: str = "a b c") -> Group:
    return Group((Message("user", question),), answers, None, "k", 1)


def equal(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-5, rtol=1e-4)
    assert found.std() > 0.01


# ------------------------------------------------------------------------------------- decoders: where the score is

CLOSED = tiny.TEMPLATE.replace("{{ m['content'] }} ", "{{ m['content'] }} <eos> ")
THINKING = tiny.TEMPLATE.replace(  # writes a block before the last answer that the generation prompt does not
    "{{ m['content'] }} ", "{{ 'no no ' if m['role'] == 'assistant' and loop.last else '' }}{{ m['content'] }} <eos> "
)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "qwen3", "gemma2", "mixtral", "falcon", "bloom", "jamba"])
@pytest.mark.parametrize("padding", ["<eos>", "<unk>", None])
@pytest.mark.parametrize("template", [tiny.TEMPLATE, CLOSED, THINKING])
def test_the_score_is_where_transformers_reads_it(
    kind: str, padding: str | None, template: str, tmp_path: Path
) -> None:
    """At the last token that is not padding: before the end of the answer if the end is the padding."""
    tokenizer = tiny.tokenizer(template)
    tokenizer.pad_token = padding
    try:
        model = classifier(kind, tmp_path, tokenizer)
    except ValueError as error:
        pytest.skip(f"transformers has no such classifier: {str(error)[:60]}")
    own = saved.load(tmp_path)
    expected = []
    for answer in ANSWERS:
        said = [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": answer}]
        ids = own.tokenizer.apply_chat_template(said, tokenize=True, return_dict=False, return_tensors="pt")
        expected.append(theirs(model, input_ids=ids))
    equal(own.score_groups([group(*ANSWERS)]).score, expected)
    batch = TextProblem([group(*ANSWERS)], own.template).batch_of([group(*ANSWERS)])
    if template != tiny.TEMPLATE:  # whose answers have no end of their own
        equal(own.score_batch(batch)[0], expected)


def test_scores_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    classifier("llama", tmp_path, tiny.tokenizer(CLOSED))
    whole = saved.load(tmp_path).score_groups([group(*ANSWERS)]).score
    alone = [float(saved.load(tmp_path, micro_tokens=1).score_groups([group(a)]).score[0]) for a in ANSWERS]
    equal(whole, alone)


# ------------------------------------------------------------------------------------------------------- encoders


UNTYPED = ("distilbert", "modernbert")
ENCODERS = [
    "bert",
    "roberta",
    "xlm-roberta",
    "deberta-v2",
    "electra",
    "distilbert",
    "albert",
    "modernbert",
    "camembert",
]


@pytest.mark.parametrize("inputs", [(), tiny.TYPED])
@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_reads_question_and_answer_as_a_pair(kind: str, inputs: tuple[str, ...], tmp_path: Path) -> None:
    if inputs and kind in UNTYPED:
        pytest.skip("has no types of tokens")
    model = classifier(kind, tmp_path, tiny.encoder_tokenizer(inputs=inputs))
    own = saved.load(tmp_path)
    assert ("token_type_ids" in own.tokenizer("a", "b")) == bool(inputs)
    expected = [theirs(model, **own.tokenizer("a b c", answer, return_tensors="pt")) for answer in ANSWERS]
    assert isinstance(own.backbone, Whole) and own.paired and not own.backbone.apart
    equal(own.score_groups([group(*ANSWERS)]).score, expected)
    scored = own.score_groups([group(*ANSWERS)])
    assert scored.length.tolist() == [len(answer.split()) + 1 for answer in ANSWERS] and not scored.cut.any()


def test_the_command_line_scores_with_an_encoder(tmp_path: Path) -> None:
    model = classifier("bert", tmp_path / "rm", tiny.encoder_tokenizer(inputs=tiny.TYPED))
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "a b c", "chosen": "yes a b", "rejected": "no"}) + "\n")
    out = tmp_path / "scored.jsonl"
    assert main(["reward", "score", str(tmp_path / "rm"), str(data), "--out", str(out), "--autocast", "false"]) == 0
    tokenizer = saved.load(tmp_path / "rm").tokenizer
    expected = [theirs(model, **tokenizer("a b c", answer, return_tensors="pt")) for answer in ("yes a b", "no")]
    assert json.loads(out.read_text())["scores"] == pytest.approx(expected, abs=1e-4)


def test_pairs_of_texts_that_are_too_long_are_cut_as_transformers_does_and_counted(tmp_path: Path) -> None:
    model = classifier("roberta", tmp_path, tiny.encoder_tokenizer(), max_position_embeddings=20)
    own = saved.load(tmp_path)
    assert own.max_tokens == 19  # one position less than the table has: it begins behind the padding
    long = "b c " * 20
    scored = own.score_groups([group("yes", long)])
    made = own.tokenizer("a b c", long, return_tensors="pt", truncation=True, max_length=19)
    assert float(scored.score[1]) == pytest.approx(theirs(model, **made), abs=1e-5)
    assert scored.cut.tolist() == [False, True]


def test_a_mark_that_a_text_spells_is_text(tmp_path: Path) -> None:
    classifier("bert", tmp_path, tiny.encoder_tokenizer())
    own = saved.load(tmp_path)
    row = own.encode([group("a[SEP]b")]).rows[0]
    assert row.ids.tolist().count(own.tokenizer.sep_token_id) == 2


def test_a_pair_has_no_place_for_several_messages(tmp_path: Path) -> None:
    classifier("bert", tmp_path, tiny.encoder_tokenizer())
    talk = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    with pytest.raises(DataError, match="several messages") as error:
        saved.load(tmp_path).score_groups([Group(talk, ("yes",), None, "k", 7)])
    assert error.value.where == "row 7"


def test_an_encoder_with_a_chat_template_reads_the_rendered_conversation(tmp_path: Path) -> None:
    tokenizer = tiny.encoder_tokenizer(
        "[CLS] {% for m in messages %}{{ m['role'] }} : {{ m['content'] }} [SEP] {% endfor %}"
    )
    tokenizer.eos_token = "[SEP]"
    model = classifier("modernbert", tmp_path, tokenizer)
    own, expected = saved.load(tmp_path), []
    for answer in ANSWERS:
        said = [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(said, tokenize=True, return_dict=False, return_tensors="pt")
        expected.append(theirs(model, input_ids=ids))
    equal(own.score_groups([group(*ANSWERS)]).score, expected)


def test_a_decoder_without_a_template_is_still_refused(tmp_path: Path) -> None:
    classifier("llama", tmp_path, tiny.tokenizer(template=None))
    with pytest.raises(UserError, match="no chat template"):
        saved.load(tmp_path)
