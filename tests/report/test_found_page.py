"""Pages of diagnoses and of advice: self-contained, escaped, and with the numbers of the JSON."""

from __future__ import annotations

import json
import math
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import made_evidence
import run_folders
from prefloop.advice.actions import ACTIONS
from prefloop.advice.features import FEATURES
from prefloop.advice.rule import Advice, Ranked, Status
from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.diagnose import diagnose
from prefloop.analysis.evidence import Evidence
from prefloop.analysis.numbers import compact, plus_minus
from prefloop.analysis.offer import Given, Samples, Value, measured, record
from prefloop.analysis.statistics import Mean
from prefloop.core.errors import UserError
from prefloop.core.files import to_json
from prefloop.report import advised_page, diagnosed_page, found_page, offer_page
from prefloop.report.advised import Page
from prefloop.report.advised import record as advised_record
from prefloop.report.cells import columns
from prefloop.report.data import clean
from prefloop.report.found_page import Found, Part, render, side_by_side
from prefloop.report.offer import About, cell, findings, sentences, unknown
from prefloop.report.page import code
from prefloop.runs.evidence import evidence

PROMPTS, EACH = 12, 16
ABOUT = About("<img src=x>", "pairs.jsonl", "length", PROMPTS, EACH, 64, 2 * PROMPTS, 0.0, 0.0, 2.0)
NOTES = ["a </script><script>alert(1)</script>"]


class Tags(HTMLParser):
    """The start tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))


def inside(page: str) -> Any:
    """The JSON of a page, which loads nothing and escapes what others wrote."""
    for tag, attrs in Tags(page).all:
        assert tag not in ("img", "link", "iframe", "object", "embed", "base") and "src" not in attrs
        assert not any(name.startswith("on") for name in attrs) and ("href" not in attrs or tag == "a")
    assert not re.search(r"url\(|@import", page) and "default-src 'none'" in page
    assert page.count("<script") == 1 and "alert(1)</script>" not in page and len(page.encode()) <= found_page.LIMIT
    (text,) = re.findall(r'<script type="application/json" id="found">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def offered(reward: bool = True) -> dict[str, Value]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 20, 3 * PROMPTS * EACH)
    texts = [rng.integers(0, 9, n).tolist() for n in lengths.tolist()]
    own = [texts[i * EACH : (i + 1) * EACH] for i in range(PROMPTS)]
    size = lengths[: PROMPTS * EACH].reshape(PROMPTS, EACH).astype(float)
    scores = rng.normal(size=(PROMPTS, EACH)) if reward else None
    samples = Samples(-size + rng.normal(size=size.shape), size, own, scores)
    data = texts[-2 * PROMPTS :]
    length = np.array(list(map(len, data)), dtype=float)
    given = Given(
        np.repeat(np.arange(PROMPTS), 2),
        np.tile([1, -1], PROMPTS),
        -1.2 * length,
        length,
        data,
        [rng.uniform(size=len(text)) for text in data],
        np.arange(2 * PROMPTS).reshape(-1, 2),
        reward=rng.normal(size=2 * PROMPTS) if reward else None,
    )
    return measured(given, samples, beta=2.0)


def test_a_page_of_data_has_the_numbers_of_the_json() -> None:
    measures = offered()
    whole = {"sentences": sentences(measures, ABOUT), "measures": record(measures), "notes": NOTES}
    page = render(offer_page.found(measures, ABOUT, whole, NOTES), command="prefloop diagnose --data '<b>'")
    found = inside(page)
    assert found == json.loads(to_json(whole)) and "prefloop diagnose --data &#39;&lt;b&gt;&#39;" in page
    shown = [f"coverage/{side}/{key}" for side in ("chosen", "rejected") for key in ("percentile", "novelty", "reward")]
    for key in [*shown, *(key for key in found["measures"] if key.startswith(("geometry/best_of", "geometry/reach")))]:
        value = found["measures"][key]
        if "value" in value:
            value["se"] = math.nan if value["se"] is None else value["se"]
            text = cell(Mean(**value), "reach" if "reach" in key else key.rpartition("/")[2])
            assert page.count(f"<td>{text}</td>") >= 2, key  # below its picture, and in the table of all
    assert all(escape(text, quote=True).replace("&#x27;", "&#39;") in page for text in findings(measures, ABOUT))
    assert all(reason in page for reason in unknown(measures).values())
    assert page.count("<svg") == page.count("<summary>Numbers") == 6
    place = found["measures"]["coverage/chosen/percentile"]
    assert f"<title>chosen, log-prob: {100 * place['value']:.4g} [{100 * (place['value'] - place['se']):.4g}, " in page


def test_without_a_reward_the_page_says_what_cannot_be_told() -> None:
    measures = offered(reward=False)
    page = render(offer_page.found(measures, ABOUT, {"measures": record(measures)}))
    assert inside(page)["measures"]["geometry"]["cannot_tell"] in page
    assert page.count("<svg") == 3 and "best of" not in page


def test_a_page_of_a_run_has_the_numbers_of_the_json_and_escapes_answers(tmp_path: Path) -> None:
    run = run_folders.make(tmp_path, "one", on_policy=1.0, answer=run_folders.HOSTILE)
    one = diagnose(evidence(run))
    moved = {"kinds": [{"kind": kind, "change": -3.21, "change_se": 0.52, "per_token": -0.1, "per_token_se": math.nan,
                        "fell": 0.75, "prompts": 4} for kind in ("chosen", "<i>x")], "notes": NOTES}  # fmt: skip
    whole = {"runs": [one.record()], "probe": moved}
    page = render(diagnosed_page.found([one], whole, moved, columns([run])))
    found = inside(page)
    assert found == json.loads(to_json(whole)) and "evil.example" in page and "<h2>Answers before and after" in page
    for row in found["runs"][0]["checks"]:
        if row["state"] in ("fault", "sound"):
            assert page.count(f"<td>{compact(row['score'])}</td>") >= 2 and clean(row["said"]) in page, row["check"]
        if row["state"] == "cannot tell":
            assert f"<b>{row['check']}</b>: {row['said']}" in page
    assert page.count("<td>−3.21\u00a0±\u00a00.52</td>") == 4 and "&lt;i&gt;x" in page
    assert page.count("<svg") == page.count("<summary>Numbers") > 6


def test_runs_of_a_store_are_counted() -> None:
    faulty = Evidence("<b>run", "dpo", {}, beta=0.0, pairs=True, reference=True)
    some = [diagnose(made_evidence.dpo()), diagnose(faulty)]
    page = render(diagnosed_page.found(some, {"runs": [one.record() for one in some]}, None, []))
    assert [one["run"] for one in inside(page)["runs"]] == [one.name for one in some]
    assert "2 runs; 1 without a fault." in page and "beta: in 1 of 2 runs" in page and "<h2>&lt;b&gt;run</h2>" in page


def advised(action: str | CannotTell, ranked: tuple[Ranked, ...] = ()) -> Page:
    features: dict[str, Value] = dict.fromkeys(FEATURES, CannotTell("<b>none</b> were asked for"))
    features |= {"votes": Mean(0.61, 0.05, 9), "alike": Mean(0.3, 0.02, 9), "steps": Mean(6.0, 0.0, 1)}
    titles = {name: one.title for name, one in ACTIONS.items()}
    refused = {"rwr-offline": "the data have no scores <i>"}
    status = Status(200, 100, bool(ranked), {"rule": (0.04, 0.03, 0.05)} if ranked else {})
    return Page("A model wrote samples.", Advice(action, ranked), status, titles, refused, features, FEATURES, NOTES,
                offered())  # fmt: skip


def test_a_page_of_advice_has_the_numbers_of_the_json() -> None:
    ranked = (Ranked("dpo", 0.91, 0.7, 1.1, 0.04, 0.83), Ranked("dpo-offline", 0.6, 0.4, 0.8, 0.02, None))
    told = advised("dpo", ranked)
    page = render(advised_page.found(told, advised_record(told), "Which method for <b>"))
    found = inside(page)
    assert found == json.loads(to_json(advised_record(told))) and "<h1>Which method for &lt;b&gt;</h1>" in page
    for one in found["ranked"]:
        cells = [f"{one['value']:.2f}", f"{one['low']:.2f} to {one['high']:.2f}", f"{100 * one['breaks']:.0f} %"]
        assert f"<td>{one['action']}</td>" + "".join(f"<td>{text}</td>" for text in cells) in page
    votes = found["features"]["votes"]
    assert page.count(f"<td>{plus_minus(votes['value'], votes['se'])}</td>") == 2
    assert (
        "Use dpo: " in page and "the data have no scores &lt;i&gt;" in page and "&lt;b&gt;none&lt;/b&gt; were" in page
    )
    chosen = found["measures"]["coverage/chosen/reward"]
    assert f"<td>{cell(Mean(**chosen))}</td>" in page and page.count("<svg") == page.count("<summary>Numbers") == 8


def test_without_a_tested_rule_the_page_of_advice_says_so_and_shows_what_was_measured() -> None:
    told = advised(CannotTell("the rule is fitted to 0 problems with known outcomes, and needs 100"))
    page = render(advised_page.found(told, advised_record(told), "Which method"))
    assert inside(page)["action"] is None and "<p>Cannot tell yet: the rule is fitted to 0 problems" in page
    assert "Expected gain" not in page and "<h3>Shares</h3>" in page


def test_marks_of_two_labels_in_one_row_are_apart() -> None:
    some = Mean(0.2, 0.1, 5)
    lines, rows = side_by_side(["a", "b", "c"], {"one": [some, None, some], "two": [None, None, some]}, scale=10.0)
    assert rows == ["a", "c"] and [line.y for line in lines] == [[-0.15, 0.85], [1.15]]
    assert (lines[1].x, lines[1].left, lines[1].right) == ([2.0], [1.0], [3.0])


def test_a_page_that_is_too_large_is_refused(tmp_path: Any) -> None:
    large = Found("T", ["V."], [Part("P", said=["x" * found_page.LIMIT])], {})
    with pytest.raises(UserError, match="would take"):
        found_page.write(large, tmp_path / "page.html")


def test_code_in_a_sentence_is_set_as_code_and_escaped() -> None:
    assert (
        code("run `prefloop data show <FILE>` & look") == "run <code>prefloop data show &lt;FILE&gt;</code> &amp; look"
    )
    assert code("a lone ` is a mark") == "a lone ` is a mark"
