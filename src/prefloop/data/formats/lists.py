"""Readers of any number of answers to one prompt, each with a score, a rank or comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from prefloop.data.formats.answers import answered, asked
from prefloop.data.formats.row import Content, Row, Unusable, beside, kind, number, objects, shown

ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
WRONG_TEN = 2.0  # an overall score of 10 was an error of UltraFeedback's first version if the mean rating is no higher
COMPARED = 2  # answers that a row without its faulty ones must have
TURN = "<extra_id_1>"  # of HelpSteer


def rated(row: Row) -> Content:
    """`responses` and their `scores`."""
    return _scored(row, "responses", "scores")


def candidates(row: Row) -> Content:
    """`responses` that are to be scored."""
    responses = row.take("responses")
    if not isinstance(responses, list) or not responses:
        raise Unusable(f"`responses` is {kind(responses)}, not a list of answers")
    return Content(*answered(asked(row), [("responses", r) for r in responses]))


def armorm(row: Row) -> Content:
    """UltraFeedback of SimPO: five answers of the policy with the scores of a reward model."""
    return _scored(row, "all_generated_responses", "all_rm_scores")


def _scored(row: Row, texts: str, numbers: str) -> Content:
    prompt, responses, scores = asked(row), row.take(texts), row.take(numbers)
    if not isinstance(responses, list) or not isinstance(scores, list) or not len(responses) == len(scores) > 0:
        raise Unusable(f"`{texts}` and `{numbers}` must be two lists of the same length")

    def content(rated: Sequence[tuple[Any, Any]]) -> Content:
        values = tuple([number(score, numbers) for _, score in rated])
        return Content(*answered(prompt, [(texts, response) for response, _ in rated]), values)

    return _without_faulty(content, list(zip(responses, scores, strict=True)), texts)


def _without_faulty(content: Callable[[Sequence[Any]], Content], items: Sequence[Any], column: str) -> Content:
    """What a reader makes of a list of answers, without those that cannot be used; two must be left.

    Raises:
        Unusable: fewer are left, or the answers cannot be used together.
    """
    try:
        return content(items)
    except Unusable:
        sound, faults = list[Any](), list[Unusable]()
        for place, item in enumerate(items):
            try:
                content([item])
                sound.append(item)
            except Unusable as fault:
                faults.append(Unusable(f"{fault.what}, in `{column}[{place}]`", fault.fix))
        if not faults or len(sound) < COMPARED:
            raise
        return replace(content(sound), faults=tuple(faults))


def ultrafeedback(row: Row) -> Content:
    """UltraFeedback, raw: `completions` with their `overall_score`, or the mean rating of their aspects."""
    items = objects(row.take("completions"), "completions", "response and overall_score")
    prompt = asked(row)

    def content(items: Sequence[Any]) -> Content:
        scores = tuple([_overall(item) for item in items])
        given = answered(prompt, [("response", item.get("response")) for item in items])
        return Content(*given, scores, beside(items, ("response", "overall_score")))

    return _without_faulty(content, items, "completions")


def _overall(item: Mapping[str, Any]) -> float:
    aspects = item.get("annotations") if isinstance(item.get("annotations"), dict) else {}
    ratings = [float(r) for a in aspects.values() if (r := _rating(a)) is not None] if aspects else []
    mean = sum(ratings) / len(ratings) if ratings else None
    if item.get("overall_score") is None:
        if mean is None:
            raise Unusable("a completion has neither an `overall_score` nor ratings")
        return mean
    overall = number(item["overall_score"], "overall_score")
    if overall == 10 and mean is not None and mean <= WRONG_TEN:
        what = f"an `overall_score` of 10 with a mean rating of {mean:.1f}: a known error of the first version"
        raise Unusable(what, "use the corrected version of UltraFeedback, or leave such rows out")
    return overall


def _rating(annotation: Any) -> float | None:
    """The rating of an aspect: of an object or of a list of one; `N/A` is none."""
    if isinstance(annotation, list) and annotation:
        annotation = annotation[0]
    rating = annotation.get("Rating") if isinstance(annotation, dict) else None
    if isinstance(rating, str):
        rating = int(rating) if rating.isdecimal() and len(rating) < 4 else None
    return None if rating is None else number(rating, "Rating")


def nectar(row: Row) -> Content:
    """Nectar: `answers` with a `rank`, 1 for the best."""
    items = objects(row.take("answers"), "answers", "answer and rank (format=prompt_only: keep them for rewards)")
    prompt = asked(row)

    def content(items: Sequence[Any]) -> Content:
        ranks = [number(item.get("rank"), "rank") for item in items]
        given = answered(prompt, [("answer", item.get("answer")) for item in items])
        return Content(*given, by_rank(ranks), beside(items, ("answer", "rank")))

    return _without_faulty(content, items, "answers")


def by_rank(ranks: Sequence[float]) -> tuple[float, ...]:
    """Scores of ranks: the last has 0, the best the most."""
    return tuple([max(ranks) - rank for rank in ranks])


def helpsteer2(row: Row) -> Content:
    """HelpSteer: one response and its ratings per row; rows of a prompt follow each other. Helpfulness is the score."""
    score = number(row.take("helpfulness"), "helpfulness")
    if isinstance(prompt := row.get("prompt"), str) and f"\n{TURN}" in prompt:
        row["prompt"] = _turns(prompt)
    return Content(*answered(asked(row), [("response", row.take("response"))]), (score,))


def _turns(prompt: str) -> list[dict[str, str]]:
    r"""HelpSteer writes later turns as `\n<extra_id_1>Assistant\n…`."""
    first, *later = prompt.split(f"\n{TURN}")
    turns = [{"role": "user", "content": first}]
    for turn in later:
        speaker, _, said = turn.partition("\n")
        if speaker not in ("User", "Assistant"):
            raise Unusable(f"`prompt` has a turn of {shown(speaker)}, neither User nor Assistant")
        turns.append({"role": speaker.lower(), "content": said})
    return turns


def fine_grained(row: Row) -> Content:
    """FineGrainedRLHF: `prediction 1` to `4`; `preference` compares all pairs (0 equal, 1 the first, 2 the second)."""
    names = sorted(name for name in row if name.startswith("prediction ") and row[name] is not None)
    pairs, codes = list(combinations(range(len(names)), 2)), row.take("preference")
    if not isinstance(codes, list) or len(codes) != len(pairs):
        raise Unusable(f"`preference` must be {len(pairs)} comparisons of {len(names)} predictions")
    wins = [0.0] * len(names)
    for (i, j), code in zip(pairs, codes, strict=True):
        if code not in (0, 1, 2) or isinstance(code, bool | float):
            raise Unusable(
                f"`preference` contains {code!r:.40}", "it can be 0 (equal), 1 (the first) or 2 (the second)"
            )
        wins[i] += {0: 0.5, 1: 1.0, 2: 0.0}[code]
        wins[j] += {0: 0.5, 1: 0.0, 2: 1.0}[code]
    if any(_order(wins[i], wins[j]) != code for (i, j), code in zip(pairs, codes, strict=True)):
        row.notes.append("rows whose comparisons are no ranking: scores are the numbers of comparisons won")
    return Content(*answered(asked(row), [(name, row.take(name)) for name in names]), tuple(wins))


def _order(a: float, b: float) -> int:
    return 0 if a == b else 1 if a > b else 2
