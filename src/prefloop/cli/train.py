"""`prefloop train`: one run from a configuration file, or the rest of an interrupted one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from prefloop.analysis.numbers import NONE, interval, number, plus_minus
from prefloop.core.errors import UserError
from prefloop.runs import config as configuration


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print held-out numbers before and after, and say where everything is.

    Raises:
        UserError, DataError: before anything is trained or overwritten.
    """
    args, overrides = _parser().parse_known_args(argv)
    if args.keys:
        for key, default, note in configuration.options():
            print(f"{key} = {default!r}\n    {note}")
        return 0
    if (args.config is None) == (args.resume is None):
        raise UserError("name a configuration file, or a run to go on with", fix="prefloop train CONFIG.yaml")
    if args.resume and overrides:
        raise UserError("a resumed run keeps its configuration", where=" ".join(overrides), fix="leave the flags out")

    config = None if args.resume else configuration.load(args.config, overrides)
    from prefloop.runs import experiment  # torch and transformers load here, after the cheap mistakes are found

    quiet = args.quiet or args.json
    result = experiment.resume(args.resume, quiet=quiet) if config is None else experiment.run(config, quiet=quiet)
    if args.json:
        told = {"run": str(result.folder), "before": result.before, "after": result.after, "note": result.note}
        print(json.dumps(told))
    elif not args.quiet:
        _table(result)
    return 0


def _table(result: object) -> None:
    from rich.console import Console
    from rich.table import Table

    from prefloop.core.metric_table import metric
    from prefloop.runs.experiment import Result

    assert isinstance(result, Result)
    table = Table("held-out", "before", "after", "what it is", box=None, header_style="bold")
    for key in result.after:
        if not key.endswith(("_se", "_low", "_high")):
            row = metric(key)
            meaning = row.meaning if row else ""
            name, before, after = key.removeprefix("eval/"), _number(result.before, key), _number(result.after, key)
            table.add_row(name, before, after, meaning)
    Console().print(table)
    if result.note:
        print(result.note)
    print(f"run folder: {result.folder}\nnext: prefloop report {result.folder}")


def _number(metrics: dict[str, float], key: str) -> str:
    """A value with its standard error or its interval."""
    value, parts = metrics.get(key), [metrics.get(f"{key}_{part}") for part in ("se", "low", "high")]
    se, low, high = parts
    if value is None:
        return NONE
    if low is not None and high is not None:
        return interval(value, low, high)
    return number(value) if se is None else plus_minus(value, se)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefloop train",
        description="Fine-tune a model as a YAML file says; any key can be overridden: --training.steps 20.",
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml")
    parser.add_argument("--resume", metavar="RUN", help="go on with the interrupted run in this folder")
    parser.add_argument("--keys", action="store_true", help="list every key with its default")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
