"""One run from configuration to trained model: evaluate, train under observers, evaluate, save; resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from prefloop.analysis.divergence import kl_estimates, sequence_logp
from prefloop.analysis.preference import preference_accuracy, winner_first
from prefloop.analysis.statistics import mean_se
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.loop import Loop, Record
from prefloop.core.metrics import step_metrics
from prefloop.policies import pretrained
from prefloop.policies.causal_lm import CausalLM
from prefloop.runs import checkpoint
from prefloop.runs.build import (
    Parts,
    build,
    check_cut,
    evaluation_stream,
    needs_collection,
    offline_collection,
    offline_groups,
)
from prefloop.runs.config import Config, load, to_yaml
from prefloop.runs.folder import CONFIG, RunFolder, existing, read, read_manifest
from prefloop.runs.interrupt import Interrupt, Interrupted
from prefloop.runs.progress import Progress
from prefloop.runs.records import card, manifest_of, samples

Say = Callable[[str], None]
Observer = Callable[[Record, Loop], None]
Metrics = dict[str, float]


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    folder: Path
    before: Metrics
    after: Metrics
    seconds: float
    note: str  # what must be said beside every number: the held-out accuracy of a learned scorer


@dataclass(frozen=True)
class Pairs:
    """Held-out pairs, winners first, with what the reference says of them."""

    batch: Batch
    keys: list[str]  # the question of each pair
    reference: Tensor  # summed log π_ref [P, 2]


@dataclass
class Shared:
    """What several runs of one comparison have in common, so that it is made once: same seed, model and data."""

    first: tuple[Metrics, Batch | None] | None = None  # evaluation of the reference and its answers
    pairs: Pairs | None = None  # held-out pairs
    offline: dict[tuple[int, int], Batch] = field(default_factory=dict)  # by number and size of groups


def run(
    config: Config,
    *,
    quiet: bool = False,
    label: str = "",
    shared: Shared | None = None,
    observers: Sequence[Observer] = (),
) -> Result:
    """Train as configured in a fresh run folder.

    Args:
        label: what progress calls this run.
        shared: what an earlier run of the same comparison has made already.
        observers: called after every step; they cannot change a result.

    Raises:
        UserError, DataError: nothing was trained.
        Interrupted: everything done so far is kept; its message names the command that goes on.
    """
    with Interrupt(quiet=quiet) as interrupt:
        say = _say(quiet)
        parts = build(config, poll=interrupt.poll, say=say)
        shared = Shared() if shared is None else shared
        first, answers = _first(parts, shared, interrupt.poll)
        _offline(parts, shared, interrupt.poll)
        written = RunFolder.create(config.output, config.method, config=to_yaml(config), manifest=manifest_of(parts))
        with written as folder:
            folder.metrics({"kind": "evaluation", "step": 0, **first})
            folder.samples(samples(parts, answers, 0))
            loop = _loop(parts, interrupt.poll)
            return _go(parts, loop, folder, shared, quiet, label or config.method, observers)


def resume(path: str | Path, *, quiet: bool = False) -> Result:
    """Go on with an interrupted run from its newest checkpoint; the records read as if it had never stopped.

    Raises:
        UserError: no such run, or nothing to go on from.
    """
    home = existing(path)
    config = load(home / CONFIG)
    done = [line for line in read(home, "metrics") if line["kind"] == "evaluation" and line["step"]]
    if done and done[-1]["step"] >= config.training.steps:
        raise UserError("this run is finished", where=str(home), fix="start a new one with another configuration")
    with Interrupt(quiet=quiet) as interrupt, RunFolder.open(home) as folder:
        parts = build(config, poll=interrupt.poll, say=_say(quiet))
        shared = Shared()
        _first(parts, shared, interrupt.poll)
        _offline(parts, shared, interrupt.poll)
        loop = _loop(parts, interrupt.poll)
        _unchanged(home, parts)
        found, state = checkpoint.restore(folder.checkpoints, fallback=True, say=_say(quiet))
        loop.restore(state["loop"])
        folder.rewind(state["offsets"])
        folder.event("resume", {"step": loop.step, "checkpoint": found.name})
        _catch_up(parts, loop, folder, shared)
        return _go(parts, loop, folder, shared, quiet, config.method)


def _catch_up(parts: Parts, loop: Loop, folder: RunFolder, shared: Shared) -> None:
    """The evaluation that was due at this step, where the interruption came before it was written."""
    every, last = parts.config.evaluation.every, parts.config.training.steps
    written = [line["step"] for line in read(folder.path, "metrics") if line["kind"] == "evaluation"]
    if every and 0 < loop.step < last and loop.step % every == 0 and loop.step not in written:
        _evaluate(parts, loop, folder, shared)


def _unchanged(home: Path, parts: Parts) -> None:
    """Refuse to go on with other data or another model.

    Raises:
        DataError: a hash differs from the one in the manifest.
    """
    recorded = read_manifest(home)
    for name, digest in {**parts.hashes, "model": pretrained.model_hash(parts.config.model.path)}.items():
        before = recorded["model"]["sha256"] if name == "model" else recorded["data"].get(name)
        if digest != before:
            raise DataError(f"`{name}` is not what the run was started with", where=str(home), fix="restore it")


def _loop(parts: Parts, poll: Callable[[], None]) -> Loop:
    training = parts.config.training
    optimizer = torch.optim.AdamW(
        parts.policy.parameters(), lr=training.lr, betas=(0.9, 0.95), weight_decay=training.weight_decay, fused=True
    )
    return Loop(
        parts.method,
        parts.policy,
        parts.problem,
        parts.plan,
        reference=parts.reference,
        optimizer=optimizer,
        seed=parts.config.seed,
        poll=poll,
    )


def _go(
    parts: Parts,
    loop: Loop,
    folder: RunFolder,
    shared: Shared,
    quiet: bool,
    label: str,
    observers: Sequence[Observer] = (),
) -> Result:
    """The steps that are left, under observers; an interruption saves the loop at the last step boundary."""
    config, clock = parts.config, time.monotonic()
    first, _ = _first(parts, shared, loop.poll)
    every: list[Observer] = [_Recorder(parts, folder), *_every(parts, folder, shared), *observers]
    try:
        with Progress(config.training.steps, label, quiet=quiet) as bar:
            bar.advance(loop.step)
            for record in loop:
                for observe in every:
                    observe(record, loop)
                bar.advance(note=_note(record))
        last = _evaluate(parts, loop, folder, shared)
    except Interrupted as stop:  # a second Ctrl-C is no safe point: then the last checkpoint stays the newest
        save(folder, loop)
        folder.event("interrupted", {"step": loop.step})
        raise Stopped(folder.path, loop.step, stop.exit_code) from None
    if config.save.final:
        pretrained.save(parts.policy.model, parts.policy.tokenizer, folder.final, card(parts, first, last))
    return Result(folder.path, first, last, time.monotonic() - clock, parts.scorer_note)


class Stopped(Exception):
    """A run that was interrupted and kept."""

    def __init__(self, folder: Path, step: int, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(f"stopped after step {step}; go on with: prefloop train --resume {folder}")


def save(folder: RunFolder, loop: Loop) -> Path:
    """A checkpoint of the loop, and how long the records were at that moment."""
    return checkpoint.save(folder.checkpoints, loop.step, {"loop": loop.state(), "offsets": folder.offsets()})


# ------------------------------------------------------------------------------------------------------- observers


class _Recorder:
    """Writes one line of metrics and one of times per step."""

    def __init__(self, parts: Parts, folder: RunFolder) -> None:
        self.method, self.folder, self.clock = parts.method, folder, time.monotonic()

    def __call__(self, record: Record, loop: Loop) -> None:
        self.folder.metrics({"kind": "step", **step_metrics(record, self.method)})
        now = time.monotonic()
        self.folder.timing({"step": record.step, "seconds": now - self.clock})
        self.clock = now


def _every(parts: Parts, folder: RunFolder, shared: Shared) -> Iterator[Observer]:
    """Evaluations and checkpoints at their own cadence."""
    config = parts.config

    def evaluation(record: Record, loop: Loop) -> None:
        if record.step % config.evaluation.every == 0 and record.step < config.training.steps:
            _evaluate(parts, loop, folder, shared)

    def saving(record: Record, loop: Loop) -> None:
        if record.step % config.save.every == 0 and record.step < config.training.steps:
            save(folder, loop)

    if config.evaluation.every:
        yield evaluation
    if config.save.every:
        yield saving


# ------------------------------------------------------------------------------------------------------ evaluation


def evaluate(
    parts: Parts, policy: CausalLM, answers: Batch | None, pairs: Pairs | None, poll: Callable[[], None]
) -> tuple[Metrics, Batch | None]:
    """Gold reward, lengths and KL on held-out prompts; preference accuracy where the held-out set has pairs.

    Args:
        answers: the reference's own answers to the same prompts, for KL(π_ref‖π); None while it is the reference that
            is evaluated, whose KL is 0 by definition.
        pairs: held-out pairs, where there are any.
    """
    out: Metrics = {}
    fresh = None
    if parts.generates:
        with torch.no_grad():
            drawn = policy.draw(parts.prompts, parts.config.evaluation.samples, evaluation_stream(parts.config), poll)
        fresh = parts.problem.score(drawn)
        assert fresh.scores is not None
        out |= _mean("reward", fresh.scores) | _mean("length", fresh.lengths.float())
        if parts.gold is not None:
            out |= _mean("gold", parts.gold(fresh))
        out["eval/cut"] = float(policy.is_cut(fresh).float().mean())
        out |= _divergence(parts, policy, fresh, answers, poll)
    if pairs is not None:
        same = policy is parts.reference  # then all implicit rewards tie by construction
        own = pairs.reference if same else sequence_logp(policy, pairs.batch, poll)
        beta = float(parts.method.defaults.get("beta", 1.0))
        found = preference_accuracy(own, pairs.reference, pairs.batch.lengths, pairs.keys, beta=beta)
        out |= {k: float(v) for k, v in found.metrics().items()}
    return out, fresh


def _evaluate(parts: Parts, loop: Loop, folder: RunFolder, shared: Shared) -> Metrics:
    """The policy as it is now, with its numbers and answers on record."""
    _, answers = _first(parts, shared, loop.poll)
    found, fresh = evaluate(parts, parts.policy, answers, shared.pairs, loop.poll)
    folder.metrics({"kind": "evaluation", "step": loop.step, **found})
    folder.samples(samples(parts, fresh, loop.step))
    return found


def _divergence(
    parts: Parts, policy: CausalLM, fresh: Batch, answers: Batch | None, poll: Callable[[], None]
) -> Metrics:
    if answers is None:
        return {f"eval/kl_{way}{end}": 0.0 for way in ("reverse", "forward") for end in ("", "_se")}
    return kl_estimates(policy, parts.reference, fresh, answers, poll).metrics()


def _mean(name: str, x: Tensor) -> Metrics:
    """Mean over prompts of the mean over answers, and its standard error."""
    m = mean_se(x.double().mean(-1).numpy())
    return {f"eval/{name}": m.value, f"eval/{name}_se": m.se}


def _first(parts: Parts, shared: Shared, poll: Callable[[], None]) -> tuple[Metrics, Batch | None]:
    """The reference before training; it also decides whether the length limit is fit for use."""
    if shared.first is None:
        if parts.preferences is not None:
            batch, keys = parts.preferences
            batch = winner_first(batch)
            shared.pairs = Pairs(batch, keys, sequence_logp(parts.reference, batch, poll))
        shared.first = evaluate(parts, parts.reference, None, shared.pairs, poll)
        if "eval/cut" in shared.first[0]:
            check_cut(shared.first[0]["eval/cut"], parts.config)
    return shared.first


def _offline(parts: Parts, shared: Shared, poll: Callable[[], None]) -> None:
    if needs_collection(parts):
        wanted = (offline_groups(parts), parts.method.responses)
        if wanted not in shared.offline:
            shared.offline[wanted] = offline_collection(parts, poll)
        parts.problem = replace(parts.problem, offline=shared.offline[wanted])


def _note(record: Record) -> str:
    reward = "" if record.batch.scores is None else f"  reward {float(record.batch.scores.mean()):.3f}"
    return f"loss {float(record.loss):.4f}{reward}"


def _say(quiet: bool) -> Say:
    return (lambda text: None) if quiet else (lambda text: print(text, flush=True))
