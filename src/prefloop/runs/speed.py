"""The speed of this machine at one run on a language model, measured on a small part of its work, and what follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from prefloop.core.devices import wait
from prefloop.core.method import Method
from prefloop.core.pairs import best_vs_worst
from prefloop.core.streams import streams
from prefloop.core.weights import best_only
from prefloop.runs.config import Config
from prefloop.runs.offline import offline_groups
from prefloop.runs.world import TextWorld, method_of, plan_of
from prefloop.worlds.text.open_reward import LABELS

T = TypeVar("T")
QUICK = {"prompts": 48, "tokens": 8, "groups": 2}  # of a quick try: sampled prompts and tokens, groups that are read


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine under its current load, with responses as long as the reference's."""

    opening: float  # of model, data and reward
    sampling: float  # of one response
    forward: float  # of one response through one model
    training: float  # of one response, forward and backward


def expected(config: Config, world: TextWorld, done: int = 0) -> float:
    """Predicted seconds of a run from here on, from a few seconds of its work.

    Args:
        done: steps that are taken already.
    """
    left = replace(config, training=replace(config.training, steps=config.training.steps - done))
    speed, given = quick(config, world), given_responses(config, world)
    return start([left], speed, unanswered(world), given) + seconds(left, speed, given)


def quick(config: Config, world: TextWorld) -> Speed:
    """Time sampling, evaluation and training in a few seconds: few responses, the first tokens of sampled ones."""
    policy, device = world.model.policy(), world.model.device
    limit, longest = policy.prompt_limit, policy.sampling.max_new_tokens
    tokens = min(QUICK["tokens"], longest)
    together = min(QUICK["prompts"], policy.sampling.rows)  # a step costs little more for many rows than for few
    rendered = world.problem.render(_apart(world.data.train, together))
    prompts = [ids for ids in rendered if limit is None or len(ids) <= limit]
    sampling, scale, batch = 0.0, 1.0, None
    with torch.no_grad():
        if prompts:
            rng = streams(config.seed)["evaluation"]
            short, one = (policy.sampled(max_new_tokens=count) for count in (tokens, 1))
            one.draw(prompts[:1], 1, rng)  # libraries initialise at their first call
            spent, batch = _timed(lambda: short.draw(prompts, 1, rng), device)
            reading, _ = _timed(lambda: one.draw(prompts, 1, rng), device)  # the prompts, which takes its time once
            more = max(0.0, spent - reading) * (longest - 1) / max(1, tokens - 1)
            sampling = (reading + more) / len(prompts)
            prompt = sum(map(len, prompts)) / len(prompts)
            scale = (prompt + longest) / (prompt + tokens)
        if config.reward.name == LABELS or batch is None:  # then the responses of the data are read
            given = [group for group in world.problem.train if group.responses]
            scale, batch = 1.0, world.problem.batch_of(_apart(given, QUICK["groups"]))
        policy.evaluate(batch[torch.arange(1)])  # the same for reading
        forward, _ = _timed(lambda: policy.evaluate(batch), device)
    training, _ = _timed(lambda: policy.evaluate(batch).logp.sum().backward(), device)
    read = int(batch.present.sum()) / scale
    return Speed(0.0, sampling, forward / read, training / read)


def _apart(groups: Sequence[T], count: int) -> Sequence[T]:
    """So many of them, evenly spaced."""
    return groups[:: max(1, len(groups) // count)][:count]


def unanswered(world: TextWorld) -> int:
    """Training prompts that the reference answers; 0 if the data have responses."""
    return 0 if world.data.has_responses else len(world.data.train)


def given_responses(config: Config, world: TextWorld) -> int:
    """Held-out responses of the data that each evaluation reads."""
    sizes, most = [len(group.responses) for group in world.data.held_out], config.evaluation.pairs
    return 2 * min(most, sum(n > 1 for n in sizes)) + min(most, sizes.count(1))


def seconds(config: Config, speed: Speed, given: int = 0) -> float:
    """Seconds of one run, without the work that the runs of a comparison share.

    Args:
        given: held-out responses of the data that each evaluation reads: of pairs, or with labels.
    """
    method, plan, evaluation = method_of(config), config.training, config.evaluation
    collections = -(-plan.steps * plan.minibatch // (plan.batch * method.reuse))
    reading = speed.forward if "reference" in method.needs else 0.0
    collecting = collections * plan.batch * (method.on_policy * speed.sampling + reading)
    training = plan.steps * plan.minibatch * trained(method) * speed.training
    evaluations = -(-plan.steps // (evaluation.every or max(1, plan.steps)))
    each = _answers(config) * (speed.sampling + 2 * speed.forward) + given * speed.forward
    return collecting + training + evaluations * each + evaluation.greedy * speed.sampling


def _answers(config: Config) -> int:
    """Held-out answers that an evaluation samples: none if labels are the reward, which cannot score them."""
    return 0 if config.reward.name == LABELS else config.evaluation.samples * config.evaluation.prompts


def start(configs: Sequence[Config], speed: Speed, prompts: int, given: int = 0) -> float:
    """Seconds of the work that runs of a comparison share: model, answers before training, offline responses.

    Args:
        prompts: number of training prompts that the reference answers; 0 if the data have responses.
        given: see `seconds`.
    """
    methods = [(method_of(config), plan_of(config, method_of(config))) for config in configs]
    offline = {(offline_groups(m, plan, prompts), m.responses) for m, plan in methods if m.on_policy < 1}
    answers = _answers(configs[0]) + configs[0].evaluation.greedy
    sampled = sum(groups * responses for groups, responses in offline)
    return speed.opening + (sampled + answers) * speed.sampling + given * speed.forward


def trained(method: Method) -> float:
    """Share of the responses that the loss reads."""
    if method.weight is best_only:
        return 1 / method.responses
    return 2 / method.responses if method.pairs is best_vs_worst else 1.0


def _timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    clock = time.monotonic()
    out = work()
    wait(device)
    return time.monotonic() - clock, out
