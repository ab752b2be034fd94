"""Whether a template writes every part of a message: short parts are marked, since a rendering has them anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from prefloop.core.errors import DataError
from prefloop.data.records import Message, message
from prefloop.policies.agreement import OWN, TAG, THOUGHTS, quoted, squeezed
from prefloop.policies.rendering import function_of, parsed, with_arguments

CLEAR = 24  # characters of a part that a rendering without it does not have by accident
Rendering = Callable[[list[dict[str, Any]]], str]  # messages as a template takes them → text


def check_marks(messages: Sequence[Message], text: str, rendering: Rendering, where: str, *, answer: bool) -> None:
    """Refuse messages of which the template drops a part whose text its rendering has elsewhere.

    Messages with such parts are rendered a second time, with a mark behind each of them.

    Args:
        text: the rendering without marks.
        rendering: renders the marked messages in the same way.
        answer: whether they are an answer, of which the reasoning must be kept too.

    Raises:
        DataError: with the part.
    """
    marks = _Marks(next(mark for n in range(2, 99) if (mark := "zq" * n) not in text))
    marked = [marks.marked(m, thoughts=answer or m.role != "assistant").plain for m in messages]
    if not marks.unclear:
        return
    written = squeezed(rendering(marked))
    for mark, part in marks.parts.items():
        if mark not in written:
            what = "a part of the answer" if answer else "a part of the conversation"
            raise DataError(f"the chat template drops {what}: {quoted(part)}", where=where, fix=OWN)


class _Marks:
    """Marks that were put behind parts of messages."""

    def __init__(self, mark: str) -> None:
        self.mark, self.parts = mark, dict[str, str]()  # a mark → the part before it

    @property
    def unclear(self) -> bool:
        """Whether a part is short, or within another part."""
        said = [squeezed(part) for part in self.parts.values()]
        return any(len(x) < CLEAR or any(x in y for j, y in enumerate(said) if j != i) for i, x in enumerate(said))

    def marked(self, said: Message, *, thoughts: bool) -> Message:
        """A message with marks.

        Args:
            thoughts: whether its reasoning is marked too.
        """
        pieces, tags = TAG.split(said.content), [*TAG.findall(said.content), ""]
        first = 0 if thoughts else len(pieces) - 1
        ours = [self._behind(piece) if n >= first else piece for n, piece in enumerate(pieces)]
        content = "".join(piece + tag for piece, tag in zip(ours, tags, strict=True))
        if not said.more:
            return replace(said, content=content)
        more = {key: json.loads(value) for key, value in said.more}
        more |= {key: self._behind(more[key]) for key in THOUGHTS if thoughts and isinstance(more.get(key), str)}
        (more,) = with_arguments([more], lambda arguments: self._texts(parsed(arguments)))
        for call in more.get("tool_calls") or ():
            if isinstance(name := function_of(call).get("name"), str):
                function_of(call)["name"] = self._behind(name)
        return message(said.role, content, more)

    def _behind(self, part: str) -> str:
        """A text with a mark behind it, unless it is blank."""
        if not squeezed(part):
            return part
        mark = f"{self.mark}{len(self.parts)}z"
        self.parts[mark] = part
        kept = part.rstrip()
        return kept + mark + part[len(kept) :]

    def _texts(self, value: Any) -> Any:
        """A value of JSON with marks behind its texts."""
        if isinstance(value, dict):
            return {key: self._texts(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._texts(inner) for inner in value]
        return self._behind(value) if isinstance(value, str) else value
