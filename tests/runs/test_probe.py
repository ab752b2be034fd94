"""A probe set that a run follows: what it measures, what is refused, and which files it reads."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from made_evidence import dpo, evaluations
from prefloop.analysis.forgetting import forgetting
from prefloop.core.errors import DataError
from prefloop.core.loop import Loop, Record
from prefloop.runs import config as configuration
from prefloop.runs import experiment
from prefloop.runs.folder import read, read_manifest
from prefloop.runs.interrupt import Interrupted
from prefloop.runs.probe import checked, measured, read_probe
from prefloop.runs.trained import trained, untrained
from prefloop.worlds.text.open_data import open_data

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = [{"prompt": f"{a} {b}", "chosen": "yes", "rejected": "no"} for a in "ab" for b in "abc"]
PROBE = [{"prompt": f"c {x}", "right": f"{x} yes", "wrong": f"no {x} {x}"} for x in "abc"] + [
    {"prompt": "c", "right": "no"}
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(folder: Path, model: Path, rows: list[dict[str, Any]], *more: str) -> configuration.Config:
    pairs, probe = written(folder / "pairs.jsonl", PAIRS), written(folder / "probe.jsonl", rows)
    own = [f"--model.path={model}", f"--output={folder / 'runs'}", f"--data.train={pairs}", "--data.held_out=split"]
    own += ["--data.held_out_share=0.4", "--training.steps=4", "--training.batch=4", "--training.minibatch=4"]
    own += ["--training.lr=1e-2", "--evaluation.every=2", "--model.autocast=false", f"--evaluation.probe={probe}"]
    return configuration.load(None, [*own, *more])


def test_a_run_follows_its_probe_set_also_after_an_interruption(model: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, model, PROBE)

    def stop(record: Record, loop: Loop) -> None:
        if record.step == 3:
            raise Interrupted(signal.SIGINT)

    with pytest.raises(experiment.Stopped) as stopped:
        experiment.run(settings, quiet=True, observers=[stop])
    folder, file = stopped.value.folder, tmp_path / "probe.jsonl"
    assert read_manifest(folder)["data"].keys() >= {str(file)}
    assert any("4 prompts with 2 kinds of response: right, wrong" in note for note in read_manifest(folder)["notes"])
    written(file, PROBE[:3])
    with pytest.raises(DataError, match="has changed since the run was started"):
        experiment.resume(folder, quiet=True)
    written(file, PROBE)
    experiment.resume(folder, quiet=True)
    lines = [line for line in read(folder, "metrics") if line["kind"] == "evaluation"]
    assert [line["step"] for line in lines] == [0, 2, 4] and lines[0]["eval/probe"] == lines[0]["eval/probe_se"] == 0
    found, _ = measured(read_probe(file), untrained(str(folder)), trained(str(folder)))
    for shift in found:
        seen = [lines[-1][f"eval/probe/{shift.kind}{end}"] for end in ("", "_se")]
        assert seen == pytest.approx([shift.per_token.value, shift.per_token.se], abs=1e-5) and seen[0] != 0
    counts = {shift.kind: shift.change.units for shift in found}
    whole = sum(lines[-1][f"eval/probe/{kind}"] * n for kind, n in counts.items()) / sum(counts.values())
    assert counts == {"right": 4, "wrong": 3} and lines[-1]["eval/probe"] == pytest.approx(whole)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [*PROBE, {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a a"}], "right": "b"},
             *({"prompt": row["prompt"], "right": "c"} for row in PAIRS)],
            "of 11 prompts of the probe set are trained on too",
        ),
        (PROBE[:1], "a single prompt has no standard error"),
        ([{"prompt": "c"}], "no responses"),
    ],
)  # fmt: skip
def test_what_is_refused_before_a_model_is_loaded(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    settings = config(tmp_path, tmp_path / "absent", rows)
    with pytest.raises(DataError, match=said) as refused:
        checked(settings, open_data(settings.data))
    assert "probe" in str(refused.value.where)


def test_files_in_a_format_of_the_data_are_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "c"}]
    pairs = [
        {"prompt": turns, **{side: [{"role": "assistant", "content": text}] for side, text in sides.items()}}
        for sides in ({"chosen": "yes", "rejected": "no"}, {"chosen": "a", "rejected": "b"})
    ]
    found = read_probe(written(tmp_path / "pairs.jsonl", pairs))
    assert [row.responses for row in found.rows] == [
        {"chosen": "yes", "rejected": "no"},
        {"chosen": "a", "rejected": "b"},
    ]
    shown = [{"messages": [*turns, {"role": "assistant", "content": "yes"}]}] * 2
    assert read_probe(written(tmp_path / "shown.jsonl", shown)).kinds == ["response"]


def test_forgetting_is_a_fall_beyond_its_error() -> None:
    def score(last: float, se: float) -> float:
        curves = {**dpo().curves, "eval/probe": evaluations(0.0, last, se), "eval/probe/right": evaluations(0.0, -0.5)}
        reading = forgetting(replace(dpo(), curves=curves))
        assert reading is not None and "lowest of right: −0.5" in reading.said
        return reading.score

    assert score(-0.3, 0.01) == pytest.approx(0.28) and score(-0.3, 0.2) < 0.1 and score(0.3, 0.01) < 0
    assert forgetting(dpo()) is None
