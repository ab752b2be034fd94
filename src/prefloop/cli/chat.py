"""`prefloop chat RUN|MODEL`: talk to a trained model, line by line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from prefloop.cli.options import CUT, EMPTY, Output, printable, require, require_positive, require_seed
from prefloop.core.errors import DataError
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from torch import Tensor

    from prefloop.core.streams import Stream
    from prefloop.data.records import Message
    from prefloop.runs.trained import Answering

RESET, EXIT = "/reset", "/exit"
HELP = f"{RESET} starts again, {EXIT} or Ctrl-D ends, Ctrl-C stops an answer"


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Talk to the trained model of a run, or to any model, with its chat template.

    Each line is a turn; /reset starts again, /exit ends. From a pipe, every line of standard input is a turn.
    """

    model: Annotated[str, Flag(positional=True, metavar="RUN|MODEL")]
    """Run folder, or RUN/best; or a model: a local folder, a hub name, or smollm2."""
    temperature: float = 0.0
    """Sampling temperature; 0 takes the most likely token."""
    max_new_tokens: int | None = None
    """Longest answer in tokens (default: 256, or half of the model's context)."""
    system: str | None = None
    """System message (default: that of the run)."""
    seed: int = 0
    """Seed of the sampling."""
    unfinished: bool = False
    """Use the last checkpoint of a run that has no final model."""
    template: str | None = None
    """auto, chat, plain, chatml, zephyr, alpaca, human-assistant or a Jinja file (default: of the run, or auto)."""

    def __post_init__(self) -> None:
        require_positive(self, "max_new_tokens")
        require_seed(self.seed)
        require(self.temperature >= 0, "temperature", self.temperature, "use 0 or more")


def run(options: Options) -> int:
    """Answer every line until the end of the input.

    Raises:
        UserError, DataError: a model or run that cannot be used.
    """
    from prefloop.core.streams import streams
    from prefloop.runs.trained import trained

    model = trained(options.model, unfinished=options.unfinished, template=options.template)
    model = replace(model, system=model.system if options.system is None else options.system)
    model = model.sampled(options.temperature, options.max_new_tokens)
    talk = Talk(model, streams(options.seed)["sampling"], quiet=options.silent)
    notes = [*model.notes, *([talk.note] if talk.note else [])]
    for note in [*notes, *([HELP] if sys.stdin.isatty() else [])]:
        if not options.silent:
            print(wrapped(note), file=sys.stderr)
    for line in _lines(options):
        talk.turn(line)
    options.show(lambda: {"turns": [m.plain for m in talk.said], "notes": notes}, lambda: None)
    return 0


def _lines(options: Options) -> Iterator[str]:
    """Lines of the user until /exit, the end of the input, or Ctrl-C at the prompt; empty lines are skipped."""
    asks = "you> " if sys.stdin.isatty() and not options.silent else ""
    while True:
        try:
            line = input(asks) if asks else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        if line.strip() == EXIT or (not asks and not line):
            return
        if line.strip():
            yield line.strip()


class Talk:
    """A conversation: the turns so far, and the model that answers."""

    def __init__(self, model: Answering, rng: Stream, *, quiet: bool) -> None:
        self.model, self.rng, self.quiet = model, rng, quiet
        self.said: list[Message] = []

    @property
    def note(self) -> str:
        plain = self.model.template.kind == "plain"
        return "the model has no chat template: it continues each line as plain text, alone" if plain else ""

    def turn(self, line: str) -> None:
        """Answer a line; a turn that is stopped or does not fit leaves the conversation as it was."""
        if line == RESET:
            self.said = []
            return
        before = self.said
        try:
            self._answer(line)
        except KeyboardInterrupt:
            self.said = before
            print("\n(stopped: this turn is not kept)", file=sys.stderr)
        except DataError as error:
            self.said = before
            cure = f"{RESET} starts a new conversation, a lower --max-new-tokens leaves more room for this one"
            print(f"{printable(error.what)}\n{cure}", file=sys.stderr)

    def _answer(self, line: str) -> None:
        from prefloop.data.records import Group, Message

        asked = Message("user", line)
        prompt = (asked,) if self.note else (*self.said, asked)
        shown = Shown(self.model, quiet=self.quiet)
        group = Group(prompt, (), None, "", len(self.said) + 1)
        answer = self.model.answers([group], 1, self.rng, shown)[0][0]
        shown.end(answer.text, cut=answer.cut)
        self.said = [*self.said, asked, Message("assistant", answer.text)]


class Shown:
    """Prints an answer while it is written."""

    def __init__(self, model: Answering, *, quiet: bool) -> None:
        self._model, self._quiet = model, quiet
        self._ids: list[int] = []
        self._text = ""

    def __call__(self, token: Tensor) -> None:
        """Print what one more token adds, once its characters are whole."""
        self._ids += token.tolist()
        text = self._model.template.response(self._ids)
        if text.startswith(self._text) and not text.endswith("\ufffd"):
            self._print(text)

    def end(self, text: str, *, cut: bool) -> None:
        """Print the rest."""
        self._print(text)
        if not self._quiet:
            print(CUT if cut else "" if text else EMPTY, flush=True)

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(printable(text[len(self._text) :]), end="", flush=True)
        self._text = text
