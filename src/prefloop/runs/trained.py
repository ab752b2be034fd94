"""A model that answers: the trained one of a run with its template, the one that the run started from, or any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from prefloop.core.errors import UserError
from prefloop.core.streams import Stream
from prefloop.data.fault import Fault
from prefloop.data.records import Group
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.conversation import Template
from prefloop.policies.pretrained import Limits
from prefloop.runs import checkpoint
from prefloop.runs.config import Config, load
from prefloop.runs.folder import BEST, CONFIG, FINAL, existing
from prefloop.worlds.text.examine import sound
from prefloop.worlds.text.open_model import OpenModel, open_model
from prefloop.worlds.text.problem import ANY_LENGTH, TextProblem
from prefloop.worlds.text.spec import ModelOptions

MOST = 256  # tokens of an answer, by default


@dataclass(frozen=True)
class Answer:
    """The text of an answer, and whether the length limit cut it off."""

    text: str
    cut: bool


@dataclass(frozen=True)
class Answering:
    """A policy that answers, with the template and the system message that it was trained with."""

    policy: CausalLM
    template: Template
    system: str | None
    notes: tuple[str, ...]  # which model it is, and what a reader of its answers must know

    def sampled(self, temperature: float, max_new_tokens: int | None) -> Answering:
        """The same model with other sampling; by default answers of at most MOST tokens or half of the context."""
        context = Limits.of(self.policy.model.config).context
        longest = max_new_tokens or min(MOST, MOST if context is None else context // 2)
        return replace(self, policy=self.policy.sampled(temperature=temperature, max_new_tokens=longest))

    def readable(self, groups: Sequence[Group]) -> tuple[list[Group], list[Fault]]:
        """The groups whose prompts can be rendered and leave room for an answer, and why the others cannot."""
        limit = self.policy.prompt_limit
        return sound(self._problem(groups, ANY_LENGTH if limit is None else limit), groups, fresh=True, given=False)

    def answers(
        self, groups: Sequence[Group], count: int, rng: Stream, emit: Callable[[Tensor], None] | None = None
    ) -> list[list[Answer]]:
        """Answers to each prompt; those given in the data are not read.

        Args:
            emit: see `sampler.sample`.

        Raises:
            DataError: a prompt that is not readable.
        """
        problem = self._problem(groups)
        with torch.no_grad():
            drawn = self.policy.draw(problem.render(groups), count, rng, emit=emit)
        cut = self.policy.is_cut(drawn).tolist()
        return [list(map(Answer, *row)) for row in zip(problem.decode(drawn), cut, strict=True)]

    def _problem(self, groups: Sequence[Group], limit: int = ANY_LENGTH) -> TextProblem:
        return TextProblem(groups, self.template, system=self.system, max_prompt_tokens=limit)


def is_run(name: str) -> bool:
    """Whether a run is meant rather than any model: its folder, or RUN/final or RUN/best in it."""
    return (home_of(name) / CONFIG).is_file()


def home_of(name: str) -> Path:
    """The run folder of a name, if it is one of a run."""
    path = Path(name).expanduser()
    return path.parent if path.name in (FINAL, BEST) and (path.parent / CONFIG).is_file() else path


def trained(name: str, *, unfinished: bool = False, template: str | None = None) -> Answering:
    """The final model of a run, or a model.

    Args:
        name: a run folder, RUN/best for its best model; or a model: a local folder, a hub name or `smollm2`.
        unfinished: use the last checkpoint of a run without a final model.
        template: see `conversation.template_of`; by default that of the run, or `auto`.

    Raises:
        UserError: there is no such model, or the run has no final model and no checkpoint may be used.
        DataError: a model that cannot be used.
    """
    if not is_run(name):
        config = Config(model=ModelOptions(name))
        return _answering(_open(config, config.model, template), None, f"model: {name}")
    home = existing(home_of(name))
    config = load(home / CONFIG)
    best = Path(name).name == BEST
    saved = home / (BEST if best else FINAL)
    if best and not saved.is_dir():
        fix = f"train with evaluation.keep_best=METRIC, or use the run itself: {home}"
        raise UserError("this run has kept no model better than the untrained one", where=name, fix=fix)
    if saved.is_dir():
        own = config.model  # adapters are merged in a saved model
        opened = _open(config, ModelOptions(str(saved), autocast=own.autocast, dtype=own.dtype), template)
        return _answering(opened, config.data.system, f"model: {saved}")
    newest = checkpoint.newest(home / "checkpoints")
    if newest is None or not unfinished:
        raise _without_final(home, config, newest)
    opened = _open(config, config.model, template)
    policy = opened.policy()
    names = policy.state().keys()
    policy.restore({k: v for k, v in checkpoint.load(newest)["loop"]["policy"].items() if k in names})  # no critic
    step = f"step {checkpoint.step_of(newest)} of {config.training.steps}"
    return _answering(replace(opened, reference=policy), config.data.system, f"model: {home}, {step}")


def untrained(name: str, *, template: str | None = None) -> Answering:
    """The model that a run started from.

    Raises:
        UserError: not a run, or its model is not there any more.
    """
    config = load(existing(home_of(name)) / CONFIG)
    return _answering(_open(config, config.model, template), config.data.system, f"before: {config.model.path}")


def _open(config: Config, model: ModelOptions, template: str | None) -> OpenModel:
    """A model with the template of a run and its sampling."""
    data = config.data
    options = data.template_options if template in (None, data.template) else None
    return open_model(
        replace(model, device="auto"),  # that of the run may be on another machine
        config.sampling,
        template=template or data.template,
        template_options=options,
        template_date=data.template_date,
        seed=config.seed,
    )


def _answering(opened: OpenModel, system: str | None, name: str) -> Answering:
    return Answering(
        opened.reference, opened.template, system, tuple(filter(None, (name, opened.template.note, opened.note)))
    )


def _without_final(home: Path, config: Config, newest: Path | None) -> UserError:
    if newest is None:
        what = "this run has no final model and no checkpoint"
        return UserError(what, where=str(home), fix="train with save.final=true, or finish the run with --resume")
    step = checkpoint.step_of(newest)
    what = f"this run has no final model: its last checkpoint is of step {step} of {config.training.steps}"
    fix = f"--unfinished uses that checkpoint; `prefloop train --resume {home}` finishes the run"
    return UserError(what, where=str(home), fix=fix)
