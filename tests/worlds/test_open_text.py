"""Model, data and reward of a configuration, each opened alone: no method, no run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from prefloop.analysis.divergence import sequence_logp
from prefloop.core.errors import DataError, UserError
from prefloop.core.files import sha256
from prefloop.policies import pretrained
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.conversation import template_of
from prefloop.worlds.text.examine import truncation
from prefloop.worlds.text.open_data import data_hashes, open_data
from prefloop.worlds.text.open_model import open_model
from prefloop.worlds.text.open_reward import open_reward
from prefloop.worlds.text.spec import DataOptions, ModelOptions, RewardOptions, SamplingOptions

WORDS = [w for w in tiny.WORDS if w.isalpha()]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    lines = [{"prompt": f"{a} {b}", "chosen": f"{a} yes no", "rejected": b} for a in WORDS for b in WORDS]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_model_and_data_alone_give_log_probs_of_the_data(model: Path, pairs: Path) -> None:
    """What a study of coverage needs: no method, no reward."""
    opened, data = (
        open_model(ModelOptions(str(model), autocast=False), SamplingOptions(8)),
        open_data(DataOptions(str(pairs))),
    )
    problem = data.problem(opened.template)
    logp = sequence_logp(opened.reference, problem.batch_of(data.train))
    assert logp.shape == (len(WORDS) ** 2, 2) and bool((logp < 0).all())
    assert opened.sha256 == pretrained.model_hash(str(model))
    assert problem.scorer is None and data.has_responses and len(data.held_out) == 80


def test_data_name_the_bytes_that_they_were_read_from(pairs: Path) -> None:
    data = open_data(DataOptions(str(pairs), held_out="split", split_seed=3))
    assert data.hashes == data_hashes(data.options) == {str(pairs): sha256(pairs)}
    assert {g.key for g in data.train} & {g.key for g in data.held_out} == set()
    assert list(open_data(DataOptions()).hashes) == ["builtin"] and not open_data(DataOptions()).has_responses
    with pytest.raises(DataError, match="no held_out examples are left"):
        open_data(DataOptions(str(pairs), held_out="split", held_out_share=0.0))


def test_data_say_what_the_length_limit_does(model: Path, pairs: Path) -> None:
    template = template_of(pretrained.load(str(model))[1])
    data = open_data(DataOptions(str(pairs), max_response_tokens=4))
    assert truncation(data.problem(template), data.train).cut == 0  # the longest has three words and its EOS
    data = open_data(DataOptions(str(pairs), max_response_tokens=3))
    found = truncation(data.problem(template), data.train)
    assert (found.responses, found.cut) == (2 * len(data.train), len(data.train))


def test_prompts_that_are_too_long_are_found_at_once(model: Path, pairs: Path) -> None:
    data = open_data(DataOptions(str(pairs), max_prompt_tokens=3))
    with pytest.raises(DataError, match="more than 3 tokens"):
        truncation(data.problem(template_of(pretrained.load(str(model))[1])), data.train)


def test_a_reward_alone_scores_what_the_reference_writes(model: Path, pairs: Path) -> None:
    opened = open_model(ModelOptions(str(model), autocast=False), SamplingOptions(8))
    data = open_data(DataOptions(str(pairs), held_out="split"))
    problem = data.problem(opened.template)
    batch = problem.batch_of(data.held_out)

    def reward(name: str, **more: object) -> object:
        return open_reward(RewardOptions(name, **more), data, problem, opened.reference)  # type: ignore[arg-type]

    rule = reward("length_min", options={"scale": 1}, gold="length_mode", gold_options={"target": 2, "scale": 1})
    assert torch.equal(rule.scorer(batch), -batch.lengths.float())  # type: ignore[attr-defined]
    assert torch.equal(rule.gold(batch), -(batch.lengths - 2).abs().float())  # type: ignore[attr-defined]
    learned = reward("bradley_terry")
    assert "accuracy" in learned.note and learned.scorer(batch).shape == batch.mask.shape[:2]  # type: ignore[attr-defined]
    assert reward("labels").scorer is None  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="no fresh responses to measure gold on"):
        reward("labels", gold="length_min")


def test_a_policy_of_few_layers_trains_these_and_shares_the_rest(model: Path) -> None:
    opened = open_model(ModelOptions(str(model), False, trained_layers=1), SamplingOptions(8))
    policy = opened.policy()
    kept = dict(opened.reference.model.named_parameters())
    assert policy.state().keys() == opened.trained and opened.trained
    for name, p in policy.model.named_parameters():
        assert (p is kept[name]) == (name not in opened.trained) == ("layers.1." not in name)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_policy_starts_at_the_reference_and_leaves_it_alone(model: Path, rank: int) -> None:
    opened = open_model(ModelOptions(str(model), autocast=False, lora_rank=rank), SamplingOptions(8))
    before = [p.clone() for p in opened.reference.model.parameters()]
    one, two = opened.policy(), opened.policy(critic=True)
    assert isinstance(one, CausalLM) and two.network.value_head is not None and opened.reference.parameters() == []
    same = {id(p) for p in one.model.parameters()} & {id(p) for p in opened.reference.model.parameters()}
    frozen = [p for p in one.model.parameters() if not p.requires_grad]
    assert len(same) == len(frozen) and bool(frozen) is (rank > 0)
    start = one.state()
    for p in one.parameters():
        p.data.add_(1.0)
    assert all(torch.equal(x, y) for x, y in zip(before, opened.reference.model.parameters(), strict=True))
    assert all(torch.equal(x, two.state()[name]) for name, x in start.items())


def test_shards_are_hashed_together(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"part-{i}.jsonl").write_text(f'{{"prompt": "q{i}"}}\n')
    options = DataOptions(train=str(tmp_path / "part-*.jsonl"))
    before = data_hashes(options)
    (tmp_path / "part-1.jsonl").write_text('{"prompt": "another"}\n')
    assert len(before[options.train]) == 64 and data_hashes(options)[options.train] != before[options.train]
