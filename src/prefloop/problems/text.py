"""Text as a problem: prompts through the chat template, data responses as token groups, scores by a scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.batch import DATASET, Batch, Stream
from prefloop.data.records import Group
from prefloop.errors import DataError, UserError
from prefloop.policies.pretrained import Tokenizer, check_prompt, decode_response, encode_response, render

Scorer = Callable[[Batch], Float[Tensor, "P G"]]


@dataclass(frozen=True)
class TextProblem:
    """A Problem over natural language.

    Args:
        train: prompts, with or without responses.
        scorer: scores any batch; None leaves the scores that came with the data.
        system: a system message before every prompt.
        max_prompt_tokens: longer prompts are refused.
        max_new_tokens: longer responses are cut; a cut response has no EOS.
        offline: what `dataset` draws from where `train` has no responses: groups with scores, one per prompt.
    """

    train: Sequence[Group]
    tokenizer: Tokenizer
    scorer: Scorer | None = None
    system: str | None = None
    max_prompt_tokens: int = 256
    max_new_tokens: int = 64
    offline: Batch | None = None

    def prompts(self, start: int, count: int, rng: Stream) -> list[Int[Tensor, " L"]]:
        """Endless epochs over the training prompts, each in its own order."""
        return [self._rendered[i] for i in _places(len(self.train), start, count, rng)]

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        """Offline groups: of the data file, or of the collection that was drawn from the reference.

        Raises:
            UserError: there are no offline responses, or not as many per group as asked for.
        """
        if self.offline is None:
            chosen = [self.train[i] for i in _places(len(self.train), start, count, rng)]
            return self.batch_of(chosen, responses)
        rows = torch.tensor(_places(self.offline.mask.shape[0], start, count, rng))
        group = self.offline[rows]
        if group.mask.shape[1] != responses:
            raise UserError(f"the offline groups have {group.mask.shape[1]} responses, not {responses}")
        return group

    def score(self, batch: Batch) -> Batch:
        """The batch with the scorer's scores, or with its own where there is no scorer.

        Raises:
            DataError: no scores at all, or one that is not finite.
        """
        if self.scorer is not None:
            batch = replace(batch, scores=self.scorer(batch))
        if batch.scores is not None and not bool(torch.isfinite(batch.scores[batch.present]).all()):
            bad = (~torch.isfinite(batch.scores)).nonzero()[0].tolist()
            raise DataError("a score is not finite", where=f"prompt {bad[0]}, response {bad[1]} of the collection")
        return batch

    def batch_of(self, groups: Sequence[Group], responses: int) -> Batch:
        """Data groups as token groups of `responses` places each, shorter groups padded with absent responses.

        Raises:
            UserError: a group has more responses than that, or none has any.
        """
        for group in groups:
            if not group.responses:
                raise UserError("the data have no responses", where=f"row {group.row}", fix="set on_policy: 1")
            if len(group.responses) > responses:
                raise UserError(
                    f"a group has {len(group.responses)} responses, the method takes {responses}",
                    where=f"row {group.row}",
                    fix=f"override: {{responses: {len(group.responses)}}}",
                )
        texts = [[self.encode(text) for text in group.responses] for group in groups]
        longest = max(len(ids) for row in texts for ids in row)
        tokens = torch.zeros(len(groups), responses, longest, dtype=torch.long)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        scores, valid = torch.zeros(len(groups), responses), torch.zeros(len(groups), responses, dtype=torch.bool)
        for p, (group, row) in enumerate(zip(groups, texts, strict=True)):
            for g, ids in enumerate(row):
                tokens[p, g, : len(ids)], mask[p, g, : len(ids)], valid[p, g] = ids, True, True
                scores[p, g] = 0.0 if group.scores is None else group.scores[g]
        return Batch(
            self.render(groups),
            tokens,
            mask,
            scores=None if groups[0].scores is None else scores,
            valid=None if bool(valid.all()) else valid,
            source=torch.full((len(groups),), DATASET),
        )

    def encode(self, text: str) -> Int[Tensor, " T"]:
        """A response as the policy would have written it, cut at the limit."""
        return encode_response(self.tokenizer, text)[: self.max_new_tokens]

    def render(self, groups: Sequence[Group]) -> list[Int[Tensor, " L"]]:
        """Prompt token ids, system message included."""
        return [self._render(group) for group in groups]

    def decode(self, batch: Batch) -> list[list[str]]:
        """Texts of the responses, without special tokens."""
        lengths = batch.lengths.tolist()
        return [
            [decode_response(self.tokenizer, ids[:n]) for ids, n in zip(group, row, strict=True)]
            for group, row in zip(batch.responses, lengths, strict=True)
        ]

    def decode_prompts(self, batch: Batch) -> list[str]:
        """What the user said last, where the prompt is one of ours; else the decoded tokens."""
        return [self._texts.get(tuple(p.tolist())) or decode_response(self.tokenizer, p) for p in batch.prompts]

    def remember(self, groups: Sequence[Group]) -> None:
        """Know the texts of further prompts, such as held-out ones."""
        for group, ids in zip(groups, self.render(groups), strict=True):
            self._texts[tuple(ids.tolist())] = group.prompt[-1].content

    @cached_property
    def _rendered(self) -> list[Int[Tensor, " L"]]:
        return self.render(self.train)

    @cached_property
    def _texts(self) -> dict[tuple[int, ...], str]:
        return {tuple(ids.tolist()): g.prompt[-1].content for g, ids in zip(self.train, self._rendered, strict=True)}

    def _render(self, group: Group) -> Int[Tensor, " L"]:
        said = [{"role": m.role, "content": m.content} for m in group.prompt]
        if self.system is not None and said[0]["role"] != "system":
            said = [{"role": "system", "content": self.system}, *said]
        where = f"row {group.row}"
        ids = render(self.tokenizer, said, where=where)
        check_prompt(len(ids), self.max_prompt_tokens, where)
        return ids


def _places(n: int, start: int, count: int, rng: Stream) -> list[int]:
    """Items number `start` to `start + count` of endless epochs over n items, each epoch in its own order."""
    epochs = {e: rng.epoch(n, e).tolist() for e in range(start // n, (start + count - 1) // n + 1)}
    return [epochs[i // n][i % n] for i in range(start, start + count)]
