"""Write docs/methods/*.md and docs/metrics.md from the methods and the table of metrics.

Run `python tools/method_pages.py` after changing a method or metric; `--check` only lists stale pages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prefloop.cli.methods import negative_word, number, on_policy_word, reuse_word, run_command
from prefloop.core.describe import FAMILIES, PATTERNS, Description, corrected, describe, details
from prefloop.core.methods import METHODS, Method
from prefloop.core.metric_table import METRICS, TABLE, Metric

DOCS = Path(__file__).parents[1] / "docs"
NOTICE = "<!-- written by tools/method_pages.py: do not edit -->"

NEEDS = {
    "scores": "a score of each response: a reward or a rating",
    "labels": "a label of each response, +1 good or −1 not: from the data, or score above `reward.label_threshold`",
    "reference": "log-probs of the reference model, computed once per collection",
    "behaviour": "log-probs of the policy at collection, for the ratio",
    "values": "a value head",
    "z": "the baseline from mismatched prompt–response pairs, estimated for each minibatch by two evaluations",
}
REDUCTIONS = {
    "sequence": "Token terms are summed over a response; the sum over the minibatch is divided by the number of "
    "responses or pairs, or by the sum of weights that only pick responses.",
    "token": "The loss is the mean over all tokens of the minibatch.",
    "mean": "Token terms are averaged over each response, then over responses.",
    "constant": "Token sums are divided by a constant length (`horizon`), so that long responses keep their weight.",
}


def pages() -> dict[Path, str]:
    """Every generated page, by its path under docs/."""
    rows = {name: describe(name, row) for name, row in METHODS.items()}
    out = {Path("methods") / f"{name}.md": method_page(row, METHODS[name]) for name, row in rows.items()}
    return {**out, Path("methods/README.md"): index_page(rows.values()), Path("metrics.md"): metrics_page()}


def method_page(row: Description, method: Method) -> str:
    """One method, in sections that are the same for all."""
    parts = [p for p in (method.weight, method.pairs) if p is not None]
    sections = {
        "Formula": _formula(method),
        "What it does": "\n\n".join([row.summary, _data(row), *map(_signal, parts)]).strip(),
        "Coefficients": f"Family: **{row.family}**; {PATTERNS[row.family]}.\n\n{REDUCTIONS[method.reduction]}",
        "Switches": _table(("switch", "what it does here"), [(f"`{k}`", v) for k, v in row.switches.items()]),
        "Defaults": _defaults(row, method),
        "Needs": "\n".join(f"- `{n}`: {NEEDS[n]}" for n in row.needs) or "Nothing but the responses.",
        "Healthy metrics": _healthy(row, method),
        "Paper": linked(row.paper),
        "Command line": f"```sh\nprefloop methods {row.name}\n{run_command(row)}\n```",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"{NOTICE}\n\n# {row.name}\n\n{body}\n\n[All methods](README.md) · [All metrics](../metrics.md)\n"


def _formula(method: Method) -> str:
    return f"Loss `{method.objective.__name__}`, unreduced:\n\n```text\n{details(method.objective)}\n```"


def _data(row: Description) -> str:
    group = f"{row.fields['responses']} response{'s' if row.fields['responses'] > 1 else ''}"
    if row.on_policy == 0:
        return f"The dataset gives {group} per prompt."
    return f"The current policy writes {group} per prompt; number of passes over a collection: {row.reuse}."


def _signal(part: Callable[..., Any]) -> str:
    kind = "Pairs" if part.__module__.endswith("pairs") else "Weight"
    return f"{kind} `{part.__name__}`: " + " ".join(details(part).split("\n\nRaises:")[0].split())


def _defaults(row: Description, method: Method) -> str:
    switches = {"on_policy": method.on_policy, "reuse": method.reuse, "negative": method.negative}
    kinds = (("switch", switches), ("hyper-parameter", row.options), ("loop", row.fields))
    return _table(("name", "default", "kind"), [(f"`{k}`", number(v), kind) for kind, d in kinds for k, v in d.items()])


def _healthy(row: Description, method: Method) -> str:
    keys = ["eval/reward", "eval/kl_reverse", "push/up", "push/down", "grad_norm"]
    keys += ["reward", "frac_reward_zero_std"] if row.on_policy > 0 and method.responses > 1 else []
    if method.pairs is not None:
        implicit = ["rewards/margins", "rewards/chosen", "rewards/rejected"]
        keys += implicit if "reference" in row.needs else ["logps/chosen", "logps/rejected"]
    keys += ["ess", "clip_ratio/region_mean", "ratio/max"] if corrected(method) else []
    keys += ["loss/value"] if method.critic else []
    return _metric_table(METRICS[key] for key in keys)


def index_page(rows: Iterable[Description]) -> str:
    """The paper's Table 1, computed from the methods."""
    rows = sorted(rows, key=lambda row: FAMILIES.index(row.family))
    lines = []
    for row in rows:
        cells = (on_policy_word(row), reuse_word(row), negative_word(row), ", ".join(row.needs) or "–")
        lines.append((f"[{row.name}]({row.name}.md)", row.family, *cells, linked(row.paper)))
    head = ("method", "family", "on-policy sampling", "sample reuse", "negative gradient", "needs", "paper")
    text = (
        "Every method runs in the same loop, and the three switches work on all of them. Reuse is the default number of"
        " passes over one collection, N/A if the responses come from a dataset. The negative gradient is probed: yes if"
        " some coefficient of the method is below 0."
    )
    return f"{NOTICE}\n\n# Methods\n\n{text}\n\n{_table(head, lines)}\n\n[All metrics](../metrics.md)\n"


def metrics_page() -> str:
    """The page of the table of metrics."""
    text = (
        "`metrics.jsonl` of a run has one line per optimiser step (`kind: step`) and one per evaluation (`kind:"
        " evaluation`). A key that ends in `_se` is the standard error of the key without it; `_low` and `_high` are"
        " the ends of its 95 % bootstrap interval. Ranges are rules of thumb for language models.\n\nThe lab writes"
        " the same keys to Parquet, one row per evaluation: step metrics are those of the step before it,"
        " `push/up` and `push/down` the mean over the steps since the last evaluation, and `ess`, `kl/collection` and"
        " `ratio/*` are measured after the last step on the latest collection, when its responses are stalest. The"
        " report warns if the values in the last quarter of a run show a red flag marked with \u26a0."
    )
    body = "\n\n".join(f"## {title}\n\n{_metric_table(rows)}" for title, rows in TABLE.items())
    return f"{NOTICE}\n\n# Metrics\n\n{text}\n\n{body}\n"


def _metric_table(rows: Iterable[Metric]) -> str:
    head = ("key", "meaning", "unit", "healthy", "red flag")
    return _table(head, [(f"`{m.key}`", m.meaning, m.unit or "–", m.healthy, _red_flag(m)) for m in rows])


def _red_flag(metric: Metric) -> str:
    return metric.red_flag + (" \u26a0" if metric.check else "")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def linked(paper: str) -> str:
    """A citation with its identifier as a link."""
    paper = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)
    return re.sub(r"doi:(10\.\S+)", r"[doi:\1](https://doi.org/\1)", paper)


def stale(docs: Path = DOCS) -> list[str]:
    """Pages that are missing, differ from the code, or belong to no method."""
    wanted = pages()
    there = {p.relative_to(docs) for p in (docs / "methods").glob("*.md")}
    wrong = [p for p, text in wanted.items() if not (docs / p).is_file() or (docs / p).read_text("utf-8") != text]
    return sorted(map(str, [*wrong, *(there - wanted.keys())]))


def main() -> int:
    """Write the pages, or with `--check` list those that are not current."""
    if sys.argv[1:] == ["--check"]:
        print("\n".join(stale()) or "docs are current")
        return int(bool(stale()))
    (DOCS / "methods").mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        (DOCS / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
