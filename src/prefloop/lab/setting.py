"""One run of the lab as a value, which determines its result and its stack."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from prefloop.core import user
from prefloop.core.errors import UserError, nearest
from prefloop.core.files import digest
from prefloop.core.loop import Plan
from prefloop.core.method import Method
from prefloop.core.methods import method, own_code
from prefloop.worlds.spec import (
    PER_RUN,
    Count,
    Positive,
    Whole,
    World,
    check_fields,
    name_of,
    per_run_fields,
    world_class,
    worlds,
)

VERSION = 9  # version of the meaning of settings: a new one invalidates earlier runs


@dataclass(frozen=True)
class Setting:
    """Everything that determines one run.

    Args:
        method: a name in METHODS, or `module:name` in a user's own file.
        world: the problem with its own fields, such as `Arms(centre=20.0)`.
        override: changed switches and hyper-parameters, such as {"reuse": 4}.
        responses: responses per prompt, C in the paper.
        batch, minibatch: responses per collection and per optimiser step, B and M.
        steps: optimiser steps.
        evaluate: steps between evaluations that are evenly spaced.
        spacing: "even", or "log": evaluations at steps 1, 2, 3, 4, 6, 8, 11, 16, … (each √2 times the one before).
        evaluation: number of prompts in the fixed evaluation set.
    """

    method: str
    world: World
    override: Mapping[str, Any] = field(default_factory=dict)
    responses: Count = 10
    batch: Count = 100
    minibatch: Count = 100
    steps: Count = 300
    lr: Annotated[Positive, PER_RUN] = 1e-3
    warmup: Whole = 0
    max_grad_norm: Annotated[Positive, PER_RUN] = 1.0
    evaluate: Count = 10
    spacing: Literal["even", "log"] = "even"
    evaluation: Count = 64
    precision: Literal["float32", "float64"] = "float32"
    seed: Annotated[Whole, PER_RUN] = 0

    @property
    def problem(self) -> str:
        """The world's name."""
        return name_of(type(self.world))

    @property
    def resolved_method(self) -> Method:
        """The method with this setting's switches and group size."""
        return method(self.method).override(**{"responses": self.responses, **self.override})

    @property
    def plan(self) -> Plan:
        return Plan(self.steps, self.batch, self.minibatch, self.lr, self.warmup, self.max_grad_norm)

    @property
    def evaluations(self) -> list[int]:
        """The steps after which the policies are evaluated, besides the start; the last step is one of them."""
        logarithmic = (round(2 ** (k / 2)) for k in range(2 * self.steps.bit_length()))
        steps = logarithmic if self.spacing == "log" else range(self.evaluate, self.steps, self.evaluate)
        return sorted({step for step in steps if step < self.steps} | {self.steps})

    @property
    def run(self) -> str:
        """The run's name: a hash of the setting, the world's fingerprint, and the user's own files and code."""
        names = [self.method, self.problem, *map(str, self.override.values())]
        own: list[Any] = [user.digest(name) for name in names if ":" in name]
        added = own_code(self.method)
        return digest([VERSION, to_dict(self), self.world.fingerprint(), *own, *([] if added is None else [added])])

    @property
    def in_session(self) -> bool:
        """Whether method or world are of this session only, as in a notebook: other processes cannot import them."""
        names = [self.method, self.problem, *map(str, self.override.values())]
        homes = [name.partition(":")[0] for name in names if ":" in name]
        added = own_code(self.method) is not None
        return user.without_file("__main__") and (added or "__main__" in homes)

    @property
    def stack(self) -> str:
        """The stack key: settings with the same key differ only in per-run values."""
        own = self.resolved_method.per_run
        tree = to_dict(self)
        shared = {k: v for k, v in tree.items() if k not in per_run_fields(Setting)}
        shared["world"] = {k: v for k, v in tree["world"].items() if k not in per_run_fields(type(self.world))}
        shared["override"] = {k: _kind(k, v) if k in own else v for k, v in self.override.items()}
        return json.dumps(shared, sort_keys=True)

    def check(self) -> None:
        """Refuse invalid settings before anything runs.

        Raises:
            UserError: an unknown name, a value out of range, or batch sizes that do not divide.
        """
        check_fields(self)
        check_fields(self.world)
        self.world.check(self.resolved_method)
        self.plan.check(self.resolved_method)


# ----------------------------------------------------------------------------------------------- from and to flat names


def names(kind: type) -> list[str]:
    """Fields of a setting (except the world) or of a world."""
    return [f.name for f in fields(kind) if f.name != "world"]


def make(method: str, problem: str, override: Mapping[str, Any] | None = None, **values: Any) -> Setting:
    """A setting from its own fields and those of its world, by name.

    Args:
        problem: name of a world, or `module:Class`.

    Raises:
        UserError: an unknown problem or field; names the worlds that have the field, or the nearest name.
    """
    kind = world_class(problem)
    return changed(Setting(method, kind(), override or {}), **values)


def changed(setting: Setting, **values: Any) -> Setting:
    """The setting with other values for its own fields or those of its world.

    Raises:
        UserError: an unknown field; names the worlds that have it, or the nearest name.
    """
    own, inner = names(Setting), names(type(setting.world))
    for name in values:
        if name not in own and name not in inner:
            raise UserError(f"unknown field `{name}` of `{setting.problem}`", fix=whose(name, [*own, *inner]))
    world: Any = replace(setting.world, **{k: v for k, v in values.items() if k in inner})  # type: ignore[type-var]
    return replace(setting, world=world, **{k: v for k, v in values.items() if k in own})


def whose(name: str, known: Iterable[str]) -> str:
    """The worlds that have a field that this one lacks, or the nearest name."""
    having = [problem for problem, kind in worlds().items() if name in names(kind)]
    return f"it is a field of {', '.join(having)}" if having else nearest(name, known)


def to_dict(setting: Setting) -> dict[str, Any]:
    """The setting as a JSON value, with the world's name."""
    return {"problem": setting.problem, **asdict(setting)}


def from_dict(tree: Mapping[str, Any]) -> Setting:
    """The inverse of `to_dict`.

    Raises:
        UserError: an unknown problem or field.
    """
    flat = {k: v for k, v in tree.items() if k != "world"}
    return make(**flat, **tree["world"])


# ------------------------------------------------------------------------------------------------------------- stacks


def _kind(name: str, value: Any) -> Any:
    """What a per-run hyper-parameter must share with its stack: its type and, for `kl`, whether it is 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return ["number" if number else type(value).__name__, name == "kl" and value == 0]


def stacks(settings: Iterable[Setting], size: int | None = None) -> list[list[Setting]]:
    """Settings grouped into stacks of at most `size` (None: the world's default), in order."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(setting.stack, []).append(setting)
    out = []
    for group in groups.values():
        n = size or group[0].world.runs_per_stack
        out += [group[i : i + n] for i in range(0, len(group), n)]
    return out


def seeds(setting: Setting, numbers: Sequence[int]) -> list[Setting]:
    """The same setting once per seed."""
    return [replace(setting, seed=n) for n in numbers]
