"""A study's page: a README with question, answers, figures, design and caveats, made from its record alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefloop.analysis.numbers import compact, number
from prefloop.core import files
from prefloop.report import svg
from prefloop.report.chart import Chart, from_record
from prefloop.report.markdown import grid, picture, prose, sentence
from prefloop.report.tables import SUFFIXES, written
from prefloop.studies import forest
from prefloop.studies.forest import measured
from prefloop.studies.record import RESULT, Result, counted, load, readable

PAGE = "README.md"
MARK = "<!-- written by `prefloop study run`: do not edit -->\n\n"
SMOKE = "Runs of size `smoke` only show that the code works; their verdicts are not evidence."
CHECKS = {"supported": "holds", "undecided": "undecided", "no headroom": "undecided"}  # of what does not count
LEFT_OUT = "Not judged at this size"
RATES = "Conditions"  # the table with the learning rates
ANSWERS = "Answers"  # the table that answers a question without claims


def write(result: Result, folder: Path) -> None:
    """Write `folder/NAME/` with result.json, README.md and the figures; results of an earlier run are replaced.

    Args:
        result: see `record`.
        folder: folder with the pages of all studies.
    """
    home = folder / result["study"]
    before = {name for old in readable(home.glob(RESULT))[0] for name in drawings(old)}
    drawn = drawings(result)
    svg.draw(drawn, home)
    files.write(home / PAGE, page(result))
    files.write(home / RESULT, files.to_json(result, indent=1) + "\n")
    for name in before - set(drawn):
        (home / svg.file_name(name)).unlink(missing_ok=True)


def redraw(folder: Path, *, pdf: bool = False, tables: str = "") -> list[Path]:
    """Redraw figures and pages of every study below a folder from its result.json; returns what is written but pages.

    Args:
        pdf: also write figures as PDF.
        tables: also write claims and tables in one of `report.tables.FORMATS`.

    Raises:
        DataError: a file that is not a result, or is from another version of Prefloop.
        UserError: PDF without its extra.
    """
    drawn: list[Path] = []
    for result in load(folder):
        home = folder / result["study"]
        drawn += svg.draw(drawings(result), home, pdf=pdf)
        drawn += _write_tables(result, home, tables) if tables else []
        files.write(home / PAGE, page(result))
    return drawn


def drawings(result: Result) -> dict[str, Sequence[Chart]]:
    """Every figure of a study by its file: effects, then what its runs show."""
    own = {name: [from_record(chart) for chart in charts] for name, charts in result["figures"].items()}
    return {**forest.charts(counted(result["claims"])), **own}


def _write_tables(result: Result, home: Path, format: str) -> list[Path]:
    """The claims with their numbers, and every table, as files for other programs."""
    keys = ("name", "value", "low", "high", "n", "threshold", "unit", "p", "verdict", "counts")
    every = {"claims": (keys, [[claim[key] for key in keys] for claim in result["claims"]])}
    every |= {f"table-{n}": (table["head"], table["rows"]) for n, table in enumerate(result["tables"], 1)}
    paths = {name: home / f"{name}.{SUFFIXES.get(format, format)}" for name in every}
    for name, (head, rows) in every.items():
        files.write(paths[name], written(head, rows, format) + "\n")
    return list(paths.values())


# ---- the page -----------------------------------------------------------------------------------------------------


def page(result: Result) -> str:
    """README.md of a study."""
    further = [table for table in result["tables"] if table["title"] != ANSWERS]
    parts = [
        f"# {result['study']}: {result['question']}",
        f"**The paper** ({result['source']}): {paper(result)}",
        f"## {ANSWERS}\n\n{outcome(result)}",
        *(_answers(result)),
        *_figures(result),
        f"## Design\n\n{grid(('', ''), list(result['design'].items()))}",
        _caveats(result),
        *([f"## Measures\n\n{_measures(result['claims'])}"] if result["claims"] else []),
        *(["## Tables"] if further else []),
        *(f"**{table['title']}**\n\n{grid(table['head'], table['rows'])}" for table in further),
        _again(result),
    ]
    return MARK + "\n\n".join(part for part in parts if part) + "\n"


def paper(result: Result) -> str:
    """What the paper says."""
    return prose(sentence(result["finding"])) if result["finding"] else "no finding on this question."


def outcome(result: Result) -> str:
    """The verdicts of a study in one line."""
    size = f"Size `{result['size']}`.{caution(result['size'])}"
    if not result["claims"]:
        return size
    given = [f"{n} {verdict}" for verdict, n in result["verdicts"].items() if n]
    said = ", ".join(given) or "nothing that counts as a finding"
    return f"{sentence(said)} {size}"


def caution(size: str) -> str:
    return f" {SMOKE}" if size == "smoke" else ""


def _answers(result: Result) -> list[str]:
    findings = [f"- {answer(claim)}" for claim in counted(result["claims"])]
    checks = [f"- {check(claim)}" for claim in result["claims"] if not claim["counts"]]
    missing = [f"- {LEFT_OUT}: `{name}`." for name in result["left_out"]]
    title = "**Checks and mathematics**, which are not counted as findings:"
    lists = ["\n".join(findings), *([title, "\n".join(checks)] if checks else []), "\n".join(missing)]
    told = answers(result)
    return [part for part in (*lists, grid(told["head"], told["rows"]) if told else "") if part]


def answers(result: Result) -> Result | None:
    """The table that answers a question without claims, if there is one."""
    return next((table for table in result["tables"] if table["title"] == ANSWERS), None)


def answer(claim: Result) -> str:
    """The verdict on a finding in words: effect with interval, and n."""
    said = f"**{sentence(claim['verdict']).removesuffix('.')}**: {prose(sentence(claim['prediction']))}"
    least = f"{effect(claim)}; {compact(claim['threshold'])} is the least that counts"
    why = f": {prose(claim['reason'])}" if claim["verdict"] in ("undecided", "no headroom") else ""
    return f"{said} {sentence(least + why)}"


def effect(claim: Result, unit: str = "") -> str:
    """The effect with its unit, unless that is known, and the number of seeds."""
    own = "" if claim["unit"] == unit else f" {claim['unit']}"
    return f"{measured(claim)}{own} (n = {claim['n']})"


def answered(claim: Result) -> str:
    """The verdict on a finding; of what does not count, only whether it holds."""
    return claim["verdict"] if claim["counts"] else CHECKS.get(claim["verdict"], "does not hold")


def check(claim: Result) -> str:
    """Whether a statement holds."""
    return (
        f"**{sentence(answered(claim)).removesuffix('.')}**: {prose(claim['prediction'].rstrip('.'))}: {effect(claim)}."
    )


def _figures(result: Result) -> list[str]:
    """Figures with captions."""
    rates = any(table["title"] == RATES for table in result["tables"])
    shown = {name: charts for name, charts in drawings(result).items() if name != forest.SMALL}
    out = []
    for name, charts in shown.items():
        where = f" Learning rates: table “{RATES}”." if rates and name != forest.NAME else ""
        out.append(f"{picture(charts, name)}\n\n*{_caption(charts)}{where}*")
    return out


def _caption(charts: Sequence[Chart]) -> str:
    """Titles and what is drawn: n, middle and band."""
    titles = "; ".join(dict.fromkeys(chart.title for chart in charts))
    said = "; ".join(dict.fromkeys(chart.interval for chart in charts if chart.interval))
    return prose(" ".join(sentence(text) for text in (titles, said) if text)).replace("*", "\\*")


def _caveats(result: Result) -> str:
    lines = "\n".join(f"- {prose(text)}" for text in result["caveats"])
    return f"## Caveats\n\n{lines}" if lines else ""


def _measures(claims: Sequence[Result]) -> str:
    """What each claim measures, the smallest effect that counts, and how sure its sign and its verdict are."""
    head = ("claim", "measured", "effect", "unit", "counts from", "n", "p, no effect", "p, verdict", "why")
    rows = [
        (
            *(f"`{claim['name']}`", claim["effect"], measured(claim), claim["unit"]),
            *(compact(claim["threshold"]), str(claim["n"]), compact(claim["p"]), compact(claim["p_verdict"])),
            claim["reason"],
        )
        for claim in claims
    ]
    return grid(head, rows)


def _again(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rules = (
        f" Rules: `{result['rules']}` (budgets, decisions and tuning, shared by all studies), `{result['asked']}`"
        " (claims and conditions of this one)."
    )
    return (
        f"## Reproduce\n\n```\n{result['command']}\n```\n\nIt took {took(result['effort'])}."
        f"{rules if result['claims'] else ''} Versions: {versions}. All numbers: [{RESULT}]({RESULT})."
    )


def took(effort: Result) -> str:
    """The time of a study; a short one may have used runs of other studies."""
    runs = {"": effort["runs"], "computed anew": effort["computed"], "for tuning": effort["tuning"]}
    said = ", ".join(f"{number(n)} {what}".strip() for what, n in runs.items() if what)
    return effort["time"] + (f" for {number(effort['runs'])} runs of the lab ({said})" if effort["runs"] else "")
