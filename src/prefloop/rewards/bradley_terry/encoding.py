"""Prompts with responses as token rows, and the preferences within groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.core.errors import DataError
from prefloop.data.records import Group
from prefloop.policies.conversation import Answered, Template
from prefloop.policies.token_cache import answered_all
from prefloop.rewards.bradley_terry.options import Ties


@dataclass(frozen=True)
class Row:
    """One prompt with one response, cut on the left to the maximum length."""

    ids: Int[Tensor, " L"]
    length: int  # tokens of the full response, its closing included
    cut: bool  # whether prompt and response were cut
    paired: bool = False  # whether prompt and response are two texts with marks of their own

    @property
    def response(self) -> int:
        """Number of response tokens at the end of `ids`."""
        return min(self.length, len(self.ids))


@dataclass(frozen=True)
class Said:
    """An answer that a policy wrote, as text."""

    group: Group  # the conversation that it answers; its own responses are not read
    text: str
    ended: bool  # False: the length limit cut it

    @property
    def answered(self) -> Group:
        """The conversation with this answer alone."""
        return replace(self.group, responses=(self.text,), scores=None, more=())


@dataclass(frozen=True)
class Rows:
    """Distinct rows, and the row index of every response of every group."""

    rows: tuple[Row, ...]
    places: tuple[tuple[int, ...], ...]  # per group, per response


@dataclass(frozen=True)
class Preferences:
    """Pairs of rows with different ratings and, with ties, also those with equal ratings."""

    index: Int[Tensor, "N 2"]  # (winner, loser)
    gap: Float[Tensor, " N"]  # rating of the winner minus that of the loser; 0 = tie
    keys: tuple[str, ...]  # the question of each pair


@dataclass(frozen=True)
class Scored:
    """Scores of every response of some groups, one entry per response."""

    score: Float[Tensor, " M"]
    length: Int[Tensor, " M"]  # tokens of the full response, its closing included
    group: Int[Tensor, " M"]  # index of its group
    cut: Bool[Tensor, " M"]  # whether it was scored without its first tokens because of the length limit


@dataclass(frozen=True)
class Comparison:
    """A reward model's margins on given preferences, one entry per pair."""

    margin: Float[Tensor, " N"]  # s_winner − s_loser
    longer: Int[Tensor, " N"]  # tokens of the winner minus tokens of the loser
    keys: tuple[str, ...]  # the question


def make_row(prompt: Int[Tensor, " L"], response: Int[Tensor, " T"], max_tokens: int) -> Row:
    """The last `max_tokens` tokens of prompt and response."""
    whole = torch.cat([prompt, response])
    return Row(whole[-max_tokens:], len(response), len(whole) > max_tokens)


def last_place(ids: Int[Tensor, " L"], padding: int | None) -> int:
    """Place of the last token that is not padding, also where that is the token that ends an answer."""
    said = (ids != padding).nonzero() if padding is not None else ids.new_empty(0)
    return int(said[-1]) if len(said) else (len(ids) - 1 if padding is None else 0)


def encode(template: Template, groups: Sequence[Group], max_tokens: int, *, whole: bool = False) -> Rows:
    """All responses of the groups; duplicates with the same prompt share one row.

    Args:
        whole: read all that the template renders, also behind the token that ends an answer.

    Raises:
        DataError: a conversation that the chat template rejects or changes.
    """
    known: dict[tuple[int, ...], int] = {}
    rows: list[Row] = []
    places = []
    for made in answered_all(template, groups):
        own = []
        for said in made.rendered if whole else made.answers:
            place = known.setdefault((len(made.prompt), *made.prompt.tolist(), *said.tolist()), len(rows))
            if place == len(rows):
                rows.append(make_row(made.prompt, said, max_tokens))
            own.append(place)
        places.append(tuple(own))
    return Rows(tuple(rows), tuple(places))


def said_rows(template: Template, said: Sequence[Said], max_tokens: int, *, whole: bool = False) -> list[Row]:
    """A row for every answer, rendered as a given one; one that was cut has nothing behind its last token.

    An answer that the template refuses, or of which it drops a part, is taken as it is, behind the generation prompt.

    Args:
        whole: see `encode`.

    Raises:
        DataError: a prompt that the template rejects or changes.
    """
    groups = [one.answered for one in said]
    try:
        made = template.answered_all(groups) if groups else []
    except DataError:
        made = [_answered(template, group) for group in groups]
    read = [one.rendered[0] if whole else one.answers[0] for one in made]
    kept = [ids if one.ended else each.answers[0][:-1] for ids, one, each in zip(read, said, made, strict=True)]
    return [make_row(one.prompt, ids, max_tokens) for one, ids in zip(made, kept, strict=True)]


def _answered(template: Template, group: Group) -> Answered:
    try:
        return template.answered(group)
    except DataError:
        prompt = template.prompt(group.prompt, group.tools, where=f"row {group.row}")
        answer = template.tokenizer(group.responses[0], add_special_tokens=False, split_special_tokens=True)
        closed, rendered = ((*answer["input_ids"], *behind) for behind in ((template.end,), template.closing))
        return Answered(prompt, (torch.tensor(closed),), (torch.tensor(rendered, dtype=torch.long),))


def preferences(groups: Sequence[Group], places: Sequence[Sequence[int]], ties: Ties = "drop") -> Preferences:
    """All strict preferences within the groups, and with `half` also every pair of equal ratings once.

    Raises:
        DataError: no strict preference.
    """
    index: list[tuple[int, int]] = []
    gap: list[float] = []
    keys: list[str] = []
    for group, place in zip(groups, places, strict=True):
        for w, lost, ahead in _ordered(group.scores or (), ties):
            index.append((place[w], place[lost]))
            gap.append(ahead)
            keys.append(group.key)
    if not any(gap):
        fix = "give pairs, or ratings that differ; `prefloop data check FILE` counts them"
        raise DataError("no preferences: no group has responses with different scores", fix=fix)
    return Preferences(torch.tensor(index), torch.tensor(gap, dtype=torch.float32), tuple(keys))


def count_pairs(group: Group, ties: Ties = "drop") -> int:
    """Number of preferences within a group, counted as in `preferences`."""
    return sum(1 for _ in _ordered(group.scores or (), ties))


def _ordered(scores: Sequence[float], ties: Ties) -> Iterator[tuple[int, int, float]]:
    for i, a in enumerate(scores):
        for j, b in enumerate(scores):
            if a > b or (ties == "half" and a == b and i < j):
                yield i, j, a - b


def comparison(groups: Sequence[Group], scored: Scored) -> Comparison:
    """The strict preferences of groups whose responses have all been scored.

    Raises:
        DataError: no strict preference.
    """
    numbers = iter(range(len(scored.score)))
    pairs = preferences(groups, [tuple(next(numbers) for _ in group.responses) for group in groups])
    winner, loser = pairs.index.unbind(-1)
    margin, longer = (x[winner] - x[loser] for x in (scored.score, scored.length))
    return Comparison(margin, longer, pairs.keys)
