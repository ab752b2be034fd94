"""Files of preferences: every format, errors with their rows, splits, reports, the built-in instructions."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

import prefloop
from paths import HUMAN_CHATS, HUMAN_PAIRS, real
from prefloop.cli.main import execute
from prefloop.core.errors import DataError, UserError
from prefloop.data.check import check
from prefloop.data.formats import FORMATS, load, load_usable
from prefloop.data.instructions import instructions
from prefloop.data.records import Group, Message, first_responses, split
from prefloop.worlds.text.open_data import open_data
from prefloop.worlds.text.spec import DataOptions

PAIR = {"prompt": "q", "chosen": "yes", "rejected": "no"}
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
ASKED = tuple(Message(m["role"], m["content"]) for m in TURNS)
WRITERS: dict[str, Callable[[Path, Sequence[Any]], object]] = {
    ".jsonl": lambda path, rows: path.write_text("".join(json.dumps(r) + "\n" for r in rows)),
    ".jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode())),
    ".json": lambda path, rows: path.write_text(json.dumps(rows)),
    ".json.gz": lambda path, rows: path.write_bytes(gzip.compress(json.dumps(rows).encode())),
    ".parquet": lambda path, rows: parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path),
}


def written(folder: Path, *rows: Any, suffix: str = ".jsonl") -> Path:
    path = folder / f"data{suffix}"
    WRITERS[suffix](path, rows)
    return path


def said(content: str, role: str = "assistant") -> dict[str, str]:
    return {"role": role, "content": content}


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def pair(key: str, chosen: str = "yes", rejected: str = "no", row: int = 1) -> Group:
    return Group(user(key), (chosen, rejected), (1.0, 0.0), key, row)


# -------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("row", "format", "prompt", "responses", "scores"),
    [
        (PAIR, "preference", user("q"), ("yes", "no"), (1.0, 0.0)),
        (
            {"prompt": TURNS, "chosen": [said("yes")], "rejected": [said("no")]},
            "preference",
            ASKED,
            ("yes", "no"),
            (1.0, 0.0),
        ),
        ({"prompt": TURNS, "chosen": "yes", "rejected": "no", "gap": 2}, "preference", ASKED, ("yes", "no"), (1, 0)),
        (  # the answers repeat the prompt, as in UltraFeedback binarized
            {"prompt": "q", "chosen": [said("q", "user"), said("yes")], "rejected": [said("q", "user"), said("no")]},
            "preference",
            user("q"),
            ("yes", "no"),
            (1.0, 0.0),
        ),
        (
            {"qid": 3, "question": "q", "chosen": "yes", "rejected": "no"},
            "preference",
            user("q"),
            ("yes", "no"),
            (1, 0),
        ),
        (
            {"chosen": [*TURNS, said("yes")], "rejected": [*TURNS, said("no")]},
            "implicit_prompt",
            ASKED,
            ("yes", "no"),
            (1.0, 0.0),
        ),
        (
            {
                "chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: yes, Human: I am",
                "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: yes, no",
            },
            "implicit_prompt",
            ASKED,
            ("yes, Human: I am", "yes, no"),
            (1.0, 0.0),
        ),
        ({"prompt": "\n\nHuman: q\n\nAssistant:"}, "prompt_only", user("q"), (), None),
        ({"prompt": "q", "id": 7}, "prompt_only", user("q"), (), None),
        ("q", "prompt_only", user("q"), (), None),
        ({"prompt": "q", "completion": "a", "label": True}, "unpaired", user("q"), ("a",), (1.0,)),
        ({"prompt": "q", "completion": "a", "label": 0}, "unpaired", user("q"), ("a",), (-1.0,)),
        ({"prompt": TURNS, "completion": [said("a")], "label": -1.0}, "unpaired", ASKED, ("a",), (-1.0,)),
        (
            {"prompt": "q", "responses": ["a", "b", "c"], "scores": [3, 1.5, -2]},
            "rated",
            user("q"),
            (*"abc",),
            (3, 1.5, -2),
        ),
    ],
)
def test_every_format_is_detected_and_read(
    tmp_path: Path, row: Any, format: str, prompt: object, responses: object, scores: object
) -> None:
    path = written(tmp_path, row, row)
    found = load_usable(path)
    assert (found.format, found.faults) == (format, [])
    assert [g.row for g in found.groups] == [1, 2]
    assert all((g.prompt, g.responses, g.scores) == (prompt, responses, scores) for g in found.groups)
    assert load(path, format=format) == found.groups


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file_gives_the_same_groups(tmp_path: Path, suffix: str) -> None:
    rows = [{**PAIR, "prompt": f"é \u2028 {i}", "tree": f"t{i // 2}"} for i in range(5)]
    found = load(written(tmp_path, *rows, suffix=suffix), group_by="tree")
    assert [g.text for g in found] == [row["prompt"] for row in rows]
    assert [g.key for g in found] == ["t0", "t0", "t1", "t1", "t2"]
    assert len(load(tmp_path / f"data{suffix}", limit=3)) == 3


words = st.text(min_size=1).filter(lambda t: t.strip() != "" and not t.startswith("\n\n"))


@given(rows=st.lists(st.tuples(words, words, words).filter(lambda t: t[1].strip() != t[2].strip()), min_size=1))
def test_texts_come_back_unchanged(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    path = written(tmp_path, *({"prompt": p, "chosen": a, "rejected": b} for p, a, b in rows))
    assert [(g.text, *g.responses) for g in load(path)] == rows


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    path = written(tmp_path, {"query": "q", "response": "yes", "rejected_response": "no", "prompt": "not this"})
    columns = {"prompt": "query", "chosen": "response", "rejected": "rejected_response"}
    (group,) = load(path, columns=columns, group_by="query")
    assert (group.text, group.responses, group.key) == ("q", ("yes", "no"), "q")


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (
            {"query": "q", "response": "a", "rejected_response": "b"},
            ["query, response", "chosen=response", "prompt=query"],
        ),
        ({"prompt": "q", "chosn": "a", "rejected": "b"}, ["prompt, chosn, rejected", "chosen=chosn"]),
        ({"prompt": "q", "response": "a", "label": 1}, ["completion=response", "format=response"]),
        ({"prompt": "q", "chosen": "a"}, ["prompt, chosen", "completion=chosen", "format=prompt_only"]),
        ({}, ["none", "add the columns"]),
    ],
)
def test_wrong_columns_name_what_was_found_and_what_to_do(tmp_path: Path, row: Any, parts: list[str]) -> None:
    with pytest.raises(DataError) as error:
        load(written(tmp_path, row))
    assert error.value.exit_code == 3 and "row 1" in error.value.where and "data.jsonl" in error.value.where
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ({**PAIR, "chosen": "no "}, "`chosen` equals `rejected`"),
        ({**PAIR, "prompt": " \n"}, "`prompt` is empty"),
        ({**PAIR, "rejected": ""}, "`rejected` is empty"),
        ({**PAIR, "chosen": 3}, "`chosen` is a int"),
        ({**PAIR, "chosen": [said("a"), said("b")]}, "one assistant message"),
        ({**PAIR, "prompt": TURNS[:2]}, "must end with a user message"),
        ({**PAIR, "prompt": [said("q", "human")]}, "unknown role `human`"),
        ({"prompt": "q", "chosen": "a"}, "no `rejected`; the columns are prompt, chosen"),
        ({**PAIR, "chosen": None}, "no `chosen`"),
        ([1, 2], "a list, not an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: Any, what: str) -> None:
    path = written(tmp_path, PAIR, PAIR, bad, PAIR)
    with pytest.raises(DataError, match="1 of 4 rows cannot be used") as error:
        load(path)
    assert "row 3: " in str(error.value) and what in str(error.value)
    found = load_usable(path)
    assert [g.row for g in found.groups] == [1, 2, 4] and [f.row for f in found.faults] == [3]


@pytest.mark.parametrize(
    ("good", "bad", "what"),
    [
        (
            {"prompt": "q", "completion": "a", "label": 1},
            {"prompt": "q", "completion": "a", "label": 2},
            "`label` 2",
        ),
        (
            {"prompt": "q", "completion": "a", "label": 1},
            {"prompt": "q", "completion": "a", "label": "yes"},
            "`label` 'yes'",
        ),
        (
            {"prompt": "q", "responses": ["a"], "scores": [1]},
            {"prompt": "q", "responses": ["a", "b"], "scores": [1]},
            "the same length",
        ),
        (
            {"prompt": "q", "responses": ["a"], "scores": [1]},
            {"prompt": "q", "responses": ["a"], "scores": [float("nan")]},
            "not a finite number",
        ),
        (
            {"chosen": [*TURNS, said("a")], "rejected": [*TURNS, said("b")]},
            {"chosen": [*TURNS, said("a")], "rejected": [TURNS[0], said("b")]},
            "1 messages are common, 3 and 1 messages follow",
        ),
        (
            {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
            {"chosen": "plain a", "rejected": "plain b"},
            "its prompt is unknown",
        ),
    ],
)
def test_a_bad_row_of_other_formats_is_named(tmp_path: Path, good: Any, bad: Any, what: str) -> None:
    faults = load_usable(written(tmp_path, good, bad)).faults
    assert [f.row for f in faults] == [2] and what in faults[0].what


def test_line_numbers_count_blank_lines_and_broken_json(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f'\n{json.dumps(PAIR)}\n{{"prompt": \n\n{json.dumps(PAIR)}\n')
    found = load_usable(path)
    assert [g.row for g in found.groups] == [2, 5]
    assert [f.row for f in found.faults] == [3] and "invalid JSON" in found.faults[0].what


def test_many_bad_rows_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    rows = [PAIR, *({**PAIR, "chosen": ""} for _ in range(40))]
    with pytest.raises(DataError, match="40 of 41 rows") as error:
        load(written(tmp_path, *rows))
    assert "row 2:" in str(error.value) and "row 9:" not in str(error.value) and "35 more" in str(error.value)


def test_a_file_without_any_usable_row_is_an_error_even_when_bad_rows_are_left_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 of 2 rows"):
        load_usable(written(tmp_path, {**PAIR, "chosen": "no"}, {**PAIR, "chosen": "no"}))


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("missing.jsonl", None, "does not exist"),
        ("empty.jsonl", b"\n\n", "is empty"),
        ("empty.json", b"", "is empty"),
        ("table.xlsx", b"PK", "unsupported file extension"),
        ("cut.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], "cannot be read"),
        ("plain.jsonl.gz", b"{}", "cannot be read"),
        ("latin.jsonl", '{"prompt": "é"}'.encode("latin-1"), "not UTF-8"),
        ("lines.json", b'{"prompt": "a"}\n{"prompt": "b"}', "not valid JSON"),
        ("object.json", b'{"prompt": "a"}', "contains a dict"),
        ("bad.parquet", b"PAR1", "not readable Parquet"),
        ("garbage.jsonl", b"hello\nthere", "2 of 2 rows"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes | None, what: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=what) as error:
        load(tmp_path / name)
    assert name in error.value.where


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    written(tmp_path, PAIR)
    with pytest.raises(DataError, match=r"data\.jsonl"):
        load(tmp_path / "date.jsonl")


def test_unknown_names_suggest_the_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, {**PAIR, "tree": "t"})
    with pytest.raises(UserError, match="preference"):
        load(path, format="preferences")
    with pytest.raises(UserError, match="did you mean `chosen`"):
        load(path, columns={"choosen": "chosen"})
    with pytest.raises(DataError, match="did you mean `chosen`"):
        load(path, columns={"chosen": "choosen"})
    with pytest.raises(DataError, match="did you mean `tree`"):
        load(path, group_by="trees")
    with pytest.raises(DataError, match="the format `unpaired` needs prompt, completion, label"):
        load(path, format="unpaired")


# --------------------------------------------------------------------------------------------------------------- splits

keys = st.lists(st.text(max_size=5), min_size=1, max_size=60)


@given(keys=keys, share=st.floats(0, 1), seed=st.integers(0, 2**40))
def test_a_key_is_never_on_both_sides_and_nothing_is_lost(keys: list[str], share: float, seed: int) -> None:
    groups = [pair(k, row=i) for i, k in enumerate(keys)]
    train, held_out = split(groups, share, seed)
    assert not {g.key for g in train} & {g.key for g in held_out}
    assert sorted(g.row for g in [*train, *held_out]) == list(range(len(keys)))
    assert (not held_out or share > 0) and (not train or share < 1)


@given(keys=keys, more=keys, seed=st.integers(0, 99))
def test_new_rows_move_no_key_to_the_other_side(keys: list[str], more: list[str], seed: int) -> None:
    before = split([pair(k) for k in keys], 0.5, seed)
    after = split([pair(k) for k in [*more, *keys]], 0.5, seed)
    assert all({g.key for g in side} <= {g.key for g in later} for side, later in zip(before, after, strict=True))


def test_the_share_is_met_and_the_seed_matters() -> None:
    groups = [pair(str(i)) for i in range(4000)]
    sizes = [len(split(groups, 0.2, seed)[1]) for seed in range(4)]
    assert all(abs(size - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5 for size in sizes)
    first, second = ({g.key for g in split(groups, 0.2, seed)[1]} for seed in (0, 1))
    assert 90 < len(first & second) < 230  # 160 expected of independent choices
    with pytest.raises(UserError, match="share"):
        split(groups, 1.5, 0)


def test_first_responses() -> None:
    group = Group(user("q"), ("a", "b", "c"), (3.0, 2.0, 1.0), "q", 1)
    assert first_responses([group, Group(user("q"), (), None, "q", 2)], 2) == [
        Group(user("q"), ("a", "b"), (3.0, 2.0), "q", 1),
        Group(user("q"), (), None, "q", 2),
    ]


# -------------------------------------------------------------------------------------------------------------- reports


def test_report_by_hand() -> None:
    groups = [
        pair("q1", "long answer", "short"),
        pair("q1", "long answer", "short"),  # a duplicate
        pair("q1", "short", "long answer"),  # which contradicts both
        pair("q2", "same", "size"),
        Group(user("q3"), ("a", "bb", "ccc"), (1.0, 1.0, 1.0), "q3", 5),  # a tie
        Group(user("q4"), ("a",), (1.0,), "q4", 6),
        Group(user("q4"), ("b",), (-1.0,), "q4", 7),
        Group(user("q55"), (), None, "q5", 8),
    ]
    found = check(groups)
    assert (found.groups, found.keys, found.prompts, found.responses) == (8, 5, 5, 13)
    assert found.group_sizes == {0: 1, 1: 2, 2: 4, 3: 1}
    assert (found.preferences, found.longer_wins, found.positive_labels) == (4, (1 + 1 + 0 + 0.5) / 4, 0.5)
    assert (found.ties, found.duplicates, found.contradictions) == (1, 1, 1)
    assert (found.prompt_length.min, found.prompt_length.median, found.prompt_length.max) == (2, 2.0, 3)
    assert found.response_length is not None and found.response_length.max == 11


@given(scores=st.lists(st.integers(-2, 2), min_size=1, max_size=5))
def test_preferences_of_a_rated_group_are_its_ordered_pairs(scores: list[int]) -> None:
    texts = tuple("x" * (s + 3) for s in scores)
    found = check([Group(user("q"), texts, tuple(map(float, scores)), "q", 1)])
    assert found.preferences == sum(a > b for a in scores for b in scores)
    assert found.longer_wins in (None, 1.0)  # here the length is the score


# --------------------------------------------------------------------------------------------------- the command line


def test_check_prints_json_and_tells_bad_rows_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(written(tmp_path, PAIR, {**PAIR, "chosen": ""}, {**PAIR, "prompt": "p"}))
    assert execute(["data", "check", path, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["groups"], found["keys"]) == ("preference", 2, 2)
    assert found["faults"] == [{"row": 2, "what": "`chosen` is empty"}]
    assert execute(["data", "check", path, "--limit", "1", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_check_and_show_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, {"prompt": "[b]q[/b]", "good": "much longer", "rejected": "no"}))
    assert execute(["data", "check", path, "--columns", "chosen=good"]) == 0
    shown = capsys.readouterr().out
    assert "the longer response is preferred in 100.0%" in shown and "preference" in shown
    assert execute(["data", "show", path, "--rows", "1", "--columns", "chosen=good"]) == 0
    shown = capsys.readouterr().out
    assert "[b]q[/b]" in shown and "1.0 much longer" in shown and "0.0 no" in shown  # data are no markup
    with pytest.raises(UserError, match="`columns` must be a section"):
        execute(["data", "check", path, "--columns", "chosen"])


# ----------------------------------------------------------------------------------------------------------- real files


def test_human_pairs(preference_data: Path) -> None:
    groups = load(real(preference_data, HUMAN_PAIRS), group_by="qid")
    found = check(groups)
    assert (found.groups, found.keys, found.ties, found.contradictions) == (2616, 488, 0, 0)
    assert found.longer_wins == pytest.approx(0.512, abs=5e-4)  # in characters
    train, held_out = split(groups, 0.25, 0)
    assert not {g.text for g in train} & {g.text for g in held_out}
    assert len({g.key for g in held_out}) >= 100


def test_human_chats(preference_data: Path) -> None:
    groups = load(real(preference_data, HUMAN_CHATS), group_by="tree")
    found = check(groups)
    assert (found.groups, found.keys) == (732, 95)
    assert found.longer_wins == pytest.approx(0.698, abs=2e-3)
    assert {tuple(m.role for m in g.prompt) for g in groups} == {("user", *("assistant", "user") * n) for n in range(3)}


def test_published_files_of_other_makers_are_read_or_explained(preference_data: Path) -> None:
    judged = load_usable(real(preference_data, "alpaca_eval/pairs_gpt4_judge.jsonl.gz"))
    assert len(judged.groups) + len(judged.faults) == 9649 and len(judged.faults) == 112
    prompts = load(real(preference_data, "open_assistant/prompt_lottery_en_250_text.jsonl"))
    assert len(prompts) == 250 and not any(g.responses for g in prompts)
    assert len(load(real(preference_data, "llama_factory/dpo_en_demo.json.gz"))) == 300


# --------------------------------------------------------------------------------------------------------- instructions


def test_instructions_are_varied_short_and_split() -> None:
    train, held_out = instructions("train"), instructions("held_out")
    assert (len(train), len(held_out)) == (220, 80)
    texts = [g.text for g in [*train, *held_out]]
    assert len({t.lower() for t in texts}) == 300
    assert all(4 <= len(t.split()) <= 25 for t in texts)
    assert sorted(g.row for g in [*train, *held_out]) == list(range(1, 301))
    openings = [" ".join(t.split()[:3]) for t in texts]
    assert max(map(openings.count, openings)) <= 30  # at most a tenth begin alike
    with pytest.raises(UserError, match="held_out"):
        instructions("heldout")


def test_every_topic_is_on_both_sides() -> None:
    path = Path(prefloop.__file__).parent / "data" / "instructions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    sides = {side: {r["topic"] for r in rows if r["split"] == side} for side in ("train", "held_out")}
    assert sides["train"] == sides["held_out"] and len(sides["train"]) >= 15
    assert [r["id"] for r in rows] == [f"i{n:03d}" for n in range(1, 301)]


def test_the_table_explains_itself() -> None:
    assert all(f.help and f.columns for f in FORMATS.values())


def test_questions_under_several_system_messages_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are one question of a split, unless a column says otherwise."""
    rows = [{**PAIR, "prompt": "Begin.", "system": f"Task {i}", "task": i} for i in range(20)]
    path = written(tmp_path, *rows)
    assert check(load(path)).systems == 20
    assert check(load(path, group_by="task")).systems == 0
    assert execute(["data", "check", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "20 rows ask a question that others ask under another system message" in shown and "--group-by" in shown
    with pytest.raises(DataError, match="examples are left: the data have 1 different questions") as error:
        open_data(DataOptions(str(path), held_out="split"))
    assert "data.group_by=COLUMN" in error.value.fix
    data = open_data(DataOptions(str(path), held_out="split", group_by="task"))
    assert data.train and data.held_out
