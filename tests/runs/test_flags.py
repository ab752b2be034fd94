"""Flags and help from dataclasses: every kind of field, every mistake, and what the help shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.core.errors import UserError
from prefloop.runs import config as configuration
from prefloop.runs.flags import given as parsed
from prefloop.runs.flags import read
from prefloop.runs.schema import Flag, keys


@dataclass(frozen=True)
class Inner:
    """A section."""

    depth: int = 2
    """How deep."""
    soft: bool = False
    """True or false, as a value."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """What others extend."""

    quiet: Annotated[bool, Flag(short="q")] = False
    """Print nothing."""


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """Do things.

    More about it, over
    two lines.
    """

    file: Annotated[Path, Flag(positional=True)]
    """What to read."""
    rates: Annotated[tuple[float, ...], Flag(commas=True)] = (0.1,)
    """Some rates."""
    names: tuple[str, ...] = ()
    """Some names."""
    columns: dict[str, str] = field(default_factory=dict)
    """Ours and theirs."""
    mode: Literal["fast", "slow", True] | None = None
    """How, at 100 %."""
    limit: int | None = None
    """At most."""
    head: bool = True
    """With a head."""
    inner: Inner = field(default_factory=Inner)
    more: Annotated[dict[str, Any], Flag(of=Inner)] = field(default_factory=dict)
    """Keys of a schema of its own."""


def options(*words: str) -> Options:
    return read(Options, words, "prefloop toy")


def test_defaults_and_every_kind_of_field() -> None:
    assert options("a") == Options(file=Path("a"))
    words = "a --rates 1,2e-3 --names x y --columns p=q r=s=t --mode true --limit 3 --no-head -q --inner.soft true"
    assert options(*words.split(), "--depth=5") == Options(
        file=Path("a"),
        rates=(1.0, 2e-3),
        names=("x", "y"),
        columns={"p": "q", "r": "s=t"},
        mode=True,
        limit=3,
        head=False,
        quiet=True,
        inner=Inner(soft=True),
        more={"depth": 5},
    )


@pytest.mark.parametrize(
    "words",
    ["--columns p=q r=s", "--columns p=q --columns r=s", "--columns.p q --columns.r=s", "--columns={p: q, r: s}"],
)
@pytest.mark.parametrize("file_first", [True, False])
def test_one_syntax_of_columns_that_swallows_no_file(words: str, file_first: bool) -> None:
    flags = [words] if "{" in words else words.split()
    got = options(*(["file", *flags] if file_first else [*flags, "file"]))
    assert (got.columns, got.file) == ({"p": "q", "r": "s"}, Path("file"))


def test_the_last_value_wins_and_null_is_nothing() -> None:
    assert options("a", "--limit", "3", "--limit", "null", "--rates", "1", "--rates", "2,3") == Options(
        file=Path("a"), rates=(2.0, 3.0)
    )


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        ("", "FILE is missing", "prefloop toy --help"),
        ("a b", "unexpected argument `b`", ""),
        ("a --limmit 3", "unknown flag `--limmit`", "`--limit`"),
        ("a --soft true --dept 3", "unknown flag `--dept`", "`--"),
        ("a --zzz", "unknown flag `--zzz`", "--help"),
        ("a --limit", "`--limit` has no value", "--limit value"),
        ("a --columns", "`--columns` has no value", ""),
        ("a --columns.p --quiet", "`--columns.p` has no value", ""),
        ("a --columns p", "`columns` must be a section of `name: value`, not 'p'", "--columns NAME=VALUE"),
        ("a --columns p=q p=r", "`--columns.p` is given twice", ""),
        ("a --limit many", "`limit` must be a whole number, not 'many'", ""),
        ("a --limit 1.5", "`limit` must be a whole number, not 1.5", ""),
        ("a --limit true", "`limit` must be a whole number, not True", ""),
        ("a --rates 1,,2", "empty value in the list", "1,2,3"),
        ("a --rates 1,x", "`rates` must be a number, not 'x'", ""),
        ("a --mode fasst", "`mode` cannot be 'fasst'", "did you mean `fast`? choose one of: fast, slow, true"),
        ("a --inner.soft maybe", "`inner.soft` must be true or false", ""),
    ],
)
def test_mistakes(words: str, what: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        options(*words.split())
    assert what in caught.value.what and fix in caught.value.fix
    assert caught.value.where.startswith(("command line", "--"))


def test_the_help_shows_notes_and_defaults_of_the_options_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as done:
        options("--help")
    page = capsys.readouterr().out
    assert done.value.code == 0 and all(len(line) <= 80 for line in page.splitlines())
    flat = " ".join(page.split())
    assert flat.startswith("usage: prefloop toy FILE [--flags] Do things.") and flat.endswith("over two lines.")
    for key in keys(Options):
        if key.flag.of is None:
            assert key.note.removesuffix(".").removesuffix("100 %") in flat
    assert "(default: 0.1)" in flat and "{fast,slow,true}" in flat and "100 %" in flat and "-q, --quiet" in flat
    assert "--depth" not in flat  # a schema of its own, which has no notes for the help


def test_own_fields_come_before_inherited_ones() -> None:
    assert [key.name for key in keys(Options)][-1] == "quiet"


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1).filter(lambda s: s != "null")


@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), texts), st.integers())
@settings(max_examples=100)
def test_values_survive_the_command_line(columns: dict[str, str], limit: int) -> None:
    got = parsed([Options], [*(f"--columns={k}={v}" for k, v in columns.items()), f"--limit={limit}", "file"])[0]
    assert got["limit"] == limit and got.get("columns", {}) == columns


# ---- lists of values -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Swept:
    """Options with an inner schema of which every combination is wanted."""

    inner: Annotated[list[dict[str, Any]], Flag(of=configuration.Config, lists=("method", "seed", "override"))] = field(
        default_factory=list
    )


def swept(*words: str) -> list[dict[str, Any]]:
    return read(Swept, words, "prog").inner


def test_lists_give_every_combination_in_order() -> None:
    got = swept("--method", "dpo,simpo", "--override.beta", "0.05, 1", "--seed=3", "--training.steps", "7")
    assert [(one["method"], one["override"]["beta"]) for one in got] == [
        ("dpo", 0.05),
        ("dpo", 1),
        ("simpo", 0.05),
        ("simpo", 1),
    ]
    assert all(one["seed"] == 3 and one["training"] == {"steps": 7} for one in got)
    assert swept() == [{}] and swept("--seed", "1") == [{"seed": 1}]


def test_values_that_may_hold_commas_are_not_lists() -> None:
    assert swept("--data.train", "a,b.jsonl") == [{"data": {"train": "a,b.jsonl"}}]
    assert swept("--override.pair", "[1, 2]") == [{"override": {"pair": [1, 2]}}]
    assert swept("--override", "{beta: 1, gamma: 2}") == [{"override": {"beta": 1, "gamma": 2}}]


@pytest.mark.parametrize(("value", "what"), [("1,,2", "empty value"), ("1,2,1", "same value twice"), ("1,", "empty")])
def test_a_list_with_empty_or_repeated_values_is_refused(value: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        swept("--seed", value)
    with pytest.raises(UserError, match="must be a whole number"):
        swept("--seed", "1,x")
