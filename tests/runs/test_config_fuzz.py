"""Whatever a configuration file or a command line holds: a configuration, or a message that fits on a screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.cli.main import main
from prefloop.core.errors import COLUMNS, UserError
from prefloop.core.files import to_json
from prefloop.runs.config import Config, load, options, to_yaml

KEYS = [key for key, _, _ in options()]
SCREEN = 24  # lines of a terminal
SECONDS = 10.0


def lines(text: str) -> int:
    return sum(max(1, -(-len(line) // COLUMNS)) for line in text.split("\n"))


def judged(make: Callable[[], Config]) -> UserError | None:
    """The refusal, if any; a configuration that is accepted can be written and read back."""
    start = time.monotonic()
    try:
        config = make()
        assert to_yaml(config)
        error = None
    except UserError as refusal:
        error = refusal
        assert lines(str(error)) <= SCREEN and len(str(error)) <= SCREEN * COLUMNS
    assert time.monotonic() - start < SECONDS
    return error


DEEP = "[" * 50_000
BOMB = "a0: &a0 [1, 1]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "NUL in extends": (b'extends: "a\\0b"', "not a file name"),
    "a long scalar": (b"x" * 200_000, "`key: value` lines"),
    "a long value": (b"seed: " + b"x" * 200_000, "`seed` must be a whole number"),
    "a long key": (b'"' + b"k" * 1000 + b'": 1', "unknown key"),
    "a long file": (b"method: dpo # " + b"x" * 10_000_000, "at most 256,000 bytes"),
    "a long number": (b"seed: " + b"9" * 5000, "invalid YAML: ValueError"),
    "a long hexadecimal number": (b"seed: 0x" + b"f" * 5000, "not a number of thousands of digits"),
    "such a number in a free section": (b"override: {beta: 0x" + b"f" * 5000 + b"}", "thousands of digits"),
    "a deep list": (b"override: {a: " + DEEP.encode(), "nested too deeply"),
    "deep keys": (b"? " * 50_000, "nested too deeply"),
    "a bomb of aliases": (BOMB.encode(), "more than 20,000 values"),
    "a bomb in a free section": (b"override:\n  " + BOMB.replace("\n", "\n  ").encode(), "more than 20,000 values"),
    "a value in itself": (b"override: {a: &a [*a]}", "contains itself"),
    "a number as key": (b"override: {1: 2}", "must be a section of `name: value`"),
    "nothing as key": (b"override: {null: 2}", "must be a section of `name: value`"),
    "a list as key": (b"override: {[a]: 2}", "a key must be text"),
    "a section as key": (b"? {a: 1}\n: 2", "a key must be text"),
    "a date by its tag": (b"override: {a: !!timestamp 2020-01-01}", "must be a number, text, a list or a section"),
    "no date by its tag": (b"override: {a: !!timestamp x}", "invalid YAML"),
    "bytes by their tag": (b"override: {a: !!binary aGk=}", "must be a number, text, a list or a section"),
    "no number by its tag": (b"override: {a: !!int x}", "invalid YAML: ValueError"),
    "no truth by its tag": (b"override: {a: !!bool x}", "invalid YAML: KeyError"),
    "an object by its tag": (b"override: {a: !!python/object:os.system x}", "invalid YAML"),
    "infinity in a list": (b"override: {a: [.inf]}", "`override.a[0]` must be a finite number"),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not UTF-8 text"),
    "UTF-16": ("method: dpo".encode("utf-16"), "not UTF-8 text"),
    "control characters": (b"method: \x1b[31m", "invalid YAML"),
    "two documents": (b"method: dpo\n---\nmethod: ipo\n", "invalid YAML"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_words(tmp_path: Path, case: str) -> None:
    data, words = HOSTILE[case]
    file = tmp_path / "run.yaml"
    file.write_bytes(data)
    error = judged(lambda: load(file))
    assert error is not None and words in error.what


def test_a_message_shows_the_beginning_and_the_end() -> None:
    error = UserError("a" * 5000 + "z", where="\n".join(map(str, range(1000))), fix="use less")
    assert lines(str(error)) <= SCREEN and error.what.startswith("aaa") and error.what.endswith("z")
    assert error.where.startswith("0\n") and error.where.endswith("\n999") and error.fix == "use less"
    assert str(UserError("x\ny", where="z")) == "x\ny\n  where: z"


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "\x1b[31m\0x.yaml"]) == 2
    told = capsys.readouterr().err
    assert "\\x1b[31m" in told and "\x1b" not in told and "\0" not in told


@pytest.mark.parametrize("verb", ["data check", "data show", "reward card --out x m", "reward score --out x m"])
def test_a_limit_below_one_is_refused_everywhere(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    for limit in ("-1", "0"):
        assert main([*verb.split(), str(file), "--limit", limit]) == 2
        assert f"`limit` cannot be {limit}" in capsys.readouterr().err


def test_a_lone_surrogate_is_recorded_as_its_escape() -> None:
    assert to_json({"a": "\udcff é"}) == '{"a": "\\udcff é"}'


# ---- drawn inputs ---------------------------------------------------------------------------------------------------

values = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(repr),
    st.sampled_from(
        ["null", "true", "[]", "{}", "[1, x]", "{a: {b: 1}}", "&a [*a]", "*a", "!!int x", "'", '"\\0"', "<<"]
    ),
)
pairs = st.tuples(st.sampled_from(KEYS) | st.text(max_size=8), values)


def nested(key: str, value: str) -> str:
    """`training.steps: 3` as sections."""
    *sections, last = key.split(".")
    return "".join(f"{'  ' * i}{name}:\n" for i, name in enumerate(sections)) + f"{'  ' * len(sections)}{last}: {value}"


def cut(text: bytes, place: int, extra: bytes) -> bytes:
    place %= len(text) + 1
    return text[:place] + extra + text[place + len(extra) :]


whole = to_yaml(Config()).encode()
files = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
    st.lists(pairs, max_size=4).map(lambda some: "\n".join(nested(*pair) for pair in some).encode("utf-8", "replace")),
    st.builds(cut, st.just(whole), st.integers(0, 10_000), st.binary(min_size=1, max_size=4)),
)
words = st.one_of(
    st.text(max_size=12),
    pairs.map(lambda pair: f"--{pair[0]}={pair[1]}"),
    st.sampled_from(KEYS).map(lambda key: f"--{key}"),
    st.sampled_from(["--", "-", "-1", "--override", "--override.", "--=", "--data.columns", "a=b", "{", "--help=1"]),
)


def read_file(folder: Path, data: bytes) -> None:
    file = folder / "run.yaml"
    file.write_bytes(data)
    judged(lambda: load(file))


def read_words(flags: list[str]) -> None:
    judged(lambda: load(None, flags))


@given(files)
@settings(max_examples=200)
def test_any_file(tmp_path: Path, data: bytes) -> None:
    read_file(tmp_path, data)


@given(st.lists(words, max_size=4))
@settings(max_examples=200)
def test_any_flags(flags: list[str]) -> None:
    read_words(flags)


@pytest.mark.slow
@given(files)
@settings(max_examples=4000)
def test_thousands_of_files(tmp_path: Path, data: bytes) -> None:
    read_file(tmp_path, data)


@pytest.mark.slow
@given(st.lists(words, max_size=4))
@settings(max_examples=2000)
def test_thousands_of_flags(flags: list[str]) -> None:
    read_words(flags)
