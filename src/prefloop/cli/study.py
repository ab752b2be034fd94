"""`prefloop study list`, `run` and `draw`: the paper's questions, judged by rules stated before."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.core.errors import UserError, nearest
from prefloop.studies import registry

if TYPE_CHECKING:  # scipy, matplotlib and torch load when a study runs
    from prefloop.studies.study import Study

DESCRIPTION = "The paper's questions, asked in the lab and of a real model: predictions judged by rules stated before."
ALL = "all"
SIZES = ("smoke", "small", "paper")  # those of studies.study, which takes half a second to import
SIGNALLED = 128  # exit codes from here on are of interruptions
PIPE = 140  # columns where the output is no terminal
COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow"}


def main(argv: Sequence[str] | None = None) -> int:
    """List the studies or run some.

    Raises:
        UserError: a wrong name, size or count, before anything runs.
    """
    args = _parser().parse_args(argv)
    return {"list": _list, "run": _run, "draw": _draw}[args.verb](args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prefloop study", description=DESCRIPTION)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|run|draw")
    show = verbs.add_parser("list", help="what each study asks", description="What each study asks.")
    run = verbs.add_parser(
        "run", help="measure, judge, draw", description="Run studies: a verdict per prediction, figures and pages."
    )
    names = f"of studies, or `{ALL}`: those of the lab; see prefloop study list"
    run.add_argument("names", nargs="+", metavar="NAME", help=names)
    run.add_argument("--size", default="small", help=f"of the whole study: {', '.join(SIZES)} (default: small)")
    run.add_argument("--out", type=Path, default=Path("studies"), metavar="DIR", help="default: studies")
    run.add_argument("--workers", type=int, default=_cores(), metavar="N", help="processes (default: usable cores)")
    run.add_argument("--stack", type=int, metavar="N", help="most runs in one stack (default: chosen by the lab)")
    run.add_argument("--ray", default="", metavar="ADDRESS", help="run on a Ray cluster instead of local processes")
    draw = verbs.add_parser(
        "draw", help="figures and pages from result.json", description="Draw figures and pages anew, without a run."
    )
    draw.add_argument("folder", type=Path, metavar="DIR", help="the --out of earlier runs")
    draw.add_argument("--pdf", action="store_true", help="PDF beside SVG, for a paper: pip install 'prefloop[figures]'")
    for verb in (show, run):
        verb.add_argument("--json", action="store_true", help="print one JSON value and nothing else")
    show.add_argument("--quiet", "-q", action="store_true", help="print names only")
    run.add_argument("--quiet", "-q", action="store_true", help="print nothing")
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- list ---------------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    known = registry.SUMMARIES | registry.ALONE
    rows = [{"name": name, "summary": summary} for name, summary in known.items()]
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif args.quiet:
        print("\n".join(known))
    else:
        width = max(map(len, known))
        print("\n".join(f"{row['name']:<{width}}  {row['summary']}" for row in rows))
        print("\nprefloop study run NAME ... --size smoke|small|paper")
    return 0


# ---- draw ---------------------------------------------------------------------------------------------------------


def _draw(args: argparse.Namespace) -> int:
    from prefloop.studies import page

    if not args.folder.is_dir():
        raise UserError("no such folder", where=str(args.folder), fix="name the --out of prefloop study run")
    for path in page.redraw(args.folder, pdf=args.pdf):
        print(path)
    return 0


# ---- run ----------------------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    """The exit code is that of the first study that failed; pages of the others stand."""
    named = (registry.STUDIES if name == ALL else (name,) for name in args.names)
    names = dict.fromkeys(name for some in named for name in some)
    _refuse(args)
    studies = [registry.study(name) for name in names]

    from prefloop.studies.bench import Bench

    quiet, start = args.quiet or args.json, time.monotonic()
    results: list[dict[str, Any]] = []
    failed: dict[str, Exception] = {}
    with Bench(
        size=args.size, out=args.out, workers=args.workers, stack=args.stack, ray=args.ray, quiet=quiet
    ) as bench:
        for study in studies:
            try:
                results.append(_one(study, bench, args))
            except Exception as error:
                if not 0 < getattr(error, "exit_code", SIGNALLED) < SIGNALLED:
                    raise  # a defect, with its traceback; an interruption, which ends them all
                failed[study.name] = error
                print(f"error: {study.name}: {error}", file=sys.stderr)
            else:
                _tell(results[-1], args, quiet)
    _close(results, failed, time.monotonic() - start, args)
    return next((int(getattr(error, "exit_code", 1)) for error in failed.values()), 0)


def _refuse(args: argparse.Namespace) -> None:
    """Mistakes that are found without running anything."""
    if args.size not in SIZES:
        raise UserError(f"there is no size `{args.size}`", where="--size", fix=nearest(args.size, SIZES))
    for flag in ("workers", "stack"):
        count = getattr(args, flag)
        if count is not None and count < 1:
            raise UserError(f"`{flag}` cannot be {count}", where=f"--{flag}", fix="use 1 or more")
    if args.out.exists() and not args.out.is_dir():
        raise UserError("the output folder is a file", where=str(args.out), fix="name a folder")


def _one(study: Study, bench: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Measure, write the page and the findings over all pages, so that Ctrl-C leaves both in order."""
    from prefloop.runs.manifest import versions
    from prefloop.studies import page
    from prefloop.studies.study import Effort

    start, runs, computed = time.monotonic(), bench.runs, bench.computed
    outcome = study.run(bench)
    effort = Effort(round(time.monotonic() - start, 1), bench.runs - runs, bench.computed - computed)
    told = {"size": args.size, "effort": effort, "command": command(study.name, args), "versions": versions()}
    result = page.write(study, outcome, args.out, **told)
    page.write_findings(args.out)
    return result


def command(name: str, args: argparse.Namespace) -> str:
    """What repeats the numbers of one study; workers and places do not change them."""
    words = ["prefloop", "study", "run", name, "--size", args.size]
    return shlex.join(words + ([] if args.stack is None else ["--stack", str(args.stack)]))


def _tell(result: dict[str, Any], args: argparse.Namespace, quiet: bool) -> None:
    if quiet:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from prefloop.analysis.numbers import duration
    from prefloop.studies.page import PAGE, measured, threshold

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(width=PIPE, highlight=False)
    head = Text(f"\n{result['study']}", style="bold")
    console.print(head.append(f"  {result['question']}  {duration(result['effort']['seconds'])}", style="not bold dim"))
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for title in ("claim", "effect [95 % interval]", "must exceed", "verdict"):
        table.add_column(title)
    for claim in result["claims"]:
        verdict = Text(claim["verdict"], style=COLOURS[claim["verdict"]])
        table.add_row(Text(claim["name"]), Text(measured(claim)), Text(threshold(claim)), verdict)
    console.print(table)
    print(f"page: {args.out / result['study'] / PAGE}", flush=True)


def _close(
    results: list[dict[str, Any]], failed: dict[str, Exception], seconds: float, args: argparse.Namespace
) -> None:
    """The JSON object, or what came out in all."""
    from prefloop.analysis.numbers import duration
    from prefloop.studies.page import FINDINGS, counts, tally

    place = str(args.out / FINDINGS) if results else None
    if args.json:
        told = {"size": args.size, "seconds": round(seconds, 1), "verdicts": counts(results), "findings": place}
        errors = {name: str(error) for name, error in failed.items()}
        print(json.dumps({**told, "results": results, "failed": errors}, ensure_ascii=False, allow_nan=False))
    elif not args.quiet and (results or failed):
        lost = f"; failed: {', '.join(failed)}" if failed else ""
        print(f"\n{tally(results)} in {duration(seconds)}{lost}" + (f"\nfindings: {place}" if place else ""))
