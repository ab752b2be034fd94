"""The table of formats: one row per format, the most specific first, and other names of our columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prefloop.data.formats import lists, pairs, singles, trees
from prefloop.data.formats.row import Content, Row


@dataclass(frozen=True)
class Format:
    """A file format: the columns it is known by, and how a row is read."""

    columns: tuple[str, ...]
    read: Callable[[Row], Content | list[Content]]
    help: str
    join: Callable[[Iterable[tuple[int, Any]]], Iterator[tuple[int, Any]]] | None = None  # puts rows together first
    merged: bool = False  # rows that follow each other and have the same prompt are one group
    bare: bool = False  # no preference, label or score: columns that look like one must not be overlooked


OWN = ("preference", "unpaired", "rated", "implicit_prompt", "example", "prompt_only")  # that hints lead to
OPTIONAL = ("system", "input", "history", "context", "tools")  # columns that belong to the prompt, in any format
ALIASES = {  # names of our columns in files of others, used if ours is not there
    "prompt": ("question", "instruction", "problem", "input"),
    "messages": ("conversations", "trajectory"),
    "label": ("kto_tag",),
    "system": ("system_prompt", "system_message"),
}

FORMATS: dict[str, Format] = {
    "message_tree": Format(
        ("message_tree_id", "prompt"),
        trees.message_tree,
        "OpenAssistant: trees of messages; the ranked replies to each question are a group",
    ),
    "fine_grained": Format(
        ("prompt", "prediction 1", "prediction 2", "preference"),
        lists.fine_grained,
        "FineGrainedRLHF: predictions and comparisons of all pairs; the score is the number of comparisons won",
    ),
    "ultrafeedback": Format(
        ("prompt", "completions"),
        lists.ultrafeedback,
        "UltraFeedback, raw: completions with an overall score, or the mean rating of their aspects",
    ),
    "armorm": Format(
        ("prompt", "all_generated_responses", "all_rm_scores"),
        lists.armorm,
        "UltraFeedback of SimPO: five answers with the scores of a reward model",
    ),
    "nectar": Format(("prompt", "answers"), lists.nectar, "Nectar: answers with ranks; the last has the score 0"),
    "alpaca_farm": Format(
        ("prompt", "output_1", "output_2", "preference"),
        pairs.alpaca_farm,
        "AlpacaFarm, alpaca_eval: preference 1, 2, a number between them, or 0 or 1.5 for a tie",
    ),
    "llmbar": Format(
        ("prompt", "output_1", "output_2", "label"),
        pairs.llmbar,
        "LLMBar: the label is the number of the better output",
    ),
    "pandalm": Format(
        ("prompt", "response1", "response2", "annotator1"),
        pairs.pandalm,
        "PandaLM: several annotators say 1, 2 or 0 for a tie; scores are their shares",
    ),
    "helpsteer3": Format(
        ("context", "response1", "response2", "overall_preference"),
        pairs.helpsteer3,
        "HelpSteer 3: preferences from -3 (the first) to 3; scores are shares of the annotators",
    ),
    "helpsteer2_preference": Format(
        ("prompt", "response_1", "response_2", "preference_strength"),
        pairs.helpsteer2_preference,
        "HelpSteer 2, preferences: strengths from -3 (the first) to 3; scores are shares of the annotators",
    ),
    "helpsteer2": Format(
        ("prompt", "response", "helpfulness"),
        lists.helpsteer2,
        "HelpSteer 1 and 2: consecutive rows of a prompt are a group; the score is helpfulness",
        merged=True,
    ),
    "shp": Format(
        ("history", "human_ref_A", "human_ref_B", "labels"),
        pairs.shp,
        "Stanford Human Preferences: labels is 1 if the first comment is preferred, 0 if the second",
    ),
    "safe_rlhf": Format(
        ("prompt", "response_0", "response_1", "better_response_id"),
        pairs.safe_rlhf,
        "PKU-SafeRLHF: the number of the more helpful response",
    ),
    "arena": Format(
        ("conversation_a", "conversation_b", "winner"),
        pairs.arena,
        "Chatbot Arena: two conversations and a winner; tie and both_bad are ties",
    ),
    "arena_winners": Format(
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
        pairs.arena_winners,
        "Chatbot Arena of 55k rows: turns as lists in JSON, and three columns of which one is 1",
    ),
    "argilla_pair": Format(
        ("prompt", "chosen_response", "rejected_response"),
        pairs.argilla_pair,
        "UltraFeedback of Argilla, first version",
    ),
    "preference": Format(
        ("prompt", "chosen", "rejected"),
        pairs.preference,
        "one answer preferred to another; the answers may repeat the conversation",
    ),
    "conversation_pair": Format(
        ("messages", "chosen", "rejected"),
        pairs.conversation_pair,
        "one answer preferred to another after a conversation (ShareGPT, OpenAI)",
    ),
    "implicit_prompt": Format(
        ("chosen", "rejected"),
        pairs.implicit_prompt,
        "two full conversations with the same beginning",
    ),
    "unpaired": Format(
        ("prompt", "completion", "label"),
        singles.unpaired,
        "one answer with a label: true/false, 1/0, 1/-1",
    ),
    "labelled_conversation": Format(
        ("messages", "label"),
        singles.labelled_conversation,
        "a conversation with a label of its last answer: true/false, 1/0, 1/-1",
    ),
    "rated": Format(("prompt", "responses", "scores"), lists.rated, "any number of answers, each with a score"),
    "unscored": Format(("prompt", "responses"), lists.candidates, "any number of answers without scores", bare=True),
    "example": Format(("prompt", "completion"), singles.example, "an answer to learn from, without a score", bare=True),
    "response": Format(
        ("prompt", "response"),
        singles.response,
        "an answer to learn from or to score, without a score",
        bare=True,
    ),
    "alpaca": Format(
        ("prompt", "output"), singles.alpaca, "Alpaca: an output to learn from, without a score", bare=True
    ),
    "self_instruct": Format(
        ("prompt", "instances"),
        singles.self_instruct,
        "Self-Instruct: an instruction with instances of an input and an output",
        bare=True,
    ),
    "conversation": Format(
        ("messages",),
        singles.conversation,
        "a conversation whose last answer is to be learned, without a score",
        bare=True,
    ),
    "capybara": Format(
        ("conversation",),
        singles.capybara,
        "Capybara, LMSYS-Chat, WildChat: a conversation in messages, or in pairs of input and output",
        bare=True,
    ),
    "message_rows": Format(
        ("message_id", "text", "role"),
        trees.message_rows,
        "OpenAssistant, one message per row: trees are put together by parent_id; ranked replies are a group",
        join=trees.joined,
    ),
    "reference_answer": Format(
        ("prompt", "answer"),
        singles.reference_answer,
        "prompts with a reference answer for rewards, which is not trained on (GSM8K)",
        bare=True,
    ),
    "turns": Format(("turns",), singles.turns, "MT-bench: questions; the first turn is the prompt", bare=True),
    "prompt_only": Format(("prompt",), singles.prompt_only, "prompts without answers", bare=True),
}
