"""`prefloop sample RUN|MODEL --prompts FILE`: answers to the prompts of a file, before and after training."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.cli.data.shared import read
from prefloop.cli.options import CUT, EMPTY, Rows, printable, require, require_new, require_positive, require_seed
from prefloop.core.errors import DataError, UserError
from prefloop.core.files import write
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.records import Group
    from prefloop.runs.trained import Answering

Line = dict[str, Any]
PORTION = 8  # prompts that are answered together
WIDTH = 80
STDOUT = Path("-")


@dataclass(frozen=True, kw_only=True)
class Options(Rows):
    """Answer the prompts of a file with the trained model of a run, or with any model.

    A run answers with its own template, system message and length limit; answers are greedy by default.
    """

    model: Annotated[str, Flag(positional=True, metavar="RUN|MODEL")]
    """Run folder, or RUN/best; or a model: a local folder, a hub name, or smollm2."""
    prompts: Annotated[Path, Flag(metavar="FILE")]
    """Prompts: a data file of any format, see docs/formats.md; its responses are not read."""
    before: bool = False
    """Also answer with the model that the run started from."""
    temperature: float = 0.0
    """Sampling temperature; 0 takes the most likely token."""
    samples: int = 1
    """Answers to each prompt."""
    max_new_tokens: int | None = None
    """Longest answer in tokens (default: as in the run, or 256)."""
    seed: int = 0
    """Seed of the sampling."""
    unfinished: bool = False
    """Use the last checkpoint of a run that has no final model."""
    template: str | None = None
    """auto, chat, plain, chatml, zephyr, alpaca, human-assistant or a Jinja file (default: of the run, or auto)."""
    output: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Write JSON Lines to this new file, or to standard output (-)."""

    def __post_init__(self) -> None:
        require_positive(self, "samples", "max_new_tokens", "limit")
        require_seed(self.seed)
        require(self.temperature >= 0, "temperature", self.temperature, "use 0 or more")
        idle = self.temperature == 0 and self.samples > 1
        require(not idle, "samples", self.samples, "at temperature 0 all answers are equal: set --temperature 1")
        if self.output not in (None, STDOUT):
            require_new(self.output)


def run(options: Options) -> int:
    """Answer every prompt; what is answered is shown at once.

    Raises:
        UserError, DataError: a model, run or file that cannot be used.
    """
    from prefloop.runs.trained import is_run, trained, untrained

    if options.before and not is_run(options.model):
        raise UserError("--before needs a run", where=options.model, fix="give a run folder, or sample both models")
    groups, notes = _prompts(options)
    _note(options, f"opening {options.model}; prompts: {len(groups)}")
    models = {"after": trained(options.model, unfinished=options.unfinished, template=options.template)}
    if options.before:
        models = {"before": untrained(options.model, template=options.template), **models}
    models = {name: _as_asked(model, options) for name, model in models.items()}
    groups, more = _fitting(options, groups, next(iter(models.values())))
    notes += [note for model in models.values() for note in model.notes] + more
    for note in dict.fromkeys(notes):
        _note(options, note)
    lines = _answered(groups, models, options)
    _write(options, lines if options.output is None else _counted(lines, len(groups), options), notes)
    return 0


def _note(options: Options, text: str) -> None:
    """A sentence for people: beside the answers if those go to standard output."""
    if not options.silent:
        print(wrapped(text), file=sys.stderr if options.output == STDOUT else sys.stdout, flush=True)


def _counted(lines: Iterator[Line], count: int, options: Options) -> Iterator[Line]:
    """The same lines with the remaining time on standard error, where the answers do not show it."""
    from prefloop.runs.progress import Progress

    with Progress(count, "answers", quiet=options.silent) as bar:
        for line in lines:
            bar.advance()
            yield line


def _prompts(options: Options) -> tuple[list[Group], list[str]]:
    """The different prompts of the file, and what must be known about it."""
    from prefloop.data.skipping import kept

    loaded = kept(options.prompts, read(options, options.prompts, options.limit), options.faulty)
    different = {(group.prompt, group.tools): group for group in reversed(loaded.groups)}
    return sorted(different.values(), key=lambda group: group.row), list(loaded.notes)


def _as_asked(model: Answering, options: Options) -> Answering:
    """The model with the sampling of the options, or else that of the run."""
    from prefloop.runs.trained import is_run

    own = model.policy.sampling.max_new_tokens if is_run(options.model) else None
    return model.sampled(options.temperature, options.max_new_tokens or own)


def _fitting(options: Options, groups: list[Group], model: Answering) -> tuple[list[Group], list[str]]:
    """The prompts that the model can read, and how many are left out.

    Raises:
        DataError: some cannot be read and are not to be skipped, or none can.
    """
    from prefloop.data.skipping import left_out

    good, faults = model.readable(groups)
    if faults and (options.faulty == "refuse" or not good):
        what = f"{len(faults)} of {len(groups)} prompts cannot be answered; the first, in {faults[0]}"
        raise DataError(what, where=str(options.prompts), fix="fix or remove them, or leave them out: --faulty skip")
    return good, [left_out(faults, len(good))] if faults else []


def _answered(groups: Sequence[Group], models: dict[str, Answering], options: Options) -> Iterator[Line]:
    from prefloop.core.streams import streams

    draws = {name: streams(options.seed)["sampling"] for name in models}  # the same numbers for both
    for start in range(0, len(groups), PORTION):
        portion = groups[start : start + PORTION]
        answers = {name: model.answers(portion, options.samples, draws[name]) for name, model in models.items()}
        for i, group in enumerate(portion):
            line: Line = {"row": group.row, "prompt": [message.plain for message in group.prompt]}
            for name, given in answers.items():
                end = "_before" if name == "before" else ""
                line |= {f"responses{end}": [a.text for a in given[i]], f"cut{end}": [a.cut for a in given[i]]}
            yield line


# ---- output ---------------------------------------------------------------------------------------------------------


def _write(options: Options, lines: Iterator[Line], notes: Sequence[str]) -> None:
    """One JSON value, JSON Lines in a file or on standard output, or text."""
    if options.output == STDOUT:
        for line in lines:
            print(json.dumps(line, ensure_ascii=False), flush=True)
    elif options.output is not None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write(options.output, text)
        count = text.count("\n")
        record = {"file": str(options.output), "prompts": count, "notes": list(notes)}
        options.show(lambda: record, lambda: print(f"prompts answered: {count}, in {options.output}"))
    elif options.json:
        options.show(lambda: {"answers": list(lines), "notes": list(notes)}, lambda: None)
    else:
        for line in lines:
            options.say(text_of(line))


def text_of(line: Line) -> str:
    """A prompt and its answers, at most 80 columns wide."""
    *earlier, last = line["prompt"]
    turns = [f"{turn['role']}: {turn['content']}" for turn in earlier]
    parts = ["", f"row {line['row']}", *(_indented(turn, "") for turn in [*turns, str(last["content"])])]
    for end, title in (("_before", "before"), ("", "after" if "responses_before" in line else "")):
        answers = list(zip(line.get(f"responses{end}", ()), line.get(f"cut{end}", ()), strict=True))
        for n, (text, cut) in enumerate(answers, 1):
            name = " ".join(filter(None, (title, f"{n}" if len(answers) > 1 else "")))
            parts += [f"  {name}:"] if name else []
            parts.append(_indented((text or EMPTY) + (CUT if cut else ""), "    "))
    return "\n".join(parts)


def _indented(text: str, indent: str) -> str:
    lines = printable(text).split("\n")
    return "\n".join(textwrap.fill(x, WIDTH, initial_indent=indent, subsequent_indent=indent) for x in lines)
