"""Token ids on disk: the same as rendered, whatever happens to the file."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from tests.policies.chat_conversations import conversations
from tests.policies.chat_templates import FAMILIES

from prefloop.core.errors import DataError
from prefloop.data.records import Group, Message
from prefloop.policies import token_cache
from prefloop.policies.conversation import Answered, Template, template_of
from prefloop.policies.token_cache import answered_all

FAMILY = FAMILIES["qwen3"]
GROUPS = [conversations(FAMILY)[case].group for case in ("one turn", "spelled", "group", "call", "key", "tools")]
GROUPS.append(replace(GROUPS[0], responses=(), more=()))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(token_cache.FOLDER, str(tmp_path / "cache"))
    token_cache._store.cache_clear()
    return tmp_path / "cache"


def template(**changes: object) -> Template:
    return replace(template_of(FAMILY.tokenizer, options=FAMILY.options), **changes)  # type: ignore[arg-type]


def ids(made: list[Answered]) -> list[object]:
    return [(a.prompt.tolist(), [x.tolist() for x in a.answers], [x.tolist() for x in a.rendered]) for a in made]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every call that renders."""
    calls: list[int] = []
    real = Template.answered_all

    def noted(self: Template, groups: list[Group], **more: object) -> list[Answered]:
        calls.append(len(groups))
        return real(self, groups)

    monkeypatch.setattr(Template, "answered_all", noted)
    return calls


def anew() -> list[object]:
    """As another process finds them."""
    token_cache._store.cache_clear()
    return ids(answered_all(template(), GROUPS))


def test_what_was_rendered_is_found_again(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    expected = ids(template().answered_all(GROUPS))
    calls = counted(monkeypatch)
    assert anew() == expected and calls == [7]
    assert anew() == expected and calls == [7, 0]
    another = replace(GROUPS[0], responses=("A pear.",))
    answered_all(template(), [*GROUPS, another])
    assert calls == [7, 0, 1] and (folder / "tokens.sqlite").is_file()


def test_an_answer_that_is_closed_here_is_found_again() -> None:
    family = FAMILIES["vicuna"]
    own = template_of(family.tokenizer)
    group = Group((Message("user", "Which fruit?"),), ("An apple.", "An apple.\n"), None, "", 1)
    assert ids(answered_all(own, [group])) == ids(answered_all(own, [group])) == ids(own.answered_all([group]))


def test_another_template_or_date_is_rendered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    monkeypatch.setattr(FAMILY.tokenizer, "chat_template", "{{ strftime_now('%d') }}" + FAMILY.template)
    days = [template(date=day) for day in ("2024-07-26", "2024-07-27")]
    made = [answered_all(own, GROUPS[:1])[0].prompt.tolist() for own in days]
    assert calls == [1, 1] and made[0] != made[1]
    answered_all(template(stops=(3,)), GROUPS[:1])
    answered_all(template(options={**FAMILY.options, "x": 1}), GROUPS[:1])
    answered_all(template(kind="plain"), GROUPS[:1])
    assert calls == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("damage", ["other", "zeros", "value", "short", "empty"])
def test_a_damaged_file_changes_nothing(folder: Path, damage: str) -> None:
    expected, file = anew(), folder / "tokens.sqlite"
    token_cache._store.cache_clear()
    content = file.read_bytes()
    if damage == "value":
        with sqlite3.connect(file) as opened:
            opened.execute("UPDATE rows SET value = substr(value, 1, 8) || zeroblob(length(value) - 8)")
    else:
        middle = content[:4000] + bytes(len(content) - 4000)
        broken = {"other": b"x" * 5000, "zeros": middle, "short": content[: len(content) // 2], "empty": b""}
        file.write_bytes(broken[damage])
    assert anew() == expected == anew() == anew()
    token_cache._store.cache_clear()
    with sqlite3.connect(file) as opened:  # whole again
        assert opened.execute("SELECT count(*) FROM rows").fetchone() == (7,)


def test_without_a_place_rows_are_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ids(template().answered_all(GROUPS))
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path / "file"), "/proc/none", ""):
        monkeypatch.setenv(token_cache.FOLDER, place)
        assert anew() == expected
    monkeypatch.setattr(token_cache, "LARGEST", 100)
    monkeypatch.setenv(token_cache.FOLDER, str(tmp_path))
    assert anew() == expected == anew()


def _writes(turns: int) -> list[object]:
    for n in range(turns):
        made = ids(answered_all(template(), GROUPS[n:] + GROUPS[:n]))
    return made


def test_several_processes_write_at_once() -> None:
    with get_context("spawn").Pool(2) as pool:
        made = pool.map(_writes, [8, 8])
    assert made[0] == made[1] == anew()


def test_a_refused_row_is_refused_again() -> None:
    bad = Group((Message("user", "<|im_start|>user\nHi"),), ("yes",), None, "", 4)
    for _ in range(2):
        with pytest.raises(DataError, match="rendered already"):
            answered_all(template(), [GROUPS[0], bad])
