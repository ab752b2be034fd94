"""One page of findings over all studies, the same as one object, and the agreement of two repetitions."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from made_studies import CLAIMS, TOLD, finding, outcome, published, strange, study
from prefloop.analysis.decisions import false_discovery
from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.studies import findings, page, readings, record, trust
from prefloop.studies.readings import Reading
from prefloop.studies.registry import ALONE, STUDIES
from prefloop.studies.study import Claim, Outcome

READ = {"reuse": Reading("the clip holds", "an eighth of the samples", "use four passes")}
SMALL = f"![effects of reuse](studies/reuse/{findings.forest.SMALL})"


def results(*names: str, **told: Any) -> list[dict[str, Any]]:
    return record.ordered([record.record(study(name=name), outcome(), **{**TOLD, **told}) for name in names])


# ---- the object ---------------------------------------------------------------------------------------------------


def test_checks_are_not_counted_and_have_no_part_in_the_false_discovery_rate() -> None:
    whole = findings.summary(results("reuse", "labels"))
    given = {"supported": 2, "contradicted": 2, "undecided": 2}
    assert whole["verdicts"] == {**dict.fromkeys(record.VERDICTS, 0), **given}
    assert (whole["claims"], whole["answered"]) == (6, 2)
    assert all(len(one["claims"]) == 3 and len(one["checks"]) == 1 for one in whole["studies"])
    assert not any(c["name"] == "push-is-off" for one in whole["studies"] for c in one["claims"])


def test_p_values_are_adjusted_over_all_findings() -> None:
    p = [0.001, 0.02, 0.04, 0.2]
    claims = tuple(Claim(f"c{i}", "p", "e", 0.1, "nats") for i in range(len(p)))
    made = [finding(claim, 0.2, 0.4) for claim in claims]
    found = [replace(f, decision=replace(f.decision, p_verdict=own)) for f, own in zip(made, p, strict=True)]
    told = [record.record(study(name=n, claims=claims), Outcome(found), **TOLD) for n in ("reuse", "labels")]
    whole = findings.summary(told)
    expected = false_discovery({f"{r['study']}/{c.name}": own for r in told for c, own in zip(claims, p, strict=True)})
    for one in whole["studies"]:
        for claim in one["claims"]:
            both = expected[f"{one['study']}/{claim['name']}"]
            assert (claim["bh"], claim["by"]) == (both.bh, both.by)
    rate = whole["false_discovery"]
    assert (rate["verdicts"], rate["bh"], rate["by"]) == (8, 4, 2)  # 0.02 · 8 / 4 = 0.04; 0.04 · 8 / 6 > 0.05
    assert rate["not_bh"] == [f"{name}/{c}" for name in ("reuse", "labels") for c in ("c2", "c3")]
    assert "4 of 8 verdicts stand by Benjamini and Hochberg, 2 by" in findings.page(whole)


# ---- the page -----------------------------------------------------------------------------------------------------


def test_the_page_is_a_table_then_counts_a_key_and_the_other_findings() -> None:
    whole = findings.summary(results("labels", "reuse"), readings=READ)
    text = findings.page(whole, at="studies/")
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [row.split("]")[0].removeprefix("| [") for row in rows] == ["reuse", "labels"]  # as in the registry
    assert "| [reuse](studies/reuse/README.md): Fresh samples help by 10 %. |" in rows[0] and SMALL in rows[0]
    assert "**Supported**: Fresh samples help: +0.30 [+0.20, +0.40] (n = 12).<br>**Contradicted**: Reuse" in rows[0]
    assert "**Why**: the clip holds<br>**Cost**: an eighth of the samples<br>**Do**: use four passes" in rows[0]
    parts = ["# Findings", "| the paper |", "## How many", "Of 6 findings in 2 studies: 2 supported, 2 contradicted, 2",
             "- **No headroom**:", "## Other findings", "Mathematics and manipulation checks"]  # fmt: skip
    places = [text.find(part) for part in parts]
    assert -1 not in places and places == sorted(places)
    others = text.partition("## Other findings")[2].splitlines()
    lines = [line for line in others if line.startswith("- ")]
    assert len(lines) == 2 and all("Pushing down helps: +0.15 [−0.10, +0.40] (n = 12)." in line for line in lines)
    assert text.count("<br>") == 2 * 2 + 2 and "\\<br>" not in text
    assert set(findings.KEY) == set(record.VERDICTS)
    assert all(f"- **{word.capitalize()}**: " in text for word in record.VERDICTS)


def test_an_empty_column_is_left_out_and_no_study_is_no_table() -> None:
    assert "| the paper | here |\n" in findings.page(findings.summary(results("reuse"), readings={}))
    none = findings.page(findings.summary([]))
    assert "| the paper" not in none and "Of 0 findings in 0 studies: none." in none


def test_the_table_has_at_most_twelve_studies_and_nothing_is_lost() -> None:
    names = [f"study-{i:02}" for i in range(14)]
    whole = findings.summary(results(*names))
    text = findings.page(whole)
    assert sum(line.startswith("| [") for line in text.splitlines()) == 12 == findings.ROWS
    for one in whole["studies"]:
        assert text.count(f"({one['study']}/README.md)") >= 2
    lines = sum(line.startswith("- [") for line in text.splitlines())
    assert lines + 12 * findings.HEADLINES == whole["claims"]


def test_what_only_checks_is_only_linked() -> None:
    only = record.record(study(name="theory", claims=CLAIMS[3:]), Outcome(outcome().findings[3:]), **TOLD)
    text = findings.page(findings.summary([*results("reuse"), only]))
    assert text.count("theory") == 2 and "not counted: [reuse](reuse/README.md), [theory](theory/README.md)." in text


def test_every_number_of_the_page_is_in_the_object() -> None:
    whole = findings.summary(results("reuse", "labels", size="smoke"), readings=READ)
    text = findings.page(whole, at="studies/")
    assert strange(text, whole) == [] and page.SMOKE in text
    assert strange(text.replace("n = 12", "n = 37"), whole)  # the test sees what is not


def test_results_of_different_rules_are_told() -> None:
    one, two = results("reuse", "labels")
    assert "different rules" not in findings.page(findings.summary([one, two]))
    text = findings.page(findings.summary([one, {**two, "rules": "other"}]))
    assert "different rules" in text and "`other`" in text


def test_findings_come_again_from_the_folder(tmp_path: Path) -> None:
    for name in ("reuse", "on-policy"):
        published(study(name=name), outcome(), tmp_path, **TOLD)
    first = findings.write(tmp_path).read_bytes()
    (tmp_path / "findings.md").unlink()
    published(study(name="reuse"), outcome(), tmp_path, **TOLD)  # one study again: the other's page is enough
    assert findings.write(tmp_path).read_bytes() == first


def test_a_result_of_another_version_is_left_out_by_name_and_written_over(tmp_path: Path) -> None:
    old = published(study(), outcome(), tmp_path, **TOLD)
    del old["rules"]
    (tmp_path / "toy" / "result.json").write_text(json.dumps(old))
    published(study(name="reuse"), outcome(), tmp_path, **TOLD)
    text = findings.write(tmp_path).read_text(encoding="utf-8")
    assert "Left out" in text and "toy/result.json" in text and "findings in 1 study" in text
    published(study(), outcome(), tmp_path, **TOLD)
    assert "Left out" not in findings.write(tmp_path).read_text(encoding="utf-8")


def test_readings_are_of_studies_that_count() -> None:
    assert readings.READINGS.keys() <= {*STUDIES, *ALONE}


# ---- two repetitions ----------------------------------------------------------------------------------------------


def test_agreement_counts_findings_only_and_names_the_others() -> None:
    first = results("reuse", "labels")
    (moved,) = [
        record.record(study(name="reuse"), outcome(ends=((0.2, 0.4), (-0.05, 0.05), (-0.1, 0.4), (-2.0, -1.0))), **TOLD)
    ]
    found = trust.agreement(first, [moved])
    assert (found["claims"], found["same"], found["share"]) == (3, 2, pytest.approx(2 / 3))  # the check does not count
    assert [(d["claim"], d["first"]["verdict"], d["second"]["verdict"]) for d in found["different"]] == [
        ("reuse-is-free", "contradicted", "supported")
    ]
    assert found["in_one"] == [{"study": "labels", "claim": c.name} for c in sorted(CLAIMS[:3], key=lambda c: c.name)]
    with pytest.raises(UserError, match="no finding is in both"):
        trust.agreement(first, results("theory"))


def test_a_repetition_is_kept_beside_the_studies_and_shown(tmp_path: Path) -> None:
    for name in ("reuse", "labels"):
        published(study(name=name), outcome(), tmp_path, **TOLD)
    assert "Repeated" not in findings.write(tmp_path).read_text(encoding="utf-8")
    ends = ((0.2, 0.4), (-0.05, 0.05), (-0.1, 0.4), (-2.0, -1.0))
    again = {**TOLD, "repetition": 2}
    trust.keep(results("labels", **again), tmp_path)
    trust.keep([record.record(study(name="reuse"), outcome(ends=ends), **again)], tmp_path)
    kept = trust.read(tmp_path).repetition
    assert [one["study"] for one in kept] == ["reuse", "labels"] and not any("figures" in one for one in kept)
    whole = findings.summary(record.load(tmp_path), trust.read(tmp_path))
    text = findings.write(tmp_path).read_text(encoding="utf-8")
    assert "same verdict on 5 of 6 findings" in text and "| reuse: reuse-is-free | contradicted, " in text
    assert text == findings.page(whole) and strange(text, whole) == []
    trust.keep(results("reuse", **again), tmp_path)  # a study again: its earlier repetition goes
    assert "same verdict on 6 of 6 findings" in findings.write(tmp_path).read_text(encoding="utf-8")


def test_a_repetition_by_other_rules_is_not_compared() -> None:
    other = [{**one, "asked": "another"} for one in results("reuse", repetition=2)]
    assert findings.summary(results("reuse"), trust.Trust(other))["repeated"] is None


def test_the_coverage_of_intervals_is_shown_as_it_was_measured(tmp_path: Path) -> None:
    published(study(name="reuse"), outcome(), tmp_path, **TOLD)
    shares = {"supported": 0.021, "undecided": 0.979}
    cells = [{"planted": p, "coverage": c, "wrong": 0.0, "verdicts": shares, "repeats": 1000}
             for p, c in ((0.0, 0.951), (0.1, 0.938))]  # fmt: skip
    measured = {"rates": 7, "seeds": 60, "threshold": 0.05, "level": 0.95, "contrasts": {"a less b": cells}}
    (tmp_path / trust.COVERAGE).write_text(json.dumps(measured))
    text = findings.write(tmp_path).read_text(encoding="utf-8")
    assert "a share of 0.938 to 0.951 held the truth" in text
    assert "| a less b | 0.1 | 0.938 | 0.000 | undecided 0.979, supported 0.021 |" in text
    assert strange(text, findings.summary(record.load(tmp_path), trust.read(tmp_path))) == []


# ---- command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("reuse", "labels"):
        published(study(name=name), outcome(), tmp_path / "studies", **TOLD)
    return tmp_path / "studies"


def test_json_is_what_the_page_is_made_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["findings", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(findings.summary(record.load(folder))))
    assert findings.page(told) == findings.write(folder).read_text(encoding="utf-8")


def test_the_table_fits_eighty_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["findings", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert re.search(r"^  supported +Fresh samples help: \+0\.30 \[\+0\.20, \+0\.40\]", shown, re.MULTILINE)
    assert "Of 6 findings in 2 studies: 2 supported" in " ".join(shown.split())
    assert main(["findings", str(folder), "--quiet"]) == 0 and capsys.readouterr().out == ""


def test_repetitions_are_compared(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = ((-0.4, -0.2), (-0.5, -0.3), (-0.1, 0.4), (0.15, 0.2))
    published(study(name="reuse"), outcome(ends=ends), tmp_path / "again", **{**TOLD, "repetition": 1})
    assert main(["findings", str(folder), "--against", str(tmp_path / "again")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("2 of 3 findings have the same verdict (67%)\nreuse: fresh-helps\n  supported ")
    assert "same seeds" not in shown and "different rules" not in shown
    assert "  contradicted        −0.30 [−0.40, −0.20]" in shown and "in one folder only: labels/" in shown
    assert main(["findings", str(folder), "--against", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["share"] == 1.0 and told["same_seeds"] == ["reuse", "labels"]
    assert main(["findings", str(folder), "--against", str(folder)]) == 0
    assert "of the same seeds, no repetition: reuse, labels" in capsys.readouterr().out


def test_the_package_has_evidence_without_figures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads(findings.EVIDENCE.read_text(encoding="utf-8")).keys() == {"results", "repetition", "coverage"}
    monkeypatch.setattr(findings, "EVIDENCE", tmp_path / "evidence.json")
    findings.write_evidence(record.load(folder), path=findings.EVIDENCE)
    assert '"lines"' not in findings.EVIDENCE.read_text(encoding="utf-8")
    assert main(["findings", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(findings.summary(record.load(folder))))
    findings.EVIDENCE.write_text('{"results": [], "repetition": [], "coverage": null}')
    assert main(["findings"]) == 2
    assert "no results of studies" in capsys.readouterr().err


def test_a_folder_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["findings", str(tmp_path)]) == 2
    assert "prefloop study run all" in capsys.readouterr().err
