"""`prefloop study list`: the question of each study, and the figures of the paper that it repeats."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefloop.cli.options import Output
from prefloop.studies import registry


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """List the studies, the figures of the paper that they repeat, and their questions."""

    names: bool = False
    """Print names only."""


def run(options: Options) -> int:
    """Print names, figures and questions."""
    known = registry.SUMMARIES | registry.ALONE
    rows = [{"name": k, "figures": registry.FIGURES.get(k, ""), "summary": text} for k, text in known.items()]
    options.show(lambda: rows, lambda: print("\n".join(known) if options.names else _table(rows)))
    return 0


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Names, figures of the paper, and questions, wrapped."""
    name, figures = (max(len(row[k]) for row in rows) for k in ("name", "figures"))
    figures = max(figures, len(HEAD["figures"]))
    wrap = textwrap.TextWrapper(80, subsequent_indent=" " * (name + figures + 4), break_on_hyphens=False)
    lines = [
        wrap.fill(f"{row['name']:<{name}}  {row['figures']:<{figures}}  {row['summary']}") for row in (HEAD, *rows)
    ]
    return "\n".join([*lines, "", "prefloop study run NAME ... --size smoke|small|paper"])


HEAD = {"name": "study", "figures": "figure", "summary": "question"}  # figure: of Tajwar et al. 2024
