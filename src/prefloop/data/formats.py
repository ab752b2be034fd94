"""Formats of preference files: one table, detected from the columns, with errors that name file, row and column."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError, UserError, nearest
from prefloop.data.reading import Fault, rows
from prefloop.data.records import Group, Message, prompt_text, split

__all__ = ["FORMATS", "Loaded", "load", "load_usable", "split"]

ROLES = ("system", "user", "assistant", "tool")
SHOWN = 5  # faults that a message lists
PROMPT_NAMES = ("question",)  # accepted in place of `prompt`
HINTS = {  # names of our columns in other libraries
    "prompt": ("query", "instruction", "input", "question"),
    "chosen": ("response", "accepted", "preferred", "winner", "better"),
    "rejected": ("rejected_response", "dispreferred", "loser", "worse"),
    "completion": ("response", "output", "answer"),
    "label": ("kto_tag", "preferred", "feedback"),
    "responses": ("completions", "answers", "outputs"),
    "scores": ("ratings", "rewards"),
}
# a column with such a name contains responses or labels, so the file is not just a list of prompts
ANSWER = re.compile(r"chosen|reject|complet|respons|answer|output|accept|prefer|label|winner|loser|better|worse", re.I)
TURN = re.compile(r"\n\n(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}

Prompt = tuple[Message, ...]
Content = tuple[Prompt, tuple[str, ...], tuple[float, ...] | None]


class Unusable(Exception):
    """A row cannot be used."""

    def __init__(self, what: str, fix: str = "") -> None:
        self.what, self.fix = what, fix
        super().__init__(what)


@dataclass(frozen=True)
class Format:
    """A file format: its columns, and how a row is converted."""

    columns: tuple[str, ...]
    convert: Callable[[Mapping[str, Any]], Content]
    help: str


@dataclass(frozen=True)
class Loaded:
    """The usable groups of a file, and the rows that cannot be used."""

    groups: list[Group]
    faults: list[Fault]
    format: str
    columns: tuple[str, ...] = field(default=())  # column names of the first row


def load(
    path: str | Path,
    *,
    format: str = "auto",
    group_by: str = "prompt",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[Group]:
    """All groups of a file, in order, one per row.

    Args:
        path: .jsonl, .json (both also .gz) or .parquet.
        format: a name in FORMATS, or `auto`: by the columns of the first row.
        group_by: the column whose equal values stay on one side of a split; `prompt` is the text of the prompt.
        columns: our column names -> those of the file, such as {"chosen": "response"}.
        limit: read at most this many rows.

    Raises:
        UserError: unknown format or column map.
        DataError: missing or empty file, wrong columns, or rows that cannot be used (the first few are listed).
    """
    loaded = load_usable(path, format=format, group_by=group_by, columns=columns, limit=limit)
    if loaded.faults:
        raise faulty(Path(path), loaded)
    return loaded.groups


def load_usable(
    path: str | Path,
    *,
    format: str = "auto",
    group_by: str = "prompt",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Loaded:
    """Like `load`, but rows that cannot be used are skipped and reported.

    Raises:
        UserError: unknown format or column map.
        DataError: missing or empty file, wrong columns, or no usable row.
    """
    path, columns = Path(path), dict(columns or {})
    _check_names(format, columns)
    # a plain string in a list of rows is a prompt
    numbered = [(n, {"prompt": row} if isinstance(row, str) else row) for n, row in islice(rows(path), limit)]
    first = next((row for _, row in numbered if isinstance(row, dict)), None)
    if not numbered:
        raise DataError("the data file is empty", where=str(path))
    if first is None:
        return _nothing(path, [_convert(n, row, FORMATS["preference"], "prompt", {}) for n, row in numbered])
    name = _detect(path, format, _renamed(path, first, columns), tuple(first))
    _check_group_by(path, group_by, first)
    made = [_convert(n, row, FORMATS[name], group_by, columns) for n, row in numbered]
    groups, faults = [x for x in made if isinstance(x, Group)], [x for x in made if isinstance(x, Fault)]
    loaded = Loaded(groups, faults, name, tuple(first))
    if not groups:
        raise faulty(path, loaded)
    return loaded


def faulty(path: Path, loaded: Loaded) -> DataError:
    """The error about unusable rows: how many, and the first few."""
    faults, total = loaded.faults, len(loaded.groups) + len(loaded.faults)
    lines = "".join(f"\n    {fault}" for fault in faults[:SHOWN])
    more = f"\n    … and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    columns = f" (columns: {', '.join(loaded.columns)})" if loaded.columns else ""
    return DataError(
        f"{len(faults)} of {total} rows cannot be used",
        where=f"{path}{columns}{lines}{more}",
        fix=next((f.fix for f in faults if f.fix), "fix or remove these rows; `prefloop data check FILE` lists them"),
    )


def _nothing(path: Path, made: Sequence[Group | Fault]) -> Loaded:
    raise faulty(path, Loaded([], [x for x in made if isinstance(x, Fault)], ""))


# ------------------------------------------------------------------------------------------------- columns of a file


def _check_names(format: str, columns: Mapping[str, str]) -> None:
    if format != "auto" and format not in FORMATS:
        raise UserError(f"unknown data format `{format}`", where="format", fix=nearest(format, ["auto", *FORMATS]))
    known = {c for f in FORMATS.values() for c in f.columns}
    for name in columns:
        if name not in known:
            raise UserError(f"no format has a column `{name}`", where="columns", fix=nearest(name, known))


def _renamed(path: Path, row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The first row with our column names; every mapped column must exist."""
    for column in columns.values():
        if column not in row:
            what = f"no column `{column}`; the columns are {', '.join(row)}"
            raise DataError(what, where=f"row 1 of {path}", fix=nearest(column, row))
    return _rename(row, columns)


def _rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    theirs = {their: our for our, their in columns.items()}
    renamed = {k: v for k, v in row.items() if k not in theirs and k not in columns}
    renamed |= {our: row[their] for their, our in theirs.items() if their in row}
    for name in PROMPT_NAMES:
        if name in renamed and "prompt" not in renamed:
            renamed["prompt"] = renamed.pop(name)
    return renamed


def _detect(path: Path, format: str, row: Mapping[str, Any], present: tuple[str, ...]) -> str:
    """The requested format, which must fit, or the first in the table whose columns are all present."""
    if format != "auto":
        _check_columns(path, FORMATS[format].columns, row, present, f"the format `{format}` needs")
        return format
    for name, candidate in FORMATS.items():
        if all(c in row for c in candidate.columns):
            if name == "prompt_only":
                _check_bare(path, row, present)
            return name
    closest = max(FORMATS.values(), key=lambda f: sum(c in row for c in f.columns) / len(f.columns))
    _check_columns(path, closest.columns, row, present, "the nearest format needs")
    raise AssertionError("a format whose columns are all present was not chosen")


def _check_columns(path: Path, needed: Sequence[str], row: Mapping[str, Any], present: Sequence[str], why: str) -> None:
    missing = [c for c in needed if c not in row]
    if missing:
        raise DataError(
            f"the columns are {', '.join(present) or 'none'}; {why} {', '.join(needed)}",
            where=f"row 1 of {path}",
            fix=_mapping(missing, [c for c in present if c not in needed]),
        )


def _check_bare(path: Path, row: Mapping[str, Any], present: Sequence[str]) -> None:
    """Refuse to ignore responses or labels in columns with other names."""
    answers = [c for c in row if c != "prompt" and ANSWER.search(c)]
    if answers:
        closest = max(FORMATS.values(), key=lambda f: sum(c in row for c in f.columns))  # the first among equals
        missing = [c for c in closest.columns if c not in row]
        spare = [c for c in row if c not in closest.columns]
        raise DataError(
            f"the columns are {', '.join(present)}; it is unclear which of them are responses",
            where=f"row 1 of {path}",
            fix=f"{_mapping(missing, spare)}; format=prompt_only uses the prompt only",
        )


def _mapping(missing: Sequence[str], spare: Sequence[str]) -> str:
    """A suggestion that maps each missing column to the most similar unused one."""
    if not spare:
        return f"add the columns {', '.join(missing)}"
    pairs = [f"{column}={_likely(column, spare)}" for column in missing]
    return f"rename the columns, or map them, for example {' '.join(pairs)}"


def _likely(column: str, spare: Sequence[str]) -> str:
    named = [c for c in HINTS[column] if c in spare]
    close = difflib.get_close_matches(column, spare, n=1, cutoff=0.5)
    return [*named, *close, "?"][0]


def _check_group_by(path: Path, group_by: str, row: Mapping[str, Any]) -> None:
    if group_by != "prompt" and group_by not in row:
        what = f"no column `{group_by}` to group by; the columns are {', '.join(row)}"
        raise DataError(what, where=f"row 1 of {path}", fix=nearest(group_by, row))


# ------------------------------------------------------------------------------------------------------ rows


def _convert(number: int, row: Any, format: Format, group_by: str, columns: Mapping[str, str]) -> Group | Fault:
    """The group of a row, or why it cannot be used."""
    if isinstance(row, Fault):
        return row
    try:
        if not isinstance(row, dict):
            raise Unusable(f"a {type(row).__name__}, not an object with columns", '{"prompt": …, "chosen": …, …}')
        ours = _rename(row, columns)
        missing = [c for c in format.columns if ours.get(c) is None]
        if missing:
            raise Unusable(f"no `{missing[0]}`; the columns are {', '.join(row) or 'none'}")
        prompt, responses, scores = format.convert(ours)
        return Group(prompt, responses, scores, _key(row, group_by, prompt), number)
    except Unusable as fault:
        return Fault(number, fault.what, fault.fix)


def _key(row: Mapping[str, Any], group_by: str, prompt: Prompt) -> str:
    if group_by == "prompt":
        return prompt_text(prompt)
    value = row.get(group_by)
    if value is None or not isinstance(value, str | int | float):
        raise Unusable(f"cannot group by `{group_by}`: its value is {value!r}")
    return str(value)


def _preference(row: Mapping[str, Any]) -> Content:
    prompt = _prompt(row["prompt"])
    return prompt, _pair(*(_response(row[c], c, prompt) for c in ("chosen", "rejected"))), (1.0, 0.0)


def _implicit(row: Mapping[str, Any]) -> Content:
    """The prompt is the common prefix, in whole messages, of two conversations that each end with one answer."""
    chosen, rejected = (_conversation(row[c], c) for c in ("chosen", "rejected"))
    if chosen == rejected:
        raise Unusable("`chosen` equals `rejected`")
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    if len(chosen) != same + 1 or len(rejected) != same + 1:
        left = f"{len(chosen) - same} and {len(rejected) - same} messages follow"
        raise Unusable(f"the common prompt must be followed by one answer: {same} messages are common, {left}")
    prompt = _asked(chosen[:same])
    return prompt, _pair(_answer(chosen[same:], "chosen"), _answer(rejected[same:], "rejected")), (1.0, 0.0)


def _unpaired(row: Mapping[str, Any]) -> Content:
    prompt, label = _prompt(row["prompt"]), row["label"]
    if not isinstance(label, Real) or float(label) not in (-1.0, 0.0, 1.0):
        raise Unusable(f"invalid `label` {label!r}", "use true or false, 1 or 0, or 1 or -1")
    return prompt, (_response(row["completion"], "completion", prompt),), (1.0 if float(label) > 0 else -1.0,)


def _rated(row: Mapping[str, Any]) -> Content:
    prompt, responses, scores = _prompt(row["prompt"]), row["responses"], row["scores"]
    if not isinstance(responses, list) or not isinstance(scores, list) or not len(responses) == len(scores) > 0:
        raise Unusable("`responses` and `scores` must be two lists of the same length")
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, Real) or not math.isfinite(score):
            raise Unusable(f"`scores` contains {score!r}, which is not a finite number")
    return prompt, tuple(_response(r, "responses", prompt) for r in responses), tuple(float(s) for s in scores)


def _prompt_only(row: Mapping[str, Any]) -> Content:
    return _prompt(row["prompt"]), (), None


FORMATS: dict[str, Format] = {  # in order of detection: the most columns first
    "preference": Format(("prompt", "chosen", "rejected"), _preference, "one answer preferred to another"),
    "unpaired": Format(("prompt", "completion", "label"), _unpaired, "one answer with a label: true/false, 1/0, 1/-1"),
    "rated": Format(("prompt", "responses", "scores"), _rated, "any number of answers, each with a score"),
    "implicit_prompt": Format(("chosen", "rejected"), _implicit, "two full conversations with the same beginning"),
    "prompt_only": Format(("prompt",), _prompt_only, "prompts without answers"),
}


# ------------------------------------------------------------------------------------------------- parts of a row


def _prompt(value: Any) -> Prompt:
    """Plain text is one user message; a transcript or a list of messages is a conversation."""
    if isinstance(value, str) and not TURN.match(value):
        return (Message("user", _filled(value, "prompt")),)
    messages = _transcript(value) if isinstance(value, str) else _messages(value, "prompt")
    if isinstance(value, str) and messages and messages[-1] == Message("assistant", ""):
        messages = messages[:-1]  # the final "\n\nAssistant:" marks the start of the answer
    return _asked(messages)


def _asked(messages: Prompt) -> Prompt:
    """Check that the prompt is complete: its last message must not be the assistant's."""
    if not messages or messages[-1].role not in ("user", "tool"):
        last = messages[-1].role if messages else "nothing"
        raise Unusable(f"the prompt must end with a user message, but ends with {last}")
    for message in messages:
        _filled(message.content, "prompt")
    return messages


def _response(value: Any, column: str, prompt: Prompt) -> str:
    """Text, or one assistant message, optionally preceded by a copy of the prompt."""
    if isinstance(value, str):
        return _filled(value, column)
    messages = _messages(value, column)
    repeats = len(messages) > 1 and messages[: len(prompt)] == prompt
    return _answer(messages[len(prompt) :] if repeats else messages, column)


def _answer(messages: Prompt, column: str) -> str:
    if [m.role for m in messages] != ["assistant"]:
        roles = ", ".join(m.role for m in messages) or "nothing"
        raise Unusable(f"`{column}` must be one assistant message, not {roles}")
    return _filled(messages[0].content, column)


def _conversation(value: Any, column: str) -> Prompt:
    if not isinstance(value, str):
        return _messages(value, column)
    if not TURN.match(value):
        fix = "add a column `prompt`, or start turns with \\n\\nHuman: and \\n\\nAssistant:"
        raise Unusable(f"`{column}` is text without turns, so its prompt is unknown", fix)
    return _transcript(value)


def _transcript(text: str) -> Prompt:
    r"""The messages of a text with `\n\nHuman:` and `\n\nAssistant:` turns (Bai et al. 2022, the HH-RLHF format)."""
    pieces = TURN.split(text)[1:]
    return tuple(Message(SPEAKERS[s], t.strip()) for s, t in zip(pieces[::2], pieces[1::2], strict=True))


def _messages(value: Any, column: str) -> Prompt:
    if not isinstance(value, list):
        raise Unusable(f"`{column}` is a {type(value).__name__}, not text or a list of messages")
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise Unusable(f"`{column}` contains a message without text in `role` and `content`")
        if message["role"] not in ROLES:
            role = message["role"]
            raise Unusable(f"`{column}` has an unknown role `{role}`", nearest(role, ROLES))
    return tuple(Message(m["role"], m["content"]) for m in value)


def _pair(chosen: str, rejected: str) -> tuple[str, str]:
    if chosen.strip() == rejected.strip():
        raise Unusable("`chosen` equals `rejected`")
    return chosen, rejected


def _filled(text: Any, column: str) -> str:
    if not isinstance(text, str):
        raise Unusable(f"`{column}` is a {type(text).__name__}, not text")
    if not text.strip():
        raise Unusable(f"`{column}` is empty")
    return text
