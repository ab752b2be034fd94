"""Algorithm 1 of the paper: collect, score, reuse, step. The only backward pass of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.core import kl
from prefloop.core.batch import DATASET, Batch, Signal, concatenate, narrow, put
from prefloop.core.errors import DataError, UserError
from prefloop.core.method import Method
from prefloop.core.objectives import LogProbs, sequence
from prefloop.core.optim import Schedule, StackedAdam, clip_gradients, hold, rate
from prefloop.core.processes import ALONE, Processes, add_gradients, check_shares, dealt, gathered, shared_out
from prefloop.core.protocols import Enumerable, Evaluation, Policy, Problem, Sampler, no_op
from prefloop.core.ranges import Number
from prefloop.core.streams import streams
from prefloop.core.terms import corrected, is_active, mean_over, other_terms


class Diverged(RuntimeError):
    """A loss or gradient is not finite; nothing was updated."""

    exit_code = 4


@dataclass(frozen=True)
class Record:
    """One optimiser step, as observers see it."""

    step: int  # optimiser steps taken, this one included
    iteration: int
    pass_: int  # over this collection, counted from 0
    batch: Batch  # the optimiser batch
    used: Batch  # its responses that the loss depends on; the fields below refer to these
    signal: Signal
    logp: LogProbs  # before the step, detached
    coefficient: LogProbs  # −∂/∂log π of the method's own term
    loss: Float[Tensor, "*S"]  # the method's own term
    regularisers: dict[str, Tensor]  # weighted additional terms, [*S] each
    grad_norm: Tensor
    lr: Number
    samples: int  # responses sampled from the policy so far, and their tokens
    sampled_tokens: int
    trained_tokens: int  # response tokens that went through the loss so far
    queries: int  # scores requested so far


@dataclass(frozen=True)
class Plan:
    """Length and batch sizes of a run: B and M count responses; C (the method's `responses`) divides M, M divides B.

    Learning rate and norm limit are one number, or one per stacked run, [S].
    """

    steps: int
    batch: int
    minibatch: int
    lr: Number
    warmup: int = 0
    max_grad_norm: Number = 1.0
    schedule: Schedule = "constant"

    def check(self, method: Method) -> None:
        """Refuse a plan that no policy or problem could run, before anything is loaded.

        Raises:
            UserError: sizes that split a group or a collection, no pairs, no mixture, or a misplaced KL.
        """
        c, m, b = method.responses, self.minibatch, self.batch
        if min(m, b) < 1 or m % c or b % m:
            size = max(c, m // c * c)
            raise UserError(
                f"responses C={c} must divide minibatch M={m}, and M must divide batch B={b}",
                fix=f"for example minibatch={size}, batch={max(size, b // size * size)}",
            )
        if method.compares and c < 2:
            what = "this method compares responses to the same prompt, but each prompt has only one"
            raise UserError(what, fix="responses >= 2")
        shared = b if method.defaults.get("z_over") == "collection" else m
        if "z" in method.needs and shared // c < 2:
            what = "z compares a prompt with responses to another prompt, but there is only one"
            raise UserError(what, fix=f"minibatch={2 * c}, or z_over=collection with batch={2 * c}")
        groups = b // c
        if 0 < method.on_policy < 1 and method.refuses_mixture:
            raise UserError(f"this method refuses on_policy={method.on_policy}: {method.refuses_mixture}")
        if 0 < method.on_policy < 1 and round(method.on_policy * groups) in (0, groups):
            raise UserError(f"on_policy={method.on_policy} of {groups} groups is not a mixture", fix="a larger batch")
        if is_active(method.kl) and method.kl_in == "reward" and "behaviour" not in method.needs:
            raise UserError("a KL inside the reward needs a policy-gradient method", fix="kl_in=loss")


class Loop:
    """The loop and its whole state: iterate over it, save it between any two records, restore it, continue.

    Raises:
        UserError: as for `Plan.check`; a truncated sampler with a ratio; an exact KL that cannot be summed.

    Args:
        reference: π_ref.
        sampler: writes the responses; the policy itself by default.
        processes: those that compute this run together, in step; each evaluates and trains on its share of the prompts.
        poll: called at every token and micro-batch; may raise to interrupt.
    """

    def __init__(
        self,
        method: Method,
        policy: Policy,
        problem: Problem,
        plan: Plan,
        *,
        reference: Policy,
        optimizer: torch.optim.Optimizer,
        seed: int | Sequence[int] = 0,
        sampler: Sampler | None = None,
        processes: Processes = ALONE,
        poll: Callable[[], None] = no_op,
    ) -> None:
        plan.check(method)
        writer = policy if sampler is None else sampler
        if not isinstance(writer, Sampler):
            raise UserError("this policy cannot write responses", fix="give the loop a sampler")
        if "behaviour" in method.needs and not writer.exact_sampler and method.mismatch_cap is None:
            what = "this method's ratio needs the policy's own responses, but the sampler is tempered or truncated"
            raise UserError(what, fix="temperature=1, top_p=1, top_k=0, or the correction mismatch_cap=2")
        check_shares(plan.minibatch, method.responses, processes)
        if is_active(method.kl) and method.kl_estimator == "exact" and not isinstance(policy, Enumerable):
            raise UserError("this policy cannot sum over all responses", fix="kl_estimator=k2")
        self.method, self.policy, self.problem, self.plan, self.poll = method, policy, problem, plan, poll
        self.reference, self.optimizer, self.sampler, self.processes = reference, optimizer, writer, processes
        self.rng = streams(seed)
        self.step = self.samples = self.sampled_tokens = self.trained_tokens = self.queries = 0
        self.moments: dict[str, Tensor] = {}
        self.diverged: Bool[Tensor, "*S"] | None = None  # stacked runs that are frozen since they diverged
        self.collection: Batch | None = None
        self.signal: Signal | None = None
        self._boundary = self._mark()

    def __iter__(self) -> Iterator[Record]:
        per_pass = self.plan.batch // self.plan.minibatch
        per_collection = per_pass * self.method.reuse
        while self.step < self.plan.steps:
            iteration, place = divmod(self.step, per_collection)
            if self.collection is None or self.signal is None:
                self.collect(iteration)
            pass_, part = divmod(place, per_pass)
            groups, epoch = self.plan.batch // self.method.responses, iteration * self.method.reuse + pass_
            rows = self.rng["shuffle"].epoch(groups, epoch).chunk(per_pass, dim=-1)[part]
            record = self.update(rows, iteration, pass_)
            if place + 1 == per_collection:
                self.collection = self.signal = None
            self._boundary = self._mark()
            yield record

    def collect(self, iteration: int) -> None:
        """Fresh groups, dataset groups, or a mixture of whole groups; scored, with all fields that the method needs."""
        m, groups = self.method, self.plan.batch // self.method.responses
        fresh = round(m.on_policy * groups)
        parts = []
        if fresh:
            prompts = self.problem.prompts(iteration * groups, fresh, self.rng["prompts"])
            self.sampler.sync(self.step)
            with torch.no_grad():
                drawn = self.sampler.draw(prompts, m.responses, self.rng["sampling"], self.poll)
            parts.append(replace(drawn, source=torch.full(drawn.mask.shape[:-2], self.step, device=drawn.mask.device)))
            self.samples += drawn.present.numel()
            self.sampled_tokens += int(drawn.mask.sum())
        if given := groups - fresh:
            start = iteration * groups + fresh  # other prompts than those the policy answers
            known = self.problem.dataset(start, given, m.responses, self.rng["prompts"])
            parts.append(replace(known, source=torch.full(known.mask.shape[:-2], DATASET, device=known.mask.device)))
        if len(parts) > 1:
            parts = [self._same_fields(part) for part in parts]
        joined = concatenate(parts)
        batch = self.problem.score(joined)
        if batch.scores is not None and not bool(torch.isfinite(batch.scores[batch.present]).all()):
            raise DataError("a score is not finite", where=f"collection {iteration}", fix="fix the reward function")
        self.queries += 0 if batch.scores is joined.scores else int(batch.present.sum())
        batch = self.prepare(batch)
        self.collection, self.signal = batch, m.signal(batch, self.moments or None, self.rng["signal"])
        self.moments = _seen(self.moments, batch)

    def _same_fields(self, part: Batch) -> Batch:
        """In a mixture all groups or none have log-probs; scores and labels come from one scorer."""
        part = replace(part, scores=None, labels=None, logp_reference=None, valid=part.present)
        if "behaviour" not in self.method.needs:
            return replace(part, logp_behaviour=None, logp_proximal=None)
        own = self._frozen(self.policy, part).logp if part.logp_proximal is None else part.logp_proximal
        written = own if part.logp_behaviour is None else part.logp_behaviour  # an engine gives its own
        return replace(part, logp_behaviour=written, logp_proximal=own)

    def prepare(self, batch: Batch) -> Batch:
        """Add those of reference and policy log-probs, values, a shared z and penalty that the method needs."""
        m, needs = self.method, self.method.needs
        anchor = "behaviour" in needs and (
            self.plan.batch > self.plan.minibatch or batch.logp_proximal is None or m.mismatch_cap is not None
        )
        if anchor or "values" in needs:
            own = self._frozen(self.policy, batch, values="values" in needs)
            batch = replace(batch, values=own.values)
            if anchor:  # the trainer's own log-probs at collection, for minibatches that come after an update
                behaviour = own.logp if batch.logp_behaviour is None else batch.logp_behaviour
                batch = replace(batch, logp_proximal=own.logp, logp_behaviour=behaviour)
        if "reference" in needs and batch.logp_reference is None:
            batch = replace(batch, logp_reference=self._frozen(self.reference, batch).logp)
        if "z" in needs and m.defaults.get("z_over") == "collection":
            batch = replace(batch, z=self._mismatched_kl(batch))
        if is_active(m.kl) and m.kl_in == "reward":
            batch = replace(batch, penalty=kl.penalty(m.kl, batch))
        return batch

    def _frozen(self, policy: Policy, batch: Batch, values: bool = False) -> Evaluation:
        """Evaluate a whole batch without a gradient."""
        whole: dict[str, Tensor] = {}
        with torch.no_grad():
            for rows in shared_out(policy, batch, self.processes):
                self.poll()
                seen = policy.evaluate(batch[rows], values=values)
                parts = {"logp": seen.logp, "values": seen.values if values else None}
                for name, part in parts.items():
                    if part is not None:
                        put(whole.setdefault(name, part.new_zeros(batch.mask.shape)), rows, part)
        return Evaluation(**{name: self.processes.sum(part) for name, part in whole.items()})

    def _mismatched_kl(self, batch: Batch) -> Float[Tensor, "*S"]:
        """KTO's z: mean log π/π_ref of each prompt with the responses to another one, clamped at 0."""
        other = kl.mismatched(batch)
        d = sequence(self._frozen(self.policy, other).logp - self._frozen(self.reference, other).logp, other)
        count = other.present.sum((-2, -1)).clamp(min=1)
        return mean_over(d, other.present, count).clamp(min=0)

    def update(self, rows: Int[Tensor, "*S m"], iteration: int, pass_: int) -> Record:
        """One optimiser step on whole groups, in micro-batches whose losses share fixed denominators."""
        assert self.collection is not None and self.signal is not None
        m, whole, signal = self.method, self.collection[rows], self.signal[rows]
        if "z" in m.needs and whole.z is None:
            whole = replace(whole, z=self._mismatched_kl(whole))
        total = m.denominator(whole, signal)
        present = whole.present.sum((-2, -1)).clamp(min=1)
        mini, signal = narrow(whole, signal, m.used(whole, signal))
        narrowed = mini.mask.shape != whole.mask.shape
        first = pass_ == 0 and self.plan.batch == self.plan.minibatch
        anchor = self.collection.logp_proximal if first else None
        losses: dict[str, Tensor] = {}
        logp = push = torch.zeros(0)
        self.optimizer.zero_grad(set_to_none=True)
        for part in shared_out(self.policy, mini, self.processes):
            self.poll()
            micro, sig = mini[part], signal[part]
            seen = self.policy.evaluate(micro, entropy=m.entropy > 0, values=m.critic)
            if not losses:
                logp, push = seen.logp.new_zeros(mini.mask.shape), seen.logp.new_zeros(mini.mask.shape)
            if anchor is not None:  # nothing was updated since the collection: the ratio is exactly 1
                micro = replace(micro, logp_proximal=seen.logp.detach())
            own = seen.logp.view_as(seen.logp)
            own.register_hook(partial(_note, push, part))  # type: ignore[no-untyped-call]
            sig = corrected(m, sig, micro)
            terms = {"method": m.loss(own, micro, sig, total)}
            terms |= other_terms(m, seen, self.policy, micro, sig, total, present)
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            put(logp, part, seen.logp.detach())
            losses = {k: losses.get(k, 0.0) + v.detach() for k, v in terms.items()}
        logp, push, *sums = map(self.processes.sum, (logp, push, *losses.values()))
        losses = dict(zip(losses, sums, strict=True))
        add_gradients(self.policy.parameters(), self.processes)
        if anchor is not None and not narrowed:
            put(anchor, rows, logp.to(anchor))
        norm, lr = self._descend(torch.stack(list(losses.values())), stacked=mini.mask.ndim == 4)
        self.trained_tokens += int((mini.mask & mini.present[..., None]).sum())
        used = mini if anchor is None else replace(mini, logp_proximal=logp)
        return Record(
            iteration=iteration,
            pass_=pass_,
            batch=whole if narrowed else used,
            used=used,
            signal=signal,
            logp=logp,
            coefficient=push,
            loss=losses.pop("method"),
            regularisers=losses,
            grad_norm=norm,
            lr=lr,
            **{k: getattr(self, k) for k in COUNTERS},
        )

    def _descend(self, losses: Tensor, stacked: bool) -> tuple[Float[Tensor, "*S"], Number]:
        """The optimiser's step. Losses or gradients that are not finite change no weight; a stacked run that diverges
        is frozen from then on while the others continue.

        Raises:
            Diverged: the only run, or every stacked run, has diverged.
        """
        parameters = self.policy.parameters()
        norm = clip_gradients(parameters, self.plan.max_grad_norm, stacked=stacked)
        lost = ~(torch.isfinite(norm) & torch.isfinite(losses).all(0))
        lost = lost if self.diverged is None else lost | self.diverged
        if bool(lost.all()):
            raise Diverged(f"step {self.step + 1}: loss or gradient is not finite; the weights were not changed")
        lr = self.plan.lr * rate(self.plan.schedule, self.step, self.plan.steps, self.plan.warmup)
        if bool(lost.any()):
            self.diverged = lost
            hold(parameters, lost)
            lr = torch.where(lost, 0.0, torch.as_tensor(lr, device=lost.device))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._boundary = {}  # until the step is whole
        self.optimizer.step()
        self.step += 1
        return norm, lr

    def _mark(self) -> dict[str, Any]:
        """The state between steps apart from the weights; an interrupted collection is drawn again on resumption."""
        return {
            "counters": {k: getattr(self, k) for k in COUNTERS},
            "streams": {name: stream.state() for name, stream in self.rng.items()},
            "moments": self.moments,
            "diverged": self.diverged,
            "collection": None if self.collection is None else vars(self.collection),
            "signal": None if self.signal is None else vars(self.signal),
        }

    def state(self) -> dict[str, Any]:
        """The complete state at the last step boundary: tensors, numbers and nested dicts or lists of them."""
        if not self._boundary:
            raise RuntimeError("the optimiser's step was not finished: the weights are between two steps")
        optimizer = {str(k): gathered(v) for k, v in self.optimizer.state_dict()["state"].items()}
        drawn = {**self._boundary["streams"], "evaluation": self.rng["evaluation"].state()}  # used by observers
        return {**self._boundary, "streams": drawn, "policy": self.policy.state(), "optimizer": optimizer}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`: the next record is bit for bit the same as without the interruption."""
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.policy.restore(state["policy"])
        moments = dealt(state["optimizer"], self.optimizer)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for name, drawn in state["streams"].items():
            self.rng[name].restore(drawn)
        self.moments, self.diverged = state["moments"], state["diverged"]
        self.collection = None if state["collection"] is None else Batch(**state["collection"])
        self.signal = None if state["signal"] is None else Signal(**state["signal"])
        self._boundary = self._mark()


COUNTERS = ("step", "samples", "sampled_tokens", "trained_tokens", "queries")


def _note(push: Tensor, rows: Tensor, grad: Tensor) -> None:
    """Ledger entry: the coefficient c = −∂loss/∂log π of a micro-batch."""
    put(push, rows, -grad)


def _seen(moments: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """Running count and mean of all scores so far, per run."""
    if batch.scores is None:
        return moments
    n = batch.present.sum((-2, -1)).to(batch.scores)
    mean = torch.where(batch.present, batch.scores, 0.0).sum((-2, -1)) / n.clamp(min=1)
    before = moments or {"count": torch.zeros_like(n), "mean": mean}
    count = before["count"] + n
    return {"count": count, "mean": before["mean"] + (mean - before["mean"]) * n / count.clamp(min=1)}


def train(
    method: Method,
    policy: Policy,
    problem: Problem,
    plan: Plan,
    *,
    reference: Policy | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    seed: int | Sequence[int] = 0,
    observers: Sequence[Callable[[Record, Loop], None]] = (),
) -> Loop:
    """Run the loop to its end; observers see every step and cannot change a result.

    Args:
        reference: π_ref; by default a frozen copy of the policy as it is now.
        optimizer: over `policy.parameters()`; by default Adam, per run if stacked.
        seed: one seed, or one per stacked run.

    Returns:
        The finished loop, whose `policy` is trained and whose `state()` can be saved.
    """
    adam = torch.optim.Adam if isinstance(seed, int) else StackedAdam
    theirs = policy.reference() if reference is None else reference
    chosen = adam(policy.parameters(), lr=plan.lr) if optimizer is None else optimizer
    loop = Loop(method, policy, problem, plan, reference=theirs, optimizer=chosen, seed=seed)
    for record in loop:
        for observe in observers:
            observe(record, loop)
    return loop
