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
    "on-policy": "when do the policy's own samples beat a fixed dataset?",
    "reuse": "how many passes over one collection are too many, and for which methods?",
    "negative": "what does pushing bad responses down add, offline and on-policy?",
    "displacement": "when does the likelihood of preferred responses fall, and where does it go?",
    "complement": "do on-policy samples and the negative gradient help each other?",
    "kl-modes": "how do the forward and the reverse KL move probability mass?",
    "theory": "do the paper's lemmas hold where everything can be enumerated?",
    "published-defects": "what do the defects of the published code change?",
    "length-on-policy": "text-like responses: when do the policy's own samples help?",
    "length-reuse": "text-like responses: how many passes over one collection are too many?",
    "length-negative": "text-like responses: what does pushing bad ones down add, offline?",
    "length-complement": "text-like responses: six methods on Min, Mode and Skew Length",
    "length-dials": "which method wins where, over the reward's peak and the coverage of the data?",
    "overoptimisation": "when does training against a learned reward lose what it was learned for?",
}
STUDIES = tuple(SUMMARIES)
ALONE = {  # run only by name: they train a real model
    "length-real": "a real 135M model: do the findings on lengths hold? (not in `all`; predicts its time first)",
}
FIGURES = {  # of the paper, that a study repeats
    "on-policy": "5",
    "length-on-policy": "6",
    "reuse": "10, 11",
    "length-reuse": "11",
    "negative": "12 to 14",
    "length-negative": "12, 14",
    "displacement": "16",
    "complement": "18",
    "length-complement": "19",
    "length-dials": "1",
    "length-real": "19",
}
ON_LENGTHS = {  # the question's file holds both worlds: STUDY on arms and sequences, LENGTHS on text-like responses
    "length-on-policy": "on_policy",
    "length-reuse": "reuse",
    "length-negative": "negative",
    "length-complement": "complement",
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
    file, attribute = (ON_LENGTHS[name], "LENGTHS") if name in ON_LENGTHS else (name.replace("-", "_"), "STUDY")
    chosen: Study = getattr(import_module(f"prefloop.studies.{file}"), attribute)
    return chosen


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
