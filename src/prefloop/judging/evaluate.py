"""The comparison of two sets of answers: win rate with interval, at equal lengths too, and what the judge did."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefloop.analysis.length_control import controlled
from prefloop.analysis.power import detectable
from prefloop.analysis.statistics import mean_se, proportion
from prefloop.judging.pairwise import Verdict

Judge = Callable[[str, str, str], Verdict]  # prompt, first answer, second answer
Rate = dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, and the verdict on them."""

    prompt: str
    first: str
    second: str
    verdict: Verdict


@dataclass(frozen=True)
class Result:
    """Every comparison; numbers are shares of the prompts with a verdict."""

    comparisons: Sequence[Comparison]
    seed: int = 0

    @property
    def decided(self) -> list[Comparison]:
        """Those with a verdict."""
        return [one for one in self.comparisons if one.verdict.win is not None]

    def record(self) -> dict[str, Any]:
        """All numbers; see docs/how-to/judge.md."""
        decided = self.decided
        wins = np.array([one.verdict.win for one in decided], dtype=np.float64)
        longer = [float(len(one.first) - len(one.second)) for one in decided]
        prompts = [one.prompt for one in decided]
        lost = len(self.comparisons) - len(decided)
        out: dict[str, Any] = {"prompts": len(self.comparisons), "decided": len(decided), "no_verdict": lost}
        if not decided:
            return {**out, "win_rate": None}
        rate = proportion(wins, clusters=prompts, seed=self.seed)
        se = mean_se(wins, clusters=prompts).se
        out |= {"win_rate": rate.value, "low": rate.low, "high": rate.high, "standard_error": se}
        out |= {"wins": int((wins > 0.5).sum()), "ties": int((wins == 0.5).sum()), "losses": int((wins < 0.5).sum())}
        total = len(self.comparisons)
        out["if_undecided"] = {"lost": wins.sum() / total, "won": (wins.sum() + lost) / total}
        at = controlled(wins, longer, clusters=prompts)
        out["length_controlled"] = None if at is None else vars(at)
        out["characters"] = {
            "first": float(np.mean([len(one.first) for one in decided])),
            "second": float(np.mean([len(one.second) for one in decided])),
        }
        return out | self._of_the_judge()

    def _of_the_judge(self) -> dict[str, Any]:
        """How often the two orders agree, and how often the answer shown first is preferred; 0.5 is no bias."""
        both = [one.verdict.orders for one in self.decided]
        pairs = [(x, y) for x, y in both if x is not None and y is not None]
        firsts = [worth for x, y in pairs for worth in (x, 1 - y)]
        consistent = sum(x == y for x, y in pairs) / len(pairs)
        return {"consistent": consistent, "shown_first": sum(firsts) / len(firsts)}


def evaluate(
    prompts: Sequence[str],
    first: Mapping[str, str],
    second: Mapping[str, str],
    judge: Judge,
    *,
    workers: int = 1,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Result:
    """Compare two answers to every prompt.

    Args:
        first, second: answers by prompt.
        judge: may be called by several threads at once, if there are several workers.
        tick: called after every prompt.
    """

    def compared(prompt: str) -> Comparison:
        made = Comparison(prompt, first[prompt], second[prompt], judge(prompt, first[prompt], second[prompt]))
        tick()
        return made

    if workers == 1:
        return Result([compared(prompt) for prompt in prompts], seed)
    with ThreadPoolExecutor(workers) as pool:
        return Result(list(pool.map(compared, prompts)), seed)


def by_score(score: Mapping[tuple[str, str], float]) -> Judge:
    """The judge that prefers the higher score of (prompt, answer); equal scores are a tie."""

    def judge(prompt: str, first: str, second: str) -> Verdict:
        a, b = score[prompt, first], score[prompt, second]
        win = 0.5 if a == b else float(a > b)
        return Verdict(win, (win, win))

    return judge


def detectable_rate(prompts: int) -> float:
    """How far from ½ a win rate must be for a comparison on so many prompts to see it in four of five cases.

    With a standard deviation of ½ for each prompt, the largest; ties make it smaller.
    """
    return detectable(0.5 / math.sqrt(prompts), prompts - 1) if prompts > 1 else math.nan
