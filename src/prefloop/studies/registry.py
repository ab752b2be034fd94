"""The registry of studies: names and questions. A study's module is imported only when needed."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING

from prefloop.core.errors import UserError, nearest
from prefloop.core.user import module

if TYPE_CHECKING:
    from prefloop.studies.study import Study

SUMMARIES = {
    "on-policy": "do the policy's own samples help, and where?",
    "staleness": "what does it cost to sample from an older policy?",
    "reuse": "may a collection be passed over several times, and what does the clip do?",
    "negative": "does a gradient that pushes bad responses down help?",
    "complement": "are on-policy sampling and the negative gradient complementary?",
    "labels": "how much is decided by what the labels tell, rather than by the method?",
    "displacement": "when does the winner's likelihood rise, and when does only the margin grow?",
    "min-mode-skew": "which of six methods does best on Min, Mode and Skew Length?",
    "overoptimisation": "when does training against a learned reward lose what it was learned for?",
    "published-defects": "what do the defects of the published code change by themselves?",
    "kl-modes": "how do the forward and the reverse KL move probability mass?",
    "theory": "do the paper's lemmas hold where everything can be enumerated?",
}
STUDIES = tuple(SUMMARIES)
ALONE = {  # run only by name
    "advice": "which method on which data: does a fitted rule beat the best constant choice? (not in `all`: it takes"
    " hours, and has no claims of the paper)",
    "real": "a real 135M model: do the findings hold at matched KL? (not in `all`; predicts its time first)",
}
FIGURES = {  # of the paper, that a study repeats
    "advice": "1",
    "on-policy": "5, 6, 18, 19",
    "staleness": "5, 6",
    "reuse": "10, 11",
    "negative": "12 to 14",
    "displacement": "16",
    "complement": "18",
    "min-mode-skew": "19",
    "real": "19",
}


def study(name: str) -> Study:
    """A study by its name, or a user's own as `module:STUDY`.

    Raises:
        UserError: no such study; the nearest name is suggested.
    """
    if ":" in name:
        return _own(name)
    known = SUMMARIES | ALONE
    if name not in known:
        raise UserError(f"unknown study `{name}`", where="prefloop study", fix=of_figure(name) or nearest(name, known))
    chosen: Study = import_module(f"prefloop.studies.{module_of(name)}").STUDY
    return chosen


def module_of(name: str) -> str:
    """The name of a study's module."""
    return name.replace("-", "_")


def of_figure(name: str) -> str:
    """The studies that repeat the figure of the paper that `fig10` or `10` names; empty if there is none."""
    asked = re.fullmatch(r"(?:fig(?:ure)?[.\s_-]*)?(\d+)", name.lower())
    found = [study for study, said in FIGURES.items() if asked and int(asked[1]) in _numbers(said)]
    return f"figure {asked[1]} of the paper: {', '.join(found)}" if asked and found else ""


def _numbers(said: str) -> list[int]:
    first, *more = map(int, re.findall(r"\d+", said))
    return list(range(first, more[0] + 1)) if " to " in said else [first, *more]


def _own(path: str) -> Study:
    """The study `module:NAME` from a user's own file."""
    from prefloop.studies.study import Study

    home, _, name = path.partition(":")
    own = module(home, where=f"study={path}")
    value = getattr(own, name, None)
    if not isinstance(value, Study):
        studies = [k for k, v in vars(own).items() if isinstance(v, Study)]
        fix = nearest(name, studies) if studies else "define `STUDY = Study(...)` in that file"
        raise UserError(f"`{home}` has no study `{name}`", where=f"study={path}", fix=fix)
    return value
