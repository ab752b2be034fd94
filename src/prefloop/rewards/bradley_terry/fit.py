"""Fitting a Bradley-Terry reward model: the head by logistic regression, then head and backbone together."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from prefloop.core.errors import UserError
from prefloop.core.fit import minimise, unobserved
from prefloop.core.optim import rate
from prefloop.core.protocols import no_op
from prefloop.data.records import Group
from prefloop.policies.adapters import is_adapted
from prefloop.policies.architecture import parts, state_size
from prefloop.policies.conversation import Template
from prefloop.policies.packing import packs
from prefloop.policies.pretrained import Limits, Model
from prefloop.rewards.bradley_terry import whole
from prefloop.rewards.bradley_terry.encoding import Preferences, Rows, preferences
from prefloop.rewards.bradley_terry.logistic import fit_pairs, pair_features
from prefloop.rewards.bradley_terry.loss import judged, pair_loss
from prefloop.rewards.bradley_terry.model import BradleyTerry, digests
from prefloop.rewards.bradley_terry.options import Asked, FitOptions, PairLoss, Pooling
from prefloop.rewards.bradley_terry.pooling import WIDTH
from prefloop.rewards.bradley_terry.whole import Whole

DEFAULTS = FitOptions()
TIMED = 4  # rows that a forecast is made from
BACKWARD = 3  # passes that a forward and a backward pass take


def _unforeseen(seconds: float, steps: int) -> None:
    """Nobody asks for the forecast."""


def fit(
    model: Model | Whole,
    template: Template,
    groups: Sequence[Group],
    options: FitOptions = DEFAULTS,
    *,
    seed: int = 0,
    autocast: bool = False,
    poll: Callable[[], None] = no_op,
    observe: Callable[[int, float], None] = unobserved,
    foresee: Callable[[float, int], None] = _unforeseen,
) -> BradleyTerry:
    """Fit a reward model to preferences; the given model is copied and not changed.

    The head is fitted first, by ridge-penalised logistic regression on frozen features, each response computed once.
    Unless the backbone is frozen, both are then trained together (Kumar et al. 2022, LP-FT) by Adam.

    Args:
        model: a causal language model, base model or sequence classifier, whose own head is not used; or an encoder
            without the last layer of its head.
        template: renders the conversations.
        groups: responses with scores; every strict preference within a group is a pair.
        options: pooling, schedule, loss and limits.
        seed: seed of the order of pairs and of the validation folds.
        autocast: bfloat16 matrix products of the backbone.
        poll: called before every pass through the backbone.
        observe: called with the number (from 1) and the loss of every step that trains the backbone.
        foresee: called once, before the first long work, with the predicted seconds of all passes through the backbone,
            and the number of steps that will train it.

    Raises:
        DataError: no preference, fewer than two questions, a conversation that the chat template rejects or changes,
            or diverged training.
        UserError: the model names no token that ends an answer, or is not supported.
    """
    fitted = _unfitted(model, template, options, autocast)
    rows = fitted.encode(groups)
    pairs = preferences(groups, rows.places, options.loss.ties)
    steps = options.steps_of(len(pairs.index))
    foresee(_seconds(fitted, rows, pairs, options, steps), steps)
    facts = _fit_head(fitted, rows, pairs, options.loss, seed, poll)
    if not options.freeze_backbone:
        _fit_all(fitted, rows, pairs, options, steps, seed, poll, observe)
        _centre(fitted, rows, pairs, poll)
        facts |= {"steps": steps, "lr": options.lr, "batch": options.batch}
        facts |= {"schedule": options.schedule, "warmup": options.warmup_of(steps)}
    fitted.backbone.requires_grad_(False)
    fitted.head.requires_grad_(False)
    counts = {
        "train_pairs": int((pairs.gap > 0).sum()),
        "train_ties": int((pairs.gap == 0).sum()),
        "train_questions": len(set(pairs.keys)),
        "distinct_responses": len(rows.rows),
        "cut_responses": sum(row.cut for row in rows.rows),
    }
    trained_on = frozenset().union(*map(digests, groups))
    return replace(fitted, facts=counts | asdict(options.loss) | facts, trained_on=trained_on)


def _unfitted(model: Model | Whole, template: Template, options: FitOptions, autocast: bool) -> BradleyTerry:
    """A reward model on a copy of the backbone, with a head that has no values yet."""
    pooling = pooling_of(model, options.pooling)
    most = min(options.max_tokens, _context(model, template) or options.max_tokens)
    copied = _copied(model, frozen=options.freeze_backbone)
    backbone = copied.pooled(pooling) if isinstance(copied, Whole) else _backbone(copied)
    size = backbone.size if isinstance(backbone, Whole) else WIDTH[pooling] * state_size(backbone)
    return BradleyTerry(
        backbone=backbone.eval(),
        head=nn.utils.skip_init(nn.Linear, size, 1, device=model.device),
        template=template,
        whole=isinstance(model, Whole),
        pooling=pooling,
        max_tokens=most,
        micro_tokens=options.micro_tokens,
        autocast=autocast,
    )


def pooling_of(model: Model | Whole, asked: Asked) -> Pooling:
    """How a model is read: as asked, or by its architecture.

    Raises:
        UserError: a way in which the model cannot be read.
    """
    if isinstance(model, Whole):
        return asked if asked != "auto" else "head" if model.is_classifier else "mean"
    if asked in ("cls", "head"):
        why = {"cls": "its first token sees nothing of the answer", "head": "it has no layers of a head of its own"}
        what = f"`pooling` cannot be {asked} for a language model: {why[asked]}"
        raise UserError(what, where="reward model: pooling", fix="use last, mean or both, or start from an encoder")
    return "last" if asked == "auto" else asked


def _seconds(fitted: BradleyTerry, rows: Rows, pairs: Preferences, options: FitOptions, steps: int) -> float:
    """Predicted seconds of all passes through the backbone, timed on a few rows of typical length."""
    sizes = sorted(range(len(rows.rows)), key=lambda i: len(rows.rows[i].ids))
    middle = len(sizes) // 2
    typical = [rows.rows[i] for i in sizes[max(0, middle - TIMED // 2) :][:TIMED]]
    fitted.scores(typical[:1])  # libraries initialise at their first call
    clock = time.monotonic()
    fitted.scores(typical)
    speed = (time.monotonic() - clock) / sum(len(row.ids) for row in typical)
    once = sum(len(row.ids) for row in rows.rows)
    if options.freeze_backbone:
        return speed * once
    trained = steps * min(options.batch, len(pairs.index)) * 2 * once / len(rows.rows)
    return speed * (2 * once + BACKWARD * trained)


def _copied(model: Model | Whole, *, frozen: bool) -> Model | Whole:
    """A copy to train: of low precision only if its weights stay as they are, because small updates would be lost."""
    copied = copy.deepcopy(model)
    return copied if frozen or model.dtype.itemsize >= 4 else copied.float()


def _context(model: Model | Whole, template: Template) -> int | None:
    """Maximum number of tokens; None if there is no limit."""
    is_whole = isinstance(model, Whole)
    return whole.context(model.model, template.tokenizer) if is_whole else Limits.of(model.config).context


def _backbone(model: Model) -> nn.Module:
    """The module that gives states: of a causal language model or classifier, the part below its head."""
    merged = model.merge_and_unload() if is_adapted(model) else model
    headless = merged.get_output_embeddings() is None
    return merged.base_model if headless else parts(merged).backbone


def _fit_head(
    fitted: BradleyTerry, rows: Rows, pairs: Preferences, loss: PairLoss, seed: int, poll: Callable[[], None]
) -> dict[str, int | float | str]:
    """Set the head to the ridge solution on frozen features; the mean score over the pairs becomes 0."""
    features = fitted.features(rows.rows, poll).double().cpu()
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
    options: FitOptions,
    steps: int,
    seed: int,
    poll: Callable[[], None],
    observe: Callable[[int, float], None],
) -> None:
    """Train head and backbone together, in place."""
    weights = [*fitted.backbone.requires_grad_(True).parameters(), *fitted.head.parameters()]
    order = _order(len(pairs.index), seed)
    judgement = judged(pairs.gap, options.loss)

    def losses(step: int) -> Iterator[Tensor]:
        drawn = torch.tensor([next(order) for _ in range(min(options.batch, len(pairs.index)))])
        for part in packs([_width(rows, pair) for pair in pairs.index[drawn].tolist()], fitted.micro_tokens):
            poll()
            chosen = drawn[part]
            score = fitted.head(fitted.pool([rows.rows[i] for i in pairs.index[chosen].flatten().tolist()]))
            winner, loser = score.view(-1, 2).unbind(-1)
            margin, total, centring = winner - loser, winner + loser, options.loss.centring
            flip, lead = (x[chosen].to(margin.device) for x in judgement)
            each = pair_loss(margin, total, flip=flip, lead=lead, centring=centring)
            yield each.sum() / len(drawn)

    def lr(step: int) -> float:
        return options.lr * rate(options.schedule, step, steps, options.warmup_of(steps))

    minimise(weights, losses, steps, lr=lr, limit=1.0, observe=observe)


def _centre(fitted: BradleyTerry, rows: Rows, pairs: Preferences, poll: Callable[[], None]) -> None:
    """Shift the head so that the mean score over the pairs is 0 again after training the backbone."""
    drift = fitted.scores(rows.rows, poll)[pairs.index].mean()
    with torch.no_grad():
        fitted.head.bias.sub_(drift.to(fitted.head.bias.device))


def _width(rows: Rows, pair: Sequence[int]) -> int:
    """Tokens of a pair in a padded batch."""
    return 2 * max(len(rows.rows[i].ids) for i in pair)


def _order(n: int, seed: int) -> Iterator[int]:
    """Endless epochs over 0 … n−1, each in random order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator).tolist()
