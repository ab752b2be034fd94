"""Tables for other programs."""

from __future__ import annotations

import csv
import io

import pytest

from prefloop.report.tables import FORMATS, written

HEAD = ["method", "share", "IQM [95 %]", "n"]
ROWS = [["best_of_n", 0.12345678, "0.5 [0.4, 0.6]", 3], ['a|b, "c" <d>', None, "–", True]]


def test_csv_has_all_digits() -> None:
    read = list(csv.reader(io.StringIO(written(HEAD, ROWS, "csv"))))
    assert read == [HEAD, ["best_of_n", "0.12345678", "0.5 [0.4, 0.6]", "3"], ['a|b, "c" <d>', "", "–", "True"]]


def test_markdown_is_a_grid() -> None:
    assert written(HEAD, ROWS, "md").splitlines() == [
        "| method | share | IQM [95 %] | n |",
        "| --- | --: | --- | --- |",
        "| best_of_n | 0.1235 | 0.5 [0.4, 0.6] | 3 |",
        '| a\\|b, "c" \\<d> | – | – | yes |',
    ]


def test_latex_is_a_tabular() -> None:
    assert written(HEAD, ROWS, "latex").splitlines() == [
        r"\begin{tabular}{lrrl}",
        r"\toprule",
        r"method & share & IQM [95 \%] & n \\",
        r"\midrule",
        r"best\_of\_n & 0.1235 & 0.5 [0.4, 0.6] & 3 \\",
        r'a|b, "c" <d> & -- & -- & yes \\',
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_symbols_are_escaped_for_latex() -> None:
    text = written(["KL(π‖π_ref) ≥ 0 & \\x^2 ~ #1 {a} $ − ±"], [["…"]], "latex").splitlines()[2]
    first = r"KL($\pi$$\|$$\pi$\_ref) $\geq$ 0 \& \textbackslash{}x\textasciicircum{}2 \textasciitilde{}"
    assert text == first + r" \#1 \{a\} \$ $-$ $\pm$ \\"


@pytest.mark.parametrize("format", FORMATS)
def test_a_table_without_rows_has_its_head(format: str) -> None:
    assert "method" in written(HEAD, [], format)
