"""A probe set: several kinds of response to each prompt; their log-probs before and after show where mass goes.

One JSON object per line (or any file that `data` verbs read): `prompt`, a text or a list of messages, and one text for
each kind of response, under the kind's name: `chosen`, `rejected`, `chosen_paraphrase`, `other_prompt`, `shuffled`, …
Kinds may be missing in a row. The published set of Ren & Sutherland (arXiv:2407.10490) has 13 kinds. Files in another
format of docs/formats.md have the kinds chosen and rejected, or response.

A run whose configuration names one (`evaluation.probe`) follows it through its evaluations: what it loses is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from prefloop.analysis.displacement import Shift, shifts
from prefloop.analysis.divergence import sequence_logp
from prefloop.analysis.forgetting import PROBE
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.protocols import no_op
from prefloop.data.fault import Fault
from prefloop.data.formats import load
from prefloop.data.reading import data_hash, rows
from prefloop.data.records import Group, Message, prompt_text
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.conversation import Template
from prefloop.policies.pretrained import Limits
from prefloop.runs.config import Config
from prefloop.runs.trained import Answering
from prefloop.runs.world import TextWorld
from prefloop.worlds.text.examine import sound
from prefloop.worlds.text.open_data import TextData
from prefloop.worlds.text.problem import ANY_LENGTH, TextProblem

PROMPT = "prompt"
KINDS = {1: ("response",), 2: ("chosen", "rejected")}  # of rows of a data file, by their number of responses


@dataclass(frozen=True)
class Row:
    """A prompt and its responses by kind."""

    number: int
    prompt: tuple[Message, ...]
    responses: Mapping[str, str]

    @property
    def group(self) -> Group:
        """All responses as one group without scores."""
        return Group(self.prompt, tuple(self.responses.values()), None, prompt_text(self.prompt), self.number)


@dataclass(frozen=True)
class Probe:
    """The rows of a probe set, and the kinds in order of appearance."""

    rows: Sequence[Row]
    kinds: Sequence[str]


def read_probe(file: Path, limit: int | None = None) -> Probe:
    """Read a probe set, or a data file in a format whose rows are no probe set.

    Args:
        limit: read at most so many rows.

    Raises:
        DataError: a row without a prompt or without responses, or no rows.
    """
    first = next((row for _, row in rows(file)), None)
    other = [] if not isinstance(first, dict) or (first.get(PROMPT) and _texts(first)) else _of_data(file, limit)
    if other:
        return _probe(other)
    found: list[Row] = []
    for number, row in rows(file):
        if limit is not None and len(found) >= limit:
            break
        if isinstance(row, Fault):
            raise DataError(row.what, where=f"{file}, row {number}", fix=row.fix)
        found.append(_row(file, int(number), row))
    if not found:
        raise DataError("the probe set has no rows", where=str(file), fix="one JSON object per line")
    return _probe(found)


def _probe(found: Sequence[Row]) -> Probe:
    return Probe(found, list(dict.fromkeys(kind for row in found for kind in row.responses)))


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    """The responses of a row by their kinds."""
    return {str(k): v for k, v in row.items() if k != PROMPT and isinstance(v, str) and v.strip()}


def _of_data(file: Path, limit: int | None) -> list[Row]:
    """The responses of a data file, if it is in a format; winners before losers."""
    try:
        groups = [group for group in load(file, limit=limit) if len(group.responses) in KINDS]
    except (UserError, DataError):
        return []
    return [
        Row(int(group.row), group.prompt, dict(zip(KINDS[len(group.responses)], _best_first(group), strict=True)))
        for group in groups
    ]


def _best_first(group: Group) -> Sequence[str]:
    swapped = group.scores is not None and group.scores[0] < group.scores[-1]
    return group.responses[::-1] if swapped else group.responses


def _row(file: Path, number: int, row: object) -> Row:
    where = f"{file}, row {number}"
    fix = "each row needs `prompt` and a text for each kind of response: see docs/how-to/diagnose-run.md"
    if not isinstance(row, dict) or not row.get(PROMPT):
        raise DataError("the row has no `prompt`", where=where, fix=fix)
    texts = _texts(row)
    if not texts:
        raise DataError("the row has no responses", where=where, fix=fix)
    return Row(number, _prompt(row[PROMPT], where), texts)


def _prompt(given: Any, where: str) -> tuple[Message, ...]:
    if isinstance(given, str):
        return (Message("user", given),)
    try:
        return tuple(Message(str(turn["role"]), str(turn["content"])) for turn in given)
    except (TypeError, KeyError):
        what = "`prompt` is neither a text nor a list of messages"
        raise DataError(what, where=where, fix='[{"role": "user", "content": "…"}]') from None


@dataclass(frozen=True)
class Rendered:
    """The responses of a probe set as token ids.

    Args:
        kinds, rows: kind of each response, and the row that it is in.
        notes: what was left out.
    """

    batch: Batch
    kinds: Sequence[str]
    rows: Sequence[int]
    notes: Sequence[str]

    def logp(self, policy: CausalLM, poll: Callable[[], None] = no_op) -> Tensor:
        """Summed log π of each response."""
        return sequence_logp(policy, self.batch, poll)[self.batch.present]

    def shifts(self, before: Tensor, after: Tensor, kinds: Sequence[str] | None = None) -> list[Shift]:
        """The change of log π by kind of response, in the order of the file."""
        return shifts(before, after, self.batch.lengths[self.batch.present], kinds or self.kinds, self.rows)


def rendered(probe: Probe, template: Template, system: str | None, policy: CausalLM) -> Rendered:
    """The responses as the template writes them; rows that do not fit into the context are left out.

    Raises:
        DataError: no row fits.
    """
    context = Limits.of(policy.model.config).context
    problem = TextProblem((), template, system=system, max_prompt_tokens=ANY_LENGTH, context=context)
    good, faults = sound(problem, [row.group for row in probe.rows], fresh=False, given=True)
    if not good:
        raise DataError(f"no row of the probe set can be rendered; the first, {faults[0]}", where="the probe set")
    kept = {group.row for group in good}
    held = [row for row in probe.rows if row.number in kept]
    each = [(kind, row.number) for row in held for kind in row.responses]
    notes = [f"{len(faults)} rows are left out; the first, {faults[0]}"] if faults else []
    return Rendered(problem.batch_of(good), [kind for kind, _ in each], [number for _, number in each], notes)


def measured(probe: Probe, before: Answering, after: Answering) -> tuple[list[Shift], Sequence[str]]:
    """The change of log π by kind of response, and how many rows were left out.

    Raises:
        DataError: no row fits into the context.
    """
    made = rendered(probe, after.template, after.system, after.policy)
    found = {shift.kind: shift for shift in made.shifts(made.logp(before.policy), made.logp(after.policy))}
    return [found[kind] for kind in probe.kinds if kind in found], made.notes


# ---- followed through a run ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Followed:
    """The probe set of a run, and the log-prob of each response under the reference."""

    responses: Rendered
    reference: Tensor

    @property
    def notes(self) -> list[str]:
        kinds, rows = dict.fromkeys(self.responses.kinds), set(self.responses.rows)
        said = f"{len(rows)} prompts with {len(kinds)} kinds of response: {', '.join(kinds)}"
        return [f"evaluation.probe: {note}" for note in (said, *self.responses.notes)]

    def metrics(self, policy: CausalLM | None, poll: Callable[[], None] = no_op) -> dict[str, float]:
        """log π − log π_ref per token, mean over responses, and over those of each kind if there are several.

        Args:
            policy: None: the reference.
        """
        now = self.reference if policy is None else self.responses.logp(policy, poll)
        kinds = self.responses.shifts(self.reference, now)
        (whole,) = self.responses.shifts(self.reference, now, [PROBE] * len(now))
        out = {}
        for shift in (whole, *(kinds if len(kinds) > 1 else ())):
            key = PROBE if shift is whole else f"{PROBE}/{shift.kind.replace('/', '-')}"
            out[key] = shift.per_token.value
            if shift.per_token.units > 1:
                out[f"{key}_se"] = shift.per_token.se
        return out


def checked(config: Config, data: TextData) -> TextData:
    """The data with the hash of the probe set, if the configuration names one.

    Raises:
        DataError: a set that cannot be read, has a single prompt, or asks what is trained on.
    """
    name = config.evaluation.probe
    if name is None:
        return data
    probe = read_probe(Path(name))
    if len(probe.rows) < 2:
        raise DataError("a single prompt has no standard error", where=f"evaluation.probe: {name}", fix="give more")
    trained = {_question(group.prompt) for group in data.train}
    both = [row.number for row in probe.rows if _question(row.prompt) in trained]
    if both:
        what = f"{len(both):,} of {len(probe.rows):,} prompts of the probe set are trained on too"
        fix = "leave them out: what is trained on is not forgotten; `prefloop diagnose RUN --probe FILE` measures them"
        raise DataError(what, where=f"evaluation.probe: {name}, first in row {both[0]}", fix=fix)
    return replace(data, hashes={**data.hashes, name: data_hash(name)})


def _question(prompt: Sequence[Message]) -> str:
    """A prompt without its system message."""
    return prompt_text([message for message in prompt if message.role != "system"])


def followed(config: Config, world: TextWorld, poll: Callable[[], None]) -> Followed | None:
    """The probe set of a configuration under the reference; None if it names none."""
    if config.evaluation.probe is None:
        return None
    model, probe = world.model, read_probe(Path(config.evaluation.probe))
    made = rendered(probe, model.template, config.data.system, model.reference)
    return Followed(made, made.logp(model.reference, poll))
