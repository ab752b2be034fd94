"""Which studies there are: names and what each asks. A study's module is imported only when it is wanted."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from prefloop.core.errors import UserError, nearest

if TYPE_CHECKING:
    from prefloop.studies.study import Study

SUMMARIES = {  # the module has the name of the study, with _ for -
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
ALONE = {  # run by their names only: they train a real model, and no lab
    "length-real": "a real 135M model: do the findings on lengths hold? (not in `all`; says first how long it takes)",
}


def study(name: str) -> Study:
    """A study by its name.

    Raises:
        UserError: no such study; the nearest name is suggested.
    """
    known = SUMMARIES | ALONE
    if name not in known:
        raise UserError(f"there is no study `{name}`", where="prefloop study", fix=nearest(name, known))
    module = import_module(f"prefloop.studies.{name.replace('-', '_')}")
    found: Study = module.STUDY
    return found
