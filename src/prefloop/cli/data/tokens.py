"""The tokens of the first rows as a model is trained on them: prompt, answers, and what ends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefloop.data.formats import Loaded
    from prefloop.data.records import Group
    from prefloop.policies.conversation import Answered, Template
    from prefloop.policies.pretrained import Limits

PROMPT, TRAINED, END = "cyan", "green", "bold red"  # styles
SEPARATOR = "┊"  # between two tokens
BREAK = "⏎\n"  # a line break, made visible


def template(model: str, setting: str) -> Template:
    """The template of a model's tokenizer; its weights are not read.

    Raises:
        UserError: no such model or template.
    """
    from prefloop.policies import pretrained
    from prefloop.policies.conversation import template_of

    tokenizer, stops = pretrained.tokenizer_of(model)
    return template_of(tokenizer, setting, stops=stops)


@dataclass(frozen=True)
class Counts:
    """Tokens of prompts and answers, ends included: 0 if there are none."""

    template: str
    longest_prompt: int
    longest_answer: int
    median_answer: float
    longest: int  # prompt and answer

    def facts(self) -> dict[str, str]:
        answers = f"answers up to {self.longest_answer:,} tokens, median {self.median_answer:,.0f}"
        return {"tokens": f"prompts up to {self.longest_prompt:,}; {answers}; together up to {self.longest:,}"}


def counted(loaded: Loaded, rendering: Template, limits: Limits, system: str | None) -> tuple[Loaded, Counts]:
    """The file with rows that cannot be rendered among its faults, and the tokens of the others.

    Raises:
        DataError: no row can be rendered.
    """
    from prefloop.data.formats import faulty
    from prefloop.worlds.text.examine import sound
    from prefloop.worlds.text.problem import TextProblem

    unlimited = 10**9
    problem = TextProblem(
        loaded.groups,
        rendering,
        system=system,
        max_prompt_tokens=unlimited,
        max_new_tokens=unlimited,
        context=limits.context,
        vocabulary=limits.vocabulary,
    )
    groups, faults = sound(problem, loaded.groups, fresh=False, given=True)
    found = replace(loaded, groups=groups, faults=[*loaded.faults, *faults], notes=(*loaded.notes, rendering.note))
    if not groups:
        raise faulty(Path("the file"), found)
    prompts = [len(p) for p in problem.render([g for g in groups if not g.responses])]
    made = problem.answered([g for g in groups if g.responses])
    answers = [len(a) for one in made for a in one.answers]
    prompts += [len(one.prompt) for one in made]
    both = [len(one.prompt) + max(map(len, one.answers)) for one in made]
    middle = median(answers) if answers else 0.0
    counts = Counts(rendering.note, max(prompts), max(answers, default=0), middle, max([*prompts, *both]))
    return found, counts


def record(rendering: Template, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Ids and texts of every row, for `--json`."""
    return [_row(rendering, group, rendering.answered(group)) for group in groups]


def _row(rendering: Template, group: Group, made: Answered) -> dict[str, Any]:
    scores = group.scores or (None,) * len(made.answers)
    answers = [
        {"score": score, "ids": ids.tolist(), "text": rendering.text(ids.tolist())}
        for ids, score in zip(made.answers, scores, strict=True)
    ]
    prompt = made.prompt.tolist()
    return {"row": group.row, "prompt": {"ids": prompt, "text": rendering.text(prompt)}, "answers": answers}


def show(rendering: Template, groups: Sequence[Group]) -> None:
    """Print the tokens of every row; SEPARATOR stands between two tokens."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(rendering.note))
    for group in groups:
        made = rendering.answered(group)
        title = f"row {group.row}: prompt, {len(made.prompt)} tokens, not trained"
        console.print(Text(title, style="bold"))
        console.print(Padding(_tokens(rendering, made.prompt.tolist(), ()), (0, 0, 0, 2)))
        scores = group.scores or (None,) * len(made.answers)
        for ids, score in zip(made.answers, scores, strict=True):
            rated = "" if score is None else f", score {score:g}"
            console.print(Text(f"  answer{rated}, {len(ids)} tokens, trained; the last one ends it", style="bold"))
            console.print(Padding(_tokens(rendering, ids.tolist()[:-1], ids.tolist()[-1:]), (0, 0, 0, 4)))


def _tokens(rendering: Template, ids: Sequence[int], ends: Sequence[int]) -> Any:
    """Tokens in the style of their part."""
    from rich.text import Text

    styled = [(i, TRAINED if ends else PROMPT) for i in ids] + [(i, END) for i in ends]
    out = Text()
    for place, (token, style) in enumerate(styled):
        out.append(SEPARATOR if place else "", style="dim")
        out.append(rendering.text([token]).replace("\n", BREAK), style=style)
    return out
