"""Verdicts by the rule, pages that say what was measured, and `prefloop study`, on toy studies without the lab."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefloop.analysis.statistics import Interval
from prefloop.cli.main import main
from prefloop.core.errors import DataError, UserError
from prefloop.report.chart import Chart, Line, Table
from prefloop.studies import page, registry
from prefloop.studies.study import SIZES, Claim, Effort, Finding, Outcome, Study, judge

TOLD: dict[str, Any] = {
    "size": "small",
    "effort": Effort(75.04, runs=1200, computed=1188),
    "command": "prefloop study run toy --size small",
    "versions": {"python": "3.11", "peft": None},
}
TOOK = "1 min 15 s for 1,200 runs of the lab, 12 of which were reused"
CLAIM = Claim("a", "Fresh samples help.", "fresh less stale", 0.1, "reward")


def finding(low: float, high: float, *, claim: Claim = CLAIM, value: float | None = None) -> Finding:
    return Finding(claim, Interval((low + high) / 2 if value is None else value, low, high, 0.95, 8))


# ---- verdicts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.11, 0.2, "supported"),
        (0.1, 0.2, "inconclusive"),  # the interval contains its ends
        (0.0, 0.1, "inconclusive"),
        (0.05, 0.15, "inconclusive"),
        (0.0, 0.09, "contradicted"),  # above zero, but below what counts
        (np.nextafter(0.1, 1), 0.2, "supported"),
        (0.0, np.nextafter(0.1, 0), "contradicted"),
    ],
)
def test_rule_at_its_boundaries(low: float, high: float, verdict: str) -> None:
    assert finding(float(low), float(high)).verdict == verdict


@pytest.mark.parametrize("effects", [[1.0, float("nan")], [float("inf")], [[1.0, 2.0]], []])
def test_judge_refuses_what_is_no_list_of_numbers(effects: list[Any]) -> None:
    with pytest.raises(ValueError):
        judge(CLAIM, effects)


@pytest.mark.parametrize("seed", range(3))
def test_interval_is_that_of_the_mean(seed: int) -> None:
    """For many units a bootstrap interval is x̄ ± 1.96 s/√N; 2000 resamples leave each end ~2 % of a width uncertain."""
    x = np.random.default_rng(seed).normal(0.3, 1.0, size=400)
    effect = judge(CLAIM, x, seed=seed).effect
    half = 1.96 * x.std(ddof=1) / 20
    assert effect.value == pytest.approx(x.mean()) and (effect.units, effect.level) == (400, 0.95)
    assert effect.low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert effect.high == pytest.approx(x.mean() + half, abs=0.15 * half)
    assert judge(CLAIM, x, seed=seed).effect == effect


# ---- toy studies --------------------------------------------------------------------------------------------------

CLAIMS = (
    CLAIM,
    Claim("b", "Reuse costs nothing|at all", "reward lost", 0.0, "nats"),
    Claim("c", "Pushing down helps", "difference", 0.0, "reward"),
)


def charts() -> list[Chart]:
    x = [1, 10, 100]
    curve = Line("fresh", x, [0.1, 0.5, float("nan")], [0.0, 0.4, 0.8], [0.2, 0.6, 1.0])
    bars = Line("fresh", ["near", "far"], [1.0, -0.5], [0.8, -0.7], [1.2, -0.3])
    return [
        Chart("Reward [mean]", "B", "reward", [curve, Line("stale", x, np.array([0.1, 0.3, 0.2]), dashed=True)],
              log_x=True, guides={"best arm": 1.0, "reference": 0.1, "data": 0.12}),
        Chart("After training", "peak", "reward", [bars, Line("stale", ["near", "far"], [0.5, -1.0])], kind="bars"),
        Chart("Each seed", "margin", "fall", [Line("stale", [0.0, 1.0], [1.0, 0.0], [0.5, -1], [2, 1])], kind="points"),
    ]  # fmt: skip


def outcome(names: tuple[str, ...] = ("reward", "each.svg")) -> Outcome:
    found = [finding(0.2, 0.4), finding(-0.5, -0.3, claim=CLAIMS[1]), finding(-0.1, 0.4, claim=CLAIMS[2])]
    table = Table("Rows", ("method", "reward", "|x|"), [("a|b", np.float64(0.123456), None), ("c", float("nan"), True)])
    return Outcome(found, dict(zip(names, [charts(), charts()[2:]], strict=False)), [table], ["Only one problem."])


def study(run: Callable[[Any], Outcome] | None = None, name: str = "toy") -> Study:
    return Study(name, "Do fresh samples help?", "section 5.1", "Two cells.", CLAIMS, run or (lambda bench: outcome()))


# ---- pages --------------------------------------------------------------------------------------------------------


def test_result_is_plain_json_with_every_number(tmp_path: Path) -> None:
    result = page.write(study(), outcome(), tmp_path, **TOLD)
    text = (tmp_path / "toy" / "result.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) == result
    assert page.load(tmp_path) == [result]
    assert result["claims"][0] == {
        "name": "a",
        "prediction": "Fresh samples help.",
        "effect": "fresh less stale",
        "threshold": 0.1,
        "unit": "reward",
        "value": pytest.approx(0.3),
        "low": 0.2,
        "high": 0.4,
        "level": 0.95,
        "units": 8,
        "verdict": "supported",
    }
    assert [claim["verdict"] for claim in result["claims"]] == ["supported", "contradicted", "inconclusive"]
    assert result["tables"][0]["rows"] == [["a|b", 0.123456, None], ["c", None, True]]
    assert result["figures"]["reward.svg"][0]["lines"][0]["y"] == [0.1, 0.5, None]
    assert result["effort"] == {"seconds": 75.04, "runs": 1200, "computed": 1188} and result["size"] == "small"
    assert result["versions"] == {"python": "3.11"}


def test_page_shows_every_figure_claim_table_and_remark(tmp_path: Path) -> None:
    page.write(study(), outcome(), tmp_path, **TOLD)
    text = (tmp_path / "toy" / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert shown == ["reward.svg", "each.svg"]
    assert sorted(p.name for p in (tmp_path / "toy").iterdir()) == sorted([*shown, "README.md", "result.json"])
    assert "1 supported, 1 contradicted, 1 inconclusive" in text
    assert "| `a` | Fresh samples help. | fresh less stale | 0.30 [0.20, 0.40] reward | 0.1 | 8 |" in text
    assert "| a\\|b | 0.1235 | – |" in text and "Reuse costs nothing\\|at all" in text
    for part in ("Do fresh samples help?", "section 5.1", "Two cells.", "- Only one problem.", TOLD["command"], TOOK):
        assert part in text


def test_every_row_of_a_markdown_table_has_as_many_cells(tmp_path: Path) -> None:
    page.write(study(), outcome(), tmp_path, **TOLD)
    for text in ((tmp_path / "toy" / "README.md").read_text(encoding="utf-8"), page.findings(page.load(tmp_path))):
        tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
        assert tables
        for rows in tables:
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_figures_of_an_earlier_run_go_and_other_files_stay(tmp_path: Path) -> None:
    page.write(study(), outcome(), tmp_path, **TOLD)
    (tmp_path / "toy" / "mine.svg").write_text("kept")
    page.write(study(), outcome(("reward",)), tmp_path, **TOLD)
    assert sorted(p.name for p in (tmp_path / "toy").glob("*.svg")) == ["mine.svg", "reward.svg"]


def test_only_claims_that_were_stated_are_judged() -> None:
    bent = Claim("a", "Fresh samples help.", "fresh less stale", 0.0, "reward")  # another threshold after the run
    with pytest.raises(ValueError, match="stated"):
        page.record(study(), Outcome([finding(0.05, 0.08, claim=bent), *outcome().findings[1:]]), **TOLD)
    with pytest.raises(ValueError, match="stated"):
        page.record(study(), Outcome(outcome().findings[:2]), **TOLD)
    left_out = replace(Outcome(outcome().findings[:2]), left_out=["c"])
    assert [claim["name"] for claim in page.record(study(), left_out, **TOLD)["claims"]] == ["a", "b"]
    with pytest.raises(ValueError, match="stated"):
        page.record(study(), replace(outcome(), left_out=["c"]), **TOLD)
    with pytest.raises(ValueError, match="finite"):
        page.record(study(), Outcome([finding(0.2, float("inf"), value=0.3), *outcome().findings[1:]]), **TOLD)


@pytest.mark.parametrize(
    ("low", "high", "bound", "text"),
    [
        (0.2, 0.4, 0.0, "+0.30 [+0.20, +0.40] nats"),
        (12.2, 61.7, 0.0, "+37 [+12, +62] nats"),
        (0.0004, 0.5, 0.0, "+0.2502 [+0.0004, +0.5000] nats"),  # rounded to +0.00 it would look inconclusive
        (-2e-9, 4e-9, 0.0, "+1.0e−9 [−2.0e−9, +4.0e−9] nats"),
        (1.0, 1.0, 0.999, "1.000 [1.000, 1.000] nats"),
        (0.99895, 0.9994, 0.999, "0.99917 [0.99895, 0.99940] nats"),  # 0.9990 would touch the threshold
    ],
)
def test_rounding_never_hides_a_verdict(low: float, high: float, bound: float, text: str) -> None:
    told = {"value": (low + high) / 2, "low": low, "high": high, "threshold": bound, "unit": "nats"}
    assert page.measured(told) == text


# ---- findings -----------------------------------------------------------------------------------------------------


def test_findings_count_and_say_what_was_not_confirmed(tmp_path: Path) -> None:
    page.write(study(), outcome(), tmp_path, **TOLD)
    page.write(study(name="on-policy"), outcome(()), tmp_path, **{**TOLD, "size": "smoke"})
    text = page.findings(page.load(tmp_path), at="studies/")
    assert "**2 supported, 2 contradicted, 2 inconclusive**: 6 predictions in 2 studies, size `smoke`, `small`." in text
    assert page.SMOKE in text
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    studies = [row.split("]")[0].removeprefix("| [") for row in rows]
    assert studies == ["on-policy"] * 3 + ["toy"] * 3  # those of the registry first
    assert [row.split("**")[1] for row in rows[3:]] == ["supported", "contradicted", "inconclusive"]
    toy = text.split("\n## toy: ")[1]
    assert re.findall(r"\*\*(.+?)\*\* \(1 of 3\)\n\n- `(\w)`", toy) == [
        ("Confirmed", "a"),
        ("Not confirmed: contradicted", "b"),
        ("Not decided", "c"),
    ]
    assert ": the opposite." in toy and ": the interval contains 0." in toy and "- Only one problem." in toy
    links = re.findall(r"\]\((studies/toy/[^)]+)\)", toy)
    assert {link.removeprefix("studies/") for link in links} == {"toy/README.md", "toy/reward.svg", "toy/each.svg"}


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.02, 0.05, "0.050]: less than the threshold 0.1."),
        (-0.2, -0.1, "]: the opposite."),
        (-0.1, 0.05, "]: less than the threshold 0.1."),
        (0.05, 0.2, "]: the interval contains 0.1, but lies above 0."),
        (-0.05, 0.2, "]: the interval contains 0.1."),
        (0.15, 0.2, "0.200]."),
    ],
)
def test_words_tell_opposite_from_small(low: float, high: float, words: str) -> None:
    told = {"effect": "e", "unit": "", "threshold": 0.1, "value": (low + high) / 2, "low": low, "high": high}
    assert page._words(told).endswith(words)


def test_links_of_remarks_lead_there_from_the_findings_too(tmp_path: Path) -> None:
    linked = replace(outcome(), notes=["See [page](more.html) and [paper](https://example.org/a)."])
    page.write(study(), linked, tmp_path, **TOLD)
    assert "[page](more.html)" in (tmp_path / "toy" / "README.md").read_text(encoding="utf-8")
    text = page.write_findings(tmp_path).read_text(encoding="utf-8")
    assert "[page](toy/more.html)" in text and "[paper](https://example.org/a)" in text


def test_findings_come_again_from_the_folder(tmp_path: Path) -> None:
    for name in ("reuse", "on-policy"):
        page.write(study(name=name), outcome(), tmp_path, **TOLD)
    first = page.write_findings(tmp_path).read_bytes()
    (tmp_path / "findings.md").unlink()
    page.write(study(name="reuse"), outcome(), tmp_path, **TOLD)  # one study again: the other's page is enough
    assert page.write_findings(tmp_path).read_bytes() == first
    assert first.decode().count("\n## ") == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"study": "a"}'])
def test_a_broken_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "result.json").write_text(text)
    with pytest.raises(DataError, match=r"result\.json"):
        page.load(tmp_path)


def test_a_result_of_another_version_is_left_out_by_name_and_written_over(tmp_path: Path) -> None:
    old = page.write(study(), outcome(), tmp_path, **TOLD)
    del old["effort"]
    (tmp_path / "toy" / "result.json").write_text(json.dumps(old))
    page.write(study(name="reuse"), outcome(), tmp_path, **TOLD)
    text = page.write_findings(tmp_path).read_text(encoding="utf-8")
    assert "Left out" in text and "toy/result.json" in text and text.count("\n## ") == 2
    page.write(study(), outcome(), tmp_path, **TOLD)
    assert "Left out" not in page.write_findings(tmp_path).read_text(encoding="utf-8")


# ---- command line -------------------------------------------------------------------------------------------------


class Bench:
    made: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self, **told: Any) -> None:
        self.size, self.runs, self.computed = told["size"], 0, 0
        self.open = False
        Bench.made.append(told)

    def __enter__(self) -> Bench:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False


def measure(bench: Bench) -> Outcome:
    assert bench.open
    return outcome(())


def fail(bench: Bench) -> Outcome:
    raise DataError("no such problem", fix="another")


def interrupted(bench: Bench) -> Outcome:
    raise KeyboardInterrupt


class Stopped(Exception):
    exit_code = 130


def stopped(bench: Bench) -> Outcome:
    raise Stopped("go on with this command")


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Any], Outcome]]:
    """A registry of two toy studies, and a bench that only knows its size."""
    runs: dict[str, Callable[[Any], Outcome]] = {"toy-one": measure, "toy-two": measure}
    monkeypatch.setattr(registry, "SUMMARIES", dict.fromkeys(runs, "what is asked"))
    monkeypatch.setattr(registry, "STUDIES", tuple(runs))
    for name in runs:
        module = types.ModuleType(f"prefloop.studies.{name.replace('-', '_')}")
        module.__dict__["STUDY"] = study(lambda bench, name=name: runs[name](bench), name)  # type: ignore[misc]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    lab = types.ModuleType("prefloop.studies.bench")
    lab.__dict__["Bench"] = Bench
    monkeypatch.setitem(sys.modules, "prefloop.studies.bench", lab)
    monkeypatch.setattr(Bench, "made", [])
    return runs


Toys = dict[str, Callable[[Any], Outcome]]


def test_figures_and_pages_are_drawn_anew_without_a_run(
    toys: Toys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page.write(study(), outcome(), tmp_path, **TOLD)
    before = {path.name: path.read_bytes() for path in (tmp_path / "toy").iterdir()}
    for name in ("reward.svg", "each.svg", "README.md"):
        (tmp_path / "toy" / name).unlink()
    assert main(["study", "draw", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "toy").iterdir()} == before
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "toy" / n) for n in ("reward.svg", "each.svg")]
    assert main(["study", "draw", str(tmp_path / "nothing")]) == 2 and not Bench.made
    result = json.loads((tmp_path / "toy" / "result.json").read_text(encoding="utf-8"))
    for format, suffix in (("csv", "csv"), ("md", "md"), ("latex", "tex")):
        assert main(["study", "draw", str(tmp_path), "--tables", format]) == 0
        written = capsys.readouterr().out.splitlines()[2:]
        names = ["claims", *(f"table-{n + 1}" for n in range(len(result["tables"])))]
        assert written == [str(tmp_path / "toy" / f"{name}.{suffix}") for name in names] and len(names) > 1
    rows = list(csv.DictReader((tmp_path / "toy" / "claims.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["name"], float(row["value"]), row["verdict"]) for row in rows] == [
        (claim["name"], claim["value"], claim["verdict"]) for claim in result["claims"]
    ]
    assert (tmp_path / "toy" / "table-1.tex").read_text(encoding="utf-8").startswith("\\begin{tabular}{")


def test_list_shows_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    every = registry.SUMMARIES | registry.ALONE
    assert main(["study", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(every) and all(row["summary"] for row in rows)
    assert main(["study", "list", "--names"]) == 0
    assert capsys.readouterr().out.split() == list(every)
    assert main(["study", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert all(f"{name} " in shown and summary in " ".join(shown.split()) for name, summary in every.items())
    assert re.search(r"^on-policy +5 +when do", shown, re.MULTILINE) and shown.startswith("study ")


@pytest.mark.parametrize("name", [*registry.SUMMARIES, *registry.ALONE])
def test_the_list_has_the_figures_that_the_study_names(name: str) -> None:
    said = re.search(r"Fig\. ([\d]+(?:(?: to | and |, )\d+)*)", registry.study(name).source)
    assert registry.FIGURES.get(name, "") == (said[1].replace(" and ", ", ") if said else "")


@pytest.mark.parametrize(
    ("asked", "studies"),
    [
        ("fig10", "reuse"), ("Figure 11", "reuse, length-reuse"), ("13", "negative"),
        ("fig. 12", "negative, length-negative"), ("Fig_19", "length-complement, length-real"),
    ],
)  # fmt: skip
def test_a_figure_leads_to_its_studies(asked: str, studies: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"of the paper: {studies}")):
        registry.study(asked)


@pytest.mark.parametrize("asked", ["fig99", "fig", "reus", "fig1x"])
def test_what_is_no_figure_is_a_name(asked: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.study(asked)
    assert "of the paper" not in caught.value.fix


def test_list_and_help_import_nothing_heavy() -> None:
    code = "import sys; from prefloop.cli.main import main; main(['study', 'list']); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "scipy", "matplotlib"} & set(shown.splitlines()[-1].split())


def test_run_prints_verdicts_and_writes_pages(toys: Toys, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pages"
    assert main(["study", "run", "all", "--size", "smoke", "--out", str(out), "--workers", "3", "--stack", "5"]) == 0
    shown = capsys.readouterr()
    told = {"size": "smoke", "out": out, "workers": 3, "stack": 5, "ray": "", "quiet": False}
    assert Bench.made == [told] and shown.err == ""
    for name in toys:
        assert f"{out}/{name}/README.md" in shown.out and (out / name / "README.md").is_file()
    assert re.search(r"a +0\.30 \[0\.20, 0\.40\] reward +0\.1 +supported", shown.out)
    assert re.search(r"2 supported, 2 contradicted, 2 inconclusive in [\d.]+ s\n", shown.out)
    assert (out / "findings.md").read_text(encoding="utf-8") == page.findings(page.load(out))
    command = json.loads((out / "toy-two" / "result.json").read_text(encoding="utf-8"))["command"]
    assert command == "prefloop study run toy-two --size smoke --stack 5"


def test_json_is_one_object_and_quiet_is_silent(toys: Toys, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "run", "toy-two", "toy-one", "toy-two", "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [result["study"] for result in told["results"]] == ["toy-two", "toy-one"]  # once each, as they were named
    assert told["results"] == page.load(tmp_path)[::-1]
    assert told["verdicts"] == {"supported": 2, "contradicted": 2, "inconclusive": 2}
    assert (told["size"], told["failed"], told["findings"]) == ("small", {}, str(tmp_path / "findings.md"))
    assert main(["study", "run", "toy-one", "--out", str(tmp_path), "--quiet", "--ray", "head:6379"]) == 0
    assert capsys.readouterr() == ("", "")
    assert [(made["quiet"], made["ray"]) for made in Bench.made] == [(True, ""), (True, "head:6379")]


def test_the_others_run_when_one_fails(toys: Toys, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toys["toy-one"] = fail
    assert main(["study", "run", "all", "--out", str(tmp_path), "--json"]) == 3
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert told["failed"].keys() == {"toy-one"} and [r["study"] for r in told["results"]] == ["toy-two"]
    assert shown.err == "error: toy-one: no such problem\n  fix:   another\n"
    assert not (tmp_path / "toy-one").exists()


def test_studies_that_stand_alone_run_by_name_only(toys: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "STUDIES", ("toy-one",))
    monkeypatch.setattr(registry, "SUMMARIES", {"toy-one": "what is asked"})
    monkeypatch.setattr(registry, "ALONE", {"toy-two": "what is asked"})
    assert main(["study", "run", "all", "--out", str(tmp_path), "--quiet"]) == 0
    assert [result["study"] for result in page.load(tmp_path)] == ["toy-one"]
    assert main(["study", "run", "all", "toy-two", "--out", str(tmp_path), "--quiet"]) == 0
    assert [result["study"] for result in page.load(tmp_path)] == ["toy-one", "toy-two"]


def test_a_defect_is_not_taken_for_a_mistake_of_the_user(toys: Toys, tmp_path: Path) -> None:
    toys["toy-one"] = lambda bench: Outcome([])
    with pytest.raises(ValueError, match="stated"):
        main(["study", "run", "all", "--out", str(tmp_path), "--quiet"])


@pytest.mark.parametrize("stop", [interrupted, stopped])
def test_an_interruption_leaves_finished_pages(toys: Toys, tmp_path: Path, stop: Callable[[Any], Outcome]) -> None:
    toys["toy-two"] = stop
    assert main(["study", "run", "all", "--out", str(tmp_path), "--quiet"]) == 130
    assert [result["study"] for result in page.load(tmp_path)] == ["toy-one"]
    assert "in 1 study" in (tmp_path / "findings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["toy-on"], "did you mean `toy-one`?"),
        (["toy-one", "--size", "papper"], "did you mean `paper`?"),
        (["toy-one", "--workers", "0"], "use 1 or more"),
        (["toy-one", "--stack", "-1"], "use 1 or more"),
        (["toy-one", "--out", "{file}"], "give a folder"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    toys: Toys, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], fix: str
) -> None:
    (tmp_path / "file").write_text("")
    words = [word.format(file=tmp_path / "file") for word in words]
    place = [] if "--out" in words else ["--out", str(tmp_path)]
    assert main(["study", "run", *words, *place]) == 2
    assert fix in capsys.readouterr().err
    assert Bench.made == [] and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_names_and_sizes_of_the_command_line_are_those_of_the_studies() -> None:
    from prefloop.cli.study import run as verb

    assert verb.SIZES == SIZES
    with pytest.raises(UserError, match="kl-modes"):
        registry.study("kl-mode")
