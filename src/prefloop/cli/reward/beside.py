"""What `prefloop reward card` measures beside held-out accuracy: on further files, and on a policy's own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.cli.reward.shared import Shared, read_data
from prefloop.core.errors import DataError

if TYPE_CHECKING:
    from prefloop.data.records import Group
    from prefloop.rewards.bradley_terry.encoding import Scored
    from prefloop.rewards.bradley_terry.ensemble import RewardModel
    from prefloop.rewards.bradley_terry.measures import Ranked, Section
    from prefloop.runs.trained import Answering

PORTION = 8  # prompts that a policy answers together


@dataclass(frozen=True)
class Asked:
    """A policy, and how much it answers."""

    policy: str
    prompts: int
    answers: int
    tokens: int


def other_file(options: Shared, path: Path) -> list[Group]:
    """The groups of a further file, whose format is seen by its columns."""
    return read_data(replace(options, format="auto", columns={}, group_by="prompt", limit=None), path).groups


def of_traps(model: RewardModel, path: Path, groups: list[Group], seed: int) -> Section:
    """Accuracy on a file of traps."""
    from prefloop.rewards.bradley_terry.measures import traps

    seen = model.compare(groups)
    return traps(seen.margin.numpy(), seen.longer.numpy(), seen.keys, name=path.name, seed=seed)


def of_best(groups: Sequence[Group], scored: Scored, seed: int) -> Section | None:
    """Best of n on the rows that have a best answer of several."""
    from prefloop.rewards.bradley_terry.measures import best_of

    return best_of(ranked(groups, scored), seed=seed)


def ranked(groups: Sequence[Group], scored: Scored) -> list[Ranked]:
    """Scores of the rows with two or more ratings, and which answers have the highest one."""
    from prefloop.rewards.bradley_terry.measures import Ranked

    rows = []
    for group, scores in zip(groups, _by_group(groups, scored.score.tolist()), strict=True):
        right = [rating == max(group.scores) for rating in group.scores] if group.scores else []
        if right and not all(right):
            rows.append(Ranked(scores, right, group.key, str(group.columns.get("id", ""))))
    return rows


def of_annotators(groups: Sequence[Group], scored: Scored, seed: int) -> Section | None:
    """The human ceiling, if the rows say what each of three or more annotators preferred."""
    from prefloop.rewards.bradley_terry.measures import ceiling

    scores, lengths = (_by_group(groups, x.double().tolist()) for x in (scored.score, scored.length))
    found = [
        (group.columns["votes"], s[0] - s[1], n[0] - n[1], group.key)
        for group, s, n in zip(groups, scores, lengths, strict=True)
        if len(s) == 2 and isinstance(group.columns.get("votes"), list)
    ]
    if not found:
        return None
    votes, margin, longer, keys = map(list, zip(*found, strict=True))
    return ceiling(votes, margin, longer, keys, seed=seed)


def _by_group(groups: Sequence[Group], values: Sequence[float]) -> list[list[float]]:
    numbers = iter(values)
    return [[next(numbers) for _ in group.responses] for group in groups]


def of_policy(model: RewardModel, groups: Sequence[Group], asked: Asked, seed: int) -> tuple[Section, list[str]]:
    """Spread of the reward over a policy's answers to the prompts, and what a reader must know.

    Raises:
        DataError: fewer than two prompts that the policy can answer.
    """
    from prefloop.core.streams import streams
    from prefloop.data.records import spread, with_system
    from prefloop.rewards.bradley_terry.measures import under_policy
    from prefloop.runs.trained import trained

    policy = trained(asked.policy).sampled(1.0, asked.tokens)
    different = list({(g.prompt, g.tools): g for g in reversed(spread(groups))}.values())[::-1]
    good, faults = policy.readable(different[: asked.prompts])
    if len(good) < 2:
        fix = "give more prompts, or a policy with a longer context"
        raise DataError(f"the policy can answer {len(good)} of these prompts", where="--policy", fix=fix)
    draws, scores, cut = streams(seed)["sampling"], list[list[float]](), 0
    for start in range(0, len(good), PORTION):
        portion = good[start : start + PORTION]
        given = policy.answers(portion, asked.answers, draws)
        cut += sum(answer.cut for row in given for answer in row)
        said = _said(with_system(policy.system, portion), given)
        values = iter(_score_said(model, said))
        scores += [[next(values) for _ in row] for row in given]
    remarks = [*lineage(model, policy)]
    if faults:
        remarks.append(f"{len(faults):,} prompts are left out, because the policy cannot answer them.")
    if cut:
        total = len(good) * asked.answers
        remarks.append(f"{cut:,} of the policy's {total:,} answers were cut at {asked.tokens:,} tokens.")
    return under_policy(scores, seed=seed), remarks


def _said(groups: Sequence[Group], given: Sequence[Sequence[Any]]) -> list[Any]:
    from prefloop.rewards.bradley_terry.encoding import Said

    return [Said(g, a.text, not a.cut) for g, row in zip(groups, given, strict=True) for a in row]


def _score_said(model: RewardModel, said: list[Any]) -> list[float]:
    import torch

    from prefloop.rewards.bradley_terry.ensemble import Ensemble, combined

    if not isinstance(model, Ensemble):
        return list(model.score_said(said).tolist())
    return list(combined(torch.stack([m.score_said(said) for m in model.members]), model.combine).tolist())


def lineage(model: RewardModel, policy: Answering) -> list[str]:
    """A warning about each reward model that comes from another family of models than the policy."""
    from prefloop.rewards.bradley_terry.ensemble import Ensemble

    warnings, theirs = [], policy.policy.model.config.get_text_config().model_type
    for place, one in enumerate(model.members if isinstance(model, Ensemble) else (model,)):
        config: Any = one.backbone.config
        own = config.get_text_config().model_type
        differs = ["tokenizer"] if one.tokenizer.get_vocab() != policy.template.tokenizer.get_vocab() else []
        differs += [f"architecture ({own}, policy {theirs})"] if own != theirs else []
        if differs:
            which = f"Reward model {place + 1}" if isinstance(model, Ensemble) else "The reward model"
            warnings.append(
                f"{which} and the policy are of different lineage: they differ in {' and '.join(differs)}. Accuracy "
                "on given answers may then say little of how well it guides the policy (Malik et al. 2025)."
            )
    return warnings
