"""A Bradley-Terry reward model: a linear head on the hidden states of a causal language model, fitted to pairs.

P(w ≻ l) = σ(s_w − s_l) (Bradley & Terry 1952; Ouyang et al. 2022, eq. 1).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from prefloop.batch import Batch
from prefloop.data.records import Group, Message
from prefloop.errors import DataError, UserError
from prefloop.policies.pretrained import Model, Tokenizer, encode_response, is_adapted, parts, render
from prefloop.protocols import no_op
from prefloop.rewards.logistic import fit_linear, pair_nll

Pooling = Literal["last", "mean", "both"]
WIDTH = {"last": 1, "mean": 1, "both": 2}  # hidden sizes that the head reads
WEIGHTS, FACTS = "model.safetensors", "reward.json"
BACKBONE, HEAD = "backbone.", "head."  # prefixes in the weights file


@dataclass(frozen=True)
class Row:
    """One prompt with one response: the last `max_tokens` tokens of both."""

    ids: Int[Tensor, " L"]
    response: int  # tokens at the end of `ids` that are the response


@dataclass(frozen=True)
class Comparison:
    """What a reward model says of given preferences, one entry per pair."""

    margin: Float[Tensor, " N"]  # s_winner − s_loser
    longer: Int[Tensor, " N"]  # tokens of the winner less tokens of the loser
    keys: tuple[str, ...]  # the question


@dataclass(frozen=True)
class BradleyTerry:
    """A fitted reward model; `score_batch` is a scorer for token ids of the same tokenizer."""

    backbone: nn.Module
    head: nn.Linear  # float32, to one score
    tokenizer: Tokenizer
    pooling: Pooling = "both"  # hidden state of the last response token, mean over response tokens, or both
    max_tokens: int = 1024  # longer sequences lose the beginning of the prompt
    micro_tokens: int = 8192  # most tokens, padding included, that go through the backbone at once
    autocast: bool = False  # bfloat16 matrix products of the backbone
    facts: Mapping[str, int | float] = field(default_factory=dict)  # how it was fitted and how good it is

    def score_batch(self, batch: Batch) -> Float[Tensor, "P G"]:
        """One score per response, 0 on the empty places of ragged groups; no gradient."""
        present, lengths = batch.present.cpu(), batch.lengths.tolist()
        places = [(p, g) for p, g in present.nonzero().tolist()]
        rows = [_row(batch.prompts[p], batch.responses[p, g, : lengths[p][g]], self.max_tokens) for p, g in places]
        scores = torch.zeros(present.shape)
        scores[present] = self._scores(rows)
        return scores.to(batch.mask.device)

    def compare(self, groups: Sequence[Group]) -> Comparison:
        """Margins of all strict preferences in the groups.

        Raises:
            DataError: no preference, or a prompt that the chat template refuses.
        """
        pairs = _encode(self.tokenizer, groups, self.max_tokens)
        scores, lengths = self._scores(pairs.rows), torch.tensor([r.response for r in pairs.rows])
        winner, loser = pairs.index.unbind(-1)
        return Comparison(scores[winner] - scores[loser], lengths[winner] - lengths[loser], pairs.keys)

    def save(self, folder: Path | str) -> None:
        """Write backbone, head, tokenizer and facts; `load` reads them.

        Raises:
            UserError: the folder exists and is not empty.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise UserError("the folder exists already", where=str(folder), fix="choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        modules = {BACKBONE: self.backbone, HEAD: self.head}
        weights = {f"{k}{name}": x.contiguous() for k, m in modules.items() for name, x in m.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        self.backbone.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
        self.tokenizer.save_pretrained(folder)
        kept = {"pooling": self.pooling, "max_tokens": self.max_tokens, "facts": dict(self.facts)}
        (folder / FACTS).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")

    def _scores(self, rows: Sequence[Row]) -> Float[Tensor, " n"]:
        with torch.no_grad():
            return self.head(self._features(rows)).squeeze(-1).cpu()

    def _features(self, rows: Sequence[Row], poll: Callable[[], None] = no_op) -> Float[Tensor, "n D"]:
        """Pooled hidden states of all rows, without a gradient; the shortest rows go first."""
        features = torch.zeros(len(rows), self.head.in_features, device=self.head.weight.device)
        with torch.no_grad():
            for part in _portions([len(r.ids) for r in rows], self.micro_tokens):
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
    steps: int = 200,
    lr: float = 1e-5,
    batch: int = 16,
    label_smoothing: float = 0.0,
    seed: int = 0,
    max_tokens: int = 1024,
    micro_tokens: int = 8192,
    autocast: bool = False,
    poll: Callable[[], None] = no_op,
) -> BradleyTerry:
    """A reward model from preferences; the given model is copied and stays as it is.

    The head is fitted first, by ridge-penalised logistic regression on frozen features, each response computed once.
    Unless the backbone is frozen, both are then trained together from there (Kumar et al. 2022, LP-FT) by AdamW, with
    lr falling linearly to 0.

    Args:
        groups: responses with scores; every strict preference inside a group is a pair.
        freeze_backbone: stop after the head; steps, lr and batch are then not used.
        pooling: what the head reads, see `BradleyTerry`.
        batch: pairs per step.
        label_smoothing: ε, the share of preferences taken to be wrong.
        seed: of the order of pairs and of the validation folds.
        poll: called before every pass through the backbone.

    Raises:
        DataError: no preference, fewer than two questions, or a prompt that the chat template refuses.
        UserError: the model has no chat template or is not supported, or training diverged.
    """
    pairs = _encode(tokenizer, groups, max_tokens)
    copied = copy.deepcopy(model)
    backbone, _ = parts(copied.merge_and_unload() if is_adapted(copied) else copied)
    head = nn.utils.skip_init(nn.Linear, WIDTH[pooling] * model.config.hidden_size, 1, device=model.device)
    fitted = BradleyTerry(backbone.eval(), head, tokenizer, pooling, max_tokens, micro_tokens, autocast)
    facts = _fit_head(fitted, pairs, label_smoothing, seed, poll)
    if not freeze_backbone:
        _fit_all(fitted, pairs, steps=steps, lr=lr, batch=batch, label_smoothing=label_smoothing, seed=seed, poll=poll)
        facts |= {"steps": steps, "lr": lr, "batch": batch}
    backbone.requires_grad_(False)
    head.requires_grad_(False)
    cut = sum(len(r.ids) == max_tokens for r in pairs.rows)
    counts = {"train_pairs": len(pairs.index), "train_questions": len(set(pairs.keys)), "cut_responses": cut}
    return replace(fitted, facts=counts | facts)


def load(folder: Path | str, *, micro_tokens: int = 8192, autocast: bool = False) -> BradleyTerry:
    """A saved reward model.

    Raises:
        UserError: there is no such folder.
        DataError: a file or the head is missing, or the weights are not those of the configuration.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = Path(folder)
    if not folder.is_dir():
        raise UserError("the reward model does not exist", where=str(folder))
    try:
        kept, weights = json.loads((folder / FACTS).read_text(encoding="utf-8")), load_file(folder / WEIGHTS)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"the reward model cannot be read: {error}", where=str(folder)) from error
    missing = {f"{HEAD}weight", f"{HEAD}bias"} - weights.keys()
    if missing:  # a head made up on the spot would give random scores
        raise DataError(f"the reward model has no head: {min(missing)} is missing", where=str(folder / WEIGHTS))
    with torch.random.fork_rng(devices=[]):  # the fresh backbone's initialisation draws from the global generator
        backbone = AutoModel.from_config(config).to(next(iter(weights.values())).dtype)
    head = nn.utils.skip_init(nn.Linear, WIDTH[kept["pooling"]] * config.hidden_size, 1)
    for prefix, module in ((BACKBONE, backbone), (HEAD, head)):
        _fill(module, {k.removeprefix(prefix): x for k, x in weights.items() if k.startswith(prefix)}, folder)
    limits = {"max_tokens": kept["max_tokens"], "micro_tokens": micro_tokens, "autocast": autocast}
    return BradleyTerry(backbone.eval(), head, tokenizer, kept["pooling"], **limits, facts=kept["facts"])


def _fill(module: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        what = "the weights are not those of the reward model's configuration"
        raise DataError(f"{what}: {str(error).splitlines()[-1].strip()}", where=str(folder / WEIGHTS)) from error
    module.requires_grad_(False)


# ------------------------------------------------------------------------------------------------------------ fitting


@dataclass(frozen=True)
class _Pairs:
    """Distinct rows, and strict preferences between them."""

    rows: tuple[Row, ...]
    index: Int[Tensor, "N 2"]  # (winner, loser) into rows
    keys: tuple[str, ...]  # N


def _encode(tokenizer: Tokenizer, groups: Sequence[Group], max_tokens: int) -> _Pairs:
    """All strict preferences inside the groups; a response that recurs is one row."""
    rows: dict[tuple[Any, str], int] = {}
    encoded: list[Row] = []
    index: list[tuple[int, int]] = []
    keys: list[str] = []
    for group in groups:
        messages = [_message(m) for m in group.prompt]
        prompt = render(tokenizer, messages, where=f"row {group.row}")
        places = []
        for text in group.responses:
            place = rows.setdefault((tuple(prompt.tolist()), text), len(encoded))
            if place == len(encoded):
                encoded.append(_row(prompt, encode_response(tokenizer, text), max_tokens))
            places.append(place)
        won = list(_strict(group.scores or ()))
        index += [(places[w], places[lost]) for w, lost in won]
        keys += [group.key] * len(won)
    if not index:
        raise DataError("there is no preference: no group has responses with different scores")
    return _Pairs(tuple(encoded), torch.tensor(index), tuple(keys))


def _strict(scores: Sequence[float]) -> Iterator[tuple[int, int]]:
    return ((i, j) for i, a in enumerate(scores) for j, b in enumerate(scores) if a > b)


def _message(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _row(prompt: Tensor, response: Tensor, max_tokens: int) -> Row:
    return Row(torch.cat([prompt, response])[-max_tokens:], min(len(response), max_tokens))


def _fit_head(
    fitted: BradleyTerry, pairs: _Pairs, label_smoothing: float, seed: int, poll: Callable[[], None]
) -> dict[str, int | float]:
    """Set the head to the ridge solution on frozen features; the mean score of the training rows becomes 0."""
    features = fitted._features(pairs.rows, poll).double().cpu()
    winner, loser = pairs.index.unbind(-1)
    linear = fit_linear(features[winner] - features[loser], pairs.keys, label_smoothing=label_smoothing, seed=seed)
    with torch.no_grad():
        fitted.head.weight.copy_(linear.weight[None])
        fitted.head.bias.copy_(-(features @ linear.weight).mean())
    return {"penalty": linear.penalty, "validation_nll": linear.validation_nll}


def _fit_all(
    fitted: BradleyTerry,
    pairs: _Pairs,
    *,
    steps: int,
    lr: float,
    batch: int,
    label_smoothing: float,
    seed: int,
    poll: Callable[[], None],
) -> None:
    """Train head and backbone together, in place."""
    weights = [*fitted.backbone.requires_grad_(True).parameters(), *fitted.head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.0)
    order = _order(len(pairs.index), seed)
    for step in range(steps):
        chosen = pairs.index[[next(order) for _ in range(min(batch, len(pairs.index)))]]
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        widths = [2 * max(len(pairs.rows[i].ids) for i in pair) for pair in chosen.tolist()]
        for part in _portions(widths, fitted.micro_tokens):
            poll()
            rows = [pairs.rows[i] for i in chosen[part].flatten().tolist()]
            score = fitted.head(fitted._pool(rows)).view(-1, 2)
            loss = pair_nll(score[:, 0] - score[:, 1], label_smoothing=label_smoothing).sum() / len(chosen)
            loss.backward()
        if not torch.isfinite(nn.utils.clip_grad_norm_(weights, 1.0)):
            raise UserError(f"the reward model diverged at step {step + 1}", fix="a lower learning rate")
        optimizer.step()


def _order(n: int, seed: int) -> Iterator[int]:
    """0 … n−1 in random order, again and again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator).tolist()


def _portions(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices by length, in portions whose padded size stays within the budget (one row may exceed it alone)."""
    portion: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if portion and (len(portion) + 1) * lengths[i] > budget:
            yield portion
            portion = []
        portion.append(i)
    if portion:
        yield portion
