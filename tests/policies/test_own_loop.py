"""A loop of one's own: texts as a batch, log-probs through a model's own forward pass, any method's loss."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import tiny
from prefloop import METHODS, Batch, encode, log_probs, mismatched_kl
from prefloop.core.errors import DataError, UserError
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.sampler import Sampling

PAIRS = [
    {"prompt": "a b", "chosen": "yes c", "rejected": "no"},
    {"prompt": "c", "chosen": "b", "rejected": "a a a yes"},
    {"prompt": "a", "chosen": "c c", "rejected": "b no"},
]


def ids(text: str) -> list[int]:
    return [tiny.WORDS.index(word) for word in text.split()]


def test_pairs_of_texts_by_hand() -> None:
    batch = encode(tiny.tokenizer(), PAIRS[:2])
    assert [x.tolist() for x in batch.prompts] == [
        ids("<bos> user : a b assistant :"), ids("<bos> user : c assistant :"),
    ]  # fmt: skip
    assert batch.responses[0, 0].tolist() == [*ids("yes c <eos>"), 0, 0]
    assert batch.responses[1, 1].tolist() == ids("a a a yes <eos>")
    assert batch.lengths.tolist() == [[3, 2], [2, 5]] and batch.valid is None and batch.labels is None
    assert batch.scores is not None and batch.scores.tolist() == [[1.0, 0.0]] * 2


def test_other_rows_are_batches_too() -> None:
    labelled = encode(tiny.tokenizer(), [{"prompt": "a", "completion": "b", "label": x} for x in (True, False)])
    assert labelled.labels is not None and labelled.labels.tolist() == [[1.0], [-1.0]]
    shown = encode(tiny.tokenizer(), [{"prompt": "a", "completion": "b c"}])
    assert shown.scores is None and shown.mask.shape == (1, 1, 3)
    renamed = encode(
        tiny.tokenizer(), [{"q": "a", "w": "b", "l": "c"}], columns={"prompt": "q", "chosen": "w", "rejected": "l"}
    )
    assert renamed.mask.shape == (1, 2, 2)
    plain = encode(tiny.tokenizer(), [PAIRS[0] | {"prompt": "a b\n"}], template="plain")
    assert plain.prompts[0].tolist()[-2:] == ids("a b")


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([], DataError, "(?s)empty.*the given rows"),
        (
            [{"prompt": "a", "chosen": "b"}],
            DataError,
            "(?s)row 1 of the given rows",
        ),
        ([PAIRS[0], {"prompt": "a", "chosen": "b", "rejected": 3}], DataError, "(?s)row 2.*rejected"),
    ],
)
def test_rows_that_cannot_be_used_are_named(rows: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        encode(tiny.tokenizer(), rows)
    with pytest.raises(UserError, match="format"):
        encode(tiny.tokenizer(), PAIRS, format="pears")


@pytest.mark.parametrize("make", [tiny.llama, tiny.qwen, tiny.gpt2])
def test_log_probs_are_those_of_the_policy(make: Any) -> None:
    model, batch = make().eval(), encode(tiny.tokenizer(), PAIRS)
    got = log_probs(model, batch)
    policy = CausalLM(model, tiny.tokenizer(), sampling=Sampling(max_new_tokens=4))
    torch.testing.assert_close(got, policy.evaluate(batch).logp, rtol=1e-9, atol=1e-9)
    assert got.dtype == torch.float64 and (got[~batch.mask] == 0).all()
    for p, prompt in enumerate(batch.prompts):  # one row at a time, without padding
        for g in range(2):
            answer = batch.responses[p, g][batch.mask[p, g]]
            row = torch.cat([prompt, answer])[None]
            alone = model(input_ids=row).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            torch.testing.assert_close(got[p, g, : len(answer)], alone.gather(-1, answer[:, None])[:, 0])


def test_half_precision_is_summed_in_single() -> None:
    got = log_probs(tiny.llama(dtype=torch.bfloat16), encode(tiny.tokenizer(), PAIRS))
    assert got.dtype == torch.float32


def test_empty_slots_and_empty_batches_have_no_rows() -> None:
    model = tiny.llama().eval()
    ragged = Batch.from_groups([[2, 9], [2]], [[[3, 1], [4, 1]], [[5, 1]]])
    got = log_probs(model, ragged)
    alone = log_probs(model, Batch.from_groups([[2]], [[[5, 1]]]))
    torch.testing.assert_close(got[1, 0], alone[0, 0])
    assert (got[1, 1] == 0).all()


def step(
    model: nn.Module, reference: nn.Module, optimizer: Any, batch: Batch, backward: Any, name: str = "dpo"
) -> float:
    """As the page shows it."""
    with torch.no_grad():
        batch = replace(batch, logp_reference=log_probs(reference, batch))
    loss = METHODS[name].loss(log_probs(model, batch), batch)
    optimizer.zero_grad()
    backward(loss)
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("name", ["dpo", "simpo", "pref_ft", "orpo", "ipo"])
def test_a_loop_of_plain_torch_learns(name: str) -> None:
    model, batch = tiny.llama(dtype=torch.float32).eval(), encode(tiny.tokenizer(), PAIRS)
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = [step(model, reference, optimizer, batch, torch.Tensor.backward, name) for _ in range(8)]
    assert losses[-1] < losses[0]
    if name == "dpo":
        assert losses[0] == pytest.approx(0.6931, abs=1e-4)


LABELLED = [
    {"prompt": "a b", "completion": "yes c", "label": True},
    {"prompt": "c", "completion": "b", "label": False},
    {"prompt": "a", "completion": "c c", "label": True},
]


def test_what_kto_lacks_is_named_with_the_line_that_computes_it() -> None:
    model, reference = tiny.llama().eval(), tiny.llama(seed=1).eval()
    batch = encode(tiny.tokenizer(), LABELLED)
    with pytest.raises(UserError, match=r"replace\(batch, logp_reference=prefloop.log_probs\(reference, batch\)\)"):
        METHODS["kto"].loss(log_probs(model, batch), batch)
    batch = replace(batch, logp_reference=log_probs(reference, batch).detach())
    with pytest.raises(UserError, match=r"replace\(batch, z=prefloop.mismatched_kl\(model, reference, batch\)\)"):
        METHODS["kto"].loss(log_probs(model, batch), batch)
    batch = replace(batch, z=mismatched_kl(model, reference, batch))
    assert METHODS["kto"].loss(log_probs(model, batch), batch).requires_grad


def test_the_baseline_of_kto_by_hand_and_as_in_the_loop() -> None:
    """Each prompt with the response to the one before it, in the order of the batch."""
    model, reference, rows = tiny.llama().eval(), tiny.llama(seed=1).eval(), LABELLED
    z = mismatched_kl(model, reference, encode(tiny.tokenizer(), rows))
    crossed = [{**row, "completion": rows[i - 1]["completion"]} for i, row in enumerate(rows)]
    other = encode(tiny.tokenizer(), crossed)
    ratio = (log_probs(model, other) - log_probs(reference, other)).sum(-1)
    assert not z.requires_grad
    torch.testing.assert_close(z, ratio.mean().clamp(min=0).detach())
    assert float(mismatched_kl(model, model, other)) == 0.0
    with pytest.raises(UserError, match="only one"):
        mismatched_kl(model, reference, encode(tiny.tokenizer(), rows[:1]))


def test_a_loop_under_a_wrapper_learns_the_same() -> None:
    """Wrappers add hooks to `forward`: data-parallel ones synchronise gradients there."""

    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, **inputs: Any) -> Any:
            self.calls += 1
            return self.module(**inputs)

    batch, plain = encode(tiny.tokenizer(), PAIRS), tiny.llama()
    wrapped = Wrapped(tiny.llama())
    torch.testing.assert_close(log_probs(wrapped, batch), log_probs(plain, batch), rtol=0, atol=0)
    assert wrapped.calls == 1


def test_a_loop_under_accelerate_learns_the_same() -> None:
    accelerate = pytest.importorskip("accelerate", reason="pip install accelerate")
    batch, losses = encode(tiny.tokenizer(), PAIRS), []
    for own in (None, accelerate.Accelerator(cpu=True)):
        model = tiny.llama(dtype=torch.float32).eval()
        reference = copy.deepcopy(model).requires_grad_(False)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        if own is not None:
            model, optimizer = own.prepare(model, optimizer)
        backward = torch.Tensor.backward if own is None else own.backward
        losses.append([step(model, reference, optimizer, batch, backward) for _ in range(4)])
    assert losses[0] == losses[1]
