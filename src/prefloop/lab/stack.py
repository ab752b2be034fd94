"""From the settings of a stack to the loop that runs them all at once, and the curves of each run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefloop.analysis.numbers import NONE, compact
from prefloop.core import notebook
from prefloop.core.loop import Diverged, Loop, Plan, Record
from prefloop.core.method import Method
from prefloop.core.metrics import DRIFT, GROUPS, coefficient_mass, drift, mean, run_metrics
from prefloop.core.objectives import sequence
from prefloop.core.optim import StackedAdam
from prefloop.core.streams import Stream
from prefloop.lab.setting import Setting
from prefloop.worlds.spec import Stack

Array = NDArray[np.float64]
DTYPES = {"float32": torch.float32, "float64": torch.float64}
FROM_STEP = (  # metrics of the step before an evaluation
    "clip_ratio/region_mean",
    "staleness",
    "responses/effective",
    "loss",
    "grad_norm",
    "reward",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
)


@dataclass(frozen=True)
class Training:
    """A stack ready to run.

    Args:
        loop: over all runs of the stack.
        evaluate: (policy, reference, stream) -> metrics on the fixed evaluation set, [S] each.
        runs: S.
        tokens: length of the longest response.
        offline: responses in the offline data, 0 if the method uses none.
        glance: the evaluation before the last step, which may be on less.
    """

    loop: Loop
    evaluate: Callable[[Any, Any, Stream], dict[str, Tensor]]
    runs: int
    tokens: int
    offline: int
    glance: Callable[[Any, Any, Stream], dict[str, Tensor]]


def build(settings: Sequence[Setting]) -> Training:
    """Build the training of settings that share a stack key."""
    stack, one = stack_of(settings), settings[0]
    built, plan = one.world.build(stack), stacked_plan(settings, stack.dtype)
    loop = Loop(
        built.method,
        built.policy,
        built.problem,
        plan,
        reference=built.reference,
        optimizer=StackedAdam(built.policy.parameters(), lr=plan.lr),
        seed=stack.seeds,
    )
    return Training(
        loop, built.evaluate, len(settings), one.world.tokens, built.offline, built.glance or built.evaluate
    )


def stack_of(settings: Sequence[Setting]) -> Stack:
    """The runs of one stack, as passed to their world."""
    one, dtype = settings[0], DTYPES[settings[0].precision]
    worlds, numbers = [s.world for s in settings], [s.seed for s in settings]
    return Stack(worlds, numbers, stacked_method(settings, dtype), one.evaluation, dtype)


def stacked_method(settings: Sequence[Setting], dtype: torch.dtype) -> Method:
    """The method, with one value per run for everything that differs between runs."""
    method, many = settings[0].resolved_method, {}
    for name in method.per_run & settings[0].override.keys():
        values = [s.override[name] for s in settings]
        if len(set(values)) > 1:
            many[name] = torch.tensor(values, dtype=dtype)
    return method.override(**many)


def stacked_plan(settings: Sequence[Setting], dtype: torch.dtype) -> Plan:
    """The plan, with one learning rate and gradient norm limit per run."""
    lr, limit = (torch.tensor([getattr(s, n) for s in settings], dtype=dtype) for n in ("lr", "max_grad_norm"))
    return replace(settings[0].plan, lr=lr, max_grad_norm=limit)


@dataclass(frozen=True)
class Run:
    """A finished run: its setting, and one array over evaluations for each metric."""

    setting: Setting
    curves: Mapping[str, Array]

    def _repr_html_(self) -> str:
        """For notebooks: every metric at the start and at the end."""
        ends = {name: [compact(float(curve[i])) for i in (0, -1)] for name, curve in self.curves.items()}
        rows = [(name, *pair) for name, pair in ends.items() if pair != [NONE, NONE] and not name.endswith("_se")]
        title = f"{self.setting.method} on {self.setting.problem}, seed {self.setting.seed}"
        return notebook.table(title, ("metric", "start", "end"), rows)

    def last(self, column: str) -> float:
        return float(self.curves[column][-1])

    def mean(self, column: str) -> float:
        """Mean over training: area under the curve against steps, divided by their number (trapezoids)."""
        step = self.curves["step"]
        return float(np.trapezoid(self.curves[column], step) / (step[-1] - step[0]))


def run_stack(settings: Sequence[Setting], tick: Callable[[int], None] = lambda steps: None) -> list[Run]:
    """Train every run of a stack.

    Args:
        settings: settings with the same stack key.
        tick: called with the number of steps done since the last call.
    """
    training = build(settings)
    watch = Watch(training, settings[0])
    watch.evaluate(None)
    done = 0
    try:
        for record in training.loop:
            watch.observe(record)
            if record.step % 10 == 0 or record.step == settings[0].steps:
                tick(record.step - done)
                done = record.step
    except Diverged:
        watch.freeze()
        tick(settings[0].steps - done)
    return [Run(s, {k: column[:, i] for k, column in watch.columns().items()}) for i, s in enumerate(settings)]


class Watch:
    """Observes a stack: evaluations, and the ledger of the steps in between."""

    def __init__(self, training: Training, one: Setting) -> None:
        self.training, self.one = training, one
        self.rows: list[dict[str, Tensor]] = []
        self.up, self.down = torch.zeros(training.runs), torch.zeros(training.runs)
        self.since = 0
        self.stale: dict[str, Tensor] = {}
        method = training.loop.method
        self.span = method.reuse * one.batch // one.minibatch  # steps per collection
        self.due = one.evaluations

    def observe(self, record: Record) -> None:
        """Record the ledger of every step, and evaluate at some."""
        up, down = coefficient_mass(record.coefficient)
        self.up, self.down, self.since = self.up + up, self.down + down, self.since + 1
        left = self.due[bisect_left(self.due, record.step)] - record.step  # steps to the next evaluation
        if record.step % self.span == 0 and left < self.span and record.batch.logp_proximal is not None:
            with torch.no_grad():  # the last minibatch of a collection, when its responses are stalest
                moved = drift(self.training.loop.policy.evaluate(record.batch).logp, record.batch)
                self.stale = dict(zip(DRIFT, moved, strict=True))
        if not left:
            self.evaluate(record)

    def state(self) -> dict[str, Tensor]:
        """Metrics of the policies on the evaluation set."""
        loop = self.training.loop
        last = loop.step == self.one.steps or (loop.diverged is not None and bool(loop.diverged.all()))
        evaluate = self.training.evaluate if last else self.training.glance
        return evaluate(loop.policy, loop.reference, loop.rng["evaluation"])

    def evaluate(self, record: Record | None) -> None:
        """Append a row of metrics, [S] each; before the first step there is no record."""
        loop, state = self.training.loop, self.state()
        step = run_metrics(record, loop.method) if record is not None else {}
        count = {
            "step": loop.step,
            "samples": loop.samples / self.training.runs,  # the loop counts over all runs
            "reward_queries": loop.queries / self.training.runs,
            "passes": self.passes(),
            "push/up": self.up / max(1, self.since),
            "push/down": self.down / max(1, self.since),
            "diverged": 0.0 if loop.diverged is None else loop.diverged.double(),
        }
        seen = {key: step.get(key, torch.nan) for key in FROM_STEP}
        seen["rest/log_ratio"] = torch.nan if record is None else self.rest(record)
        stale = {key: self.stale.get(key, torch.nan) for key in DRIFT}
        self.rows.append({k: self._each(v) for k, v in {**count, **state, **seen, **stale}.items()})
        self.up, self.down, self.since = torch.zeros_like(self.up), torch.zeros_like(self.down), 0

    def freeze(self) -> None:
        """If every run has diverged, repeat the last values for the remaining evaluations."""
        loop = self.training.loop
        loop.diverged = torch.ones(self.training.runs, dtype=torch.bool)
        self.evaluate(None)
        now = self.rows.pop()
        later = (step for step in self.due if step > loop.step)
        self.rows += [{**now, "step": self._each(step)} for step in later]

    def rest(self, record: Record) -> Any:
        """Mean log of 1 − π(w) − π(l), the mass of all other responses, minus the reference's; one token only."""
        pairs, weight = record.signal.pairs, record.signal.pair_weight
        if pairs is None or weight is None or self.training.tokens > 1:
            return torch.nan
        policies: tuple[Any, ...] = (self.training.loop.policy, self.training.loop.reference)
        batch, left = record.used, []
        for policy in policies:
            with torch.no_grad():
                p = sequence(policy.evaluate(batch).logp, batch).exp().gather(-1, pairs.flatten(-2)).view(pairs.shape)
            left.append((1 - p.sum(-1)).clamp(min=1e-6).log())
        return mean(left[0] - left[1], weight > 0, GROUPS)

    def passes(self) -> float:
        """How often each distinct response has been through the loss so far, on average."""
        loop = self.training.loop
        collected, fresh = -(-loop.step // self.span) * self.one.batch, loop.samples / self.training.runs
        distinct = fresh + min(collected - fresh, self.training.offline)
        return loop.step * self.one.minibatch / distinct if distinct else 0.0

    def _each(self, value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64).detach().expand(self.training.runs)

    def columns(self) -> dict[str, Array]:
        return {k: torch.stack([row[k] for row in self.rows]).cpu().numpy() for k in self.rows[0]}
