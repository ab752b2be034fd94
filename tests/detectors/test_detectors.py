"""Planted faults: each changes what it says it changes; a smoke run of the benchmark from end to end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.analysis.checks import CHECKS
from prefloop.core.batch import Batch
from prefloop.core.streams import Stream
from prefloop.detectors import faults
from prefloop.detectors.benchmark import Watch, evidences
from prefloop.detectors.faults import FAULTS, SOUND, Parts, bases, parts
from prefloop.lab.setting import Setting, changed, make
from prefloop.lab.stack import stack_of
from prefloop.worlds.spec import Stack

SMALL: dict[str, Any] = {"steps": 3, "evaluate": 2, "evaluation": 4, "batch": 8, "minibatch": 8}


def small(method: str = "dpo", problem: str = "categorical", **fields: Any) -> Setting:
    size = {"responses": 2, "data": 80} | SMALL | fields
    return make(method, problem, **size)


def made(setting: Setting, runs: int = 2) -> tuple[Parts, Stack]:
    stack = stack_of([replace(setting, seed=seed) for seed in range(runs)])
    return parts(stack), stack


def flips(before: Batch, after: Batch) -> Tensor:
    """Which groups have their order reversed, [S, N]."""
    assert before.scores is not None and after.scores is not None
    return (before.scores.diff(dim=-1) * after.scores.diff(dim=-1)).squeeze(-1) < 0


def test_every_kind_names_checks_and_bases_that_exist() -> None:
    known = bases()
    assert len(FAULTS) >= 12
    for name, fault in FAULTS.items():
        assert fault.reasons and fault.reasons <= CHECKS.keys(), name
        assert fault.bases and set(fault.bases) <= known.keys(), name
        for base in fault.bases:
            fault.change(known[base]).check()


def test_half_of_the_offline_groups_are_held_out() -> None:
    own, _ = made(small())
    assert own.held is not None and own.built.problem.data is not None
    assert own.held.mask.shape[1] == own.built.problem.data.mask.shape[1] == 40
    assert own.built.offline == 80
    online, _ = made(small("rloo"))
    assert online.held is None


@pytest.mark.parametrize("share", [0.1, 0.3])
@pytest.mark.parametrize("plant", [faults.swapped, faults.noisy])
def test_labels_are_flipped_in_that_share_of_the_pairs(plant: Any, share: float) -> None:
    own, stack = made(small(data=1200))
    found = plant(own, stack, share=share)
    for before, after in ((own.built.problem.data, found.built.problem.data), (own.held, found.held)):
        flipped = flips(before, after)
        assert flipped.double().mean().item() == pytest.approx(share, abs=0.04)
        assert not torch.equal(flipped[0], flipped[1])  # each run has its own


def test_noise_flips_close_pairs_first() -> None:
    own, stack = made(small(data=1200))
    data = own.built.problem.data
    flipped = flips(data, faults.noisy(own, stack, share=0.1).built.problem.data)
    gap = data.scores.diff(dim=-1).abs().squeeze(-1)
    there = gap > 0
    assert gap[flipped & there].mean() < 0.7 * gap[~flipped & there].mean()


def test_duplicates_are_the_same_groups_on_both_sides() -> None:
    own, stack = made(small("dpo", "arms", hidden=4))
    found = faults.duplicated(own, stack, share=0.25)
    assert found.held is not None and found.held.mask.shape == own.held.mask.shape  # type: ignore[union-attr]
    watch = Watch(found, [replace(small("dpo", "arms", hidden=4), seed=s) for s in range(2)])
    assert watch.evidence(0).overlap == 0.25
    sound = Watch(own, [replace(small("dpo", "arms", hidden=4), seed=s) for s in range(2)])
    assert sound.evidence(0).overlap == 0


class Ended:
    """A policy of which only the end matters."""

    end = 0


@pytest.mark.parametrize(("tokens", "lengths"), [(None, [2, 3, 1, 1]), (2, [2, 2, 1, 2])])
def test_ends_are_taken_from_the_data(tokens: int | None, lengths: list[int]) -> None:
    ids = torch.tensor([[[[5, 6, 0, 0], [7, 7, 7, 0]], [[0, 0, 0, 0], [8, 0, 0, 0]]]])
    whole = torch.tensor([[[3, 4], [1, 2]]])
    data = Batch(torch.zeros(1, 2, dtype=torch.long), ids, torch.arange(4) < whole[..., None])
    own, stack = made(small(), runs=1)
    problem = replace(own.built.problem, data=data)
    ended = replace(own, built=replace(own.built, problem=problem, policy=Ended()), held=None)
    assert faults.cut(ended, stack, tokens=tokens).built.problem.data.lengths.flatten().tolist() == lengths


def test_levelled_groups_have_no_variance() -> None:
    own, stack = made(small("rloo", responses=4))
    problem = faults.levelled(own, stack, share=0.9).built.problem
    rng = Stream("x", stack.seeds, True)
    scored = problem.score(own.built.policy.draw(torch.zeros(2, 400, dtype=torch.long), 4, rng))
    assert (scored.scores.std(-1) < 1e-6).double().mean().item() == pytest.approx(0.9, abs=0.05)


def online(problem: str = "arms") -> tuple[Parts, Stack]:
    return made(small("grpo", problem, responses=4, hidden=4))


def test_a_stale_sampler_records_an_old_policy() -> None:
    own, stack = online()
    sampler = faults.stale(own, stack, lag=2).sampler
    policy, rng = own.built.policy, Stream("draw", stack.seeds, True)
    prompts = own.built.problem.prompts(0, 3, Stream("p", stack.seeds, True))
    sampler.sync(0)
    old = policy.frozen()
    with torch.no_grad():
        for weight in policy.weights.values():
            weight += 0.1
    sampler.sync(1)
    drawn = sampler.draw(prompts, 4, rng)
    assert torch.equal(drawn.logp_behaviour, old.evaluate(drawn).logp)
    assert not torch.allclose(drawn.logp_behaviour, policy.evaluate(drawn).logp)
    for _ in range(2):
        sampler.sync(2)
    drawn = sampler.draw(prompts, 4, rng)
    assert torch.allclose(drawn.logp_behaviour, policy.evaluate(drawn).logp)


def test_an_engine_has_weights_of_its_own_and_true_log_probs() -> None:
    own, stack = online()
    sampler = faults.engine(own, stack, error=0.1).sampler
    sampler.sync(0)
    prompts = own.built.problem.prompts(0, 3, Stream("p", stack.seeds, True))
    drawn = sampler.draw(prompts, 4, Stream("draw", stack.seeds, True))
    assert torch.allclose(drawn.logp_behaviour, sampler.copy.evaluate(drawn).logp)
    assert torch.allclose(drawn.logp_proximal, own.built.policy.evaluate(drawn).logp)
    assert not torch.allclose(drawn.logp_behaviour, drawn.logp_proximal)


def test_a_reward_of_other_data_is_not_gold() -> None:
    own, stack = made(small("grpo", "categorical", responses=4, scorer="proxy", data=400, centre=50.0))
    found = faults.of_other_data(own, stack, centre=25.0)
    assert found.learned and own.learned
    best = found.built.problem.proxy.table.argmax(-1)
    assert ((best - 25).abs() < 12).all()
    seen = found.built.evaluate(own.built.policy, own.built.reference, Stream("e", stack.seeds, True))
    assert not torch.allclose(seen["eval/reward"], seen["eval/gold"])


# ---- the evidence ----------------------------------------------------------------------------------------------------


def test_evidence_is_that_of_a_run_folder() -> None:
    settings = [replace(small(), seed=seed) for seed in range(2)]
    run, other = evidences(settings)
    assert run.curves["loss"].step.tolist() == [1, 2, 3]
    assert run.curves["eval/gold"].step.tolist() == [0, 2, 3]
    assert run.curves["eval/rewards/accuracies"].first == 0.5  # every pair ties
    assert len(run.margins) == 40 and run.curves["kl"].first == pytest.approx(0, abs=1e-6)
    assert (run.beta, run.pairs, run.reference, run.overlap, run.unended) == (0.1, True, True, None, None)
    assert run.curves["loss"].last != other.curves["loss"].last
    assert run.name == "dpo on categorical, seed 0"


def test_a_run_is_the_same_in_a_stack_and_alone() -> None:
    settings = [replace(small(), seed=seed, precision="float64") for seed in range(2)]
    both, (alone,) = evidences(settings), evidences(settings[1:])
    assert both[1].curves["loss"].value == pytest.approx(alone.curves["loss"].value)


def test_a_planted_fault_shows_in_a_run() -> None:
    setting = FAULTS["β is 0"].change(small())
    (run,) = evidences([setting], FAULTS["β is 0"])
    assert CHECKS["beta"].fires(CHECKS["beta"].sign(run))
    levelled = replace(FAULTS["zero variance"], bases=())
    (run,) = evidences([changed(small("grpo", responses=4), steps=12, batch=64, minibatch=64)], levelled)
    assert CHECKS["groups"].fires(CHECKS["groups"].sign(run))


def test_the_benchmark_runs_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefloop.detectors import benchmark as detectors

    tiny = {"dpo": small(), "grpo": small("grpo", responses=4)}
    kinds = {
        "β is 0": replace(FAULTS["β is 0"], bases=("dpo",)),
        "zero variance": replace(FAULTS["zero variance"], bases=("grpo",)),
    }
    monkeypatch.setattr(detectors, "bases", lambda: tiny)
    monkeypatch.setattr(detectors, "FAULTS", kinds)
    monkeypatch.setattr(detectors, "SOUND", replace(SOUND, bases=("dpo", "grpo")))
    said: list[str] = []
    found = detectors.benchmark(2, 4, tick=said.append)
    assert len(found.cases) == 8 and said[0] == "dpo: 2 runs"
    assert found.detectors["prefloop"].found["β is 0"].value == 1
    assert set(found.detectors) == {"prefloop", "axolotl", "verl"} and found.rocs["beta"] is not None
    assert found.thresholds.keys() == CHECKS.keys()
