"""`prefloop data rank FILE --model M`: pairs ordered by how much training on them would displace their winners."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefloop.cli.data.shared import read
from prefloop.cli.options import Rows, printable, require_new, require_positive
from prefloop.core.errors import DataError
from prefloop.core.files import write
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.records import Group
    from prefloop.runs.displacing import Ranking, Scored
    from prefloop.runs.progress import Progress
    from prefloop.worlds.text.open_model import OpenModel
    from prefloop.worlds.text.problem import TextProblem

SHOWN, WIDTH = 5, 80
ADDED = "displacement"  # the key that every exported row gets


@dataclass(frozen=True, kw_only=True)
class Options(Rows):
    """Find the pairs that will push their own chosen response down, before anything is trained.

    Pairs are ordered by the first-order change of log π(chosen) in the first optimiser step on the whole file, most
    negative first. It is exact for that step and orders pairs less well the longer training lasts.
    """

    file: Annotated[Path, Flag(positional=True)]
    """A file of preferences, see docs/formats.md."""
    model: Annotated[str, Flag(metavar="MODEL")]
    """Model that training starts from: a local folder, a hub name, or smollm2."""
    method: str = "dpo"
    """Method of pairs whose gradient is used."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """How a step follows from the gradient; sgd also tells what each pair does to itself (`own`, `negative`)."""
    trained_layers: int | None = None
    """As `model.trained_layers`: fewer weights, less memory."""
    template: str = "auto"
    """auto, chat, plain, chatml, zephyr, alpaca, human-assistant or a Jinja file."""
    system: str | None = None
    """System message for prompts that have none."""
    max_prompt_tokens: int = 256
    """Rows with a longer prompt cannot be used."""
    output: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Write the rows in this order to a new file, JSON Lines, with the numbers under `displacement`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "trained_layers", "max_prompt_tokens")
        if self.output is not None:
            require_new(self.output)


def run(options: Options) -> int:
    """Rank the pairs, and write them if asked to.

    Raises:
        UserError, DataError: a model, method or file that cannot be used.
    """
    from prefloop.core.methods import method
    from prefloop.runs.displacing import as_pairs, rank
    from prefloop.runs.progress import Progress

    wanted = method(options.method)
    opened, problem, groups, notes = _opened(options)
    pairs = as_pairs(groups)
    left = len(groups) - len(pairs)
    notes += [f"{left:,} rows without a preference are left out"] if left else []
    for note in notes:
        options.say(note)
    with Progress(len(pairs), "pairs", quiet=options.silent) as bar:
        rule: Literal["sign", "gradient"] = "sign" if options.optimizer == "adam" else "gradient"
        tick = partial(_advance, bar, len(pairs))
        found = rank(opened.policy(), problem, pairs, wanted, rule=rule, poll=tick)
    if options.output is not None:
        write(options.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(found)))
    record = _record(options, found, notes)
    options.show(lambda: record, lambda: print("\n".join(_lines(options, found))))
    return 0


def _opened(options: Options) -> tuple[OpenModel, TextProblem, list[Group], list[str]]:
    """The model, the problem that renders rows, and the rows that it can render."""
    from prefloop.data.skipping import kept, left_out
    from prefloop.policies.pretrained import Limits
    from prefloop.worlds.text.examine import sound
    from prefloop.worlds.text.open_data import TextData
    from prefloop.worlds.text.open_model import open_model
    from prefloop.worlds.text.spec import DataOptions, ModelOptions, SamplingOptions

    loaded = kept(options.file, read(options, options.file, options.limit), options.faulty)
    options.say(f"opening {options.model} for {len(loaded.groups):,} rows")
    model = ModelOptions(options.model, trained_layers=options.trained_layers)
    opened = open_model(model, SamplingOptions(), template=options.template)
    data = DataOptions(system=options.system, max_prompt_tokens=options.max_prompt_tokens)
    problem = TextData(data, (), (), {}).problem(opened.template, Limits.of(opened.reference.model.config))
    good, faults = sound(problem, loaded.groups, fresh=False, given=True)
    if faults and (options.faulty == "refuse" or not good):
        what = f"{len(faults)} of {len(loaded.groups)} rows cannot be rendered; the first, {faults[0]}"
        raise DataError(what, where=str(options.file), fix="fix or remove them, or leave them out: --faulty skip")
    return opened, problem, good, [*loaded.notes, *([left_out(faults, len(good))] if faults else [])]


def _advance(bar: Progress, pairs: int) -> None:
    if bar.done < pairs:
        bar.advance()


def _rows(found: Ranking) -> list[dict[str, Any]]:
    """The pairs as rows that every verb reads, with their numbers."""
    from prefloop.data.formats import shape, to_row

    one = shape([scored.group for scored in found.pairs])
    return [{**to_row(scored.group, one), ADDED: _numbers(scored)} for scored in found.pairs]


def _numbers(scored: Scored) -> dict[str, Any]:
    return {"row": scored.group.row, **scored.record}


def _record(options: Options, found: Ranking, notes: list[str]) -> dict[str, Any]:
    return {
        "file": str(options.file),
        "method": options.method,
        "optimizer": options.optimizer,
        "pairs": len(found.pairs),
        "mean": found.mean.value,
        "mean_se": found.mean.se,
        "falling": found.falling,
        "output": None if options.output is None else str(options.output),
        "ranked": [_numbers(scored) for scored in found.pairs],
        "notes": notes,
    }


def _lines(options: Options, found: Ranking) -> list[str]:
    """The verdict, the first pairs, and where the rest is; at most 80 columns wide."""
    from prefloop.analysis.numbers import compact, plus_minus, share

    step = "Adam" if options.optimizer == "adam" else "SGD"
    mean = plus_minus(found.mean.value, found.mean.se, sign=True)
    said = (
        f"The first step of {options.method} with {step} lowers log π(chosen) of {share(found.falling)} of"
        f" {len(found.pairs):,} pairs; on average it changes by {mean} nats × learning rate."
    )
    out = [textwrap.fill(said, WIDTH), "", f"{'row':>7}  {'chosen':>10}  {'rejected':>10}  {'CHES':>10}  prompt"]
    for one in found.pairs[:SHOWN]:
        numbers = "  ".join(f"{compact(x):>10}" for x in (one.chosen, one.rejected, one.ches))
        prompt = " ".join(printable(one.group.text).split())
        out.append(f"{one.group.row!s:>7}  {numbers}  {prompt}"[:WIDTH])
    if options.output is not None:
        out.append(f"all rows in this order: {options.output}")
    else:
        out.append("next: --output FILE.jsonl writes all rows in this order")
    return out
