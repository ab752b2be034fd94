"""Sentences of the command line fit 80 columns; paths and commands are never broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.cli.options import Output
from prefloop.core.wrapping import wrapped
from prefloop.runs.start import speaker

PATH = "/home/someone/a-folder-with-hyphens/" + "long-name-" * 6 + "pairs.jsonl"
NOTE = (
    "training: 14 of 4,432 rows are left out (9 of them without an answer); `prefloop data check pairs.jsonl --json`"
    " lists all of them, and `data.faulty: refuse` refuses the file"
)


def test_what_fits_is_left_as_it_is() -> None:
    for text in ("", "short", "two  spaces\n\n    and an indent", "x" * 80):
        assert wrapped(text) == text


def test_a_long_sentence_has_a_hanging_indent() -> None:
    first, *rest = wrapped(NOTE).split("\n")
    assert rest and not first.startswith(" ") and all(line.startswith("  ") and line[2] != " " for line in rest)
    assert all(len(line) <= 80 for line in (first, *rest))
    assert " ".join(wrapped(NOTE).split()) == NOTE
    assert wrapped("    " + NOTE).split("\n")[1].startswith("      ")


@pytest.mark.parametrize("whole", [PATH, "`prefloop data check x.jsonl --json`", "next: prefloop report runs/a runs/b"])
@pytest.mark.parametrize("before", range(0, 81, 5))
def test_a_path_or_a_command_is_not_broken(whole: str, before: int) -> None:
    words = ("word " * 20)[:before].rstrip()
    assert whole in wrapped(f"{words} {whole}" if words else whole)


@given(st.text(alphabet="ab `-/:\n", max_size=300))
def test_nothing_is_lost(text: str) -> None:
    assert wrapped(text).split() == text.split()
    words = [len(line) for line in wrapped(text).split("\n") if "`" not in line and len(line) > 80]
    assert not words or max(map(len, text.split())) > 70


def test_what_commands_say_is_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    Output().say(NOTE)
    speaker(quiet=False)(NOTE)
    assert capsys.readouterr().out == f"{wrapped(NOTE)}\n" * 2
    Output(json=True).say(NOTE)
    speaker(quiet=True)(NOTE)
    assert capsys.readouterr().out == ""
