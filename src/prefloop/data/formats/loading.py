"""Groups of a file: every row is read by the file's format, and what is wrong, unused or guessed is reported."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError, excerpt, nearest
from prefloop.data.fault import Fault, counted
from prefloop.data.formats.columns import (
    Names,
    check_mapped,
    check_names,
    check_needed,
    detected,
    inside,
    overlooked,
    unknown,
)
from prefloop.data.formats.messages import schemas
from prefloop.data.formats.row import Content, Prompt, Row, Unusable, kind, listed, short, shown
from prefloop.data.formats.stated import refuse_marked
from prefloop.data.formats.table import FORMATS
from prefloop.data.reading import open_rows
from prefloop.data.records import Group, Message, prompt_text

SHOWN = 5  # faults that a message lists
FAULT = 150  # characters of each
OWN = "prefloop"  # a column that `to_row` writes: the key, and columns whose names formats read


@dataclass(frozen=True)
class Loaded:
    """The usable groups of a file, and the rows that cannot be used."""

    groups: list[Group]
    faults: list[Fault]
    format: str
    columns: tuple[str, ...] = field(default=())  # column names of the first row
    unused: tuple[str, ...] = ()  # columns that are not trained on; rewards get them by name
    notes: tuple[str, ...] = ()  # what was guessed or left out, and how often

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the file must know: the notes, and the columns that are not trained on."""
        if not self.unused:
            return self.notes
        return (*self.notes, f"columns that are not trained on, but reach rewards by name: {listed(self.unused)}")


def load(
    path: str | Path,
    *,
    format: str = "auto",
    group_by: str = "prompt",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[Group]:
    """All groups of a file, in order.

    Args:
        path: a data file, see docs/formats.md.
        format: a name in FORMATS, or `auto`: by the columns of the first row.
        group_by: the column whose equal values stay on one side of a split; `prompt` is the text of the prompt.
        columns: our column names -> those of the file, such as {"chosen": "response"} or {"chosen": "answer.text"}.
        limit: read at most this many rows.

    Raises:
        UserError: unknown format or column map.
        DataError: missing or empty file, wrong columns, or rows that cannot be used (the first few are listed).
    """
    loaded = load_usable(path, format=format, group_by=group_by, columns=columns, limit=limit)
    if loaded.faults:
        raise faulty(Path(path), loaded)
    return loaded.groups


def load_usable(
    path: str | Path,
    *,
    format: str = "auto",
    group_by: str = "prompt",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Loaded:
    """Like `load`, but rows that cannot be used are skipped and reported.

    Raises:
        UserError: unknown format or column map.
        DataError: missing or empty file, wrong columns, or no usable row.
    """
    source = open_rows(path)
    return _usable(islice(source, limit), Path(path), source.notes, format, group_by, columns)


def from_rows(
    rows: Iterable[Any], *, format: str = "auto", group_by: str = "prompt", columns: Mapping[str, str] | None = None
) -> list[Group]:
    """All groups of rows that are in memory, such as dictionaries or a `datasets.Dataset`; as `load` reads a file.

    Raises:
        UserError: unknown format or column map.
        DataError: no rows, wrong columns, or rows that cannot be used.
    """
    place = Path("the given rows")
    loaded = _usable(enumerate(rows, 1), place, (), format, group_by, columns)
    if loaded.faults:
        raise faulty(place, loaded)
    return loaded.groups


def _usable(
    rows: Iterable[tuple[int, Any]],
    path: Path,
    notes: tuple[str, ...],
    format: str,
    group_by: str,
    columns: Mapping[str, str] | None,
) -> Loaded:
    names = Names(dict(columns or {}))
    check_names(format, names.mapped)
    # a plain string in a list of rows is a prompt
    numbered = ((n, {"prompt": row} if isinstance(row, str) else row) for n, row in rows)
    head: list[tuple[int, Any]] = []
    for n, row in numbered:
        head.append((n, row))
        if isinstance(row, dict):
            break
    if not head:
        raise DataError("the data file is empty", where=str(path))
    number, first = head[-1]
    if not isinstance(first, dict):
        nothing = _Reader("preference", False, "prompt", names)
        raise faulty(path, _loaded([x for n, row in head for x in nothing(n, row)], nothing, (), ()))
    where = f"row {number} of {path}"
    found = _format(where, format, first, names)
    every: Iterator[tuple[int, Any]] = chain(head, numbered)
    _check_group_by(where, group_by, first)
    if (join := FORMATS[found].join) is not None:
        every, names = join(_renamed(every, names)), Names({})
    reader = _Reader(found, format == "auto", group_by, names)
    with _uncollected():
        made = [x for n, row in every for x in reader(n, row)]
    loaded = _loaded(made, reader, tuple(first), notes)
    if not loaded.groups:
        raise faulty(path, loaded)
    return loaded


def _renamed(rows: Iterable[tuple[int, Any]], names: Names) -> Iterator[tuple[int, Any]]:
    """The rows by our names."""
    for n, row in rows:
        if isinstance(row, dict):
            ours, displaced = names.arranged(row, names(row))
            row = {**ours, **displaced}
        yield n, row


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which would look through millions of new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _loaded(made: Sequence[Group | Fault], reader: _Reader, columns: tuple[str, ...], notes: tuple[str, ...]) -> Loaded:
    groups = [x for x in made if isinstance(x, Group)]
    if FORMATS[reader.format].merged:
        groups = [_merged(list(same)) for _, same in groupby(groups, key=lambda g: (g.prompt, g.key, g.tools))]
    return Loaded(
        groups,
        [x for x in made if isinstance(x, Fault)],
        reader.format,
        columns,
        unused=_unused(groups, reader.group_by),
        notes=(*notes, *(f"{note} ({n:,}, first in row {row})" for note, (n, row) in reader.notes.items())),
    )


def faulty(path: Path, loaded: Loaded) -> DataError:
    """The error about unusable rows: how many, and the first few."""
    faults = loaded.faults
    lines = "".join(f"\n    {short(str(fault), FAULT)}" for fault in faults[:SHOWN])
    more = f"\n    … and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    columns = f" (columns: {listed(loaded.columns)})" if loaded.columns else ""
    mend = next((f.fix for f in faults if f.fix), "fix or remove these rows (`prefloop data check FILE` lists them)")
    return DataError(
        f"{counted(faults, len(loaded.groups))} cannot be used{lines}{more}",
        where=f"{path}{columns}",
        fix=f"{mend}; faulty=skip leaves them out" if len(faults) <= len(loaded.groups) else mend,
    )


def _format(where: str, format: str, first: Mapping[str, Any], names: Names) -> str:
    """The requested format, which must fit, or that of the first row."""
    check_mapped(where, first, names.mapped)
    row, _ = names.arranged(first, names(first))
    if format != "auto":
        check_needed(where, format, row, first)
        return format
    found = detected({k for k, v in row.items() if v is not None}, row) or detected(row, row)
    if found is None:
        raise unknown(where, row, first)
    return found


def _check_group_by(where: str, group_by: str, row: Mapping[str, Any]) -> None:
    if group_by != "prompt" and group_by not in row:
        what = f"no column `{group_by}` to group by; the columns are {listed(row)}"
        raise DataError(what, where=where, fix=nearest(group_by, row))


# ------------------------------------------------------------------------------------------------------ rows


@dataclass
class _Reader:
    """Reads the rows of one file; collects notes."""

    format: str
    strict: bool  # rows of another format are faults
    group_by: str
    names: Names
    notes: dict[str, tuple[int, int]] = field(default_factory=dict)  # note → how often, and the first row
    layouts: dict[tuple[str, ...], tuple[dict[str, str], str | None]] = field(default_factory=dict)

    def __call__(self, number: int, row: Any) -> Sequence[Group | Fault]:
        """The groups of a row, or why it cannot be used."""
        if isinstance(row, Fault):
            return (row,)
        try:
            return self._groups(number, row)
        except Unusable as fault:
            return (Fault(number, fault.what, fault.fix),)
        except RecursionError:
            return (Fault(number, "lists or objects in it are nested too deeply"),)

    def _groups(self, number: int, row: Any) -> Sequence[Group | Fault]:
        if not isinstance(row, dict):
            what = f"a {type(row).__name__}, not an object with columns" if row is not None else "null, not an object"
            raise Unusable(what, '{"prompt": …, "chosen": …, …}')
        renamed, found = self._layout(row)
        ours, displaced = self.names.arranged(row, renamed)
        self._check(ours, row, found)
        contents, tools, own = _read(ours, self.format)
        for note in ours.notes:
            count, first = self.notes.get(note, (0, number))
            self.notes[note] = (count + 1, first)
        theirs = {our: their for their, our in renamed.items()}
        left = {theirs.get(name, name): value for name, value in ours.items()} if renamed else ours
        columns = {**left, **displaced, **own.get("columns", {})}
        key = _key(row, self.group_by, own)
        parts = [Fault(number, fault.what, fault.fix, part=True) for c in contents for fault in c.faults]
        return [*parts, *[_group(content, tools, key, number, columns) for content in contents]]

    def _layout(self, row: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
        """Which columns have other names, and the format of the row; both depend on what is not null only."""
        present = tuple([name for name, value in row.items() if value is not None])
        if self.names.mapped:
            present += tuple(x for x in self.names.mapped.values() if x not in row and inside(row, x) is not None)
        if present not in self.layouts:
            renamed = self.names(row)
            ours = {k for k, v in self.names.arranged(row, renamed)[0].items() if v is not None}
            self.layouts[present] = (renamed, detected(ours, ours))
        return self.layouts[present]

    def _check(self, ours: Row, row: Mapping[str, Any], found: str | None) -> None:
        """The columns of the file's format must be there, and not those of another format."""
        if found == self.format:
            return
        missing = [c for c in FORMATS[self.format].columns if ours.get(c) is None]
        if self.strict and found is not None:
            columns = ", ".join(FORMATS[found].columns)
            fix = f"split the file, or read it with format={self.format}" if not missing else "split the file"
            raise Unusable(f"its columns are those of `{found}` ({columns}); the first row is `{self.format}`", fix)
        if missing:
            null = " (null)" if missing[0] in ours else ""
            raise Unusable(f"no `{missing[0]}`{null}; the columns are {listed(row) or 'none'}")
        if self.strict:
            unclear = listed(overlooked(self.format, [k for k, v in ours.items() if v is not None]))
            raise Unusable(f"it is unclear what {unclear} says", f"rename it, or read with format={self.format}")


def _read(row: Row, format: str) -> tuple[list[Content], str, Mapping[str, Any]]:
    """The contents of a row, the tools of its conversation, and our own column."""
    refuse_marked(row)
    tools = schemas(row.take("tools")) if "tools" in row else ""
    system = row.take("system")
    own = row.take(OWN) if isinstance(row.get(OWN), dict) else {}
    if not isinstance(own.get("columns", {}), dict) or not isinstance(own.get("key", ""), str):
        raise Unusable(f"`{OWN}` must be an object with key and columns", "as `prefloop data convert` writes it")
    made = FORMATS[format].read(row)
    contents = made if isinstance(made, list) else [made]
    if system is not None and system != "":
        contents = [replace(c, prompt=_with_system(c.prompt, system)) for c in contents]
    return contents, tools, own


def _with_system(prompt: Prompt, system: Any) -> Prompt:
    if not isinstance(system, str):
        raise Unusable(f"`system` is {kind(system)}, not text")
    if prompt[0].role != "system":
        return (Message("system", system), *prompt)
    if prompt[0].content.strip() != system.strip():
        raise Unusable("`system` differs from the system message of the conversation", "remove one of them")
    return prompt


def _group(content: Content, tools: str, key: str | None, row: int, columns: Mapping[str, Any]) -> Group:
    answers = content.answers
    more = tuple([a.more for a in answers])
    return Group(
        content.prompt,
        tuple([a.content for a in answers]),
        content.scores,
        question(content.prompt) if key is None else key,
        row,
        more if any(more) else (),
        tools,
        {**columns, **content.columns} if content.columns else columns,
    )


def question(prompt: Prompt) -> str:
    """The text of a prompt without its system message: what stays on one side of a split."""
    return prompt_text(prompt[1:] if prompt[0].role == "system" and len(prompt) > 1 else prompt)


def _key(row: Mapping[str, Any], group_by: str, own: Mapping[str, Any]) -> str | None:
    """What the row is grouped by; None: the text of its prompt."""
    if group_by == "prompt":
        return own.get("key")
    value = row.get(group_by)
    if value is None or not isinstance(value, str | int | float):
        raise Unusable(f"cannot group by `{group_by}`: its value is {shown(value) if value is not None else 'null'}")
    return value if isinstance(value, str) else shown(value)


def _merged(groups: Sequence[Group]) -> Group:
    """One group of several rows with the same prompt; columns that differ become lists, one value per row."""
    if len(groups) == 1:
        return groups[0]
    names = dict.fromkeys(name for g in groups for name in g.columns)
    values = {name: [g.columns.get(name) for g in groups] for name in names}
    more = tuple(m for g in groups for m in (g.more or ((),)))
    return replace(
        groups[0],
        responses=tuple(r for g in groups for r in g.responses),
        scores=tuple(s for g in groups for s in g.scores or ()),
        more=more if any(more) else (),
        columns={name: v[0] if all(x == v[0] for x in v) else v for name, v in values.items()},
    )


def _unused(groups: Iterable[Group], group_by: str) -> tuple[str, ...]:
    """Columns with values that are not part of prompts, answers and scores."""
    names = dict.fromkeys(name for g in groups for name, value in g.columns.items() if value is not None)
    return tuple(excerpt(name) for name in names if name != group_by or name == "prompt")
