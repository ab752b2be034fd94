"""The detector benchmark: sound runs and runs with planted faults, seen by our checks and by published rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefloop.analysis.detection import Case, Judged, Roc, case, fit, halves, judge, rocs
from prefloop.analysis.evidence import Answer, Curve, Evidence, curve
from prefloop.core.batch import Batch
from prefloop.core.loop import Diverged, Loop
from prefloop.core.metrics import run_metrics
from prefloop.core.objectives import sequence
from prefloop.core.optim import StackedAdam
from prefloop.core.streams import Stream
from prefloop.detectors.faults import FAULTS, SOUND, Fault, Parts, bases, parts
from prefloop.lab.setting import Setting, seeds, stacks
from prefloop.lab.stack import stack_of, stacked_plan

LOWEST = 5000  # first seed, so that they differ from those of studies
POSED = 32  # prompts that are answered before and after training
Tick = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """The benchmark: thresholds of one half of the runs, and how every detector does on the other."""

    thresholds: Mapping[str, float]
    detectors: Mapping[str, Judged]
    rocs: Mapping[str, Roc | None]
    cases: Sequence[Case]


def benchmark(runs: int = 20, sound: int = 66, *, tick: Tick = lambda _: None, only: Sequence[str] = ()) -> Result:
    """Run every kind of fault and the sound settings, fit thresholds on one half of the runs and judge on the other.

    Args:
        runs: number of runs of each kind.
        sound: number of sound runs.
        tick: called before every stack.
        only: kinds; by default all.
    """
    kinds = {name: fault for name, fault in FAULTS.items() if not only or name in only}
    cases = [case(run) for run in planted(SOUND, sound, tick)]
    for name, fault in kinds.items():
        cases += [case(run, name, fault.reasons) for run in planted(fault, runs, tick)]
    fitted, judged = halves(cases)
    thresholds = fit(fitted)
    return Result(thresholds, judge(judged, thresholds), rocs(judged), cases)


def planted(fault: Fault, count: int, tick: Tick = lambda _: None) -> list[Evidence]:
    """So many runs with a fault, spread over its bases."""
    known, found = bases(), list[Evidence]()
    for i, name in enumerate(fault.bases):
        own = len(range(i, count, len(fault.bases)))
        settings = [fault.change(s) for s in seeds(known[name], range(LOWEST, LOWEST + own))]
        for stack in stacks(settings):
            tick(f"{name}: {len(stack)} runs")
            found += evidences(stack, fault)
    return found


def evidences(settings: Sequence[Setting], fault: Fault = SOUND) -> list[Evidence]:
    """Train a stack with a fault, and the evidence of each run, as a run folder would have it."""
    stack = stack_of(settings)
    watch = Watch(fault.plant(parts(stack), stack), settings)
    watch.train()
    return [watch.evidence(run) for run in range(len(settings))]


class Watch:
    """Trains a stack and records every step and evaluation.

    Args:
        own: what the runs are made of.
        settings: one per run.
    """

    def __init__(self, own: Parts, settings: Sequence[Setting]) -> None:
        self.own, self.settings, one = own, settings, settings[0]
        built, stack = own.built, stack_of(settings)
        plan = stacked_plan(settings, stack.dtype)
        optimizer = StackedAdam(built.policy.parameters(), lr=plan.lr)
        options = {"reference": built.reference, "optimizer": optimizer, "seed": stack.seeds, "sampler": own.sampler}
        self.loop = Loop(built.method, built.policy, built.problem, plan, **options)
        self.due = {0, *one.evaluations}
        self.steps: list[dict[str, Tensor]] = []
        self.evaluations: list[dict[str, Tensor]] = []
        self.margins = torch.zeros(len(settings), 0)
        self.answers: list[tuple[int, Batch]] = []

    def train(self) -> None:
        self.evaluate(0)
        self.ask(0)
        try:
            for record in self.loop:
                self.steps.append({k: self._each(v) for k, v in run_metrics(record, self.loop.method).items()})
                if record.step in self.due:
                    self.evaluate(record.step)
        except Diverged:
            self.loop.diverged = torch.ones(len(self.settings), dtype=torch.bool)
        self.ask(self.loop.step)

    def evaluate(self, step: int) -> None:
        """The world's own evaluation and, of offline methods, the held-out pairs."""
        policy, reference = self.loop.policy, self.loop.reference
        seen = dict(self.own.built.evaluate(policy, reference, Stream("evaluation", self._seeds(), True)))
        stopped = torch.zeros(len(self.settings)) if self.loop.diverged is None else self.loop.diverged.double()
        seen |= {"step": torch.tensor(float(step)), "diverged": stopped, **self.ranking()}
        self.evaluations.append({key: self._each(value) for key, value in seen.items()})

    def ranking(self) -> dict[str, Tensor]:
        """Share of the held-out pairs that the implicit reward orders as the data do; keeps their margins."""
        held = self.own.held
        if self.loop.method.pairs is None or held is None or held.scores is None:
            return {}
        with torch.no_grad():
            policies: tuple[Any, Any] = (self.loop.policy, self.loop.reference)
            own, base = (sequence(policy.evaluate(held).logp, held) for policy in policies)
        gap = held.scores[..., 0] - held.scores[..., 1]
        moved = own - base
        self.margins = (moved[..., 0] - moved[..., 1]) * gap.sign()
        right = (self.margins.sign() + 1) / 2
        error = right.std(-1) / right.shape[-1] ** 0.5
        return {"eval/rewards/accuracies": right.mean(-1), "eval/rewards/accuracies_se": error}

    def ask(self, step: int) -> None:
        """Answers to the same prompts, with their training scores, where responses have an end."""
        if getattr(self.loop.policy, "end", None) is None:
            return
        rng, problem = Stream("answers", self._seeds(), True), self.loop.problem
        with torch.no_grad():
            drawn: Batch = self.own.built.policy.draw(problem.prompts(0, POSED, rng), 1, rng)
        self.answers.append((step, problem.score(drawn)))

    def evidence(self, run: int) -> Evidence:
        one, method = self.settings[run], self.loop.method
        beta = method.defaults.get("beta")
        alone = beta[run] if isinstance(beta, Tensor) and beta.ndim else beta
        return Evidence(
            name=f"{one.method} on {one.problem}, seed {one.seed}",
            method=one.method,
            curves=self._curves(run),
            beta=None if alone is None else float(alone),
            pairs=method.pairs is not None,
            reference="reference" in method.needs,
            learned_reward=self.own.learned,
            limit=one.world.tokens,
            margins=self.margins[run].tolist(),
            answers=[answer for step, batch in self.answers for answer in _answers(step, batch, run)],
            overlap=self._overlap(run),
            unended=self._unended(run),
        )

    def _curves(self, run: int) -> dict[str, Curve]:
        found: dict[str, Curve] = {}
        for lines in (self.evaluations, self.steps):
            for key in {key for line in lines for key in line if key != "step" and not key.endswith("_se")}:
                have = [line for line in lines if key in line]
                step, value = ([float(line[k][run]) for line in have] for k in ("step", key))
                error = [float(line[f"{key}_se"][run]) if f"{key}_se" in line else np.nan for line in have]
                if (made := curve(step, value, error)) is not None:
                    found[key] = made
        return found

    def _overlap(self, run: int) -> float | None:
        """Share of the held-out prompts among those of training, where every prompt is drawn anew."""
        held, data = self.own.held, self.loop.problem.data  # type: ignore[attr-defined]
        if held is None or data is None or not held.prompts.is_floating_point():
            return None
        known = {row.numpy().tobytes() for row in data.prompts[run]}
        return float(np.mean([row.numpy().tobytes() in known for row in held.prompts[run]]))

    def _unended(self, run: int) -> float | None:
        """Share of the training responses that do not end with END; those at the limit are not counted."""
        data, end = self.loop.problem.data, getattr(self.loop.policy, "end", None)  # type: ignore[attr-defined]
        if data is None or end is None:
            return None
        last = data.responses[run].gather(-1, (data.lengths[run] - 1).clamp(min=0)[..., None]).squeeze(-1)
        open_ = (last != end) & (data.lengths[run] < self.settings[run].world.tokens)
        return float(open_.double().mean())

    def _seeds(self) -> list[int]:
        return [s.seed for s in self.settings]

    def _each(self, value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64).detach().expand(len(self.settings)).clone()


def _answers(step: int, batch: Batch, run: int) -> list[Answer]:
    scores = None if batch.scores is None else batch.scores[run]
    out = []
    for p, (ids, tokens) in enumerate(zip(batch.responses[run, :, 0], batch.lengths[run, :, 0].tolist(), strict=True)):
        text = " ".join(map(str, ids[:tokens].tolist()))
        out.append(Answer(step, str(p), text, int(tokens), None if scores is None else float(scores[p, 0])))
    return out
