"""`prefloop eval A B`: how often the answers of one side are better than those of the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.cli.data.shared import read
from prefloop.cli.options import Rows, require, require_new, require_positive, require_seed
from prefloop.core.errors import UserError
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.records import Group
    from prefloop.judging.chat import Chat
    from prefloop.judging.evaluate import Judge, Result
    from prefloop.judging.sides import Side


@dataclass(frozen=True, kw_only=True)
class Options(Rows):
    """Compare two sets of answers to the same prompts, by a reward or by a judge.

    A side is a run folder (or RUN/best), a model, or a file of answers. Prompts are those of --prompts, or the held-out
    ones of a run, or those that two files have in common. The win rate is that of the first side.
    """

    first: Annotated[str, Flag(positional=True, metavar="A")]
    """Run, model or file of answers."""
    second: Annotated[str, Flag(positional=True, metavar="B")]
    """Run, model or file of answers: what A is compared with."""
    prompts: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Prompts: a data file of any format; its responses are not read."""
    by: Annotated[str, Flag(metavar="REWARD")] = ""
    """A reward on texts (keyword, sentiment, module:function, ...) or the folder of a reward model."""
    judge: Annotated[str, Flag(metavar="MODEL")] = ""
    """Name of the judge at --judge-url."""
    judge_url: Annotated[str, Flag(metavar="URL")] = ""
    """Address of a server that speaks the OpenAI protocol, such as http://127.0.0.1:8000/v1."""
    judge_key: Annotated[str, Flag(metavar="VARIABLE")] = "OPENAI_API_KEY"
    """Environment variable with the API key; keys are never flags."""
    judge_workers: int = 4
    """Requests at a time."""
    timeout: float = 60.0
    """Seconds to wait for an answer of the judge."""
    retries: int = 3
    """Further tries of a request that fails."""
    cache: Annotated[Path | None, Flag(metavar="DIR")] = None
    """Keep answers of the judge here and do not ask again."""
    price_in: float = 0.0
    """Price of a million tokens that the judge reads, to show the cost."""
    price_out: float = 0.0
    """Price of a million tokens that it writes."""
    temperature: float = 0.0
    """Sampling temperature of runs and models; 0 takes the most likely token."""
    max_new_tokens: int | None = None
    """Longest answer of a run or model in tokens (default: as in the run, or 256)."""
    unfinished: bool = False
    """Use the last checkpoint of a run that has no final model."""
    seed: int = 0
    """Seed of sampling and intervals."""
    output: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Write every comparison to this new file, JSON Lines."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "judge_workers", "timeout", "max_new_tokens")
        require_seed(self.seed)
        for price in ("price_in", "price_out"):
            require(getattr(self, price) >= 0, price, getattr(self, price), "use 0 or more")
        require(self.retries >= 0, "retries", self.retries, "use 0 or more")
        require(self.temperature >= 0, "temperature", self.temperature, "use 0 or more")
        if bool(self.by) is bool(self.judge):
            raise UserError("who decides?", where="--by, --judge", fix="give one: --by REWARD, or --judge MODEL")
        if bool(self.judge) is not bool(self.judge_url):
            fix = "give both: --judge MODEL --judge-url URL"
            raise UserError("a judge has a name and an address", where="--judge, --judge-url", fix=fix)
        if self.output is not None:
            require_new(self.output)


def run(options: Options) -> int:
    """Compare, and print the win rate.

    Raises:
        UserError, DataError: a side, a reward or a judge that cannot be used.
    """
    from prefloop.judging import sides
    from prefloop.judging.evaluate import detectable_rate, evaluate
    from prefloop.runs.progress import Progress

    groups = _groups(options)
    names = (options.first, options.second)
    known = {name: sides.of_file(name) for name in names if sides.is_file(name)}
    if groups is None:
        prompts, notes = sides.shared(known[names[0]], known[names[1]], None)
        groups = _bare(prompts)
    else:
        prompts, notes = list(dict.fromkeys(group.text for group in groups)), []
        for name in names:
            if name in known:
                sides.shared(known[name], known[name], prompts)
    options.say(f"prompts: {len(prompts)}; {_seen(len(prompts))}")
    chat = _chat(options) if options.judge else None
    first, second = (known.get(name) or _answered(options, name, groups) for name in names)
    notes += [*first.notes, *second.notes]
    judge = _by_model(chat) if chat else _by_reward(options, groups, (first, second))
    with Progress(len(prompts), "judged", quiet=options.silent or chat is None) as bar:
        workers = options.judge_workers if chat else 1
        result = evaluate(
            prompts, first.answers, second.answers, judge, workers=workers, seed=options.seed, tick=bar.advance
        )
    record = _record(options, result, chat, notes, detectable_rate(len(prompts)))
    if options.output is not None:
        _write(options.output, result)
    options.show(lambda: record, lambda: print("\n".join(_text(options, record))))
    return 0


def _groups(options: Options) -> list[Group] | None:
    """The prompts to answer; None if they are those of two files."""
    from prefloop.data.skipping import kept
    from prefloop.judging import sides
    from prefloop.runs.trained import is_run

    if options.prompts is not None:
        loaded = kept(options.prompts, read(options, options.prompts, options.limit), options.faulty)
        for note in loaded.notes:
            options.say(note)
        return list({group.text: group for group in reversed(loaded.groups)}.values())[::-1]
    models = [name for name in (options.first, options.second) if not sides.is_file(name)]
    if not models:
        return None
    runs = [name for name in models if is_run(name)]
    if not runs:
        raise UserError("which prompts are to be answered?", where="--prompts", fix="give a file of prompts")
    each = [sides.held_out(name) for name in runs]
    if len({frozenset(group.text for group in some) for some in each}) > 1:
        fix = "give a file of prompts that neither was trained on: --prompts FILE"
        raise UserError("the two runs hold out different prompts", where=", ".join(runs), fix=fix)
    return list({group.text: group for group in each[0]}.values())[: options.limit]


def _bare(prompts: Sequence[str]) -> list[Group]:
    """Prompts of files, as messages of a user."""
    from prefloop.data.records import Group, message

    return [Group((message("user", prompt),), (), None, prompt, row) for row, prompt in enumerate(prompts, 1)]


def _answered(options: Options, name: str, groups: Sequence[Group]) -> Side:
    from prefloop.judging import sides
    from prefloop.runs.progress import Progress

    options.say(f"answering with {name}")
    with Progress(len(groups), "answers", quiet=options.silent) as bar:
        return sides.of_model(
            name,
            groups,
            temperature=options.temperature,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            unfinished=options.unfinished,
            tick=bar.advance,
        )


# ---- who decides ----------------------------------------------------------------------------------------------------


def _chat(options: Options) -> Chat:
    from prefloop.judging.chat import Chat

    return Chat(
        options.judge_url,
        options.judge,
        key=options.judge_key,
        timeout=options.timeout,
        retries=options.retries,
        cache=options.cache,
    )


def _by_model(chat: Chat) -> Judge:
    from functools import partial

    from prefloop.judging.pairwise import judged

    return partial(judged, chat.answer)


def _by_reward(options: Options, groups: Sequence[Group], both: Sequence[Side]) -> Judge:
    """The judge that prefers the higher reward."""
    from prefloop.judging.evaluate import by_score
    from prefloop.judging.scores import scores

    pairs = [(group, side.answers[group.text]) for group in groups for side in both]
    return by_score(scores(options.by, pairs))


# ---- what is shown --------------------------------------------------------------------------------------------------


def _seen(prompts: int) -> str:
    from prefloop.judging.evaluate import detectable_rate

    points = 100 * detectable_rate(prompts)
    if not points < 50:
        return "too few to tell any win rate from 50 %"
    return f"a win rate can be told from 50 % where it is beyond 50 ± {points:.1f} %"


def _record(
    options: Options, result: Result, chat: Chat | None, notes: Sequence[str], detectable: float
) -> dict[str, Any]:
    decided = {"judge": options.judge, "url": options.judge_url} if chat else {"reward": options.by}
    out = {"first": options.first, "second": options.second, **decided, "detectable": detectable, **result.record()}
    if chat:
        spent = chat.spent
        out["spent"] = {k: getattr(spent, k) for k in ("requests", "cached", "failed", "tokens_in", "tokens_out")}
        if options.price_in or options.price_out:
            out["cost"] = (spent.tokens_in * options.price_in + spent.tokens_out * options.price_out) / 1e6
    else:
        for key in ("consistent", "shown_first"):
            out.pop(key, None)
    return {**out, "notes": list(notes)}


def _text(options: Options, record: dict[str, Any]) -> list[str]:
    """The result in sentences."""
    lines = [wrapped(note) for note in record["notes"]]
    if record["win_rate"] is None:
        return [*lines, f"no verdict on any of {record['prompts']} prompts", *_taken(record)]
    interval = f"[{100 * record['low']:.1f}, {100 * record['high']:.1f}]"
    lines.append(f"win rate of {os.path.basename(options.first.rstrip('/'))}: {100 * record['win_rate']:.1f} %"
                 f" {interval}, {record['decided']} prompts")  # fmt: skip
    lines.append(f"  {record['wins']} wins, {record['ties']} ties, {record['losses']} losses")
    if at := record["length_controlled"]:
        ends = f"[{100 * at['low']:.1f}, {100 * at['high']:.1f}]"
        lines.append(f"at equal lengths: {100 * at['rate']:.1f} % {ends} (length counts {at['length']:+.2f} logits)")
    size = record["characters"]
    lines.append(f"characters of an answer: {size['first']:.0f} against {size['second']:.0f}")
    if record["no_verdict"]:
        low, high = (100 * record["if_undecided"][key] for key in ("lost", "won"))
        what = f"no verdict on {record['no_verdict']} prompts, which are left out: between {low:.1f} and {high:.1f} %"
        lines.append(wrapped(f"{what} if all were lost or won"))
    if "consistent" in record:
        lines.append(f"the judge agrees with itself in both orders on {100 * record['consistent']:.0f} % of prompts,")
        lines.append(f"  and prefers the answer shown first in {100 * record['shown_first']:.0f} % (no bias: 50 %)")
    return lines + _taken(record)


def _taken(record: dict[str, Any]) -> list[str]:
    """What the judge was asked and has cost."""
    if "spent" not in record:
        return []
    spent = record["spent"]
    cost = f", cost {record['cost']:.4g}" if "cost" in record else ""
    asked = f"requests: {spent['requests']} ({spent['cached']} from the cache, {spent['failed']} failed)"
    return [wrapped(f"{asked}; tokens: {spent['tokens_in']:,} read, {spent['tokens_out']:,} written{cost}")]


def _write(path: Path, result: Result) -> None:
    """Every comparison, one line each."""
    import json

    from prefloop.core.files import write

    lines = [
        {"prompt": one.prompt, "first": one.first, "second": one.second, "win": one.verdict.win,
         "orders": one.verdict.orders}
        for one in result.comparisons
    ]  # fmt: skip
    write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
