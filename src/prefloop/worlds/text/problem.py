"""The text problem: rendered prompts, responses of a data file as token groups, scores from one scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.core.batch import DATASET, Batch, label
from prefloop.core.errors import DataError, UserError
from prefloop.core.streams import Stream
from prefloop.data.records import Group, with_system
from prefloop.policies.conversation import Answered, Template
from prefloop.policies.pretrained import check_prompt
from prefloop.policies.token_cache import answered_all

ANY_LENGTH = 10**9  # more tokens than any prompt has
Scorer = Callable[[Batch], Float[Tensor, "P G"]]


@dataclass(frozen=True)
class Truncation:
    """Effect of the length limit on the responses of a data file."""

    responses: int
    cut: int  # number of responses longer than the limit, which lose their end
    empty: int  # number of responses that are only the token that ends them
    identical: int  # number of groups left out of training: different scores for what the limit makes identical
    longest: int = 0  # tokens of the longest response

    def __add__(self, other: Truncation) -> Truncation:
        return Truncation(
            self.responses + other.responses,
            self.cut + other.cut,
            self.empty + other.empty,
            self.identical + other.identical,
            max(self.longest, other.longest),
        )

    @property
    def share(self) -> float:
        """Share of the responses that are cut."""
        return self.cut / self.responses if self.responses else 0.0

    def __str__(self) -> str:
        return (
            f"{self.cut} of {self.responses} responses cut ({self.share:.1%}), {self.empty} empty,"
            f" {self.identical} groups left out: identical responses with different scores"
        )


Asked = tuple[object, ...]  # a conversation, as a key


@dataclass(frozen=True)
class Known:
    """Cache of rendered conversations; shared by copies of a problem with other scorers or offline collections."""

    prompts: dict[Asked, Tensor] = field(default_factory=dict)
    answered: dict[Asked, Answered] = field(default_factory=dict)
    groups: dict[tuple[int, ...], list[Group]] = field(default_factory=dict)  # by the token ids of the prompt


@dataclass(frozen=True)
class TextProblem:
    """A Problem over natural language.

    Args:
        train: prompts, with or without responses.
        template: renders conversations as token ids.
        scorer: scores any batch; None keeps the scores of the data.
        system: system message added to every prompt that has none.
        max_prompt_tokens: longer prompts raise an error.
        max_response_tokens: longer responses of the data are cut, and have no end then; None: none is.
        context: maximum number of tokens of prompt and response; None: no limit.
        vocabulary: number of token ids that the model knows; None: all.
        label_threshold: labels are positive if the score is above it; None: no labels.
        offline: if given, `dataset` draws from it instead of `train`: whole groups with scores.
    """

    train: Sequence[Group]
    template: Template
    scorer: Scorer | None = None
    system: str | None = None
    max_prompt_tokens: int = 256
    max_response_tokens: int | None = None
    context: int | None = None
    vocabulary: int | None = None
    label_threshold: float | None = None
    offline: Batch | None = None
    known: Known = field(default_factory=Known, repr=False)

    # ------------------------------------------------------------------------------------------------- the protocol

    def prompts(self, start: int, count: int, rng: Stream) -> list[Int[Tensor, " L"]]:
        """Endless epochs over the training prompts, each in its own order.

        Raises:
            DataError: prompts that are too long.
        """
        return self.render([self.train[i] for i in places(len(self.train), start, count, rng)])

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        """Offline groups, from the data file or from a collection drawn from the reference.

        Raises:
            UserError: there are no offline responses, or fewer per group than requested.
        """
        if self.offline is not None:
            rows = torch.tensor(places(self.offline.mask.shape[0], start, count, rng))
            return _narrowed(self.offline[rows], responses)
        check_groups(self.train, responses)
        return self.batch_of([self.train[i] for i in places(len(self.train), start, count, rng)], responses)

    def score(self, batch: Batch) -> Batch:
        """The batch with the scorer's scores (or its own if there is no scorer), and the labels derived from them.

        Raises:
            DataError: a score is not finite.
        """
        if self.scorer is not None:
            batch = replace(batch, scores=self.scorer(batch))
        if batch.scores is not None:
            bad = (batch.present & ~torch.isfinite(batch.scores)).nonzero().tolist()
            if bad:
                p, g = bad[0]
                what = f"{len(bad)} scores are not finite; the first is {float(batch.scores[p, g])}"
                raise DataError(
                    what, where=f"prompt {p}, response {g} of the collection", fix="fix the reward function"
                )
        if batch.scores is None or self.label_threshold is None:
            return batch
        return replace(batch, labels=label(batch.scores, self.label_threshold))

    # ------------------------------------------------------------------------------------------------ text to tokens

    def batch_of(self, groups: Sequence[Group], responses: int | None = None) -> Batch:
        """Data groups as token groups of equal size; `valid` marks the empty slots of smaller groups.

        Args:
            responses: slots per group; by default the size of the largest group.

        Raises:
            UserError: a group has more responses than slots, or none.
            DataError: prompts that are too long.
        """
        size = max(len(group.responses) for group in groups) if responses is None else responses
        for group in groups:
            _check_size(group, size)
        rendered = self.answered(groups)
        encoded = [[ids[: self.max_response_tokens] for ids in one.answers] for one in rendered]
        scores = [group.scores for group in groups if group.scores is not None]
        prompts = [one.prompt for one in rendered]
        batch = Batch.from_groups(prompts, encoded, scores if len(scores) == len(groups) else None, slots=size)
        return replace(batch, source=torch.full((len(groups),), DATASET))

    def answered(self, groups: Sequence[Group]) -> list[Answered]:
        """Prompt and responses of groups as the template renders the answered conversations.

        Raises:
            DataError: prompts that are too long, a conversation that exceeds the context, or one that the template
                rejects or changes.
        """
        keys = [(self.system, g.prompt, g.tools, g.responses, g.more) for g in groups]
        new = {key: group for key, group in zip(keys, groups, strict=True) if key not in self.known.answered}
        said = [self._with_system(group) for group in new.values()]
        rendered = answered_all(self.template, said)
        self._check_ids(said, [(one.prompt, *one.answers) for one in rendered])
        for (key, group), one in zip(new.items(), rendered, strict=True):
            self.known.answered[key] = one
            self.known.groups.setdefault(tuple(one.prompt.tolist()), []).append(group)
        made = [self.known.answered[key] for key in keys]
        self._checked(groups, [one.prompt for one in made])
        for group, one in zip(groups, made, strict=True):
            answer = max(map(len, one.answers), default=0)
            longest = len(one.prompt) + min(answer, self.max_response_tokens or answer)
            if self.context is not None and longest > self.context:
                what = f"prompt and response have {longest} tokens; the model's context has {self.context}"
                fix = "shorten it, leave such rows out (data.faulty=skip), or cut responses (data.max_response_tokens)"
                raise DataError(what, where=f"row {group.row}", fix=fix)
        return made

    def sizes(self, groups: Sequence[Group]) -> list[tuple[int, tuple[int, ...]]]:
        """Tokens of the prompt and of each response of groups that have some, and of the prompt of others.

        Raises:
            DataError: see `answered` and `render`.
        """
        given, bare = [g for g in groups if g.responses], [g for g in groups if not g.responses]
        whole = [(len(one.prompt), tuple(map(len, one.answers))) for one in self.answered(given)]
        return whole + [(len(prompt), ()) for prompt in self.render(bare)]

    def render(self, groups: Sequence[Group]) -> list[Int[Tensor, " L"]]:
        """Prompt token ids up to the start of an answer, system message included.

        Raises:
            DataError: prompts that are too long, or that the template rejects or changes.
        """
        keys: list[Asked] = [(self.system, group.prompt, group.tools) for group in groups]
        new: dict[Asked, Group] = {}
        for key, group in zip(keys, groups, strict=True):
            if key not in self.known.prompts:
                new.setdefault(key, group)
        asked = [replace(self._with_system(group), responses=(), more=()) for group in new.values()]
        prompts = [one.prompt for one in answered_all(self.template, asked)]
        self._check_ids(asked, [(ids,) for ids in prompts])
        for (key, group), ids in zip(new.items(), prompts, strict=True):
            self.known.prompts[key] = ids
            self.known.groups.setdefault(tuple(ids.tolist()), []).append(group)
        return self._checked(groups, [self.known.prompts[key] for key in keys])

    def _check_ids(self, groups: Sequence[Group], rendered: Sequence[tuple[Tensor, ...]]) -> None:
        """Refuse tokens without an embedding, such as special tokens that a template writes for another model."""
        most = self.vocabulary
        if most is None or not rendered or int(torch.cat([x for row in rendered for x in row]).max()) < most:
            return
        for group, row in zip(groups, rendered, strict=True):
            if found := [i for i in torch.cat(row).tolist() if i >= most]:
                token = self.template.text(found[:1])
                what = f"`{token}` is token {found[0]}, but the model's embedding has {most} rows"
                fix = "use a template or a text without it, or resize the embedding"
                raise DataError(what, where=f"row {group.row}", fix=fix)

    def _with_system(self, group: Group) -> Group:
        return with_system(self.system, [group])[0]

    def _checked(self, groups: Sequence[Group], prompts: list[Tensor]) -> list[Int[Tensor, " L"]]:
        sizes = [(len(ids), group.row) for ids, group in zip(prompts, groups, strict=True)]
        for size, row in sizes:
            check_prompt(size, None, f"row {row}")
        long = [(size, row) for size, row in sizes if size > self.max_prompt_tokens]
        if long:
            some = f"{len(long)} of {len(sizes)} prompts have" if len(sizes) > 1 else "the prompt has"
            raise DataError(
                f"{some} more than {self.max_prompt_tokens} tokens",
                where=f"first in row {long[0][1]} of the data; the longest has {max(long)[0]}",
                fix=f"data.max_prompt_tokens={max(long)[0]}, or remove these prompts",
            )
        return prompts

    # ------------------------------------------------------------------------------------------------ tokens to text

    def decode(self, batch: Batch) -> list[list[str]]:
        """Texts of the responses without the token that ends them; empty slots of ragged groups give empty texts."""
        return _each_response(self.template.response, batch)

    def decode_prompts(self, batch: Batch) -> list[str]:
        """The last user message if the prompt comes from the data, otherwise the decoded tokens."""
        return [
            self.template.response(p.tolist()) if group is None else group.prompt[-1].content
            for p, group in zip(batch.prompts, self.groups(batch), strict=True)
        ]

    def groups(self, batch: Batch) -> list[Group | None]:
        """The group of the data that each prompt comes from, the last of equal ones; None if there is none."""
        found = [self.known.groups.get(tuple(p.tolist())) for p in batch.prompts]
        return [same[-1] if same else None for same in found]

    def named(self) -> dict[str, Callable[[Batch], list[list[Any]]]]:
        """What a reward function can ask for by name: `messages`, `raw`, and every column of the training data.

        `messages` is the prompt's conversation and `raw` the response with its end and all special tokens.
        """
        columns = dict.fromkeys(key for group in self.train for key in group.columns)
        return {
            **{key: partial(self._column, key) for key in columns},
            "messages": partial(self._each, lambda group: [m.plain for m in self._with_system(group).prompt]),
            "raw": partial(_each_response, self.template.text),
        }

    def _column(self, key: str, batch: Batch) -> list[list[Any]]:
        for p in batch.prompts:
            _check_column(key, self.known.groups.get(tuple(p.tolist()), []))
        return self._each(lambda group: group.columns.get(key), batch)

    def _each(self, read: Callable[[Group], Any], batch: Batch) -> list[list[Any]]:
        size = batch.mask.shape[-2]
        return [[None if group is None else read(group)] * size for group in self.groups(batch)]


def places(n: int, start: int, count: int, rng: Stream) -> list[int]:
    """Indices number `start` to `start + count` of endless epochs over n items, each epoch in its own order."""
    epochs = {e: rng.epoch(n, e).tolist() for e in range(start // n, (start + count - 1) // n + 1)}
    return [epochs[i // n][i % n] for i in range(start, start + count)]


def check_groups(groups: Sequence[Group], responses: int) -> None:
    """Refuse groups that a method with so many responses to a prompt cannot train on.

    Raises:
        UserError: all groups are too small, one is too large, or one is empty.
    """
    largest = max(len(group.responses) for group in groups)
    if 0 < largest < responses:
        raise UserError(
            f"the method needs groups of {responses} responses, but the data have at most {largest}",
            where="method and data.train",
            fix=f"override: {{responses: {largest}}}",
        )
    for group in groups:
        _check_size(group, responses)


def _check_size(group: Group, responses: int) -> None:
    n = len(group.responses)
    if n == 0:
        fix = "set on_policy: 1, or use data with responses"
        raise UserError("the data have no responses to this prompt", where=f"row {group.row}", fix=fix)
    if n > responses:
        first = f", or data.responses={responses} to use the first {responses}" if responses > 1 else ""
        raise UserError(
            f"a group has {n} responses, but the method needs {responses}",
            where=f"row {group.row}",
            fix=f"override: {{responses: {n}}}{first}",
        )


def _narrowed(batch: Batch, responses: int) -> Batch:
    """The first `responses` responses of every group, without log-probs of the policy."""
    size = batch.mask.shape[:2]
    if size[1] < responses:
        raise UserError(
            f"the offline groups have {size[1]} responses, but the method needs {responses}",
            fix=f"override: {{responses: {size[1]}}}, or a collection of larger groups",
        )
    grouped = {f.name: x for f in fields(Batch) if isinstance(x := getattr(batch, f.name), Tensor)}
    cut = {k: x[:, :responses] for k, x in grouped.items() if x.shape[:2] == size and k not in ("prompts", "source")}
    return replace(batch, **cut, source=torch.full((size[0],), DATASET))


def _each_response(read: Callable[[list[int]], str], batch: Batch) -> list[list[str]]:
    """What is read from the token ids of every response."""
    return [
        [read(ids[:n].tolist()) for ids, n in zip(group, lengths, strict=True)]
        for group, lengths in zip(batch.responses, batch.lengths.tolist(), strict=True)
    ]


def _check_column(key: str, same: Sequence[Group]) -> None:
    """Refuse a column whose value a prompt does not determine."""
    for group in same[1:]:
        if group.columns.get(key) != same[0].columns.get(key):
            what = f"the same prompt has different values in the column `{key}`, which the reward reads"
            fix = "make them equal, or keep one of the rows"
            raise DataError(what, where=f"rows {same[0].row} and {group.row}", fix=fix)
