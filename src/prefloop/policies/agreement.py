"""Whether a rendered conversation says what its messages say, and the special tokens that they spell."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from prefloop.core.errors import DataError
from prefloop.data.records import Message

MARK = "\ue000"  # a private character that breaks up special tokens spelled in a text; its tokens are removed again
FOREIGN = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|start_of_role|>", "[INST]", "<｜User｜>")
TAG = re.compile(r"<\|?/?\w*think\w*\|?>|\[/?THINK\]|◁/?think▷", re.IGNORECASE)  # around reasoning
SHOWN = 200  # characters of a rendering in a message
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # keys of a message
OWN = "use a template that keeps it: data.template=FILE.jinja"


def check_prompt(messages: Sequence[Message], tools: str, text: str, between: str, where: str) -> None:
    """Refuse a prompt that is rendered already, or of which the rendering lacks a part.

    Args:
        text: the rendered prompt.
        between: what the template writes between a question and its answer.

    Raises:
        DataError: with what was found or is missing.
    """
    for message in messages:
        marks = (mark for mark in (between, *FOREIGN) if mark and mark in message.content)
        if (found := next(marks, None)) and message.role != "assistant":
            what = f"the prompt is rendered already: it contains `{found}`, which a chat template writes"
            raise DataError(what, where=where, fix="give the messages, or data.template=plain to use the text as it is")
    shown = _squeezed(text.replace(MARK, ""))
    for message in messages:
        said = TAG.split(message.content)[-1] if message.role == "assistant" else message.content  # reasoning may go
        if not _is_shown(said, shown):
            what = f"the chat template drops the {message.role} message {_shown(message.content)}"
            raise DataError(what, where=where, fix=OWN)
        _check_calls(message, shown, where)
    for tool in json.loads(tools) if tools else ():
        name = _name(tool)
        if name and name not in shown:
            raise DataError(f"the chat template does not write the tool `{name}`", where=where, fix=OWN)


def check_answer(answer: Message, text: str, where: str) -> None:
    """Refuse a rendering that lacks a part of the answer.

    Raises:
        DataError: with the part and the rendering.
    """
    shown = _squeezed(text.replace(MARK, ""))
    reasoning = [
        json.loads(value) for key, value in answer.more if key in ("reasoning_content", "reasoning", "thinking")
    ]
    for part in (*TAG.split(answer.content), *reasoning):
        if not _is_shown(str(part), shown):
            what = f"the chat template drops a part of the answer: {_shown(str(part))}"
            raise DataError(f"{what}\n    it renders …{_shown(text, end=True)}", where=where, fix=OWN)
    _check_calls(answer, shown, where)


def check_boundary(asked: str, answered: str, lost: str, where: str) -> None:
    """Refuse an answered conversation that is not its prompt followed by the answer.

    Args:
        asked, answered: both as rendered.
        lost: the end of the first that the second does not share; only tags around reasoning may be missing.

    Raises:
        DataError: with both renderings.
    """
    if answered.startswith(asked) or not TAG.sub("", lost).strip():
        return
    same = next((i for i, (x, y) in enumerate(zip(asked, answered, strict=False)) if x != y), len(answered))
    asked, answered = (f"…{_shown(text[max(0, same - SHOWN // 2) :])}" for text in (asked, answered))
    what = "the chat template does not render an answered conversation as the prompt followed by the answer"
    both = f"\n    prompt:   {asked}\n    answered: {answered}"
    raise DataError(what + both, where=where, fix="use a template in which they agree: data.template=FILE.jinja")


def check_reasoning(written: str, where: str) -> None:
    """Refuse an answer whose reasoning the template puts into a second pair of tags.

    Args:
        written: what the assistant writes, as rendered.

    Raises:
        DataError: with the rendering.
    """
    opening = [tag for tag in TAG.findall(written) if "/" not in tag]
    if len(opening) > 1:
        what = f"the chat template adds {opening[0]} to an answer that has its own: {_shown(written)}"
        raise DataError(what, where=where, fix="give the reasoning as `reasoning_content` of the answer's message")


def _check_calls(message: Message, shown: str, where: str) -> None:
    for call in json.loads(dict(message.more).get("tool_calls", "null")) or ():
        name = _name(call)
        if name and name not in shown:
            raise DataError(f"the chat template does not write the tool call `{name}`", where=where, fix=OWN)


def _name(tool: Any) -> str:
    inner = tool.get("function", tool) if isinstance(tool, dict) else {}
    return str(inner.get("name", "")) if isinstance(inner, dict) else ""


def _is_shown(text: str, shown: str) -> bool:
    """Whether a squeezed rendering contains a text, as it is or inside JSON."""
    said = _squeezed(text)
    return (
        said in shown
        or _squeezed(json.dumps(text, ensure_ascii=False)[1:-1]) in shown
        or _squeezed(json.dumps(text)[1:-1]) in shown
    )


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _shown(text: str, *, end: bool = False) -> str:
    part = text.replace(MARK, "")
    return repr(part if len(part) <= SHOWN else part[-SHOWN:] if end else f"{part[:SHOWN]}…")


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
