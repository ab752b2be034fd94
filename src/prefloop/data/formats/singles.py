"""Readers of one answer per row, with a label or as an example, and of prompts alone."""

from __future__ import annotations

from prefloop.data.formats.answers import answered, asked, begins, check_answer, waiting
from prefloop.data.formats.messages import messages
from prefloop.data.formats.row import Content, Prompt, Row, Unusable, kind, objects, text
from prefloop.data.formats.stated import binary
from prefloop.data.records import Message


def unpaired(row: Row) -> Content:
    """One answer with a label."""
    label = binary(row.take("label"))
    return Content(*answered(asked(row), [("completion", row.take("completion"))]), (label,))


def labelled_conversation(row: Row) -> Content:
    """A conversation with a label: it is about the last answer."""
    label = binary(row.take("label"))
    prompt, answer = _last_answer(row)
    return Content(prompt, (answer,), (label,))


def example(row: Row) -> Content:
    """One answer to learn from, without a score."""
    return Content(*answered(asked(row), [("completion", row.take("completion"))]))


def response(row: Row) -> Content:
    """One answer, without a score."""
    return Content(*answered(asked(row), [("response", row.take("response"))]))


def alpaca(row: Row) -> Content:
    """Alpaca: `instruction`, `input` and an `output` to learn from."""
    return Content(*answered(asked(row), [("output", row.take("output"))]))


def capybara(row: Row) -> Content:
    """A conversation in messages, or in turns of an `input` and an `output`."""
    turns = row.take("conversation")
    if isinstance(turns, list) and turns and all(isinstance(t, dict) and {*t} >= {"input", "output"} for t in turns):
        names = (("user", "input"), ("assistant", "output"))
        turns = [{"role": role, "content": turn[name]} for turn in turns for role, name in names]
    row["messages"] = turns
    return conversation(row)


def conversation(row: Row) -> Content:
    """A conversation whose last answer is to be learned."""
    prompt, answer = _last_answer(row)
    if any(m.role == "assistant" for m in prompt):
        row.notes.append("conversations with several answers: the last one is trained, the others are its prompt")
    return Content(prompt, (answer,))


def _last_answer(row: Row) -> tuple[Prompt, Message]:
    said = messages(row.take("messages"), "messages")
    if not said or said[-1].role != "assistant":
        last = said[-1].role if said else "nothing"
        fix = "map it as a prompt: prompt=messages"
        raise Unusable(f"the conversation ends with {last}, not with an answer of the assistant", fix)
    check_answer(said[-1], "messages")
    prompt = waiting(said[:-1])
    if row.get("prompt") is not None and not begins(prompt, asked(row)):
        raise Unusable("the conversation in `messages` does not begin with the prompt", "remove the prompt, or mend it")
    return prompt, said[-1]


def self_instruct(row: Row) -> list[Content]:
    """Self-Instruct: an instruction with `instances` of an input and an output."""
    instances = objects(row.take("instances"), "instances", "input and output")
    instruction = row.take("prompt")
    made = []
    for instance in instances:
        row |= {"prompt": instruction, "input": instance.get("input")}
        made.append(Content(*answered(asked(row), [("output", instance.get("output"))])))
    return made


def prompt_only(row: Row) -> Content:
    """A prompt; answers come from the policy."""
    return Content(asked(row))


def reference_answer(row: Row) -> Content:
    """A prompt with an `answer` that a reward compares with."""
    row.notes.append("`answer` is not trained on: rewards get it by name")
    return Content(asked(row))


def turns(row: Row) -> Content:
    """Questions of MT-bench: the first of the `turns` is the prompt."""
    said = row["turns"]
    if not isinstance(said, list) or not said:
        raise Unusable(f"`turns` is {kind(said)}, not a list of questions")
    if len(said) > 1:
        row.notes.append("of `turns`, the first is the prompt; the others need an answer before them")
    else:
        row.take("turns")
    return Content((Message("user", text(said[0], "turns")),))
