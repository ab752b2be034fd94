"""`prefloop export`: folders that transformers and peft load with the logits of the run, cards, refusals, the hub."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefloop.cli.main import main
from prefloop.core.files import sha256
from prefloop.policies.pretrained import load
from prefloop.runs.folder import runs

IDS = torch.tensor([[2, 3, 6, 9]])
Capture = pytest.CaptureFixture[str]


def train(model: Path, place: Path, *more: str) -> Path:
    data = place / "pairs.jsonl"
    rows = [{"prompt": f"{a} {b}", "chosen": a, "rejected": f"{b} no"} for a in "abc" for b in ("a", "b", "c", "yes")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [f"--model.path={model}", f"--data.train={data}", "--data.held_out=split", "--reward.name=labels"]
    words += ["--training.steps=2", "--training.batch=4", "--training.minibatch=4", "--training.lr=3e-2"]
    words += [f"--output={place / 'runs'}", "--sampling.max_new_tokens=5", "--model.autocast=false", "--quiet", *more]
    assert main(["train", *words]) == 0
    return runs(place / "runs")[-1]


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    best = ("--evaluation.keep_best=rewards/accuracies", "--evaluation.every=1")
    return train(model, tmp_path_factory.mktemp("whole"), *best)


@pytest.fixture(scope="module")
def adapted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft", reason="LoRA needs the extra `peft`")
    return train(model, tmp_path_factory.mktemp("adapted"), "--model.lora_rank=2")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


def exported(run: Path | str, out: Path, capsys: Capture, *more: str) -> tuple[dict[str, Any], str]:
    """The front matter and the text of the card."""
    assert main(["export", str(run), str(out), "--quiet", *more]) == 0, capsys.readouterr().err
    _, front, text = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_merged_model_is_loaded_by_transformers_with_the_same_logits(
    adapted: Path, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    front, _ = exported(adapted, tmp_path / "out", capsys)
    own, _ = load(str(adapted))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(found), logits(own))
    assert (logits(found) - logits(AutoModelForCausalLM.from_pretrained(model))).abs().max() > 1e-4
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert front["library_name"] == "transformers" and not (tmp_path / "out" / "adapter").exists()


def test_an_adapter_is_loaded_by_peft_with_the_same_logits(
    adapted: Path, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    from peft import AutoPeftModelForCausalLM

    front, text = exported(adapted, tmp_path / "out", capsys, "--adapter")
    found = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(found), logits(load(str(adapted))[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        logits(load(str(tmp_path / "out"), adapter="merge")[0]), logits(found), atol=1e-5, rtol=0
    )
    assert not (tmp_path / "out" / "model.safetensors").exists() and not (tmp_path / "out" / "config.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert front["library_name"] == "peft" and "AutoPeftModelForCausalLM" in text


def test_the_card_states_what_was_done(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    front, text = exported(whole, tmp_path / "out", capsys)
    manifest = json.loads((whole / "manifest.json").read_text(encoding="utf-8"))
    data = whole.parent.parent / "pairs.jsonl"
    count = 12 - manifest["held_out"]["examples"]
    assert manifest["trained_on"] == {"examples": count, "responses": 2 * count}
    last = json.loads((whole / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    places = {"base_model", "license"}  # neither is known: a folder without a card
    assert front["pipeline_tag"] == "text-generation" and "dpo" in front["tags"] and not places & front.keys()
    low, high = (last[f"eval/rewards/accuracies_{end}"] for end in ("low", "high"))
    for part in (
        sha256(data),
        manifest["model"]["sha256"],
        f"{count} training examples with {2 * count} responses",
        f"{manifest['held_out']['examples']} held-out examples",
        "negative = 1",
        "beta = 0.1",
        "minibatch: 4",
        "2305.18290",
        "license is not known",
        f"[{low:.3f}, {high:.3f}]",
        f"torch {manifest['versions']['torch']}",
        shlex.join(manifest["command"]),
    ):
        assert part in text, (part, text)


def test_the_best_model_has_the_numbers_of_its_own_step(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    if not (whole / "best").is_dir():
        pytest.skip("the untrained model was the best")
    _, text = exported(whole / "best", tmp_path / "out", capsys)
    assert "The best model of the run by `rewards/accuracies`" in text
    own = logits(AutoModelForCausalLM.from_pretrained(whole / "best"))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), own)


def test_base_and_license_are_as_given_or_as_the_base_states(
    model: Path, adapted: Path, tmp_path: Path, capsys: Capture
) -> None:
    card = model / "README.md"
    before = card.read_text(encoding="utf-8")
    card.write_text("---\nlicense: mit\n---\n# Base\n", encoding="utf-8")
    try:
        front, text = exported(adapted, tmp_path / "one", capsys, "--adapter", "--base", "some/base")
    finally:
        card.write_text(before, encoding="utf-8")
    settings = json.loads((tmp_path / "one" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (front["base_model"], front["license"], front["base_model_relation"]) == ("some/base", "mit", "adapter")
    assert settings["base_model_name_or_path"] == "some/base" and "by its card: mit" in text
    front, _ = exported(adapted, tmp_path / "two", capsys, "--license", "gemma")
    assert front["license"] == "gemma"


def test_nothing_is_overwritten(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    assert main(["export", str(whole), str(tmp_path)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--adapter"], "the weights themselves, not an adapter"),
        (["--adapter", "--merge"], "exclude each other"),
        (["--public"], "needs --push"),
        (["--push", "nobody"], "OWNER/NAME"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    words: list[str], said: str, whole: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["export", str(whole), str(tmp_path / "out"), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "out").exists()


def test_a_model_that_is_no_run_is_refused(model: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", str(model), str(tmp_path / "out")]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_a_hub_is_reached_on_request_only(
    whole: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is off in tests: a push fails in words, after the folder was written; without --push none is tried."""
    import huggingface_hub

    assert main(["export", str(whole), str(tmp_path / "one"), "--push", "me/model"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "not pushed" in said and "hf upload me/model" in said and (tmp_path / "one" / "README.md").is_file()
    calls: list[tuple[str, Any]] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> str:
            calls.append((name, options))
            return f"https://hub/{name}"

        def upload_folder(self, **options: Any) -> None:
            calls.append(("upload", options["repo_id"]))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    exported(whole, tmp_path / "two", capsys)
    assert calls == []
    _, text = exported(whole, tmp_path / "three", capsys, "--push", "me/model")
    assert calls == [("me/model", {"private": True, "exist_ok": False}), ("upload", "me/model")]
    assert 'from_pretrained("me/model")' in text
