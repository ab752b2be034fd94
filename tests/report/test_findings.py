"""The sentences about runs on labels, by hand; seeds of one setting are one column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from prefloop.cli.main import main
from prefloop.report.cells import columns
from prefloop.report.figures import draw
from prefloop.report.findings import findings, ranked_against
from prefloop.report.page import render, table
from run_folders import labelled, make

GOOD, FAIR = [1.0] * 18 + [0.0] * 2, [1.0] * 11 + [0.0] * 9
LONGER = [1.0, 0.0] * 10


def test_a_run_on_labels_opens_with_its_accuracy_against_picking_the_longer(tmp_path: Path) -> None:
    run = labelled(tmp_path, "a", right=GOOD, longer=LONGER)
    (said,) = findings(columns([run]))
    assert said.startswith(
        "dpo: after 20 steps the policy ranks 0.900 [0.800, 1.000] of 20 held-out pairs as the data do, by its"
        " implicit reward; picking the longer response: 0.500. Policy minus longer: "
    )
    known = stats.ttest_1samp([a - b for a, b in zip(GOOD, LONGER, strict=True)], 0).confidence_interval(0.95)
    assert f"+0.40 (95 % interval +{known.low:.2f} to +{known.high:.2f}, 20 questions): better." in said
    (other,) = findings(columns([labelled(tmp_path, "b", right=FAIR, longer=LONGER)]))
    assert other.endswith("not significantly different, so not decided.")


def test_if_the_shorter_is_preferred_that_is_what_the_policy_must_beat(tmp_path: Path) -> None:
    run = labelled(tmp_path, "a", right=FAIR, longer=[0.0] * 18 + [1.0] * 2)
    (said,) = findings(columns([run]))
    assert "picking the shorter response: 0.900 (the longer one: 0.100). Policy minus shorter: −0.35" in said


def test_a_method_without_a_reference_is_judged_by_what_it_trains(tmp_path: Path) -> None:
    run = labelled(tmp_path, "a", method="simpo", right=GOOD, longer=LONGER)
    (said,) = findings(columns([run]))
    assert "by its log-prob per token, before training 0.500;" in said
    rows = [row for group in table(columns([run])).values() for row in group]
    assert ["0.900 [0.800, 1.000]"] in [row.cells for row in rows if row.name == "By log-prob per token after"]


def test_methods_are_compared_pair_by_pair(tmp_path: Path) -> None:
    a = labelled(tmp_path, "a", right=GOOD, longer=LONGER)
    b = labelled(tmp_path, "b", method="ipo", right=FAIR, longer=LONGER)
    c = labelled(tmp_path, "c", method="simpo", right=GOOD, longer=LONGER)
    said = findings(columns([a, b, c]))
    gaps = [y - x for x, y in zip(GOOD, FAIR, strict=True)]
    known = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    low, high = (f"{x:.2f}".replace("-", "−") for x in known)
    assert f"B minus A: −0.35 (95 % interval {low} to {high}, 20 questions): worse." in said
    assert any(x.startswith("C minus A: +0.000") and x.endswith("so not decided.") for x in said)
    assert (
        said[3] == "On the same 20 held-out pairs, all ranked by the implicit reward:" and "One seed each" in said[-1]
    )


def test_different_held_out_pairs_are_said_and_not_compared(tmp_path: Path) -> None:
    a, b = (
        labelled(tmp_path, name, method=m, held_out=name, right=GOOD, longer=LONGER)
        for name, m in (("a", "dpo"), ("b", "ipo"))
    )
    said = findings(columns([a, b]))
    assert any("different held-out pairs" in x for x in said) and not any(" minus A" in x for x in said)


def seeds(tmp_path: Path) -> list[Path]:
    rights = {("dpo", 0.1): (14, 15, 16), ("dpo", 0.05): (10, 10, 12), ("ipo", 0.1): (17, 18, 17)}
    return [
        labelled(
            tmp_path, f"{m}-{b}-{9 - s}", method=m, beta=b, seed=s, right=[1.0] * n + [0.0] * (20 - n), longer=LONGER
        )
        for (m, b), counts in rights.items()
        for s, n in enumerate(counts)
    ]


def test_seeds_are_one_column_in_the_order_of_method_and_setting(tmp_path: Path) -> None:
    given = sorted(seeds(tmp_path), key=lambda path: path.name[::-1])
    cells = columns([given[-1], *given[:-1]])
    assert [(cell.letter, cell.method) for cell in cells] == [("A", "dpo"), ("B", "dpo"), ("C", "ipo")]
    assert [cell.label for cell in cells] == ["dpo · beta 0.05 · 3 seeds", "dpo · beta 0.1 · 3 seeds", "ipo · 3 seeds"]
    assert [run.seed for run in cells[0].members] == [0, 1, 2] and cells[0].members[2].letter == "A3"
    after = cells[1].after("eval/rewards/accuracies")
    assert after is not None and after.value == pytest.approx(0.75)
    assert after.se == pytest.approx(stats.sem([0.7, 0.75, 0.8]))
    low, high = (values[-1] for values in cells[1].bounds("eval/rewards/accuracies") or ())
    assert (low, high) == pytest.approx(stats.ttest_1samp([0.7, 0.75, 0.8], 0).confidence_interval(0.95))
    text = render(cells, title="T", verdict=["V."])
    assert text.count('<details class="run"') == 9 and "over seeds" in text


def test_cells_are_judged_over_seeds(tmp_path: Path) -> None:
    said = findings(columns(seeds(tmp_path)))
    known = stats.ttest_1samp([0.2, 0.25, 0.2], 0).confidence_interval(0.95)
    (between,) = (x for x in said if x.startswith("B minus A: +0.22 (95 % interval +"))
    assert between.endswith("3 seeds × 20 questions): better.")
    cells = columns(seeds(tmp_path / "again"))
    judged = ranked_against(cells[1], cells[0])
    assert judged is not None and 0 < judged.low < known.low and judged.high > known.high  # of new questions too
    assert "(mean and 95 % interval of 3 seeds)" in said[0] and not any("One seed each" in x for x in said)


def test_a_run_on_a_reward_is_not_judged_by_pairs_that_it_does_not_train_on(tmp_path: Path) -> None:
    run = labelled(tmp_path, "a", right=GOOD, longer=LONGER)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scored = [line | {"eval/reward": 1.0} if line["kind"] == "evaluation" else line for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scored))
    (said,) = findings(columns([run]))
    assert "reward on held-out prompts" in said and "ranks" not in said


def test_rewards_of_several_seeds_change_and_differ_over_seeds(tmp_path: Path) -> None:
    folders = []
    for method, gain in (("rloo", 0.4), ("grpo", 0.9)):
        for seed in range(3):
            folders.append(make(tmp_path, f"{method}-{seed}", method=method, on_policy=1.0, gain=gain + 0.02 * seed))
            config = folders[-1] / "config.yaml"
            config.write_text(config.read_text().replace("seed: 0", f"seed: {seed}"))
    cells = columns(folders)
    first, second, between = findings(cells)
    assert first.startswith("A (rloo · 3 seeds): reward on held-out prompts") and second.endswith("3 prompts): better.")
    ends = [[run.after("eval/reward") for run in cell.members] for cell in cells]
    gaps = [b.value - a.value for a, b in zip(*ends, strict=True) if a and b]
    known = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    change = cells[1].against(cells[0])
    assert change is not None and change.value == pytest.approx(sum(gaps) / 3)
    assert change.low <= known.low and change.high >= known.high  # of new prompts too
    assert between.startswith("B minus A at the end: ") and "3 seeds × 3 prompts" in between
    assert "Reward–KL frontier" in render(cells, title="T", verdict=["V."])


def test_runs_that_are_named_stay_as_they_are(tmp_path: Path) -> None:
    given = seeds(tmp_path)[::-1]
    names = [path.name for path in given]
    assert [run.label for run in columns(given, names)] == names


def test_figures_of_labels_begin_with_accuracy_and_scales_are_not_mixed(tmp_path: Path) -> None:
    a, b = (labelled(tmp_path, name, beta=beta, longer=LONGER, right=GOOD) for name, beta in (("a", 0.1), ("b", 0.5)))
    runs = columns([a, b])
    figures = draw(runs)
    assert figures[0].title == "Preference accuracy on held-out pairs"
    assert "Training reward" not in {figure.title for figure in figures}
    (margin,) = [figure for figure in figures if figure.title == "Margin"]
    assert "Divided by each run's β" in margin.note and [row[1:] for row in margin.rows][-1] == ["20", "20"]
    (row,) = [row for rows in table(runs).values() for row in rows if row.name == "Margin after"]
    assert row.cells == ["2.000 [1.900, 2.100] (β 0.1)", "10.000 [9.900, 10.100] (β 0.5)"]


def test_a_run_in_training_says_so(tmp_path: Path) -> None:
    run = labelled(tmp_path, "a", right=GOOD, longer=LONGER)
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("steps: 20", "steps: 500"))
    assert "after 20 of 500 steps" in findings(columns([run]))[0]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:8]) + "\n")
    assert findings(columns([run])) == ["dpo has no evaluation after training yet: step 7 of 500."]


def test_single_labels_are_judged_by_how_they_are_separated(tmp_path: Path) -> None:
    run = labelled(tmp_path, "a", method="kto", right=GOOD, longer=LONGER)
    keys = {"eval/labels/auc": 0.71, "eval/labels/auc_se": 0.03, "eval/labels/longer": 0.64, "eval/labels/count": 300}
    lines = [{"kind": "evaluation", "step": step, **keys} for step in (0, 20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (said,) = findings(columns([run]))
    assert said == (
        "kto: after 20 steps a held-out response labelled good has a higher implicit reward than one labelled bad with"
        " probability 0.710\u00a0±\u00a00.030 (300 responses; by length alone 0.6400)."
    )
    assert draw(columns([run]))[0].title == "Held-out labels"


def test_demonstrations_are_judged_by_their_loss(tmp_path: Path) -> None:
    run = labelled(tmp_path, "a", method="sft", right=GOOD, longer=LONGER)
    ends = [(0, 1.5, 4.48), (20, 1.25, 3.49)]
    lines = [
        {
            "kind": "evaluation",
            "step": n,
            "eval/loss": x,
            "eval/loss_se": 0.05,
            "eval/perplexity": y,
            "eval/demonstrations": 80,
        }
        for n, x, y in ends
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (said,) = findings(columns([run]))
    assert said == (
        "sft: after 20 steps the loss on 80 held-out demonstrations went 1.500\u00a0±\u00a00.050 →"
        " 1.250\u00a0±\u00a00.050 nats per token (perplexity 4.480 → 3.490)."
    )


def test_a_page_is_written_again_until_the_runs_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = labelled(tmp_path, "a", right=GOOD, longer=LONGER)
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in whole.splitlines()[:8]))
    pages = []

    def wait(seconds: float) -> None:
        pages.append((run / "report.html").read_text())
        (run / "metrics.jsonl").write_text(whole)

    monkeypatch.setattr("time.sleep", wait)
    assert main(["report", str(run), "--watch", "5"]) == 0
    assert len(pages) == 1 and '<meta http-equiv="refresh" content="5.0">' in pages[0]
    assert "step 7 of 20" in capsys.readouterr().out and "refresh" not in (run / "report.html").read_text()


def test_a_learned_reward_is_called_learned(tmp_path: Path) -> None:
    run = make(tmp_path, "learned")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["objective"]["reward"] = {"name": "bradley_terry", "path": "rm"}
    (run / "manifest.json").write_text(json.dumps(manifest))
    said = findings(columns([run]))[0]
    assert "the learned reward on held-out prompts" in said and "gold" not in said


def test_the_memory_of_the_machine_is_in_gibibytes(tmp_path: Path) -> None:
    run = labelled(tmp_path, "a", right=GOOD, longer=LONGER)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["hardware"] |= {"memory": 25276514304}
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = render(columns([run]), title="T", verdict=["V."])
    assert "23.5 GiB" in text and "<dd>25276514304</dd>" not in text
