"""Messages in every spelling: role and content, from and value, parts of content, tool calls."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from prefloop.core.errors import excerpt, nearest
from prefloop.data.formats.row import Prompt, Unusable, kind, text
from prefloop.data.records import Message, message

ROLES = ("system", "user", "assistant", "tool")
SPEAKERS = {  # of ShareGPT
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function_response"), "tool"),
}
ROLE_NAMES = ("from", "speaker", "author", "sender", "type", "name")  # of other makers
TEXT_NAMES = ("content", "value", "text", "message", "utterance", "body", "response", "answer", "output", "completion")
TEXT_PARTS = ("text", "input_text", "output_text")
SPOKEN = (
    "tool_calls",
    "function_call",
    "reasoning_content",
    "reasoning",
    "thinking",
)  # an answer without text may have
WEIGHTS = ("weight", "train", "trainable")  # marks of messages that are not to be trained


def messages(value: Any, column: str) -> Prompt:
    """One message, or a list of messages; also as JSON in a text.

    Raises:
        Unusable: it is neither.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(value, column)
    if isinstance(value, dict):
        return (one_message(value, column),)
    if not isinstance(value, list):
        raise Unusable(f"`{column}` is {kind(value)}, not text or a list of messages")
    return tuple([one_message(item, column) for item in value])


def one_message(item: Any, column: str) -> Message:
    """One message of a list, with all its keys.

    Raises:
        Unusable: an unknown role, no text, or text that is not text.
    """
    if not isinstance(item, dict):
        raise Unusable(f"`{column}` contains {kind(item)}, not a message", 'write {"role": "user", "content": …}')
    role, content = item.get("role"), item.get("content")
    if len(item) == 2 and role in ROLES and isinstance(content, str):
        return Message(role, content)
    if role is None and "from" in item and "value" in item:
        return _shared(item, column)
    if role is None or ("content" not in item and not _spoken(item)):
        raise _unknown(item, column)
    if not isinstance(role, str):
        raise Unusable(f"`{column}` has a message whose `role` is {kind(role)}, not text")
    if role not in ROLES:
        raise Unusable(f"`{column}` has an unknown role `{excerpt(role)}`", nearest(role, ROLES))
    more = {str(k): v for k, v in item.items() if k not in ("role", "content") and v is not None}
    return _made(role, content, more, column)


def _made(role: str, content: Any, more: dict[str, Any], column: str) -> Message:
    if "tool_calls" in more and (calls := parsed(more["tool_calls"], "tool_calls")):
        more["tool_calls"] = [_call(call, column) for call in (calls if isinstance(calls, list) else [calls])]
    elif "tool_calls" in more:
        del more["tool_calls"]
    if "function_call" in more:
        more["function_call"] = _call(more["function_call"], column)
    said = _joined(content, column) if content is not None or not _spoken(more) else ""
    try:
        return message(role, said, more)
    except TypeError as error:
        raise Unusable(f"`{column}` has a message that is no JSON: {error}") from error


def _spoken(item: Mapping[str, Any]) -> bool:
    return any(item.get(key) for key in SPOKEN)


def says(said: Message, column: str) -> None:
    """Refuse a message without text, unless it calls a tool or reasons.

    Raises:
        Unusable: it says nothing.
    """
    if not any(key in SPOKEN for key, _ in said.more):
        text(said.content, column)


def _joined(content: Any, column: str) -> str:
    """Content is text, or a list of parts that are all text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Unusable(f"`{column}` has a message whose `content` is {kind(content)}, not text")
    return "".join([_part(part, column) for part in content])


def _part(part: Any, column: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise Unusable(f"`{column}` has a part of content that is {kind(part)}, not text")
    if part.get("type", "text") not in TEXT_PARTS or not isinstance(part.get("text"), str):
        what = excerpt(str(part.get("type", kind(part))))
        raise Unusable(f"`{column}` has a part of content of type `{what}`; only text can be trained")
    return part["text"]


def _shared(item: Mapping[str, Any], column: str) -> Message:
    """A message of ShareGPT: `from` and `value`; a call of a tool is JSON in `value`."""
    speaker, value = item["from"], item["value"]
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        found = excerpt(speaker) if isinstance(speaker, str) else kind(speaker)
        raise Unusable(f"`{column}` has an unknown speaker `{found}`", f"choose one of: {', '.join(SPEAKERS)}")
    more = {str(k): v for k, v in item.items() if k not in ("from", "value") and v is not None}
    if speaker != "function_call":
        return _made(SPEAKERS[speaker], value, more, column)
    called = parsed(value, "function_call")
    calls = [{"type": "function", "function": call} for call in (called if isinstance(called, list) else [called])]
    return _made("assistant", None, {**more, "tool_calls": calls}, column)


def _call(call: Any, column: str) -> Any:
    """A call of a tool; `arguments` may be JSON in a text."""
    if not isinstance(call, dict):
        raise Unusable(f"`{column}` has a call of a tool that is {kind(call)}, not an object")
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    arguments = parsed(function["arguments"], "arguments") if function["arguments"].strip() else {}
    if not isinstance(arguments, dict):
        raise Unusable(f"`{column}` has a call of a tool whose `arguments` are {kind(arguments)}, not an object")
    function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function


def parsed(value: Any, column: str) -> Any:
    """JSON in a text; other values are taken as they are.

    Raises:
        Unusable: the text is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"`{column}` is text, but no JSON: {error}") from error


def schemas(value: Any) -> str:
    """The column `tools` as JSON: a list of objects, or JSON in a text.

    Raises:
        Unusable: it is neither.
    """
    tools = parsed(value, "tools") if not isinstance(value, str) or value.strip() else []
    if not tools:
        return ""
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Unusable(f"`tools` is {kind(tools)}, not a list of objects", "one JSON schema for each tool")
    try:
        return json.dumps(tools, ensure_ascii=False)
    except TypeError as error:
        raise Unusable(f"`tools` is no JSON: {error}") from error


def untrained(answer: Message, column: str) -> None:
    """Refuse an answer that is marked as not to be trained, or with another weight than others.

    Raises:
        Unusable: it is.
    """
    for key, value in answer.more:
        if key in WEIGHTS and value not in ("1", "1.0", "true"):
            raise Unusable(f"`{column}` is marked `{key}: {value}`", "leave this row out; all answers have weight 1")


def _unknown(item: Mapping[str, Any], column: str) -> Unusable:
    """The error about a message in an unknown layout: what it is nearest to, and how to convert it."""
    what = f"`{column}` has a message with {kind(item).removeprefix('an object with ')}; a message has role and content"
    pairs = [(_like("role", ROLE_NAMES, item), "role"), (_like("content", TEXT_NAMES, item), "content")]
    renamed = [f"`{theirs}` to `{ours}`" for theirs, ours in pairs if theirs and theirs != ours]
    if "role" not in item and len(renamed) == 1 and renamed[0].endswith("`content`"):
        return Unusable(what, f"use its text: map the column to `{column}.{pairs[1][0]}`")
    return Unusable(what, f"rename {' and '.join(renamed)}" if renamed else 'write {"role": "user", "content": …}')


def _like(ours: str, names: tuple[str, ...], item: Mapping[str, Any]) -> str:
    """The key that stands for ours in a message of another maker."""
    texts = [str(k) for k, v in item.items() if isinstance(v, str)]
    close = difflib.get_close_matches(ours, texts, n=1, cutoff=0.6)
    return next((name for name in (ours, *names) if name in texts), close[0] if close else "")
