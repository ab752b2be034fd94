"""Gold rewards that are known exactly: lengths, sentiment, and any Python function.

A scorer maps a batch to one score per response, 0 on the empty places of ragged groups. Factories that judge words get
`decode` (texts of the responses) and `decode_prompts` (texts of the prompts) from the problem that owns the tokens.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core import user
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError, excerpt, nearest, raised
from prefloop.rewards import sentences, words

Scorer = Callable[[Batch], Float[Tensor, "P G"]]
Decode = Callable[[Batch], list[list[str]]]  # P lists of G texts
DecodePrompts = Callable[[Batch], list[str]]  # P texts


def length_min(*, scale: float = 10.0) -> Scorer:
    """Shorter is better: −tokens / scale, EOS included.

    Linear, so that a token less is worth the same everywhere and nothing saturates: a response of 64 tokens has −6.4
    and one of 14 tokens −1.4 at the default scale.

    Args:
        scale: tokens that are worth one unit of reward.

    Raises:
        UserError: the scale is not positive.
    """
    _require(scale > 0, "scale", scale, "a positive number of tokens")
    return lambda batch: torch.where(batch.present, -batch.lengths / scale, 0.0)


def length_mode(*, target: int, scale: float = 10.0) -> Scorer:
    """Close to `target` tokens is better: −|tokens − target| / scale, EOS included; 0 at the peak.

    Args:
        target: tokens of the best response.
        scale: tokens off the target that cost one unit of reward.

    Raises:
        UserError: target below 1, or a scale that is not positive.
    """
    _require(target >= 1, "target", target, "at least 1 token")
    _require(scale > 0, "scale", scale, "a positive number of tokens")
    return lambda batch: torch.where(batch.present, -(batch.lengths - target).abs() / scale, 0.0)


def sentiment(*, decode: Decode) -> Scorer:
    """Friendlier words are better: VADER's compound score in [−1, 1], 0 for no words; see `words.sentiment`."""
    judge = words.sentiment()

    def score(batch: Batch) -> Tensor:
        texts = [[judge(text) for text in group] for group in decode(batch)]
        return torch.where(batch.present, torch.tensor(texts, dtype=torch.float32).to(batch.mask.device), 0.0)

    return score


def one_sentence(*, words: int = 12, decode: Decode, decode_prompts: DecodePrompts) -> Scorer:
    """One complete sentence of about `words` words on the topic of the prompt is better, in [0, 1].

    See `sentences.one_sentence`.

    Args:
        words: of the best sentence.

    Raises:
        UserError: `words` below 1.
    """
    _require(words >= 1, "words", words, "at least 1 word")

    def score(batch: Batch) -> Tensor:
        texts = zip(decode_prompts(batch), decode(batch), strict=True)
        scores = [[sentences.one_sentence(prompt, text, words=words) for text in group] for prompt, group in texts]
        return torch.where(batch.present, torch.tensor(scores, dtype=torch.float32).to(batch.mask.device), 0.0)

    return score


def from_path(path: str, *, decode: Decode, decode_prompts: DecodePrompts) -> Scorer:
    """A Python function `module:function` as reward; modules of the current directory can be named too.

    One rule decides how it is called. If its first parameter is named `prompts`, it is the batch form and gets two
    lists of texts of equal length, `f(prompts, responses)`, and returns as many numbers. Any other function is called
    once per response, `f(prompt, response)`, and returns a number.

    Raises:
        UserError: no such module or function, or it does not take two texts.
        DataError: at scoring time: it raised, or returned something that is not a finite number.
    """
    function, batched = _import(path)
    call = _call_batch if batched else _call_each

    def score(batch: Batch) -> Tensor:
        prompts, responses, present = decode_prompts(batch), decode(batch), batch.present.cpu()
        places = [(p, g) for p, g in present.nonzero().tolist()]
        texts = [(prompts[p], responses[p][g]) for p, g in places]
        values = [_number(path, v, *text) for v, text in zip(call(path, function, texts), texts, strict=True)]
        scores = torch.zeros(present.shape)
        scores[present] = torch.tensor(values, dtype=torch.float32)
        return scores.to(batch.mask.device)

    return score


GOLD: dict[str, Callable[..., Scorer]] = {
    "length_min": length_min,
    "length_mode": length_mode,
    "one_sentence": one_sentence,
    "sentiment": sentiment,
}
OTHERS = ("labels", "bradley_terry", "module:function")  # what a configuration may name beside GOLD


def build(name: str, options: Mapping[str, Any], *, decode: Decode, decode_prompts: DecodePrompts) -> Scorer:
    """The gold reward of a configuration: a name in GOLD or `module:function`, with its options.

    Raises:
        UserError: unknown name or option, or an option missing or of the wrong kind.
    """
    if ":" not in name and name not in GOLD:
        raise UserError(f"unknown reward `{name}`", where="reward.name", fix=nearest(name, [*GOLD, *OTHERS]))
    factory = GOLD.get(name, from_path)
    known = {k: p for k, p in inspect.signature(factory).parameters.items() if p.kind is p.KEYWORD_ONLY}
    given = {k: v for k, v in {"decode": decode, "decode_prompts": decode_prompts}.items() if k in known}
    numbers = _numbers(name, options, {k: p for k, p in known.items() if k not in given})
    return factory(*([name] if factory is from_path else []), **given, **numbers)


def _numbers(name: str, options: Mapping[str, Any], known: Mapping[str, inspect.Parameter]) -> dict[str, int | float]:
    """The options, each known and a number of its kind, none missing that has no default."""
    for key in options:
        if key not in known:
            fix = nearest(key, known) if known else f"`{name}` takes no options"
            raise UserError(f"unknown option `{key}` of the reward `{name}`", where=f"reward.options.{key}", fix=fix)
    missing = [k for k, p in known.items() if p.default is p.empty and k not in options]
    if missing:
        what = f"the reward `{name}` needs the option `{missing[0]}`"
        raise UserError(what, where="reward.options", fix=f"reward.options.{missing[0]}=...")
    return {key: _number_of(key, value, known[key].annotation == "int") for key, value in options.items()}


def _number_of(key: str, value: Any, whole: bool) -> int | float:
    _require(isinstance(value, Real) and not isinstance(value, bool), key, value, "a number")
    if not whole:
        return float(value)
    _require(float(value).is_integer(), key, value, "a whole number")
    return int(value)


def _require(holds: bool, option: str, value: object, wanted: str) -> None:
    if not holds:
        raise UserError(f"`{option}` must be {wanted}, not {value!r}", where=f"reward.options.{option}")


# --------------------------------------------------------------------------------------------- functions of the user


def _import(path: str) -> tuple[Callable[..., Any], bool]:
    """The function of `module:function`, and whether it takes lists."""
    function = user.function(path, where="reward.name")
    name = path.partition(":")[2]
    try:
        signature = inspect.signature(function)
        signature.bind("", "")
    except (TypeError, ValueError) as error:
        fix = f"def {name}(prompt: str, response: str) -> float"
        raise UserError(f"`{path}` does not take a prompt and a response", where="reward.name", fix=fix) from error
    return function, next(iter(signature.parameters)) == "prompts"


def _call_each(path: str, function: Callable[..., Any], texts: list[tuple[str, str]]) -> list[Any]:
    values = []
    for prompt, response in texts:
        try:
            values.append(function(prompt, response))
        except Exception as error:  # whatever the user's function raises
            what = f"the reward function `{path}` raised {raised(error)}"
            raise DataError(what, where=_shown(prompt, response), fix="make it return a number for any text") from error
    return values


def _call_batch(path: str, function: Callable[..., Any], texts: list[tuple[str, str]]) -> list[Any]:
    prompts, responses = [p for p, _ in texts], [r for _, r in texts]
    where = f"{len(texts)} responses, the first: {_shown(*texts[0])}" if texts else "no responses"
    try:
        values = list(function(prompts, responses))
    except Exception as error:  # whatever the user's function raises
        raise DataError(f"the reward function `{path}` raised {raised(error)}", where=where) from error
    if len(values) != len(texts):
        what = f"the reward function `{path}` returned {len(values)} numbers for {len(texts)} responses"
        raise DataError(what, where=where)
    return values


def _number(path: str, value: Any, prompt: str, response: str) -> float:
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real) or not math.isfinite(value):
        what = f"the reward function `{path}` returned {excerpt(repr(value))}, which is not a finite number"
        raise DataError(what, where=_shown(prompt, response), fix="make it return a finite float for any text")
    return float(value)


def _shown(prompt: str, response: str) -> str:
    return f"prompt {excerpt(prompt)!r}, response {excerpt(response)!r}"
