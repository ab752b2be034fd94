"""`prefloop study list`: the question of each study."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from prefloop.cli.options import Output
from prefloop.studies import registry


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """List the studies and their questions."""

    names: bool = False
    """Print names only."""


def run(options: Options) -> int:
    """Print names and questions."""
    known = registry.SUMMARIES | registry.ALONE
    rows = [{"name": name, "summary": summary} for name, summary in known.items()]
    options.show(lambda: rows, lambda: print("\n".join(known) if options.names else _table(known)))
    return 0


def _table(known: dict[str, str]) -> str:
    width = max(map(len, known))
    wrap = textwrap.TextWrapper(80, subsequent_indent=" " * (width + 2), break_on_hyphens=False)
    lines = [wrap.fill(f"{name:<{width}}  {text}") for name, text in known.items()]
    return "\n".join([*lines, "", "prefloop study run NAME ... --size smoke|small|paper"])
