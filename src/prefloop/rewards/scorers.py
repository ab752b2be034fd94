"""From the name of a reward to scores of a batch: rules of the table, and the user's functions.

A scorer maps a batch to one score per response, 0 on the empty slots of ragged groups. The problem that owns the tokens
provides `decode` (texts of the responses) and `decode_prompts` (texts of the prompts), and by name what else a function
may ask for: columns of the data, the conversation, the text with special tokens.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core import ranges, user
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError, excerpt, nearest, raised
from prefloop.rewards.rules import RULES, Rule

Scorer = Callable[[Batch], Float[Tensor, "*S P G"]]
Decode = Callable[[Batch], list[list[str]]]  # P lists of G texts; S·P lists if runs are stacked
DecodePrompts = Callable[[Batch], list[str]]  # P texts, or S·P
Named = Mapping[str, Callable[[Batch], list[list[Any]]]]  # P lists of G values
Call = tuple[tuple[str, ...], dict[str, Any]]  # the texts and the named values of one response


@dataclass(frozen=True)
class Where:
    """Configuration keys of the reward and its options, and names allowed besides RULES; for messages."""

    name: str = "reward.name"
    options: str = "reward.options"
    known: tuple[str, ...] = ("auto", "labels", "bradley_terry", "module:function")


REWARD = Where()


def build(
    name: str,
    options: Mapping[str, Any],
    *,
    decode: Decode,
    decode_prompts: DecodePrompts,
    named: Named = MappingProxyType({}),
    where: Where = REWARD,
) -> Scorer:
    """The scorer of a rule in `RULES` or of a user's `module:function`, with its options.

    A user's function gets its keyword-only arguments by name: from the options, or else from `named`; one with
    `**kwargs` gets everything that is named.

    Raises:
        UserError: an unknown name; an option that is unknown, missing or invalid; a missing package.
        DataError: at scoring time: the function raised, or did not return a finite number.
    """
    rule = rule_of(name, where)
    named = {} if name in RULES else named  # a rule's option may be called as a column is
    asked = asked_by_name(rule, options, named)
    score = partial(rule.score, **checked(name, rule, options, where, named))
    if rule.reads == ("tokens",):
        return lambda batch: torch.where(batch.present, score(batch.lengths), 0.0)
    if name in RULES:
        score(*[""] * len(rule.reads))  # reports a missing package before anything is trained

    def scores(batch: Batch) -> Tensor:
        prompts, responses, present = decode_prompts(batch), decode(batch), batch.present.cpu()
        more = {key: named[key](batch) for key in asked}
        places = present.flatten(0, -2).nonzero().tolist()
        texts = [(prompts[p], responses[p][g]) for p, g in places]
        values = called(name, rule, score, texts, [{k: x[p][g] for k, x in more.items()} for p, g in places])
        out = torch.zeros(present.shape)
        out[present] = torch.tensor(values, dtype=torch.float32)
        return out.to(batch.mask.device)

    return scores


def asked_by_name(rule: Rule, options: Mapping[str, Any], named: Named) -> list[str]:
    """Names that a function reads from the data: its keyword-only arguments that are no options."""
    parameters = inspect.signature(rule.score).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return [key for key in named if key not in options]
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in named and p.name not in options]


def rule_of(name: str, where: Where = REWARD) -> Rule:
    """A rule of the table, or a user's function.

    The function is called once per response, `f(prompt, response)`, and returns a number. If its first parameter is
    named `prompts`, it gets two lists of texts of equal length, `f(prompts, responses)`, and returns one number each.
    Modules in the current directory are found too.

    Raises:
        UserError: no such rule, module or function, or a function that does not take two texts.
    """
    if name in RULES:
        return RULES[name]
    if ":" not in name:
        raise UserError(f"unknown reward `{name}`", where=where.name, fix=nearest(name, [*RULES, *where.known]))
    function = user.function(name, where=where.name)
    try:
        inspect.signature(function).bind_partial("", "")
        positional = Rule(function, "", "", math.inf).reads
        if len(positional) < 2:
            raise TypeError("fewer than two positional parameters")
    except (TypeError, ValueError) as error:
        fix = f"def {name.partition(':')[2]}(prompt: str, response: str) -> float"
        raise UserError(f"`{name}` does not take a prompt and a response", where=where.name, fix=fix) from error
    return Rule(function, f"the function {name}", "its own", math.inf)


def checked(
    name: str, rule: Rule, options: Mapping[str, Any], where: Where = REWARD, named: Named = MappingProxyType({})
) -> dict[str, Any]:
    """The options, checked for names, types, ranges and required values.

    Raises:
        UserError: names the option and its allowed values.
    """
    known = ranges.hyper_parameters(rule.score)
    for key in options:
        if key not in known:
            fix = nearest(key, known) if known else f"`{name}` takes no options"
            raise UserError(f"unknown option `{key}` of the reward `{name}`", where=f"{where.options}.{key}", fix=fix)
    given = {*options, *named}
    missing = [key for key, (default, _) in known.items() if default is inspect.Parameter.empty and key not in given]
    if missing:
        columns = f", which is no column of the data ({', '.join(named)})" if named else ""
        what = f"the reward `{name}` needs the option `{missing[0]}`{columns}"
        raise UserError(what, where=where.options, fix=f"{where.options}.{missing[0]}=...")
    return {key: _option(key, value, known[key][1], where) for key, value in options.items()}


def _option(key: str, value: Any, kind: ranges.Kind, where: Where) -> Any:
    if isinstance(value, float) and value.is_integer() and kind.types == {int}:
        value = int(value)  # 20.0 is a whole number
    try:
        if str in kind.types and not isinstance(value, str):
            raise UserError(f"`{key}` must be text, not {value!r}")
        ranges.check(key, value, kind)
    except UserError as error:
        raise UserError(error.what, where=f"{where.options}.{key}", fix=error.fix) from None
    return float(value) if float in kind.types and isinstance(value, int) else value


# ---- calling a function of texts ----------------------------------------------------------------------------------


def called(
    name: str,
    rule: Rule,
    score: Callable[..., Any],
    texts: Sequence[tuple[str, str]],
    more: Sequence[dict[str, Any]] | None = None,
) -> list[float]:
    """The score of each prompt and response by a rule on texts, or by a user's function.

    Args:
        score: the rule's function with its options.
        more: further keyword arguments for each.

    Raises:
        DataError: the function raised, or did not return a finite number.
    """
    call = _call_batch if rule.reads[0] == "prompts" else _call_each
    read = [text[1:] if rule.reads == ("response",) else text for text in texts]
    calls = list(zip(read, [{}] * len(texts) if more is None else more, strict=True))
    return [_number(name, v, text) for v, text in zip(call(name, score, calls), texts, strict=True)]


def _call_each(name: str, function: Callable[..., Any], calls: Sequence[Call]) -> list[Any]:
    values = []
    for text, more in calls:
        try:
            values.append(function(*text, **more))
        except Exception as error:  # the user's function may raise anything
            what = f"the reward function `{name}` raised {raised(error)}"
            raise DataError(what, where=_shown(text), fix="make it return a number for any text") from error
    return values


def _call_batch(name: str, function: Callable[..., Any], calls: Sequence[Call]) -> list[Any]:
    texts = [text for text, _ in calls]
    prompts, responses = [text[0] for text in texts], [text[1] for text in texts]
    more = {key: [named[key] for _, named in calls] for key in (calls[0][1] if calls else ())}
    where = f"{len(texts)} responses, the first: {_shown(texts[0])}" if texts else "no responses"
    try:
        values = list(function(prompts, responses, **more))
    except Exception as error:  # the user's function may raise anything
        raise DataError(f"the reward function `{name}` raised {raised(error)}", where=where) from error
    if len(values) != len(texts):
        what = f"the reward function `{name}` returned {len(values)} numbers for {len(texts)} responses"
        raise DataError(what, where=where)
    return values


def _number(name: str, value: Any, text: tuple[str, ...]) -> float:
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real) or not math.isfinite(value):
        what = f"the reward function `{name}` returned {excerpt(repr(value))}, which is not a finite number"
        raise DataError(what, where=_shown(text), fix="make it return a finite float for any text")
    return float(value)


def _shown(text: tuple[str, ...]) -> str:
    names = ("prompt", "response")[-len(text) :]
    return ", ".join(f"{name} {excerpt(part)!r}" for name, part in zip(names, text, strict=True))
