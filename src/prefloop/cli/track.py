"""`prefloop track`: the metrics of runs that are on disk, sent to a tracker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from prefloop.cli.options import Output
from prefloop.core.errors import DataError, UserError, raised
from prefloop.core.wrapping import wrapped
from prefloop.runs.folder import RunFolder
from prefloop.runs.schema import Flag


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Send the metrics of finished or interrupted runs to trackers; what they have already is left out."""

    runs: Annotated[tuple[Path, ...], Flag(positional=True, metavar="RUN")]
    """Run folders."""
    to: Annotated[tuple[str, ...], Flag(commas=True)]
    """Trackers: any of trackio, tensorboard, wandb, mlflow."""
    project: str | None = None
    """Project or experiment there (default: that of the run's configuration, or prefloop)."""
    name: str | None = None
    """Name of the run there (default: that of the run's configuration, or of its folder)."""


def run(options: Options) -> int:
    """Send, and print how many lines each tracker got and how to look at them.

    Raises:
        UserError: a folder that is not a run or is in use, an unknown tracker, or one that is not installed.
        DataError: a tracker that failed; what it has got is noted, and the same command sends the rest.
    """
    from prefloop.tracking.trackers import check

    if options.name is not None and len(options.runs) > 1:
        raise UserError("one name for several runs", where="--name", fix="send them one by one, or leave it out")
    check(options.to, "--to")
    done = [_send(options, folder, to) for folder in options.runs for to in options.to]
    options.show(lambda: done, lambda: print("\n".join(map(_line, done))))
    return 0


def _send(options: Options, folder: Path, to: str) -> dict[str, Any]:
    """What was sent of one run to one tracker."""
    from prefloop.tracking.feed import Feed
    from prefloop.tracking.record import described
    from prefloop.tracking.trackers import adapter

    with RunFolder.open(folder):  # locked: no run that trains is sent twice
        run = described(folder, options.project, options.name)
        try:
            feed = Feed(run, to)
            lines = feed.send()
            feed.close(0)
        except UserError:
            raise
        except Exception as error:  # of the tracker's library, which may raise anything
            fix = "remove the cause and send again: what has arrived is left out"
            raise DataError(f"{to} failed: {raised(error)}", where=str(folder), fix=fix) from error
    return {"run": str(folder), "to": to, "place": feed.place, "lines": lines, "look": adapter(to).look(run)}


def _line(sent: dict[str, Any]) -> str:
    what = f"{sent['lines']} lines" if sent["lines"] else "nothing new"
    return wrapped(f"{sent['run']} → {sent['to']}: {what}; {sent['look']}")
