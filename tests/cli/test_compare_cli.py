"""`prefloop compare` on made-up run folders and lab stores: answers, refusals, 80 columns, JSON and page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from prefloop.cli.compare import cells_of
from prefloop.cli.main import main
from prefloop.core.errors import UserError
from prefloop.report.data import load
from run_folders import labelled, make

GOLD = {"rloo": (0.50, 0.56, 0.47, 0.53), "grpo": (0.71, 0.74, 0.70, 0.73)}


def edit(run: Path, name: str, change: Callable[[str], str]) -> None:
    (run / name).write_text(change((run / name).read_text()))


def folder(root: Path, method: str, seed: int, *, gain: float = 0.5, steps: int = 6, name: str = "") -> Path:
    run = make(root, name or f"{method}-{seed}", method=method, on_policy=1.0, gain=gain, steps=steps, every=3)
    edit(run, "config.yaml", lambda text: text.replace("seed: 0", f"seed: {seed}") + f"training: {{steps: {steps}}}\n")
    return run


def with_gold(run: Path, gold: float) -> Path:
    """The run with a gold reward of 0.1 before training and `gold` after."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "evaluation":
            line["eval/gold"] = gold if line["step"] else 0.1
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture
def two_methods(tmp_path: Path) -> list[str]:
    gains = {"rloo": 0.4, "grpo": 0.9}
    return [str(folder(tmp_path, m, s, gain=g + 0.02 * s)) for m, g in gains.items() for s in range(3)]


def test_the_answer_first_and_80_columns(two_methods: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *two_methods, "--baseline", "rloo"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("B (grpo · 3 seeds) is better than A (rloo · 3 seeds): reward +")
    assert max(map(len, out.splitlines())) <= 80
    assert "3 seeds × 3 prompts" in " ".join(out.split()) and "mean cost of a run:" in out
    assert main(["compare", *two_methods, "--baseline", two_methods[-1] + "/"]) == 0
    assert capsys.readouterr().out.startswith("A (rloo · 3 seeds) is worse than B (grpo · 3 seeds)")


def test_json_and_page_have_the_same_numbers(
    two_methods: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "compared.html"
    assert main(["compare", *two_methods, "--json", "--page", str(page)]) == 0
    out = json.loads(capsys.readouterr().out)
    text = page.read_text(encoding="utf-8")
    inside = json.loads(text.split('id="comparison">')[1].split("</script>")[0])
    assert out.pop("page") == str(page) and inside == out
    (group,) = out["groups"]
    first, second = group["cells"]
    assert [first["difference"], second["difference"]["verdict"]] == [None, "better"]
    assert second["costs"]["step"] == 6.0 and second["costs"]["hours"] == pytest.approx(9 / 3600)
    assert second["at_kl"] is None and any("do not overlap" in text for text in out["remarks"])  # 4 against 10 nats


def test_a_lab_store_and_run_folders_give_the_same_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prefloop.lab.setting import make as setting
    from prefloop.lab.stack import Run
    from prefloop.lab.store import to_bytes

    folders, runs = [], []
    for method, values in GOLD.items():
        for seed, gold in enumerate(values):
            run = with_gold(folder(tmp_path / "runs", method, seed), gold)
            folders.append(str(run))
            of_lab = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
            kl = [line["eval/kl_reverse"] for line in of_lab if line["kind"] == "evaluation"]
            curves = {
                "step": [0, 3, 6],
                "eval/gold": [0.1, gold, gold],
                "eval/kl_reverse_exact": kl,
                "diverged": [0] * 3,
            }
            known = {name: np.array(x, dtype=float) for name, x in curves.items()}
            runs.append(Run(setting(method, "arms", seed=seed, steps=6), known))
    tuning = Run(setting("rloo", "arms", seed=1000, steps=6), runs[0].curves)
    store = tmp_path / "store"
    store.mkdir()
    (store / "stack.parquet").write_bytes(to_bytes([*runs, tuning]))
    answers = []
    for given in (folders, [str(store)]):
        assert main(["compare", *given, "--json", "--baseline", "rloo"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    for key in ("iqm", "difference", "improvement", "visible", "at_kl"):
        ours, theirs = ([cell[key] for cell in one["groups"][0]["cells"]] for one in answers)
        assert ours == theirs, key
    gaps = np.subtract(GOLD["grpo"], GOLD["rloo"])
    known = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    seen = answers[0]["groups"][0]["cells"][1]["difference"]
    assert (seen["low"], seen["high"]) == pytest.approx((known.low, known.high)) and seen["verdict"] == "better"
    assert any("1 runs that tuned" in text for text in answers[1]["remarks"])
    assert any("each seed has prompts of its own" in text for text in answers[1]["remarks"])
    assert any("not recorded" in text for text in answers[0]["remarks"])


def test_runs_on_labels_are_compared_by_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = {"dpo": [1.0] * 12 + [0.0] * 8, "ipo": [1.0] * 19 + [0.0]}
    given = [
        str(labelled(tmp_path, f"{m}-{s}", method=m, seed=s, right=x, longer=[1.0, 0.0] * 10))
        for m, x in right.items()
        for s in range(3)
    ]
    assert main(["compare", *given, "--json"]) == 0
    cell = json.loads(capsys.readouterr().out)["groups"][0]["cells"][1]
    assert cell["difference"]["unit"] == "seeds × 20 questions" and cell["difference"]["value"] == pytest.approx(0.35)


def by_prompt(run: Path, gold: float, seed: int) -> Path:
    """The run with gold rewards of two answers to each of 8 prompts, which ask 4 questions."""
    with_gold(run, gold)
    noise = np.random.default_rng(seed).normal(size=(8, 2)) / 50
    rows = [
        {"step": step, "prompt": f"p{p}", "question": f"q{p % 4}", "gold": (gold * (step > 0) + p + noise[p]).tolist()}
        for step in (0, 6)
        for p in range(8)
    ]
    (run / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def compared(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], list[str]]:
    """The difference of the second method, and the remarks."""
    assert main(["compare", *map(str, folders), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    return out["groups"][0]["cells"][1]["difference"], out["remarks"]


def test_gold_is_compared_by_prompt_where_it_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = {
        method: [
            by_prompt(folder(tmp_path, method, seed), gold, 7 * seed + int(gold * 50))
            for seed, gold in enumerate(golds)
        ]
        for method, golds in GOLD.items()
    }
    whole, _ = compared([run for some in runs.values() for run in some], capsys)
    assert whole["unit"] == "seeds × 4 prompts" and whole["verdict"] == "better"
    assert whole["value"] == pytest.approx(np.mean(GOLD["grpo"]) - np.mean(GOLD["rloo"]), abs=0.03)
    one, _ = compared([some[0] for some in runs.values()], capsys)  # no seed is left to compare over, but prompts
    assert one["unit"] == "prompts" and one["n"] == 4 and one["verdict"] == "better"
    for run in runs["rloo"]:
        (run / "scores.jsonl").unlink()  # as runs of earlier versions
    mixed, remarks = compared([run for some in runs.values() for run in some], capsys)
    assert mixed["unit"] == "seeds" and mixed["verdict"] == "better" and any("not recorded" in x for x in remarks)


def test_a_run_that_an_earlier_version_began_is_read_as_that_version_wrote_it(tmp_path: Path) -> None:
    """Rewards by prompt of later evaluations only are not taken for those before training."""
    run = folder(tmp_path, "rloo", 0)
    (old,) = load([run])
    row = {"step": 6, "question": "q", "reward": [0.0, 1.0]}
    (run / "scores.jsonl").write_text("".join(json.dumps({**row, "prompt": p}) + "\n" for p in "ab"))
    (new,) = load([run])
    assert new.scores(min) == old.scores(min) and new.scores(max) == old.scores(max) and len(old.scores(min)) == 3


def changed(run: Path, key: str, value: object) -> None:
    def other(text: str) -> str:
        manifest = json.loads(text)
        home = manifest["objective"] if key in ("reward", "gold") else manifest
        home[key] = value
        return json.dumps(manifest)

    edit(run, "manifest.json", other)


REFUSED = [
    ("held_out", {"examples": 3, "digest": "other"}, "other held-out examples"),
    ("model", {"path": "gpt", "sha256": "2"}, "other reference (smollm2, not gpt)"),
    ("reward", {"name": "sentiment"}, "other reward (not named, not sentiment)"),
    ("reward", {"name": "bradley_terry"}, "fitted in"),
]


@pytest.mark.parametrize(("key", "value", "why"), REFUSED)
def test_what_cannot_be_compared_is_refused(
    key: str, value: object, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = folder(tmp_path, "rloo", 0), folder(tmp_path, "grpo", 0)
    for run in (one, other):
        changed(run, "held_out", {"examples": 3, "digest": "same"})
    changed(other, key, value)
    assert main(["compare", str(one), str(other)]) == 2
    said = capsys.readouterr().err
    assert "nothing to compare" in said and why in said


def test_a_run_that_is_not_finished_is_left_out_and_named(
    two_methods: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    edit(Path(two_methods[0]), "config.yaml", lambda text: text.replace("steps: 6", "steps: 60"))
    cells, notes = cells_of([Path(run) for run in two_methods])
    assert [len(cell.runs) for cell in cells] in ([1, 2, 3], [2, 3], [3, 2]) and "not finished" in notes[0]
    assert two_methods[0] in notes[0] and "step 6 of 60" in notes[0]


def test_the_same_run_twice_is_no_second_seed(tmp_path: Path) -> None:
    one, two = folder(tmp_path, "rloo", 0, name="a"), folder(tmp_path, "rloo", 0, name="b")
    with pytest.raises(UserError, match="same settings and seed"):
        cells_of([one, two])
    assert len(cells_of([one, one])[0]) == 1


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "absent", "--page", str(tmp_path)]) == 2
    assert "the page is a folder" in capsys.readouterr().err


def test_a_folder_without_runs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2 and "not a run folder" in capsys.readouterr().err
