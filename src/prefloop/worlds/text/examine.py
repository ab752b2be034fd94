"""What is found before the first step: rows that cannot be rendered, and responses that the limit makes identical."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from prefloop.core.errors import DataError
from prefloop.core.streams import streams
from prefloop.data.fault import Fault
from prefloop.data.records import Group
from prefloop.worlds.text.problem import TextProblem, Truncation, places

PORTION = 64  # rows that are rendered together
MOST_CUT = 0.05  # share of the training responses that the limit may cut without being asked to
BYTES = 4  # tokens that a character can have, at most: a shorter common beginning cannot fill the limit


def examined(
    problem: TextProblem, groups: int, *, fresh: bool, given: bool, seed: int
) -> tuple[TextProblem, Truncation]:
    """The problem without pairs that its limit makes identical, and how the limit affects the responses of a run.

    Only the first `groups` groups of the run are rendered; later ones are never used.

    Args:
        fresh: whether the run answers prompts itself.
        given: whether it trains on responses of the data.

    Raises:
        DataError: a prompt or conversation that cannot be rendered or is too long; or no group is left.
    """
    distinct = [group for group in problem.train if not (given and indistinct(problem, group))]
    if not distinct:
        raise all_identical(problem)
    kept = problem if len(distinct) == len(problem.train) else replace(problem, train=distinct)
    used = [distinct[i] for i in dict.fromkeys(places(len(distinct), 0, groups, streams(seed)["prompts"]))]
    if fresh:
        kept.render(used)
    return kept, truncation(problem, used if given else [], left_out=len(problem.train) - len(distinct))


def sound(
    problem: TextProblem, groups: Sequence[Group], *, fresh: bool, given: bool
) -> tuple[list[Group], list[Fault]]:
    """The groups that can be rendered within the problem's limits, and why the others cannot.

    Args:
        fresh, given: whether prompts are answered by the policy, and whether the responses of the data are used.
    """
    kept, faults = list[Group](), list[Fault]()
    for start in range(0, len(groups), PORTION):
        portion = groups[start : start + PORTION]
        try:
            _render(problem, portion, fresh, given)
            kept += portion
        except DataError:
            for group in portion:
                try:
                    _render(problem, [group], fresh, given)
                    kept.append(group)
                except DataError as error:
                    faults.append(Fault(group.row, error.what.splitlines()[0], error.fix))
    return kept, faults


def _render(problem: TextProblem, groups: Sequence[Group], fresh: bool, given: bool) -> None:
    problem.render([group for group in groups if fresh or not group.responses])
    problem.answered([group for group in groups if given and group.responses])


def truncation(problem: TextProblem, groups: Sequence[Group], *, left_out: int = 0) -> Truncation:
    """Effect of the length limit on the responses of these groups.

    Raises:
        DataError: see `TextProblem.answered`.
    """
    made = problem.answered([g for g in groups if g.responses])
    sizes = [len(answer) for one in made for answer in one.answers]
    most = max(sizes, default=0) if problem.max_response_tokens is None else problem.max_response_tokens
    cut, empty = sum(n > most for n in sizes), sizes.count(1)
    return Truncation(len(sizes), cut, empty, left_out, max(sizes, default=0))


def too_many_cut(lost: Truncation, limit: int | None, how: str) -> DataError | None:
    """Why responses are not cut without being asked to; None if few are.

    Args:
        lost: effect of the limit on the training responses.
        how: see `DataOptions.over_limit`.
    """
    if how == "cut" or lost.share <= MOST_CUT:
        return None
    what = f"{lost.cut:,} of {lost.responses:,} training responses ({lost.share:.1%}) have more than {limit} tokens"
    fix = f"raise it (the longest has {lost.longest:,}), or cut them: data.over_limit=cut"
    return DataError(what, where="data.max_response_tokens", fix=fix)


def all_identical(problem: TextProblem) -> DataError:
    """Why rows whose responses are all the same are refused."""
    limit = problem.max_response_tokens
    if limit is None:
        return DataError("all pairs of responses are identical", where="data.train", fix="use pairs that differ")
    what = f"the limit of {limit} tokens makes all pairs of responses identical"
    return DataError(what, where="data.max_response_tokens", fix="raise it")


def indistinct(problem: TextProblem, group: Group) -> bool:
    """Whether two responses with different scores have the same tokens within the limit."""
    limit = problem.max_response_tokens
    beginning = None if limit is None else -(-limit // BYTES)
    scores = group.scores or ()
    rated = [(x.strip()[:beginning], r, i) for i, (x, r) in enumerate(zip(group.responses, scores, strict=False))]
    close = [(i, j) for (a, x, i), (b, y, j) in combinations(rated, 2) if x != y and a == b]
    if not close:
        return False
    ids = [answer[:limit].tolist() for answer in problem.answered([group])[0].answers]
    return any(ids[i] == ids[j] for i, j in close)
