"""Readers of two answers to one prompt: which is preferred, by whom, and ties."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prefloop.data.formats.answers import SEVERAL, answered, asked, waiting
from prefloop.data.formats.messages import messages, parsed
from prefloop.data.formats.row import Content, Prompt, Row, Unusable, beside, kind, number, objects, text
from prefloop.data.formats.stated import TIE, coded, first_share, likelihood, stated
from prefloop.data.formats.transcripts import transcript
from prefloop.data.records import Message

FIRST, SECOND = (1.0, 0.0), (0.0, 1.0)
TURNS = re.compile(r'\s*\[(?:"|null)')  # how a list of texts begins in JSON
VERDICTS = ("winner_model_a", "winner_model_b", "winner_tie")
WINNERS = {"model_a": FIRST, "model_b": SECOND, **dict.fromkeys(("tie", "both_bad", "tie (bothbad)"), TIE)}


def preference(row: Row) -> Content:
    """`chosen` and `rejected` beside a prompt; of lists of texts, all chosen ones are better (RewardBench 2)."""
    prompt, given = asked(row), [(name, row.take(name)) for name in ("chosen", "rejected")]
    if all(isinstance(value, list) and value and all(isinstance(v, str) for v in value) for _, value in given):
        return _several(prompt, given)
    return _chosen(*answered(prompt, given), row)


def _several(prompt: Prompt, given: Sequence[tuple[str, Any]]) -> Content:
    flat = [(name, text) for name, texts in given for text in texts]
    prompt, answers = answered(prompt, flat)
    return Content(prompt, answers, tuple(float(name == "chosen") for name, _ in flat))


def conversation_pair(row: Row) -> Content:
    """`chosen` and `rejected` after a conversation (ShareGPT, OpenAI)."""
    prompt = waiting(messages(row.take("messages"), "messages"))
    return _chosen(*answered(prompt, [(name, row.take(name)) for name in ("chosen", "rejected")]), row)


def argilla_pair(row: Row) -> Content:
    """The first layout of Argilla's UltraFeedback."""
    names = ("chosen_response", "rejected_response")
    return _chosen(*answered(asked(row), [(name, row.take(name)) for name in names]), row)


def _chosen(prompt: Prompt, answers: tuple[Message, ...], row: Row) -> Content:
    if _same(*answers):
        raise Unusable("`chosen` equals `rejected`")
    return Content(prompt, answers, stated(row))


def _same(a: Message, b: Message) -> bool:
    return a.content.strip() == b.content.strip() and a.more == b.more


def implicit_prompt(row: Row) -> Content:
    """The prompt is the common prefix, in whole messages, of two conversations that each end with one answer."""
    chosen, rejected = (_conversation(row.take(name), name) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise Unusable("`chosen` equals `rejected`")
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    if len(chosen) != same + 1 or len(rejected) != same + 1:
        left = f"{len(chosen) - same} and {len(rejected) - same} messages follow"
        raise Unusable(f"the common prompt must be followed by one answer: {same} messages are common, {left}", SEVERAL)
    prompt = waiting(chosen[:same])
    last = [("chosen", [chosen[-1].plain]), ("rejected", [rejected[-1].plain])]
    return _chosen(*answered(prompt, last), row)


def _conversation(value: Any, column: str) -> Prompt:
    if not isinstance(value, str):
        return messages(value, column)
    found = transcript(value)
    if found is None or not (found.canonical or found.is_answered):
        fix = "add a column `prompt`, or start turns with \\n\\nHuman: and \\n\\nAssistant:"
        raise Unusable(f"`{column}` is text without turns, so its prompt is unknown", fix)
    return found.turns


# ------------------------------------------------------------------------------------------------- a first and a second


def _compared(row: Row, names: tuple[str, str], scores: tuple[float, float]) -> Content:
    return _verdict(asked(row), names, scores, row)


def _verdict(prompt: Prompt | None, names: tuple[str, str], scores: tuple[float, float], row: Row) -> Content:
    """Two answers with a verdict; without a prompt, the conversations hold it."""
    prompt, answers = answered(prompt, [(name, row.take(name)) for name in names])
    if scores != TIE and _same(*answers):
        raise Unusable(f"`{names[0]}` equals `{names[1]}`, but one is preferred")
    return Content(prompt, answers, scores)


def alpaca_farm(row: Row) -> Content:
    """AlpacaFarm and alpaca_eval: `preference` is 1, 2, a number between them, or 0 or 1.5 for a tie."""
    return _compared(row, ("output_1", "output_2"), likelihood(row.take("preference"), "preference"))


def llmbar(row: Row) -> Content:
    """LLMBar: `label` is the number of the better output."""
    return _compared(row, ("output_1", "output_2"), coded(row.take("label"), "label", {1: FIRST, 2: SECOND, 0: TIE}))


def pandalm(row: Row) -> Content:
    """PandaLM: `annotator1`, `annotator2`, … each say 1, 2 or 0 for a tie; scores are shares of annotators."""
    names = [name for name in row if name.startswith("annotator") and name[9:].isdecimal()]
    said = [coded(row.take(n), n, {1: FIRST, 2: SECOND, 0: TIE}) for n in names if row[n] is not None]
    made = _compared(row, ("response1", "response2"), first_share(second - first for first, second in said))
    return replace(made, columns={"votes": [first for first, _ in said]})


def helpsteer3(row: Row) -> Content:
    """HelpSteer 3: scores from -3 (the first) to 3; `individual_preference` gives the shares of the annotators."""
    prompt = waiting(messages(row.take("context"), "context"))
    scores, more = _verdicts(row, "overall_preference", "individual_preference", "score")
    return replace(_verdict(prompt, ("response1", "response2"), scores, row), columns=more)


def helpsteer2_preference(row: Row) -> Content:
    """HelpSteer 2, preferences: strengths from -3 (the first) to 3, of each annotator where they are given."""
    scores, more = _verdicts(row, "preference_strength", "all_preferences_unprocessed", "strength")
    return replace(_compared(row, ("response_1", "response_2"), scores), columns=more)


def _verdicts(row: Row, overall: str, individual: str, key: str) -> tuple[tuple[float, float], dict[str, Any]]:
    """The shares of the annotators, or the overall verdict; and what the annotators say beside it."""
    total, each = _strength(row[overall], overall), row.take(individual)
    if not each:
        row.take(overall)
        return first_share([total]), {}
    said = objects(each, individual, key)
    return first_share([_strength(x.get(key), f"{individual}.{key}") for x in said]), beside(said, (key,))


def _strength(value: Any, column: str) -> float:
    strength = number(value, column)
    if not -3 <= strength <= 3:
        raise Unusable(f"`{column}` is {value}", "it can be -3 (the first is much better) to 3 (the second)")
    return strength


def shp(row: Row) -> Content:
    """Stanford Human Preferences: `labels` is 1 if the first comment is preferred."""
    row["prompt"] = row.take("history")
    scores = coded(row.take("labels"), "labels", {1: FIRST, 0: SECOND})
    return _compared(row, ("human_ref_A", "human_ref_B"), scores)


def safe_rlhf(row: Row) -> Content:
    """PKU-SafeRLHF: `better_response_id` is the number of the more helpful response."""
    scores = coded(row.take("better_response_id"), "better_response_id", {0: FIRST, 1: SECOND})
    return _compared(row, ("response_0", "response_1"), scores)


def arena(row: Row) -> Content:
    """Chatbot Arena: two conversations that differ in their last answers; `both_bad` is a tie."""
    scores = coded(row.take("winner"), "winner", WINNERS)
    return _verdict(None, ("conversation_a", "conversation_b"), scores, row)


def arena_winners(row: Row) -> Content:
    """Chatbot Arena of 55k rows: turns as lists of texts in JSON; one of three columns is 1."""
    names = ("response_a", "response_b")
    questions, *answers = [_turns(row.take(name), name) for name in ("prompt", *names)]
    won = [row.take(name) for name in VERDICTS]
    if sorted(won, key=str) not in ([0, 0, 1], [False, False, True]):
        raise Unusable("of `winner_model_a`, `winner_model_b` and `winner_tie`, one must be 1 and the others 0")
    for name, own in zip(names, answers, strict=True):
        if len(own) != len(questions):
            raise Unusable(f"`{name}` has {len(own)} answers to {len(questions)} questions in `prompt`")
        turns = [(("user", question), ("assistant", answer)) for question, answer in zip(questions, own, strict=True)]
        row[name] = [{"role": role, "content": said} for turn in turns for role, said in turn]
    return _verdict(None, names, (FIRST, SECOND, TIE)[won.index(1)], row)


def _turns(value: Any, column: str) -> list[str]:
    """A list of texts, also as JSON; other text is one turn."""
    if isinstance(value, str) and TURNS.match(value):
        value = parsed(value, column)
    turns = [value] if isinstance(value, str) else value
    if not isinstance(turns, list) or not turns:
        raise Unusable(f"`{column}` is {kind(value)}, not a list of texts")
    return [text(turn, column) for turn in turns]
