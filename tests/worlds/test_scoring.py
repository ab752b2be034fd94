"""A reward model with another tokenizer and template scores as transformers does on the conversation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

import architectures
import tiny
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.data.records import Group, Message
from prefloop.policies.conversation import template_of
from prefloop.rewards.bradley_terry import disk as saved
from prefloop.rewards.bradley_terry.encoding import Said
from prefloop.rewards.bradley_terry.ensemble import Ensemble
from prefloop.rewards.bradley_terry.fit import fit
from prefloop.rewards.bradley_terry.model import BradleyTerry
from prefloop.rewards.bradley_terry.options import FitOptions
from prefloop.runs import config as configuration
from prefloop.runs import experiment
from prefloop.worlds.text.problem import TextProblem
from prefloop.worlds.text.scoring import scorer_of

pytestmark = pytest.mark.usefixtures("one_thread")

ANSWERS = ("yes a b", "no", "c c a b yes no a", "b")
THEIRS = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_tokenizer(template: str = THEIRS) -> PreTrainedTokenizerFast:
    """One token per byte, and special tokens of its own: nothing in common with `tiny.tokenizer`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(name) for name in ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>")
    made.chat_template = template
    return made


def reward_folder(folder: Path, kind: str = "llama", tokenizer: Any = None) -> Path:
    tokenizer = tokenizer or byte_tokenizer()
    config = architectures.config(
        kind, num_labels=1, pad_token_id=tokenizer.pad_token_id, vocab_size=len(tokenizer), eos_token_id=None
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for p in model.parameters():
            if p.ndim > 1:
                torch.nn.init.normal_(p, std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reward_folder(tmp_path_factory.mktemp("reward") / "rm")


def group(*answers: str, row: int = 1, system: str = "") -> Group:
    asked = (Message("user", "a b c" if row == 1 else "b a"),)
    prompt = (Message("system", system), *asked) if system else asked
    return Group(prompt, answers, None, f"{row}", row)


def problem_of(*groups: Group, **options: Any) -> TextProblem:
    return TextProblem(groups, template_of(tiny.tokenizer()), **options)


def conversation(asked: Group, answer: str) -> list[dict[str, str]]:
    return [*({"role": m.role, "content": m.content} for m in asked.prompt), {"role": "assistant", "content": answer}]


def theirs(folder: Path, *texts: Any) -> torch.Tensor:
    """What transformers scores, given the tokens of whole conversations."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return torch.tensor([float(model(**x).logits[0, 0]) for x in texts])


def rendered(tokenizer: Any, asked: Group, answer: str) -> Any:
    return tokenizer.apply_chat_template(conversation(asked, answer), return_dict=True, return_tensors="pt")


def equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert expected.std() > 0.01


# ---------------------------------------------------------------------------------------------------- equal scores


def test_scores_are_those_of_transformers_on_the_rendered_conversation(folder: Path) -> None:
    groups = [group(*ANSWERS), group("yes", "no no", row=2)]  # of different sizes
    problem = problem_of(*groups)
    scorer, note = scorer_of(saved.load(folder), problem)
    found, tokenizer = scorer(problem.batch_of(groups)), byte_tokenizer()
    equal(found[0], theirs(folder, *(rendered(tokenizer, groups[0], x) for x in ANSWERS)))
    equal(found[1, :2], theirs(folder, *(rendered(tokenizer, groups[1], x) for x in ("yes", "no no"))))
    assert found[1, 2:].tolist() == [0, 0]
    assert note == "the reward model has another tokenizer than the policy: it reads the text of the answers by its own"


def test_an_encoder_scores_a_pair_of_texts(tmp_path: Path) -> None:
    tokenizer = tiny.encoder_tokenizer(inputs=tiny.TYPED)
    rm = reward_folder(tmp_path / "rm", "bert", tokenizer)
    problem = problem_of(group(*ANSWERS))
    scorer, _ = scorer_of(saved.load(rm), problem)
    expected = theirs(rm, *(tokenizer("a b c", x, return_tensors="pt") for x in ANSWERS))
    equal(scorer(problem.batch_of([group(*ANSWERS)]))[0], expected)


def test_another_template_alone_is_enough(tmp_path: Path) -> None:
    other = tiny.tokenizer(tiny.TEMPLATE.replace("{{ m['content'] }} ", "{{ m['content'] }} <eos> b "))
    rm = reward_folder(tmp_path / "rm", tokenizer=other)
    problem = problem_of(group(*ANSWERS))
    scorer, note = scorer_of(saved.load(rm), problem)
    equal(
        scorer(problem.batch_of([group(*ANSWERS)]))[0],
        theirs(rm, *(rendered(other, group(), x) for x in ANSWERS)),
    )
    assert "another chat template" in note


def test_a_model_that_was_fitted_here_scores_as_it_does_on_texts(tmp_path: Path) -> None:
    pairs = [Group((Message("user", q),), ("yes yes", "no"), (1.0, 0.0), q, i) for i, q in enumerate("abcd")]
    vocabulary = len(byte_tokenizer())
    model = fit(tiny.llama(vocabulary, torch.float32), template_of(byte_tokenizer()), pairs, FitOptions())
    problem = problem_of(group(*ANSWERS))
    scorer, _ = scorer_of(model, problem)
    equal(scorer(problem.batch_of([group(*ANSWERS)]))[0], model.score_groups([group(*ANSWERS)]).score)


def test_system_messages_and_tools_of_the_run_are_read(folder: Path) -> None:
    plain, spoken = problem_of(group(*ANSWERS)), problem_of(group(*ANSWERS), system="c c")
    model = saved.load(folder)
    scores = [scorer_of(model, p)[0](p.batch_of([group(*ANSWERS)]))[0] for p in (plain, spoken)]
    expected = theirs(folder, *(rendered(byte_tokenizer(), group(system="c c"), x) for x in ANSWERS))
    equal(scores[1], expected)
    assert (scores[0] - scores[1]).abs().min() > 1e-4


# ------------------------------------------------------------------------------------------- what a policy may write


def drawn(problem: TextProblem, *answers: str) -> Batch:
    """A group of answers by the ids of their words, as a policy samples them."""
    names = {word: i for i, word in enumerate(tiny.WORDS)}
    rows = [torch.tensor([names[word] for word in answer.split()]) for answer in answers]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[None]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)[None].bool()
    return Batch(problem.render(list(problem.train)), tokens, mask)


def test_special_tokens_of_the_policy_are_text_to_the_reward_model(folder: Path) -> None:
    problem = problem_of(group())
    scorer, _ = scorer_of(saved.load(folder), problem)
    found = scorer(drawn(problem, "yes <bos> a <eos>", "<unk> b <eos>"))[0]
    equal(found, theirs(folder, *(rendered(byte_tokenizer(), group(), x) for x in ("yes <bos> a", "<unk> b"))))


def test_an_answer_that_was_cut_has_nothing_behind_its_last_token(folder: Path) -> None:
    problem, tokenizer = problem_of(group()), byte_tokenizer()
    scorer, _ = scorer_of(saved.load(folder), problem)
    asked = tokenizer.apply_chat_template(conversation(group(), "")[:1], tokenize=False, add_generation_prompt=True)
    open_ended = [tokenizer(asked + x, return_tensors="pt", add_special_tokens=False) for x in ("yes a", "b")]
    found = scorer(drawn(problem, "yes a", "b", "yes a <eos>"))[0]
    equal(found[:2], theirs(folder, *({"input_ids": x["input_ids"]} for x in open_ended)))
    equal(found[1:], torch.cat([found[1:2], theirs(folder, rendered(tokenizer, group(), "yes a"))]))


def test_an_answer_that_spells_a_special_token_of_the_reward_model_is_text(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(THEIRS.replace("<|end|>", "<eos>"))
    tokenizer.add_special_tokens({"eos_token": "<eos>"})  # which the policy's tokenizer spells too
    rm = reward_folder(tmp_path / "rm", tokenizer=tokenizer)
    model = saved.load(rm)
    problem = problem_of(group())
    said = model.said([said_in(problem, "yes <bos> a"), said_in(problem, "yes <eos> a")])
    eos = tokenizer.eos_token_id
    assert [row.ids.tolist().count(eos) for row in said] == [2, 2]  # the ends of the two turns
    assert len(said[0].ids) == len(said[1].ids)


def said_in(problem: TextProblem, text: str) -> Said:
    return Said(problem.train[0], text, True)


REFUSING = THEIRS.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if m['role'] == 'assistant' and 'no' in m['content'] %}"
    "{{ raise_exception('never') }}{% endif %}",
)
DROPPING = THEIRS.replace("{{ m['content'] }}", "{{ m['content'].split('no ')[-1] }}")


@pytest.mark.parametrize("template", [REFUSING, DROPPING])
def test_an_answer_that_the_template_refuses_or_shortens_is_taken_as_it_is(template: str, tmp_path: Path) -> None:
    rm = reward_folder(tmp_path / "rm", tokenizer=byte_tokenizer(template))
    problem = problem_of(group())
    scorer, _ = scorer_of(saved.load(rm), problem)
    found = scorer(drawn(problem, "yes no yes <eos>", "yes <eos>", "b no yes"))[0]
    usual = byte_tokenizer()
    equal(found[:2], theirs(rm, *(rendered(usual, group(), x) for x in ("yes no yes", "yes"))))
    cut = rendered(usual, group(), "b no yes")["input_ids"][:, :-2]
    assert float(found[2]) == pytest.approx(float(theirs(rm, {"input_ids": cut})), abs=2e-5)


def test_a_conversation_that_it_cannot_read_is_refused_before_the_first_step(tmp_path: Path) -> None:
    strict = THEIRS.replace(
        "{% for m", "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m"
    )
    model = saved.load(reward_folder(tmp_path / "rm", tokenizer=byte_tokenizer(strict)))
    with pytest.raises(DataError, match=r"reward model cannot read a conversation of the data: .*no system") as error:
        scorer_of(model, problem_of(group(*ANSWERS), group(*ANSWERS, row=7, system="c")))
    assert error.value.where == "row 7"
    encoder = saved.load(reward_folder(tmp_path / "bert", "bert", tiny.encoder_tokenizer()))
    with pytest.raises(DataError, match="several messages"):
        scorer_of(encoder, problem_of(group(*ANSWERS), system="c"))


def test_a_prompt_without_a_conversation_is_refused(folder: Path) -> None:
    problem = problem_of(group(*ANSWERS))
    scorer, _ = scorer_of(saved.load(folder), problem)
    batch = problem.batch_of([group(*ANSWERS)])
    with pytest.raises(DataError, match="needs the conversation of the data"):
        scorer(replace(batch, prompts=[torch.tensor([2, 3, 9])]))


# ------------------------------------------------------------------------------------------- the same, and several


@pytest.fixture
def alike() -> BradleyTerry:
    pairs = [Group((Message("user", q),), ("yes yes", "no"), (1.0, 0.0), q, i) for i, q in enumerate("abcd")]
    return fit(tiny.llama(dtype=torch.float32), template_of(tiny.tokenizer()), pairs, FitOptions())


def test_the_same_tokenizer_and_template_read_the_ids(alike: BradleyTerry) -> None:
    scorer, note = scorer_of(alike, problem_of(group(*ANSWERS)))
    assert scorer == alike.score_batch and note == ""


@pytest.mark.parametrize(("how", "combine"), [("mean", lambda x: x.mean(0)), ("min", lambda x: x.amin(0))])
def test_members_of_an_ensemble_read_each_in_its_own_way(
    how: Any, combine: Callable[[torch.Tensor], torch.Tensor], alike: BradleyTerry, folder: Path
) -> None:
    problem, other = problem_of(group(*ANSWERS)), saved.load(folder)
    batch = problem.batch_of([group(*ANSWERS)])
    both = Ensemble((alike, other), how)
    scorer, note = scorer_of(both, problem)
    each = torch.stack([scorer_of(m, problem)[0](batch) for m in (alike, other)])
    assert torch.equal(scorer(batch), combine(each)) and note.startswith("reward model 2 has another tokenizer")
    equal(both.score_groups([group(*ANSWERS)]).score, combine(each)[0])
    with pytest.raises(UserError, match="different tokenizers"):
        both.score_batch(batch)


def test_a_run_is_trained_against_it_and_says_so(folder: Path, model: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{q} {p}", "chosen": "yes", "rejected": "no"} for q in "abc" for p in "abc"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed = ["--method=rloo", "--training.steps=2", "--training.batch=4", "--training.minibatch=4"]
    where = [
        f"--model.path={model}",
        f"--output={tmp_path / 'runs'}",
        f"--data.train={data}",
        "--data.held_out=split",
        "--data.held_out_share=0.6",
    ]
    more = ["--sampling.max_new_tokens=6", "--evaluation.max_cut=1", "--evaluation.prompts=2", "--model.autocast=false"]
    reward = ["--reward.name=bradley_terry", f"--reward.options={{path: {folder}}}"]
    result = experiment.run(configuration.load(None, [*fixed, *where, *more, *reward]), quiet=True)
    assert "another tokenizer" in result.note
    assert any("another tokenizer" in n for n in json.loads((result.folder / "manifest.json").read_text())["notes"])
