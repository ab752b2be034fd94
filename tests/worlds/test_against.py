"""Data beside samples of a language model: what is read off it, and measures against enumeration of all responses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from prefloop.analysis import coverage, enumerated, geometry
from prefloop.analysis.offer import measured
from prefloop.analysis.statistics import Mean
from prefloop.core.batch import Batch
from prefloop.data.records import Group, message
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.conversation import template_of
from prefloop.policies.sampler import Sampling
from prefloop.worlds.text import against
from prefloop.worlds.text.problem import TextProblem

SIGMAS = 4.0
LIMIT = 2
GROUP = 48


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path))
    yield tmp_path / "samples"


def group(prompt: str, *responses: str, scores: tuple[float, ...] | None = None, row: int = 1) -> Group:
    return Group((message("user", prompt),), responses, scores, prompt, row)


def pairs() -> list[Group]:
    words = ("a", "b", "c", "yes", "no")
    return [group(f"{a} {b}", f"{b} {a} c", "no", scores=(1.0, 0.0)) for a in words for b in words]


def opened(groups: list[Group]) -> tuple[CausalLM, TextProblem]:
    tokenizer = tiny.tokenizer()
    policy = CausalLM(
        tiny.llama(len(tiny.WORDS)), tokenizer, sampling=Sampling(max_new_tokens=LIMIT), ends=(tiny.EOS,), frozen=True
    )
    return policy, TextProblem(groups, template_of(tokenizer, "auto"))


def every(policy: CausalLM, prompts: list[Tensor]) -> tuple[Batch, Tensor]:
    """All responses of at most two tokens to each prompt, and their log-probs [X, R]."""
    size = len(tiny.WORDS)
    responses = [[tiny.EOS]] + [[v, w] for v in range(size) if v != tiny.EOS for w in range(size)]
    whole = Batch.from_groups(prompts, [responses] * len(prompts))
    with torch.no_grad():
        return whole, policy.evaluate(whole).logp.sum(-1)


def test_sampled_measures_of_a_language_model_agree_with_enumeration() -> None:
    policy, problem = opened(pairs())
    prompts = problem.render(problem.train)
    whole, law = every(policy, prompts)
    assert law.exp().sum(-1).numpy() == pytest.approx(1.0)
    table = (whole.responses * whole.mask).sum(-1).double() / 6  # a reward of token ids
    drawn = against.sampled(policy, prompts, GROUP, seed=0, model="tiny")
    own = replace(
        against.samples_of(drawn, None, problem), reward=(drawn.responses * drawn.mask).sum(-1).double().numpy() / 6
    )
    given = against.given(policy, problem, problem.train, LIMIT, None)
    assert given is not None and own.reward is not None
    rows = np.flatnonzero(given.side == 1)
    values, prompt = given.logp[rows], given.prompt[rows]
    truth = enumerated.percentile(law, law, torch.from_numpy(values)).numpy()
    gap = coverage.percentiles(values, prompt, own.logp) - truth
    assert abs(gap.mean()) <= SIGMAS * gap.std(ddof=1) / len(gap) ** 0.5
    assert geometry.tilt(own.reward, 1.0)
    for estimate, exact in zip(geometry._debiased(own.reward), enumerated.tilt(law, table, 1.0), strict=True):
        gap = estimate - exact.numpy()
        assert abs(gap.mean()) <= SIGMAS * gap.std(ddof=1) / len(gap) ** 0.5
    gap = geometry.best_of_each(own.reward, 8) - enumerated.best_of(law, table, 8).numpy()
    assert abs(gap.mean()) <= SIGMAS * gap.std(ddof=1) / len(gap) ** 0.5
    found = measured(replace(given, reward=given.length), own, beta=1.0)
    percentile = found["coverage/chosen/percentile"]
    assert isinstance(percentile, Mean) and percentile.value == pytest.approx(
        coverage.percentiles(values, prompt, own.logp).mean()
    )


def test_log_probs_and_the_mass_of_likelier_tokens() -> None:
    policy, problem = opened(pairs())
    given = against.given(policy, problem, problem.train, LIMIT, None)
    assert given is not None
    batch = replace(problem, max_response_tokens=LIMIT).batch_of(problem.train)
    with torch.no_grad():
        logp = policy.evaluate(batch).logp
        first = torch.stack(
            [policy.model(prompt[None]).logits[0, -1].log_softmax(-1) for prompt in batch.prompts]
        )  # next token
    assert given.logp.reshape(-1, 2) == pytest.approx(logp.sum(-1).numpy())
    for row, (ids, mass) in enumerate(zip(given.tokens, given.mass, strict=True)):
        law = first[row // 2]
        assert mass[0] == pytest.approx(float(law.exp()[law > law[ids[0]]].sum()), abs=1e-9)
        assert len(mass) == len(ids) == given.length[row] <= LIMIT
    assert given.pairs.tolist() == [[2 * i, 2 * i + 1] for i in range(25)]
    assert given.state is not None and given.state.shape == (50, 16)


def test_samples_are_kept_and_read_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, problem = opened(pairs()[:6])
    prompts = problem.render(problem.train)
    done: list[int] = []
    first = against.sampled(policy, prompts, 3, seed=0, model="tiny", done=done.append)
    assert done == [4, 2] and len(list(cache.iterdir())) == 2
    other = against.sampled(policy, prompts, 3, seed=1, model="tiny")
    assert not torch.equal(first.responses, other.responses)
    next(iter(cache.iterdir())).write_bytes(b"torn")
    again = against.sampled(policy, prompts, 3, seed=0, model="tiny")
    assert first.logp_proximal is not None and again.logp_proximal is not None
    monkeypatch.setattr(CausalLM, "draw", None)
    known = against.sampled(policy, prompts, 3, seed=0, model="tiny")
    for read in (again, known):
        assert torch.equal(read.responses, first.responses) and torch.equal(read.mask, first.mask)
        assert torch.equal(read.logp_proximal, first.logp_proximal)  # type: ignore[arg-type]


def test_sides_of_all_forms_of_data() -> None:
    groups = [
        group("a", "b", "c", "no", scores=(0.2, 0.9, 0.1)),  # rated: best and worst
        group("b", "c", "no", scores=(0.5, 0.5)),  # a tie
        group("c", "a", scores=(1.0,)),  # labels
        group("c", "no", scores=(-1.0,)),
        group("yes", "no"),  # a demonstration
        group("no"),  # a prompt
    ]
    policy, problem = opened(groups)
    given = against.given(policy, problem, groups, LIMIT, None)
    assert given is not None
    assert given.side.tolist() == [0, 1, -1, 0, 0, 1, -1, 1] and given.pairs.tolist() == [[1, 2]]
    assert given.prompt.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert against.given(policy, problem, groups[-1:], LIMIT, None) is None
    assert against.limit_of(problem, groups[:2]) == 2 and against.limit_of(problem, groups[-1:]) == against.MOST


def test_questions_depend_on_prompts_and_seed_only() -> None:
    groups = [group(str(i % 7), "a", row=i) for i in range(14)]
    picked = against.questions(groups, 3, 0)
    assert len(picked) == 6 and len({g.prompt for g in picked}) == 3
    assert {g.prompt for g in against.questions(groups[::-1], 3, 0)} == {g.prompt for g in picked}
    assert len(against.questions(groups, 99, 0)) == 14
