"""The smallest rows of every format, and the groups they stand for: (prompt, responses, scores)."""

from __future__ import annotations

from typing import Any

from prefloop.data.records import Message

Made = tuple[str, tuple[str, ...], tuple[float, ...] | None]  # the prompt as `role: content` lines

TIE = (0.5, 0.5)
WON = ("winner_model_a", "winner_model_b", "winner_tie")


def turn(content: str, role: str = "assistant") -> dict[str, Any]:
    return {"role": role, "content": content}


def asked(text: str = "q") -> dict[str, Any]:
    return turn(text, "user")


def lines(prompt: tuple[Message, ...]) -> str:
    return "\n".join(f"{m.role}: {m.content}" for m in prompt)


def aspects(*ratings: object) -> dict[str, Any]:
    return {f"aspect{i}": {"Rating": rating, "Rationale": "…"} for i, rating in enumerate(ratings)}


SHARED = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "q", "image": None}]}]
TREE = {
    "text": "q",
    "role": "prompter",
    "replies": [
        {
            "text": "good",
            "role": "assistant",
            "rank": 0,
            "replies": [
                {
                    "text": "more",
                    "role": "prompter",
                    "replies": [
                        {"text": "b", "role": "assistant", "rank": 1, "replies": []},
                        {"text": "a", "role": "assistant", "rank": 0, "replies": []},
                        {"text": "gone", "role": "assistant", "rank": 2, "deleted": True},
                    ],
                },
                {"text": "alone", "role": "prompter", "replies": [{"text": "c", "role": "assistant", "rank": 0}]},
            ],
        },
        {"text": "bad", "role": "assistant", "rank": 2, "replies": []},
        {"text": "fair", "role": "assistant", "rank": 1, "replies": []},
        {"text": "unranked", "role": "assistant", "rank": None, "replies": []},
    ],
}

MADE_OF_TREE: list[Made] = [
    ("user: q", ("good", "bad", "fair"), (2.0, 0.0, 1.0)),
    ("user: q\nassistant: good\nuser: more", ("b", "a"), (0.0, 1.0)),
]


def one_message_per_row(name: str, message: dict[str, Any], parent: str | None = None) -> list[dict[str, Any]]:
    """The messages of a tree as rows, each with the name of the one that it answers."""
    own = {"message_id": name, "parent_id": parent, "message_tree_id": "t"}
    own |= {key: value for key, value in message.items() if key != "replies"}
    replies = enumerate(message.get("replies", []))
    return [own, *(row for i, reply in replies for row in one_message_per_row(f"{name}.{i}", reply, name))]


ROWS: dict[str, list[tuple[list[dict[str, Any]], list[Made]]]] = {
    "message_tree": [
        (
            [{"message_tree_id": "t", "tree_state": "ready", "prompt": TREE}],
            MADE_OF_TREE,
        )
    ],
    "fine_grained": [
        (
            [
                {
                    "question": "q",
                    "passages": [["title", "text"]],
                    **{f"prediction {i}": text for i, text in enumerate("abcd", 1)},
                    "preference": [0, 1, 1, 1, 2, 2],  # a = b, a > c, a > d, b > c, d > b (no ranking), d > c
                }
            ],
            [("user: q", (*"abcd",), (2.5, 1.5, 0.0, 2.0))],
        )
    ],
    "ultrafeedback": [
        (
            [
                {
                    "source": "x",
                    "instruction": "q",
                    "completions": [
                        {"response": "a", "overall_score": 7.5, "model": "m", "annotations": aspects("4", "N/A")},
                        {"response": "b", "overall_score": None, "model": "n", "annotations": aspects(4, "5")},
                        {"response": "c", "model": "o", "annotations": {"honesty": [{"Rating": "2"}]}},
                        {"response": "d", "overall_score": 1, "model": "p", "annotations": aspects("1")},
                    ],
                }
            ],
            [("user: q", (*"abcd",), (7.5, 4.5, 2.0, 1.0))],
        )
    ],
    "armorm": [
        (
            [
                {
                    "prompt": "q",
                    "all_generated_responses": [*"abcde"],
                    "all_rm_scores": [0.1, 0.2, 0.3, 0.2, 0.1],
                    "chosen": [asked(), turn("c")],
                    "rejected": [asked(), turn("a")],
                }
            ],
            [("user: q", (*"abcde",), (0.1, 0.2, 0.3, 0.2, 0.1))],
        )
    ],
    "nectar": [
        (
            [
                {
                    "prompt": "\n\nHuman: q\n\nAssistant: ",
                    "answers": [{"answer": text, "model": "m", "rank": r} for r, text in enumerate("abcdefg", 1)],
                    "num_responses": 7,
                }
            ],
            [("user: q", (*"abcdefg",), (6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0))],
        )
    ],
    "alpaca_farm": [
        (
            [
                {"instruction": "q", "input": "i", "output_1": "a", "output_2": "b", "preference": 1},
                {"instruction": "q", "input": "", "output_1": "a", "output_2": "b", "preference": 2.0},
                {"instruction": "q", "input": None, "output_1": "a", "output_2": "b", "preference": 1.5},
                {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 0, "annotator": 7},
                {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1.25},
            ],
            [
                ("user: q\n\ni", ("a", "b"), (1.0, 0.0)),
                ("user: q", ("a", "b"), (0.0, 1.0)),
                ("user: q", ("a", "b"), TIE),
                ("user: q", ("a", "b"), TIE),
                ("user: q", ("a", "b"), (0.75, 0.25)),
            ],
        )
    ],
    "llmbar": [
        (
            [{"input": "q", "output_1": "a", "output_2": "b", "label": label} for label in (1, 2)],
            [("user: q", ("a", "b"), (1.0, 0.0)), ("user: q", ("a", "b"), (0.0, 1.0))],
        )
    ],
    "pandalm": [
        (
            [
                {"instruction": "q", "input": "", "response1": "a", "response2": "b"}
                | {f"annotator{i}": vote for i, vote in enumerate(votes, 1)}
                for votes in ((1, 1, 1), (2, 2, 0), (0, 0, 0), (1, 2, 0), (1, 2))
            ],
            [("user: q", ("a", "b"), (p, 1 - p)) for p in (1.0, 1 / 6, 0.5, 0.5, 0.5)],
        )
    ],
    "helpsteer3": [
        (
            [
                {
                    "domain": "code",
                    "context": [asked(), turn("a"), asked("r")],
                    "response1": "a",
                    "response2": "b",
                    "overall_preference": overall,
                    "individual_preference": [{"score": score, "reasoning": "…"} for score in each],
                }
                for overall, each in ((-3, (-3, -2, -1, 1)), (0, ()), (2, ()))
            ],
            [
                ("user: q\nassistant: a\nuser: r", ("a", "b"), (0.75, 0.25)),
                ("user: q\nassistant: a\nuser: r", ("a", "b"), TIE),
                ("user: q\nassistant: a\nuser: r", ("a", "b"), (0.0, 1.0)),
            ],
        )
    ],
    "helpsteer2_preference": [
        (
            [
                {
                    "prompt": "q",
                    "response_1": "a",
                    "response_2": "b",
                    "preference_strength": -2,
                    "all_preferences_unprocessed": [{"strength": s, "statement": "…"} for s in (-2, -3, 0)],
                }
            ],
            [("user: q", ("a", "b"), (2.5 / 3, 1 - 2.5 / 3))],
        )
    ],
    "helpsteer2": [
        (
            [
                {"prompt": prompt, "response": text, "helpfulness": score, "correctness": 4, "verbosity": v}
                for prompt, text, score, v in (
                    ("q", "a", 4, 1),
                    ("q", "b", 2, 3),
                    ("r\n<extra_id_1>Assistant\ns\n<extra_id_1>User\nt", "a", 3, 2),
                    ("r\n<extra_id_1>Assistant\ns\n<extra_id_1>User\nt", "b", 3, 2),
                )
            ],
            [
                ("user: q", ("a", "b"), (4.0, 2.0)),
                ("user: r\nassistant: s\nuser: t", ("a", "b"), (3.0, 3.0)),
            ],
        )
    ],
    "shp": [
        (
            [{"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": x, "score_ratio": 2.0} for x in (1, 0)],
            [("user: q", ("a", "b"), (1.0, 0.0)), ("user: q", ("a", "b"), (0.0, 1.0))],
        )
    ],
    "safe_rlhf": [
        (
            [
                {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": i, "safer_response_id": 0}
                for i in (0, 1)
            ],
            [("user: q", ("a", "b"), (1.0, 0.0)), ("user: q", ("a", "b"), (0.0, 1.0))],
        )
    ],
    "arena": [
        (
            [
                {
                    "model_a": "x",
                    "model_b": "y",
                    "winner": winner,
                    "conversation_a": [*PARTS, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}],
                    "conversation_b": [*PARTS, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}],
                }
                for winner in ("model_a", "model_b", "tie", "both_bad")
            ],
            [("user: q", ("a", "b"), scores) for scores in ((1.0, 0.0), (0.0, 1.0), TIE, TIE)],
        )
    ],
    "arena_winners": [
        (
            [
                {
                    "id": 1,
                    "prompt": '["q"]',
                    "response_a": '["a"]',
                    "response_b": '["b"]',
                    "winner_model_a": a,
                    "winner_model_b": b,
                    "winner_tie": tie,
                }
                for a, b, tie in ((1, 0, 0), (0, 1, 0), (0.0, 0.0, 1.0), (False, False, True))
            ],
            [("user: q", ("a", "b"), scores) for scores in ((1.0, 0.0), (0.0, 1.0), TIE, TIE)],
        ),
        (
            [
                {
                    "prompt": ["q", "r"],
                    "response_a": '["x", "a"]',
                    "response_b": '["x", "b"]',
                    "winner_model_a": 1,
                    "winner_model_b": 0,
                    "winner_tie": 0,
                }
            ],
            [("user: q\nassistant: x\nuser: r", ("a", "b"), (1.0, 0.0))],
        ),
        (
            [{"prompt": "q", "response_a": "a", "response_b": "[1]"} | dict(zip(WON, (0, 1, 0), strict=True))],
            [("user: q", ("a", "[1]"), (0.0, 1.0))],
        ),
    ],
    "argilla_pair": [
        (
            [
                {
                    "source": "x",
                    "instruction": "q",
                    "chosen_response": "a",
                    "rejected_response": "b",
                    "chosen_avg_rating": 4.5,
                    "rejected_avg_rating": 2.0,
                }
            ],
            [("user: q", ("a", "b"), (1.0, 0.0))],
        )
    ],
    "preference": [
        ([{"prompt": "q", "chosen": "a", "rejected": "b"}], [("user: q", ("a", "b"), (1.0, 0.0))]),  # TRL, RewardBench
        (  # TRL, conversational
            [{"prompt": [asked()], "chosen": [turn("a")], "rejected": [turn("b")], "margin": 2}],
            [("user: q", ("a", "b"), (1.0, 0.0))],
        ),
        (  # UltraFeedback binarized (H4), Tulu 3
            [
                {
                    "prompt": "q",
                    "prompt_id": "7",
                    "chosen": [asked(), turn("a")],
                    "rejected": [asked(), turn("b")],
                    "messages": [asked(), turn("a")],
                    "score_chosen": 8.0,
                    "score_rejected": 4.0,
                }
            ],
            [("user: q", ("a", "b"), (1.0, 0.0))],
        ),
        (  # Argilla's UltraFeedback, second version
            [
                {
                    "prompt": "q",
                    "chosen": [asked(), turn("a")],
                    "chosen-rating": 5.0,
                    "rejected": [asked(), turn("b")],
                    "rejected-rating": 3,
                }
            ],
            [("user: q", ("a", "b"), (1.0, 0.0))],
        ),
        (  # Intel's orca pairs
            [{"system": "s", "question": "q", "chosen": "a", "rejected": "b"}],
            [("system: s\nuser: q", ("a", "b"), (1.0, 0.0))],
        ),
        (  # Argilla's orca pairs
            [
                {"system": "", "input": "q", "chosen": "a", "rejected": "b", "status": status, "chosen_score": 9}
                for status in ("unchanged", "swapped", "tie")
            ],
            [("user: q", ("a", "b"), scores) for scores in ((1.0, 0.0), (1.0, 0.0), TIE)],
        ),
        (  # Alpaca with a history
            [{"instruction": "q", "input": "i", "history": [["x", "y"]], "chosen": "a", "rejected": "b"}],
            [("user: x\nassistant: y\nuser: q\n\ni", ("a", "b"), (1.0, 0.0))],
        ),
        (  # RewardBench 2
            [{"prompt": "q", "chosen": ["a"], "rejected": ["b", "c", "d"], "num_correct": 1}],
            [("user: q", ("a", "b", "c", "d"), (1.0, 0.0, 0.0, 0.0))],
        ),
        (  # a share of annotators beside the pair
            [{"prompt": "q", "chosen": "a", "rejected": "b", "preference": p} for p in ("chosen", 0.75, "tie", 0.5)],
            [("user: q", ("a", "b"), scores) for scores in ((1.0, 0.0), (0.75, 0.25), TIE, TIE)],
        ),
    ],
    "conversation_pair": [
        (  # ShareGPT
            [
                {
                    "conversations": SHARED,
                    "chosen": {"from": "gpt", "value": "a"},
                    "rejected": {"from": "gpt", "value": "b"},
                }
            ],
            [("system: s\nuser: q", ("a", "b"), (1.0, 0.0))],
        ),
        (
            [{"messages": [asked()], "chosen": turn("a"), "rejected": [turn("b")]}],
            [("user: q", ("a", "b"), (1.0, 0.0))],
        ),
    ],
    "implicit_prompt": [
        (  # TRL, Skywork, Capybara, UltraFeedback binarized (TRL)
            [
                {
                    "chosen": [turn("s", "system"), asked(), turn("a")],
                    "rejected": [turn("s", "system"), asked(), turn("b")],
                    "source": "x",
                    "chosen_rating": 5,
                    "rejected_rating": 4,
                }
            ],
            [("system: s\nuser: q", ("a", "b"), (1.0, 0.0))],
        ),
        *(
            (
                [{"chosen": text + "a", "rejected": text + "b"}],
                [("user: q\nassistant: x\nuser: r", ("a", "b"), (1.0, 0.0))],
            )
            for text in (
                "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: ",
                "Human: q\n\nAssistant: x\n\nHuman: r\n\nAssistant: ",
                "Human: q\nAssistant: x\nHuman: r\nAssistant: ",
                "\n\nH: q\n\nA: x\n\nH: r\n\nA: ",
                "User: q\nAssistant: x\nUser: r\nAssistant: ",
                "USER: q\nASSISTANT: x\nUSER: r\nASSISTANT: ",
            )
        ),
    ],
    "unpaired": [
        (
            [{"prompt": "q", "completion": "a", "label": label} for label in (True, 0, -1.0)],
            [("user: q", ("a",), (score,)) for score in (1.0, -1.0, -1.0)],
        )
    ],
    "labelled_conversation": [
        (
            [{"messages": [asked(), turn("a")], "label": False}],
            [("user: q", ("a",), (-1.0,))],
        ),
        (
            [{"conversations": [*SHARED, {"from": "gpt", "value": "a"}], "kto_tag": True}],
            [("system: s\nuser: q", ("a",), (1.0,))],
        ),
    ],
    "rated": [
        (
            [{"prompt": "q", "responses": ["a", [turn("b")], turn("c")], "scores": [3, -1.5, 0]}],
            [("user: q", ("a", "b", "c"), (3.0, -1.5, 0.0))],
        )
    ],
    "unscored": [([{"prompt": "q", "responses": ["a", "b"]}], [("user: q", ("a", "b"), None)])],
    "example": [
        ([{"prompt": "q", "completion": "a"}], [("user: q", ("a",), None)]),
        ([{"prompt": [asked()], "completion": [turn("a")]}], [("user: q", ("a",), None)]),
    ],
    "response": [([{"prompt": "q", "response": "a", "rating": 3}], [("user: q", ("a",), None)])],
    "alpaca": [
        (
            [{"instruction": "q", "input": "i", "output": "a", "system": "s"}],
            [("system: s\nuser: q\n\ni", ("a",), None)],
        )
    ],
    "self_instruct": [
        (
            [
                {
                    "id": "t1",
                    "instruction": "q",
                    "instances": [{"input": "", "output": "a"}, {"input": "i", "output": "b"}],
                }
            ],
            [("user: q", ("a",), None), ("user: q\n\ni", ("b",), None)],
        )
    ],
    "conversation": [
        ([{"messages": [asked(), turn("a")]}], [("user: q", ("a",), None)]),
        (  # UltraChat
            [{"prompt": "q", "prompt_id": "7", "messages": [asked(), turn("a"), asked("r"), turn("b")]}],
            [("user: q\nassistant: a\nuser: r", ("b",), None)],
        ),
        ([{"conversations": [*SHARED, {"from": "gpt", "value": "a"}]}], [("system: s\nuser: q", ("a",), None)]),
    ],
    "capybara": [
        (
            [{"source": "x", "conversation": [{"input": "q", "output": "a"}, {"input": "r", "output": "b"}]}],
            [("user: q\nassistant: a\nuser: r", ("b",), None)],
        ),
        ([{"conversation": [asked(), turn("a")], "model": "m"}], [("user: q", ("a",), None)]),
    ],
    "message_rows": [(one_message_per_row("t", TREE), MADE_OF_TREE)],
    "reference_answer": [([{"question": "q", "answer": "#### 4"}], [("user: q", (), None)])],
    "turns": [
        ([{"question_id": 1, "category": "writing", "turns": ["q", "r"], "reference": []}], [("user: q", (), None)])
    ],
    "prompt_only": [
        ([{"prompt": "q", "ground_truth": "4"}], [("user: q", (), None)]),
        ([{"prompt": [turn("s", "system"), asked()]}], [("system: s\nuser: q", (), None)]),
    ],
}
