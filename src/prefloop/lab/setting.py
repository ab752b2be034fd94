"""One run of the lab as a value: what is in it decides the result, and what may differ inside a stack."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core import user
from prefloop.core.errors import UserError, nearest
from prefloop.core.files import digest
from prefloop.core.loop import Plan
from prefloop.core.method import Method
from prefloop.core.methods import method
from prefloop.worlds.arms.problem import TOKENS
from prefloop.worlds.lengths.answers import fingerprint
from prefloop.worlds.lengths.problem import SIZES

VERSION = 6  # of what a setting means, references and learned rewards included: a new one makes earlier ones unknown
POLICIES = {
    "arms": ("mlp", "linear", "tabular"),
    "sequences": ("gpt",),
    "lengths": ("gpt",),
    "categorical": ("tabular",),
}
CHOICES = {
    "problem": tuple(POLICIES),
    "fit": ("likelihood", "reverse"),
    "labels": ("gold", "noisy"),
    "scorer": ("gold", "proxy"),
    "precision": ("float32", "float64"),
    "gold": ("length", "keyword", "repetition", "sentiment"),
    "network": tuple(SIZES),
    "defect": ("", "off_by_one", "k1_loss", "reference_dropout", "prompt_in_reward"),
}
REWARDS = {"far": 70.0, "near": 20.0}  # centres of R1 and R2
STACKED = frozenset(
    ("seed", "lr", "max_grad_norm", "centre", "width", "peak", "coverage", "skew_centre", "skew_width", "temperature")
)


@dataclass(frozen=True)
class Setting:
    """Everything that decides one run.

    Args:
        method: a name in METHODS, or `module:name` of a user's own file.
        override: switches and hyper-parameters of the row that differ from it, such as {"reuse": 4}.
        problem: "arms" (one token), "sequences" (nine tokens), "lengths" (up to 32 tokens or 64, text-like) or
            "categorical" (one context, for theory).
        policy: "mlp", "linear" or "tabular" for arms; the problem's own where empty.
        hidden: width of the MLP's two hidden layers after the first.
        contexts: arms: length of a fixed list of contexts; 0 draws fresh ones for every collection.
        centre, width: of the reward exp(−((a − centre)/width)²); lengths: tokens off the peak that cost 1.
        peak: lengths: where the reward has its maximum, as a percentile of the reference's lengths (C1); 0: one token.
        gold: lengths: the true reward; `peak` and `width` are those of "length".
        network: lengths: a size of `problems.lengths.SIZES`.
        fit: how the reference gets its law: by "likelihood", or by "reverse" KL.
        data: groups in the offline data set.
        coverage: share of the offline responses that the reference wrote; the others follow a bump at `skew_centre`.
            Lengths: share that is left whole, the others end early by an exponential law (C2).
        shared: sequences: tokens that the responses of a group of the offline data have in common.
        labels: "gold" scores in the offline data, or "noisy" ones that compare as Bradley-Terry at `temperature`.
        scorer: responses of the policy are scored by "gold", or by a "proxy" learned from the offline data.
        responses: per prompt, C in the study.
        batch, minibatch: responses per collection and per optimiser step, B and M.
        steps: optimiser steps.
        evaluate: steps between evaluations.
        evaluation: prompts in the fixed evaluation set.
        defect: a defect of the published code to run with, for the study of them (see `lab.defects`).
    """

    method: str
    override: Mapping[str, Any] = field(default_factory=dict)
    problem: str = "arms"
    policy: str = ""
    hidden: int = 256
    contexts: int = 0
    centre: float = 70.0
    width: float = 10.0
    peak: float = 0.0
    gold: str = "length"
    network: str = "small"
    fit: str = "likelihood"
    data: int = 100
    coverage: float = 1.0
    skew_centre: float = 20.0
    skew_width: float = 5.0
    shared: int = 0
    labels: str = "gold"
    temperature: float = 0.1
    scorer: str = "gold"
    responses: int = 10
    batch: int = 100
    minibatch: int = 100
    steps: int = 300
    lr: float = 1e-3
    warmup: int = 0
    max_grad_norm: float = 1.0
    evaluate: int = 10
    evaluation: int = 64
    precision: str = "float32"
    defect: str = ""
    seed: int = 0

    @property
    def family(self) -> str:
        """The policy, the problem's own where none is named."""
        return self.policy or POLICIES[self.problem][0]

    @property
    def ceiling(self) -> float:
        """The highest gold reward there is."""
        return {"length": 0.0, "repetition": 0.0}.get(self.gold, 1.0) if self.problem == "lengths" else 1.0

    @property
    def row(self) -> Method:
        """The method with this setting's switches and group size."""
        return method(self.method).override(**{"responses": self.responses, **self.override})

    @property
    def run(self) -> str:
        """The run's name: a hash of everything in it, of what it starts from, and of the user's own files in it."""
        start: list[Any] = [asdict(SIZES[self.network]), fingerprint()] if self.problem == "lengths" else []
        names = [self.method, *map(str, self.override.values())]
        start += [user.digest(name) for name in names if ":" in name]
        return digest([VERSION, asdict(self), *start])

    @property
    def stack(self) -> str:
        """Settings of one stack key differ only in what a stack holds per run."""
        shared = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*STACKED, "override")}
        own = self.row.per_run
        shared["override"] = {k: _kind(k, v) if k in own else v for k, v in self.override.items()}
        return json.dumps(shared, sort_keys=True)

    def check(self) -> None:
        """Refuse what could not run, before anything runs.

        Raises:
            UserError: an unknown name, a value out of range, or portions that do not divide.
        """
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(f"`{name}` cannot be {getattr(self, name)!r}", fix=nearest(getattr(self, name), known))
        if self.family not in POLICIES[self.problem]:
            known = POLICIES[self.problem]
            raise UserError(
                f"the problem `{self.problem}` has no policy `{self.policy}`", fix=nearest(self.policy, known)
            )
        for name in ("steps", "evaluate", "evaluation", "data", "hidden", "batch", "minibatch", "responses"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f"`{name}` must be a whole number of at least 1, not {getattr(self, name)!r}")
        for name in ("contexts", "warmup", "seed"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise UserError(f"`{name}` must be a whole number of at least 0, not {getattr(self, name)!r}")
        for name in ("lr", "width", "skew_width", "temperature", "max_grad_norm"):
            if not (_finite(getattr(self, name)) and getattr(self, name) > 0):
                raise UserError(f"`{name}` must be a positive number, not {getattr(self, name)!r}")
        for name in ("centre", "skew_centre"):
            if not _finite(getattr(self, name)):
                raise UserError(f"`{name}` must be a number, not {getattr(self, name)!r}")
        if not (_finite(self.coverage) and 0 <= self.coverage <= 1):
            raise UserError(f"`coverage` is a share between 0 and 1, not {self.coverage!r}")
        if not (_finite(self.peak) and 0 <= self.peak <= 100):
            raise UserError(f"`peak` is a percentile between 0 and 100, not {self.peak!r}")
        if self.problem == "lengths" and self.coverage == 0:
            raise UserError("data of which nothing is whole cannot be made", where="coverage", fix="coverage=0.05")
        if self.problem == "lengths" and self.centre != REWARDS["far"]:
            raise UserError("the problem of lengths has no arms for a reward to peak at", where="reward", fix="peak=25")
        if self.problem != "lengths" and (self.peak, self.gold) != (0.0, "length"):
            raise UserError(f"`{self.problem}` has no lengths to reward", where="peak, gold", fix="problem=lengths")
        if self.family == "tabular" and self.problem == "arms" and not self.contexts:
            raise UserError("a table needs a fixed list of contexts", fix="contexts=10")
        if not 0 <= self.shared < (TOKENS if self.problem == "sequences" else 1):
            raise UserError(f"responses of this problem cannot share {self.shared} tokens", where="shared")
        if self.defect and self.problem != "sequences":
            raise UserError("the published defects are those of the sequence code", fix="problem=sequences")
        if self.scorer == "proxy" and self.responses < 2:
            raise UserError("a learned reward needs pairs of responses", fix="responses >= 2")
        row = self.row
        if row.kl and row.kl_estimator == "exact" and self.family == "gpt":
            raise UserError("a GPT cannot sum over all responses", where="kl_estimator=exact", fix="kl_estimator=k2")
        self.plan.check(row)

    @property
    def plan(self) -> Plan:
        return Plan(self.steps, self.batch, self.minibatch, self.lr, self.warmup, self.max_grad_norm)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _kind(name: str, value: Any) -> Any:
    """What a per-run hyper-parameter must share with its stack: its type, and for `kl` whether it is on at all."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return ["number" if number else type(value).__name__, name == "kl" and value == 0]


def stacks(settings: Iterable[Setting], size: int) -> list[list[Setting]]:
    """Settings that can share a stack, in stacks of at most `size`, the order kept."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(setting.stack, []).append(setting)
    return [g[i : i + size] for g in groups.values() for i in range(0, len(g), size)]


def per_run(settings: Sequence[Setting], name: str) -> Float[Tensor, " S"]:
    """A field of every run."""
    return torch.tensor([getattr(s, name) for s in settings], dtype=torch.float64)


def seeds(setting: Setting, numbers: Sequence[int]) -> list[Setting]:
    """The same setting once per seed."""
    return [replace(setting, seed=n) for n in numbers]
