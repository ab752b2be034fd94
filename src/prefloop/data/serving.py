"""Which methods the responses of a data file serve, and with which flags. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prefloop.core.errors import UserError
from prefloop.data.records import Group

Flags = tuple[str, ...]


@dataclass(frozen=True)
class Needs:
    """What a method reads of the data."""

    reads: Literal["", "scores", "labels"]
    compares: bool  # responses to one prompt with each other
    responses: int  # to each prompt, by default


IMITATES, COMPARES, JUDGES = Needs("", False, 1), Needs("scores", True, 2), Needs("labels", False, 1)
OFFLINE = {  # methods that train on given responses; a test compares it with the table of methods
    **dict.fromkeys(("dpo", "cdpo", "ipo", "slic", "simpo", "orpo", "dpop", "pref_ft"), COMPARES),
    **dict.fromkeys(("kto", "binary_feedme"), JUDGES),
    "sft": IMITATES,
    "best_of_n_offline": Needs("scores", True, 4),
    "rso": Needs("scores", True, 8),
}


@dataclass(frozen=True)
class Given:
    """What a method finds in the data."""

    largest: int  # responses to one prompt, at most
    scored: bool  # preferences, labels, ratings, or a reward that replaces them
    labels: bool  # the scores are labels already, or chosen and rejected

    @property
    def words(self) -> str:
        """In the words of a message."""
        if not self.largest:
            return "prompts without responses"
        if self.largest > 1:
            return "preferences" if self.scored else "responses without scores"
        if not self.scored:
            return "single responses without a score"
        return "labels of single responses" if self.labels else "single responses with ratings"


def given(groups: Sequence[Group]) -> Given:
    """What the groups of a file hold."""
    largest = max((len(group.responses) for group in groups), default=0)
    return Given(largest, all(g.scores is not None for g in groups), label_threshold(groups) is not None)


def label_threshold(groups: Sequence[Group]) -> float | None:
    """0 if the scores of the data are labels already (+1 and −1, or 1 and 0 for pairs); None for ratings."""
    values = {score for group in groups for score in group.scores or ()}
    return 0.0 if values and (values <= {1.0, -1.0} or values <= {1.0, 0.0}) else None


def reason(needs: Needs, data: Given) -> str:
    """Why a method cannot train on such responses, whatever their number; empty if it can."""
    if needs.reads and not data.scored:
        return f"it reads {needs.reads}"
    if needs.compares and data.largest == 1:
        return "it compares responses to one prompt"
    if data.scored and not needs.reads:
        return "it imitates every response, also those that are not preferred"
    return ""


def flags(needs: Needs, data: Given) -> Flags | None:
    """The flags with which a method trains on the responses of the data; None if it cannot."""
    if not data.largest or reason(needs, data):
        return None
    size = () if needs.responses == data.largest else (f"--override.responses {data.largest}",)
    return (*size, *(("--reward.label_threshold NUMBER",) if needs.reads == "labels" and not data.labels else ()))


def served(data: Given) -> dict[str, Flags]:
    """The methods that train on the responses of the data, with the flags that each needs."""
    found = {name: flags(needs, data) for name, needs in OFFLINE.items()}
    return {name: own for name, own in found.items() if own is not None}


def listed(methods: Mapping[str, Flags]) -> str:
    """Methods with equal flags together: `dpo, simpo; kto with --override.responses 2`."""
    by_flags: dict[Flags, list[str]] = {}
    for name, own in methods.items():
        by_flags.setdefault(own, []).append(name)
    return "; ".join(f"{', '.join(names)}{' with ' * bool(own)}{' '.join(own)}" for own, names in by_flags.items())


def check_serves(name: str, needs: Needs, data: Given) -> None:
    """Refuse responses that a method cannot use; the hint names methods that can.

    A method that imitates all responses to a prompt may do so if its number of responses says that it is meant.

    Raises:
        UserError: it cannot.
    """
    why = reason(needs, data)
    if why and not (not needs.reads and data.largest == needs.responses > 1):
        raise UserError(
            f"`{name}` cannot use these data: {why}; they have {data.words}",
            where=f"method={name}, data.train",
            fix=f"use {listed(served(data)) or 'a method that writes its own responses, and a reward'}",
        )


def command(file: str, data: Given, options: Iterable[str]) -> str:
    """The command that trains on a file.

    Args:
        options: how the file is read, as flags.
    """
    methods = served(data)
    name = next(iter(methods), "online_dpo")
    more = methods.get(name, ("--reward.name module:function",))
    return " ".join(("prefloop train", f"--method {name}", f"--data.train {file}", *options, *more))
