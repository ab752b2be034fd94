"""The rows of a file in tokens, and what a training with these limits does with them; see `prefloop data check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from prefloop.core.errors import DataError
from prefloop.data.check import Lengths, lengths
from prefloop.data.fault import Fault
from prefloop.data.records import Group
from prefloop.worlds.text.examine import PORTION, all_identical, indistinct, sound, too_many_cut, truncation
from prefloop.worlds.text.problem import ANY_LENGTH, Known, TextProblem, Truncation

NONE = Truncation(0, 0, 0, 0)


@dataclass(frozen=True)
class Counts:
    """Tokens of the rows that can be rendered, ends included, and how many are beyond a limit."""

    prompt: Lengths
    response: Lengths | None  # None if there are no responses
    row: Lengths  # a prompt and its longest response
    over_prompt: int  # rows with a prompt beyond `max_prompt_tokens`
    over_context: int  # rows beyond the model's context, after responses are cut
    cut: Truncation  # effect of the limit of responses on the other rows
    limits: dict[str, int | None]

    @property
    def facts(self) -> dict[str, str]:
        """What a reader sees."""
        facts = {"prompt tokens": _spread(self.prompt)}
        if self.response is not None:
            facts |= {"response tokens": _spread(self.response), "both together": _spread(self.row)}
        beyond = {
            f"{self.over_prompt:,} prompts over max_prompt_tokens={self.limits['prompt']}": self.over_prompt,
            f"{self.over_context:,} rows over the context of {self.limits['context']}": self.over_context,
            f"{self.cut} (max_response_tokens={self.limits['response']})": self.cut.cut + self.cut.identical,
        }
        said = "; ".join(text for text, count in beyond.items() if count)
        return facts | ({"over limits": said} if said else {})

    @property
    def record(self) -> dict[str, Any]:
        """For `--json`."""
        record = asdict(self)
        return {**record, "cut": {**record["cut"], "share": self.cut.share}}


@dataclass
class Measured:
    """Rows that a training uses, why it does not use the others, and the sizes of all that can be rendered."""

    usable: list[Group] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    sizes: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)  # of the prompt, of each response
    cut: Truncation = NONE

    def counts(self, problem: TextProblem) -> Counts:
        """Quantiles and counts; there must be rows that can be rendered."""
        most, context = problem.max_response_tokens, problem.context
        said = [n for _, each in self.sizes for n in each]
        limited = [(prompt, [n if most is None else min(n, most) for n in each]) for prompt, each in self.sizes]
        return Counts(
            prompt=lengths([prompt for prompt, _ in self.sizes]),
            response=lengths(said) if said else None,
            row=lengths([prompt + max(each, default=0) for prompt, each in self.sizes]),
            over_prompt=sum(prompt > problem.max_prompt_tokens for prompt, _ in self.sizes),
            over_context=0 if context is None else sum(p + max(x, default=0) > context for p, x in limited),
            cut=self.cut,
            limits={"prompt": problem.max_prompt_tokens, "response": most, "context": context},
        )

    def refusal(self, problem: TextProblem, over_limit: str) -> DataError | None:
        """Why a training refuses the rows together; None if it does not."""
        if self.usable and self.cut.identical == len(self.usable):
            return all_identical(problem)
        return too_many_cut(self.cut, problem.max_response_tokens, over_limit)


def measured(problem: TextProblem, groups: Sequence[Group]) -> Measured:
    """Render rows as a training on their responses does, a portion at a time: what was rendered is forgotten."""
    free = replace(problem, max_prompt_tokens=ANY_LENGTH, max_response_tokens=None, context=None)
    out = Measured()
    for start in range(0, len(groups), PORTION):
        known = Known()
        rendered, unsound = sound(replace(free, known=known), groups[start : start + PORTION], fresh=False, given=True)
        own = replace(problem, known=known)
        usable, beyond = sound(own, rendered, fresh=False, given=True)
        different = [group for group in usable if not indistinct(own, group)]
        out.sizes += replace(free, known=known).sizes(rendered)
        out.cut += truncation(own, different, left_out=len(usable) - len(different))
        out.usable += usable
        out.faults += [*unsound, *beyond]
    return out


def _spread(x: Lengths) -> str:
    return f"{x.min:,} to {x.max:,}, median {x.median:,.0f}, 95 % up to {x.p95:,.0f}"
