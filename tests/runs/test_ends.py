"""Whatever ends a run: the last finished step is on disk, the message says how to continue, and that gives the same
bytes as a run without the fault."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from prefloop.cli.main import main
from prefloop.core import loop as core_loop
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.loop import Loop, Record
from prefloop.policies import pretrained
from prefloop.policies.causal_lm import CausalLM
from prefloop.runs import checkpoint, ends, experiment, folder, saving, trial
from prefloop.runs import config as configuration
from prefloop.runs.folder import RunFolder, read
from prefloop.worlds.text.problem import TextProblem

pytestmark = pytest.mark.usefixtures("one_thread")

MORE = [
    "--save.state=false",
    "--evaluation.every=2",
    "--training.batch=8",
    "--training.minibatch=4",
    "--override.reuse=2",
]


def flags(model: Path, output: Path, *more: str) -> list[str]:
    fixed = [
        "--method=online_dpo",
        "--reward.name=length_min",
        "--sampling.max_new_tokens=6",
        "--evaluation.prompts=4",
        "--evaluation.max_cut=1",
    ]
    fixed += ["--training.steps=5", "--training.lr=1e-2", "--model.autocast=false", *MORE]
    return [f"--model.path={model}", f"--output={output}", *fixed, *more]


def start(model: Path, output: Path, *more: str, **how: Any) -> Path:
    return experiment.run(configuration.load(None, flags(model, output, *more)), quiet=True, **how).folder


def only(output: Path) -> Path:
    (found,) = folder.runs(output)
    return found


def contents(run: Path) -> dict[str, bytes]:
    models = [path for folder in ("final", "best") for path in sorted((run / folder).glob("*"))]
    names = ["metrics.jsonl", "samples.jsonl", *(str(path.relative_to(run)) for path in models)]
    return {name: (run / name).read_bytes() for name in names}


def steps_kept(run: Path) -> list[int]:
    return sorted(checkpoint.step_of(path) for path in checkpoint.checkpoints(run / "checkpoints"))


def told(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a run without a fault; it leaves no checkpoint."""
    run = start(model, tmp_path_factory.mktemp("whole"))
    assert steps_kept(run) == []
    return contents(run)


class Fault:
    """Raises at the n-th call of a function, once."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str, at: int, error: Callable[[], BaseException]):
        self.calls = 0
        original = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == at:
                raise error()
            return original(*args, **options)

        patch.setattr(owner, name, call)


PLACES: dict[str, tuple[Any, str]] = {
    "scoring": (TextProblem, "score"),
    "sampling": (CausalLM, "draw"),
    "forward pass": (CausalLM, "evaluate"),
    "clipping": (core_loop, "clip_gradients"),
    "answers": (experiment, "samples"),
    "recording": (RunFolder, "evaluation"),
    "final evaluation": (experiment, "greedy_answers"),
    "final save": (pretrained, "save"),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_anywhere_keeps_the_last_finished_step(
    model: Path, tmp_path: Path, place: str, whole: dict[str, bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        count = Fault(patch, *PLACES[place], 0, MemoryError)
        start(model, tmp_path / "count")
    for number in sorted({1, 2, count.calls // 2, count.calls - 1, count.calls} & set(range(1, count.calls + 1))):
        output = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryError) as caught:
            Fault(patch, *PLACES[place], number, MemoryError)
            start(model, output)
        if not output.exists() or not steps_kept(only(output)):
            assert "--resume" not in told(caught.value)  # no step was finished
            continue
        run = only(output)
        lines = [line for line in read(run, "metrics") if line["kind"] == "step"]
        assert steps_kept(run)[-1] == len(lines) and f"everything up to step {len(lines)}" in told(caught.value)
        assert f"prefloop train --resume {run}" in told(caught.value)
        assert read(run, "events")[-1]["event"] == "failed"
        experiment.resume(run, quiet=True)
        assert contents(run) == whole and steps_kept(run) == []


def test_an_observer_that_fails_and_one_that_interrupts(model: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    def fails(record: Record, loop: Loop) -> None:
        if record.step == 3:
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck") as caught:
        start(model, tmp_path, observers=[fails])
    assert "everything up to step 3" in told(caught.value) and "unless its cause is removed" in told(caught.value)
    with pytest.raises(UserError, match="resumed run keeps its configuration"):
        main_raises(["train", "--resume", str(only(tmp_path)), "--seed=1"])
    experiment.resume(only(tmp_path), quiet=True)
    assert contents(only(tmp_path)) == whole


def main_raises(words: list[str]) -> None:
    from prefloop.cli.main import execute

    execute(words)


def test_a_second_signal_keeps_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
        Fault(patch, core_loop, "clip_gradients", 3, KeyboardInterrupt)
        start(model, tmp_path)
    assert steps_kept(only(tmp_path)) == [] and told(caught.value) == ""


REWARD = """
calls = 0
def flaky(prompt, response):
    global calls
    calls += 1
    if calls == {at}:
        {fault}
    return len(response) + 0.5
"""


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("raise RuntimeError('judge is down')", 3, "judge is down"),
        ("return float('nan')", 3, "finite"),
        ("raise SystemExit(0)", 3, "ended the program"),
        ("raise BaseException('odd')", 3, "odd"),
    ],
)
def test_a_reward_that_fails_loses_no_step(
    model: Path,
    tmp_path: Path,
    fault: str,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    ends_in: list[dict[str, bytes]] = []
    for at in (0, 20):  # 4 of the baseline, 8 of the first collection, 4 of the evaluation at step 2
        name = f"flaky_{abs(hash(fault))}_{at}"
        (tmp_path / f"{name}.py").write_text(REWARD.format(at=at, fault=fault), encoding="utf-8")
        output = tmp_path / str(at)
        more = ("--training.steps=9", "--evaluation.greedy=0")
        run = ["train", *flags(model, output, f"--reward.name={name}:flaky", *more)]
        assert main(run) == (code if at else 0)
        err = capsys.readouterr().err
        if at:
            assert words in err and "Traceback" not in err
            assert f"to continue: prefloop train --resume {only(output)}" in err
            assert main(["train", "--resume", str(only(output))]) == 0  # the counter has passed the fault
            capsys.readouterr()
        ends_in.append({k: v for k, v in contents(only(output)).items() if k != "final/README.md"})
    assert ends_in[0] == ends_in[1]


def test_divergence_keeps_the_last_step_and_says_that_it_comes_back(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, calls = core_loop.clip_gradients, 0

    def nan(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return clip(*args, **options) * (float("nan") if calls == 4 else 1.0)

    monkeypatch.setattr(core_loop, "clip_gradients", nan)
    assert main(["train", *flags(model, tmp_path)]) == 4
    err = capsys.readouterr().err
    assert "step 4: loss or gradient is not finite" in err and "everything up to step 3" in err
    assert "It diverges again" in err and "lower training.lr" in err


def test_metrics_that_cannot_be_recorded_leave_a_line_for_their_step(model: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match="is inf"):
        Fault(patch, experiment, "step_metrics", 3, lambda: DataError("`kl` is inf"))
        start(model, tmp_path)
    experiment.resume(only(tmp_path), quiet=True)
    lines = [line for line in read(only(tmp_path), "metrics") if line["kind"] == "step"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5] and lines[2] == {"kind": "step", "step": 3}


# ---- a full disk ----------------------------------------------------------------------------------------------------


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_without_room_for_a_checkpoint_the_earlier_one_is_named(
    model: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match="disk is full") as caught:
        write, calls = checkpoint._write, 0

        def none(*args: Any) -> None:
            nonlocal calls
            calls += 1
            if calls > 2:
                raise full()
            write(*args)

        patch.setattr(checkpoint, "_write", none)
        start(model, tmp_path, "--save.every=1")
    assert steps_kept(only(tmp_path)) == [2]  # the older one made room, in vain
    assert "step 3 could not be saved" in told(caught.value) and "everything up to step 2" in told(caught.value)
    experiment.resume(only(tmp_path), quiet=True)
    assert contents(only(tmp_path)) == {**whole, "final/README.md": contents(only(tmp_path))["final/README.md"]}


def test_without_any_checkpoint_it_is_said_that_nothing_is_kept(model: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match="finite") as caught:
        patch.setattr(checkpoint, "_write", lambda *_: (_ for _ in ()).throw(full()))
        Fault(patch, core_loop, "clip_gradients", 3, lambda: DataError("a score is not finite"))
        start(model, tmp_path)
    assert "nothing, because there is no earlier checkpoint" in told(caught.value)


def test_a_final_model_is_saved_also_where_a_last_checkpoint_has_no_room(
    model: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_write", lambda *_: (_ for _ in ()).throw(full()))
        assert contents(start(model, tmp_path)) == whole


@pytest.mark.parametrize("part", [0, 10])
@pytest.mark.parametrize("name", ["metrics", "samples"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_lines_that_a_full_disk_has_not_taken_come_with_the_checkpoint(
    model: Path, tmp_path: Path, name: str, at: int, part: int, whole: dict[str, bytes]
) -> None:
    class Full:
        """A file on a disk that becomes full in the middle of a line, after `at` writes."""

        def __init__(self, file: Any) -> None:
            self.file, self.writes = file, 0

        def write(self, data: Any) -> int:
            self.writes += 1
            if self.writes <= at:
                return int(self.file.write(data))
            if self.writes == at + 1 and part:
                return int(self.file.write(data[:part]))
            raise full()

        def __getattr__(self, key: str) -> Any:
            return getattr(self.file, key)

    opened = RunFolder.__init__

    def open_full(self: RunFolder, path: Path) -> None:
        opened(self, path)
        self._files[name] = Full(self._files[name])  # type: ignore[assignment]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match="No space left") as caught:
        patch.setattr(RunFolder, "__init__", open_full)
        start(model, tmp_path)
    if "--resume" in told(caught.value):
        experiment.resume(only(tmp_path), quiet=True)
        assert contents(only(tmp_path)) == whole


def test_room_on_disk_is_asked_for_before_the_first_step(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = sum(p.numel() * 4 for p in tiny.llama(len(tiny.WORDS), torch.float32).parameters())
    usage = trial.shutil.disk_usage(tmp_path)
    for more, factor in (([], 4), (["--save.final=false"], 3), (["--save.every=2"], 7)):
        for free, code in ((weights * factor, 0), (weights * factor - 1, 3)):
            monkeypatch.setattr(trial.shutil, "disk_usage", lambda _, n=free: usage._replace(free=n))
            output = tmp_path / f"{factor}-{code}"
            assert main(["train", *flags(model, output, "--quiet", *more)]) == code
            err = capsys.readouterr().err
            assert code == 0 or ("of disk" in err and "are free" in err and not output.exists())


@pytest.mark.parametrize("more", [[], ["--model.lora_rank=2"]])
def test_a_model_that_cannot_be_saved_is_refused_before_the_first_step(
    model: Path, tmp_path: Path, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = type(tiny.llama(len(tiny.WORDS), torch.float32))

    def never(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no layout on disk")

    monkeypatch.setattr(lm, "save_pretrained", never)
    with pytest.raises(DataError, match="could not be saved: NotImplementedError: no layout"):
        start(model, tmp_path / "runs", *more)
    assert not (tmp_path / "runs").exists()


def test_the_trial_writes_no_weights_and_leaves_the_model_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sizes = tiny.llama(len(tiny.WORDS), torch.float32), list[int]()
    before = {name: p.clone() for name, p in lm.named_parameters()}
    written = pretrained.published

    def watched(path: Path) -> Any:
        sizes.append(sum(p.stat().st_size for p in path.parent.iterdir()))
        return written(path)

    monkeypatch.setattr(pretrained, "published", watched)
    pretrained.try_to_save(lm, tiny.tokenizer())
    assert sizes == [0] and all(torch.equal(p, before[name]) for name, p in lm.named_parameters())


def test_sizes_of_all_groups_are_checked_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"q {i}", "responses": ["a", "b"], "scores": [1, 0]} for i in range(30)]
    rows[17] = {"prompt": "q", "responses": ["a", "b", "c"], "scores": [2, 1, 0]}
    data = tmp_path / "rated.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    more = ["--reward.name=labels", f"--data.train={data}", "--data.held_out=builtin", "--method=dpo"]
    assert main(["train", *flags(tmp_path / "no-model", tmp_path, *more)]) == 2
    err = capsys.readouterr().err
    assert "a group has 3 responses, but the method needs 2" in err and "row 18" in err


# ---- killed ---------------------------------------------------------------------------------------------------------

EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")


def child(work: Callable[[], object], *, seconds: float | None = None) -> int:
    """The exit status of work in a forked process, killed after some seconds; negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)  # a process that has ended is still there until it is waited for
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(number: int, output: Path, work: Callable[[], object]) -> Callable[[], object]:
    """Work that is killed just before its n-th change of files below `output`; their count goes to a file."""

    def run() -> None:
        seen = 0

        def watch(event: str, args: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in EVENTS and args and str(output) in str(args[0]):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        work()
        output.with_suffix(".count").write_text(str(seen), encoding="utf-8")

    return run


def check_kills(model: Path, tmp_path: Path, numbers: Callable[[int], list[int]], *more: str) -> None:
    output = tmp_path / "count"
    assert child(killed_at(0, output, lambda: start(model, output, *more))) == 0
    whole, total = contents(only(output)), int(output.with_suffix(".count").read_text())
    assert total > 50
    resumed = 0
    for number in numbers(total):
        output = tmp_path / f"at-{number}"
        assert child(killed_at(number, output, lambda to=output: start(model, to, *more))) == -signal.SIGKILL
        runs = folder.runs(output)
        if not runs:
            continue
        if not experiment.is_finished(runs[0], configuration.load(runs[0] / "config.yaml")):
            experiment.resume(runs[0], quiet=True)
            resumed += 1
        assert contents(runs[0]) == whole, f"killed before change {number} of {total}"
        assert not list(runs[0].glob(".tmp-*"))
    assert resumed


def test_killed_before_its_first_checkpoint_a_run_starts_again_and_says_so(
    model: Path, tmp_path: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(record: Record, loop: Loop) -> None:
        if record.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    assert child(lambda: start(model, tmp_path, observers=[killed])) == -signal.SIGKILL
    run = only(tmp_path)
    assert steps_kept(run) == [] and len(read(run, "metrics")) == 5  # 2 evaluations and 3 steps
    assert main(["train", "--resume", str(run)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "no checkpoint: 3 recorded steps are lost, and the run starts again" in told
    assert contents(run) == whole
    (restart,) = read(run, "events")
    assert (restart["event"], restart["step"], restart["steps_lost"]) == ("restart", 0, 3)


def test_killed_before_its_manifest_a_run_names_the_command_that_starts_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: dpo\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        experiment.resume(tmp_path, quiet=True)
    assert caught.value.fix == f"nothing was trained here; to start: prefloop train {tmp_path / 'config.yaml'}"


def unfinished(output: Path) -> bool:
    runs = folder.runs(output)
    return not (runs and experiment.is_finished(runs[0], configuration.load(runs[0] / "config.yaml")))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("every", [0, 2])
def test_killed_at_random_times_and_again_while_resuming(model: Path, tmp_path: Path, every: int) -> None:
    rng, more = random.Random(every), [f"--save.every={every}", "--training.steps=12"]
    clock = time.monotonic()
    assert child(lambda: start(model, tmp_path / "whole", *more)) == 0
    seconds, whole = time.monotonic() - clock, contents(only(tmp_path / "whole"))
    kills = 0
    for number in range(int(os.environ.get("PREFLOOP_KILLS", "20"))):
        output, codes = tmp_path / str(number), list[int]()
        while unfinished(output):
            runs = folder.runs(output)
            work = partial(experiment.resume, runs[0], quiet=True) if runs else partial(start, model, output, *more)
            codes.append(child(work, seconds=rng.uniform(0, 1.1 * seconds) if len(codes) < 5 else None))
            assert codes[-1] in (0, -signal.SIGKILL), f"trial {number}: {codes}"
        kills += codes.count(-signal.SIGKILL)
        assert contents(only(output)) == whole, f"trial {number}: {codes}"
    assert kills > 0


def test_killed_before_some_changes_of_files(model: Path, tmp_path: Path) -> None:
    check_kills(model, tmp_path, lambda total: list(range(20, total, 12)), "--save.every=1")


def test_killed_during_the_last_checkpoint_and_the_final_save(model: Path, tmp_path: Path) -> None:
    check_kills(model, tmp_path, lambda total: list(range(total - 15, total + 1)))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("more", [["--save.every=1"], ["--save.state=true", "--evaluation.keep_best=reward"]])
def test_killed_before_every_change_of_files(model: Path, tmp_path: Path, more: list[str]) -> None:
    check_kills(model, tmp_path, lambda total: list(range(1, total + 1)), *more)


def test_a_finished_run_says_so_and_one_without_its_final_model_does_not(model: Path, tmp_path: Path) -> None:
    run = start(model, tmp_path)
    with pytest.raises(UserError, match="this run is finished"):
        experiment.resume(run, quiet=True)
    (run / "final").rename(run / "elsewhere")
    with pytest.raises(UserError, match="no complete checkpoint"):
        experiment.resume(run, quiet=True)


def test_the_last_checkpoint_has_no_state_of_the_optimiser(model: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    def saved(run: RunFolder, loop: Loop, **how: bool) -> Path:
        path = ends.save(run, loop, **how)
        sizes.append((path / "state.safetensors").stat().st_size)
        return path

    with pytest.MonkeyPatch.context() as patch:
        for owner in (experiment, saving):
            patch.setattr(owner, "save", saved)
        start(model, tmp_path, "--save.every=2")
    weights = 4 * sum(p.numel() for p in pretrained.load(str(model))[0].parameters())
    assert len(sizes) == 3 and sizes[0] - sizes[2] > 2 * weights


@pytest.mark.parametrize("place", ["before", "during"])
def test_too_little_memory_is_said_with_what_to_lower_and_what_is_kept(
    model: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on in smaller portions, or on another device."""
    real, calls = CausalLM.evaluate, 0

    def evaluate(self: CausalLM, batch: Batch, **options: Any) -> Any:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if place == "before" or calls == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return real(self, batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(CausalLM, "evaluate", evaluate)
        with pytest.raises(DataError, match=r"memory of the device is too small: CUDA out of memory\.") as error:
            start(model, tmp_path)
    assert error.value.where == "training.micro_tokens, sampling.rows" and "training.batch" in error.value.fix
    said = "\n".join(getattr(error.value, "__notes__", []))
    if place == "before":
        assert "nothing, because no step was finished" in said
        return
    assert "kept:  everything up to step 2" in said and "--training.micro_tokens" in said
    run = only(tmp_path)
    words = ["train", "--resume", str(run), "--training.micro_tokens=64", "--sampling.rows=2", "--model.device=cpu"]
    assert main(words) == 0
    assert (run / "final").is_dir()


def test_an_operation_that_cannot_repeat_its_results_names_the_key(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(self: CausalLM, batch: Batch, **options: Any) -> Any:
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set …")

    monkeypatch.setattr(CausalLM, "evaluate", evaluate)
    with pytest.raises(DataError, match="cannot repeat its results: cumsum_cuda_kernel") as error:
        start(model, tmp_path)
    assert error.value.where == "model.deterministic"
