"""The prompt of a row and the answers to it, in every form that files give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefloop.data.formats.messages import messages, says, untrained
from prefloop.data.formats.row import Prompt, Row, Unusable, kind, text
from prefloop.data.formats.transcripts import transcript
from prefloop.data.records import Message, prompt_text

REPEATED_WORDS = 3  # answers that begin with a prompt of at least so many words repeat it
SEVERAL = "leave such rows out: they judge several answers at once, and a pair has one answer each to the same prompt"
SPEAKER = ("Assistant:", "ASSISTANT:", "### Assistant:")  # a name that is left from a transcript
EMPTY = ("system", "tool")  # roles that may say nothing


def asked(row: Row) -> Prompt:
    """The prompt: text, a transcript or messages; `input`, `context` and `history` belong to it.

    Raises:
        Unusable: it is empty, or waits for no answer.
    """
    told, value = _told(row), row.take("prompt")
    if isinstance(value, str):
        prompt = _conversation(_with_input(text(value, "prompt"), row), row)
    else:
        prompt = messages(value, "prompt")
    return waiting(told if told and told[-len(prompt) :] == prompt else (*told, *prompt))


def _with_input(prompt: str, row: Row) -> str:
    """Alpaca's `input` is a second part of the instruction."""
    more = row.take("input")
    if more is None or more == "" or (isinstance(more, str) and (more.isspace() or more in prompt)):
        return prompt
    if not isinstance(more, str):
        raise Unusable(f"`input` is {kind(more)}, not text")
    row.notes.append("`input` is appended to the prompt after a blank line")
    return f"{prompt}\n\n{more}"


def _told(row: Row) -> Prompt:
    """Earlier turns in `context` or Alpaca's `history`: messages, or pairs of a question and an answer."""
    return tuple(said for name in ("context", "history") for said in _earlier(row, name))


def _earlier(row: Row, name: str) -> Prompt:
    turns = row.get(name)
    if not isinstance(turns, list):
        return ()
    if any(isinstance(turn, str) for turn in turns):  # passages of a text
        return ()
    row.take(name)
    if turns:
        row.notes.append(f"`{name}` is read as the turns before the prompt")
    if any(isinstance(turn, dict) for turn in turns):
        return messages(turns, name)
    for pair in turns:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(said, str) for said in pair):
            raise Unusable(f"`{name}` must be a list of messages, or of pairs of a question and an answer")
    return tuple(Message(role, said) for pair in turns for role, said in zip(("user", "assistant"), pair, strict=True))


def _conversation(value: str, row: Row) -> Prompt:
    """Plain text is one user message; what can only be a transcript is a conversation."""
    found = transcript(value)
    if found is None:
        return (Message("user", value),)
    if found.canonical:
        return found.turns
    if found.is_prompt:
        row.notes.append(f"prompts with turns `{found.spelling}` are read as conversations")
        return found.turns
    row.notes.append(f"prompts that begin with `{found.spelling}` but are no whole transcript are read as plain text")
    return (Message("user", value),)


def waiting(prompt: Prompt) -> Prompt:
    """Check that the prompt waits for an answer and that nobody in it is silent.

    Raises:
        Unusable: it does not.
    """
    if not prompt or prompt[-1].role not in ("user", "tool"):
        last = prompt[-1].role if prompt else "nothing"
        raise Unusable(f"the prompt must end with a user message, but ends with {last}")
    for said in prompt:
        if said.role not in EMPTY:
            says(said, "prompt")
    return prompt


# ------------------------------------------------------------------------------------------------------------ answers


def answered(prompt: Prompt | None, given: Sequence[tuple[str, Any]]) -> tuple[Prompt, tuple[Message, ...]]:
    """The prompt and the answers, one for each column and value.

    A value is text, a message, or a whole conversation that begins with the prompt; None: the conversations hold it.

    Raises:
        Unusable: not one answer each, or conversations with different beginnings.
    """
    said = [_said(value, column, prompt) for column, value in given]
    whole = {messages[:-1] for messages in said if len(messages) > 1}
    if len(whole) > 1:
        names = " and ".join(f"`{column}`" for column, _ in given[:2])
        raise Unusable(f"the conversations in {names} differ before their last answers", SEVERAL)
    if prompt is not None and not whole:
        _refuse_repeats(prompt, given)
        return prompt, tuple([messages[-1] for messages in said])
    context = waiting(whole.pop() if whole else ())
    if prompt is not None and not begins(context, prompt):
        raise Unusable(f"the conversation in `{given[0][0]}` does not begin with the prompt", _alone(given))
    return context, tuple([messages[-1] for messages in said])


def _alone(given: Sequence[tuple[str, Any]]) -> str:
    pair = {column for column, _ in given} == {"chosen", "rejected"}
    return "format=implicit_prompt reads the conversations alone" if pair else "remove the prompt, or mend it"


def _said(value: Any, column: str, prompt: Prompt | None) -> Prompt:
    """An answer, after the conversation that the value repeats."""
    if isinstance(value, str):
        found = None if prompt is None else transcript(value)
        if found is not None and found.is_answered and prompt is not None:
            if begins(found.turns[:-1], prompt):
                return found.turns
            if found.canonical:
                raise Unusable(f"`{column}` is a transcript that does not begin with the prompt")
        if prompt is not None:
            return (Message("assistant", text(value, column)),)
    said = messages(value, column)
    if not said or said[-1].role != "assistant" or (len(said) > 1 and said[0].role == "assistant"):
        roles = ", ".join(m.role for m in said) or "nothing"
        raise Unusable(f"`{column}` must be one assistant message, not {roles}")
    check_answer(said[-1], column)
    return said


def check_answer(answer: Message, column: str) -> None:
    """Refuse an answer that says nothing, or that is marked as not to be trained.

    Raises:
        Unusable: it does, or is.
    """
    says(answer, column)
    untrained(answer, column)


def begins(conversation: Prompt, prompt: Prompt) -> bool:
    """Whether the prompt is the beginning, the end or the text of a conversation; a system message may precede it."""
    if not conversation:
        return False
    held, wanted = _plain(conversation), _plain(prompt)
    if held[0][0] == "system" and wanted[0][0] != "system":
        held = held[1:]
    joined = len(wanted) == 1 and prompt_text(prompt).strip() == prompt_text(conversation).strip()
    return joined or wanted in (held[: len(wanted)], held[-len(wanted) :])


def _plain(conversation: Prompt) -> list[tuple[str, str]]:
    return [(m.role, m.content.strip()) for m in conversation]


def _refuse_repeats(prompt: Prompt, given: Sequence[tuple[str, Any]]) -> None:
    """Texts that all begin with the speaker's name or the whole prompt are no answers.

    One answer alone may well begin with the question.
    """
    texts = [value.lstrip() for _, value in given if isinstance(value, str)]
    if not texts or len(texts) < len(given):
        return
    names = " and ".join(dict.fromkeys(f"`{column}`" for column, _ in given))
    if all(said.startswith(SPEAKER) for said in texts):
        raise Unusable(f"{names} begin with `{texts[0].partition(':')[0]}:`", "remove the name from the answers")
    question = prompt[-1].content.strip()
    repeated = len(texts) > 1 and all(said.startswith(question) for said in texts)
    if repeated and len(question.split()) >= REPEATED_WORDS:
        raise Unusable(f"{names} repeat the prompt", "remove the prompt from the answers")
