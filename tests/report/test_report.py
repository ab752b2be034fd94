"""The page: self-contained, safe against what models write, and true to the records."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from prefloop.analysis.numbers import number
from prefloop.cli.main import execute
from prefloop.core.errors import DataError, UserError
from prefloop.report.data import Value, comparisons, load, measured
from prefloop.report.findings import findings
from prefloop.report.page import paper_link, write
from run_folders import CHANGED, HOSTILE, PROMPTS, make


class Reader(HTMLParser):
    """Tags with their attributes, and the text inside each kind of tag."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def cells(tmp_path: Path) -> list[Path]:
    grid = [(a, b) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    return [make(tmp_path, f"run-{a:g}-{b:g}", on_policy=a, negative=b, gain=0.3 + 0.3 * (a + b)) for a, b in grid]


def page(folders: list[Path], **options: Any) -> str:
    out = write(folders, folders[0].parent / "page.html", title="T", verdict=["V."], **options)
    return out.read_text(encoding="utf-8")


def evaluations(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "evaluation"]


def test_page_loads_nothing_from_outside(cells: list[Path]) -> None:
    text = page(cells)
    reader = Reader(text)
    for tag, attrs in reader.tags:
        assert not {"src", "srcset", "action", "background"} & attrs.keys(), tag
        assert not any(name.startswith("on") for name in attrs)
        if "href" in attrs:
            assert tag == "a"
            assert re.match(r"https://(arxiv\.org/abs|doi\.org)/", attrs["href"] or "")
    assert not re.search(r"url\(|@import", text)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in reader.tags}
    (policy,) = [a for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_model_output_stays_text(tmp_path: Path) -> None:
    run = make(tmp_path, "hostile", answer=HOSTILE)
    config = run / "config.yaml"
    config.write_text(config.read_text() + f"note: {json.dumps(HOSTILE)}\n")
    (run / "samples.jsonl").write_text(
        json.dumps({"step": 9, "prompt": HOSTILE, "response": HOSTILE, "score": 1.0, "cut": False}) + "\n"
    )
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["objective"]["paper"] = f"{HOSTILE} arXiv:2305.18290"
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = write([run], tmp_path / "x.html", title=HOSTILE, verdict=[HOSTILE], labels=[HOSTILE]).read_text("utf-8")
    reader = Reader(text)
    assert [a.get("type") for a in reader.all("script")] == ["application/json"]
    assert not reader.all("img")
    assert any("</script><script>alert(1)</script>" in t for t in reader.text["div"])  # the answer, readable
    assert "\x00" not in text
    assert json.loads("".join(reader.text["script"]))[0]["label"].startswith("</script>")


def test_numbers_are_those_of_the_records(cells: list[Path]) -> None:
    reader = Reader(page(cells))
    shown = {t.strip() for t in reader.text["td"]}
    embedded = json.loads("".join(reader.text["script"]))
    for folder, record in zip(cells, embedded, strict=True):
        lines = evaluations(folder)
        assert record["evaluations"] == lines
        for key in ("eval/reward", "eval/kl_reverse", "eval/kl_forward"):
            last = lines[-1]
            text = measured(Value(last[key], last[f"{key}_se"]))
            assert text in shown
            value, error = (float(x.replace("−", "-")) for x in text.split("\u00a0±\u00a0"))
            assert abs(value - last[key]) <= 0.05 * last[f"{key}_se"]
            assert error == pytest.approx(last[f"{key}_se"], rel=0.05)
        change = lines[-1]["eval/reward"] - lines[0]["eval/reward"]
        gained = [change + more for more in CHANGED]
        known = stats.ttest_1samp(gained, 0).confidence_interval(0.95)
        assert record["change"]["value"] == pytest.approx(change, abs=1e-9)
        assert (record["change"]["low"], record["change"]["high"]) == pytest.approx((known.low, known.high))
        assert (record["change"]["n"], record["change"]["unit"]) == (3, "prompts")


def test_step_columns_of_the_table(cells: list[Path]) -> None:
    (run,) = load([cells[3]])
    steps = [
        json.loads(line) for line in (cells[3] / "metrics.jsonl").read_text().splitlines() if '"step", "step"' in line
    ]
    assert len(steps) == len(run.steps) == 120
    text = page([cells[3]])
    for key in ("push/down", "push/up"):
        assert f"<td>{number(sum(line[key] for line in steps) / 120)}</td>" in text
    assert "<td>7,680</td>" in text and "<td>3 min 00 s</td>" in text and "<td>100\u00a0%</td>" in text


def test_every_plot_has_a_table_and_plots_its_numbers(cells: list[Path]) -> None:
    text = page(cells)
    figures = [part.partition("</figure>")[0] for part in text.split("<figure>")[1:]]
    assert len(figures) == 11 and "Reward–KL frontier" in figures[0]
    for figure in figures:
        assert figure.count("<svg") == 1 and 'role="img"' in figure and "<details><summary>Numbers" in figure
    reward = Reader(figures[1])
    assert len([p for p in reward.all("path") if p["class"] == "line"]) == 4
    rows = [line["step"] for line in evaluations(cells[0])]
    assert figures[1].count("<tr>") == len(rows) + 1
    assert not any("NaN" in figure or "inf" in figure for figure in figures)


def test_answers_at_temperature_zero_are_shown_where_there_are_such(tmp_path: Path) -> None:
    folder = make(tmp_path, "run")
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    greedy = [line | {"response": f"calm {line['step']}", "greedy": True} for line in lines]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, *greedy]))
    shown = comparisons(load([folder]), 3)
    assert {line["response"] for item in shown for line in (*item.before, *item.after) if line} == {
        f"calm {step}" for step in (min(line["step"] for line in lines), max(line["step"] for line in lines))
    }
    assert "answers at temperature 0" in page([folder])


def test_size_of_many_long_runs(tmp_path: Path) -> None:
    folders = [make(tmp_path, f"run{i}", steps=600, on_policy=i / 7, every=6, answer="é" * 20_000) for i in range(8)]
    assert len(page(folders).encode()) <= 1_000_000


def test_labels_say_what_differs(tmp_path: Path) -> None:
    two = [make(tmp_path, "a", negative=0.0), make(tmp_path, "b", negative=1.0)]
    assert [run.label for run in load(two)] == ["no negative gradient", "negative gradient"]
    mixed = [*two, make(tmp_path, "c", method="pref_ft")]
    assert [run.label for run in load(mixed)][1:] == ["dpo · negative gradient", "pref_ft"]
    assert [run.label for run in load([two[0]])] == ["dpo"]
    assert [run.label for run in load([two[0], two[0]])] == ["dpo (a)"] * 2


def test_runs_without_evaluations_or_samples(tmp_path: Path) -> None:
    run = make(tmp_path, "bare", on_policy=1.0)
    steps = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "evaluation" not in line]
    (run / "metrics.jsonl").write_text("\n".join(steps) + "\n")
    (run / "samples.jsonl").unlink()
    text = page([run])
    assert "Reward on held-out prompts" not in text and "Training reward" in text and "Answers before" not in text
    (run / "metrics.jsonl").write_text("")
    assert "<figure>" not in page([run])
    assert findings(load([run])) == ["dpo has no evaluation before and after training."]


def test_findings_judge_by_the_one_rule(tmp_path: Path) -> None:
    """A run against its own start, and a run against another one, on the same prompts."""
    runs = load([make(tmp_path, "flat", gain=0.0), make(tmp_path, "up", gain=1.0)], ["flat", "up"])
    flat, up, between = findings(runs)
    assert flat.endswith("3 prompts): not significantly different.") and up.endswith("3 prompts): better.")
    assert between.startswith("B minus A at the end: +3") and between.endswith("3 prompts): better.")
    assert str(runs[1].against(runs[0])) in between and str(runs[1].change()) in up
    (back,) = [said for said in findings(runs[::-1]) if " minus " in said]
    assert back.endswith("3 prompts): worse.")


def test_runs_on_different_rewards_are_not_compared(tmp_path: Path) -> None:
    one, two = make(tmp_path, "one", gain=0.0), make(tmp_path, "two", gain=1.0)
    manifest = json.loads((two / "manifest.json").read_text())
    manifest["objective"]["reward"] = {"name": "sentiment"}
    (two / "manifest.json").write_text(json.dumps(manifest))
    assert not any(" minus " in said for said in findings(load([one, two])))


def test_a_run_without_scored_answers_is_not_judged(tmp_path: Path) -> None:
    run = make(tmp_path, "bare")
    (run / "samples.jsonl").unlink()
    (said,) = findings(load([run]))
    assert "not judged" in said and "better" not in said


def test_broken_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        load([tmp_path])
    run = make(tmp_path, "broken")
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(DataError, match="broken"):
        load([run])


def test_samples_stand_side_by_side(cells: list[Path]) -> None:
    text = page(cells)
    assert text.count('<details class="sample"') == len(PROMPTS)
    assert text.count('<div class="shared">') == len(PROMPTS)  # all started from the same model
    assert text.count("<article") == 4 * len(PROMPTS)
    assert "cut at the limit" in text


def test_reproduction(cells: list[Path]) -> None:
    reader = Reader(page(cells))
    assert "prefloop train 'examples/two by two.yaml' --method dpo" in reader.text["pre"]
    assert any("on_policy: 1.0, negative: 0.0" in text for text in reader.text["pre"])


def test_command_line(cells: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["report", str(cells[0])]) == 0
    assert (cells[0] / "report.html").is_file()
    assert execute(["report", *map(str, cells)]) == 0
    out = cells[0].parent / "report.html"
    assert out.is_file() and str(out) in capsys.readouterr().out
    with pytest.raises(UserError, match="2 labels for 1 runs"):
        execute(["report", str(cells[0]), "--label", "a", "--label", "b"])


def test_report_imports_no_torch() -> None:
    code = "import sys, prefloop.cli.report; sys.exit('torch' in sys.modules)"
    source = Path(__file__).parents[2] / "src"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(source)}).returncode == 0


def test_paper_link_escapes_and_links() -> None:
    assert str(paper_link("A <b>, arXiv:2305.18290")) == (
        'A &lt;b&gt;, <a href="https://arxiv.org/abs/2305.18290" rel="noreferrer">arXiv:2305.18290</a>'
    )
    assert "<a" not in paper_link('x" onload="y')


def test_preference_accuracy_with_its_interval(tmp_path: Path) -> None:
    run = make(tmp_path, "pairs")
    key = "eval/rewards/accuracies"
    ends = [(0, 0.5, 0.5, 0.5), (120, 0.613, 0.552, 0.674)]
    lines = [{"kind": "evaluation", "step": n, key: v, f"{key}_low": a, f"{key}_high": b} for n, v, a, b in ends]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page([run])
    assert "<td>0.500 [0.500, 0.500]</td>" in text and "<td>0.613 [0.552, 0.674]</td>" in text
    assert "Preference accuracy on held-out pairs" in text
