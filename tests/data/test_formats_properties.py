"""Properties of all formats: nothing but a group or a fault comes out of any row, and groups survive being written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format_rows import ROWS
from prefloop.core.errors import UserError
from prefloop.data.formats import FORMATS, Loaded, load_usable, shape, to_row
from prefloop.data.records import Group, Message, message, prompt_text

# beartype checks a random item of every list, also of those that strategies make
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

BASES = [json.dumps(row) for cases in ROWS.values() for rows, _ in cases for row in rows]
NAMES = sorted(
    {name for row in BASES for name in json.loads(row)} | {"status", "weight", "tools", "history", "prefloop"}
)
bases = st.sampled_from(BASES).map(json.loads)

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", " ", "q", "Human:", "\n\nHuman: q\n\nAssistant: a", "User: x\nAssistant:", "{", "[]", "N/A"]),
    st.text(alphabet="HumanAssistant:\n <>_1extraid", max_size=40),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 8),
    st.sampled_from([10**400, -(10**30), 2**63]),
    st.floats(),
    texts,
)
keys = st.one_of(st.sampled_from(["role", "content", "from", "value", "text", "type", "tool_calls", "rank"]), texts)
anything = st.recursive(scalars, lambda x: st.lists(x, max_size=4) | st.dictionaries(keys, x, max_size=4), max_leaves=8)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row of some format, and the same row with some values changed, removed, moved or added at any depth."""
    base = draw(bases)
    row = json.loads(json.dumps(base))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = row
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                place = inner
                continue
            change = draw(st.sampled_from(("set", "remove", "add", "swap", "nest")))
            if change == "set":
                place[key] = draw(anything)
            elif change == "remove":
                del place[key]
            elif change == "nest":
                place[key] = [inner] if draw(st.booleans()) else {"content": inner}
            elif change == "swap":
                place[key] = draw(st.sampled_from(list(draw(bases).values())))
            elif isinstance(place, dict):
                place[draw(st.sampled_from(NAMES) | keys)] = draw(anything)
            else:
                place.append(draw(anything))
            break
    return base, row


def read_or_refused(path: Path, *rows: Any, **options: Any) -> Loaded | None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        return load_usable(path, **options)
    except UserError as error:
        assert len(str(error)) < 20_000
        return None


def check_any_row(folder: Path, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Alone, and after a good row: groups that training can use, or words."""
    base, row = both
    for rows in ((row,), (base, row)):
        found = read_or_refused(folder / "data.jsonl", *rows)
        if found is None:
            continue
        assert found.groups and all(fault.what for fault in found.faults)
        for group in found.groups:
            assert group.prompt and group.prompt[-1].role in ("user", "tool")
            assert all(text.strip() or group.more for text in group.responses)
            assert group.scores is None or len(group.scores) == len(group.responses)
            assert len(group.answers) == len(group.responses) and isinstance(group.columns, dict)


ANY_ROW: list[tuple[int, Any]] = [
    pytest.param(400, id="fast"),
    pytest.param(12_000, id="thorough", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
]


@pytest.mark.parametrize("examples", ANY_ROW)
def test_any_row_is_a_group_or_a_fault(tmp_path: Path, examples: int) -> None:
    run: Callable[[], None] = settings(max_examples=examples)(
        given(both=mutated())(lambda both: check_any_row(tmp_path, both))
    )
    run()


@pytest.mark.parametrize("examples", ANY_ROW)
def test_any_row_in_any_format_is_a_group_or_a_fault(tmp_path: Path, examples: int) -> None:
    def check(both: tuple[dict[str, Any], dict[str, Any]], name: str) -> None:
        read_or_refused(tmp_path / "data.jsonl", both[1], format=name)

    settings(max_examples=examples)(given(both=mutated(), name=st.sampled_from(list(FORMATS)))(check))()


# ----------------------------------------------------------------------------------------------- written and read again

said = st.text(min_size=1, max_size=30).filter(lambda t: not t.isspace())
values = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3),
    max_leaves=5,
)
calls = st.just([{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}])
extras = st.fixed_dictionaries({}, optional={"name": said, "tool_calls": calls, "reasoning_content": said, "x": values})


def told(role: str, content: st.SearchStrategy[str] = said) -> st.SearchStrategy[Message]:
    return st.builds(message, st.just(role), content, st.just({}) | extras)


silent = st.builds(message, st.just("assistant"), st.just(""), calls.map(lambda c: {"tool_calls": c}))
answers = told("assistant") | silent
prompts = st.builds(
    lambda first, middle, last: (*first, *middle, last),
    st.lists(told("system"), max_size=1),
    st.lists(told("user") | answers | told("tool"), max_size=3),
    told("user") | told("tool"),
)
columns = st.dictionaries(st.sampled_from(NAMES) | st.text(min_size=1, max_size=4), st.none() | values, max_size=4)
scores = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    prompt = draw(prompts)
    replies = draw(st.lists(answers, max_size=3))
    kind = draw(st.sampled_from(["none", "label", "pair", "any"]))
    count = {"label": 1, "pair": 2}.get(kind, len(replies))
    replies = [*replies, *(Message("assistant", f"reply {i}") for i in range(3))][:count]
    rated: tuple[float, ...] | None = tuple(draw(scores) for _ in replies)
    if kind == "label":
        rated = (draw(st.sampled_from((1.0, -1.0))),)
    if kind == "pair" and (replies[0].content.strip(), replies[0].more) != (
        replies[1].content.strip(),
        replies[1].more,
    ):
        rated = draw(st.sampled_from(((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))))
    elif kind == "pair":
        rated = (0.5, 0.5)
    if kind == "none" or not replies:
        rated = None
    question = prompt[1:] if prompt[0].role == "system" and len(prompt) > 1 else prompt
    more = tuple(r.more for r in replies)
    return Group(
        prompt,
        tuple(r.content for r in replies),
        rated,
        draw(st.just(prompt_text(question)) | st.text(max_size=5)),
        1,
        more if any(more) else (),
        draw(
            st.just("") | st.lists(st.dictionaries(st.text(max_size=3), values, min_size=1), min_size=1).map(json_text)
        ),
        draw(columns),
    )


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@given(group=groups())
def test_a_group_that_is_written_is_read_again(tmp_path: Path, group: Group) -> None:
    found = read_or_refused(tmp_path / "data.jsonl", to_row(group))
    assert found is not None and found.faults == [] and found.groups == [group]
    assert found.notes == () or found.format == "conversation"


@given(both=mutated())
def test_a_row_that_is_read_is_written_and_read_again(tmp_path: Path, both: tuple[Any, Any]) -> None:
    found = read_or_refused(tmp_path / "data.jsonl", *both)
    if found is not None:
        one = shape(found.groups)
        again = read_or_refused(tmp_path / "again.jsonl", *(to_row(group, one) for group in found.groups))
        assert again is not None and again.faults == []
        assert [g.prompt for g in again.groups] == [g.prompt for g in found.groups]
        assert [(g.answers, g.scores, g.key, g.tools) for g in again.groups] == [
            (g.answers, g.scores, g.key, g.tools) for g in found.groups
        ]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_survives_being_written(tmp_path: Path, name: str) -> None:
    for rows, _ in ROWS[name]:
        found = read_or_refused(tmp_path / "data.jsonl", *rows)
        assert found is not None
        one = shape(found.groups)
        again = read_or_refused(tmp_path / "again.jsonl", *(to_row(group, one) for group in found.groups))
        assert again is not None and again.faults == [] and again.format == one
        assert [(g.prompt, g.answers, g.scores, g.key, g.tools, g.columns) for g in again.groups] == [
            (g.prompt, g.answers, g.scores, g.key, g.tools, g.columns) for g in found.groups
        ]
