"""Log-probs equal enumeration and a naive forward; padding, order and batching change nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

import tiny
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.protocols import Enumerable
from prefloop.core.streams import streams
from prefloop.data.records import Message
from prefloop.policies import network
from prefloop.policies.causal_lm import CausalLM, has_bf16, resolve_autocast
from prefloop.policies.sampler import Sampling

PROMPTS = [torch.tensor(ids) for ids in ([2, 3, 4], [2, 5], [2, 7, 8, 9, 9, 3], [4, 4, 4], [5])]
MODELS = {"llama": tiny.llama, "gpt2": tiny.gpt2, "qwen": tiny.qwen}


def policy(model=None, *, new: int = 8, **options) -> CausalLM:
    sampling = Sampling(max_new_tokens=new)
    return CausalLM(tiny.llama() if model is None else model, tiny.tokenizer(), sampling=sampling, **options)


def given(prompts: list[torch.Tensor], answers: list[list[list[int]]]) -> Batch:
    """A batch of written-out responses."""
    flat = [torch.tensor(ids) for group in answers for ids in group]
    responses = pad_sequence(flat, batch_first=True).unflatten(0, (len(prompts), -1))
    lengths = torch.tensor([[len(ids) for ids in group] for group in answers])
    return Batch(prompts, responses, torch.arange(responses.shape[-1]) < lengths[..., None])


ANSWERS = given(
    PROMPTS,
    [[[3, 4, 1], [5]], [[1], [9, 9, 9, 9, 9]], [[3, 1], [1, 1, 1]], [[7, 8, 1], [0, 0, 1]], [[6, 5, 4, 3], [2, 2]]],
)


def naive(model, batch: Batch) -> torch.Tensor:
    """Log-probs by one unpadded forward per response."""
    out = torch.zeros(batch.mask.shape, dtype=model.dtype)
    for p, g in product(*map(range, batch.mask.shape[:2])):
        response = batch.responses[p, g][batch.mask[p, g]]
        logits = model(torch.cat([batch.prompts[p], response])[None]).logits[0, len(batch.prompts[p]) - 1 : -1]
        out[p, g, : len(response)] = logits.log_softmax(-1)[torch.arange(len(response)), response]
    return out


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_of_all_responses_sum_to_one(name):
    """Vocabulary 5, at most 3 tokens: a response ends with its first EOS or at the limit."""
    every = [[*ids] for n in (1, 2, 3) for ids in product(range(5), repeat=n)]
    complete = [ids for ids in every if tiny.EOS not in ids[:-1] and (len(ids) == 3 or ids[-1] == tiny.EOS)]
    batch = given([torch.tensor([2, 3])], [complete])
    own = policy(MODELS[name](vocabulary=5))
    with torch.no_grad():
        logp = own.evaluate(batch).logp.sum(-1)
    assert len(complete) == 1 + 4 + 16 * 5
    assert math.isclose(float(logp.exp().sum()), 1.0, abs_tol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_evaluate_equals_a_naive_forward(name):
    model = MODELS[name]()
    logp = policy(model).evaluate(ANSWERS).logp
    assert logp.dtype == torch.float64 and (logp[~ANSWERS.mask] == 0).all()
    assert (logp - naive(model, ANSWERS)).abs().max() <= 1e-9


def test_a_mask_with_gaps_leaves_tokens_out_by_position():
    mask = ANSWERS.mask.clone()
    mask[:, :, 0] = False
    logp = policy().evaluate(replace(ANSWERS, mask=mask)).logp
    assert (logp - policy().evaluate(ANSWERS).logp * mask).abs().max() <= 1e-9


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("micro_tokens", [1, 20, 10_000])
def test_padding_order_and_micro_batches_change_nothing(name, micro_tokens):
    own = policy(MODELS[name](), micro_tokens=micro_tokens)
    whole = own.evaluate(ANSWERS, entropy=True)
    for rows in [*own.micro_batches(ANSWERS), torch.tensor([3, 0, 4])]:
        part = own.evaluate(ANSWERS[rows], entropy=True)
        assert (part.logp - whole.logp[rows]).abs().max() <= 1e-9
        assert (part.entropy - whole.entropy[rows]).abs().max() <= 1e-9
    wider = [torch.nn.functional.pad(x, (0, 7)) for x in (ANSWERS.responses, ANSWERS.mask)]
    padded = own.evaluate(Batch(PROMPTS, *wider)).logp[..., : ANSWERS.mask.shape[-1]]
    assert (padded - whole.logp).abs().max() <= 1e-9


@pytest.mark.parametrize("budget", [1, 20, 39, 10_000])
def test_micro_batches_are_a_partition_within_the_budget(budget):
    own = policy(micro_tokens=budget)
    packs = own.micro_batches(ANSWERS)
    assert sorted(torch.cat(packs).tolist()) == list(range(5))
    widths = [max(len(PROMPTS[p]) + int(n) - 1 for n in ANSWERS.lengths[p]) for p in range(5)]
    sizes = [len(pack) * 2 * max(widths[p] for p in pack.tolist()) for pack in packs]
    assert all(size <= budget or len(pack) == 1 for size, pack in zip(sizes, packs, strict=True))
    order = [widths[p] for pack in packs for p in pack.tolist()]
    assert order == sorted(order, reverse=True)
    assert len(packs) == (5 if budget == 1 else {20: 4, 39: 2, 10_000: 1}[budget])


def test_chunks_of_logits_change_neither_values_nor_gradients(monkeypatch):
    def run() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        own = policy()
        seen = own.evaluate(ANSWERS, entropy=True)
        (seen.logp.sum() + 0.3 * seen.entropy.sum()).backward()
        return seen.logp, seen.entropy, [p.grad for p in own.parameters()]

    whole = run()
    monkeypatch.setattr(network, "LOGITS_BUDGET", 12 * 4)
    parts = run()
    with torch.no_grad():
        assert torch.equal(policy().evaluate(ANSWERS).logp, parts[0])
    assert all(
        (a - b).abs().max() <= 1e-12 for a, b in zip([*whole[:2], *whole[2]], [*parts[:2], *parts[2]], strict=True)
    )


def test_vocabulary_logits_exist_at_response_positions_only():
    own, counts = policy(), []
    own.network.head.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    own.evaluate(ANSWERS)
    assert counts == [int(ANSWERS.mask.sum())]


def test_every_weight_is_read_inside_one_forward_of_one_module():
    """Weights that are there only while `network` runs, as those of a sharded model are, give the same results."""
    plain, sharded = policy(critic=True), policy(critic=True)
    whole = {name: p.detach().clone() for name, p in sharded.network.named_parameters()}
    assert {id(p) for p in sharded.parameters()} == {id(p) for p in sharded.network.parameters()}

    def fill(value):
        with torch.no_grad():
            for name, p in sharded.network.named_parameters():
                p.data = whole[name].clone() if value is None else torch.full_like(p, value)

    sharded.network.register_forward_pre_hook(lambda *_: fill(None))
    sharded.network.register_forward_hook(lambda *_: fill(math.nan), always_call=True)
    fill(math.nan)
    for own in (plain, sharded):
        seen = own.evaluate(ANSWERS, entropy=True, values=True)
        assert seen.values is not None
        if own is plain:
            want = seen
    for name in ("logp", "entropy", "values"):
        assert torch.equal(getattr(seen, name), getattr(want, name))


def test_entropy_is_that_of_the_next_token_distribution():
    model = tiny.llama()
    entropy = policy(model).evaluate(ANSWERS, entropy=True).entropy
    prompt, response = PROMPTS[0], ANSWERS.responses[0, 0]
    p = model(torch.cat([prompt, response[:3]])[None]).logits[0, 2:5].softmax(-1)
    assert torch.allclose(entropy[0, 0, :3], -(p * p.log()).sum(-1), atol=1e-12)
    assert (entropy[~ANSWERS.mask] == 0).all()


def test_a_uniform_model_has_entropy_and_log_prob_of_log_v():
    model = tiny.llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    seen = policy(model).evaluate(ANSWERS, entropy=True)
    assert torch.allclose(seen.entropy[ANSWERS.mask], torch.tensor(math.log(12), dtype=torch.float64))
    assert torch.allclose(seen.logp[ANSWERS.mask], -torch.tensor(math.log(12), dtype=torch.float64))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_equals_finite_differences(name, checkpointing):
    model = MODELS[name]()
    own = policy(model, gradient_checkpointing=checkpointing)
    weights = torch.linspace(-1, 1, ANSWERS.mask.numel(), dtype=torch.float64).view(ANSWERS.mask.shape)
    (own.evaluate(ANSWERS).logp * weights).sum().backward()
    for p in own.parameters()[1::5]:
        place = (0,) * p.ndim
        sums = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                p[place] += step
                sums.append(float((own.evaluate(ANSWERS).logp * weights).sum()))
        with torch.no_grad():
            p[place] += 1e-5
        assert math.isclose((sums[0] - sums[1]) / 2e-5, float(p.grad[place]), rel_tol=1e-5, abs_tol=1e-7)


def test_checkpointed_layers_are_recomputed_without_dropout():
    """GPT-2 has dropout 0.1 in its configuration; the second forward pass of each layer must not see it."""
    plain, recomputed = policy(tiny.gpt2()), policy(tiny.gpt2(), gradient_checkpointing=True)
    calls = []
    recomputed.model.transformer.h[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for own in (plain, recomputed):
        own.evaluate(ANSWERS).logp.sum().backward()
    assert len(calls) == 2
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() <= 1e-12
    assert not any(m.training for m in recomputed.model.modules())
    recomputed.draw(PROMPTS, 2, streams(0)["sampling"])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_the_samplers_log_probs_are_those_of_evaluate(name, dtype, tolerance):
    own = policy(MODELS[name](dtype=dtype))
    batch = own.draw(PROMPTS, 3, streams(0)["sampling"])
    assert batch.prompts == PROMPTS and own.exact_sampler
    assert (own.evaluate(batch).logp - batch.logp_proximal).abs().max() <= tolerance
    assert torch.equal(own.evaluate(batch).logp, own.evaluate(batch).logp)  # no dropout: the first ratio is exactly 1
    assert not batch.logp_proximal.requires_grad and own.is_cut(batch).shape == (5, 3)


def test_an_inexact_sampler_says_so():
    own = CausalLM(tiny.llama(), tiny.tokenizer(), sampling=Sampling(top_p=0.9))
    assert not own.exact_sampler


def test_autocast_rounds_but_keeps_float32_weights_and_log_probs():
    model = tiny.llama(dtype=torch.float32, spread=0.1)
    exact, rounded = policy(model), policy(model, autocast=True)
    a, b = exact.evaluate(ANSWERS, entropy=True), rounded.evaluate(ANSWERS, entropy=True)
    assert b.logp.dtype == b.entropy.dtype == torch.float32
    assert 0 < (a.logp - b.logp).abs().max() < 0.1
    b.logp.sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in rounded.parameters())
    batch = rounded.draw(PROMPTS, 3, streams(0)["sampling"])
    assert batch.logp_behaviour.dtype == torch.float32
    assert (rounded.evaluate(batch).logp - batch.logp_proximal).abs().max() < 0.1
    # sampling casts weights without a gradient; training afterwards must not meet those casts
    assert rounded.evaluate(batch).logp.requires_grad


def test_autocast_follows_the_processor(tmp_path: Path):
    cpu, cpuinfo = torch.device("cpu"), tmp_path / "cpuinfo"
    assert not has_bf16(cpu, tmp_path / "absent")
    cpuinfo.write_text("flags : fpu avx512f avx512_bf16x\n")
    assert not has_bf16(cpu, cpuinfo)
    cpuinfo.write_text("flags : fpu amx_bf16 sse\n")
    assert has_bf16(cpu, cpuinfo)
    assert resolve_autocast("auto", tiny.llama()) is False  # float64 stays float64
    assert resolve_autocast("auto", tiny.llama(dtype=torch.float32)) is has_bf16(cpu)
    assert resolve_autocast(True, tiny.llama()) is True
    with pytest.raises(UserError, match="autocast"):
        resolve_autocast("yes", tiny.llama())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_value_head_starts_at_zero_and_reads_the_state_before_each_token(dtype):
    model = tiny.llama(dtype=dtype)
    own = policy(model, critic=True)
    values = own.evaluate(ANSWERS, values=True).values
    assert values.shape == ANSWERS.mask.shape and values.dtype == dtype and (values == 0).all()
    with torch.no_grad():
        own.network.value_head.weight.fill_(0.5)
        own.network.value_head.bias.fill_(2.0)
    values = own.evaluate(ANSWERS, values=True).values
    hidden = model.model(torch.cat([PROMPTS[0], ANSWERS.responses[0, 0, :2]])[None]).last_hidden_state[0, 2:]
    assert torch.allclose(values[0, 0, :3], 0.5 * hidden.sum(-1) + 2.0, atol=1e-5)
    assert (values[~ANSWERS.mask] == 0).all()
    values.sum().backward()
    assert own.network.value_head.bias.grad == ANSWERS.mask.sum()
    assert own.parameters()[-1] is own.network.value_head.bias
    with pytest.raises(ValueError, match="critic"):
        policy().evaluate(ANSWERS, values=True)


def test_a_batch_without_tokens_has_zero_log_probs_and_a_gradient():
    empty = replace(ANSWERS, mask=torch.zeros_like(ANSWERS.mask))
    seen = policy(critic=True).evaluate(empty, entropy=True, values=True)
    assert (seen.logp == 0).all() and (seen.entropy == 0).all() and (seen.values == 0).all()
    assert seen.logp.requires_grad


def test_state_restores_every_trainable_tensor_by_name():
    own = policy(critic=True)
    before, logp = own.state(), own.evaluate(ANSWERS).logp.detach()
    with torch.no_grad():
        for p in own.parameters():
            p.add_(0.1)
    assert set(before) >= {"value_head.weight", "value_head.bias", "lm_head.weight"}
    assert len(before) == len(own.parameters())
    assert not torch.equal(own.evaluate(ANSWERS).logp, logp)
    own.restore(before)
    assert torch.equal(own.evaluate(ANSWERS).logp, logp)
    with pytest.raises(ValueError, match="value_head"):
        policy().restore(before)


def test_the_reference_stays_when_the_policy_moves():
    own = policy(critic=True)
    reference, before = own.reference(), own.evaluate(ANSWERS).logp.detach()
    with torch.no_grad():
        own.parameters()[0].add_(0.5)
    seen = reference.evaluate(ANSWERS).logp
    assert torch.equal(seen, before) and not seen.requires_grad
    assert reference.parameters() == [] and reference.state() == {}
    assert not torch.equal(own.evaluate(ANSWERS).logp, before)


def test_the_reference_of_lora_is_the_same_model_without_adapters():
    pytest.importorskip("peft", reason="LoRA needs the extra `peft`")
    from prefloop.policies.adapters import Lora, with_lora

    plain = policy().evaluate(ANSWERS).logp.detach()
    own = policy(with_lora(tiny.llama(), Lora(2)))
    reference = own.reference()
    assert reference.model is own.model
    assert (own.evaluate(ANSWERS).logp - plain).abs().max() <= 1e-12
    own.evaluate(ANSWERS).logp.sum().backward()
    assert len(own.parameters()) > 0 and all("lora" in name for name in own.state())
    with torch.no_grad():
        for p in own.parameters():
            p.add_(0.1)
    assert torch.equal(reference.evaluate(ANSWERS).logp, plain)
    assert (own.evaluate(ANSWERS).logp - plain).abs().max() > 0.01
    assert own.evaluate(ANSWERS).logp.requires_grad
    batch = own.draw(PROMPTS, 2, streams(0)["sampling"])
    assert (own.evaluate(batch).logp - batch.logp_proximal).abs().max() <= 1e-9


def test_prompts_that_leave_no_room_are_refused():
    own = policy(new=8)
    with pytest.raises(DataError, match="leaves 56"):
        own.draw([torch.full((57,), 3)], 1, streams(0)["sampling"])
    own.draw([torch.full((56,), 3)], 1, streams(0)["sampling"])
    with pytest.raises(DataError, match="empty"):
        own.draw([torch.zeros(0, dtype=torch.long)], 1, streams(0)["sampling"])


def test_the_kl_of_a_language_model_is_not_enumerated():
    assert not isinstance(policy(), Enumerable)


@pytest.mark.slow
def test_smollm2_log_probs_do_not_depend_on_batching():
    """135M parameters in float32: sampler, whole batch, single prompts and a naive forward agree to 1e-4 per token."""
    from prefloop.policies.conversation import template_of
    from prefloop.policies.pretrained import load

    try:
        model, tokenizer = load("smollm2")
    except UserError as absent:
        pytest.skip(str(absent))
    asked = ["Name a fruit.", "What is two plus two? Answer in one short sentence.", "Say hello."]
    prompts = [template_of(tokenizer).prompt([Message("user", text)]) for text in asked]
    own = CausalLM(model, tokenizer, sampling=Sampling(max_new_tokens=16, rows=5), micro_tokens=200)
    batch = own.draw(prompts, 2, streams(0)["sampling"])
    with torch.no_grad():
        whole, plain = own.evaluate(batch).logp, naive(model, batch)
        for rows in own.micro_batches(batch):
            assert (own.evaluate(batch[rows]).logp - whole[rows]).abs().max() <= 1e-4
    assert (whole - plain).abs().max() <= 1e-4
    assert (whole - batch.logp_proximal).abs().max() <= 1e-4
