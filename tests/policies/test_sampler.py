"""The sampler draws what its log-probs say, whatever the chunks, and its log-probs are those of a fresh forward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from torch.profiler import ProfilerActivity, profile

import tiny
from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.core.streams import streams
from prefloop.policies import decoding
from prefloop.policies.sampler import Samples, Sampling, draw, is_cut, sample, truncate

PROMPTS = [torch.tensor(ids) for ids in ([2, 3, 4], [2, 5], [2, 7, 8, 9, 9, 3], [4, 4, 4], [5])]
MODELS = {"llama": tiny.llama, "gpt2": tiny.gpt2, "qwen": tiny.qwen}
TEMPERED = Sampling(max_new_tokens=9, temperature=0.7, top_p=0.8, top_k=6)


def drawn(model, plan: Sampling, prompts=PROMPTS, responses: int = 6, seed: int = 0, **options) -> Samples:
    stream = streams(seed)["sampling"]
    return sample(model, prompts, responses, stream, sampling=plan, eos_ids=[tiny.EOS], **options)


def naive_logits(model, prompt, response) -> torch.Tensor:
    """Logits before each response token, by one plain forward without padding or cache."""
    with torch.no_grad():
        return model(torch.cat([prompt, response])[None], use_cache=False).logits[0, len(prompt) - 1 : -1]


def sampling_distribution(logits: torch.Tensor, plan: Sampling) -> torch.Tensor:
    """Temperature, then top-k, then top-p, by sorting: one row, no shortcuts."""
    p = (logits / plan.temperature).softmax(-1)
    order = p.argsort(descending=True)
    keep = order[: plan.top_k or len(p)]
    mass, nucleus = 0.0, []
    for i in keep.tolist():
        if mass >= plan.top_p * float(p[keep].sum()):
            break
        nucleus.append(i)
        mass += float(p[i])
    kept = torch.zeros_like(p)
    kept[nucleus] = p[nucleus]
    return kept / kept.sum()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plan", [Sampling(max_new_tokens=9), TEMPERED, replace(TEMPERED, top_p=1.0)])
def test_log_probs_are_those_of_an_independent_forward(name, plan):
    model = MODELS[name]()
    s = drawn(model, plan)
    for p, prompt in enumerate(PROMPTS):
        for g in range(6):
            response = s.responses[p, g][s.mask[p, g]]
            logits = naive_logits(model, prompt, response)
            places = torch.arange(len(response))
            proximal = logits.log_softmax(-1)[places, response]
            behaviour = torch.stack([sampling_distribution(row, plan) for row in logits]).log()[places, response]
            assert torch.allclose(s.logp_proximal[p, g, : len(response)], proximal, atol=1e-9, rtol=0)
            assert torch.allclose(s.logp_behaviour[p, g, : len(response)], behaviour, atol=1e-9, rtol=0)


def test_an_exact_sampler_draws_from_the_model():
    s = drawn(tiny.llama(), Sampling(max_new_tokens=6))
    assert Sampling().exact and not TEMPERED.exact
    assert torch.equal(s.logp_behaviour, s.logp_proximal)


def test_responses_end_with_their_first_eos_and_are_zero_beyond():
    s = drawn(tiny.llama(), Sampling(max_new_tokens=9), responses=40)
    lengths = s.mask.sum(-1)
    for response, mask, n in zip(s.responses.flatten(0, 1), s.mask.flatten(0, 1), lengths.flatten(), strict=True):
        assert torch.equal(mask, torch.arange(len(mask)) < n)
        assert (response[: n - 1] != tiny.EOS).all() and (response[n:] == 0).all()
        assert n == 9 or response[n - 1] == tiny.EOS
    assert (s.logp_behaviour[~s.mask] == 0).all() and (s.logp_proximal[~s.mask] == 0).all()
    assert len(lengths.unique()) > 1
    cut = is_cut(Batch(PROMPTS, s.responses, s.mask), [tiny.EOS])
    ends = s.responses.gather(-1, lengths[..., None] - 1).squeeze(-1)
    assert torch.equal(cut, ends != tiny.EOS) and cut.any() and not cut.all()


def test_an_empty_response_is_not_cut():
    nothing = Batch(PROMPTS[:1], torch.zeros(1, 1, 2, dtype=torch.long), torch.zeros(1, 1, 2, dtype=torch.bool))
    assert not is_cut(nothing, [tiny.EOS]).any()


def test_the_longest_response_sets_the_width():
    s = drawn(tiny.llama(), Sampling(max_new_tokens=40), prompts=PROMPTS[:1], responses=2)
    assert s.mask.shape[-1] == s.mask.sum(-1).max() < 40


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 4, 6, 13, 64])
@pytest.mark.parametrize("compact", [0.0, 0.75, 1.0])
def test_chunks_and_dropped_rows_change_nothing(name, rows, compact, monkeypatch):
    model, plan = MODELS[name](), Sampling(max_new_tokens=12, temperature=0.9)
    whole = drawn(model, plan)
    monkeypatch.setattr(decoding, "COMPACT", compact)
    same(whole, drawn(model, replace(plan, rows=rows)))


def test_a_prompt_draws_the_same_alone_as_among_others():
    model, plan = tiny.llama(), Sampling(max_new_tokens=12)
    together = drawn(model, plan)
    first = drawn(model, plan, prompts=PROMPTS[:1])  # a stream's first numbers do not depend on how many follow
    width = first.mask.shape[-1]
    same(Samples(*(x[:1, :, :width] for x in vars(together).values())), first)


def test_same_seed_same_bytes_and_another_seed_other_responses():
    model, plan = tiny.llama(), Sampling(max_new_tokens=8)
    one, two, other = drawn(model, plan), drawn(model, plan), drawn(model, plan, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))
    assert one.responses.shape != other.responses.shape or not torch.equal(one.responses, other.responses)


def same(a: Samples, b: Samples) -> None:
    assert torch.equal(a.responses, b.responses) and torch.equal(a.mask, b.mask)
    assert torch.allclose(a.logp_behaviour, b.logp_behaviour, atol=1e-9, rtol=0)
    assert torch.allclose(a.logp_proximal, b.logp_proximal, atol=1e-9, rtol=0)


def test_zero_temperature_takes_the_most_likely_token():
    model = tiny.llama()
    s = drawn(model, Sampling(max_new_tokens=6, temperature=0.0), responses=2)
    for p, prompt in enumerate(PROMPTS):
        response = s.responses[p, 0][s.mask[p, 0]]
        assert torch.equal(response, naive_logits(model, prompt, response).argmax(-1))
    assert torch.equal(s.responses[:, 0], s.responses[:, 1])
    assert (s.logp_behaviour == 0).all() and (s.logp_proximal[s.mask] < 0).all()


@pytest.mark.parametrize("plan", [Sampling(max_new_tokens=2), Sampling(max_new_tokens=2, temperature=1.4, top_p=0.9)])
def test_frequencies_match_the_enumerated_distribution(plan):
    model, count = tiny.llama(vocabulary=5), 6000
    prompt = torch.tensor([2, 3])
    s = drawn(model, replace(plan, rows=3000), prompts=[prompt], responses=count)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for a in range(5):
        first, second = (sampling_distribution(row, plan) for row in naive_logits(model, prompt, torch.tensor([a, 0])))
        expected[a] = first[a] * second
        if a == tiny.EOS:
            expected[a] = first[a] * torch.eye(5, dtype=torch.float64)[0]  # nothing follows EOS
    seen = torch.bincount(s.responses[0] @ torch.tensor([5, 1]), minlength=25).double()
    possible = expected.flatten() > 0
    assert seen[~possible].sum() == 0
    likely = possible & (expected.flatten() * count > 5)
    rare = count - (expected.flatten()[likely] * count).sum()
    observed = torch.cat([seen[likely], seen[~likely].sum()[None]])
    wanted = torch.cat([expected.flatten()[likely] * count, rare[None]])
    keep = wanted > 1e-9
    assert chisquare(observed[keep], wanted[keep]).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cdf_is_inverted_at_every_point(dtype):
    """Over a large vocabulary with gaps, each uniform number hits the token whose interval of the CDF contains it."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(1000, generator=generator, dtype=dtype) * (torch.rand(1000, generator=generator) < 0.3)
    uniform = torch.rand(2000, generator=generator, dtype=torch.float64)
    uniform[:3] = torch.tensor([0.0, 1 - 2**-53, 0.5])
    cdf = (p.double() / p.double().sum()).cumsum(0)
    token, behaviour, _ = draw(p.log().expand(2000, -1), uniform, Sampling())
    low = torch.cat([torch.zeros(1, dtype=torch.float64), cdf])[token]
    assert (p[token] > 0).all()
    assert (low <= uniform + 1e-6).all() and (uniform <= cdf[token] + 1e-6).all()
    assert torch.allclose(behaviour, (p / p.sum()).log()[token], atol=1e-5)


def test_truncation_of_a_large_vocabulary_needs_no_whole_sort():
    """Rows whose nucleus is small and rows whose nucleus is nearly everything."""
    generator = torch.Generator().manual_seed(1)
    logits = (
        torch.randn(6, 3000, generator=generator, dtype=torch.float64) * torch.tensor([0.0, 0.1, 1, 3, 8, 20])[:, None]
    )
    for plan in (Sampling(top_p=0.9), Sampling(top_p=0.3), Sampling(top_k=40), Sampling(top_k=700, top_p=0.95)):
        kept = truncate((logits - logits.amax(-1, keepdim=True)).exp(), plan.top_k, plan.top_p)
        for row, weights in zip(logits[1:], kept[1:], strict=True):  # the first row is uniform: ties
            assert torch.allclose(weights / weights.sum(), sampling_distribution(row, plan), atol=1e-12)


def test_ties_at_the_edge_are_kept():
    weights = torch.tensor([[4.0, 2.0, 2.0, 1.0]])
    assert truncate(weights, 2, 1.0).tolist() == [[4.0, 2.0, 2.0, 0.0]]
    assert truncate(weights, 0, 0.5).tolist() == [[4.0, 2.0, 2.0, 0.0]]
    assert truncate(weights, 0, 4 / 9).tolist() == [[4.0, 0.0, 0.0, 0.0]]
    assert torch.equal(truncate(weights, 9, 1.0), weights)


def test_float32_matches_a_fresh_forward():
    model = tiny.llama(dtype=torch.float32)
    s = drawn(model, Sampling(max_new_tokens=9))
    assert s.logp_proximal.dtype == torch.float32
    for p, prompt in enumerate(PROMPTS):
        response = s.responses[p, 0][s.mask[p, 0]]
        fresh = naive_logits(model, prompt, response).log_softmax(-1)[torch.arange(len(response)), response]
        assert (s.logp_proximal[p, 0, : len(response)] - fresh).abs().max() <= 1e-4


def test_poll_is_called_before_every_token():
    calls = []
    drawn(tiny.llama(), Sampling(max_new_tokens=5), prompts=PROMPTS[:1], poll=lambda: calls.append(1))
    assert len(calls) == 5

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(tiny.llama(), Sampling(max_new_tokens=5), poll=stop)


def test_each_prompt_is_read_once():
    """The prefill has one row per prompt, and every later step one token per row."""
    model, shapes = tiny.llama(), []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, ids: shapes.append(tuple(ids[0].shape)))
    drawn(model, Sampling(max_new_tokens=4))
    prefill = shapes.index((5, 7))  # one spare column; what stands before is the check of the architecture
    assert shapes[prefill + 1] == (30, 1)
    assert len(shapes) == prefill + 4 and all(width == 1 for _, width in shapes[prefill + 1 :])


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"rows": 0}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_frozen_weights_are_cast_once_and_stay_frozen():
    def casts(model) -> int:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            samples.append(drawn(model, Sampling(max_new_tokens=9), autocast=True))
        return sum(event.name == "aten::_to_copy" for event in seen.events())

    samples: list[Samples] = []
    model = tiny.llama(dtype=torch.float32)
    trained = casts(model)
    assert casts(model.requires_grad_(False)) == trained
    assert not any(p.requires_grad for p in model.parameters())
    assert torch.equal(samples[0].responses, samples[1].responses)
    assert torch.equal(samples[0].logp_behaviour, samples[1].logp_behaviour)
