"""Actions and features on a problem of the prior: settings of the lab, and what a user would measure on one data set.

Where the user has no scores, as the reward is learned or gold shows only the order of responses, two reward
models are fitted to two halves of the data; each scores the prompts of the other half. Where gold itself orders fresh
responses, it agrees with the data and with itself whatever these models do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from prefloop.advice.actions import ACTIONS, EXACT, SAMPLED, Action
from prefloop.advice.features import SAMPLES, UNFITTED, Array, Facts, Value, features, top_agreement
from prefloop.advice.prior import PROMPTS, Problem
from prefloop.analysis.offer import Given, Samples
from prefloop.analysis.statistics import Mean, mean_se
from prefloop.core.batch import Batch
from prefloop.core.streams import Stream
from prefloop.lab.setting import Setting
from prefloop.lab.stack import build
from prefloop.lab.tuning import Knob
from prefloop.worlds.arms import problem as bandit
from prefloop.worlds.lengths import learned as texts
from prefloop.worlds.rotated import problem as circle

Score: TypeAlias = Callable[[Batch], Tensor]
ASKED = 64  # prompts
ENUMERABLE = ("rotated", "arms", "categorical")  # worlds where KL(π‖π_ref) is a sum over all responses


def setting(problem: Problem, action: Action) -> Setting:
    """The action on a problem, within its budgets of steps and of fresh samples; learning rate and knob are open."""
    steps = problem.steps
    if action.switches.on_policy:
        steps = min(steps, problem.samples // problem.batch * action.switches.reuse)
    kind = EXACT if problem.kind in ENUMERABLE else SAMPLED
    own: dict[str, Any] = {
        "responses": problem.responses,
        "batch": problem.batch,
        "minibatch": problem.batch,
        "steps": steps,
        "spacing": "log",
    }
    return Setting(action.method, problem.world, {**action.override, **(kind if action.penalty else {})}, **own)


def knob_of(action: Action) -> Knob:
    """The action's knob, to be tuned."""
    return Knob(action.knob.name, action.knob.values, action.knob.start)


def features_of(problem: Problem, seed: int = 0) -> dict[str, Value]:
    """The features of a problem."""
    world: Any = problem.world
    plain = replace(problem, world=replace(world, scorer="gold"))
    loop = build([replace(setting(plain, ACTIONS["best-of-n-offline"]), seed=seed)]).loop
    policy: Any = loop.policy
    data, own = loop.problem.data, Stream("features", [seed], stacked=True)  # type: ignore[attr-defined]
    halves = np.array_split(np.arange(world.data), 2)
    rows = np.concatenate([half[: ASKED // 2] for half in halves])
    asked = _rows(data, rows)
    with torch.no_grad():
        drawn = policy.draw(asked.prompts, SAMPLES, own)
        logp = policy.evaluate(asked).logp
    facts = Facts(
        beta=problem.beta,
        steps=problem.steps,
        samples=problem.samples,
        prompts=PROMPTS[problem.kind],
        groups=world.data,
        group=problem.responses,
        cardinal=world.labels != "ordinal",
        learned=world.scorer == "proxy",
        agrees=UNFITTED if world.scorer == "proxy" or world.labels != "ordinal" else Mean(1.0, 0.0, world.data),
    )
    if not facts.learned and facts.cardinal:
        gold = loop.problem.gold  # type: ignore[attr-defined]
        return features(given(asked, logp, gold(asked)[0]), samples(drawn, gold(drawn)[0]), facts)
    both = _learner(problem, policy, seed)(_joined([_rows(data, half) for half in halves]))
    second = torch.from_numpy(rows < len(halves[0])).long()  # which model has not seen a prompt: the second one, first

    def held_out(batch: Batch) -> tuple[Tensor, Tensor]:
        scores = both(_joined([batch, batch]))
        return scores[second, torch.arange(len(rows))], scores

    mine, each = held_out(drawn)
    if facts.learned:
        right = [_accuracy(both, _rows(data, half), run) for run, half in zip((1, 0), halves, strict=True)]
        known = mean_se(np.concatenate(right)) if sum(map(len, right)) else UNFITTED
        facts = replace(facts, agrees=known, top_agrees=top_agreement(*each.double().numpy()))
    return features(given(asked, logp, held_out(asked)[0]), samples(drawn, mine), facts)


def samples(drawn: Batch, reward: Tensor) -> Samples:
    """Samples of the reference, of a stack of one run."""
    assert drawn.logp_proximal is not None
    tokens = [[_tokens(drawn, p, g) for g in range(SAMPLES)] for p in range(drawn.mask.shape[1])]
    logp = drawn.logp_proximal.sum(-1)[0].double().numpy()
    return Samples(logp, drawn.lengths[0].double().numpy(), tokens, reward.double().numpy())


def given(data: Batch, logp: Tensor, reward: Tensor) -> Given:
    """The data's responses: the best of a group is chosen and the worst rejected, unless all are equal."""
    assert data.scores is not None
    scores = data.scores[0].double().numpy()
    prompts, group = scores.shape
    side, pairs = np.zeros((prompts, group), dtype=np.intp), []
    for p in np.flatnonzero(scores.max(1) > scores.min(1)):
        best, worst = int(scores[p].argmax()), int(scores[p].argmin())
        side[p, best], side[p, worst] = 1, -1
        pairs.append((p * group + best, p * group + worst))
    return Given(
        np.repeat(np.arange(prompts), group),
        side.ravel(),
        logp.sum(-1)[0].double().numpy().ravel(),
        data.lengths[0].double().numpy().ravel(),
        [_tokens(data, p, g) for p in range(prompts) for g in range(group)],
        [],
        np.array(pairs, dtype=np.intp).reshape(-1, 2),
        reward=reward.double().numpy().ravel(),
    )


def _tokens(batch: Batch, prompt: int, response: int) -> list[int]:
    own: list[int] = batch.responses[0, prompt, response][batch.mask[0, prompt, response]].tolist()
    return own


def _accuracy(both: Score, data: Batch, run: int) -> Array:
    """Share of each group's strict preferences that one of two models orders correctly; groups without any left out."""
    assert data.scores is not None
    own = both(_joined([data, data]))[run].double()
    better = data.scores[0][..., :, None] > data.scores[0][..., None, :]
    gap = own[..., :, None] - own[..., None, :]
    right = torch.where(better, (gap > 0).double() + 0.5 * (gap == 0), 0.0).sum((1, 2))
    count = better.sum((1, 2))
    return np.asarray((right / count.clamp(min=1))[count > 0].numpy())


def _rows(data: Batch, rows: Any) -> Batch:
    return data[torch.as_tensor(rows)[None]]


def _joined(parts: list[Batch]) -> Batch:
    """Batches of one run as runs of a stack; the last group of the longer ones is left out."""
    least = min(part.mask.shape[1] for part in parts)

    def of(name: str) -> Tensor:
        return torch.cat([getattr(part, name)[:, :least] for part in parts])

    scores = None if any(part.scores is None for part in parts) else of("scores")
    return Batch(of("prompts"), of("responses"), of("mask"), scores=scores)


def _learner(problem: Problem, policy: Any, seed: int) -> Callable[[Batch], Score]:
    """How a world learns rewards from the data of two runs."""
    world: Any = problem.world
    seeds = [seed, seed]

    def learn(halves: Batch) -> Score:
        if problem.kind == "rotated":
            return circle.scorer(circle.learned_reward(halves, seeds, world.arms, hidden=world.hidden), world.arms)
        if problem.kind == "lengths":
            return texts.fit(policy.take(torch.zeros(2, dtype=torch.long)), halves, seeds)
        return bandit.ArmReward(bandit.learned_reward(halves, seeds))

    return learn
