"""Formats × chat templates × architectures: a file is read, rendered, tokenised and trained on as each says alone."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.chat_conversations import Conversation, Said
from tests.policies.chat_expected import expected, rendered, template
from tests.policies.chat_family import Family
from tests.policies.chat_templates import FAMILIES

import architectures
from format_rows import ROWS
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError
from prefloop.core.loop import Loop, Plan, Record
from prefloop.core.methods import METHODS
from prefloop.data.formats import load_usable
from prefloop.data.records import Group
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.sampler import Sampling
from prefloop.worlds.text.problem import TextProblem

CASES = [(name, number) for name, cases in ROWS.items() for number in range(len(cases))]
SAID = (  # what the letters of the smallest rows become
    *("An apple.", "Ein Äpfel 🍎 — 苹果.", "one\ntwo\n\nthree", "  spaces  inside ", "3.14 and 10,000", "{{ x }}"),
    *("yes", "No.", 'He said "no".', "a\tb", "\\n is a line break", "é", "<b>bold</b>", "A B C", "user: hello"),
)
FEW, MANY = 24, 2000
LONGEST = 200  # tokens of a text: less than the context of the tiny models


@dataclass(frozen=True)
class Combination:
    """A case of a format, a family of templates and an architecture; the seed chooses the texts."""

    format: str
    case: int
    family: str
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.format}-{self.case}-{self.family}-{self.kind}"


def combinations(count: int, seed: int) -> list[Combination]:
    """A sample in which cases, families and architectures occur about equally often, each in another order."""
    rng, columns = random.Random(seed), []
    for values in (CASES, list(FAMILIES), architectures.KINDS):
        column = list[Any]()
        while len(column) < count:
            column += rng.sample(values, len(values))
        columns.append(column)
    made = zip(*columns, range(count), strict=False)
    return [Combination(*case, family, kind, number) for case, family, kind, number in made]


def said(value: Any, rng: random.Random) -> Any:
    """A row in which letters that stand for a question or an answer are texts; equal letters stay equal."""
    letters = dict(zip("qrabcdefgxy", rng.sample(SAID, 11), strict=True))

    def changed(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: inner if key in ("model", "winner") else changed(inner) for key, inner in x.items()}
        return [changed(i) for i in x] if isinstance(x, list) else letters.get(x, x) if isinstance(x, str) else x

    return changed(value)


def trained_on(one: Combination, groups: list[Group], family: Family) -> tuple[Record, Any]:
    """The first optimiser step of a run on these groups, which changes nothing: its learning rate is 0."""
    model = architectures.model(one.kind, one.seed, vocab_size=len(family.tokenizer))
    own, limit = template(family), Sampling(max_new_tokens=LONGEST if groups[0].responses else 5)
    policy = CausalLM(
        model, family.tokenizer, sampling=limit, ends=own.ends, cached=one.kind not in architectures.UNCACHED
    )
    size = max((len(group.responses) for group in groups), default=0) or 2
    if not groups[0].responses:
        method = METHODS["reinforce"].override(responses=size)
    elif groups[0].scores is None or size == 1:
        method = METHODS["sft"].override(responses=size)
    else:
        method = METHODS["dpo"].override(responses=size)
    problem = TextProblem(
        groups,
        own,
        scorer=None if groups[0].responses else lambda batch: batch.mask.sum(-1).float(),
        max_prompt_tokens=LONGEST,
        max_response_tokens=LONGEST,
        context=2 * LONGEST,
    )
    plan = Plan(1, size * len(groups), size * len(groups), 0.0)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    (record,) = Loop(method, policy, problem, plan, reference=policy, optimizer=optimizer)
    return record, model


def texts(batch: Batch) -> list[tuple[int, ...]]:
    """The ids of every prompt and response."""
    places = batch.present.nonzero().tolist()
    return sorted((*batch.prompts[p].tolist(), *batch.responses[p, g][batch.mask[p, g]].tolist()) for p, g in places)


def check(one: Combination, folder: Path) -> bool:
    """Whether the combination is trained on, exactly as the template and the model say; otherwise it is refused."""
    family, (rows, _) = FAMILIES[one.family], ROWS[one.format][one.case]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in said(rows, random.Random(one.seed))))
    found = load_usable(path)
    assert found.format == one.format and not found.faults
    try:
        record, model = trained_on(one, found.groups, family)
    except DataError as error:
        assert error.what and ("row" in error.where) and may_be_refused(found.groups, family), error
        return False
    told = [Conversation(tuple(m.plain for m in g.prompt), tuple(m.plain for m in g.answers)) for g in found.groups]
    if found.groups[0].responses:
        assert texts(record.batch) == sorted(tuple(expected(family, c, said)) for c in told for said in c.answers)
    else:
        asked = sorted(asking(family, c) for c in told)
        assert sorted(tuple(p.tolist()) for p in record.batch.prompts) == asked
    with torch.no_grad():
        difference = record.logp - architectures.alone(model, record.used)
    assert difference.abs().max() < architectures.tolerance(one.kind)
    return True


def asking(family: Family, told: Conversation) -> tuple[int, ...]:
    """The prompt with the generation prompt; where the template has none, what stands before any answer."""
    asked, shut = (tuple(rendered(family, told.prompt, None, add_generation_prompt=yes)) for yes in (True, False))
    if asked != shut:
        return asked
    answers: list[Said] = [{"role": "assistant", "content": text} for text in ("An apple.", "Pears.")]
    one, other = (rendered(family, (*told.prompt, said), None) for said in answers)
    return tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def may_be_refused(groups: list[Group], family: Family) -> bool:
    """Whether the family has no place for a system message, or for answers without reasoning."""
    systems = any(message.role == "system" for group in groups for message in group.prompt)
    return (systems and "system" not in family.keeps.split()) or family.always_thinks


@pytest.mark.parametrize(
    "count", [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])], ids=["few", "many"]
)
def test_a_file_is_trained_on_as_its_template_and_its_model_say(tmp_path: Path, count: int) -> None:
    trained = 0
    for one in combinations(count, seed=count):
        try:
            trained += check(one, tmp_path)
        except Exception as error:
            raise AssertionError(f"{one}: {type(error).__name__}: {error}") from error
    assert trained > 0.8 * count
