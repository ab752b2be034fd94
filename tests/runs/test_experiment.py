"""Whole runs through the configuration on a tiny language model: bytes, resumption, preferences, mistakes."""

from __future__ import annotations

import json
import signal
from datetime import date
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from prefloop.cli.main import main
from prefloop.core.errors import DataError, UserError
from prefloop.core.loop import Loop, Record
from prefloop.data.records import Group, Message, with_system
from prefloop.policies import pretrained
from prefloop.policies.conversation import template_of
from prefloop.report.data import load
from prefloop.rewards.bradley_terry.fit import fit
from prefloop.rewards.bradley_terry.options import FitOptions
from prefloop.runs import config as configuration
from prefloop.runs import experiment
from prefloop.runs.folder import read, read_manifest
from prefloop.runs.interrupt import Interrupt, Interrupted
from prefloop.worlds.text.problem import TextProblem

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = {
    "rloo": ["--evaluation.every=2", "--training.batch=8", "--training.minibatch=8"],
    "online_dpo": ["--override.reuse=2", "--training.batch=8", "--training.minibatch=4"],
    "ppo": ["--training.batch=8", "--training.minibatch=8"],
    "rwr": ["--override.on_policy=0.5", "--training.batch=16", "--training.minibatch=8"],
    "dpo": ["--training.batch=4", "--training.minibatch=4"],
}


def flags(model: Path, output: Path, method: str, *more: str) -> list[str]:
    fixed = [
        "--reward.name=length_min",
        "--sampling.max_new_tokens=10",
        "--evaluation.prompts=6",
        "--evaluation.max_cut=1",
    ]
    fixed += ["--training.steps=4", "--training.lr=1e-2", "--model.autocast=false"]
    return [f"--model.path={model}", f"--output={output}", f"--method={method}", *fixed, *more]


def start(model: Path, output: Path, method: str, *more: str) -> experiment.Result:
    return experiment.run(configuration.load(None, flags(model, output, method, *more)), quiet=True)


def contents(folder: Path) -> dict[str, bytes]:
    names = ("metrics.jsonl", "samples.jsonl", "scores.jsonl", "final/model.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("method", ROWS)
def test_same_seed_same_bytes_and_another_seed_others(model: Path, tmp_path: Path, method: str) -> None:
    first, again = (start(model, tmp_path, method, *ROWS[method]) for _ in range(2))
    other = start(model, tmp_path, method, *ROWS[method], "--seed=1")
    assert contents(first.folder) == contents(again.folder) != contents(other.folder)
    assert first.folder != again.folder


@pytest.mark.parametrize("polls", [40, 75, 110, 150])
@pytest.mark.parametrize("method", ROWS)
def test_a_run_that_was_stopped_anywhere_ends_in_the_same_bytes(
    model: Path, tmp_path: Path, method: str, polls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(model, tmp_path, method, *ROWS[method])
    seen = 0

    def poll(self: Interrupt) -> None:
        nonlocal seen
        seen += 1
        if seen == polls:
            raise Interrupted(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "poll", poll)
        try:
            stopped = start(model, tmp_path, method, *ROWS[method]).folder
        except experiment.Stopped as stop:
            assert stop.exit_code == 130 and "--resume" in str(stop)
            stopped = Path(str(stop).split()[-1])
            experiment.resume(stopped, quiet=True)
        except Interrupted:
            return  # before the run folder was made: nothing to keep
    assert contents(stopped) == contents(whole.folder)


def test_a_run_that_was_stopped_in_its_last_evaluation_writes_it_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its last safe points; answers at temperature 0 are a part of it."""
    more = [*ROWS["rloo"], "--evaluation.greedy=6"]
    seen, limit = 0, 10**9

    def poll(self: Interrupt) -> None:
        nonlocal seen
        seen += 1
        if seen == limit:
            raise Interrupted(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "poll", poll)
        whole = start(model, tmp_path, "rloo", *more)
        total = seen
    assert sum("greedy" in row for row in read(whole.folder, "samples")) == 2 * 6
    for before_the_end in (0, 4, 9, 14):
        seen, limit = 0, total - before_the_end
        with monkeypatch.context() as patch, pytest.raises(experiment.Stopped) as stopped:
            patch.setattr(Interrupt, "poll", poll)
            start(model, tmp_path, "rloo", *more)
        experiment.resume(stopped.value.folder, quiet=True)
        assert contents(stopped.value.folder) == contents(whole.folder)


def stop_at(step: int) -> experiment.Observer:
    def observe(record: Record, loop: Loop) -> None:
        if record.step == step:
            raise Interrupted(signal.SIGINT)

    return observe


def test_a_finished_run_and_changed_data_are_not_resumed(model: Path, tmp_path: Path) -> None:
    finished = start(model, tmp_path, "rloo")
    before = contents(finished.folder)
    with pytest.raises(UserError, match="finished"):
        experiment.resume(finished.folder, quiet=True)
    assert contents(finished.folder) == before

    data = tmp_path / "prompts.jsonl"
    data.write_text('{"prompt": "yes"}\n{"prompt": "no"}\n', encoding="utf-8")
    config = configuration.load(None, flags(model, tmp_path, "rloo", f"--data.train={data}"))
    with pytest.raises(experiment.Stopped) as stop:
        experiment.run(config, quiet=True, observers=[stop_at(2)])
    data.write_text('{"prompt": "a"}\n{"prompt": "no"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="has changed since the run was started"):
        experiment.resume(str(stop.value).split()[-1], quiet=True)


def test_a_run_goes_on_with_the_date_that_its_template_wrote(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration has it, so that a resumed run, or one that starts from it, asks the same prompts."""
    dated = tmp_path / "dated.jinja"
    dated.write_text("{{ strftime_now('%d %b %Y') }} " + tiny.TEMPLATE)

    def on(day: date) -> None:
        monkeypatch.setattr("prefloop.policies.conversation.date", type("Day", (date,), {"today": lambda: day}))

    on(date(2024, 7, 26))
    folder = start(model, tmp_path, "dpo", *ROWS["dpo"], f"--data.template={dated}").folder
    recorded = configuration.load(folder / "config.yaml")
    assert recorded.data.template_date == "2024-07-26"
    assert any("writes the date 2024-07-26" in note for note in read_manifest(folder)["notes"])
    on(date(2024, 7, 27))
    assert experiment.prepare([recorded], say=lambda text: None).world.model.template.date == "2024-07-26"
    plain = start(model, tmp_path, "dpo", *ROWS["dpo"]).folder
    assert configuration.load(plain / "config.yaml").data.template_date is None


def test_a_mixture_uses_every_prompt_once(model: Path, tmp_path: Path) -> None:
    words = [w for w in tiny.WORDS if w.isalpha()]
    lines = [{"prompt": f"{a} {b}", "chosen": "yes", "rejected": "no"} for a in words for b in words[:2]]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    more = [f"--data.train={data}", "--override.on_policy=0.5", "--training.batch=8", "--training.minibatch=8"]
    seen = []

    def note(record: Record, loop: Loop) -> None:
        seen.extend(tuple(p.tolist()) for p in record.batch.prompts)

    config = configuration.load(None, flags(model, tmp_path, "dpo", *more))
    experiment.run(config, quiet=True, observers=[note])
    assert len(seen) == 16 == len(set(seen))


def test_the_final_model_loads_with_transformers(model: Path, tmp_path: Path) -> None:
    result = start(model, tmp_path, "online_dpo")
    trained = AutoModelForCausalLM.from_pretrained(result.folder / "final")
    before = AutoModelForCausalLM.from_pretrained(model)
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), before.parameters(), strict=True)]
    assert any(moved)
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["objective"]["switches"] == {"on_policy": 1.0, "reuse": 1, "negative": 1.0}
    assert manifest["model"]["sha256"] == pretrained.model_hash(str(model))


def test_preferences_start_at_one_half_and_training_pairs_are_learnt(model: Path, tmp_path: Path) -> None:
    words = [w for w in tiny.WORDS if w.isalpha()]
    lines = [{"prompt": f"{a} {b}", "chosen": words[0], "rejected": words[1]} for a in words for b in words]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    more = [f"--data.train={data}", "--data.held_out=split", "--reward.name=labels", "--training.steps=20"]
    result = start(model, tmp_path, "dpo", *more)
    assert result.before["eval/rewards/accuracies"] == 0.5
    assert result.after["eval/rewards/accuracies"] == 1.0
    assert "eval/reward" not in result.after  # labels cannot score fresh answers


def test_a_run_on_labels_records_answers_and_how_each_held_out_pair_is_ordered(model: Path, tmp_path: Path) -> None:
    words = [w for w in tiny.WORDS if w.isalpha()]
    lines = [{"prompt": f"{a} {b}", "chosen": words[0], "rejected": words[1]} for a in words for b in words]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    more = [f"--data.train={data}", "--data.held_out=split", "--reward.name=labels", "--evaluation.greedy=3"]
    more += ["--evaluation.every=0"]
    results = [start(model, tmp_path, method, *more) for method in ("dpo", "simpo")]
    answers, judged = (read(results[0].folder, name) for name in ("samples", "pairs"))
    assert [line["step"] for line in answers] == [0] * 3 + [4] * 3
    assert all(line["greedy"] and line["response"] and "score" not in line for line in answers)
    assert {line["prompt"] for line in answers[:3]} == {line["prompt"] for line in answers[3:]}
    for result in results:
        last = [line for line in read(result.folder, "pairs") if line["step"] == 4]
        for key, criterion in (("rewards/accuracies", "implicit"), ("accuracy/mean_logp", "mean")):
            assert sum(line[criterion] for line in last) / len(last) == pytest.approx(result.after[f"eval/{key}"])
    assert {line["implicit"] for line in judged if line["step"] == 0} == {0.5}
    names = [[(line["pair"], line["question"]) for line in read(r.folder, "pairs")] for r in results]
    assert names[0] == names[1] and len(set(names[0])) == len(names[0]) / 2  # the same pairs in both, twice each


def test_the_rewards_of_every_answer_are_recorded_by_prompt(model: Path, tmp_path: Path) -> None:
    more = ["--reward.gold=keyword", "--reward.gold_options={word: yes}", "--evaluation.samples=3"]
    result = start(model, tmp_path, "rloo", *ROWS["rloo"], *more)
    for line in (line for line in read(result.folder, "metrics") if line["kind"] == "evaluation"):
        own = [row for row in read(result.folder, "scores") if row["step"] == line["step"]]
        assert len({row["prompt"] for row in own}) == 6
        for name in ("reward", "gold"):
            values = [row[name] for row in own]
            assert {len(x) for x in values} == {3}
            assert fmean(map(fmean, values)) == pytest.approx(line[f"eval/{name}"])
        assert line["eval/reward/best"] == pytest.approx(fmean(max(row["reward"]) for row in own))
        assert 0 <= line["eval/overlap"] <= 1 and 0 < line["eval/distinct_2"] <= 1
    (run,) = load([result.folder])
    assert len(run.scores(max)) == 6 and fmean(run.scores(min).values()) == pytest.approx(result.before["eval/reward"])


def test_an_evaluation_on_the_way_changes_nothing(model: Path, tmp_path: Path) -> None:
    quiet, looking = (start(model, tmp_path, "rloo", f"--evaluation.every={n}") for n in (0, 1))
    steps = [[line for line in read(r.folder, "metrics") if line["kind"] == "step"] for r in (quiet, looking)]
    assert steps[0] == steps[1]
    assert len(read(looking.folder, "metrics")) > len(read(quiet.folder, "metrics"))


MISTAKES = {
    "no such method": (["--method=dpoo"], 2, "did you mean `dpo`"),
    "no such key": (["--training.step=3"], 2, "steps"),
    "no such option": (["--override.betta=1"], 2, "beta"),
    "beta below 0": (["--override.beta=-1"], 2, "beta"),
    "portions": (["--training.minibatch=3"], 2, "divide"),
    "no such model": (["--model.path=/nowhere/at/all"], 2, "model"),
    "no such data": (["--data.train=/nowhere.jsonl"], 3, "/nowhere.jsonl"),
    "labels of nothing": (["--reward.name=labels", "--override.on_policy=1"], 2, "label"),
    "no such reward": (["--reward.name=length_mim"], 2, "length_min"),
    "raising reward": (["--reward.name=bad_rewards:raises", "--override.on_policy=1"], 3, "out of luck"),
    "nan reward": (["--reward.name=bad_rewards:nan", "--override.on_policy=1"], 3, "finite"),
    "prompts too long": (["--data.max_prompt_tokens=3"], 3, "3 tokens"),
    "all is cut": (["--evaluation.max_cut=0", "--sampling.max_new_tokens=1"], 3, "cut"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_and_leave_nothing_behind(
    model: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more, code, words = MISTAKES[case]
    (tmp_path / "bad_rewards.py").write_text(
        "def raises(prompt, response):\n    raise ValueError('out of luck')\n"
        "def nan(prompt, response):\n    return float('nan')\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text("method: dpo\n", encoding="utf-8")
    output = tmp_path / "runs"
    assert main(["train", str(config), *flags(model, output, "dpo"), *more]) == code
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told
    assert not output.exists() or not list(output.iterdir())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "row 1"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "row 1"),
        ({"question": "a", "response": "b", "rejected_response": "c"}, "columns"),
    ],
)
def test_bad_rows_are_named(
    model: Path, tmp_path: Path, line: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, config = tmp_path / "pairs.jsonl", tmp_path / "run.yaml"
    data.write_text(json.dumps(line) + "\n", encoding="utf-8")
    config.write_text("method: dpo\nreward: {name: labels}\n", encoding="utf-8")
    more = [f"--data.train={data}", "--data.held_out=split"]
    assert main(["train", str(config), *flags(model, tmp_path / "runs", "dpo"), *more]) == 3
    told = capsys.readouterr().err
    assert words in told and str(data) in told


def test_scorer_and_policy_see_the_same_prompts() -> None:
    words, system = [w for w in tiny.WORDS if w.isalpha()], "system yes"
    groups = [
        Group((Message("user", f"{a} {b}"),), (f"{a} yes", f"{b} no a"), (1.0, 0.0), f"{a} {b}", i)
        for i, (a, b) in enumerate((a, b) for a in words for b in words)
    ]
    seen = with_system(system, groups)
    model = fit(
        tiny.llama(len(tiny.WORDS), torch.float32), template_of(tiny.tokenizer()), seen, FitOptions(pooling="both")
    )
    scores = model.score_batch(TextProblem(groups, template_of(tiny.tokenizer()), system=system).batch_of(groups))
    torch.testing.assert_close(scores[:, 0] - scores[:, 1], model.compare(seen).margin, atol=1e-5, rtol=0)
    other = model.compare(groups).margin
    assert not torch.allclose(other, model.compare(seen).margin, atol=1e-3)
