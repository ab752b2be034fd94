"""The tokens of the first rows as a model is trained on them: prompt, answers, and what ends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.core.wrapping import wrapped

if TYPE_CHECKING:
    from prefloop.core.errors import DataError
    from prefloop.data.formats import Loaded
    from prefloop.data.records import Group
    from prefloop.policies.conversation import Answered, Template
    from prefloop.worlds.text.measure import Counts

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


def measure(loaded: Loaded, rendering: Template, options: Any) -> tuple[Loaded, Counts, DataError | None]:
    """The file with rows that a training refuses among its faults, its tokens, and why it refuses the whole.

    Args:
        options: those of `data check`.

    Raises:
        DataError: no row can be rendered.
    """
    from prefloop.data.formats import faulty
    from prefloop.policies.pretrained import limits_of
    from prefloop.worlds.text.measure import measured
    from prefloop.worlds.text.open_data import TextData
    from prefloop.worlds.text.spec import DataOptions

    limited = DataOptions(
        system=options.system,
        max_prompt_tokens=options.max_prompt_tokens,
        max_response_tokens=options.max_response_tokens,
    )
    problem = TextData(limited, (), (), {}).problem(rendering, limits_of(str(options.model)))
    made = measured(problem, loaded.groups)
    notes = (*loaded.notes, rendering.note)
    found = replace(loaded, groups=made.usable, faults=[*loaded.faults, *made.faults], notes=notes)
    if not made.usable:
        raise faulty(Path("the file"), found)
    return found, made.counts(problem), made.refusal(problem, options.over_limit)


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
    console.print(Text(wrapped(rendering.note)), soft_wrap=True)
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
