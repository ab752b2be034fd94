"""`prefloop study run`: the paper's questions, judged by rules stated in advance."""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from prefloop.cli.methods import PIPE
from prefloop.cli.options import Output, require, require_folder, require_positive
from prefloop.core.files import to_json
from prefloop.runs.schema import Flag
from prefloop.studies import registry

if TYPE_CHECKING:  # scipy and torch are imported when a study runs
    from prefloop.studies.study import Study

ALL = "all"
Size = Literal["smoke", "small", "paper"]
SIZES = get_args(Size)  # as in studies.study, which takes half a second to import
SIGNALLED = 128  # higher exit codes mean interruption
COLOURS = {"supported": "green", "smaller than claimed": "cyan", "equivalent": "blue", "contradicted": "red"}
OPEN = "yellow"  # undecided, no headroom


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Run studies: a verdict for each prediction, figures and pages."""

    names: Annotated[tuple[str, ...], Flag(positional=True, metavar="NAME")]
    """Studies, your own `module:STUDY`, or `all` (those of the lab); see prefloop study list."""
    size: Size = "small"
    """Size of the whole study."""
    out: Annotated[Path, Flag(metavar="DIR")] = Path("studies")
    """Folder for results, figures and pages; existing runs are reused."""
    workers: int | None = None
    """Worker processes (default: usable cores)."""
    stack: int | None = None
    """Maximum number of runs per stack (default: chosen by the lab)."""
    ray: Annotated[str, Flag(metavar="ADDRESS")] = ""
    """Run on this Ray cluster instead of local processes; `local` starts one."""
    repetition: int = 0
    """Another number: other seeds everywhere, for an independent repetition in another --out."""
    problems: int | None = None
    """Of `advice`: measure at most so many new problems, and report on what there is (default: all of the size)."""

    def __post_init__(self) -> None:
        require_positive(self, "workers", "stack")
        require(self.repetition >= 0, "repetition", self.repetition, "use 0 or more")
        if self.problems is not None:
            require(self.problems >= 0, "problems", self.problems, "use 0 or more")
            require(self.names == ("advice",), "problems", self.problems, "it is an option of `advice` alone")
        require_folder(self.out)


def run(options: Options) -> int:
    """Run the studies; the exit code is that of the first one that failed, and pages of the others are kept."""
    named = (registry.STUDIES if name == ALL else (name,) for name in options.names)
    names = dict.fromkeys(name for some in named for name in some)
    studies = [registry.study(name) for name in names]

    from prefloop.studies.bench import Bench

    start = time.monotonic()
    results: list[dict[str, Any]] = []
    failed: dict[str, Exception] = {}
    with Bench(
        size=options.size,
        out=options.out,
        workers=options.workers or _cores(),
        stack=options.stack,
        ray=options.ray,
        repetition=options.repetition,
        problems=options.problems,
        quiet=options.silent,
    ) as bench:
        for study in studies:
            try:
                results.append(_one(study, bench, options))
            except Exception as error:
                if not 0 < getattr(error, "exit_code", SIGNALLED) < SIGNALLED:
                    raise  # a bug, with its traceback, or an interruption
                failed[study.name] = error
                print(f"error: {study.name}: {error}", file=sys.stderr)
            else:
                _tell(results[-1], options)
    _close(results, failed, time.monotonic() - start, options)
    return next((int(getattr(error, "exit_code", 1)) for error in failed.values()), 0)


def _one(study: Study, bench: Any, options: Options) -> dict[str, Any]:
    """Measure, then write the page and the findings over all pages, so that both are complete after Ctrl-C."""
    from prefloop.runs.manifest import versions
    from prefloop.studies import findings, page
    from prefloop.studies.record import record
    from prefloop.studies.study import Effort

    start, before = time.monotonic(), (bench.runs, bench.computed, bench.tuning)
    outcome = study.run(bench)
    used = (now - then for now, then in zip((bench.runs, bench.computed, bench.tuning), before, strict=True))
    effort = Effort(round(time.monotonic() - start, 1), *used)
    result = record(
        study,
        outcome,
        size=options.size,
        effort=effort,
        command=command(study.name, options),
        versions=versions(),
        repetition=options.repetition,
    )
    page.write(result, options.out)
    findings.write(options.out)
    return result


def command(name: str, options: Options) -> str:
    """The command that reproduces a study; workers and paths do not change its numbers."""
    words = ["prefloop", "study", "run", name, "--size", options.size]
    words += [] if options.stack is None else ["--stack", str(options.stack)]
    return shlex.join(words + (["--repetition", str(options.repetition)] if options.repetition else []))


def _tell(result: dict[str, Any], options: Options) -> None:
    if options.silent:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from prefloop.analysis.numbers import compact
    from prefloop.report.markdown import plain
    from prefloop.studies.page import PAGE, answered, answers, effect

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(width=PIPE, highlight=False)
    head = Text(f"\n{result['study']}", style="bold")
    console.print(head.append(f"  {result['question']}  {result['effort']['time']}", style="not bold dim"))
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    own = answers(result)
    for title in own["head"] if own else ("claim", "effect [95 % interval]", "counts from", "verdict"):
        table.add_column(title)
    for row in own["rows"] if own else ():
        table.add_row(*(Text(plain(value)) for value in row))
    for claim in result["claims"]:
        verdict = Text(answered(claim), style=COLOURS.get(claim["verdict"], OPEN))
        table.add_row(Text(claim["name"]), Text(effect(claim)), Text(compact(claim["threshold"])), verdict)
    console.print(table)
    print(f"page: {options.out / result['study'] / PAGE}", flush=True)


def _close(results: list[dict[str, Any]], failed: dict[str, Exception], seconds: float, options: Options) -> None:
    """Print the JSON object, or the overall result."""
    from prefloop.analysis.numbers import duration
    from prefloop.studies.findings import FINDINGS
    from prefloop.studies.record import tally

    verdicts = tally(claim for result in results for claim in result["claims"])
    place = str(options.out / FINDINGS) if results else None
    if options.json:
        summary = {"size": options.size, "seconds": round(seconds, 1), "verdicts": verdicts, "findings": place}
        errors = {name: str(error) for name, error in failed.items()}
        print(to_json({**summary, "results": results, "failed": errors}))
    elif not options.quiet and (results or failed):
        lost = f"; failed: {', '.join(failed)}" if failed else ""
        said = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items() if n) or "no findings"
        print(f"\n{said} in {duration(seconds)}{lost}" + (f"\nfindings: {place}" if place else ""))
