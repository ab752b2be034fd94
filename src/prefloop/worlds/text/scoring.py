"""Scores of a reward model for what a policy writes: from its token ids or, with another tokenizer, from its text."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.errors import DataError
from prefloop.data.records import Group, with_system
from prefloop.policies.conversation import Template
from prefloop.rewards.bradley_terry.encoding import Said
from prefloop.rewards.bradley_terry.ensemble import Ensemble, RewardModel, combined
from prefloop.rewards.bradley_terry.model import BradleyTerry
from prefloop.worlds.text.problem import Scorer, TextProblem


def scorer_of(model: RewardModel, problem: TextProblem) -> tuple[Scorer, str]:
    """The scorer of a reward model, or of several combined, and a note about those that read texts.

    A model with the policy's tokenizer and rendering reads the policy's own token ids. For any other the answer is
    decoded, and the conversation is rendered by the model's own template.

    Raises:
        DataError: a model has no place for a kind of conversation of the data.
    """
    members = model.members if isinstance(model, Ensemble) else (model,)
    other = {place: why for place, one in enumerate(members) if (why := difference(one.template, problem.template))}
    for place in other:
        _check_conversations(members[place], problem)
    each = [partial(by_text, m, problem) if i in other else m.score_batch for i, m in enumerate(members)]
    note = "; ".join(_note(place, why, len(members)) for place, why in other.items())
    if not isinstance(model, Ensemble):
        return each[0], note
    return lambda batch: combined(torch.stack([score(batch) for score in each]), model.combine), note


def difference(reward: Template, policy: Template) -> str:
    """What keeps a reward model from reading the policy's token ids; empty if nothing does."""
    if reward.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        return "tokenizer"
    return "" if reward.sketch == policy.sketch else "chat template"


def _note(place: int, why: str, count: int) -> str:
    which = f"reward model {place + 1}" if count > 1 else "the reward model"
    return f"{which} has another {why} than the policy: it reads the text of the answers by its own"


def by_text(model: BradleyTerry, problem: TextProblem, batch: Batch) -> Float[Tensor, "P G"]:
    """One score per response, 0 on the empty slots of ragged groups; no gradient.

    An answer is its text without the token that ends it, with special tokens as text. One that the length limit cut is
    scored without what the template writes behind an answer.

    Raises:
        DataError: a prompt that is not one of the data.
    """
    present, ends = batch.present.cpu(), problem.template.ends
    groups, texts, lengths = _conversations(problem, batch), problem.decode(batch), batch.lengths.tolist()
    said = [
        Said(groups[p], texts[p][g], int(batch.responses[p, g, lengths[p][g] - 1]) in ends)
        for p, g in present.nonzero().tolist()
    ]
    scores = torch.zeros(present.shape)
    scores[present] = model.score_said(said)
    return scores.to(batch.mask.device)


def _conversations(problem: TextProblem, batch: Batch) -> list[Group]:
    """The conversation behind each prompt of a batch."""
    found = problem.groups(batch)
    known = [group for group in found if group is not None]
    if len(known) < len(found):
        place = found.index(None)
        what = "a reward model with another tokenizer or template needs the conversation of the data behind a prompt"
        raise DataError(
            what, where=f"prompt {place} of the batch: {problem.template.text(batch.prompts[place].tolist())}"
        )
    return with_system(problem.system, known)


def _check_conversations(model: BradleyTerry, problem: TextProblem) -> None:
    """Try the first conversation of each kind: its roles, and whether it has tools."""
    kinds: dict[object, Group] = {}
    for group in with_system(problem.system, problem.train):
        kinds.setdefault((tuple(m.role for m in group.prompt), bool(group.tools)), group)
    for group in kinds.values():
        try:
            model.said([Said(group, "a", True)])
        except DataError as error:
            what = f"the reward model cannot read a conversation of the data: {error.what}"
            fix = "use a reward model that reads such conversations, or leave them out"
            raise DataError(what, where=error.where or f"row {group.row}", fix=error.fix or fix) from error
