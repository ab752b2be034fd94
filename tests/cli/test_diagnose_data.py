"""`prefloop diagnose --model M --data D`: the page and its JSON, what cannot be told, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop.analysis.statistics import Mean
from prefloop.cli.main import main
from prefloop.report.offer import SHARES, cell

Capture = pytest.CaptureFixture[str]
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path / "cache"))


def file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    words = ("a", "b", "c", "yes")
    return file(tmp_path, [{"prompt": f"{a} {b}", "chosen": f"{a} c", "rejected": b} for a in words for b in words])


@pytest.fixture
def ask(model: Path, data: Path, capsys: Capture) -> Ask:
    def run(*words: str, path: Path = data) -> dict[str, Any]:
        common = ["diagnose", "--model", str(model), "--data", str(path), "--samples", "8", "--max-new-tokens", "4"]
        assert main([*common, "--json", *words]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        return dict(json.loads(said.out))

    return run


def test_the_page_shows_the_numbers_of_the_json(model: Path, data: Path, ask: Ask, capsys: Capture) -> None:
    words = ["--prompts", "12", "--samples", "16", "--reward", "length_min", "--beta", "2"]
    found = ask(*words)
    common = ["diagnose", "--model", str(model), "--data", str(data), "--samples", "8", "--max-new-tokens", "4"]
    assert main([*common, *words]) == 0
    page = capsys.readouterr().out
    assert all(len(line) <= 80 for line in page.partition("wrote")[2].splitlines())  # the first names the folder
    whole = " ".join(page.split())
    assert all(" ".join(sentence.split()) in whole for sentence in found["sentences"])
    assert (found["prompts"], found["samples"], found["responses"], found["limit"]) == (12, 16, 24, 4)
    m = found["measures"]
    assert m["coverage/chosen/length"] == {"value": 3.0, "se": 0.0, "units": 12}
    for key in ("chosen/percentile", "rejected/tokens_outside", "pairs/shared_tokens", "reference/novelty"):
        shown = key.rpartition("/")[2]
        assert cell(Mean(**m[f"coverage/{key}"]), shown if shown in SHARES else "percentile") in whole
    assert m["geometry/best_of/1"]["value"] == pytest.approx(m["geometry/mean"]["value"])
    assert f"{m['geometry/optimum/ess']['value']:.1f} effective samples" in whole
    assert m["coverage/pairs/shared_tokens"]["units"] == 12
    assert "are cut and scored unfinished" in m["boundary/votes"]["cannot_tell"]  # four tokens are few for this model
    assert "Cannot tell" in page and "max π/μ needs" in whole


def test_the_html_page_holds_the_json(ask: Ask, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = ask("--prompts", "4", "--page", str(page))
    text = page.read_text(encoding="utf-8")
    inside = json.loads(text.split('id="found">')[1].split("</script>")[0])
    assert found.pop("page") == str(page) and inside == found
    assert "<h4>Measure again</h4><pre>" in text and ">Verdict<" in text


def test_without_a_reward_only_the_data_are_placed(ask: Ask) -> None:
    found = ask()
    assert "--reward NAME" in found["measures"]["geometry"]["cannot_tell"]
    assert "coverage/rejected/percentile" in found["measures"] and not found["reward"]


def test_prompts_alone_show_the_reward_only(ask: Ask, tmp_path: Path) -> None:
    path = file(tmp_path, [{"prompt": f"{a} b"} for a in "abc"])
    found = ask("--reward", "length_min", path=path)
    assert found["measures"]["coverage"] == {"cannot_tell": "the data have no responses"}
    assert found["measures"]["geometry/mean"]["units"] == 3 and found["responses"] == 0


def test_small_beta_cannot_be_told_and_the_smallest_that_can_is(ask: Ask) -> None:
    found = ask("--reward", "length_min", "--reward-option", "scale=2", "--beta", "0.01", "--samples", "24")
    m = found["measures"]
    assert "effective samples" in m["geometry/optimum/kl"]["cannot_tell"]
    assert m["geometry/optimum_told/beta"]["value"] == pytest.approx(m["geometry/smallest_beta"]["value"]) and any(
        "smallest β that these samples carry" in sentence for sentence in found["sentences"]
    )


def test_a_reward_model_is_fitted_to_the_other_half(ask: Ask) -> None:
    found = ask("--reward", "bradley_terry", "--reward-option", "pairs=8")
    assert found["reward"] == "the learned reward" and found["prompts"] < 14
    assert any("accuracy" in note for note in found["notes"])


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "x"],
        ["RUN", "--model", "x", "--data", "y"],
        ["--model", "x", "--data", "y", "--samples", "1"],
        ["--model", "x", "--data", "y", "--prompts", "0"],
        ["--model", "x", "--data", "y", "--reward-option", "scale=2"],
        ["--model", "x", "--data", "y", "--page", "."],
    ],
)
def test_what_is_refused(words: list[str], capsys: Capture) -> None:
    assert main(["diagnose", *words]) == 2
    assert "fix:" in capsys.readouterr().err


def test_an_unknown_reward_is_refused_before_anything_is_sampled(model: Path, data: Path, capsys: Capture) -> None:
    words = ["--model", str(model), "--data", str(data), "--reward", "length_max"]
    assert main(["diagnose", *words]) == 2
    said = capsys.readouterr()
    assert "length_min" in said.err and "samples" not in said.err
