"""The demo from its command line to its page, on a tiny model; slow: on the real one."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch

import tiny
from prefloop.analysis.compare import difference
from prefloop.cli import demo_cells, demo_result
from prefloop.cli.demo_cells import GRID, LABELS, configs
from prefloop.cli.main import main
from prefloop.policies import pretrained
from prefloop.report.data import load
from prefloop.rewards.sentences import whole
from prefloop.runs.folder import runs

CPU_SECONDS = 600  # of two cores for five minutes

TINY = """
model: {path: %s, autocast: false, trained_layers: 1}
data: {train: builtin, held_out: builtin, system: ""}
reward: {name: one_sentence}
sampling: {max_new_tokens: 6}
training: {steps: 2, batch: 16, minibatch: 8, lr: 1.0e-2}
evaluation: {prompts: 4, every: 1, greedy: 4, max_cut: 1.0}
save: {final: false}
"""


@pytest.fixture
def tiny_cells(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's own cells over a tiny model."""
    folder = tmp_path_factory.mktemp("cells")
    pretrained.save(tiny.llama(len(tiny.WORDS), torch.float32), tiny.tokenizer(), folder / "tiny", "a tiny model")
    for file in demo_cells.CONFIGS.glob("*.yaml"):
        (folder / file.name).write_text(file.read_text())
    (folder / "base.yaml").write_text(TINY % (folder / "tiny"))
    monkeypatch.setattr(demo_cells, "CONFIGS", folder)


@pytest.mark.usefixtures("tiny_cells")
def test_one_seed_from_the_command_to_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", f"--output={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"(?m)^about \d+\.\d min in all", shown)
    assert "they do not cover differences between seeds" in " ".join(shown.split())
    assert "predicted" in shown and "before" in shown and shown.count("on-policy sampling helps") == 2
    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert all(LABELS[name] in page for name in GRID)
    steps = [{line["step"] for line in run.evaluations} for run in load(runs(tmp_path))]
    assert steps == [{0, 1, 2}] * 4  # the frontier has every evaluation


@pytest.mark.usefixtures("tiny_cells")
def test_the_answers_at_temperature_zero_are_those_of_the_policy_and_the_rest_is_sampled(tmp_path: Path) -> None:
    assert main(["demo", f"--output={tmp_path}", "--quiet", "--cells", "offline_dpo"]) == 0
    (run,) = load(runs(tmp_path))
    greedy = [line for line in run.samples if line.get("greedy")]
    assert [line["step"] for line in greedy] == [0] * 4 + [2] * 4
    assert demo_result.answers(run, greedy=True).keys() == demo_result.answers(run).keys()


@pytest.mark.usefixtures("tiny_cells")
def test_seeds_give_intervals_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = ["--cells", "offline_dpo,offline_positive"]
    assert main(["demo", f"--output={tmp_path}", "--seeds=3", "--json", *cells]) == 0
    out = json.loads(capsys.readouterr().out)
    (verdict,) = out["verdicts"]
    assert (verdict["difference"]["n"], verdict["difference"]["unit"]) == (3, "seeds × 3 prompts")
    folders = [Path(run) for cell in out["cells"].values() for run in cell["runs"]]
    assert sorted(folders) == sorted(runs(tmp_path)) and len(folders) == 6
    assert [run.config["seed"] for run in load(folders)] == [0, 1, 2, 0, 1, 2]
    assert main(["demo", f"--output={tmp_path}", "--seeds=3", "--json", *cells]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == out["cells"]  # finished runs are reused


def test_fewer_steps_shorten_collections_and_evaluations(tmp_path: Path) -> None:
    one = configs(GRID, seed=3, output=str(tmp_path), steps=1)["online_dpo"]
    assert (one.training.steps, one.training.batch, one.seed) == (1, one.training.minibatch, 3)
    many = configs(GRID, seed=3, output=str(tmp_path), steps=100)["online_dpo"]
    usual = configs(GRID, seed=3, output=str(tmp_path))["online_dpo"]
    assert many.training.batch == usual.training.batch and many.evaluation == usual.evaluation


@pytest.mark.parametrize(
    ("flag", "what"),
    [("--seeds=0", "use 1 or more"), ("--steps=0", "use 1 or more"), ("--cells=onlin_dpo", "online_dpo")],
)
def test_mistakes_are_named_before_anything_runs(
    flag: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", flag, f"--output={tmp_path}"]) == 2
    assert what in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "word"), [([0.19, 0.2, 0.21], "holds"), ([-0.19, -0.2, -0.21], "contradicted"), ([-0.1, 0.2], "open")]
)
def test_a_verdict_follows_the_interval(values: list[float], word: str) -> None:
    assert demo_result.Verdict("it helps", difference(values, unit="seeds")).word == word


def test_a_verdict_in_words() -> None:
    verdict = demo_result.Verdict("it helps", difference([-0.19, -0.2, -0.21], unit="seeds"))
    assert str(verdict) == "it helps: contradicted, −0.20 [−0.22, −0.18]"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_the_real_model_every_cell_improves_near_the_reference_within_five_minutes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = time.process_time()
    assert main(["demo", f"--output={tmp_path}", "--json"]) == 0
    assert time.process_time() - clock <= CPU_SECONDS
    cells = {n: [load([Path(cell["runs"][0])])[0]] for n, cell in json.loads(capsys.readouterr().out)["cells"].items()}
    assert demo_result.farthest(cells) <= demo_cells.BUDGET
    for name, (run,) in cells.items():
        assert demo_result.greedy(run) > demo_result.greedy(run, last=False), name
        assert demo_result.reward([run]).value > demo_result.reward([run], last=False).value, name
    answers = demo_result.answers(cells["online_dpo"][0], greedy=True).values()
    assert sum(whole(text) == 1 for text in answers) >= 0.75 * len(answers)  # one sentence, properly ended
