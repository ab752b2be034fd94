"""The record of a study, its page, figures and `prefloop study`, on toy studies without the lab."""

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

from made_studies import CLAIMS, TOLD, TOOK, finding, outcome, published, strange, study
from prefloop.cli.main import main
from prefloop.core.errors import DataError, UserError
from prefloop.report.svg import standalone
from prefloop.studies import findings, page, record, registry, rules
from prefloop.studies.study import SIZES, Claim, Outcome, judged

# ---- verdicts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effects", [[1.0, float("nan")], [float("inf"), 1.0], [[1.0, 2.0]], [], [1.0]])
def test_judged_refuses_what_is_no_list_of_numbers(effects: list[Any]) -> None:
    with pytest.raises(ValueError):
        judged(CLAIMS[:1], {CLAIMS[0].name: effects})


def test_judged_gives_every_claim_its_own_effects() -> None:
    rng = np.random.default_rng(0)
    of = Claim("c", "c", "c", 0.1, "nats", lambda evidence: -np.asarray(evidence["fresh-helps"]))
    found = judged([CLAIMS[0], of], {"fresh-helps": rng.normal(0.5, 0.1, 30)})
    assert [f.decision.verdict for f in found] == ["supported", "contradicted"]
    assert [f.decision.n for f in found] == [30, 30] and all(f.decision.settled for f in found)


# ---- record -------------------------------------------------------------------------------------------------------


def test_result_is_plain_json_with_every_number_of_the_decision(tmp_path: Path) -> None:
    result = published(study(), outcome(), tmp_path, **TOLD)
    text = (tmp_path / "toy" / "result.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) == result
    assert record.load(tmp_path) == [result]
    assert result["claims"][0] == {
        "name": "fresh-helps",
        "prediction": "Fresh samples help.",
        "effect": "fresh less stale",
        "threshold": 0.1,
        "unit": "share of the attainable gain",
        "sense": "more",
        "counts": True,
        "verdict": "supported",
        "reason": "it is supported",
        "settled": True,
        "value": pytest.approx(0.3),
        "low": 0.2,
        "high": 0.4,
        "n": 12,
        "level": 0.95,
        "sign": 1,
        "p": 1e-3,
        "p_verdict": 1e-3,
    }
    assert [claim["verdict"] for claim in result["claims"]] == ["supported", "contradicted", "undecided", "supported"]
    assert result["verdicts"] == {
        **dict.fromkeys(record.VERDICTS, 0),
        "supported": 1,
        "contradicted": 1,
        "undecided": 1,
    }
    assert result["versions"] == {"python": "3.11"} and result["rules"] == rules.fingerprint()
    assert result["asked"] == rules.asked(study())
    assert result["effort"] == {"seconds": 75.04, "runs": 1200, "computed": 1188, "tuning": 700, "time": "1 min 15 s"}
    assert result["tables"][0]["rows"] == [["a|b", 0.123456, None], ["c", None, True]]
    assert result["figures"]["reward.svg"][0]["lines"][0]["y"][2] is None


def test_ends_that_are_not_known_are_null_and_said(tmp_path: Path) -> None:
    same = judged(CLAIMS[:1], {"fresh-helps": [0.3] * 4})
    assert same[0].decision.verdict == "undecided"  # four equal numbers tell nothing about their spread
    only = study(claims=CLAIMS[:1])
    result = published(only, Outcome(same), tmp_path, **TOLD)
    assert (result["claims"][0]["low"], result["claims"][0]["high"]) == (None, None)
    assert "+0.300 [not known]" in page.page(result) and (tmp_path / "toy" / "forest.svg").is_file()


def test_only_claims_that_were_stated_are_judged() -> None:
    bent = replace(CLAIMS[0], threshold=0.01)  # another threshold after the run
    with pytest.raises(ValueError, match="stated"):
        record.record(study(), Outcome([finding(bent, 0.05, 0.08), *outcome().findings[1:]]), **TOLD)
    with pytest.raises(ValueError, match="stated"):
        record.record(study(), Outcome(outcome().findings[:3]), **TOLD)
    less = replace(Outcome(outcome().findings[:3]), left_out=["push-is-off"])
    told = record.record(study(), less, **TOLD)
    assert len(told["claims"]) == 3 and told["left_out"] == ["push-is-off"]
    assert "Not judged at this size: `push-is-off`." in page.page(told)
    with pytest.raises(ValueError, match="stated"):
        record.record(study(), replace(outcome(), left_out=["push-is-off"]), **TOLD)
    with pytest.raises(ValueError, match="finite"):
        endless = finding(CLAIMS[0], 0.2, 0.4, value=float("inf"))
        record.record(study(), Outcome([endless, *outcome().findings[1:]]), **TOLD)


@pytest.mark.parametrize("text", ["{", "[]", '{"study": "a"}'])
def test_a_broken_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "result.json").write_text(text)
    with pytest.raises(DataError, match=r"result\.json"):
        record.load(tmp_path)


# ---- page ---------------------------------------------------------------------------------------------------------


def test_a_page_answers_first(tmp_path: Path) -> None:
    published(study(), outcome(), tmp_path, **TOLD)
    text = (tmp_path / "toy" / "README.md").read_text(encoding="utf-8")
    parts = ["# toy: Do fresh samples help?", "**The paper** (section 5.1): Fresh samples help by 10 %.", "## Answers",
             "- **Supported**: Fresh samples help. +0.30 [+0.20, +0.40] share of the attainable gain (n = 12); 0.1 is",
             "- **Contradicted**: ", "- **Undecided**: ", "Checks and mathematics",
             "- **Holds**: the switch removes the push: 0.175 [0.150, 0.200]", "(forest.svg)", "(reward.svg)",
             "## Design", "| compared | two cells |", "## Caveats", "- Only one problem.", "## Measures", "## Tables",
             "## Reproduce", TOLD["command"], TOOK, rules.fingerprint(), rules.asked(study())]  # fmt: skip
    places = [text.find(part) for part in parts]
    assert -1 not in places, [part for part, place in zip(parts, places, strict=True) if place < 0]
    assert places == sorted(places)
    assert "1 supported, 1 contradicted, 1 undecided. Size `small`." in text.lower().replace("size", "Size")
    assert "Reuse costs nothing\\|at all" not in text.partition("## Design")[0]  # only cells of tables need that
    assert "| a\\|b | 0.1235 | – |" in text
    assert "*Reward (mean); After training; Each seed. Mean of 12 seeds.*" in text.replace("[mean]", "(mean)")


def test_captions_say_where_the_learning_rates_are(tmp_path: Path) -> None:
    told = outcome()
    table = replace(told.tables[0], title=page.RATES)
    text = page.page(record.record(study(), replace(told, tables=[table]), **TOLD))
    assert text.count("Learning rates: table “Conditions”.") == 2  # not under the effects
    assert "Learning rates:" not in page.page(record.record(study(), told, **TOLD))


def test_every_number_of_a_page_is_in_its_record(tmp_path: Path) -> None:
    result = published(study(), outcome(), tmp_path, **TOLD)
    text = (tmp_path / "toy" / "README.md").read_text(encoding="utf-8")
    assert strange(text, result) == []
    assert strange(text.replace("1 min 15 s", "2 min 16 s"), result) == ["16"]  # the test sees what is not


def test_what_does_not_count_only_holds_or_does_not(tmp_path: Path) -> None:
    for ends, word in (((0.15, 0.2), "Holds"), ((0.01, 0.05), "Does not hold"), ((-0.3, -0.2), "Does not hold"),
                       ((0.05, 0.2), "Undecided")):  # fmt: skip
        result = record.record(study(), outcome(ends=(*[(0.2, 0.4)] * 3, ends)), **TOLD)
        text = page.page(result)
        assert f"- **{word}**: the switch removes the push" in text and "**Smaller" not in text
        assert sum(result["verdicts"].values()) == 3


@pytest.mark.parametrize(
    ("low", "high", "bound", "text"),
    [
        (0.2, 0.4, 0.1, "+0.30 [+0.20, +0.40]"),
        (12.2, 61.7, 0.1, "+37 [+12, +62]"),
        (0.0004, 0.5, 0.1, "+0.2502 [+0.0004, +0.5000]"),  # rounded to +0.00 it would look undecided
        (-0.5, -0.0996, 0.1, "−0.2998 [−0.5000, −0.0996]"),  # rounded to −0.10 it would touch −0.1
        (-2e-9, 4e-9, 1e-9, "+1.0e−9 [−2.0e−9, +4.0e−9]"),
        (0.99895, 0.9994, 0.999, "+0.99917 [+0.99895, +0.99940]"),  # 0.9990 would touch the threshold
    ],
)
def test_rounding_never_hides_a_verdict(low: float, high: float, bound: float, text: str) -> None:
    told = {"value": (low + high) / 2, "low": low, "high": high, "threshold": bound, "counts": True}
    assert page.measured(told) == text
    assert page.measured({**told, "counts": False}) == text.replace("+", "")


def test_every_row_of_a_markdown_table_has_as_many_cells(tmp_path: Path) -> None:
    published(study(), outcome(), tmp_path, **TOLD)
    whole = findings.page(findings.summary(record.load(tmp_path)))
    for text in ((tmp_path / "toy" / "README.md").read_text(encoding="utf-8"), whole):
        tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
        assert tables
        for rows in tables:
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


# ---- figures ------------------------------------------------------------------------------------------------------

FOREST = {"forest.svg", "forest-small.svg"}


def test_figures_of_an_earlier_run_go_and_other_files_stay(tmp_path: Path) -> None:
    published(study(), outcome(), tmp_path, **TOLD)
    assert {p.name for p in (tmp_path / "toy").glob("*.svg")} == {*FOREST, "reward.svg", "each.svg"}
    (tmp_path / "toy" / "mine.svg").write_text("kept")
    published(study(), outcome(("reward",)), tmp_path, **TOLD)
    assert {p.name for p in (tmp_path / "toy").glob("*.svg")} == {*FOREST, "mine.svg", "reward.svg"}
    checks = study(claims=CLAIMS[3:])  # nothing that counts
    published(checks, Outcome(outcome().findings[3:]), tmp_path, **TOLD)
    assert {p.name for p in (tmp_path / "toy").glob("*.svg")} == {"mine.svg"}


def test_the_forest_has_a_row_for_every_finding_in_units_of_its_threshold(tmp_path: Path) -> None:
    result = published(study(), outcome(), tmp_path, **TOLD)
    shown = page.drawings(result)
    (whole,), (small,) = shown["forest.svg"], shown["forest-small.svg"]
    assert list(whole.rows) == ["fresh helps", "reuse is free (=)", "push helps"] == list(small.rows)
    assert whole.zone == (-1.0, 1.0)
    assert [[*line.left, *line.x, *line.right] for line in whole.lines] == [
        pytest.approx([2, 3, 4]), pytest.approx([-5, -4, -3]), pytest.approx([-1, 1.5, 4]),
    ]  # fmt: skip
    assert next(line.tag for line in whole.lines) == "supported: +0.30 [+0.20, +0.40]"
    assert len({line.label for line in whole.lines}) == 1 and not any(line.tag for line in small.lines)
    from prefloop.report.layout import figure

    assert b"reuse is free" in standalone(figure([small]))
    assert figure([small]).width < figure([whole]).width


# ---- command line -------------------------------------------------------------------------------------------------


class Bench:
    made: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self, **told: Any) -> None:
        self.size, self.runs, self.computed, self.tuning = told["size"], 0, 0, 0
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
    published(study(), outcome(), tmp_path, **TOLD)
    before = {path.name: path.read_bytes() for path in (tmp_path / "toy").iterdir()}
    for name in ("reward.svg", "each.svg", "README.md"):
        (tmp_path / "toy" / name).unlink()
    assert main(["study", "draw", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "toy").iterdir()} == before
    names = ("forest.svg", "forest-small.svg", "reward.svg", "each.svg")
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "toy" / n) for n in names]
    assert main(["study", "draw", str(tmp_path / "nothing")]) == 2 and not Bench.made
    result = json.loads((tmp_path / "toy" / "result.json").read_text(encoding="utf-8"))
    for format, suffix in (("csv", "csv"), ("md", "md"), ("latex", "tex")):
        assert main(["study", "draw", str(tmp_path), "--tables", format]) == 0
        written = capsys.readouterr().out.splitlines()[4:]
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
    assert re.search(r"^on-policy +5, 6, 18, 19 +do the", shown, re.MULTILINE) and shown.startswith("study ")


@pytest.mark.parametrize("name", [*registry.SUMMARIES, *registry.ALONE])
def test_the_list_has_the_figures_that_the_study_names(name: str) -> None:
    said = re.search(r"Fig\. ([\d]+(?:(?: to | and |, )\d+)*)", registry.study(name).source)
    assert registry.FIGURES.get(name, "") == (said[1].replace(" and ", ", ") if said else "")


@pytest.mark.parametrize(
    ("asked", "studies"),
    [
        ("fig10", "reuse"), ("Figure 11", "reuse"), ("13", "negative"),
        ("fig. 12", "negative"), ("Fig_19", "on-policy, min-mode-skew, real"),
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
    told = {"size": "smoke", "out": out, "workers": 3, "stack": 5, "ray": "", "quiet": False, "repetition": 0,
            "problems": None}  # fmt: skip
    assert Bench.made == [told] and shown.err == ""
    for name in toys:
        assert f"{out}/{name}/README.md" in shown.out and (out / name / "README.md").is_file()
    assert re.search(r"fresh-helps +\+0\.30 \[\+0\.20, \+0\.40\] share of .* \(n = 12\) +0\.1 +supported", shown.out)
    assert re.search(r"push-is-off +0\.175 \[0\.150, 0\.200\] share of .* +0\.1 +holds", shown.out)
    assert re.search(r"2 supported, 2 contradicted, 2 undecided in [\d.]+ s\n", shown.out)
    whole = findings.page(findings.summary(record.load(out)))
    assert (out / "findings.md").read_text(encoding="utf-8") == whole
    command = json.loads((out / "toy-two" / "result.json").read_text(encoding="utf-8"))["command"]
    assert command == "prefloop study run toy-two --size smoke --stack 5"


def test_json_is_one_object_and_quiet_is_silent(toys: Toys, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "run", "toy-two", "toy-one", "toy-two", "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [result["study"] for result in told["results"]] == ["toy-two", "toy-one"]  # once each, as they were named
    assert told["results"] == record.load(tmp_path)[::-1]
    given = {"supported": 2, "contradicted": 2, "undecided": 2}
    assert told["verdicts"] == {**dict.fromkeys(record.VERDICTS, 0), **given}
    assert (told["size"], told["failed"], told["findings"]) == ("small", {}, str(tmp_path / "findings.md"))
    assert main(["study", "run", "toy-one", "--out", str(tmp_path), "--quiet", "--ray", "head:6379"]) == 0
    assert capsys.readouterr() == ("", "")
    assert [(made["quiet"], made["ray"]) for made in Bench.made] == [(True, ""), (True, "head:6379")]


def test_a_repetition_has_its_seeds_and_says_so(toys: Toys, tmp_path: Path) -> None:
    assert main(["study", "run", "toy-one", "--out", str(tmp_path), "--repetition", "3", "--quiet"]) == 0
    assert Bench.made[-1]["repetition"] == 3
    (result,) = record.load(tmp_path)
    assert result["repetition"] == 3 and result["command"] == "prefloop study run toy-one --size small --repetition 3"


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
    assert [result["study"] for result in record.load(tmp_path)] == ["toy-one"]
    assert main(["study", "run", "all", "toy-two", "--out", str(tmp_path), "--quiet"]) == 0
    assert [result["study"] for result in record.load(tmp_path)] == ["toy-one", "toy-two"]


def test_a_defect_is_not_taken_for_a_mistake_of_the_user(toys: Toys, tmp_path: Path) -> None:
    toys["toy-one"] = lambda bench: Outcome([])
    with pytest.raises(ValueError, match="stated"):
        main(["study", "run", "all", "--out", str(tmp_path), "--quiet"])


@pytest.mark.parametrize("stop", [interrupted, stopped])
def test_an_interruption_leaves_finished_pages(toys: Toys, tmp_path: Path, stop: Callable[[Any], Outcome]) -> None:
    toys["toy-two"] = stop
    assert main(["study", "run", "all", "--out", str(tmp_path), "--quiet"]) == 130
    assert [result["study"] for result in record.load(tmp_path)] == ["toy-one"]
    assert "findings in 1 study:" in (tmp_path / "findings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["toy-on"], "did you mean `toy-one`?"),
        (["toy-one", "--size", "papper"], "did you mean `paper`?"),
        (["toy-one", "--workers", "0"], "use 1 or more"),
        (["toy-one", "--stack", "-1"], "use 1 or more"),
        (["toy-one", "--repetition", "-1"], "use 0 or more"),
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
