"""The text problem: rendered prompts, responses of a data file as token groups, scores from one scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.core.batch import DATASET, Batch, label
from prefloop.core.errors import DataError, UserError
from prefloop.core.streams import Stream
from prefloop.data.records import Group, Message
from prefloop.policies.pretrained import Tokenizer, decode_response, encode_response, render

Scorer = Callable[[Batch], Float[Tensor, "P G"]]


@dataclass(frozen=True)
class Truncation:
    """Effect of the length limit on the responses of a data file."""

    responses: int
    cut: int  # number of responses longer than the limit: their end and EOS are cut
    empty: int  # number of responses that are only EOS
    identical: int  # number of groups with different scores for identical token sequences

    def __str__(self) -> str:
        share = f"{self.cut / self.responses:.1%}" if self.responses else "none"
        return (
            f"{self.cut} of {self.responses} responses cut ({share}), {self.empty} empty,"
            f" {self.identical} groups with different scores for identical responses"
        )


@dataclass(frozen=True)
class Known:
    """Cache of rendered prompts; shared by copies of a problem with other scorers or offline collections."""

    ids: dict[tuple[str | None, tuple[Message, ...]], Tensor] = field(default_factory=dict)
    texts: dict[tuple[int, ...], str] = field(default_factory=dict)


@dataclass(frozen=True)
class TextProblem:
    """A Problem over natural language.

    Args:
        train: prompts, with or without responses.
        scorer: scores any batch; None keeps the scores of the data.
        system: system message added to every prompt that has none.
        max_prompt_tokens: longer prompts raise an error.
        max_new_tokens: longer responses are cut; a cut response has no EOS.
        label_threshold: labels are positive if the score is above it; None: no labels.
        offline: if given, `dataset` draws from it instead of `train`: whole groups with scores.
    """

    train: Sequence[Group]
    tokenizer: Tokenizer
    scorer: Scorer | None = None
    system: str | None = None
    max_prompt_tokens: int = 256
    max_new_tokens: int = 64
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
        largest = max(len(group.responses) for group in self.train)
        if 0 < largest < responses:
            raise UserError(
                f"the method needs groups of {responses} responses, but the data have at most {largest}",
                where="method and data.train",
                fix=f"override: {{responses: {largest}}}",
            )
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
        encoded = [[self.encode(text) for text in group.responses] for group in groups]
        tokens = torch.zeros(len(groups), size, max(len(ids) for row in encoded for ids in row), dtype=torch.long)
        mask, scores = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros(tokens.shape[:2])
        for p, (group, row) in enumerate(zip(groups, encoded, strict=True)):
            for g, ids in enumerate(row):
                tokens[p, g, : len(ids)], mask[p, g, : len(ids)] = ids, True
            if group.scores is not None:
                scores[p, : len(row)] = torch.tensor(group.scores)
        valid = mask.any(-1)  # every response has at least one token, the EOS
        return Batch(
            self.render(groups),
            tokens,
            mask,
            scores=None if any(group.scores is None for group in groups) else scores,
            valid=None if bool(valid.all()) else valid,
            source=torch.full((len(groups),), DATASET),
        )

    def encode(self, text: str) -> Int[Tensor, " T"]:
        """A response as the policy would have sampled it: it ends with its first EOS, and is cut at the limit."""
        return self._whole(text)[: self.max_new_tokens]

    def _whole(self, text: str) -> Int[Tensor, " T"]:
        ids = encode_response(self.tokenizer, text)  # a text may contain the EOS, which would end it
        return ids[: int((ids == self.tokenizer.eos_token_id).nonzero()[0]) + 1]

    def truncation(self, groups: Sequence[Group]) -> Truncation:
        """Effect of the length limit on the responses of these groups."""
        whole = [[self._whole(text) for text in group.responses] for group in groups]
        flat = [ids for row in whole for ids in row]
        return Truncation(
            responses=len(flat),
            cut=sum(len(ids) > self.max_new_tokens for ids in flat),
            empty=sum(len(ids) == 1 for ids in flat),
            identical=sum(_indistinct(g, row, self.max_new_tokens) for g, row in zip(groups, whole, strict=True)),
        )

    def render(self, groups: Sequence[Group]) -> list[Int[Tensor, " L"]]:
        """Prompt token ids, system message included; each prompt goes through the chat template once.

        Raises:
            DataError: prompts that are too long, or that the template rejects.
        """
        ids = [self._render(group) for group in groups]
        long = [(group.row, len(x)) for group, x in zip(groups, ids, strict=True) if len(x) > self.max_prompt_tokens]
        if long:
            longest = max(length for _, length in long)
            raise DataError(
                f"{len(long)} of {len(ids)} prompts have more than {self.max_prompt_tokens} tokens",
                where=f"first in row {long[0][0]} of the data; the longest has {longest}",
                fix=f"data.max_prompt_tokens={longest}, or remove these prompts",
            )
        return ids

    def _render(self, group: Group) -> Int[Tensor, " L"]:
        key = (self.system, group.prompt)
        if key not in self.known.ids:
            said = [{"role": m.role, "content": m.content} for m in group.prompt]
            if self.system is not None and said[0]["role"] != "system":
                said = [{"role": "system", "content": self.system}, *said]
            ids = render(self.tokenizer, said, where=f"row {group.row}")
            self.known.ids[key], self.known.texts[tuple(ids.tolist())] = ids, group.prompt[-1].content
        return self.known.ids[key]

    def remember(self, groups: Sequence[Group]) -> None:
        """Render the training prompts and these groups now, to detect prompts that are too long early.

        Raises:
            DataError: prompts that are too long.
        """
        self.render([*self.train, *groups])

    # ------------------------------------------------------------------------------------------------ tokens to text

    def decode(self, batch: Batch) -> list[list[str]]:
        """Texts of the responses, without special tokens; empty slots of ragged groups give empty texts."""
        return [
            [decode_response(self.tokenizer, ids[:n]) for ids, n in zip(group, lengths, strict=True)]
            for group, lengths in zip(batch.responses, batch.lengths.tolist(), strict=True)
        ]

    def decode_prompts(self, batch: Batch) -> list[str]:
        """The last user message if the prompt comes from the data, otherwise the decoded tokens."""
        texts = self.known.texts
        return [texts.get(tuple(p.tolist())) or decode_response(self.tokenizer, p) for p in batch.prompts]


def places(n: int, start: int, count: int, rng: Stream) -> list[int]:
    """Indices number `start` to `start + count` of endless epochs over n items, each epoch in its own order."""
    epochs = {e: rng.epoch(n, e).tolist() for e in range(start // n, (start + count - 1) // n + 1)}
    return [epochs[i // n][i % n] for i in range(start, start + count)]


def label_threshold(groups: Sequence[Group]) -> float | None:
    """0 if the scores of the data are labels already (+1 and −1, or 1 and 0 for pairs); None for ratings."""
    values = {score for group in groups for score in group.scores or ()}
    return 0.0 if values and (values <= {1.0, -1.0} or values <= {1.0, 0.0}) else None


def _check_size(group: Group, responses: int) -> None:
    n = len(group.responses)
    if n == 0:
        fix = "set on_policy: 1, or use data with responses"
        raise UserError("the data have no responses to this prompt", where=f"row {group.row}", fix=fix)
    if n > responses:
        raise UserError(
            f"a group has {n} responses, but the method needs {responses}",
            where=f"row {group.row}",
            fix=f"override: {{responses: {n}}}, or data.responses={responses} to use the first {responses}",
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


def _indistinct(group: Group, whole: Sequence[Int[Tensor, " _"]], limit: int) -> bool:
    """Whether two responses with different scores have the same tokens within the limit."""
    scores: dict[tuple[int, ...], float] = {}
    rated = zip(whole, group.scores or (), strict=False)
    return any(scores.setdefault(tuple(ids[:limit].tolist()), score) != score for ids, score in rated)
