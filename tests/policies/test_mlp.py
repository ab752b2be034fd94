"""The stacked MLP against torch.nn, and what all stacked policies share: start, inverse CDF, copies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from prefloop.core.batch import Batch
from prefloop.core.protocols import Enumerable, Policy
from prefloop.core.streams import Stream
from prefloop.policies.mlp import MLP
from prefloop.policies.stacked import Init, initialise, inverse_cdf, layer_norm
from toys import F64

SMALL = {"context": 6, "arms": 4, "hidden": (5, 7)}
LINEAR = {"context": 6, "arms": 4, "hidden": ()}


def stream(seeds: list[int]) -> Stream:
    return Stream("sampling", seeds, True)


def scattered(seeds: list[int], scale: float = 0.5, dtype: torch.dtype = F64, **sizes: object) -> MLP:
    """A policy whose every parameter is far from its start; run s depends on seed s only."""
    policy = MLP.create(seeds, dtype=dtype, **sizes)  # type: ignore[arg-type]
    with torch.no_grad():
        for i, weight in enumerate(policy.parameters()):
            for run, seed in enumerate(seeds):
                g = torch.Generator().manual_seed(1000 * seed + i)
                weight[run] += scale * torch.randn(weight.shape[1:], generator=g, dtype=F64).to(dtype)
    return policy


def contexts(runs: int, prompts: int, width: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.rand(runs, prompts, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_batch(policy: MLP, prompts: int = 5, responses: int = 3, seed: int = 0) -> Batch:
    context, arms = policy.weights["layer0.weight"].shape[1], policy.weights[f"layer{policy.layers - 1}.bias"].shape[1]
    g, shape = torch.Generator().manual_seed(seed + 1), (policy.runs, prompts, responses, 1)
    x = contexts(policy.runs, prompts, context, seed, policy.parameters()[0].dtype)
    return Batch(x, torch.randint(arms, shape, generator=g), torch.ones(shape, dtype=torch.bool))


def gradients(policy: MLP, loss: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, policy.parameters(), allow_unused=True)
    return {k: torch.zeros_like(w) if g is None else g for (k, w), g in zip(policy.weights.items(), found, strict=True)}


def plain(policy: MLP, run: int) -> tuple[nn.Sequential, dict[str, nn.Parameter]]:
    """The same network of torch.nn, and its parameters under our names (their weights are transposed)."""
    modules: list[nn.Module] = []
    names: dict[str, nn.Parameter] = {}
    for i in range(policy.layers):
        fan_in, fan_out = policy.weights[f"layer{i}.weight"].shape[1:]
        dense = nn.Linear(fan_in, fan_out)
        names |= {f"layer{i}.weight": dense.weight, f"layer{i}.bias": dense.bias}
        modules.append(dense)
        if i == 0 and policy.layers > 1:
            norm = nn.LayerNorm(fan_out)
            names |= {"norm.gain": norm.weight, "norm.bias": norm.bias}
            modules.append(norm)
        if i < policy.layers - 1:
            modules.append(nn.ReLU())
    network = nn.Sequential(*modules).to(policy.parameters()[0].dtype)
    with torch.no_grad():
        for name, theirs in names.items():
            ours = policy.weights[name][run]
            theirs.copy_(ours.T if theirs.ndim == 2 else ours)
    return network, names


def test_the_published_size_and_start() -> None:
    policy = MLP.create([0, 1])
    sizes = {name: weight[0].numel() for name, weight in policy.weights.items()}
    assert sum(n for name, n in sizes.items() if not name.startswith("value")) == 109_698
    assert sizes["value.weight"] + sizes["value.bias"] == 257
    assert policy.runs == 2 and policy.layers == 4
    assert isinstance(policy, Policy) and isinstance(policy, Enumerable)
    for name, weight in policy.weights.items():
        if name.startswith("layer") and name.endswith("weight"):
            std = 0.01 * math.sqrt(2 / sum(weight.shape[1:]))  # Glorot & Bengio 2010, gain 0.01
            assert abs(float(weight.detach().std()) / std - 1) < 4.5 / math.sqrt(2 * weight.numel()), name
        else:
            assert (weight == (1.0 if name == "norm.gain" else 0.0)).all(), name


@pytest.mark.parametrize("sizes", [SMALL, LINEAR, {}], ids=["small", "linear", "published"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (torch.float32, 1e-5)])
def test_values_and_gradients_are_those_of_torch_nn(
    sizes: dict[str, object], dtype: torch.dtype, tolerance: float
) -> None:
    policy = scattered([1, 2], 0.5 if sizes else 0.1, dtype, **sizes)
    batch = random_batch(policy)
    weights = torch.linspace(-1, 1, 15, dtype=dtype).view(5, 3)
    got = policy.distribution(batch.prompts)
    ours = gradients(policy, (policy.evaluate(batch).logp.squeeze(-1) * weights).sum())
    for run in range(2):
        network, names = plain(policy, run)
        full = network(batch.prompts[run]).log_softmax(-1)
        assert torch.allclose(got[run], full, atol=tolerance, rtol=tolerance)
        (full.gather(-1, batch.responses[run, :, :, 0]) * weights).sum().backward()
        for name, theirs in names.items():
            assert theirs.grad is not None
            want = theirs.grad.T if theirs.ndim == 2 else theirs.grad
            assert torch.allclose(ours[name][run], want, atol=tolerance * float(want.abs().max()), rtol=tolerance), name


def test_the_linear_policy_is_one_matrix() -> None:
    policy = scattered([1, 2], **LINEAR)
    assert list(policy.weights) == ["layer0.weight", "layer0.bias", "value.weight", "value.bias"]
    x = contexts(2, 3, 6)
    w, b = policy.weights["layer0.weight"], policy.weights["layer0.bias"]
    want = (torch.einsum("spi,sio->spo", x, w) + b[:, None]).log_softmax(-1)
    assert torch.allclose(policy.distribution(x), want, atol=1e-13)


def test_arms_have_probability_one_together_and_entropy_is_theirs() -> None:
    policy = scattered([1, 2], **SMALL)
    batch = random_batch(policy)
    p = policy.distribution(batch.prompts).exp()
    assert torch.allclose(p.sum(-1), torch.ones(2, 5, dtype=F64), atol=1e-13) and p.std() > 0.1
    seen = policy.evaluate(batch, entropy=True)
    assert seen.entropy is not None
    want = torch.special.entr(p).sum(-1)[..., None, None].expand(2, 5, 3, 1)
    assert torch.allclose(seen.entropy, want, atol=1e-13)
    uniform = MLP.create([0], dtype=F64, arms=7, hidden=())
    uniform.weights["layer0.weight"].data.zero_()
    spread = uniform.evaluate(random_batch(uniform), entropy=True).entropy
    assert spread is not None and torch.allclose(spread, torch.full_like(spread, math.log(7)), atol=1e-14)


def test_masked_arms_have_log_prob_zero() -> None:
    policy = scattered([1], **SMALL)
    batch = random_batch(policy)
    mask = batch.mask.clone()
    mask[0, 2, 1] = False
    logp = policy.evaluate(Batch(batch.prompts, batch.responses, mask)).logp
    assert torch.equal(logp, torch.where(mask, policy.evaluate(batch).logp, 0.0)) and logp[0, 2, 1] == 0


def test_the_value_head_is_linear_in_the_last_hidden_layer() -> None:
    fresh = MLP.create([1, 2], dtype=F64)
    batch = random_batch(fresh)
    start = fresh.evaluate(batch, values=True).values
    assert start is not None and start.shape == batch.mask.shape and not start.any()
    assert fresh.evaluate(batch).values is None
    policy = scattered([1, 2], **SMALL)
    batch = random_batch(policy)
    values = policy.evaluate(batch, values=True).values
    for run in range(2):
        network, _ = plain(policy, run)
        state = network[:-1](batch.prompts[run])
        want = state @ policy.weights["value.weight"][run] + policy.weights["value.bias"][run]
        assert values is not None and torch.allclose(values[run, :, :, 0], want.expand(5, 3), atol=1e-13)


def test_exact_kl_is_the_sum_by_hand() -> None:
    policy = scattered([1, 2], **SMALL)
    batch = random_batch(policy)
    with pytest.raises(ValueError, match="reference"):
        policy.exact_kl(batch)
    reference = policy.reference()
    assert policy.exact_kl(batch).abs().max() < 1e-15
    before = policy.distribution(batch.prompts).detach()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.linspace(-1, 1, p.numel(), dtype=F64).view_as(p))
    after, got = policy.distribution(batch.prompts).detach(), policy.exact_kl(batch)
    assert torch.equal(reference.distribution(batch.prompts), before) and got.shape == (2, 5, 3)
    for run in range(2):
        for x in range(5):
            p, q = after[run, x].exp().tolist(), before[run, x].exp().tolist()
            want = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            assert want > 1e-3 and got[run, x].tolist() == pytest.approx([want] * 3, abs=1e-12)


def test_samples_follow_the_distribution_and_carry_their_log_probs() -> None:
    policy, draws, calls = scattered([1, 2], **SMALL), 20_000, []
    x = contexts(2, 3, 6)
    drawn = policy.draw(x, draws, stream([1, 2]), lambda: calls.append(1))
    want = policy.distribution(x).exp().detach()
    share = torch.stack([(drawn.responses[..., 0] == arm).double().mean(-1) for arm in range(4)], -1)
    assert ((share - want).abs() < 4.5 * (want * (1 - want) / draws).sqrt()).all()
    assert drawn.logp_behaviour is not None and drawn.logp_proximal is not None and len(calls) == 1
    assert torch.allclose(drawn.logp_behaviour, policy.evaluate(drawn).logp.detach(), atol=1e-13)
    assert torch.equal(drawn.logp_behaviour, drawn.logp_proximal) and not drawn.logp_behaviour.requires_grad
    assert drawn.logp_behaviour.data_ptr() != drawn.logp_proximal.data_ptr() and drawn.mask.all()


def test_stacked_runs_equal_each_alone() -> None:
    both, x = scattered([1, 2], **SMALL), contexts(2, 4, 6)
    drawn = both.draw(x, 5, stream([8, 9]))
    seen = both.evaluate(drawn, entropy=True, values=True)
    assert seen.entropy is not None and seen.values is not None
    grads = gradients(both, seen.logp.sum() + seen.entropy.sum() + seen.values.square().sum())
    for run in range(2):
        alone = scattered([1 + run], **SMALL)
        own = alone.draw(x[run : run + 1], 5, stream([8 + run]))
        mine = alone.evaluate(own, entropy=True, values=True)
        assert mine.entropy is not None and mine.values is not None
        assert torch.equal(drawn.responses[run], own.responses[0])
        assert torch.allclose(seen.logp[run], mine.logp[0], atol=1e-13)
        single = gradients(alone, mine.logp.sum() + mine.entropy.sum() + mine.values.square().sum())
        for name, grad in single.items():
            assert torch.allclose(grads[name][run], grad[0], atol=1e-11, rtol=1e-11), name


def test_the_start_belongs_to_the_seed_and_not_to_the_stack_or_the_precision() -> None:
    stack, other = MLP.create([5, 6, 7]), MLP.create([7, 5])
    for name, weight in stack.weights.items():
        assert torch.equal(weight[[2, 0]], other.weights[name])
    assert not torch.equal(stack.weights["layer1.weight"][0], stack.weights["layer1.weight"][1])
    double = MLP.create([5, 6, 7], dtype=F64)
    assert all(
        double.weights[k].dtype == F64 and torch.equal(double.weights[k].float(), w) for k, w in stack.weights.items()
    )
    assert all(torch.equal(double.weights[k], w.double()) for k, w in stack.weights.items())


def test_initialise_draws_around_the_mean() -> None:
    drawn = initialise({"a": Init((40_000,), std=0.5, mean=3.0), "b": Init((2, 3))}, [1], F64)
    assert float(drawn["a"].mean()) == pytest.approx(3.0, abs=4.5 * 0.5 / 200)
    assert float(drawn["a"].std()) == pytest.approx(0.5, rel=4.5 / math.sqrt(80_000))
    assert drawn["b"].shape == (1, 2, 3) and not drawn["b"].any()


def test_layer_norm_has_each_run_s_own_gain() -> None:
    x = contexts(2, 4, 5)
    gain, bias = contexts(2, 1, 5, 1)[:, 0], contexts(2, 1, 5, 2)[:, 0]
    for shaped in (x, x.view(2, 2, 2, 5)):
        got = layer_norm(shaped, gain, bias)
        for run in range(2):
            want = nn.functional.layer_norm(shaped[run], (5,), gain[run], bias[run])
            assert torch.allclose(got[run], want, atol=1e-13)


def test_inverse_cdf_is_the_first_category_above_the_point() -> None:
    g = torch.Generator().manual_seed(4)
    logp = torch.randn(3, 2, 6, generator=g, dtype=F64).log_softmax(-1)
    u = torch.rand(3, 2, 50, generator=g, dtype=F64)
    got = inverse_cdf(logp, u)
    for i in range(3):
        for j in range(2):
            p = logp[i, j].exp().tolist()
            for n, point in enumerate(u[i, j].tolist()):
                want = next(k for k in range(6) if sum(p[: k + 1]) > point * sum(p))
                assert int(got[i, j, n]) == want


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_impossible_arms_are_never_drawn_at_either_end(dtype: torch.dtype) -> None:
    top = 1 - torch.finfo(dtype).eps / 2  # the largest number of [0, 1)
    u = torch.tensor([0.0, torch.finfo(dtype).tiny, 0.4, 0.5, top], dtype=dtype)
    assert u[-1] < 1
    p = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0], dtype=dtype)
    assert inverse_cdf(p.log(), u).tolist() == [1, 1, 1, 3, 3]
    g = torch.Generator().manual_seed(5)
    rows = (3 * torch.randn(500, 40, generator=g, dtype=dtype)).log_softmax(-1)
    rows[:, [0, 7, 38, 39]] = -torch.inf
    drawn = inverse_cdf(rows, u.expand(500, 5))  # their sums round to either side of 1
    assert rows.gather(-1, drawn).isfinite().all()
    assert (drawn[:, 0] == 1).all() and (drawn[:, -1] == 37).all()


def test_a_run_without_numbers_still_draws_an_arm() -> None:
    logp = torch.stack([torch.full((4,), torch.nan), torch.zeros(4)]).log_softmax(-1)
    assert inverse_cdf(logp, torch.tensor([[0.1, 0.6], [0.1, 0.6]])).tolist() == [[3, 3], [0, 2]]


def test_take_gives_independent_copies_of_runs_in_order() -> None:
    policy = scattered([1, 2, 3], **SMALL)
    taken = policy.take(torch.tensor([2, 0, 2]))
    batch = random_batch(policy)
    rows = torch.tensor([2, 0, 2])
    logp = policy.evaluate(batch).logp
    got = taken.evaluate(Batch(batch.prompts[rows], batch.responses[rows], batch.mask[rows])).logp
    assert taken.runs == 3 and torch.allclose(got, logp[rows], atol=1e-14)
    assert all(w.is_leaf and w.requires_grad for w in taken.parameters())
    with torch.no_grad():
        taken.weights["layer0.bias"].add_(1.0)
    assert torch.equal(policy.evaluate(batch).logp, logp)


def test_frozen_and_state_are_copies() -> None:
    policy = scattered([1, 2], **SMALL)
    batch = random_batch(policy)
    before, frozen, saved = policy.evaluate(batch).logp.detach(), policy.frozen(), policy.state()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.linspace(-1, 1, p.numel(), dtype=F64).view_as(p))
    assert torch.equal(frozen.evaluate(batch).logp, before)
    assert not any(w.requires_grad for w in frozen.parameters()) and all(w.requires_grad for w in policy.parameters())
    assert not torch.allclose(policy.evaluate(batch).logp, before)
    leaves = policy.parameters()
    policy.restore(saved)
    assert torch.equal(policy.evaluate(batch).logp, before)
    assert all(a is b for a, b in zip(leaves, policy.parameters(), strict=True))
    assert not any(saved[k].data_ptr() == w.data_ptr() for k, w in policy.weights.items())


def test_micro_batches_cover_every_prompt_once() -> None:
    policy = MLP.create([1, 2], **SMALL)
    (rows,) = policy.micro_batches(random_batch(policy))
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2 and policy.exact_sampler
