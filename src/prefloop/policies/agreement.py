"""Whether a rendered conversation says what its messages say, and nothing twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from prefloop.core.errors import DataError
from prefloop.data.records import Message
from prefloop.policies.rendering import MARK, function_of, parsed

HEADER = re.compile(  # what chat templates write before a turn
    r"<\|im_start\|>\s*(?:system|user|assistant)|<\|start_header_id\|>\s*(?:system|user|assistant)|<start_of_turn>\s*\w"
    r"|<\|start_of_role\|>\s*\w|\[INST\].*\[/INST\]|<｜User｜>.*<｜Assistant｜>|<\|start\|>\s*\w+<\|",
    re.DOTALL,
)
OPEN = re.compile(r"<(?:\w+:)?think(?:ing)?>|<\|START_THINKING\|>|\[THINK\]|◁think▷|<\|channel>thought", re.IGNORECASE)
CLOSE = re.compile(r"</(?:\w+:)?think(?:ing)?>|<\|END_THINKING\|>|\[/THINK\]|◁/think▷|<channel\|>", re.IGNORECASE)
TAG = re.compile(f"{OPEN.pattern}|{CLOSE.pattern}", re.IGNORECASE)  # around reasoning
LAST_TAGS = re.compile(rf"\s*(?:(?:{TAG.pattern})\s*)+$", re.IGNORECASE)
SWITCH = re.compile(r"/(?:no_?)?think\b")  # asks for reasoning or none; templates may take it out of a message
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
        if message.role != "assistant" and (found := _written_by_a_template(message.content, between)):
            what = f"the prompt is rendered already: it contains {quoted(found)}, which a chat template writes"
            raise DataError(what, where=where, fix="give the messages, or data.template=plain to use the text as it is")
    shown = squeezed(text)
    for message in messages:
        said = TAG.split(message.content)[-1] if message.role == "assistant" else message.content  # reasoning may go
        if not _is_shown(said, shown):
            what = f"the chat template drops the {message.role} message {quoted(message.content)}"
            raise DataError(what, where=where, fix=OWN)
        _check_calls(message, shown, where)
    for tool in json.loads(tools) if tools else ():
        if (name := _name(tool)) and name not in shown:
            raise DataError(f"the chat template does not write the tool `{name}`", where=where, fix=OWN)


def start_of_answer(asked: str, answered: str, where: str) -> int:
    """Where the answer starts in an answered conversation: where its prompt ends, or opens the reasoning.

    Args:
        asked, answered: both as rendered; only tags around reasoning and whitespace may be missing in the second.

    Raises:
        DataError: the second is not the first followed by an answer; with both renderings.
    """
    said = LAST_TAGS.sub("", asked).rstrip()
    if answered.startswith(said):
        return len(said)
    same = next((i for i, (x, y) in enumerate(zip(said, answered, strict=False)) if x != y), len(answered))
    asked, answered = (f"…{quoted(text[max(0, same - SHOWN // 2) :])}" for text in (asked, answered))
    what = "the chat template does not render an answered conversation as the prompt followed by the answer"
    both = f"\n    prompt:   {asked}\n    answered: {answered}"
    raise DataError(what + both, where=where, fix="use a template in which they agree: data.template=FILE.jinja")


def check_answer(answer: Message, written: str, where: str) -> None:
    """Refuse a rendering that lacks a part of the answer, or puts its reasoning into a second pair of tags.

    Args:
        written: what the template writes from the start of the answer.

    Raises:
        DataError: with the part and the rendering.
    """
    shown = squeezed(written)
    reasoning = [json.loads(value) for key, value in answer.more if key in THOUGHTS]
    for part in (*TAG.split(answer.content), *reasoning):
        if not _is_shown(str(part), shown):
            what = f"the chat template drops a part of the answer: {quoted(str(part))}"
            fix = f"write it into the answer as <think>…</think>, or {OWN}" if part in reasoning else OWN
            raise DataError(f"{what}\n    it renders …{quoted(written, end=True)}", where=where, fix=fix)
    own, tags = len(OPEN.findall(answer.content)), OPEN.findall(written)
    if 0 < own < len(tags):
        what = f"the chat template adds {tags[0]} to an answer that has its own: {quoted(written)}"
        raise DataError(what, where=where, fix="give the reasoning as `reasoning_content` of the answer's message")
    if len(tags) - len(CLOSE.findall(written)) > max(0, own - len(CLOSE.findall(answer.content))):
        what = f"the chat template puts the answer into the reasoning, which it does not close: {quoted(written)}"
        raise DataError(what, where=where, fix=f"give answers with {tags[0]}, switch reasoning off, or {OWN}")
    _check_calls(answer, shown, where)


def check_unrendered(answer: Message, ends: Sequence[str], where: str) -> None:
    """Refuse an answer that has the markup of its turn already.

    Args:
        ends: tokens that end an answer.

    Raises:
        DataError: with what was found.
    """
    head = HEADER.match(answer.content.lstrip())
    said = answer.content.rstrip()
    found = head[0] if head else next((end for end in ends if said.endswith(end)), "")
    if found:
        what = f"the answer is rendered already: it {'starts' if head else 'ends'} with {quoted(found)}"
        raise DataError(f"{what}, which the chat template writes", where=where, fix="give the text of the answer alone")


def continued(asked: str, content: str) -> str | None:
    """The conversation in which an answer with its own reasoning continues the reasoning that the prompt opens.

    Args:
        asked: the rendered prompt.
        content: the answer, with MARK where it spells special tokens.
    """
    tags, own = LAST_TAGS.search(asked), OPEN.match(content.lstrip())
    if not tags or not own or tags[0].strip() != own[0] or len(TAG.findall(content)) != 2 or not CLOSE.search(content):
        return None
    thoughts = content.lstrip()[own.end() :]
    return asked + (thoughts.lstrip() if asked[-1].isspace() else thoughts)


def _written_by_a_template(text: str, between: str) -> str:
    """The first mark of a chat template in a text, or nothing."""
    if between and (between in text if re.search(r"[<\[#|]", between) else text.rstrip().endswith(between)):
        return between
    found = HEADER.search(text)
    return found[0] if found else ""


def _check_calls(message: Message, shown: str, where: str) -> None:
    for call in json.loads(dict(message.more).get("tool_calls", "null")) or ():
        name = _name(call)
        if name and name not in shown:
            raise DataError(f"the chat template does not write the tool call `{name}`", where=where, fix=OWN)
        for value in _texts(parsed(function_of(call).get("arguments"))):
            if not _is_shown(value, shown):
                what = f"the chat template does not write {quoted(value)} in the arguments of the tool call `{name}`"
                raise DataError(what, where=where, fix=OWN)


def _name(tool: Any) -> str:
    return str(function_of(tool).get("name", ""))


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value of JSON, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def _is_shown(text: str, shown: str) -> bool:
    """Whether a squeezed rendering contains a text, as it is or inside JSON."""
    said = squeezed(text)
    return (
        said in shown
        or squeezed(json.dumps(text, ensure_ascii=False)[1:-1]) in shown
        or squeezed(json.dumps(text)[1:-1]) in shown
    )


def squeezed(text: str) -> str:
    return SWITCH.sub("", "".join(text.replace(MARK, "").split()))


def quoted(text: str, *, end: bool = False) -> str:
    part = text.replace(MARK, "")
    return repr(part if len(part) <= SHOWN else part[-SHOWN:] if end else f"{part[:SHOWN]}…")
