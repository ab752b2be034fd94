"""`prefloop watch`: the page of a run while it is trained, in a browser of this machine."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from prefloop.cli.options import Output, require, require_positive
from prefloop.runs.schema import Flag


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Serve the report of one run, finished or in progress, at an address of this machine until Ctrl-C."""

    run: Annotated[Path, Flag(positional=True, metavar="RUN")]
    """Run folder."""
    port: int = 0
    """Port of the address; 0 takes any that is free."""
    every: Annotated[float, Flag(metavar="SECONDS")] = 5.0
    """Seconds after which the page reloads itself, until the run is finished."""

    def __post_init__(self) -> None:
        require(0 <= self.port < 65536, "port", self.port, "use a number up to 65535, or 0 for any that is free")
        require_positive(self, "every")


def run(options: Options) -> int:
    """Print the address and serve until Ctrl-C.

    Raises:
        UserError: not a run folder, or the port is taken.
        DataError: a broken record.
    """
    from prefloop.report.cells import columns
    from prefloop.report.live import Live, server
    from prefloop.runs.folder import existing

    folder = existing(options.run)
    columns([folder])  # what is broken is said here
    with server(Live(folder, options.every), options.port) as serving:
        address = "http://{}:{}/".format(*serving.server_address[:2])
        options.show(lambda: {"address": address}, lambda: print(f"{address}  (and run.json there); Ctrl-C ends it"))
        sys.stdout.flush()  # also to a pipe
        with suppress(KeyboardInterrupt):
            serving.serve_forever()
    return 0
