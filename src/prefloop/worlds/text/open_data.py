"""The data of a configuration: training and held-out groups, and the hashes of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefloop.core.errors import DataError
from prefloop.core.files import sha256
from prefloop.data.formats import load_usable
from prefloop.data.instructions import builtin, instructions
from prefloop.data.reading import data_hash
from prefloop.data.records import Group, first_responses, split
from prefloop.data.skipping import apart, kept
from prefloop.policies.conversation import Template
from prefloop.policies.pretrained import UNLIMITED, Limits
from prefloop.worlds.text.problem import TextProblem
from prefloop.worlds.text.spec import AUTO, BUILTIN, SPLIT, DataOptions


@dataclass(frozen=True)
class TextData:
    """Groups as read from files: text, not tokens."""

    options: DataOptions
    train: Sequence[Group]
    held_out: Sequence[Group]
    hashes: dict[str, str]  # file, or `builtin` → SHA-256
    notes: tuple[str, ...] = ()  # what was guessed about the files, and columns that are not trained on

    @property
    def has_responses(self) -> bool:
        """Whether there are offline responses, not only prompts."""
        return any(group.responses for group in self.train)

    @property
    def counts(self) -> dict[str, int]:
        """Number of training examples and of their responses, for the manifest."""
        return {"examples": len(self.train), "responses": sum(len(group.responses) for group in self.train)}

    @property
    def evaluated_on(self) -> str:
        """A note on the held-out examples of a user's file; empty if they are a file of their own."""
        train, held_out = self.options.train, self.options.held_out
        if held_out == SPLIT:
            whole = len(self.train) + len(self.held_out)
            return f"{train}: {len(self.held_out)} of {whole} examples are held out (data.held_out=split)"
        if held_out == BUILTIN != train:
            return f"evaluations answer the built-in held-out prompts, not prompts of {train} (data.held_out=split)"
        return ""

    def problem(self, template: Template, limits: Limits = UNLIMITED) -> TextProblem:
        """The problem without a scorer; nothing is rendered yet.

        Args:
            limits: those of the model.
        """
        options = self.options
        return TextProblem(
            self.train,
            template,
            system=options.system,
            max_prompt_tokens=options.max_prompt_tokens,
            max_response_tokens=options.max_response_tokens,
            context=limits.context,
            vocabulary=limits.vocabulary,
        )


def open_data(options: DataOptions) -> TextData:
    """Read training and held-out groups.

    Raises:
        UserError: a wrong format or column map.
        DataError: a file or row that cannot be used, or an empty split.
    """
    if options.held_out == AUTO:
        options = replace(options, held_out=BUILTIN)
    train, notes = _read(options, "train")
    if options.held_out == SPLIT:
        train, held_out = split(train, options.held_out_share, options.split_seed)
    else:
        held_out, more = _read(options, "held_out")
        train, both = apart(train, held_out, options.faulty)
        notes = tuple(dict.fromkeys((*notes, *more, *both)))
    for name, groups in (("train", train), ("held_out", held_out)):
        if not groups:
            questions = len({group.key for group in (*train, *held_out)})
            what = f"no {name} examples are left: the data have {questions:,} different questions"
            fix = "use more data, another share, or data.group_by=COLUMN if a column identifies questions"
            raise DataError(what, where=f"data.{name}", fix=fix)
    return TextData(options, train, held_out, data_hashes(options), notes)


def data_hashes(options: DataOptions) -> dict[str, str]:
    """SHA-256 of the data (of all shards together), by their names in the options; empty if there are none."""
    names = dict.fromkeys((options.train, options.held_out))
    return {name: _hash(name) for name in names if name != SPLIT}


def _hash(name: str) -> str:
    try:
        return sha256(builtin()) if name == BUILTIN else data_hash(name)
    except DataError:
        return ""


def _read(options: DataOptions, side: str) -> tuple[list[Group], tuple[str, ...]]:
    """The groups of a file, and remarks about it."""
    path = str(getattr(options, side))
    if path == BUILTIN:
        return instructions(side), ()
    loaded = load_usable(
        path, format=options.format, group_by=options.group_by, columns=options.columns, limit=options.limit
    )
    loaded = kept(Path(path), loaded, options.faulty)
    notes = tuple(f"{path}: {remark}" for remark in loaded.remarks)
    return loaded.groups if options.responses is None else first_responses(loaded.groups, options.responses), notes
