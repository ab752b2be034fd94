"""The stacked GPT against transformers' GPT-2, against enumeration, and against itself alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from prefloop.core.batch import Batch
from prefloop.core.protocols import Policy
from prefloop.core.streams import Stream
from prefloop.policies import gpt
from prefloop.policies.gpt import GPT, Attention, Gelu
from toys import F64

F32 = torch.float32


def stream(seeds: list[int]) -> Stream:
    return Stream("sampling", seeds, True)


def scattered(seeds: list[int], scale: float = 0.4, dtype: torch.dtype = F64, **sizes: int) -> GPT:
    """A policy whose every parameter, gains and value head included, is far from its start and from its neighbours."""
    policy = GPT.create(seeds, dtype=dtype, **sizes)
    with torch.no_grad():
        for i, weight in enumerate(policy.parameters()):
            for run, seed in enumerate(seeds):
                g = torch.Generator().manual_seed(1000 * seed + i)
                weight[run] += scale * torch.randn(weight.shape[1:], generator=g, dtype=F64).to(dtype)
    return policy


def tiny(seeds: list[int], **more: int) -> GPT:
    return scattered(seeds, vocabulary=3, tokens=3, layers=2, heads=2, width=4, **more)


def random_batch(policy: GPT, prompts: int = 4, responses: int = 3, seed: int = 0) -> Batch:
    g, vocabulary = torch.Generator().manual_seed(seed), policy.weights["token"].shape[1]
    shape = (policy.runs, prompts)
    tokens = torch.randint(vocabulary, (*shape, responses, policy.tokens), generator=g)
    return Batch(torch.randint(vocabulary, shape, generator=g), tokens, torch.ones_like(tokens, dtype=torch.bool))


def gradients(policy: GPT, loss: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, policy.parameters(), allow_unused=True)
    return {k: torch.zeros_like(w) if g is None else g for (k, w), g in zip(policy.weights.items(), found, strict=True)}


def gpt2(policy: GPT, run: int = 0) -> tuple[GPT2LMHeadModel, dict[str, torch.nn.Parameter]]:
    """The same network in transformers, and which of its parameters is which of ours (ours by name)."""
    width = policy.weights["place"].shape[-1]
    config = GPT2Config(
        vocab_size=policy.weights["token"].shape[1],
        n_positions=policy.tokens + 1,
        n_embd=width,
        n_layer=policy.layers,
        n_head=policy.heads,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config).to(policy.weights["place"].dtype)
    body = model.transformer
    ours = {"token": body.wte.weight, "place": body.wpe.weight, "head.weight": model.lm_head.weight}
    ours |= {"norm.gain": body.ln_f.weight, "norm.bias": body.ln_f.bias}
    for i, block in enumerate(body.h):
        dense = {"qkv": block.attn.c_attn, "proj": block.attn.c_proj, "up": block.mlp.c_fc, "down": block.mlp.c_proj}
        for name, part in dense.items():
            ours |= {f"block{i}.{name}.weight": part.weight, f"block{i}.{name}.bias": part.bias}
        for name, part in {"norm1": block.ln_1, "norm2": block.ln_2}.items():
            ours |= {f"block{i}.{name}.gain": part.weight, f"block{i}.{name}.bias": part.bias}
    with torch.no_grad():
        for name, theirs in ours.items():
            weight = policy.weights[name][run]
            theirs.copy_(weight.T if name == "head.weight" else weight)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in ours.values())
    return model, ours


def enumerated(policy: GPT) -> tuple[Tensor, Tensor]:
    """All V^T responses to every prompt: [S, V, V^T, T] and the log-probs of each [S, V, V^T]."""
    vocabulary = policy.weights["token"].shape[1]
    every = torch.tensor(list(itertools.product(range(vocabulary), repeat=policy.tokens)))
    responses = every.expand(policy.runs, vocabulary, *every.shape)
    prompts = torch.arange(vocabulary).expand(policy.runs, vocabulary)
    batch = Batch(prompts, responses, torch.ones_like(responses, dtype=torch.bool))
    return responses, policy.evaluate(batch).logp.detach().sum(-1)


def test_the_published_size() -> None:
    policy = GPT.create([0, 1])
    sizes = {name: weight[0].numel() for name, weight in policy.weights.items()}
    assert sum(n for name, n in sizes.items() if not name.startswith("value")) == 94_992
    assert sizes["value.weight"] + sizes["value.bias"] == 49
    assert policy.runs == 2 and policy.layers == 3 and policy.tokens == 9 and isinstance(policy, Policy)
    with pytest.raises(ValueError, match="5 heads"):
        GPT.create([0], heads=5)


def test_the_start_is_that_of_gpt2() -> None:
    policy = GPT.create([3], vocabulary=500, width=96, dtype=F64)
    for name, weight in policy.weights.items():
        if name.startswith("value") or name.endswith("bias"):
            assert not weight.any()
        elif name.endswith("gain"):
            assert (weight == 1).all()
        else:
            std = 0.02 / math.sqrt(6) if "proj" in name or "down" in name else 0.02
            n = weight.numel()
            assert abs(float(weight.detach().std()) / std - 1) < 4.5 / math.sqrt(2 * n), name
            assert abs(float(weight.detach().mean())) < 4.5 * std / math.sqrt(n), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (F32, 1e-5)])
def test_logits_and_gradients_are_those_of_gpt2(dtype: torch.dtype, tolerance: float) -> None:
    policy = scattered([1, 2], scale=0.1, dtype=dtype)
    batch = random_batch(policy)
    ids = torch.cat([batch.prompts[..., None, None].expand(2, 4, 3, 1), batch.responses], -1)
    got = policy.next_logp(batch.prompts, batch.responses)
    weights = torch.linspace(-1, 1, batch.responses[0].numel(), dtype=dtype).view(batch.responses.shape[1:])
    ours = gradients(policy, (policy.evaluate(batch).logp * weights).sum())
    for run in range(2):
        model, names = gpt2(policy, run)
        full = model(ids[run].flatten(0, 1)).logits[:, :-1].log_softmax(-1).view(4, 3, 9, 100)
        assert torch.allclose(got[run], full, atol=tolerance, rtol=tolerance)
        (full.gather(-1, batch.responses[run][..., None]).squeeze(-1) * weights).sum().backward()
        for name, theirs in names.items():
            assert theirs.grad is not None
            want = theirs.grad.T if name == "head.weight" else theirs.grad
            assert torch.allclose(ours[name][run], want, atol=tolerance * float(want.abs().max()), rtol=tolerance), name


def test_hidden_states_are_those_of_gpt2_up_to_the_last_place() -> None:
    policy = scattered([4], vocabulary=7, tokens=4, layers=2, heads=3, width=6)
    ids = torch.randint(7, (1, 5, 5), generator=torch.Generator().manual_seed(1))
    model, _ = gpt2(policy)
    want = model.transformer(ids[0]).last_hidden_state
    assert torch.allclose(policy.hidden(ids)[0], want, atol=1e-10)
    assert torch.allclose(policy.logits(policy.hidden(ids))[0], model.lm_head(want), atol=1e-10)


def test_all_responses_have_probability_one_together() -> None:
    _, logp = enumerated(tiny([5, 6]))
    assert logp.shape == (2, 3, 27) and logp.std() > 0.5
    assert torch.allclose(logp.exp().sum(-1), torch.ones(2, 3, dtype=F64), atol=1e-12)


def test_a_uniform_policy_has_entropy_t_ln_v() -> None:
    policy = scattered([1])
    policy.weights["head.weight"].data.zero_()
    seen = policy.evaluate(random_batch(policy), entropy=True)
    assert seen.entropy is not None
    assert torch.allclose(seen.entropy.sum(-1), torch.full((1, 4, 3), 9 * math.log(100), dtype=F64), atol=1e-11)
    assert torch.allclose(seen.logp, torch.tensor(-math.log(100), dtype=F64), atol=1e-12)


def test_entropy_is_that_of_every_next_token() -> None:
    policy = tiny([1, 2])
    batch = random_batch(policy)
    seen = policy.evaluate(batch, entropy=True)
    p = policy.next_logp(batch.prompts, batch.responses).exp()
    assert seen.entropy is not None and torch.allclose(seen.entropy, torch.special.entr(p).sum(-1), atol=1e-13)
    assert policy.evaluate(batch).entropy is None and policy.evaluate(batch).values is None


def test_next_token_log_probs_hold_the_chosen_ones() -> None:
    policy = scattered([1, 2])
    batch = random_batch(policy)
    full = policy.next_logp(batch.prompts, batch.responses).detach()
    want = torch.tensor([[full[s, 1, 2, t, batch.responses[s, 1, 2, t]] for t in range(9)] for s in range(2)])
    assert full.shape == (2, 4, 3, 9, 100)
    assert torch.allclose(policy.evaluate(batch).logp[:, 1, 2], want, atol=1e-13)


def test_masked_tokens_have_log_prob_zero_and_no_gradient() -> None:
    policy = tiny([1])
    batch = random_batch(policy)
    mask = batch.mask.clone()
    mask[0, 1, 2, 1:] = False
    seen = policy.evaluate(Batch(batch.prompts, batch.responses, mask), entropy=True)
    whole = policy.evaluate(batch)
    assert torch.equal(seen.logp, torch.where(mask, whole.logp, 0.0))
    assert seen.entropy is not None and not seen.entropy[~mask].any() and seen.entropy[mask].all()
    cut = gradients(policy, seen.logp.sum())
    left_out = gradients(policy, whole.logp[mask].sum())
    assert all(torch.allclose(cut[k], left_out[k], atol=1e-12) for k in cut)


def test_a_later_token_never_changes_an_earlier_place() -> None:
    policy = scattered([1])
    batch = random_batch(policy)
    before = policy.next_logp(batch.prompts, batch.responses).detach()
    for t in range(9):
        changed = batch.responses.clone()
        changed[..., t] = (changed[..., t] + 1) % 100
        after = policy.next_logp(batch.prompts, changed).detach()
        assert torch.equal(before[..., : t + 1, :], after[..., : t + 1, :])
        assert t == 8 or ((before[..., t + 1 :, :] - after[..., t + 1 :, :]).abs().amax(-1) > 1e-4).all()
    other = policy.next_logp((batch.prompts + 1) % 100, batch.responses)
    assert ((before - other).abs().amax(-1) > 1e-4).all()


def test_samples_follow_the_distribution() -> None:
    policy, draws = tiny([5, 6]), 20_000
    responses, logp = enumerated(policy)
    drawn = policy.draw(torch.arange(3).expand(2, 3), draws, stream([1, 2])).responses
    place = (drawn * torch.tensor([9, 3, 1])).sum(-1)
    assert (responses[0, 0] * torch.tensor([9, 3, 1])).sum(-1).tolist() == list(range(27))
    want = logp.exp()
    for s, x in itertools.product(range(2), range(3)):
        share = torch.bincount(place[s, x], minlength=27) / draws
        chi = float((draws * (share - want[s, x]) ** 2 / want[s, x]).sum())
        assert chi < 26 + 4.5 * math.sqrt(2 * 26)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (F32, 1e-5)])
def test_samples_carry_their_own_log_probs(dtype: torch.dtype, tolerance: float) -> None:
    policy = scattered([1, 2], scale=0.1, dtype=dtype)
    drawn = policy.draw(torch.tensor([[7, 99, 7], [0, 3, 5]]), 5, stream([1, 2]))
    assert drawn.logp_behaviour is not None and drawn.logp_proximal is not None
    assert not drawn.logp_behaviour.requires_grad and drawn.logp_behaviour.dtype == dtype
    want = policy.evaluate(drawn).logp.detach()
    assert want.std() > 0.3
    assert torch.allclose(drawn.logp_behaviour, want, atol=tolerance, rtol=tolerance)
    assert torch.equal(drawn.logp_behaviour, drawn.logp_proximal)
    assert drawn.logp_behaviour.data_ptr() != drawn.logp_proximal.data_ptr()
    assert drawn.mask.all() and drawn.responses.shape == (2, 3, 5, 9)


def test_sampling_polls_at_every_token_and_draws_once() -> None:
    calls: list[int] = []
    policy, rng, same = tiny([1]), stream([0]), stream([0])
    policy.draw(torch.tensor([[0, 2]]), 4, rng, lambda: calls.append(1))
    same.rand(2, 4, 3, dtype=F64)
    assert len(calls) == 3 and torch.equal(rng.state(), same.state())


def test_stacked_runs_equal_each_alone() -> None:
    both = scattered([1, 2])
    prompts = torch.tensor([[0, 50, 99], [3, 3, 4]])
    drawn = both.draw(prompts, 4, stream([8, 9]))
    seen = both.evaluate(drawn, entropy=True, values=True)
    assert seen.values is not None and seen.entropy is not None
    grads = gradients(both, seen.logp.sum() + seen.values.square().sum() + seen.entropy.sum())
    for run in range(2):
        alone = both.take(torch.tensor([run]))
        own = alone.draw(prompts[run : run + 1], 4, stream([8 + run]))
        mine = alone.evaluate(own, entropy=True, values=True)
        assert mine.values is not None and mine.entropy is not None
        assert torch.equal(drawn.responses[run], own.responses[0])
        assert torch.allclose(seen.logp[run], mine.logp[0], atol=1e-12)
        assert torch.allclose(seen.values[run], mine.values[0], atol=1e-12)
        single = gradients(alone, mine.logp.sum() + mine.values.square().sum() + mine.entropy.sum())
        for name, grad in single.items():
            assert torch.allclose(grads[name][run], grad[0], atol=1e-10, rtol=1e-10), name


def test_the_value_head_starts_at_zero_and_reads_the_state_before_each_token() -> None:
    fresh = GPT.create([1, 2], dtype=F64)
    batch = random_batch(fresh)
    seen = fresh.evaluate(batch, values=True)
    assert seen.values is not None and seen.values.shape == batch.mask.shape and not seen.values.any()
    grads = gradients(fresh, (seen.values - 1.0).square().sum())
    assert all(grads[k].any() == k.startswith("value") for k in grads)
    policy = scattered([1])
    batch = random_batch(policy)
    ids = torch.cat([batch.prompts[..., None, None].expand(1, 4, 3, 1), batch.responses], -1)
    model, _ = gpt2(policy)
    states = model.transformer(ids[0].flatten(0, 1)).last_hidden_state[:, :-1]
    want = states @ policy.weights["value.weight"][0] + policy.weights["value.bias"][0]
    values = policy.evaluate(batch, values=True).values
    assert values is not None and torch.allclose(values.flatten(), want.flatten(), atol=1e-10)


def test_gelu_is_the_tanh_form() -> None:
    x = torch.linspace(-9, 9, 301, dtype=F64).requires_grad_()
    want = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert torch.allclose(Gelu.apply(x), want, atol=1e-14)
    slope = torch.autograd.grad(want.sum(), x)[0]
    assert torch.allclose(torch.autograd.grad(Gelu.apply(x).sum(), x)[0], slope, atol=1e-13)
    far = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4]).requires_grad_()
    assert Gelu.apply(far).tolist() == [0.0, 0.0, 0.0, 50.0, 1e4]
    assert torch.autograd.grad(Gelu.apply(far).sum(), far)[0].tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("dropped", [False, True])
def test_attention_is_the_published_formula(dropped: bool) -> None:
    g = torch.Generator().manual_seed(3)
    qkv = torch.randn(
        2, 3 * 4, 3 * 6, generator=g, dtype=F64
    ).requires_grad_()  # 2 runs, 3 sequences of 4, 3 heads of 2
    mask = torch.full((4, 4), -torch.inf, dtype=F64).triu(1)
    keep = torch.rand(2 * 3 * 3, 4, 4, generator=g, dtype=F64) if dropped else None
    got, want = Attention.apply(qkv, mask, keep, 3), torch.zeros(2, 12, 6, dtype=F64)
    for run, sequence, head in itertools.product(range(2), range(3), range(3)):
        rows = qkv[run, 4 * sequence : 4 * sequence + 4]
        q, k, v = (rows[:, 6 * i + 2 * head : 6 * i + 2 * head + 2] for i in range(3))
        weights = (q @ k.T / math.sqrt(2) + mask).softmax(-1)
        weights = weights * keep[(run * 3 + sequence) * 3 + head] if keep is not None else weights
        want[run, 4 * sequence : 4 * sequence + 4, 2 * head : 2 * head + 2] = weights @ v
    assert torch.allclose(got, want, atol=1e-13)
    along = torch.randn(got.shape, generator=g, dtype=F64)
    gradient, theirs = (torch.autograd.grad((x * along).sum(), qkv)[0] for x in (got, want))
    assert torch.allclose(gradient, theirs, atol=1e-13)


def test_dropout_comes_in_where_gpt2_has_it() -> None:
    policy = scattered([1, 2], vocabulary=5, tokens=4, layers=2, heads=2, width=6)
    batch, shapes = random_batch(policy), []

    def seen(x: Tensor) -> Tensor:
        shapes.append(x.numel() // (2 * 4 * 3 * 4))
        return x

    plain = policy.evaluate(batch).logp
    assert torch.allclose(policy.evaluate(batch, drop=seen).logp, plain, atol=1e-12)
    assert shapes == [6, *[2 * 4, 6, 6] * 2]  # embeddings; attention weights, projection, MLP in each layer
    nothing = policy.evaluate(batch, drop=torch.zeros_like).logp  # only the last norm's bias is left
    only = (policy.weights["norm.bias"][:, None] @ policy.weights["head.weight"]).log_softmax(-1).squeeze(1)
    want = only.gather(-1, batch.responses.flatten(1)).view_as(nothing)
    assert torch.allclose(nothing, want, atol=1e-12)


def test_the_reference_is_frozen_and_the_state_comes_back() -> None:
    policy = tiny([1, 2])
    batch = random_batch(policy)
    reference, saved = policy.reference(), policy.state()
    before = policy.evaluate(batch).logp.detach()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.linspace(-1, 1, p.numel(), dtype=F64).view_as(p))
    theirs = reference.evaluate(batch).logp
    assert torch.equal(theirs, before) and not theirs.requires_grad
    assert not torch.allclose(policy.evaluate(batch).logp, before)
    policy.restore(saved)
    assert torch.equal(policy.evaluate(batch).logp, before)
    assert all(saved[k].data_ptr() != w.data_ptr() for k, w in policy.weights.items())


# ------------------------------------------------------------------------------------------ responses that end alone


def ending(seeds: list[int], tokens: int = 4, dtype: torch.dtype = F64) -> GPT:
    """Two words and the end of a response, token 0; two prompts, which stand for nothing that can be said."""
    sizes = {"vocabulary": 3, "prompts": 2, "tokens": tokens, "layers": 2, "heads": 2, "width": 4, "end": 0}
    return scattered(seeds, dtype=dtype, **sizes)


def every_response(tokens: int) -> tuple[Tensor, Tensor]:
    """All of them: those that end before the limit or at it, and those that it cuts; [N, T] each with its mask."""
    rows = []
    for n in range(1, tokens + 1):
        for body in itertools.product((1, 2), repeat=n - 1):
            rows += [[*body, 0]] + ([[*body, 1], [*body, 2]] if n == tokens else [])
    ids = torch.tensor([row + [0] * (tokens - len(row)) for row in rows])
    return ids, torch.tensor([[t < len(row) for t in range(tokens)] for row in rows])


def all_responses(policy: GPT) -> Batch:
    ids, mask = (x.expand(policy.runs, 2, -1, -1) for x in every_response(policy.tokens))
    return Batch(torch.tensor([3, 4]).expand(policy.runs, 2), ids, mask)


def test_responses_of_any_length_have_probability_one_together() -> None:
    policy = ending([0, 1])
    total = policy.evaluate(all_responses(policy)).logp.sum(-1).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_no_prompt_is_ever_said() -> None:
    policy = ending([0])
    assert policy.weights["token"].shape[1] == 5 and policy.weights["head.weight"].shape[-1] == 3
    drawn = policy.draw(torch.tensor([[3, 4]]), 200, stream([0]))
    assert int(drawn.responses.max()) <= 2


def test_a_sample_ends_at_its_end_and_carries_its_log_probs() -> None:
    policy = ending([0, 1])
    drawn = policy.draw(torch.tensor([3, 4]).expand(2, 2), 50, stream([0, 1]))
    for ids, mask in zip(drawn.responses.flatten(0, 2), drawn.mask.flatten(0, 2), strict=True):
        n = int(mask.sum())
        assert mask[:n].all() and not mask[n:].any() and not ids[n:].any()
        assert 0 not in ids[: n - 1] and (ids[n - 1] == 0 or n == policy.tokens)
    torch.testing.assert_close(policy.evaluate(drawn).logp, drawn.logp_behaviour, rtol=0, atol=1e-12)
    assert drawn.logp_behaviour is not None and not drawn.logp_behaviour[~drawn.mask].any()


def test_samples_of_any_length_follow_the_distribution() -> None:
    """Chi-square against enumeration, 8,000 samples; the largest of 31 cells' z-scores stays below 4.5."""
    policy, n = ending([3]), 8000
    whole = all_responses(policy)
    expected = n * policy.evaluate(whole).logp.sum(-1).exp()[0, 0]
    drawn = policy.draw(torch.tensor([[3]]), n, stream([7]))
    ids = torch.nn.functional.pad(drawn.responses[0, 0], (0, policy.tokens - drawn.responses.shape[-1]))
    same = (ids[:, None] == whole.responses[0, 0]).all(-1)
    same &= drawn.lengths[0, 0][:, None] == whole.lengths[0, 0]
    found = same.double().sum(0)
    assert int(found.sum()) == n
    assert ((found - expected) / expected.clamp(min=1e-9).sqrt())[expected > 1].abs().max() < 4.5


def test_cut_is_what_met_the_limit_without_an_end() -> None:
    policy = ending([0])
    ids, mask = every_response(policy.tokens)
    cut = policy.is_cut(all_responses(policy))[0, 0]
    assert cut.tolist() == [bool(m.all()) and int(row[-1]) != 0 for row, m in zip(ids, mask, strict=True)]
    assert int(cut.sum()) == 16


def test_padding_changes_nothing_and_values_are_masked() -> None:
    policy = ending([0, 1])
    batch = all_responses(policy)
    short = Batch(batch.prompts, batch.responses[:, :, :3, :2], batch.mask[:, :, :3, :2])
    long = Batch(batch.prompts, batch.responses[:, :, :3], batch.mask[:, :, :3])
    for one, other in (
        (policy.evaluate(short, entropy=True, values=True), policy.evaluate(long, entropy=True, values=True)),
    ):
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True):
            torch.testing.assert_close(a, b[..., :2], rtol=0, atol=1e-12)
            assert not b[..., 2:].any()


@pytest.mark.parametrize("runs", [[1], [1, 2]])
def test_ended_responses_leave_a_draw_without_a_trace(runs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, masks and log-probs are those of a draw that carries all responses to the end."""
    policy = scattered(runs, vocabulary=4, prompts=6, end=0, tokens=8, layers=2, heads=2, width=4)
    prompts = torch.randint(4, 10, (len(runs), 30), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(gpt, "FEW", 10**9)
    whole = policy.draw(prompts, 5, stream(runs))
    monkeypatch.setattr(gpt, "FEW", 1)
    kept: list[int] = []
    keep = gpt.Cache.keep
    monkeypatch.setattr(gpt.Cache, "keep", lambda self, rows, t: (kept.append(rows.shape[1]), keep(self, rows, t)))
    found = policy.draw(prompts, 5, stream(runs))
    assert kept and kept == sorted(kept, reverse=True) and kept[0] <= 75
    assert torch.equal(found.responses, whole.responses) and torch.equal(found.mask, whole.mask)
    assert found.logp_behaviour is not None and whole.logp_behaviour is not None
    torch.testing.assert_close(found.logp_behaviour, whole.logp_behaviour, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.logp_behaviour, policy.evaluate(found).logp.detach(), rtol=0, atol=1e-12)
