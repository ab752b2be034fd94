"""Configuration: files, inheritance, dotted flags, types, and what is said about mistakes."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.core.errors import UserError
from prefloop.runs.config import HIGHER, LOWER, Config, TrainingConfig, load, options, to_yaml
from prefloop.runs.other_tools import OURS
from prefloop.tracking.trackers import PACKAGES
from prefloop.worlds.text.spec import ModelOptions


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, "# nothing\n")) == Config() == load(None)


def test_file_values_reach_their_fields(tmp_path: Path) -> None:
    text = "method: rloo\nseed: 7\ntraining: {lr: 0.5, steps: 3}\noverride: {on_policy: 1}\ndata:\n"
    config = load(write(tmp_path, text))
    assert (config.method, config.seed, config.override) == ("rloo", 7, {"on_policy": 1})
    assert config.training == TrainingConfig(lr=0.5, steps=3)


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "'1e-6'", "0.000001", ".1e-5"])
def test_every_way_to_write_a_small_number(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, f"training: {{lr: {text}}}\noverride: {{beta: {text.strip(chr(39))}}}\n")
    assert load(path).training.lr == 1e-6
    assert load(path).override == {"beta": 1e-6}
    assert load(None, ["--training.lr", text.strip("'")]).training.lr == 1e-6


def test_flags_win_over_the_file_and_both_spellings_are_equal(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {steps: 3, lr: 1}\noverride: {beta: 1, negative: 0.5}\n")
    spaced = load(path, ["--training.steps", "20", "--override.beta", "0.2", "--training.max-grad-norm", "2"])
    joined = load(path, ["--training.steps=20", "--override.beta=0.2", "--training.max_grad_norm=2"])
    assert spaced == joined
    assert (spaced.training.steps, spaced.training.lr, spaced.training.max_grad_norm) == (20, 1.0, 2.0)
    assert spaced.override == {"beta": 0.2, "negative": 0.5}


def test_the_last_flag_wins() -> None:
    assert load(None, ["--seed", "1", "--seed", "2"]).seed == 2


def test_text_settings_take_flags_as_written() -> None:
    config = load(None, ["--output", "2026", "--data.system", "no: thanks", "--data.limit", "null"])
    assert (config.output, config.data.system, config.data.limit) == ("2026", "no: thanks", None)


def test_words_that_old_yaml_takes_for_truth_values_stay_words(tmp_path: Path) -> None:
    config = load(write(tmp_path, "data: {system: no, train: 2026-11-23}\nreward: {options: {mode: off}}\n"))
    assert (config.data.system, config.data.train, config.reward.options) == ("no", "2026-11-23", {"mode": "off"})


def test_extends_merges_section_by_section(tmp_path: Path) -> None:
    write(tmp_path, "method: ipo\ntraining: {steps: 3, lr: 1}\noverride: {tau: 1, negative: 0}\n", "base.yaml")
    config = load(write(tmp_path, "extends: base.yaml\ntraining: {lr: 2}\noverride: {tau: 3}\n"))
    assert (config.method, config.training.steps, config.training.lr) == ("ipo", 3, 2.0)
    assert config.override == {"tau": 3, "negative": 0}


def test_extends_goes_one_level_deep(tmp_path: Path) -> None:
    write(tmp_path, "method: ipo\n", "base.yaml")
    write(tmp_path, "extends: base.yaml\n", "middle.yaml")
    with pytest.raises(UserError, match="itself extends"):
        load(write(tmp_path, "extends: middle.yaml\n"))


MISTAKES = [
    ("trainin: {steps: 1}", "unknown key `trainin`", "`training`"),
    ("steps: 1", "unknown key `steps`", "`training.steps`"),
    ("training: {stepz: 1}", "unknown key `training.stepz`", "`steps`"),
    ("training: {steps: many}", "`training.steps` must be a whole number", ""),
    ("training: {steps: 1.5}", "`training.steps` must be a whole number", ""),
    ("training: {steps: true}", "`training.steps` must be a whole number", ""),
    ("training: {steps: .inf}", "`training.steps` must be a whole number", ""),
    ("training: {lr: .nan}", "`training.lr` must be a number", ""),
    ("training: 3", "`training` must be a section", ""),
    ("training: {lr: 0}", "`training.lr` cannot be 0.0", "above 0"),
    ("training: {micro_tokens: -1}", "`training.micro_tokens` cannot be -1", "above 0"),
    ("training: {warmup: -1}", "`training.warmup` cannot be -1.0", "0 or more"),
    ("training: {warmup: 2.5}", "`training.warmup` cannot be 2.5", "share of them below 1"),
    ("training: {steps: -1}", "`training.steps` cannot be -1", "0 (evaluate only)"),
    ("training: {epochs: 0}", "`training.epochs` cannot be 0.0", "above 0"),
    ("training: {schedule: cosin}", "`training.schedule` cannot be 'cosin'", "did you mean `cosine`"),
    ("evaluation: {every: -1}", "`evaluation.every` cannot be -1", "null"),
    ("data: {split_seed: -1}", "`data.split_seed` cannot be -1", "0 or more"),
    ("sampling: {top_p: 0}", "`sampling.top_p` cannot be 0.0", "above 0"),
    ("sampling: {temperature: -1}", "`sampling.temperature` cannot be -1.0", "0 or more"),
    ("data: {held_out_share: 1}", "`data.held_out_share` cannot be 1.0", "below 1"),
    ("data: {limit: 0}", "`data.limit` cannot be 0", "above 0"),
    ("evaluation: {samples: 0}", "`evaluation.samples` cannot be 0", "above 0"),
    ("save: {final: maybe}", "`save.final` must be true or false", ""),
    ("model: {autocast: fast}", "`model.autocast` cannot be 'fast'", "auto, true, false"),
    ("model: {autocast: 1}", "`model.autocast` cannot be 1", "auto, true, false"),
    ("model: {lora_rank: -1}", "`model.lora_rank` cannot be -1", "or more"),
    ("seed: -1", "`seed` cannot be -1", "from 0"),
    ("method: 3", "`method` must be text", ""),
    ("override: {beta: .inf}", "`override.beta` must be a finite number", ""),
    ("seed: 1\nseed: 2", "duplicate key `seed`", ""),
    ("training: {lr: ", "invalid YAML", ""),
    ("- 1\n- 2", "`key: value` lines", ""),
    ("extends: 3", "`extends` must be the name of a file", ""),
    ("extends: absent.yaml", "cannot read the configuration: No such file", ""),
]


@pytest.mark.parametrize(("text", "what", "fix"), MISTAKES)
def test_mistakes_name_file_key_and_remedy(tmp_path: Path, text: str, what: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, text))
    assert what in caught.value.what
    assert str(tmp_path) in caught.value.where
    assert fix in caught.value.fix
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--seed"], "`--seed` has no value"),
        (["--seed", "--output", "x"], "`--seed` has no value"),
        (["seed", "1"], "unexpected argument `seed`"),
        (["--sead", "1"], "unknown flag `--sead`"),
        (["--training.lr", "fast"], "`training.lr` must be a number"),
        (["--override", "3"], "`override` must be a section"),
        (["--override.beta", "[1"], "invalid YAML"),
    ],
)
def test_mistakes_in_flags(flags: list[str], what: str) -> None:
    with pytest.raises(UserError) as caught:
        load(None, flags)
    assert what in caught.value.what
    assert "command line" in caught.value.where


def test_missing_file_and_folder_in_place_of_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            load(path)


def test_every_key_has_a_note_and_its_default() -> None:
    listed = {key: default for key, default, note in options() if note.endswith((".", "`)."))}
    assert len(listed) == len(options())
    assert listed["training.lr"] == TrainingConfig().lr
    assert "override" in listed and not any(key.startswith("override.") for key in listed)


def configs() -> st.SearchStrategy[Config]:
    """Valid configurations with every field drawn."""
    number = st.floats(1e-12, 1e6)
    ranges: dict[str, st.SearchStrategy[Any]] = {
        "top_p": st.floats(0.01, 1),
        "held_out_share": st.floats(0, 0.99),
        "max_cut": st.floats(0, 1),
        "prompts": st.integers(2, 2**60),
        "trained_layers": st.none(),  # never beside adapters, which are drawn
        "adapter": st.none(),  # never beside new adapters
        "parted": st.just(False),  # never beside adapters or bfloat16, which are drawn
        "template_date": st.none() | st.dates().map(str),
        "epochs": st.none(),  # never beside steps
        "keep_best": st.sampled_from((*HIGHER, *LOWER)),  # patience needs one
        "warmup": st.floats(0, 0.99) | st.integers(0, 10**6).map(float),
        "lora_dropout": st.floats(0, 0.99),
        "lora_targets": st.lists(st.text(min_size=1)).map(tuple),
        "to": st.lists(st.sampled_from(sorted(PACKAGES)), unique=True).map(tuple),
        "columns": st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.text(min_size=1)),
        "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:12", "mps"]),
        "autocast": st.sampled_from(["auto", True, False]),
        "override": st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), number | st.text() | st.booleans()),
        **dict.fromkeys(
            ("options", "gold_options", "template_options"),
            st.dictionaries(st.text(min_size=1), number | st.integers() | st.none()),
        ),
    }
    plain = {int: st.integers(1, 2**60), float: number, str: st.text(min_size=1), bool: st.booleans()}

    def field_of(schema: type, name: str, hint: Any) -> st.SearchStrategy[Any]:
        if is_dataclass(hint):
            return section(hint)
        if name in ranges:
            return ranges[name]
        if get_origin(hint) is Literal:
            return st.sampled_from(get_args(hint))
        return plain[hint] if hint in plain else st.none() | plain[next(t for t in hint.__args__ if t in plain)]

    def section(schema: Any) -> st.SearchStrategy[Any]:
        hints = get_type_hints(schema)
        return st.builds(schema, **{f.name: field_of(schema, f.name, hints[f.name]) for f in fields(schema)})

    return section(Config)


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # the type checker's random samples of containers
@given(configs())
@settings(max_examples=50)
def test_the_resolved_file_reads_back_unchanged(tmp_path: Path, config: Config) -> None:
    assert load(write(tmp_path, to_yaml(config))) == config


def test_trained_layers_are_read_back_and_refused_beside_adapters(tmp_path: Path) -> None:
    config = Config(model=ModelOptions(trained_layers=3))
    assert load(write(tmp_path, to_yaml(config))) == config
    with pytest.raises(UserError, match="adapters are trained in all layers"):
        ModelOptions(trained_layers=3, lora_rank=1)


def test_epochs_are_read_back_and_take_the_place_of_steps(tmp_path: Path) -> None:
    config = Config(training=TrainingConfig(epochs=3.0))
    assert load(write(tmp_path, to_yaml(config))) == config
    steps = write(tmp_path, "training: {steps: 7}\n", "steps.yaml")
    epochs = write(tmp_path, "extends: steps.yaml\ntraining: {epochs: 2}\n", "epochs.yaml")
    for path, flags, want in (
        (epochs, [], (100, 2)),
        (steps, ["--training.epochs=1.5"], (100, 1.5)),
        (epochs, ["--training.steps=5"], (5, None)),
        (steps, ["--training.epochs=null"], (7, None)),
        (epochs, ["--seed=1"], (100, 2)),
    ):
        training = load(path, flags).training
        assert (training.steps, training.epochs) == want


def test_steps_and_epochs_at_once_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {steps: 100, epochs: 2}\n")
    for load_both in (lambda: load(path), lambda: load(None, ["--training.steps=3", "--training.epochs=1"])):
        with pytest.raises(UserError, match="both say how long to train") as caught:
            load_both()
        assert "training" in caught.value.where and "leave one of them out" in caught.value.fix
    with pytest.raises(UserError, match="both say how long to train"):
        TrainingConfig(steps=3, epochs=2.0)


def test_configurations_are_compared_by_value() -> None:
    assert Config() != replace(Config(), seed=1)


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("learning_rate", "`training.lr`"),
        ("num_train_epochs", "`training.epochs`"),
        ("per_device_train_batch_size", "`training.minibatch`"),
        ("gradient_accumulation_steps", "`training.minibatch`"),
        ("max_length", "`data.max_response_tokens`"),
        ("sequence_len", "`data.max_response_tokens`"),
        ("cutoff_len", "`data.max_response_tokens`"),
        ("warmup_ratio", "`training.warmup`"),
        ("lr_scheduler_type", "`training.schedule`"),
        ("bf16", "`model.dtype`"),
        ("output_dir", "`output`"),
        ("model_name_or_path", "`model.path`"),
        ("lora_r", "`model.lora_rank`"),
        ("beta", "`override.beta`"),
        ("report_to", "`tracking.to`"),
        ("wandb_project", "`tracking.project`"),
        ("logging_steps", "metrics.jsonl"),
    ],
)
def test_keys_of_other_tools_are_named_as_ours(tmp_path: Path, key: str, ours: str) -> None:
    with pytest.raises(UserError, match="unknown key") as of_file:
        load(write(tmp_path, f"{key}: 1"))
    with pytest.raises(UserError, match="unknown key") as of_section:
        load(write(tmp_path, f"training: {{{key}: 1}}"))
    with pytest.raises(UserError, match="unknown flag") as of_flag:
        load(None, [f"--{key.replace('_', '-')}", "1"])
    assert all(ours in error.value.fix for error in (of_file, of_section, of_flag))


def test_every_answer_for_keys_of_other_tools_names_a_key_of_ours() -> None:
    ours = {"override.beta", "override.responses", "override.on_policy", "override.reuse", "override.negative"}
    ours |= {name for name, _, _ in options()} | {"prefloop methods"}
    for name, answer in OURS.items():
        assert set(re.findall(r"`([^`]+)`", answer)) <= ours, name
        assert name not in {key.rpartition(".")[2] for key in ours - {f"override.{name}"}}, name


def test_no_flag_is_suggested_that_is_not_near() -> None:
    with pytest.raises(UserError) as error:
        load(None, ["--gama", "1"])
    assert error.value.fix == "--help lists the flags"
