"""Rows of JSON Lines and JSON files, one at a time."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError
from prefloop.data.fault import Fault
from prefloop.data.opening import Budget, check_encoding, opened, text

Rows = Iterator[tuple[int, Any]]

LONGEST = 64 * 2**20  # bytes of a line, characters of an item
DEEPEST = 100  # lists and objects inside each other
DIGITS = 300  # of a whole number; larger ones do not fit into a float
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half of a surrogate pair, as an escape
LISTS = ("data", "rows", "examples", "instances", "items", "records", "train")  # keys of the list in a single object
CHUNK = 2**20
SPACE = re.compile(r"[ \t\r\n]*")
OPEN_LISTS = "use .jsonl for one object per line"


class Decoder:
    """Decodes JSON; what JSON allows but no row may have is a fault: keys that repeat, endless numbers, torn text."""

    def __init__(self) -> None:
        self.problem = ""  # of the last value
        self._json = json.JSONDecoder(object_pairs_hook=self._object, parse_int=self._integer)

    def row(self, number: int, line: str) -> Any:
        """The value of a line, or a fault."""
        try:
            value, end = self.value(line.strip(" \t\r\n"), 0)
        except json.JSONDecodeError as error:
            return Fault(
                number,
                f"invalid JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}",
                "one JSON object per line",
            )
        except RecursionError:
            return too_deep(number)
        if line.strip(" \t\r\n")[end:]:
            return Fault(number, f"invalid JSON: more follows at character {end + 1}", "one JSON object per line")
        return self.checked(number, value, line, 0, len(line))

    def value(self, string: str, start: int) -> tuple[Any, int]:
        """The value that begins at `start`, and where it ends."""
        self.problem = ""
        return self._json.raw_decode(string, start)

    def checked(self, number: int, value: Any, string: str, start: int, end: int) -> Any:
        """The value just decoded from a part of `string`, or a fault."""
        if self.problem:
            return Fault(number, self.problem)
        if string.count("[", start, end) + string.count("{", start, end) > DEEPEST and _deep(value, DEEPEST):
            return too_deep(number)
        if HALF.search(string, start, end) and (where := _torn(value)):
            what = f"{where} has half a character (a lone surrogate such as \\ud83d), which is no text"
            return Fault(number, what, "write the whole character, or remove it")
        return value

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            keys = [key for key, _ in pairs]
            self.problem = f"the key `{next(k for k in made if keys.count(k) > 1)}` occurs twice in one object"
        return made

    def _integer(self, digits: str) -> int:
        if len(digits) <= DIGITS:
            return int(digits)
        self.problem = f"a number has {len(digits):,} digits"
        return 0


def too_deep(number: int) -> Fault:
    return Fault(number, f"more than {DEEPEST} lists or objects inside each other")


def lines(path: Path, budget: Budget) -> Rows:
    """The rows of a JSON Lines file: a line is a row, blank lines count but are none.

    Raises:
        DataError: the file cannot be read.
    """
    decoder = Decoder()
    with opened(path, budget) as stream:
        check_encoding(stream, path)
        number = 0
        while line := stream.readline(LONGEST):
            number += 1
            if len(line) == LONGEST and not line.endswith(b"\n"):
                while (rest := stream.readline(LONGEST)) and not rest.endswith(b"\n"):
                    pass
                yield number, Fault(number, f"the line is longer than {LONGEST:,} bytes", "one JSON object per line")
            elif line.strip():
                yield number, _line(decoder, number, line)


def _line(decoder: Decoder, number: int, line: bytes) -> Any:
    try:
        string = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        return Fault(number, f"not UTF-8 text: {error.reason} at byte {error.start + 1}", "save the file as UTF-8")
    if "\0" in string:
        return Fault(number, "the line has NUL bytes", "save the file as UTF-8 text; is it complete?")
    return decoder.row(number, string)


def wrapped_in(path: Path) -> str | None:
    """The key whose list holds the rows, if the file is one object; None if it is a list or empty.

    Raises:
        DataError: neither a list nor an object with such a key.
    """
    with opened(path, Budget()) as stream:
        head = _Text(text(stream, path), path)
        return _key(head)


def items(path: Path, budget: Budget) -> Rows:
    """The rows of a JSON file: the items of its list, numbered from 1.

    Raises:
        DataError: the file cannot be read, is no valid JSON, or holds no list or more than one.
    """
    with opened(path, budget) as stream:
        source = _Text(text(stream, path), path)
        key = _key(source)
        if source.peek():
            yield from _list(source)
        if key is not None:
            _check_rest(source, key)
        if source.peek():
            raise source.invalid("more follows the end", OPEN_LISTS)


def _key(source: _Text) -> str | None:
    """Move to the first item's list; the key it stands under, if any."""
    first = source.peek()
    if first in ("", "["):
        return None
    if first != "{":
        raise source.wrong(source.take())
    source.move("{")
    found: list[str] = []
    while source.peek() != "}":
        key = source.take()
        source.move(":")
        if source.peek() == "[" and key in LISTS:
            return str(key)
        source.take()
        found.append(str(key))
        if source.peek() != "}":
            source.move(",")
    source.move("}")
    if source.peek():
        raise source.invalid("more follows the end of the first object", OPEN_LISTS)
    raise source.wrong({}, f"; it has no list under {', '.join(LISTS)}, only the keys {', '.join(found[:9]) or 'none'}")


def _list(source: _Text) -> Rows:
    source.move("[")
    number = 0
    while source.peek() != "]":
        number += 1
        yield number, source.item(number)
        if source.peek() != "]":
            source.move(",")
            if source.peek() == "]":
                raise source.invalid("a comma before the end of the list")
    source.move("]")


def _check_rest(source: _Text, taken: str) -> None:
    """Read the rest of the object around the list, which must not hold another list of rows."""
    while source.peek() != "}":
        source.move(",")
        key = source.take()
        source.move(":")
        if source.peek() == "[" and key in LISTS:
            what = f"the data file has lists under `{taken}` and `{key}`: it is unclear which are the rows"
            raise DataError(what, where=str(source.path), fix="save the list that you mean as a file of its own")
        source.take()
    source.move("}")


class _Text:
    """JSON text that is decoded as it is read."""

    def __init__(self, stream: io.TextIOWrapper, path: Path) -> None:
        self.stream, self.path = stream, path
        self.buffer, self.at = "", 0
        self.item_number = 0
        self.decoder = Decoder()

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            found = SPACE.match(self.buffer, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self._fill():
                return ""

    def move(self, char: str) -> None:
        """Move past a character, which must come next."""
        if self.peek() != char:
            raise self.invalid(f"`{char}` is expected")
        self.at += 1

    def take(self) -> Any:
        """The next value, whatever it is."""
        return self._value()[0]

    def item(self, number: int) -> Any:
        """The next item, or a fault."""
        self.item_number = number
        value, start, end = self._value()
        return self.decoder.checked(number, value, self.buffer, start, end)

    def _value(self) -> tuple[Any, int, int]:
        """The next value and its place in the buffer."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.value(self.buffer, self.at)
                if end < len(self.buffer) or not self._fill():  # a number at the end of the buffer may go on
                    start, self.at = self.at, end
                    return value, start, end
            except json.JSONDecodeError as error:
                torn = error.msg.startswith("Unterminated") or error.pos > len(self.buffer) - 16
                if not torn or not self._fill():
                    raise self.invalid(error.msg) from None
            except RecursionError:
                raise self.invalid(f"more than {DEEPEST} lists or objects inside each other") from None
            if len(self.buffer) - self.at > LONGEST:
                raise self.invalid(f"an item is longer than {LONGEST:,} characters")

    def _fill(self) -> bool:
        rest = self.buffer[self.at :]
        more = self.stream.read(max(CHUNK, len(rest)))
        if more:
            self.buffer, self.at = rest + more, 0
        return bool(more)

    def invalid(self, what: str, fix: str = "a .json file must be one list of objects; " + OPEN_LISTS) -> DataError:
        place = f" in item {self.item_number}" if self.item_number else ""
        return DataError(f"the data file is not valid JSON{place}: {what}", where=str(self.path), fix=fix)

    def wrong(self, value: Any, why: str = "") -> DataError:
        what = f"the data file contains a {type(value).__name__}, not a list of objects{why}"
        return DataError(what, where=str(self.path), fix="a .json file must be one list of objects; " + OPEN_LISTS)


def _deep(value: Any, depth: int) -> bool:
    if depth == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_deep(x, depth - 1) for x in inner)


def _torn(value: Any, name: str = "") -> str:
    """The top-level key whose text is no valid Unicode, in backticks; empty if there is none."""
    if isinstance(value, dict):
        found = ((k, _torn(k) or _torn(v)) for k, v in value.items())
        return next((f"`{_whole(k)}`" for k, torn in found if torn), "")
    if isinstance(value, list):
        return next((torn for x in value if (torn := _torn(x))), "")
    return "the row" if isinstance(value, str) and _whole(value) != value else ""


def _whole(string: str) -> str:
    return string.encode("utf-8", "replace").decode("utf-8")
