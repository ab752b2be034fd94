"""How long the demo will take: its own work, measured on a small part of it at the real sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from prefloop.core.batch import Batch
from prefloop.core.streams import streams
from prefloop.policies.causal_lm import CausalLM
from prefloop.runs.config import Config
from prefloop.runs.offline import offline_groups
from prefloop.runs.world import World, method_of, open_world, plan_of
from prefloop.worlds.text.open_data import open_data

TOKENS = 4  # of each answer that the probe samples
ROWS = 64  # responses that are sampled at a time
SHARE = 0.9  # mean length of a response as a share of the limit, over a whole run


@dataclass(frozen=True)
class Draw:
    """Seconds to sample one chunk of responses."""

    first: float  # the prompts and the first token
    token: float  # each further token of all responses

    def seconds(self, tokens: int) -> float:
        return self.first + self.token * SHARE * (tokens - 1)


@dataclass(frozen=True)
class Speed:
    """Seconds of each piece of work on this machine, as busy as it is now."""

    opening: float  # model and data
    collection: Draw  # of one chunk of a collection
    evaluation: Draw  # of one answer to each held-out prompt
    forward: float  # of the responses to the held-out prompts through one model
    training: float  # one optimiser step


def forecast(configs: Sequence[Config]) -> float:
    """Seconds that the runs of one comparison will take; the measurement itself takes a few percent of that."""
    clock, first = time.monotonic(), configs[0]
    world = open_world(first, open_data(first.data, seed=first.seed), say=lambda text: None)
    speed = measure(first, world, opening=time.monotonic() - clock)
    return sum(seconds(config, speed) for config in configs) + _start(configs, speed, len(world.data.train))


def measure(config: Config, world: World, *, opening: float) -> Speed:
    """Sample, read and train once, each on a small part of what a run does."""
    policy, group = world.model.policy(), method_of(config).responses
    train = world.problem.prompts(0, min(ROWS, config.training.batch) // group, streams(config.seed)["prompts"])
    held_out = world.problem.render(world.data.held_out[: config.evaluation.prompts])
    _draw(policy, train[:1], 1)  # libraries set themselves up at their first call
    collection, evaluation = _draw(policy, train, group), _draw(policy, held_out, 1)
    tokens = round(SHARE * config.sampling.max_new_tokens)
    answers, used = _answers(held_out, 1, tokens), _answers(train[: config.training.minibatch // group], 2, tokens)
    with torch.no_grad():
        forward = _seconds(lambda: policy.evaluate(answers))
    training = _seconds(lambda: policy.evaluate(used).logp.sum().backward())
    return Speed(opening, collection, evaluation, forward, training)


def seconds(config: Config, speed: Speed) -> float:
    """What one run takes, without what the runs of a comparison share."""
    method, training, tokens = method_of(config), config.training, config.sampling.max_new_tokens
    total = training.steps * speed.training
    if method.on_policy > 0:
        collections = -(-training.steps * training.minibatch // (training.batch * method.reuse))
        reading = speed.forward * training.batch / config.evaluation.prompts
        total += collections * (training.batch / ROWS * speed.collection.seconds(tokens) + reading)
    evaluations = -(-training.steps // (config.evaluation.every or training.steps))
    total += evaluations * (speed.evaluation.seconds(tokens) + 2 * speed.forward)
    return total + (speed.evaluation.seconds(tokens) if config.evaluation.greedy else 0.0)


def _start(configs: Sequence[Config], speed: Speed, prompts: int) -> float:
    """What the runs share: the model, the answers of the reference before training, and its offline responses."""
    config, methods = configs[0], [(method_of(c), plan_of(c, method_of(c))) for c in configs]
    tokens, answers = config.sampling.max_new_tokens, 2 if config.evaluation.greedy else 1
    offline = {(offline_groups(m, plan, prompts), m.responses) for m, plan in methods if m.on_policy < 1}
    rows = sum(groups * responses for groups, responses in offline)
    sampling = rows / ROWS * speed.collection.seconds(tokens) + answers * speed.evaluation.seconds(tokens)
    return speed.opening + sampling


def _draw(policy: CausalLM, prompts: Sequence[torch.Tensor], responses: int) -> Draw:
    """The sampler calls `poll` before each token, which shows what the prompts and what each token took."""
    stamps: list[float] = []
    sampling = policy.sampling
    policy.sampling = replace(sampling, max_new_tokens=TOKENS)
    policy.draw(prompts, responses, streams(0)["evaluation"], lambda: stamps.append(time.monotonic()))
    policy.sampling = sampling
    stamps.append(time.monotonic())
    steps = max(1, len(stamps) - 2)
    return Draw(stamps[1] - stamps[0], (stamps[-1] - stamps[1]) / steps)


def _answers(prompts: Sequence[torch.Tensor], responses: int, tokens: int) -> Batch:
    ids = torch.full((len(prompts), responses, tokens), 5)
    return Batch(list(prompts), ids, torch.ones_like(ids, dtype=torch.bool))


def _seconds(work: Callable[[], object]) -> float:
    clock = time.monotonic()
    work()
    return time.monotonic() - clock
