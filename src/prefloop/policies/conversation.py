"""From conversations to token ids: one rendering for prompts, given answers, rows of a reward model and samples.

A chat template renders the whole conversation. What the assistant writes is what the answered conversation has beyond
the generation prompt, up to the token that ends the turn; both are compared id by id. `plain` is text, as base models
read it: prompt, answer, EOS; special tokens that it spells are meant.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property, partial
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prefloop.core.errors import DataError, UserError, excerpt
from prefloop.data.records import Group, Message
from prefloop.policies.agreement import check_answer, check_prompt, check_unrendered, continued, start_of_answer
from prefloop.policies.marks import check_marks
from prefloop.policies.rendering import (
    CLOCK,
    MARK,
    Rendered,
    as_text,
    break_up,
    common_prefix,
    dated,
    marked_start,
    parsed,
    plain_text,
    with_arguments,
    without_mark,
)
from prefloop.policies.templates import AUTO, CHAT, GIVEN, PLAIN, given_template
from prefloop.policies.token_ids import TokenIds

Tokenizer = Any  # transformers.PreTrainedTokenizerBase

QUESTION, ANSWER = "Question?", "Answer."  # a conversation that shows what the template writes around an answer
_PROBE: tuple[dict[str, Any], ...] = ({"role": "user", "content": QUESTION},)
MARKED = 3  # characters between question and answer that are no mark yet


@dataclass(frozen=True)
class Answered:
    """A prompt and given answers as token ids: prompt + answer is what the template renders, up to the turn's end."""

    prompt: Int[Tensor, " L"]
    answers: tuple[Int[Tensor, " _"], ...]  # each with the token that ends it
    rendered: tuple[Int[Tensor, " _"], ...]  # everything that the template writes behind the prompt


@dataclass(frozen=True)
class Template:
    """How a tokenizer renders conversations.

    Args:
        kind: `chat`, by the tokenizer's chat template, or `plain`.
        options: further arguments of the chat template, such as `enable_thinking`.
        stops: ids at which the policy stops by its own configuration.
        source: where the template comes from.
        date: the day that a template which writes the date writes, as YYYY-MM-DD.
    """

    tokenizer: Tokenizer
    kind: str = CHAT
    options: Mapping[str, Any] = field(default_factory=dict)
    stops: tuple[int, ...] = ()
    source: str = "the model's own chat template"
    date: str = field(default_factory=lambda: date.today().isoformat())

    # ---------------------------------------------------------------------------------------------------- token ids

    def prompt(self, messages: Sequence[Message], tools: str = "", *, where: str = "prompt") -> Int[Tensor, " L"]:
        """Token ids of a conversation up to the start of the answer.

        Args:
            tools: schemas of the tools that the answer may call, as JSON.
            where: name of the prompt in error messages.

        Raises:
            DataError: the template rejects or drops a part of the conversation, or it is rendered already.
        """
        return torch.tensor(self._ids.one(self._asked(messages, tools, where), where), dtype=torch.long)

    def answered(self, group: Group, *, where: str = "") -> Answered:
        """Prompt and answers of a group.

        The prompt is what the generation prompt and all answered conversations have in common. It ends before the
        generation prompt does if that opens a reasoning block which the answers do not have. An answer with its own
        reasoning, which the template would drop, continues the block that the generation prompt opens.

        Raises:
            DataError: the template drops a part of an answer, or renders an answered conversation as something other
                than the prompt followed by the answer; the message shows both.
        """
        return self.answered_all([group], where=where)[0]

    def answered_all(self, groups: Sequence[Group], *, where: str = "") -> list[Answered]:
        """Prompts and answers of many groups, as `answered`; all texts are tokenised in one call."""
        places = [where or f"row {group.row}" for group in groups]
        rendered = [self._rendered(group, place) for group, place in zip(groups, places, strict=True)]
        ids = iter(self._ids.of([one.text for row in rendered for one in row]))
        whole = [
            [replace(one, ids=self._ids.checked(next(ids), one.text, place)) for one in row]
            for row, place in zip(rendered, places, strict=True)
        ]
        return [self._parted(row, place) for row, place in zip(whole, places, strict=True)]

    def _parted(self, rendered: list[Rendered], where: str) -> Answered:
        """The common prompt of a rendered prompt and its answered conversations, and what each has beyond it."""
        asked, *whole = rendered
        if self.kind == PLAIN:
            said = [one.text.removeprefix(asked.text) for one in whole]
            ids = [self._ids.behind(asked.ids, asked.text, w.ids, x, where) for w, x in zip(whole, said, strict=True)]
            whole = [replace(w, ids=i) for w, i in zip(whole, ids, strict=True)]
        common = common_prefix([asked.ids, *(w.ids for w in whole)])
        if whole and (marked := marked_start(whole)) > common:
            common, asked = marked, whole[0]
        written = [w.ids[common:] for w in whole]
        return Answered(
            torch.tensor(asked.ids[:common], dtype=torch.long),
            tuple(torch.tensor(self._closed(ids, where), dtype=torch.long) for ids in written),
            tuple(torch.tensor(ids, dtype=torch.long) for ids in written),
        )

    def check(self, where: str) -> None:
        """Try the template on a short conversation.

        Raises:
            DataError: it does not render an answered conversation as the prompt followed by the answer.
        """
        self.answered(Group((Message("user", QUESTION),), (ANSWER,), None, "", 0), where=where)

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return self._ids.text(ids)

    def response(self, ids: Sequence[int]) -> str:
        """The text of a response with special tokens, without those that end it and surrounding whitespace."""
        said = list(ids)
        while said and said[-1] in self.ends:
            said.pop()
        return self.text(said).strip()

    # --------------------------------------------------------------------------------------------- the turn's end

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids of the tokens that end an answer: the one that the template writes, and those of the configuration.

        Raises:
            UserError: there is none.
        """
        eos = self.tokenizer.eos_token_id
        found = {*self.stops, *([] if eos is None else [eos]), *self._written_end}
        if not found:
            raise UserError("the model defines no token that ends an answer", where="model.path", fix="set `eos_token`")
        return frozenset(found)

    @property
    def note(self) -> str:
        """What was taken, what ends an answer, and the date that is written; for the user."""
        end = f"answers end with `{self.text([self.end])}`"
        if self.kind == PLAIN:
            return f"template: plain text, prompt and answer without a break; {end}"
        if not self._written_end:
            text = self.text(self.closing).strip()
            end += " behind " * bool(text) + f"`{text}`, which is text to this tokenizer" * bool(text)
            end += ", which the template does not write itself"
        return f"template: {self.source}; {end}" + (f"; it writes the date {self.date}" if self.writes_date else "")

    @cached_property
    def writes_date(self) -> bool:
        """Whether the template writes the date of the day on which it is rendered."""
        return self.kind == CHAT and CLOCK in str(self.tokenizer.chat_template)

    @cached_property
    def sketch(self) -> str:
        """A short answered conversation as it is rendered: equal for templates that agree."""
        if self.kind == PLAIN:
            return f"{QUESTION}{ANSWER}"
        return self._render([*_PROBE, {"role": "assistant", "content": ANSWER}], "", False, "chat template")

    @cached_property
    def closing(self) -> tuple[int, ...]:
        """What the template writes behind an answer, from the token that ends it if there is one."""
        if self.kind == PLAIN:
            return ()
        behind = self.sketch.rfind(ANSWER) + len(ANSWER)
        ids = self._ids.one(self.sketch, "chat template")
        said = ids[common_prefix([ids, self._ids.one(self.sketch[:behind], "chat template")]) :]
        return said[next((n for n, i in enumerate(said) if i in self._final), 0) :]

    @property
    def _written_end(self) -> tuple[int, ...]:
        """The special token that the template writes behind an answer, if it does."""
        first = self.closing[:1]
        return first if set(first) <= self._final else ()

    def _closed(self, ids: tuple[int, ...], where: str) -> tuple[int, ...]:
        """An answer up to the token that ends it; the EOS is added if nothing does."""
        closed = bool(self._written_end) and ids[-len(self.closing) :] == self.closing
        run = self.closing if closed else self._final_run(ids)
        first = len(ids) - len(run)
        place = next((i for i in range(first, len(ids)) if ids[i] in self.ends), first)
        answer = ids[: place + 1] if run else (*ids, self.end)
        if answer[-1] not in self.ends:
            what = f"the chat template ends the answer with {self.text(answer[-1:])}, at which the policy does not stop"
            raise DataError(what, where=where, fix="add it to `eos_token_id` in the model's generation_config.json")
        if early := next((i for i in answer[:-1] if i in self.ends), None):
            what = f"the answer contains {self.text([early])}, which ends an answer"
            raise DataError(what, where=where, fix="remove it from the text")
        return answer

    @cached_property
    def end(self) -> int:
        """Id of the token that closes given answers: the one that the template writes, or the EOS."""
        own = (*self._written_end, *([] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]))
        return int(own[0]) if own else min(self.ends)

    def _final_run(self, ids: Sequence[int]) -> list[int]:
        """The special tokens and whitespace at the end, from the first special one."""
        run = list(takewhile(lambda i: i in self._final or not self.text([i]).strip(), reversed(ids)))[::-1]
        first = next((n for n, i in enumerate(run) if i in self._final), len(run))
        return run[first:]

    @cached_property
    def _final(self) -> frozenset[int]:
        """Special tokens that can stand at the end of an answer: not the unknown token, which stands for text."""
        unknown = {self.tokenizer.unk_token_id} - {self.tokenizer.eos_token_id}
        return frozenset(self._ids.special.values()) - unknown

    # ------------------------------------------------------------------------------------------------- rendering

    def _rendered(self, group: Group, where: str) -> list[Rendered]:
        """The prompt and the answered conversations of a group, as text."""
        asked = self._asked(group.prompt, group.tools, where)
        return [Rendered(asked), *(self._answered(group, answer, asked, where) for answer in group.answers)]

    def _asked(self, messages: Sequence[Message], tools: str, where: str) -> str:
        if self.kind == PLAIN:
            return plain_text(messages, tools, where)
        text = self._render([m.plain for m in messages], tools, True, where) + self._header
        bare = self._render([m.plain for m in messages], "", True, where) + self._header if tools else ""
        check_prompt(messages, tools, text, self.between, where)
        check_marks(messages, text, lambda said: self._render(said, tools, True, where), where, answer=False)
        if bare == text:
            fix = "use a template that writes them: data.template=FILE.jinja"
            raise DataError("the chat template does not write the tools", where=where, fix=fix)
        return text

    def _answered(self, group: Group, answer: Message, asked: str, where: str) -> Rendered:
        if self.kind == PLAIN:
            return Rendered(asked + plain_text([answer], "", where))
        check_unrendered(answer, self._end_names, where)
        messages = [m.plain for m in (*group.prompt, answer)]
        text = self._render(messages, group.tools, False, where)
        start = self._marked(messages, group.tools) if self._has_marks else 0
        try:
            check_answer(answer, text[start_of_answer(asked, text, where) :], where)
            asked_again = messages[:-1]
            check_marks(
                [answer], text, lambda x: self._render(asked_again + x, group.tools, False, where), where, answer=True
            )
        except DataError:
            own = None if answer.more else continued(asked, break_up(answer.content, self._ids.spelled))
            if own is None:
                raise
            text, start = own + self.sketch[self.sketch.rfind(ANSWER) + len(ANSWER) :], 0
        return Rendered(text if self._written_end else text.rstrip(), start)

    def _render(self, messages: list[dict[str, Any]], tools: str, opened: bool, where: str) -> str:
        """The text of a conversation in which MARK breaks up special tokens that a message spells.

        Arguments of tool calls are given as objects, or as JSON text to a template that takes only that.

        Raises:
            DataError: the template raises an error, or a message contains MARK.
        """
        if MARK in json.dumps(messages, ensure_ascii=False):
            raise DataError(f"a message contains the private character U+{ord(MARK):X}", where=where, fix="remove it")
        said = break_up(messages, self._ids.spelled)
        rendering = partial(
            self.tokenizer.apply_chat_template,
            tools=break_up(json.loads(tools), self._ids.spelled) if tools else None,
            tokenize=False,
            add_generation_prompt=opened,
            chat_template=self._dated(tools),
            **self.options,
        )
        try:
            try:
                return str(rendering(with_arguments(said, parsed)))
            except TypeError:
                return str(rendering(with_arguments(said, as_text)))
        except Exception as error:  # a template may raise anything
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"the chat template rejects the messages: {excerpt(first)}", where=where) from error

    def _dated(self, tools: str) -> str | None:
        """The template with a fixed date; None if it writes none."""
        if not self.writes_date:
            return None
        return dated(self.tokenizer.get_chat_template(tools=json.loads(tools) if tools else None), self.date)

    @cached_property
    def _has_marks(self) -> bool:
        return bool(re.search(r"\{%-?\s*generation\b", str(self.tokenizer.chat_template)))

    def _marked(self, messages: list[dict[str, Any]], tools: str) -> int:
        """Index of the first token of the last run that the template marks as written by the assistant, or 0."""
        made = self.tokenizer.apply_chat_template(
            with_arguments(break_up(messages, self._ids.spelled), parsed),
            tools=break_up(json.loads(tools), self._ids.spelled) if tools else None,
            chat_template=self._dated(tools),
            **{"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True, **self.options},
        )
        mask = [made["assistant_masks"][i] for i in without_mark(made["input_ids"], self._ids.mark)]
        starts = [i for i, inside in enumerate(mask) if inside and not (i and mask[i - 1])]
        return starts[-1] if starts else 0

    @cached_property
    def identity(self) -> bytes | None:
        """What determines the ids of a conversation, as a hash; None if that cannot be known."""
        date = self.date if self.writes_date else ""
        return self._ids.identity((self.kind, sorted(self.options.items()), sorted(self.ends), self.end, date))

    @cached_property
    def _ids(self) -> TokenIds:
        return TokenIds(self.tokenizer, added=self.kind == PLAIN)

    @cached_property
    def _end_names(self) -> tuple[str, ...]:
        """The special tokens that end an answer, by their text."""
        return tuple(name for name, i in self._ids.special.items() if i in self.ends)

    @cached_property
    def _header(self) -> str:
        """What the template writes before an answer if it has no generation prompt of its own."""
        asked, same = (self._render([*_PROBE], "", opened, "chat template") for opened in (True, False))
        header = self.sketch[len(asked) : self.sketch.rfind(ANSWER)] if asked == same else ""
        return header if header.strip() and self.sketch.startswith(asked) else ""

    @cached_property
    def between(self) -> str:
        """What the template writes between a question and its answer."""
        if self.kind == PLAIN:
            return ""
        text = self._render([*_PROBE], "", True, "chat template") + self._header
        found = text[text.rfind(QUESTION) + len(QUESTION) :].strip()
        return found if len(found) > MARKED else ""


def template_of(
    tokenizer: Tokenizer,
    setting: str = AUTO,
    options: Mapping[str, Any] | None = None,
    *,
    stops: Sequence[int] = (),
    date: str | None = None,
) -> Template:
    """The template of a configuration.

    Args:
        setting: `auto` (the tokenizer's chat template, or plain text if it has none), `chat`, `plain`, a name of
            `templates.NAMED`, or a Jinja file.
        options: further arguments of the chat template.
        stops: ids at which the policy stops by its own configuration.
        date: the day that the template writes, as YYYY-MM-DD; today by default.

    Raises:
        UserError: there is no such template, or the tokenizer has none or lacks its tokens.
    """
    source = Template.source
    kind = (CHAT if tokenizer.chat_template else PLAIN) if setting == AUTO else setting
    if kind not in (CHAT, PLAIN):
        text, source = given_template(tokenizer, setting)
        tokenizer, kind = copy.copy(tokenizer), CHAT
        tokenizer.chat_template = text
    if kind == CHAT and not tokenizer.chat_template:
        fix = f"use data.template=plain for a base model, or give one: {GIVEN}"
        raise UserError("the model has no chat template", where="data.template", fix=fix)
    if kind == PLAIN and options:
        raise UserError("plain text takes no options", where="data.template_options", fix="remove them")
    made = Template(tokenizer, kind, dict(options or {}), tuple(stops), source)
    return made if date is None else replace(made, date=date)
