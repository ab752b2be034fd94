"""Pieces of rendering a conversation: plain text, dates, arguments of tool calls, special tokens that a text spells."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from prefloop.core.errors import DataError
from prefloop.data.records import Message
from prefloop.policies.templates import GIVEN

MARK = "\U0010abcd"  # a private character that breaks up special tokens spelled in a text; its tokens are removed again


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, in which MARK breaks up special tokens that a message spells, and as ids."""

    text: str
    start: int = 0  # where the last answer starts, if the template marks it
    ids: tuple[int, ...] = ()


def common_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """Length of the longest common prefix."""
    first, last = min(rows), max(rows)
    if last[: len(first)] == first:
        return len(first)
    return next(i for i, (x, y) in enumerate(zip(first, last, strict=False)) if x != y)


def marked_start(whole: Sequence[Rendered]) -> int:
    """Where all answers start by the template's marks, if their beginnings are equal; otherwise 0."""
    start = whole[0].start if len({w.start for w in whole}) == 1 else 0
    return start if len({w.ids[:start] for w in whole}) == 1 else 0


def plain_text(messages: Sequence[Message], tools: str, where: str) -> str:
    """The text of a single message, which is all that plain text can express."""
    extra = "tools" if tools else next((key for m in messages for key, _ in m.more), "")
    if len(messages) > 1 or extra:
        has = f"`{extra}`" if extra else "roles: " + ", ".join(m.role for m in messages)
        fix = f"give a chat template ({GIVEN}), or prompts that are one text"
        raise DataError(f"plain text has no place for {has}", where=where, fix=fix)
    return messages[0].content


# ---- the date that a template writes --------------------------------------------------------------------------------

CLOCK = "strftime_now"  # the function with which chat templates write the date of the day on which they are rendered
PARTS = "aAwdbBmyYHIpMSfjUWcxX%"  # of a date, as `strftime` names them


def dated(template: str, day: str) -> str:
    """The chat template in which the function CLOCK writes a fixed day, at 00:00.

    Args:
        day: as YYYY-MM-DD.
    """
    fixed = date.fromisoformat(day)
    said = {f"%{pad}{part}": fixed.strftime(f"%{pad}{part}") for part in PARTS for pad in ("-" * (part != "%"), "")}
    replaced = "".join(f" | replace({name!r}, {text!r})" for name, text in said.items())
    return f"{{%- macro {CLOCK}(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro -%}}{template}"


# ---- arguments of tool calls ----------------------------------------------------------------------------------------


def function_of(tool: Any) -> dict[str, Any]:
    """The function of a tool or tool call, with or without the object around it."""
    inner = tool.get("function", tool) if isinstance(tool, dict) else {}
    return inner if isinstance(inner, dict) else {}


def with_arguments(messages: list[dict[str, Any]], form: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The messages with the arguments of their tool calls in another form."""

    def made(call: Any) -> Any:
        function = function_of(call)
        if "arguments" not in function:
            return call
        function = {**function, "arguments": form(function["arguments"])}
        return {**call, "function": function} if "function" in call else function

    return [{**m, "tool_calls": [made(c) for c in m["tool_calls"]]} if m.get("tool_calls") else m for m in messages]


def parsed(arguments: Any) -> Any:
    """Arguments as an object: many files have them as JSON text, templates take objects."""
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments
    return value if isinstance(value, dict) else arguments


def as_text(arguments: Any) -> Any:
    """Arguments as JSON text, which a few templates take."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


# ---- special tokens that a text spells ------------------------------------------------------------------------------


def break_up(value: Any, spelled: re.Pattern[str]) -> Any:
    """A value of JSON with MARK behind the first character of every match in its texts."""
    if isinstance(value, str):
        return spelled.sub(lambda found: f"{found[0][0]}{MARK}{found[0][1:]}", value)
    if isinstance(value, dict):
        return {key: break_up(inner, spelled) for key, inner in value.items()}
    return [break_up(inner, spelled) for inner in value] if isinstance(value, list) else value


def without_mark(ids: Sequence[int], mark: Sequence[int]) -> list[int]:
    """Indices of the ids outside all occurrences of the ids of MARK."""
    kept, i = [], 0
    while i < len(ids):
        if mark and list(ids[i : i + len(mark)]) == list(mark):
            i += len(mark)
        else:
            kept.append(i)
            i += 1
    return kept
