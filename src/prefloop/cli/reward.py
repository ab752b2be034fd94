"""`prefloop reward train|card|score`: reward models from preferences, what they are worth, and their scores."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.cli.reward_flags import (
    RATINGS,
    autocast_of,
    gold_of,
    parser,
    read_data,
    require_positive,
    require_sound,
    say_of,
)
from prefloop.core.errors import DataError, UserError
from prefloop.core.files import sha256, write

if TYPE_CHECKING:  # torch and transformers load when there is something to do, so that --help is quick
    from prefloop.data.records import Group
    from prefloop.rewards.bradley_terry.encoding import Scored
    from prefloop.rewards.bradley_terry.ensemble import RewardModel
    from prefloop.rewards.bradley_terry.model import BradleyTerry
    from prefloop.rewards.bradley_terry.options import FitOptions

PORTION = 64  # prompts whose responses a gold reward sees at once


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the three.

    Raises:
        UserError, DataError: what is wrong, where, and how to mend it; nothing was written.
    """
    verbs = {"train": train, "card": card, "score": score}
    args = parser({name: (act.__doc__ or "").strip() for name, act in verbs.items()}).parse_args(argv)
    require_sound(args)
    return verbs[args.verb](args)


# ---- train ----------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> int:
    """Fit a reward model, measure it on held-out questions and save it with both."""
    options = _options(args)
    from prefloop.rewards.bradley_terry.disk import require_free

    require_free(args.out)
    fitted_to, held_out, hashes = _sides(args)
    say = say_of(args)
    say(f"{_size(fitted_to)} to fit to" + (f", {_size(held_out)} held out" if held_out else ", none held out"))
    clock = time.monotonic()
    model = _fitted(args, fitted_to, options)
    told = _save(args, options, model, held_out, hashes, time.monotonic() - clock)
    if args.json:
        print(json.dumps(told, ensure_ascii=False))
        return 0
    facts = told["facts"]
    say(
        f"fitted to {facts['train_pairs']:,} pairs of {facts['train_questions']:,} questions in {told['seconds']:.0f} s"
    )
    say(told["held_out"] or "held-out accuracy: not measured")
    say(f"reward model: {args.out}\nnext: prefloop reward card {args.out} {args.data} --out {args.out}-card")
    return 0


def _options(args: argparse.Namespace) -> FitOptions:
    """How the model is fitted; mistakes are found without reading anything."""
    from prefloop.rewards.bradley_terry.options import NAMES, fit_options

    require_positive(args, ("steps", "lr", "batch", "max_tokens"))
    if not 0 < args.held_out_share < 1:
        fix = "use a share between 0 and 1, or --held-out none"
        raise UserError(f"the held-out share cannot be {args.held_out_share:g}", where="--held-out-share", fix=fix)
    return fit_options({name: value for name in NAMES if (value := getattr(args, name)) is not None})


def _sides(args: argparse.Namespace) -> tuple[list[Group], list[Group], dict[str, str]]:
    """Groups to fit to, groups of other questions, and the SHA-256 of their files."""
    from prefloop.data.records import split
    from prefloop.rewards.bradley_terry.model import digests, known

    whole = read_data(args, args.data).groups
    hashes = {str(args.data): sha256(args.data)}
    if args.held_out == "none":
        return whole, [], hashes
    if args.held_out == "split":
        fitted_to, held_out = split(whole, args.held_out_share, args.seed)
    else:
        fitted_to, held_out = whole, read_data(args, Path(args.held_out)).groups
        hashes[args.held_out] = sha256(args.held_out)
    trained_on = frozenset().union(*map(digests, fitted_to))
    unseen = [group for group in held_out if not known(group, trained_on)]
    if lost := len(held_out) - len(unseen):
        say_of(args)(f"{lost:,} of {len(held_out):,} held-out rows are left out: their questions are trained on")
    held_out = unseen
    for name, groups in (("training", fitted_to), ("held-out", held_out)):
        if not any(g.scores and len(set(g.scores)) > 1 for g in groups):
            fix = "more data, another --held-out-share, or --held-out none"
            what = f"there is no {name} preference" + (" on a question that is not trained on" * (name == "held-out"))
            raise DataError(what, where=str(args.data), fix=fix)
    return fitted_to, held_out, hashes


def _fitted(args: argparse.Namespace, groups: list[Group], options: FitOptions) -> BradleyTerry:
    import torch

    from prefloop.policies import pretrained
    from prefloop.policies.causal_lm import resolve_autocast
    from prefloop.rewards.bradley_terry.fit import fit
    from prefloop.runs.interrupt import Interrupt
    from prefloop.runs.progress import Progress

    torch.manual_seed(args.seed)
    model, tokenizer = pretrained.load(args.model)
    quiet = args.quiet or args.json
    bar_quiet = quiet or options.freeze_backbone
    with Interrupt(quiet=quiet) as interrupt, Progress(options.steps, "reward model", quiet=bar_quiet) as bar:
        return fit(
            model,
            tokenizer,
            groups,
            options,
            seed=args.seed,
            autocast=resolve_autocast(autocast_of(args), model),
            poll=interrupt.poll,
            observe=lambda step, value: bar.advance(note=f"loss {value:.4f}"),
        )


def _save(
    args: argparse.Namespace,
    options: FitOptions,
    model: BradleyTerry,
    held_out: list[Group],
    hashes: dict[str, str],
    seconds: float,
) -> dict[str, Any]:
    """Write the model and its manifest; what there is to say of it."""
    from dataclasses import asdict, replace

    import torch

    from prefloop.policies.pretrained import model_hash
    from prefloop.rewards.bradley_terry import disk as saved
    from prefloop.rewards.bradley_terry.accuracy import reward_accuracy
    from prefloop.runs.manifest import manifest

    seen = reward_accuracy(model, held_out, seed=args.seed) if held_out else None
    model = replace(model, facts={**model.facts, **(seen.metrics() if seen else {})})
    saved.save(model, args.out)
    made_of = manifest(
        seeds={"run": args.seed},
        objective={"method": "bradley_terry", **asdict(options.loss)},
        data=hashes,
        model={"path": args.model, "sha256": model_hash(args.model)},
        threads=torch.get_num_threads(),
        notes=[str(seen)] if seen else [],
    )
    write(args.out / "manifest.json", json.dumps(made_of, indent=2) + "\n")
    told = {"model": str(args.out), "seconds": round(seconds, 1), "facts": dict(model.facts)}
    return {**told, "held_out": str(seen) if seen else None}


def _size(groups: list[Group]) -> str:
    return f"{len(groups):,} rows of {len({g.key for g in groups}):,} questions"


# ---- card and score -------------------------------------------------------------------------------------------------


def card(args: argparse.Namespace) -> int:
    """Measure a reward model on preferences it was not fitted to: card.json, a page and figures."""
    from prefloop.report import reward_page
    from prefloop.rewards.bradley_terry.card import as_record, reward_card
    from prefloop.rewards.bradley_terry.encoding import comparison

    if args.gold_option and args.gold in (None, RATINGS):
        raise UserError("no gold reward takes these options", where="--gold-option", fix="name one: --gold length_mode")
    if args.out.exists() and not (args.out / reward_page.RECORD).is_file():
        from prefloop.rewards.bradley_terry.disk import require_free

        require_free(args.out)
    found = read_data(args, args.data)
    name, model = gold_of(args, found.format), _model(args)
    groups, remarks = _unseen(model, found.groups, args.data)
    known = None if name is None else _gold(args, name, groups, model)
    scored = model.score_groups(groups)
    remarks += _cut(model, scored)
    pairs = comparison(groups, scored)
    made = reward_card(
        pairs.margin.numpy(),
        pairs.longer.numpy(),
        pairs.keys,
        score=scored.score.numpy(),
        length=scored.length.numpy(),
        group=scored.group.numpy(),
        response_keys=[groups[i].key for i in scored.group.tolist()],
        gold=known,
        seed=args.seed,
    )
    about = {"model": args.model, "combined by": args.combine or "–", "data": str(args.data), "gold": name or "–"}
    place = reward_page.write(made, args.out, title=f"Reward model {args.model}", about=about, remarks=remarks)
    if args.json:
        print(json.dumps({"page": str(place), "remarks": remarks, **as_record(made)}, ensure_ascii=False))
    elif not args.quiet:
        print("\n".join([reward_page.verdict(made), *remarks, f"page: {place}"]))
    return 0


def score(args: argparse.Namespace) -> int:
    """Write the score of every response beside it, one prompt per line, in the format `rated`."""
    if args.out.exists():
        raise UserError("the file exists already", where=str(args.out), fix="choose another name")
    found, model = read_data(args, args.data), _model(args)
    scored = model.score_groups(found.groups)
    remarks = _cut(model, scored)
    values = iter(scored.score.tolist())
    lines = [_line(group, [next(values) for _ in group.responses]) for group in found.groups if group.responses]
    write(args.out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    mean, spread = float(scored.score.mean()), float(scored.score.std(correction=0))
    if args.json:
        told = {
            "file": str(args.out),
            "prompts": len(lines),
            "responses": len(scored.score),
            "mean": mean,
            "sd": spread,
            "remarks": remarks,
        }
        print(json.dumps(told, ensure_ascii=False))
    elif not args.quiet:
        size = f"{len(scored.score):,} responses to {len(lines):,} prompts"
        first = f"{size}: mean score {mean:.3f}, standard deviation {spread:.3f}"
        print("\n".join([first, *remarks, f"scores: {args.out}"]))
    return 0


def _cut(model: RewardModel, scored: Scored) -> list[str]:
    """What must be said where tokens did not fit."""
    from prefloop.rewards.bradley_terry.ensemble import Ensemble

    members = model.members if isinstance(model, Ensemble) else (model,)
    room = " or ".join(f"{n:,}" for n in sorted({member.max_tokens for member in members}))
    lost = int(scored.cut.sum())
    remark = f"{lost:,} of {len(scored.cut):,} responses were cut to the last {room} tokens, prompt included."
    return [remark] if lost else []


def _line(group: Group, scores: list[float]) -> dict[str, Any]:
    prompt = [{"role": m.role, "content": m.content} for m in group.prompt]
    rated = {} if group.scores is None else {"ratings": list(group.scores)}
    return {"row": group.row, "prompt": prompt, "responses": list(group.responses), "scores": scores, **rated}


def _model(args: argparse.Namespace) -> RewardModel:
    """One reward model, or several of them, separated by commas, as one."""
    from prefloop.policies.causal_lm import resolve_autocast
    from prefloop.rewards.bradley_terry import disk as saved
    from prefloop.rewards.bradley_terry.ensemble import Ensemble

    folders = args.model.split(",")
    if (len(folders) > 1) is (args.combine is None):
        what = "say how several reward models are combined" if len(folders) > 1 else "there is nothing to combine"
        raise UserError(what, where="--combine", fix="DIR1,DIR2 --combine mean, or min")
    from dataclasses import replace

    loaded = [saved.load(folder, micro_tokens=args.micro_tokens) for folder in folders]
    members = [replace(m, autocast=resolve_autocast(autocast_of(args), m.backbone)) for m in loaded]
    return members[0] if args.combine is None else Ensemble(tuple(members), args.combine)


def _unseen(model: RewardModel, groups: list[Group], data: Path) -> tuple[list[Group], list[str]]:
    """The groups whose questions the model was not fitted to, and what must be said about it."""
    from prefloop.rewards.bradley_terry.model import known

    unseen = [group for group in groups if not known(group, model.trained_on)]
    if not unseen:
        fix = "give data of other questions; a training set split off its held-out part by --held-out split"
        raise DataError("the reward model was fitted to every question of these data", where=str(data), fix=fix)
    lost, remarks = len(groups) - len(unseen), []
    if lost:
        remarks.append(f"{lost:,} of {len(groups):,} rows are left out: the model was fitted to their questions.")
    if not model.is_traced:
        remarks.append("It is not known which questions the model was fitted to: see that these are others.")
    return unseen, remarks


def _gold(args: argparse.Namespace, name: str, groups: list[Group], model: RewardModel) -> list[float]:
    """A known reward of every response."""
    if name == RATINGS:
        return [rating for g in groups for rating in g.scores or ()]
    from prefloop.rewards import scorers
    from prefloop.worlds.text.problem import TextProblem

    unlimited = 10**9
    problem = TextProblem(groups, model.tokenizer, max_prompt_tokens=unlimited, max_new_tokens=unlimited)
    options = dict(_option(text) for text in args.gold_option)
    where = scorers.Where("--gold", "--gold-option", known=("ratings", "module:function"))
    scorer = scorers.build(name, options, decode=problem.decode, decode_prompts=problem.decode_prompts, where=where)
    answered = [g for g in groups if g.responses]
    out: list[float] = []
    for start in range(0, len(answered), PORTION):
        batch = problem.batch_of(answered[start : start + PORTION])
        out += scorer(batch)[batch.present].tolist()
    return out


def _option(text: str) -> tuple[str, float | str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        what = f"invalid option `{text}`"
        raise UserError(what, where="--gold-option", fix="write NAME=VALUE, such as --gold-option target=20")
    try:
        return name, float(value)
    except ValueError:
        return name, value
