"""Losses and gradients against TRL's own code, called on the same log-probs (TRL 1.16.0, the `bench` extra).

A trainer is built without its constructor and gets the few attributes that its loss reads; the model is replaced by
one that returns given per-token log-probs. Where the two packages differ on purpose, the docstring says how.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.core import objectives, weights
from prefloop.core.batch import Batch
from prefloop.core.methods import METHODS, Method
from toys import F64, fixed, make_batch, make_logp

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'prefloop[bench]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(trl.__version__ != "1.16.0", reason=f"compared with TRL 1.16.0, not {trl.__version__}"),
]
SEEDS = [0, 1, 2]
seeds = pytest.mark.parametrize("seed", SEEDS)


def trainer(kind: type, **attributes: Any) -> Any:
    """A trainer without model, data or processes."""
    bare = object.__new__(kind)
    bare.accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    bare.model = SimpleNamespace(training=True)
    bare._metrics, bare._total_train_tokens, bare._tp_size = {"train": defaultdict(list)}, 0, 1
    bare.aux_loss_enabled, bare.use_vllm = False, False
    for name, value in attributes.items():
        setattr(bare, name, value)
    return bare


def outputs(logp: Tensor, mask: Tensor) -> SimpleNamespace:
    """What TRL's fused head gives: 0 where the label is ignored."""
    logp = torch.where(mask, logp, 0.0)
    rest = {name: torch.zeros_like(logp) for name in ("entropy", "mean_logits")}
    return SimpleNamespace(log_probs=logp, is_top1=torch.zeros_like(logp, dtype=torch.bool), **rest)


def sides(x: Tensor, batch: Batch) -> Tensor:
    """Chosen rows, then rejected ones: [P, 2, ...] -> [2P, ...]."""
    assert batch.scores is not None
    place = torch.arange(len(x))
    win = batch.scores.argmax(-1)
    return torch.cat([x[place, win], x[place, 1 - win]])


def after_prompt(mask: Tensor) -> Tensor:
    """A completion mask with one prompt token before it."""
    return torch.nn.functional.pad(mask.long(), (1, 0))


def leaf(batch: Batch, seed: int) -> Tensor:
    return make_logp(batch, seed).requires_grad_()


def agree(row: Method, logp: Tensor, batch: Batch, theirs: Tensor, rate: float = 1e-6) -> None:
    """The loss and its gradient on every response token."""
    (gradient,) = torch.autograd.grad(theirs, logp)
    assert float(row.loss(logp, batch).detach()) == pytest.approx(float(theirs.detach()), abs=rate)
    assert torch.allclose(row.coefficients(logp, batch), -gradient, atol=rate)


def dpo_trainer_loss(logp: Tensor, batch: Batch, **attributes: Any) -> Tensor:
    from trl import DPOTrainer

    assert batch.logp_reference is not None
    reference = sides(objectives.sequence(batch.logp_reference, batch), batch).chunk(2)
    mask = after_prompt(sides(batch.mask, batch))
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": reference[0],
        "ref_rejected_logps": reference[1],
    }
    defaults = {
        "ld_alpha": None,
        "precompute_ref_logps": True,
        "f_divergence_type": "reverse_kl",
        "loss_weights": [1.0],
        "use_weighting": False,
        "label_smoothing": 0.0,
    }
    bare = trainer(DPOTrainer, **{**defaults, **attributes})
    return bare._compute_loss(lambda **_: outputs(sides(logp, batch), sides(batch.mask, batch)), inputs, False)


@seeds
@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize(("objective", "theirs"), [("dpo", "sigmoid"), ("hinge_norm", "hinge")])
def test_dpo_and_its_hinge(objective: str, theirs: str, beta: float, seed: int) -> None:
    """RSO's reference-normalised hinge is TRL's loss_type="hinge" of the DPO trainer."""
    batch = make_batch(seed, responses=2)
    logp = leaf(batch, seed)
    theirs_loss = dpo_trainer_loss(logp, batch, loss_types=[theirs], beta=beta)
    agree(METHODS["dpo"].override(objective=objective, beta=beta), logp, batch, theirs_loss)


@seeds
def test_slic_is_the_hinge_without_a_reference_and_a_likelihood_term(seed: int) -> None:
    """TRL has the hinge alone, in the CPO trainer; the likelihood of the preferred response is added."""
    batch = make_batch(seed, responses=2)
    logp = leaf(batch, seed)
    winner, loser = sides(objectives.sequence(logp, batch), batch).chunk(2)
    theirs = cpo_loss(winner, loser, loss_type="hinge", beta=0.5) - 0.3 * winner.mean()
    agree(METHODS["slic"].override(delta=2.0, keep=0.6), logp, batch, 2 * theirs)


@seeds
def test_ipo_where_trl_means_over_tokens(seed: int) -> None:
    """TRL's DPO trainer divides both log-ratios by the response length before the margin; ours is the paper's sum.

    Ours on log-probs that are divided by the length beforehand is TRL's.
    """
    batch = make_batch(seed, responses=2)
    logp = leaf(batch, seed)
    theirs = dpo_trainer_loss(logp, batch, loss_types=["ipo"], beta=0.3)
    length = batch.lengths[..., None]
    assert batch.logp_reference is not None
    shorter = Batch(
        batch.prompts, batch.responses, batch.mask, batch.scores, logp_reference=batch.logp_reference / length
    )
    ours = METHODS["ipo"].override(tau=0.3).loss(logp / length, shorter)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
    assert torch.allclose(*(torch.autograd.grad(x, logp)[0] for x in (ours, theirs)), atol=1e-6)


def cpo_loss(winner: Tensor, loser: Tensor, **attributes: Any) -> Tensor:
    from trl.experimental.cpo import CPOTrainer

    bare = trainer(CPOTrainer, **{"alpha": 0.0, "label_smoothing": 0.0, **attributes})
    return bare.cpo_loss(winner, loser)[0].mean()


@seeds
def test_ipo_on_sequence_sums(seed: int) -> None:
    """TRL's CPO trainer has IPO's square without a reference: given log-ratio sums, it is ours."""
    batch = make_batch(seed, responses=2)
    logp = leaf(batch, seed)
    gain = sides(objectives.implicit_reward(logp, batch), batch).chunk(2)
    agree(METHODS["ipo"].override(tau=0.3), logp, batch, cpo_loss(*gain, loss_type="ipo", beta=0.3))


@seeds
@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (10.0, 5.0)])
def test_simpo(beta: float, gamma: float, seed: int) -> None:
    """TRL writes β (Δ − γ/β) where the paper and we write β Δ − γ: the same number."""
    batch = make_batch(seed, responses=2)
    logp = leaf(batch, seed)
    mean = sides(objectives.token_mean(logp, batch), batch).chunk(2)
    theirs = cpo_loss(*mean, loss_type="simpo", beta=beta, simpo_gamma=gamma)
    agree(METHODS["simpo"].override(beta=beta, gamma=gamma), logp, batch, theirs)


@seeds
def test_cdpo(seed: int) -> None:
    """TRL keeps label smoothing in the CPO trainer's sigmoid loss: given log-ratio sums, it is conservative DPO."""
    batch = make_batch(seed, responses=2)
    logp = leaf(batch, seed)
    gain = sides(objectives.implicit_reward(logp, batch), batch).chunk(2)
    theirs = cpo_loss(*gain, loss_type="sigmoid", beta=0.5, label_smoothing=0.1)
    agree(METHODS["cdpo"].override(beta=0.5), logp, batch, theirs)


@seeds
def test_orpo(seed: int) -> None:
    """TRL's likelihood term runs over prompt and response and over all tokens of the batch; ours is the paper's mean
    per response. So TRL's odds-ratio term is compared, and the paper's likelihood term added. TRL casts to float32."""
    from trl.experimental.orpo import ORPOTrainer

    batch = make_batch(seed, responses=2)
    logp = leaf(batch, seed)
    winner, loser = sides(objectives.token_mean(logp, batch), batch).chunk(2)
    odds = trainer(ORPOTrainer, beta=0.25).odds_ratio_loss(winner, loser)[0]
    agree(METHODS["orpo"].override(odds=0.25), logp, batch, -winner.mean() - odds.mean())


@seeds
@pytest.mark.parametrize("up", [1.0, 1.5])
def test_kto(up: float, seed: int) -> None:
    """The same z on both sides: the loop takes it from the minibatch, as TRL does."""
    from trl import KTOTrainer

    batch = make_batch(seed, prompts=6, responses=1)
    other = make_batch(seed + 50, prompts=6, responses=1)
    logp = leaf(batch, seed)
    assert batch.logp_reference is not None and batch.labels is not None and other.logp_reference is not None
    mismatched = make_logp(other, seed)
    d = objectives.sequence(mismatched - other.logp_reference, other)
    mask, kl_mask = after_prompt(batch.mask[:, 0]), after_prompt(other.mask[:, 0])
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "KL_input_ids": torch.full_like(mask, 2),
        "KL_attention_mask": torch.ones_like(mask),
        "KL_completion_mask": kl_mask,
        "label": batch.labels[:, 0] > 0,
        "ref_logps": objectives.sequence(batch.logp_reference, batch)[:, 0],
        "ref_KL_logps": objectives.sequence(other.logp_reference, other)[:, 0],
    }

    def model(input_ids: Tensor, **_: Any) -> SimpleNamespace:
        seen, of = (mismatched, other) if input_ids[0, 0] == 2 else (logp, batch)
        return outputs(seen[:, 0], of.mask[:, 0])

    bare = trainer(
        KTOTrainer,
        calculate_KL=True,
        precompute_ref_logps=True,
        loss_type="kto",
        beta=0.4,
        desirable_weight=up,
        undesirable_weight=0.8,
    )
    theirs = bare._compute_loss(model, inputs, False)
    ours = METHODS["kto"].override(beta=0.4, desirable=up, undesirable=0.8)
    mine = Batch(
        batch.prompts,
        batch.responses,
        batch.mask,
        labels=batch.labels,
        logp_reference=batch.logp_reference,
        z=d.mean().clamp(min=0),
    )
    agree(ours, logp, mine, theirs)


def policy_gradient_loss(kind: type, logp: Tensor, batch: Batch, inputs: dict[str, Any], **attributes: Any) -> Tensor:
    flat = logp.flatten(0, 1)
    ids = torch.ones(len(flat), 1, dtype=torch.long)
    given = {
        "prompt_ids": ids,
        "prompt_mask": ids,
        "completion_ids": batch.responses.flatten(0, 1),
        "completion_mask": batch.mask.flatten(0, 1).long(),
        **inputs,
    }
    bare = trainer(
        kind,
        _get_per_token_logps_and_entropies=lambda *_, **__: (flat, torch.zeros_like(flat), None),
        epsilon_low=0.2,
        epsilon_high=0.2,
        **attributes,
    )
    return bare._compute_loss(None, given)


@seeds
@pytest.mark.parametrize(
    ("theirs", "changes"),
    [
        ("grpo", {"reduction": "mean"}),
        ("bnpo", {"reduction": "token"}),
        ("dr_grpo", {"reduction": "constant", "horizon": 7.0}),
        ("luspo", {"reduction": "sequence"}),
    ],
)
def test_grpo(theirs: str, changes: dict[str, Any], seed: int) -> None:
    """TRL's loss types are our reductions: "grpo" mean, "bnpo" token, "dr_grpo" constant with horizon =
    max_completion_length, "luspo" with token ratios sequence. The advantage uses TRL's own standard deviation."""
    from trl import GRPOTrainer
    from trl.trainer.utils import nanstd

    batch = make_batch(seed)
    logp = leaf(batch, seed)
    assert batch.scores is not None and batch.logp_proximal is not None
    centred = batch.scores - batch.scores.mean(1, keepdim=True)
    advantages = centred / (nanstd(batch.scores, dim=1)[:, None] + 1e-4)
    assert torch.allclose(weights.group_zscore(batch), advantages, atol=1e-12)
    inputs = {"advantages": advantages.flatten(), "old_per_token_logps": batch.logp_proximal.flatten(0, 1)}
    loss = policy_gradient_loss(
        GRPOTrainer,
        logp,
        batch,
        inputs,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        loss_type=theirs,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        current_gradient_accumulation_steps=1,
        max_completion_length=7,
        _entropy_bonus_enabled=False,
    )
    agree(METHODS["grpo"].override(**changes), logp, batch, loss)


@seeds
@pytest.mark.parametrize("on_policy", [True, False])
def test_rloo(on_policy: bool, seed: int) -> None:
    """TRL clips one ratio per sequence; our row has the plain score function, one ratio per token. With the same
    objective they agree everywhere, and the plain row has TRL's gradient wherever the ratio is 1."""
    from trl import RLOOTrainer

    batch = make_batch(seed)
    logp = batch.logp_proximal.clone().requires_grad_() if on_policy else leaf(batch, seed)  # type: ignore[union-attr]
    assert batch.scores is not None and batch.logp_proximal is not None
    inputs = {
        "advantages": weights.leave_one_out(batch).flatten(),
        "old_logps": objectives.sequence(batch.logp_proximal, batch).flatten(),
    }
    loss = policy_gradient_loss(RLOOTrainer, logp, batch, inputs)
    agree(
        METHODS["rloo"].override(objective=objectives.clipped, level="sequence").override(clip=0.2), logp, batch, loss
    )
    if on_policy:
        (gradient,) = torch.autograd.grad(policy_gradient_loss(RLOOTrainer, logp, batch, inputs), logp)
        assert torch.allclose(METHODS["rloo"].coefficients(logp, batch), -gradient, atol=1e-6)


@seeds
def test_denominators_are_given(seed: int) -> None:
    """The comparison above is of means over the whole batch: that is what a row divides by."""
    batch = make_batch(seed, responses=2)
    _, total = fixed(METHODS["dpo"], batch)
    assert total == torch.tensor(3.0, dtype=F64)
