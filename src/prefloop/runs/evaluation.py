"""Measurements on held-out prompts and pairs; the reference is evaluated once, before training."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefloop.analysis.divergence import kl_estimates, sequence_logp
from prefloop.analysis.labels import label_metrics
from prefloop.analysis.likelihood import likelihood_metrics
from prefloop.analysis.preference import outcomes, preference_accuracy, winner_first
from prefloop.analysis.several import distinct, overlap
from prefloop.analysis.statistics import mean_se
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError
from prefloop.core.files import short
from prefloop.core.streams import streams
from prefloop.data.records import Group, spread
from prefloop.policies.causal_lm import CausalLM
from prefloop.runs.config import Config
from prefloop.runs.probe import Followed, followed
from prefloop.runs.world import TextWorld

Metrics = dict[str, float]
Line = dict[str, Any]
Poll = Callable[[], None]


@dataclass(frozen=True)
class Pairs:
    """Held-out pairs, winners first, with their log-probs under the reference."""

    batch: Batch
    keys: list[str]  # the question of each pair
    names: list[Line]  # hashes of each pair and of its question, equal in all runs on the same data
    reference: Tensor  # summed log π_ref [P, 2]


@dataclass(frozen=True)
class Single:
    """Held-out single responses, with labels or as demonstrations, and their log-probs under the reference."""

    batch: Batch
    names: list[Line]  # hashes of each response and of its question, equal in all runs on the same data
    reference: Tensor  # summed log π_ref [P]
    good: Tensor | None = None  # whether each is labelled good [P]; None for demonstrations

    @property
    def lengths(self) -> Tensor:
        """Tokens of each response [P]."""
        return self.batch.lengths[:, 0].cpu()


@dataclass(frozen=True)
class Baseline:
    """The evaluation of the reference, which later ones are compared with."""

    metrics: Metrics
    answers: Batch | None  # None if no reward scores fresh answers
    pairs: Pairs | None  # None if the held-out set has no pairs with a winner
    labelled: Single | None  # None if the held-out set has no single responses of both labels
    shown: Single | None = None  # held-out demonstrations; None if there are none
    greedy: Batch | None = None  # answers at temperature 0; None if not requested
    scores: Sequence[Line] = ()  # see `Evaluation.scores`
    probe: Followed | None = None  # what is measured to see what is forgotten; None if nothing is

    @property
    def judged(self) -> list[Line]:
        """See `Evaluation.judged`."""
        return [] if self.pairs is None else _judged(self.pairs.reference, self.pairs)

    @property
    def examples(self) -> list[Line]:
        """See `Evaluation.examples`."""
        return [line for held in (self.labelled, self.shown) if held for line in _examples(held.reference, held)]


@dataclass(frozen=True)
class Evaluation:
    """What was measured at one step.

    Args:
        metrics: keys start with `eval/`: means with standard errors over prompts (`_se`), accuracies with the ends of
            their intervals (`_low`, `_high`).
        answers: the policy's answers; None if no reward scores them.
        log_ratio: log π − log π_ref of each of them.
        scores: for each held-out prompt the rewards of its answers, training reward and gold.
        judged: for each held-out pair whether it is ordered as the annotator did, by each criterion (ties count ½), and
            its margin of log π/π_ref.
        examples: for each held-out single response its tokens and, with a label, log π/π_ref, otherwise log π.
    """

    metrics: Metrics
    answers: Batch | None
    judged: Sequence[Line]
    log_ratio: Tensor | None = None
    scores: Sequence[Line] = ()
    examples: Sequence[Line] = ()


def evaluate_reference(config: Config, world: TextWorld, poll: Poll) -> Baseline:
    """Reward and lengths of the reference's answers; its KL and implicit rewards are 0 by definition.

    Raises:
        DataError: more than `evaluation.max_cut` of its answers are cut, so that the reward would depend on the limit.
    """
    reference = world.model.reference
    pairs, answers = _pairs(config, world, poll), _answers(config, world, reference, poll)
    metrics: Metrics = {}
    scores: list[Line] = []
    if answers is not None:
        rewards = _rewards(world, answers)
        metrics |= _answered(reference, answers, rewards)
        scores = _by_prompt(_asked(config, world), rewards)
        metrics |= {f"eval/kl_{way}{end}": 0.0 for way in ("reverse", "forward") for end in ("", "_se")}
        _check_cut(metrics["eval/cut"], config)
    if pairs is not None:
        metrics |= _preference(pairs.reference, pairs)
    labelled = _labelled(config, world, poll)
    if labelled is not None:
        metrics |= _separation(labelled.reference, labelled)
    shown = _demonstrations(config, world, poll)
    if shown is not None:
        metrics |= likelihood_metrics(shown.reference, shown.lengths)
    probe = followed(config, world, poll)
    metrics |= probe.metrics(None) if probe else {}
    greedy = greedy_answers(config, world, reference, poll)
    return Baseline(metrics, answers, pairs, labelled, shown, greedy, scores, probe)


def evaluate(
    config: Config, world: TextWorld, baseline: Baseline, policy: CausalLM, *, beta: float, poll: Poll
) -> Evaluation:
    """Rewards, lengths and both KLs on held-out prompts, preference accuracy on held-out pairs, and the answers.

    Args:
        beta: scale of the implicit rewards.
    """
    metrics: Metrics = {}
    judged: list[Line] = []
    scores: list[Line] = []
    examples: list[Line] = []
    log_ratio: Tensor | None = None
    answers = _answers(config, world, policy, poll)
    if answers is not None and baseline.answers is not None:
        rewards = _rewards(world, answers)
        metrics |= _answered(policy, answers, rewards)
        scores = _by_prompt(_asked(config, world), rewards)
        divergence = kl_estimates(policy, world.model.reference, answers, baseline.answers, poll)
        metrics, log_ratio = metrics | divergence.metrics(), divergence.log_ratio
    if baseline.pairs is not None:
        logp = sequence_logp(policy, baseline.pairs.batch, poll)
        metrics |= _preference(logp, baseline.pairs, beta)
        judged = _judged(logp, baseline.pairs)
    if baseline.labelled is not None:
        logp = _logp(policy, baseline.labelled.batch, poll)
        metrics |= _separation(logp, baseline.labelled, beta)
        examples += _examples(logp, baseline.labelled)
    if baseline.shown is not None:
        logp = _logp(policy, baseline.shown.batch, poll)
        metrics |= likelihood_metrics(logp, baseline.shown.lengths)
        examples += _examples(logp, baseline.shown)
    metrics |= baseline.probe.metrics(policy, poll) if baseline.probe else {}
    return Evaluation(metrics, answers, judged, log_ratio, scores, examples)


def greedy_answers(config: Config, world: TextWorld, policy: CausalLM, poll: Poll) -> Batch | None:
    """One answer at temperature 0 to each of the first `evaluation.greedy` held-out questions that leave room for it.

    It is scored if the run has a reward that can.
    """
    limit, groups = policy.prompt_limit, spread(world.data.held_out)[: config.evaluation.greedy]
    prompts = [ids for ids in world.problem.render(groups) if limit is None or len(ids) <= limit]
    return _drawn(config, world, policy.greedy(), prompts, 1, poll) if prompts else None


def _answers(config: Config, world: TextWorld, policy: CausalLM, poll: Poll) -> Batch | None:
    """Scored answers to the held-out prompts; None if no reward scores them."""
    if world.reward.scorer is None:
        return None
    prompts = world.problem.render(_asked(config, world))
    return _drawn(config, world, policy, prompts, config.evaluation.samples, poll)


def _asked(config: Config, world: TextWorld) -> Sequence[Group]:
    """The held-out prompts that are answered."""
    return world.data.held_out[: config.evaluation.prompts]


def _drawn(config: Config, world: TextWorld, policy: CausalLM, prompts: list[Tensor], count: int, poll: Poll) -> Batch:
    """Answers, with the same random numbers at every evaluation of a seed."""
    with torch.no_grad():
        return world.problem.score(policy.draw(prompts, count, streams(config.seed)["evaluation"], poll))


def _rewards(world: TextWorld, answers: Batch) -> dict[str, Tensor]:
    """The training reward of each answer, and its gold reward if there is one."""
    assert answers.scores is not None
    gold = world.reward.gold
    return {"reward": answers.scores} | ({} if gold is None else {"gold": gold(answers)})


def _answered(policy: CausalLM, answers: Batch, rewards: Mapping[str, Tensor]) -> Metrics:
    out: Metrics = {}
    for name, values in {"reward": rewards["reward"], "length": answers.lengths.float(), **rewards}.items():
        out |= _mean(name, values)
    return out | {"eval/cut": float(policy.is_cut(answers).float().mean())} | _several(policy, answers, rewards)


def _several(policy: CausalLM, answers: Batch, rewards: Mapping[str, Tensor]) -> Metrics:
    """The best answer to each prompt, and how different they are without the token that ends them; nothing of one."""
    if answers.responses.shape[1] < 2:
        return {}
    out: Metrics = {}
    for name, values in rewards.items():
        out |= _mean(f"{name}/best", values.max(-1, keepdim=True).values)
    kept = answers.lengths - (~policy.is_cut(answers)).long()
    texts = [
        [ids[:n].tolist() for ids, n in zip(*one, strict=True)] for one in zip(answers.responses, kept, strict=True)
    ]
    for name, each in (("distinct_2", map(distinct, texts)), ("overlap", map(overlap, texts))):
        known = [x for x in each if not math.isnan(x)]
        out |= _mean(name, torch.tensor(known)[:, None]) if known else {}
    return out


def _by_prompt(groups: Sequence[Group], rewards: Mapping[str, Tensor]) -> list[Line]:
    """The rewards of the answers to each prompt; it and its question are named by hashes of their texts."""
    columns = {name: values.tolist() for name, values in rewards.items()}
    return [
        {"prompt": short(group.text), "question": short(group.key), **{name: x[i] for name, x in columns.items()}}
        for i, group in enumerate(groups)
    ]


def _mean(name: str, x: Tensor) -> Metrics:
    """Mean over prompts of the mean over answers, and its standard error."""
    m = mean_se(x.double().mean(-1).numpy())
    return {f"eval/{name}": m.value, f"eval/{name}_se": m.se}


def _preference(logp: Tensor, pairs: Pairs, beta: float = 1.0) -> Metrics:
    accuracy = preference_accuracy(logp, pairs.reference, pairs.batch.lengths, pairs.keys, beta=beta)
    return {k: float(v) for k, v in accuracy.metrics().items()}


def _judged(logp: Tensor, pairs: Pairs) -> list[Line]:
    found = outcomes(logp, pairs.reference, pairs.batch.lengths)
    moved = logp.double() - pairs.reference.double()
    columns = {name: values.tolist() for name, values in {**found, "margin": moved[:, 0] - moved[:, 1]}.items()}
    return [{**own, **{k: v[i] for k, v in columns.items()}} for i, own in enumerate(pairs.names)]


def _named(group: Group) -> Line:
    """Hashes of a pair, by its texts and which of them won, and of its question."""
    order = (0, 1) if group.scores and group.scores[0] > group.scores[1] else (1, 0)
    texts = [[m.plain for m in group.prompt], *(group.answers[i].plain for i in order)]
    return {"pair": short(json.dumps(texts)), "question": short(group.key)}


def _pairs(config: Config, world: TextWorld, poll: Poll) -> Pairs | None:
    """The first held-out pairs with a winner, from as many questions as possible."""
    strict = [g for g in world.data.held_out if len(g.responses) == 2 and g.scores and g.scores[0] != g.scores[1]]
    chosen = spread(strict)[: config.evaluation.pairs]
    if not chosen:
        return None
    batch = winner_first(world.problem.batch_of(chosen, 2))
    names, logp = [_named(group) for group in chosen], sequence_logp(world.model.reference, batch, poll)
    return Pairs(batch, [group.key for group in chosen], names, logp)


def _separation(logp: Tensor, held: Single, beta: float = 1.0) -> Metrics:
    assert held.good is not None
    return label_metrics(beta * (logp - held.reference), held.lengths, held.good)


def _examples(logp: Tensor, held: Single) -> list[Line]:
    """What is recorded of each single response."""
    columns: dict[str, Tensor] = {"tokens": held.lengths}
    columns |= {"logp": logp} if held.good is None else {"good": held.good, "moved": logp - held.reference}
    values = {name: x.tolist() for name, x in columns.items()}
    return [{**own, **{name: x[i] for name, x in values.items()}} for i, own in enumerate(held.names)]


def _labelled(config: Config, world: TextWorld, poll: Poll) -> Single | None:
    """The first held-out single responses whose scores are labels, from as many questions as possible."""
    threshold = world.reward.label_threshold if world.reward.scorer is None else None
    if threshold is None:
        return None
    single = [g for g in world.data.held_out if len(g.responses) == 1 and g.scores]
    chosen = spread(single)[: config.evaluation.pairs]
    good = torch.tensor([bool(g.scores and g.scores[0] > threshold) for g in chosen])
    return _single(world, chosen, poll, good) if len(set(good.tolist())) == 2 else None


def _demonstrations(config: Config, world: TextWorld, poll: Poll) -> Single | None:
    """The first held-out single responses without labels, from as many questions as possible."""
    single = [g for g in world.data.held_out if len(g.responses) == 1 and g.scores is None]
    chosen = spread(single)[: config.evaluation.pairs]
    return _single(world, chosen, poll) if chosen else None


def _single(world: TextWorld, groups: Sequence[Group], poll: Poll, good: Tensor | None = None) -> Single:
    batch, times = world.problem.batch_of(groups, 1), Counter[str]()
    names = []
    for group in groups:
        name = short(json.dumps([[m.plain for m in (*group.prompt, *group.answers)], group.scores]))
        times[name] += 1  # the same response to the same prompt may be there twice
        names.append({"example": f"{name}-{times[name]}", "question": short(group.key)})
    return Single(batch, names, _logp(world.model.reference, batch, poll), good)


def _logp(policy: CausalLM, batch: Batch, poll: Poll) -> Tensor:
    """Summed log π of single responses [P]."""
    return sequence_logp(policy, batch, poll)[:, 0]


def _check_cut(share: float, config: Config) -> None:
    if share > config.evaluation.max_cut:
        raise DataError(
            f"{share:.0%} of the reference's answers are cut at {config.sampling.max_new_tokens} tokens;"
            f" at most {config.evaluation.max_cut:.0%} are allowed",
            where="sampling.max_new_tokens",
            fix="raise it, or use prompts with shorter answers (data.system can ask for them)",
        )
