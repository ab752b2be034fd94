"""`prefloop VERB ...`: finds the verb's module, and turns mistakes into messages and exit codes.

Exit codes: 0 done · 1 a defect of Prefloop, with its traceback · 2 a mistake in command or configuration · 3 unusable
data, model or reward · 4 the training diverged · 130 or 143 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from prefloop import __version__
from prefloop.core.errors import UserError, nearest

VERBS = {  # each is a module of its own beside this one, imported when it is called
    "demo": "fine-tune a small language model in four ways and compare them (about twelve minutes on two cores)",
    "train": "fine-tune a model as a configuration says; --resume RUN goes on with an interrupted run",
    "methods": "list the methods, or explain one",
    "lab": "run a grid on the study's didactic problems, hundreds of runs at once, with intervals",
    "study": "run the study's questions in the lab: verdicts, figures, pages",
    "reward": "train a reward model on preferences, measure it, score responses with it",
    "data": "check a file of preferences, labels or prompts",
    "report": "make one HTML page from run folders",
    "doctor": "show versions, hardware and measured speed",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code; errors of the user are printed without a traceback."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:
        code = getattr(error, "exit_code", None)  # only errors that are messages to the user have one
        if not isinstance(code, int):
            raise
        _complain(str(error))
        return code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"prefloop {__version__}")
        return 0
    if words[0] not in VERBS:
        raise UserError(f"there is no verb `{words[0]}`", where="command line", fix=nearest(words[0], VERBS))
    return int(import_module(f"prefloop.cli.{words[0]}").main(words[1:]))


def usage() -> str:
    """The help page."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {help}" for verb, help in VERBS.items())
    return (
        "Preference fine-tuning as one loop with three switches: on-policy sampling, sample reuse, negative gradient."
        f"\n\nusage: prefloop VERB ...\n\n{verbs}\n\n"
        "`prefloop VERB --help` explains a verb; `prefloop --version` prints the version."
    )


def _complain(text: str) -> None:
    """The message on standard error; its first line stands out on a terminal."""
    first, _, rest = text.partition("\n")
    red, plain = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    print(f"{red}error:{plain} {first}" + (f"\n{rest}" if rest else ""), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
