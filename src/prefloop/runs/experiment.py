"""One run from configuration to trained model: open, evaluate, train under observers, evaluate, save; resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.files import plain, refuse
from prefloop.core.loop import Loop, Record
from prefloop.core.method import Method
from prefloop.core.metrics import step_metrics
from prefloop.core.optim import decayed
from prefloop.core.processes import ALONE, Processes
from prefloop.core.protocols import no_op
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.conversation import Template
from prefloop.runs import checkpoint
from prefloop.runs.best import Best, best_of, check_best, is_over, stopped_early
from prefloop.runs.config import Config, changed, to_yaml
from prefloop.runs.ends import Stopped as Stopped
from prefloop.runs.ends import in_words, kept, save
from prefloop.runs.evaluation import Evaluation, Metrics, evaluate, greedy_answers
from prefloop.runs.finished import has_ended
from prefloop.runs.finished import is_finished as is_finished
from prefloop.runs.flat import Flat
from prefloop.runs.folder import CONFIG, RECORDS, RunFolder, existing, read
from prefloop.runs.further import check_offline, lengthen, longer
from prefloop.runs.interrupt import Interrupt
from prefloop.runs.length import notes_on_length, with_steps
from prefloop.runs.progress import Progress, step_note
from prefloop.runs.records import continued, html, manifest_of, samples
from prefloop.runs.saving import save_best, save_final, save_last, tidy
from prefloop.runs.start import Poll, Say, Start, speaker
from prefloop.runs.start import prepare as prepare
from prefloop.runs.world import method_of, plan_of, resolved
from prefloop.tracking.live import tracked
from prefloop.tracking.record import described
from prefloop.tracking.trackers import adapter
from prefloop.worlds.text.problem import TextProblem

Observer = Callable[[Record, Loop], None]


@dataclass(frozen=True)
class Result:
    """The results of a run."""

    folder: Path
    before: Metrics
    after: Metrics
    seconds: float
    note: str  # on the reward; printed with all results
    notes: tuple[str, ...]  # everything that was guessed, left out or replaced
    best: Best | None = None  # the best evaluation, if one is kept

    def _repr_html_(self) -> str:
        """For notebooks: held-out numbers before and after."""
        return html(self.folder, self.before, self.after, (self.note, *self.notes))


# ---- from outside -------------------------------------------------------------------------------------------------


@in_words
def run(
    config: Config,
    *,
    quiet: bool = False,
    label: str = "",
    start: Start | None = None,
    observers: Sequence[Observer] = (),
    processes: Processes = ALONE,
) -> Result:
    """Train as configured, in a new run folder.

    Args:
        label: name of the run in the progress display.
        start: result of `prepare` for this configuration and others; prepared here by default.
        observers: called after every step; they cannot change a result.
        processes: those that compute this run together, each with this call and a folder of its own.

    Raises:
        UserError, DataError: before anything is trained.
        Interrupted: before the run folder is created.
        Stopped: during training; everything so far is on disk, and the message gives the command to continue. Other
            errors of the training say the same in a note.
    """
    config = resolved(config)
    with Interrupt(quiet=quiet) as interrupt:
        say = speaker(quiet)
        start = start or prepare([config], poll=interrupt.poll, say=say, forecast=not quiet, processes=processes)
        method, prompts = method_of(config), len(start.world.problem.train)
        notes = notes_on_length(config, method, prompts)
        for note in notes:
            say(note)
        config = with_steps(_with_date(config, start.world.model.template), method, prompts)
        check_best(config, start.baseline.metrics)
        this = _begin(config, start, interrupt, notes, processes)
        with RunFolder.create(config.output, config.method, config=to_yaml(config), manifest=this.manifest()) as folder:
            this.record_start(folder)
            return _train(this, folder, label or config.method, quiet, observers)


@in_words
def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    here: Mapping[str, Any] | None = None,
    quiet: bool = False,
    label: str = "",
    start: Start | None = None,
    observers: Sequence[Observer] = (),
    processes: Processes = ALONE,
) -> Result:
    """Continue an interrupted run from its newest checkpoint, or start it again if it was killed before its first;
    its records are the same as without the interruption.

    Args:
        steps: trains the run further than configured, up to this number of steps, finished or not.
        here: changes to the configuration that this machine needs: of the device, and of what limits its memory.

    Raises:
        UserError: no such run, the run is finished, or it cannot be trained further.
        DataError: the data or the model have changed since the run was started.
    """
    home, say = existing(path), speaker(quiet)
    before = config = changed(home / CONFIG, here or {})
    finished = is_finished(home, before)
    if steps is not None and steps != before.training.steps:
        config = longer(home, before, steps, finished=finished)
    elif finished:
        fix = "train it further with --training.steps N, or start a new run with another configuration"
        raise UserError("this run is finished", where=str(home), fix=fix)
    with Interrupt(quiet=quiet) as interrupt, RunFolder.open(home) as folder:
        last = checkpoint.newest(folder.checkpoints)
        done = 0 if last is None else checkpoint.step_of(last)
        ends = done < config.training.steps
        start = start or prepare(
            [config], poll=interrupt.poll, say=say, ends=ends, forecast=not quiet, done=done, processes=processes
        )
        notes = continued(home, config, start.world)
        for note in notes:
            say(note)
        if config != before:
            if not start.world.data.has_responses:
                check_offline(before, config, len(start.world.data.train))
            lengthen(folder, before, config)
        this = _begin(config, start, interrupt, notes, processes)
        if last is None and not has_ended(home, config):
            _start_again(this, folder, say)
        else:
            newest, state = checkpoint.restore(folder.checkpoints, fallback=True, say=say)
            this.loop.restore(state["loop"])
            folder.rewind(state["offsets"], state["waiting"])
            where = {"checkpoint": newest.name, "device": str(start.world.model.device), "notes": list(notes)}
            folder.event("resume", {"step": this.loop.step, **where})
        return _train(this, folder, label or config.method, quiet, observers)


# ---- one run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """A run in progress."""

    config: Config
    start: Start
    method: Method
    problem: TextProblem
    policy: CausalLM
    loop: Loop
    notes: tuple[str, ...]  # those of the world, and on the length of this run
    stop: Poll  # called after every step; may raise to interrupt

    def manifest(self) -> dict[str, Any]:
        return manifest_of(self.config, self.method, self.start.world, self.problem.offline, self.notes)

    def record(self, folder: RunFolder, done: Evaluation, greedy: Batch | None) -> None:
        """Write an evaluation and its answers; those at temperature 0 are for reading and give no metrics."""
        step = self.loop.step
        lines = [{**line, "greedy": True} for line in samples(self.problem, self.policy, greedy, step)]
        lines += samples(self.problem, self.policy, done.answers, step, done.log_ratio)
        more = ([{"step": step, **line} for line in some] for some in (done.scores, done.judged, done.examples))
        folder.evaluation({"kind": "evaluation", "step": step, **done.metrics}, lines, *more)

    def record_start(self, folder: RunFolder) -> None:
        """Write the evaluation of the untrained model."""
        baseline = self.start.baseline
        same = None if baseline.answers is None else torch.zeros(baseline.answers.mask.shape[:-1])
        done = Evaluation(baseline.metrics, baseline.answers, baseline.judged, same, baseline.scores, baseline.examples)
        self.record(folder, done, baseline.greedy)

    def evaluate(self, folder: RunFolder, *, last: bool = False) -> Metrics:
        """Evaluate the current policy; everything is measured before anything is written, in case of interruption."""
        config, world, poll = self.config, self.start.world, self.loop.poll
        beta = float(self.method.defaults.get("beta", 1.0))
        done = evaluate(config, world, self.start.baseline, self.policy, beta=beta, poll=poll)
        best = self.best(folder, [{"kind": "evaluation", "step": self.loop.step, **done.metrics}])
        greedy = greedy_answers(config, world, self.policy, poll) if last or is_over(best, config) else None
        if best is not None and best.step == self.loop.step:
            before = self.start.baseline.metrics
            save_best(folder, config, self.method, self.policy, best, before, done.metrics)
        self.record(folder, done, greedy)
        return done.metrics

    def best(self, folder: RunFolder, more: Iterable[Mapping[str, Any]] = ()) -> Best | None:
        """The best of the evaluations on disk and of more of them; see `best_of`."""
        metric = self.config.evaluation.keep_best
        return None if metric is None else best_of([*read(folder.path, "metrics"), *more], metric)

    def records(self, folder: RunFolder) -> Iterator[Record]:
        """The remaining steps, until the plan or the patience of the run ends."""
        if not is_over(self.best(folder), self.config):
            for record in self.loop:
                yield record
                self.stop()
                if self.evaluation_is_due(record.step) and is_over(self.best(folder), self.config):
                    return

    def evaluated(self, folder: RunFolder) -> Metrics | None:
        """The evaluation of the current step, if it is on disk."""
        lines = (line for line in read(folder.path, "metrics") if line["kind"] == "evaluation")
        found = next((line for line in lines if line["step"] == self.loop.step), {})
        return {key: value for key, value in found.items() if key not in ("kind", "step")} or None

    def evaluation_is_due(self, step: int) -> bool:
        """Whether to evaluate during training; the final evaluation always happens."""
        return _due(step, self.config.evaluation.every or 0, self.config.training.steps)

    def checkpoint_is_due(self, step: int) -> bool:
        return _due(step, self.config.save.every, self.config.training.steps)


def _due(step: int, every: int, last: int) -> bool:
    return every > 0 and 0 < step < last and step % every == 0


def _with_date(config: Config, template: Template) -> Config:
    """The configuration with the date that the template writes, if it does: a resumed run writes the same one."""
    date = template.date if template.writes_date else config.data.template_date
    return replace(config, data=replace(config.data, template_date=date))


def _begin(config: Config, start: Start, interrupt: Interrupt, notes: tuple[str, ...], processes: Processes) -> _Run:
    """A policy that starts from the reference, and the loop that trains it.

    Processes that have parts of the weights stop together, after a step.
    """
    method, training = method_of(config), config.training
    plan = plan_of(config, method)
    policy, problem = start.world.model.policy(critic=method.critic), start.problem(method, plan)
    if processes.parted:
        policy.part()
        start.world.model.reference.part()
    groups = decayed(policy.parameters(), training.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=training.lr, betas=(0.9, 0.95), fused=True)
    loop = Loop(
        method,
        policy,
        problem,
        plan,
        reference=start.world.model.reference,
        optimizer=optimizer,
        seed=config.seed,
        processes=processes,
        poll=no_op if processes.parted else interrupt.poll,
    )
    stop = partial(interrupt.poll_together, processes) if processes.parted else no_op
    return _Run(config, start, method, problem, policy, loop, (*start.world.notes, *notes), stop)


def _start_again(this: _Run, folder: RunFolder, say: Say) -> None:
    """Start a run again that was killed before its first checkpoint; its records are written anew."""
    steps = sum(line["kind"] == "step" for line in read(folder.path, "metrics"))
    lost = f"{steps} recorded steps are lost" if steps else "no step was recorded"
    say(f"{folder.path} has no checkpoint: {lost}, and the run starts again with the same seed")
    folder.rewind(dict.fromkeys(RECORDS, 0))
    folder.event("restart", {"step": 0, "steps_lost": steps})
    this.record_start(folder)


def _train(this: _Run, folder: RunFolder, label: str, quiet: bool, observers: Sequence[Observer]) -> Result:
    """Train the remaining steps with observers, evaluate, and save the final model.

    Before the last evaluation a checkpoint of the last step is saved; when the final model is there, only those
    remain from which the run can be trained further or that are saved regularly.
    """
    clock, loop, config = time.monotonic(), this.loop, this.config
    recorder, flat, say = _recorder(this, folder), Flat(this.method, config.training.stop_if_flat), speaker(quiet)
    watchers: list[Observer] = [_saver(this, folder), *observers, flat]
    with _tracked(this, folder, say) as news, kept(folder, loop, whole=config.keeps_state):
        if this.evaluation_is_due(loop.step) and not this.evaluated(folder):
            this.evaluate(folder)  # the run ended before it was written
        with Progress(config.training.steps, label, done=loop.step, quiet=quiet) as bar:
            for record in this.records(folder):
                line = recorder(record, loop)
                news()
                for observe in watchers:
                    observe(record, loop)
                bar.advance(note=step_note(line, fresh=this.method.on_policy > 0))
        if flat.note:
            say(flat.note)
        if config.saves_final:
            save_last(folder, loop, say, whole=config.keeps_state)
        after = this.evaluated(folder) or this.evaluate(folder, last=True)
        before, world, best = this.start.baseline.metrics, this.start.world, this.best(folder)
        early = stopped_early(best, loop.step, config)
        if early:
            say(early)
            folder.event("stopped early", {"step": loop.step})
        if config.saves_final:
            save_final(folder, config, this.method, this.policy, world.reward.note, before, after)
            state = loop.step if config.keeps_state else None
            tidy(folder, lambda step: step == state or this.checkpoint_is_due(step))
    notes = tuple(filter(None, (*this.notes, flat.note, early)))
    return Result(folder.path, before, after, time.monotonic() - clock, world.reward.note, notes, best)


def _tracked(this: _Run, folder: RunFolder, say: Say) -> AbstractContextManager[Callable[[], None]]:
    """A context in which the records go to the trackers of the run, from the process that writes its folder; a tracker
    that fails is an event of the run."""

    def tell(to: str, sentence: str) -> None:
        say(sentence)
        with suppress(DataError):  # a full disk
            folder.event("tracking stopped", {"to": to, "reason": sentence})

    own = this.config.tracking
    run, names = described(folder.path, own.project, own.name), own.to if this.loop.processes.rank == 0 else ()
    for to in names:
        say(f"tracking to {to}: {adapter(to).look(run)}")
    return tracked(run, names, tell)


def _recorder(this: _Run, folder: RunFolder) -> Callable[[Record, Loop], dict[str, Any]]:
    """A function that writes metrics and times of every step, evaluates during training, and returns the metrics."""
    clock = time.monotonic()

    def observe(record: Record, loop: Loop) -> dict[str, Any]:
        nonlocal clock
        try:
            line = {"kind": "step", **plain(step_metrics(record, this.method), refuse, "metrics")}
        except Exception:  # the step is done: a run that continues after it has one line for each step
            folder.metrics({"kind": "step", "step": record.step})
            raise
        folder.metrics(line)
        folder.timing({"step": record.step, "seconds": time.monotonic() - clock})
        if this.evaluation_is_due(record.step):
            this.evaluate(folder)
        clock = time.monotonic()
        return line

    return observe


def _saver(this: _Run, folder: RunFolder) -> Observer:
    """An observer that saves periodic checkpoints."""

    def observe(record: Record, loop: Loop) -> None:
        if this.checkpoint_is_due(record.step):
            save(folder, loop)

    return observe
