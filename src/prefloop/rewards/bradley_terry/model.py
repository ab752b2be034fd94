"""A Bradley-Terry reward model: a linear head on the hidden states of a causal language model, fitted to pairs.

P(w ≻ l) = σ(s_w − s_l) (Bradley & Terry 1952; Ouyang et al. 2022, eq. 1).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.protocols import no_op
from prefloop.data.records import Group, prompt_text
from prefloop.policies.pretrained import Model, Tokenizer, is_adapted, parts
from prefloop.rewards.bradley_terry.encoding import (
    Comparison,
    Preferences,
    Row,
    Rows,
    Scored,
    closed,
    comparison,
    encode,
    eos,
    make_row,
    portions,
    preferences,
)
from prefloop.rewards.bradley_terry.logistic import fit_pairs, pair_features
from prefloop.rewards.bradley_terry.loss import PairLoss, pair_loss

Pooling = Literal["last", "mean", "both"]
WIDTH = {"last": 1, "mean": 1, "both": 2}  # hidden sizes that the head reads
BRADLEY_TERRY = PairLoss()
STEPS = 200  # of training everything, unless told otherwise


def unobserved(step: int, loss: float) -> None:
    """Nobody watches the training."""


@dataclass(frozen=True)
class BradleyTerry:
    """A fitted reward model; `score_batch` is a scorer for token ids of the same tokenizer."""

    backbone: nn.Module
    head: nn.Linear  # float32, to one score
    tokenizer: Tokenizer
    closing: tuple[int, ...]  # ids behind the text of an answer: its EOS, or what a model of others saw there
    pooling: Pooling = "both"  # hidden state of the last token, mean over response tokens, or both
    max_tokens: int = 1024  # longer sequences lose their beginning
    micro_tokens: int = 8192  # most tokens, padding included, that go through the backbone at once
    autocast: bool = False  # bfloat16 matrix products of the backbone
    facts: Mapping[str, int | float | str] = field(default_factory=dict)  # how it was fitted and how good it is
    trained_on: frozenset[str] = frozenset()  # digests of the questions that it was fitted to

    @property
    def is_traced(self) -> bool:
        """Whether it is known which questions it was fitted to."""
        return bool(self.trained_on)

    def score_batch(self, batch: Batch) -> Float[Tensor, "P G"]:
        """One score per response, 0 on the empty places of ragged groups; no gradient."""
        present, lengths = batch.present.cpu(), batch.lengths.tolist()
        places = [(p, g) for p, g in present.nonzero().tolist()]
        rows = [self._row(batch.prompts[p], batch.responses[p, g, : lengths[p][g]]) for p, g in places]
        scores = torch.zeros(present.shape)
        scores[present] = self._scores(rows)
        return scores.to(batch.mask.device)

    def score_groups(self, groups: Sequence[Group], poll: Callable[[], None] = no_op) -> Scored:
        """Scores of all responses of the groups, in their order; no gradient.

        Raises:
            DataError: no response, or a prompt that the chat template refuses.
        """
        found = encode(self.tokenizer, groups, self.max_tokens, self.closing)
        if not found.rows:
            raise DataError("there is no response to score", fix="give pairs, or rows with `responses`")
        places = torch.tensor([place for own in found.places for place in own])
        group = torch.tensor([i for i, own in enumerate(found.places) for _ in own])
        length = torch.tensor([row.length for row in found.rows])
        cut = torch.tensor([row.cut for row in found.rows])
        return Scored(self._scores(found.rows, poll)[places], length[places], group, cut[places])

    def compare(self, groups: Sequence[Group]) -> Comparison:
        """Margins of all strict preferences in the groups.

        Raises:
            DataError: no preference, or a prompt that the chat template refuses.
        """
        return comparison(groups, self.score_groups(groups))

    def _row(self, prompt: Tensor, response: Tensor) -> Row:
        """An answer that has ended, by the EOS or by the template's own end of turn, is closed as a given one is."""
        said, ends = response.tolist(), {self.tokenizer.eos_token_id, *self.closing[:1]}
        text, end = (said[:-1], self.closing) if said and said[-1] in ends else (said, ())
        return make_row(prompt.cpu(), closed(text, end), self.max_tokens)

    def _scores(self, rows: Sequence[Row], poll: Callable[[], None] = no_op) -> Float[Tensor, " n"]:
        with torch.no_grad():
            return self.head(self._features(rows, poll)).squeeze(-1).cpu()

    def _features(self, rows: Sequence[Row], poll: Callable[[], None] = no_op) -> Float[Tensor, "n D"]:
        """Pooled hidden states of all rows, without a gradient; the shortest rows go first."""
        features = torch.zeros(len(rows), self.head.in_features, device=self.head.weight.device)
        with torch.no_grad():
            for part in portions([len(r.ids) for r in rows], self.micro_tokens):
                poll()
                features[part] = self._pool([rows[i] for i in part])
        return features

    def _pool(self, rows: Sequence[Row]) -> Float[Tensor, "n D"]:
        """Differentiable. Padding stands on the right, where causal attention never looks, so it needs no mask."""
        device = self.head.weight.device
        ids = pad_sequence([r.ids for r in rows], batch_first=True).to(device)
        end = torch.tensor([len(r.ids) for r in rows], device=device)[:, None]
        start = end - torch.tensor([r.response for r in rows], device=device)[:, None]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            hidden = self.backbone(ids, use_cache=False).last_hidden_state.float()
        place = torch.arange(ids.shape[1], device=device)
        inside = ((place >= start) & (place < end))[..., None]
        last = hidden[torch.arange(len(rows), device=device), end[:, 0] - 1]
        mean = torch.where(inside, hidden, 0.0).sum(1) / inside.sum(1).clamp(min=1)
        return {"last": lambda: last, "mean": lambda: mean, "both": lambda: torch.cat([last, mean], -1)}[self.pooling]()


def fit(
    model: Model,
    tokenizer: Tokenizer,
    groups: Sequence[Group],
    *,
    freeze_backbone: bool = False,
    pooling: Pooling = "both",
    steps: int = STEPS,
    lr: float = 1e-5,
    batch: int = 16,
    loss: PairLoss = BRADLEY_TERRY,
    seed: int = 0,
    max_tokens: int = 1024,
    micro_tokens: int = 8192,
    autocast: bool = False,
    poll: Callable[[], None] = no_op,
    observe: Callable[[int, float], None] = unobserved,
) -> BradleyTerry:
    """A reward model from preferences; the given model is copied and stays as it is.

    The head is fitted first, by ridge-penalised logistic regression on frozen features, each response computed once.
    Unless the backbone is frozen, both are then trained together from there (Kumar et al. 2022, LP-FT) by AdamW, with
    lr falling linearly to 0.

    Args:
        model: a causal language model, a base model or a sequence classifier; what stands on its backbone is not used.
        groups: responses with scores; every strict preference inside a group is a pair.
        freeze_backbone: stop after the head; steps, lr and batch are then not used.
        pooling: what the head reads, see `BradleyTerry`.
        max_tokens: of prompt and response; no more than the model has positions for.
        batch: pairs per step.
        loss: smoothing, ties, rating margins, centring.
        seed: of the order of pairs and of the validation folds.
        poll: called before every pass through the backbone.
        observe: called with the number (from 1) and the loss of every step that trains the backbone.

    Raises:
        DataError: no preference, fewer than two questions, no EOS, or a prompt that the chat template refuses.
        UserError: the model has no chat template or is not supported, or training diverged.
    """
    closing = (eos(tokenizer),)
    most = min(max_tokens, getattr(model.config, "max_position_embeddings", None) or max_tokens)
    rows = encode(tokenizer, groups, most, closing)
    pairs = preferences(groups, rows.places, loss.ties)
    backbone = _backbone(copy.deepcopy(model))
    head = nn.utils.skip_init(nn.Linear, WIDTH[pooling] * model.config.hidden_size, 1, device=model.device)
    fitted = BradleyTerry(backbone.eval(), head, tokenizer, closing, pooling, most, micro_tokens, autocast)
    facts = _fit_head(fitted, rows, pairs, loss, seed, poll)
    if not freeze_backbone:
        _fit_all(fitted, rows, pairs, loss, steps=steps, lr=lr, batch=batch, seed=seed, poll=poll, observe=observe)
        _centre(fitted, rows, pairs, poll)
        facts |= {"steps": steps, "lr": lr, "batch": batch}
    backbone.requires_grad_(False)
    head.requires_grad_(False)
    counts = {
        "train_pairs": int((pairs.gap > 0).sum()),
        "train_ties": int((pairs.gap == 0).sum()),
        "train_questions": len(set(pairs.keys)),
        "cut_responses": sum(row.cut for row in rows.rows),
    }
    trained_on = frozenset().union(*map(digests, groups))
    return replace(fitted, facts=counts | asdict(loss) | facts, trained_on=trained_on)


def known(group: Group, trained_on: Collection[str]) -> bool:
    """Whether a model was fitted to the question of a group, in these words or, by its key, in others."""
    return any(digest in trained_on for digest in digests(group))


def digests(group: Group) -> tuple[str, ...]:
    """Of a question: of its prompt, the system message aside, and of its key where that is not the prompt."""
    asked = prompt_text([m for m in group.prompt if m.role != "system"])
    own = () if group.key in (asked, group.text) else (_digest(f"key\0{group.key}"),)
    return (_digest(asked), *own)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------ fitting


def _backbone(model: Model) -> nn.Module:
    """What gives hidden states: of a causal language model or a classifier what is below its head."""
    whole = model.merge_and_unload() if is_adapted(model) else model
    headless = whole.get_output_embeddings() is None
    return whole.base_model if headless else parts(whole)[0]


def _fit_head(
    fitted: BradleyTerry, rows: Rows, pairs: Preferences, loss: PairLoss, seed: int, poll: Callable[[], None]
) -> dict[str, int | float | str]:
    """Set the head to the ridge solution on frozen features; the mean score over the pairs becomes 0."""
    features = fitted._features(rows.rows, poll).double().cpu()
    winner, loser = (features[side] for side in pairs.index.unbind(-1))
    linear = fit_pairs(pair_features(winner, loser, pairs.gap, loss), pairs.keys, centring=loss.centring, seed=seed)
    with torch.no_grad():
        fitted.head.weight.copy_(linear.weight[None])
        fitted.head.bias.copy_(-((winner + loser) @ linear.weight).mean() / 2)
    return {"penalty": linear.penalty, "validation_nll": linear.validation_nll}


def _fit_all(
    fitted: BradleyTerry,
    rows: Rows,
    pairs: Preferences,
    loss: PairLoss,
    *,
    steps: int,
    lr: float,
    batch: int,
    seed: int,
    poll: Callable[[], None],
    observe: Callable[[int, float], None],
) -> None:
    """Train head and backbone together, in place."""
    weights = [*fitted.backbone.requires_grad_(True).parameters(), *fitted.head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.0)
    order = _order(len(pairs.index), seed)
    flip, lead = (x.to(fitted.head.weight.device) for x in loss.judged(pairs.gap))
    for step in range(steps):
        drawn = torch.tensor([next(order) for _ in range(min(batch, len(pairs.index)))])
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        seen = 0.0
        for part in portions([_width(rows, pair) for pair in pairs.index[drawn].tolist()], fitted.micro_tokens):
            poll()
            chosen = drawn[part]
            score = fitted.head(fitted._pool([rows.rows[i] for i in pairs.index[chosen].flatten().tolist()]))
            winner, loser = score.view(-1, 2).unbind(-1)
            margin, total = winner - loser, winner + loser
            each = pair_loss(margin, total, flip=flip[chosen], lead=lead[chosen], centring=loss.centring)
            share = each.sum() / len(drawn)
            share.backward()
            seen += float(share.detach())
        if not torch.isfinite(nn.utils.clip_grad_norm_(weights, 1.0)):
            raise UserError(f"the reward model diverged at step {step + 1}", fix="a lower learning rate")
        optimizer.step()
        observe(step + 1, seen)


def _centre(fitted: BradleyTerry, rows: Rows, pairs: Preferences, poll: Callable[[], None]) -> None:
    """Shift the head so that the mean score over the pairs is 0, from which training everything drifts."""
    drift = fitted._scores(rows.rows, poll)[pairs.index].mean()
    with torch.no_grad():
        fitted.head.bias.sub_(drift.to(fitted.head.bias.device))


def _width(rows: Rows, pair: Sequence[int]) -> int:
    """Tokens that a pair takes in a padded batch."""
    return 2 * max(len(rows.rows[i].ids) for i in pair)


def _order(n: int, seed: int) -> Iterator[int]:
    """0 … n−1 in random order, again and again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator).tolist()
