"""The grid of `prefloop lab`: its flags, and the product of their lists as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefloop.cli.options import Output, require, require_folder, require_positive
from prefloop.cli.world_flags import PROBLEM, flags_of, world_schema, world_values
from prefloop.core.errors import UserError, shown
from prefloop.runs import yaml12
from prefloop.runs.schema import Flag
from prefloop.worlds.spec import world_class
from prefloop.worlds.text.spec import require_device

if TYPE_CHECKING:  # torch is imported only to run something, so that --help is fast
    from prefloop.lab.setting import Setting

SWITCHES = ("reuse", "negative", "on_policy", "kl")  # switches with their own flags
PORTIONS = ("responses", "batch", "minibatch")
ITERATIONS = 100
AUTO, TUNING_SEEDS = "auto", 3
MOST_SEEDS = 1000  # higher seeds are for tuning: see lab.summary
LIST = Flag(commas=True)


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Run a grid of stacked runs on problems with a known reward. Every LIST, such as 64,256, is an axis of the grid.

    Hyper-parameters of a method: --override.NAME LIST, for example --override.beta 0.05,0.1.
    """

    problem: Annotated[str, Flag(metavar="NAME")] = PROBLEM
    """arms, rotated, sequences, categorical, lengths, or your own `module:Class`."""
    method: Annotated[tuple[str, ...], LIST] = ("best_of_n", "online_dpo")
    """Names from `prefloop methods`, or your own `module:name`."""
    override: Annotated[dict[str, str], Flag(metavar="NAME=LIST")] = field(default_factory=dict)
    """Hyper-parameters and parts of the method."""
    responses: Annotated[tuple[int, ...], LIST] = (10,)
    """Responses per prompt (C)."""
    batch: Annotated[tuple[int, ...], LIST] = ()
    """Responses per collection (B; default: 10 prompts)."""
    minibatch: Annotated[tuple[int, ...], LIST] = ()
    """Responses per optimiser step (M; default: the batch)."""
    reuse: Annotated[tuple[int, ...], LIST] = ()
    """Passes over a collection (T)."""
    negative: Annotated[tuple[float, ...], LIST] = ()
    """Share of the push-down gradient that is kept."""
    on_policy: Annotated[tuple[float, ...], LIST] = ()
    """Share of the prompt groups that the policy answers."""
    kl: Annotated[tuple[float, ...], LIST] = ()
    """Weight of the KL penalty."""
    lr: Annotated[tuple[Any, ...], LIST] = (1e-3,)
    """Learning rate; from several, the best per cell is chosen on other seeds; auto searches for it, past any edge."""
    steps: int | None = None
    """Optimiser steps."""
    iterations: int | None = None
    """Collections, instead of steps (default: 100)."""
    seeds: int = 10
    """Runs per cell."""
    tuning_seeds: int | None = None
    """Tuning runs per learning rate of a list (default: 3)."""
    precision: Literal["float32", "float64"] | None = None
    """Data type of weights and gradients."""
    evaluate: int | None = None
    """Steps between evaluations."""
    spacing: Literal["even", "log"] = "even"
    """log: evaluate at steps 1, 2, 3, 4, 6, 8, 11, 16, ... instead."""
    out: Annotated[Path, Flag(metavar="DIR")] = Path("lab")
    """Folder for runs, tables and figures; existing runs are reused."""
    device: str = "cpu"
    """Where the workers compute: cpu, cuda, cuda:N, mps or auto."""
    workers: int = 2
    """Worker processes, one thread each."""
    stack: Annotated[str, Flag(metavar="N|auto")] = ""
    """Runs per stack; auto measures which size is fastest."""
    ray: Annotated[str, Flag(metavar="ADDRESS")] = ""
    """Run on this Ray cluster; `local` starts one."""
    format: Literal["", "csv", "md", "latex"] = ""
    """Print only the table, for a spreadsheet or a paper."""
    pdf: bool = False
    """Also write the figure as PDF: pip install 'prefloop[figures]'."""
    plan: bool = False
    """Predict time and memory of the grid without running it."""
    world: Annotated[dict[str, Any], Flag(of=world_schema)] = field(default_factory=dict)
    """Fields of the problem."""

    def __post_init__(self) -> None:
        self._check_rates()
        tuning = ["tuning_seeds"] if len(self.lr) > 1 else []
        require_device("--device", self.device)
        require_positive(self, "workers", "seeds", "iterations", *tuning)
        if self.seeds > MOST_SEEDS:
            what = f"{self.seeds} seeds would overlap with the tuning seeds"
            raise UserError(what, where="--seeds", fix=f"use {MOST_SEEDS} or fewer")
        if self.steps is not None and self.iterations is not None:
            raise UserError("--steps and --iterations exclude each other", fix="use one of them")
        if self.stack not in ("", "auto"):
            size = int(self.stack) if self.stack.isdecimal() else 0
            require(size > 0, "stack", self.stack, "use 1 or more, or auto")
        require_folder(self.out)

    def _check_rates(self) -> None:
        """Refuse rates that are neither numbers nor `auto` alone, and seeds that `auto` does not use."""
        where = f"--lr {','.join(map(str, self.lr))}"
        if self.auto:
            if len(self.lr) > 1:
                raise UserError("auto chooses the learning rates itself", where=where, fix="--lr auto")
            if self.tuning_seeds is not None:
                fix = "leave --tuning-seeds out, or give a list of learning rates"
                raise UserError("auto has numbers of seeds of its own", where="--tuning-seeds", fix=fix)
        elif wrong := [lr for lr in self.lr if isinstance(lr, bool) or not isinstance(lr, int | float)]:
            raise UserError(f"`lr` must be a number, not {shown(wrong[0])}", where=where, fix="--lr 1e-3,1e-2, or auto")

    @property
    def auto(self) -> bool:
        """Whether learning rates are searched."""
        return AUTO in self.lr

    @property
    def rates(self) -> list[float]:
        """The learning rates of a list."""
        return [float(lr) for lr in self.lr]

    @property
    def tuning(self) -> int:
        """Tuning runs per learning rate of a list."""
        return TUNING_SEEDS if self.tuning_seeds is None else self.tuning_seeds


def grid(options: Options) -> list[Setting]:
    """One setting per cell of the grid, without seeds and learning rates.

    Raises:
        UserError: an invalid value, or a flag of another problem.
    """
    changes = overrides(options)
    axes = {"method": options.method, **{k: v for k in (*PORTIONS, *SWITCHES) if (v := getattr(options, k))}}
    axes |= world_values(options.problem, options.world) | changes
    cells = [_cell(options, dict(zip(axes, place, strict=True)), changes) for place in product(*axes.values())]
    return list({cell.run: cell for cell in cells}.values())  # `far,70` gives one cell


def _cell(options: Options, at: dict[str, Any], changes: Mapping[str, Any]) -> Setting:
    from prefloop.lab.setting import changed, make

    override = {k: at.pop(k) for k in (*SWITCHES, *changes) if k in at}
    at.setdefault("batch", 10 * at["responses"])
    at.setdefault("minibatch", at["batch"])
    fixed = {"precision": options.precision} if options.precision else {}
    name = at.pop("method")
    try:
        one = make(name, options.problem, override, **at, **fixed)
        one.check()
    except UserError as error:  # a list of methods shares one --override
        raise error if error.where else type(error)(error.what, where=f"--method {name}", fix=error.fix) from None
    steps = options.steps
    if steps is None:
        steps = (options.iterations or ITERATIONS) * one.resolved_method.reuse * one.batch // one.minibatch
    every = max(1, steps // 20) if options.evaluate is None else options.evaluate
    return changed(one, steps=steps, evaluate=every, spacing=options.spacing)


def overrides(options: Options) -> dict[str, list[Any]]:
    """The lists of `--override.NAME LIST`.

    Raises:
        UserError: an invalid value, or a name that has its own flag.
    """
    taken = {
        "lr",
        "problem",
        "precision",
        "evaluate",
        "spacing",
        "method",
        *PORTIONS,
        *flags_of(world_class(options.problem)),
    }
    taken |= {name for name in SWITCHES if getattr(options, name)}  # a switch may be set either way, but only once
    out: dict[str, list[Any]] = {}
    for name, text in options.override.items():
        flag = f"--override.{name}"
        if name in taken:
            raise UserError(f"`{name}` has its own flag", where=flag, fix=f"--{name.replace('_', '-')} {text}")
        words = [word.strip() for word in text.split(",")]
        if not all(words):
            raise UserError("empty value in the list", where=f"{flag} {text}", fix="write 1,2,3")
        out[name] = list(dict.fromkeys(_scalar(flag, word) for word in words))
    return out


def _scalar(flag: str, word: str) -> Any:
    value = yaml12.parse(word, flag)
    if isinstance(value, list | dict):
        raise UserError(f"`{word}` is not a number, word or boolean", where=flag)
    return value
