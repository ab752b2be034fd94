"""`prefloop VERB ...`: calls the verb's module, and turns errors into messages and exit codes.

Exit codes: 0 done · 1 a bug in Prefloop, with its traceback · 2 an error in command or configuration · 3 unusable
data, model or reward · 4 the training diverged · 129, 130 or 143 interrupted. After an error in a training the message
says what is kept, and how to continue.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module

from prefloop import __version__
from prefloop.core.errors import UserError, nearest

VERBS = {  # each is a module in this folder, imported when called
    "demo": "fine-tune a small language model in four ways and compare them (about five minutes on two cores)",
    "plan": "say what a run will take: steps, tokens, memory by part, and time",
    "train": "fine-tune a model from a configuration file, or resume an interrupted run",
    "run": "run a recipe: stages from supervised fine-tuning to an evaluation, in one file",
    "sample": "answer the prompts of a file with a trained model, before and after",
    "chat": "talk to a trained model",
    "export": "write a run's model as a plain folder with a model card, to share or to serve",
    "methods": "list the methods, or explain one",
    "lab": "run a grid on small problems, hundreds of runs at once, with intervals",
    "findings": "what was found on the paper's questions, in a table or as JSON",
    "study list": "list the paper's questions",
    "study run": "answer them: verdicts, figures and pages",
    "study draw": "redraw figures and pages from existing results",
    "reward train": "fit a reward model to preferences and measure it on held-out ones",
    "reward card": "measure a reward model on unseen preferences",
    "reward score": "score responses with a reward model",
    "data check": "check a file of preferences, labels or prompts",
    "data stats": "show what the columns of a file hold",
    "data show": "show the first rows of a file as Prefloop reads them",
    "data rank": "order pairs by how much training on them would lower their chosen response",
    "data convert": "write a file of any format as rows of messages",
    "diagnose": "say what a run did well and wrong, or what data offer a model",
    "advise": "say which method to use on what data, as far as a tested rule can tell",
    "eval": "say how often the answers of one side are better than those of another",
    "compare": "say which method is better, over seeds and prompts, and at what cost",
    "report": "write an HTML page that compares run folders",
    "watch": "serve the page of a run while it is trained",
    "track": "send the metrics of runs to trackio, TensorBoard, W&B or MLflow",
    "explore": "write and open a page on which methods move a small policy",
    "doctor": "show versions, hardware and measured speed",
}
HELP = ("-h", "--help", "help")


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code; user errors are printed without a traceback."""
    words = sys.argv[1:] if argv is None else argv
    try:
        done = execute(words)
        sys.stdout.flush()  # a reader that has gone is noticed here, and not when Python exits
        return done
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError as error:  # the reader, such as `head`, has closed the pipe
        if _notes(error):
            _complain("the reader of the output has gone" + _notes(error))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:
        code = getattr(error, "exit_code", None)  # only user errors have one
        if not isinstance(code, int):
            raise
        _complain(str(error) + _notes(error))
        return code


def execute(words: list[str]) -> int:
    """Run a command line and return its exit code; errors are raised.

    Raises:
        UserError: an unknown verb or flag, or an error of the verb.
    """
    if not words or words[0] in HELP:
        print(usage(VERBS))
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"prefloop {__version__}")
        return 0
    family = {verb: text for verb, text in VERBS.items() if verb.startswith(f"{words[0]} ")}
    if family and (len(words) == 1 or words[1] in HELP):
        print(usage(family))
        return 0 if len(words) > 1 else 2
    verb = " ".join(words[: 2 if family else 1])
    if verb not in VERBS:
        raise UserError(f"unknown verb `{verb}`", where="command line", fix=_nearest(verb, family))
    return _call(verb, words[len(verb.split()) :])


def _nearest(verb: str, family: Iterable[str]) -> str:
    return nearest(verb, family or {known.split()[0] for known in VERBS})


def _call(verb: str, words: list[str]) -> int:
    from prefloop.runs.flags import read

    module = import_module(f"prefloop.cli.{verb.replace(' ', '.')}")
    try:
        options = read(module.Options, words, f"prefloop {verb}")
    except SystemExit as done:  # after --help
        return int(done.code or 0)
    return int(module.run(options))


def usage(verbs: Mapping[str, str]) -> str:
    """The help page of verbs, at most 80 columns wide."""
    width = max(map(len, verbs))
    indent = " " * (width + 4)
    lines = (
        textwrap.fill(f"  {v:<{width}}  {text}", 80, subsequent_indent=indent, break_on_hyphens=False)
        for v, text in verbs.items()
    )
    return (
        "Preference fine-tuning as one loop with three switches: on-policy sampling,\nsample reuse, negative gradient."
        "\n\nusage: prefloop VERB ...\n\n" + "\n".join(lines) + "\n\n"
        "`prefloop VERB --help` explains a verb; `prefloop --version` prints the version."
    )


def _notes(error: BaseException) -> str:
    """What was added to an error on its way, such as how to continue; Python prints it below a traceback."""
    return "".join(f"\n{note}" for note in getattr(error, "__notes__", []))


def _complain(text: str) -> None:
    """Print a message to standard error, with a red `error:` on a terminal; what is not printable is escaped."""
    first, _, rest = text.partition("\n")
    red, plain = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    with suppress(OSError):  # the terminal has gone
        print(f"{red}error:{plain} {_safe(first)}" + (f"\n{_safe(rest)}" if rest else ""), file=sys.stderr)


def _safe(text: str) -> str:
    """The text without control characters, which could change what a terminal shows."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


if __name__ == "__main__":
    sys.exit(main())
