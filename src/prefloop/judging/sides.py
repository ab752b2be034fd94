"""The two sides of a comparison: answers of a run or model to held-out prompts, or those of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError, UserError
from prefloop.core.streams import streams
from prefloop.data.fault import Fault
from prefloop.data.reading import rows
from prefloop.data.records import Group, message, prompt_text
from prefloop.runs.config import load
from prefloop.runs.folder import CONFIG, existing
from prefloop.runs.trained import home_of, is_run, trained
from prefloop.worlds.text.open_data import open_data

PORTION = 16  # prompts that are answered together
PROMPT, ANSWER = ("instruction", "prompt"), ("output", "response", "responses")
SHAPES = "each row needs instruction and output (as AlpacaEval), or prompt and response (as prefloop sample writes)"


@dataclass(frozen=True)
class Side:
    """One side.

    Args:
        answers: by prompt, as one text.
        notes: what a reader must know about them.
    """

    name: str
    answers: Mapping[str, str]
    notes: tuple[str, ...] = ()


def is_file(name: str) -> bool:
    """Whether a side is a file of answers."""
    return Path(name).is_file()


def held_out(name: str) -> list[Group]:
    """The held-out prompts of a run."""
    return list(open_data(load(existing(home_of(name)) / CONFIG).data).held_out)


def of_file(name: str) -> Side:
    """The answers of a file.

    Raises:
        DataError: a row without a prompt or an answer, or two different answers to one prompt.
    """
    answers: dict[str, str] = {}
    for number, row in rows(name):
        prompt, answer = _parts(row, f"{name}, row {number}")
        if answers.setdefault(prompt, answer) != answer:
            what = "a second, different answer to the same prompt"
            raise DataError(what, where=f"{name}, row {number}", fix="keep one of them")
    if not answers:
        raise DataError("no answers", where=name, fix=SHAPES)
    return Side(name, answers)


def _parts(row: object, where: str) -> tuple[str, str]:
    """Prompt and answer of a row."""
    if isinstance(row, Fault):
        raise DataError(row.what, where=where, fix=row.fix)
    given: dict[str, Any] = dict(row) if isinstance(row, Mapping) else {}
    prompt = next((given[key] for key in PROMPT if key in given), None)
    answer = next((given[key] for key in ANSWER if key in given), None)
    if isinstance(prompt, list) and prompt and all(isinstance(m, Mapping) for m in prompt):
        prompt = prompt_text([message(str(m.get("role", "")), str(m.get("content", ""))) for m in prompt])
    if isinstance(answer, list) and answer:
        if len(answer) > 1:
            raise DataError(f"{len(answer)} answers to one prompt", where=where, fix="keep one of them")
        answer = answer[0]
    if isinstance(prompt, str) and prompt and given.get("input"):
        prompt = f"{prompt}\n\n{given['input']}"
    if not (isinstance(prompt, str) and prompt and isinstance(answer, str)):
        raise DataError("not a prompt and an answer", where=where, fix=SHAPES)
    return prompt, answer


def of_model(
    name: str,
    groups: Sequence[Group],
    *,
    temperature: float,
    max_new_tokens: int | None,
    seed: int,
    unfinished: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Side:
    """The answers of a run, with its own template, system message and length limit, or of a model.

    Raises:
        DataError: a prompt that the model cannot read.
    """
    model = trained(name, unfinished=unfinished)
    own = model.policy.sampling.max_new_tokens if is_run(name) else None
    model = model.sampled(temperature, max_new_tokens or own)
    good, faults = model.readable(groups)
    if faults:
        what = f"{len(faults)} of {len(groups)} prompts cannot be answered by {name}; the first, in {faults[0]}"
        raise DataError(what, where="--prompts", fix="remove them")
    rng, answers, cut = streams(seed)["sampling"], dict[str, str](), 0
    for start in range(0, len(good), PORTION):
        portion = good[start : start + PORTION]
        for group, (answer,) in zip(portion, model.answers(portion, 1, rng), strict=True):
            answers[group.text] = answer.text
            cut += answer.cut
            tick()
    notes = (*model.notes, *([f"{cut} of {len(answers)} answers of {name} are cut at the length limit"] if cut else ()))
    return Side(name, answers, notes)


def shared(first: Side, second: Side, prompts: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The prompts that both sides answer, and a note on those left out.

    Args:
        prompts: that were asked for; None takes all that both have.

    Raises:
        UserError: no prompt in common, or one that was asked for has no answer.
    """
    if prompts is not None:
        for side in (first, second):
            if missing := [prompt for prompt in prompts if prompt not in side.answers]:
                what = f"{len(missing)} of {len(prompts)} prompts have no answer; the first: {missing[0][:80]!r}"
                raise UserError(what, where=side.name, fix="answer them all, or leave --prompts out")
        return list(dict.fromkeys(prompts)), []
    both = [prompt for prompt in first.answers if prompt in second.answers]
    if not both:
        raise UserError("the two files answer no prompt in common", where=f"{first.name}, {second.name}", fix=SHAPES)
    left = len(first.answers) + len(second.answers) - 2 * len(both)
    return both, [f"{left} answers to prompts that only one side answers are left out"] if left else []
