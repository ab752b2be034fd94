"""Tables for other programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from prefloop.cli.main import main
from prefloop.report.cells import columns
from prefloop.report.tables import FORMATS, written
from run_folders import make

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


def test_runs_are_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(make(tmp_path, name, on_policy=p)) for name, p in (("a", 0.0), ("b", 1.0))]
    assert main(["report", *folders, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for row, run in zip(rows, columns([Path(f) for f in folders]), strict=True):
        last = run.evaluations[-1]
        assert (row["run"], row["method"], float(row["step"])) == (run.label, run.method, last["step"])
        assert all(float(row[k.removeprefix("eval/")]) == v for k, v in last.items() if k.startswith("eval/"))
    for format in ("md", "latex"):
        assert main(["report", *folders, "--format", format]) == 0
        said = capsys.readouterr().out
        assert "reward" in said and "±" in said.replace("$\\pm$", "±") and "_se" not in said
    assert not list(tmp_path.rglob("report.html"))
