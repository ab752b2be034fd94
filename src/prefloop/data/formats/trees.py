"""OpenAssistant: trees of messages with ranked replies, one tree or one message per row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prefloop.data.fault import Fault
from prefloop.data.formats.lists import by_rank
from prefloop.data.formats.row import Content, Prompt, Row, Unusable, beside, kind, number, shown, text
from prefloop.data.records import Message

ROLES = {"prompter": "user", "assistant": "assistant"}
NAMELESS = "its `message_id` is no text and no number"
OWN = ("text", "role", "rank", "replies")  # keys of a message that are used


def message_tree(row: Row) -> list[Content]:
    """OpenAssistant: every question of a tree with two or more ranked replies is a group."""
    return _groups(row.take("prompt"), row)


def message_rows(row: Row) -> list[Content]:
    """OpenAssistant, one message per row: the first message of a tree with its `replies`, as `joined` makes it."""
    return _groups({key: row.take(key) for key in OWN}, row)


def _groups(root: Any, row: Row) -> list[Content]:
    made = []
    for path, replies in _questions(root):
        ranked = [reply for reply in replies if reply.get("rank") is not None and reply.get("role") == "assistant"]
        if len(ranked) < 2:
            row.notes.append("questions with fewer than two ranked replies are left out")
            continue
        if len(ranked) < len(replies):
            row.notes.append("replies without a rank are left out")
        scores = by_rank([number(reply["rank"], "rank") for reply in ranked])
        answers = tuple([Message("assistant", text(reply.get("text"), "text")) for reply in ranked])
        made.append(Content(path, answers, scores, beside(ranked, OWN)))
    if not made:
        raise Unusable("no question of this tree has two ranked replies")
    return made


def _questions(root: Any) -> Iterator[tuple[Prompt, list[Mapping[str, Any]]]]:
    """Every question of a tree, with what was said before it, and the replies to it that were not deleted."""
    left: list[tuple[Prompt, Any]] = [((), root)]
    while left:
        path, node = left.pop()
        if not isinstance(node, dict) or not isinstance(node.get("replies", []), list):
            raise Unusable(f"a message of the tree is {kind(node)}, not an object with text, role and replies")
        if not isinstance(node.get("role"), str) or node["role"] not in ROLES:
            raise Unusable(f"a message of the tree has the role {shown(node.get('role'))}", "prompter or assistant")
        path = (*path, Message(ROLES[node["role"]], text(node.get("text"), "text")))
        replies = [r for r in node.get("replies") or [] if not (isinstance(r, dict) and r.get("deleted"))]
        left += [(path, reply) for reply in reversed(replies)]
        if path[-1].role == "user":
            yield path, [r for r in replies if isinstance(r, dict)]


def joined(rows: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Messages put together by `parent_id`: one row per tree, with the place of its first message.

    Messages that belong to no tree are faults; rows that are no objects are left as they are.
    """
    messages = dict[Any, tuple[int, dict[str, Any]]]()
    for place, row in rows:
        name = row.get("message_id") if isinstance(row, dict) else None
        if name is not None and isinstance(name, str | int) and name not in messages:
            messages[name] = (place, {**row, "replies": []})
        elif isinstance(row, dict):
            twice = isinstance(name, str | int)
            yield place, Fault(place, f"a second message with the `message_id` {shown(name)}" if twice else NAMELESS)
        else:
            yield place, row
    for _, message in messages.values():
        if (parent := _parent(message)) in messages:
            messages[parent][1]["replies"].append(message)
    roots = [(place, message) for place, message in messages.values() if _parent(message) is None]
    reached = set[Any]()
    left = [message for _, message in roots]
    while left:
        message = left.pop()
        reached.add(message["message_id"])
        left += message["replies"]
    yield from roots
    for name, (place, message) in messages.items():
        if name not in reached:
            what = f"its tree has no first message: `parent_id` {shown(_parent(message))}"
            yield place, Fault(place, what, "use the whole file: replies need the messages before them")


def _parent(message: Mapping[str, Any]) -> Any:
    """The `message_id` that it answers; None for the first message of a tree."""
    parent = message.get("parent_id")
    return None if parent == "" or not isinstance(parent, str | int) else parent
