"""`prefloop advise`: what it says without a tested rule and with one, what the data feed, budgets, configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefloop.advice import rule
from prefloop.advice.actions import ACTIONS
from prefloop.advice.features import FEATURES
from prefloop.advice.rule import Rule, Status
from prefloop.cli.advise import BATCH
from prefloop.cli.main import main
from prefloop.runs import speed
from prefloop.runs.config import load
from prefloop.runs.speed import Speed

Capture = pytest.CaptureFixture[str]
FAST = ("--prompts", "8", "--max-new-tokens", "3")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    words = ("a", "b", "c", "yes")
    rows = [{"prompt": f"{a} {b}", "chosen": f"{a} c", "rejected": b} for a in words for b in words]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def asked(model: Path, data: Path, *words: str) -> list[str]:
    return ["advise", "--model", str(model), "--data", str(data), *FAST, *words]


def fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ship a made rule that says on-policy where the best of 64 is far above the mean."""
    d, many = len(FEATURES), len(ACTIONS)
    gain = np.zeros((many, 1 + d))
    gain[:, 0] = 0.5
    gain[list(ACTIONS).index("dpo"), 1 + list(FEATURES).index("reach")] = 0.2
    gain[list(ACTIONS).index("dpo"), 0] = 0.9
    regret = {"rule": (0.04, 0.03, 0.05), "best constant": (0.1, 0.08, 0.12)}
    status = Status(200, 100, True, regret, 0.8, 0.1, {"rotated": 200})
    one = Rule(
        tuple(FEATURES),
        np.zeros(d),
        np.ones(d),
        tuple(ACTIONS),
        gain,
        np.full((many, 1 + d), -0.1),
        np.stack([gain] * 3),
        np.full((many, many), 0.1),
        np.full(many, 0.2),
        0.8,
        "dpo-offline",
        status,
    )
    monkeypatch.setattr(rule, "load", lambda: (one, status))


def unfitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "load", lambda: (None, Status()))


def test_without_a_tested_rule_it_shows_the_measurements_and_says_so(
    model: Path, data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfitted(monkeypatch)
    words = asked(model, data, "--reward", "length_min", "--budget", "steps=50")
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["action"] is None and "fitted to 0 problems" in found["cannot_tell"] and found["ranked"] == []
    assert set(found["features"]) == set(FEATURES) and found["refused"] == {}
    assert found["features"]["reach"]["value"] > 0 and found["features"]["reach"]["se"] > 0
    assert found["features"]["steps"]["value"] == pytest.approx(np.log2(50))
    assert found["features"]["fresh"]["value"] == 0
    assert found["measures"]["coverage/chosen/percentile"]["value"] == found["features"]["winner_logp"]["value"]
    assert main(words) == 0
    page = capsys.readouterr().out
    assert "Cannot tell yet" in page and "8 of the 8" in page and "What was measured" in page
    assert all(len(line) <= 80 for line in page.splitlines() if str(model) not in line)


def test_with_a_tested_rule_it_advises_and_writes_a_configuration_that_train_reads(
    model: Path, data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(monkeypatch)
    out = tmp_path / "config.yaml"
    words = asked(model, data, "--reward", "length_min", "--budget", "steps=64", "--budget", "samples=96")
    assert main([*words, "--output", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["action"] == "dpo" and found["ranked"][0]["action"] == "dpo" and found["output"] == str(out)
    assert found["because"]["reach"] > 0 and found["ranked"][0]["sure"] > 0.75
    config = load(out)
    assert (config.method, config.reward.name, config.data.train) == ("dpo", "length_min", str(data))
    assert config.override["on_policy"] == 1.0 and config.override["beta"] == 0.1
    assert (config.training.steps, config.training.batch) == (3, 32)  # 96 fresh responses
    assert main([*words]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert (
        "Use dpo: DPO on fresh responses (online DPO)." in page
        and "Next best:" in page
        and "0.040 [0.030, 0.050]" in page
    )


def test_every_action_has_a_configuration_that_train_reads(
    model: Path, data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfitted(monkeypatch)
    for name in ACTIONS:
        out = tmp_path / f"{name}.yaml"
        assert main(asked(model, data, "--reward", "length_min", "--action", name, "--output", str(out), "--json")) == 0
        assert "asked for, not advised" in out.read_text(encoding="utf-8")
        assert load(out).method == ACTIONS[name].method
    capsys.readouterr()


def test_prompts_alone_feed_on_policy_methods_with_a_reward(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfitted(monkeypatch)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{a} b"}) + "\n" for a in ("a", "b", "c")), encoding="utf-8")
    assert main(asked(model, prompts, "--reward", "length_min", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["refused"]) == {name for name in ACTIONS if name.endswith("-offline")}
    assert main(asked(model, prompts, "--json")) == 0  # auto: there are no pairs to learn a reward from
    found = json.loads(capsys.readouterr().out)
    assert set(found["refused"]) == set(ACTIONS) and "no reward" in found["features"]["reach"]["cannot_tell"]


def test_a_reward_is_learned_from_half_of_the_pairs_and_judged_on_the_other(
    model: Path, data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfitted(monkeypatch)
    assert main(asked(model, data, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["features"]["learned"]["value"] == 1 and 0 <= found["features"]["agrees"]["value"] <= 1
    assert "two halves" in found["features"]["top_agrees"]["cannot_tell"]


def test_a_problem_of_the_lab(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    unfitted(monkeypatch)
    html = tmp_path / "page.html"
    assert main(["advise", "--lab", "rotated-0000", "--json", "--page", str(html)]) == 0
    found = json.loads(capsys.readouterr().out)
    inside = html.read_text(encoding="utf-8").split('id="found">')[1].split("</script>")[0]
    assert found.pop("page") == str(html) and json.loads(inside) == found and found["measures"] == {}
    assert found["action"] is None and all("value" in x for x in found["features"].values() if "cannot_tell" not in x)


@pytest.mark.parametrize(
    ("hours", "steps", "fresh"),
    [
        (0.1, 9, 3),  # 360 s, with 40 s for a step on given responses and 120 s for one on fresh ones
        (0.01, 1, 1),  # less than a step: one of either kind
        (1.0, 10, 10),  # ten passes over the data, of one step each
    ],
)
def test_hours_end_both_budgets(
    hours: float, steps: int, fresh: int, model: Path, data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfitted(monkeypatch)
    one = Speed(opening=1.0, sampling=80 / BATCH, forward=10 / BATCH, training=30 / BATCH)
    monkeypatch.setattr(speed, "quick", lambda config, world: one)
    words = asked(model, data, "--reward", "length_min", "--budget", f"hours={hours:g}", "--json")
    assert main(words) == 0
    features = json.loads(capsys.readouterr().out)["features"]
    assert features["steps"]["value"] == pytest.approx(np.log2(steps))
    assert features["fresh"]["value"] == pytest.approx(np.log2(fresh / steps))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lab", "rotated"], "no problem of the lab"),
        (["--lab", "rotten-0001"], "no world"),
        (["--model", "smollm2"], "a model and data"),
        (["--lab", "rotated-0001", "--budget", "days=3"], "unknown budget"),
        (["--lab", "rotated-0001", "--budget", "steps=0"], "cannot be 0"),
        (["--lab", "rotated-0001", "--action", "dpoo"], "unknown method"),
        (["--lab", "rotated-0001", "--output", "x.yaml"], "`output`"),
        (["--lab", "rotated-0001", "--page", "."], "the page is a folder"),
    ],
)
def test_what_cannot_be_asked(words: list[str], said: str, capsys: Capture) -> None:
    assert main(["advise", *words]) == 2
    assert said in capsys.readouterr().err


def test_no_configuration_is_written_that_nothing_advises(
    model: Path, data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfitted(monkeypatch)
    out = tmp_path / "config.yaml"
    assert main(asked(model, data, "--output", str(out))) == 2
    assert "no method can be advised yet" in capsys.readouterr().err and not out.exists()
    assert main(asked(model, data, "--reward", "none", "--action", "dpo", "--output", str(out), "--quiet")) == 2
    assert "cannot feed" in capsys.readouterr().err
