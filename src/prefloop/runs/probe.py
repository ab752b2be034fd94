"""A probe set: several kinds of response to each prompt; their log-probs before and after show where mass goes.

One JSON object per line (or any file that `data` verbs read): `prompt`, a text or a list of messages, and one text for
each kind of response, under the kind's name: `chosen`, `rejected`, `chosen_paraphrase`, `other_prompt`, `shuffled`, …
Kinds may be missing in a row. The published set of Ren & Sutherland (arXiv:2407.10490) has 13 kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.analysis.displacement import Shift, shifts
from prefloop.analysis.divergence import sequence_logp
from prefloop.core.errors import DataError
from prefloop.data.fault import Fault
from prefloop.data.reading import rows
from prefloop.data.records import Group, Message, prompt_text
from prefloop.policies.pretrained import Limits
from prefloop.runs.trained import Answering
from prefloop.worlds.text.examine import sound
from prefloop.worlds.text.problem import ANY_LENGTH, TextProblem

PROMPT = "prompt"


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
    """Read a probe set.

    Args:
        limit: read at most so many rows.

    Raises:
        DataError: a row without a prompt or without responses, or no rows.
    """
    found: list[Row] = []
    for number, row in rows(file):
        if limit is not None and len(found) >= limit:
            break
        if isinstance(row, Fault):
            raise DataError(row.what, where=f"{file}, row {number}", fix=row.fix)
        found.append(_row(file, int(number), row))
    if not found:
        raise DataError("the probe set has no rows", where=str(file), fix="one JSON object per line")
    return Probe(found, list(dict.fromkeys(kind for row in found for kind in row.responses)))


def _row(file: Path, number: int, row: object) -> Row:
    where = f"{file}, row {number}"
    fix = "each row needs `prompt` and a text for each kind of response: see docs/how-to/diagnose-run.md"
    if not isinstance(row, dict) or not row.get(PROMPT):
        raise DataError("the row has no `prompt`", where=where, fix=fix)
    texts = {str(k): v for k, v in row.items() if k != PROMPT and isinstance(v, str) and v.strip()}
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


def measured(probe: Probe, before: Answering, after: Answering) -> tuple[list[Shift], list[str]]:
    """The change of log π by kind of response, and how many rows were left out.

    Raises:
        DataError: no row fits into the context.
    """
    groups = [row.group for row in probe.rows]
    good, faults = sound(_problem(after), groups, fresh=False, given=True)
    if not good:
        raise DataError(f"no row of the probe set can be rendered; the first, {faults[0]}", where="the probe set")
    batch = _problem(after).batch_of(good)
    there = batch.present
    old, new = (sequence_logp(model.policy, batch)[there] for model in (before, after))
    kept = {group.row for group in good}
    held = [row for row in probe.rows if row.number in kept]
    names = [kind for row in held for kind in row.responses]
    asked = [row.number for row in held for _ in row.responses]
    found = {shift.kind: shift for shift in shifts(old, new, batch.lengths[there], names, asked)}
    notes = [f"{len(faults)} rows are left out; the first, {faults[0]}"] if faults else []
    return [found[kind] for kind in probe.kinds if kind in found], notes


def _problem(model: Answering) -> TextProblem:
    """Renders conversations as the model was trained on them."""
    context = Limits.of(model.policy.model.config).context
    return TextProblem((), model.template, system=model.system, max_prompt_tokens=ANY_LENGTH, context=context)
