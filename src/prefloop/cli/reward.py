"""`prefloop reward train|card|score`: reward models from preferences, what they are worth, and their scores."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.errors import DataError, UserError

if TYPE_CHECKING:  # torch and transformers load when there is something to do, so that --help is quick
    from prefloop.data.formats import Loaded
    from prefloop.data.records import Group
    from prefloop.rewards.bradley_terry import BradleyTerry
    from prefloop.rewards.ensemble import RewardModel

DESCRIPTION = "Train a Bradley–Terry reward model on preferences, see what it is worth, score responses with it."
SCHEDULE = ("steps", "lr", "batch")  # of training the backbone
LOSS = ("label_smoothing", "rating_margin", "ties", "centring")
RATINGS = "ratings"  # as gold: what stands in the data
PORTION = 64  # prompts whose responses a gold reward sees at once


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the three.

    Raises:
        UserError, DataError: what is wrong, where, and how to mend it; nothing was written.
    """
    args = _parser().parse_args(argv)
    verbs = {"train": train, "card": card, "score": score}
    return verbs[args.verb](args)


# ---- train ----------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> int:
    """Fit a reward model, measure it on held-out questions and save it with both."""
    _refuse(args)
    from prefloop.rewards.pair_loss import PairLoss
    from prefloop.rewards.saved import require_free

    loss = PairLoss(**{name: getattr(args, name) for name in LOSS})
    require_free(args.out)
    fitted_to, held_out, hashes = _sides(args)
    say = _say(args)
    say(f"{_size(fitted_to)} to fit to" + (f", {_size(held_out)} held out" if held_out else ", none held out"))
    clock = time.monotonic()
    model = _fitted(args, fitted_to, loss)
    told = _save(args, model, held_out, hashes, time.monotonic() - clock)
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


def _refuse(args: argparse.Namespace) -> None:
    """Mistakes that are found without reading anything."""
    given = [name for name in SCHEDULE if getattr(args, name) is not None]
    if args.freeze_backbone and given:
        raise UserError("a frozen backbone takes no steps", where=f"--{given[0]}", fix="leave --freeze-backbone out")
    for name in (*SCHEDULE, "max_tokens", "micro_tokens"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise UserError(f"`{name}` cannot be {value:g}", where=_flag(name), fix="use a value above 0")
    if not 0 < args.held_out_share < 1:
        fix = "use a share between 0 and 1, or --held-out none"
        raise UserError(f"the held-out share cannot be {args.held_out_share:g}", where="--held-out-share", fix=fix)


def _sides(args: argparse.Namespace) -> tuple[list[Group], list[Group], dict[str, str]]:
    """Groups to fit to and to hold out, and the SHA-256 of their files."""
    from prefloop.data.records import split
    from prefloop.runs.manifest import sha256

    whole = _read(args, args.data).groups
    hashes = {str(args.data): sha256(args.data)}
    if args.held_out == "none":
        return whole, [], hashes
    if args.held_out == "split":
        fitted_to, held_out = split(whole, args.held_out_share, args.seed)
    else:
        fitted_to, held_out = whole, _read(args, Path(args.held_out)).groups
        hashes[args.held_out] = sha256(args.held_out)
    for name, groups in (("training", fitted_to), ("held-out", held_out)):
        if not any(g.scores and len(set(g.scores)) > 1 for g in groups):
            fix = "more data, another --held-out-share, or --held-out none"
            raise DataError(f"there is no {name} preference", where=str(args.data), fix=fix)
    return fitted_to, held_out, hashes


def _fitted(args: argparse.Namespace, groups: list[Group], loss: Any) -> BradleyTerry:
    import torch

    from prefloop.policies import pretrained
    from prefloop.policies.causal_lm import resolve_autocast
    from prefloop.rewards import bradley_terry
    from prefloop.runs.interrupt import Interrupt
    from prefloop.runs.progress import Progress

    torch.manual_seed(args.seed)
    model, tokenizer = pretrained.load(args.model)
    schedule = {name: getattr(args, name) for name in SCHEDULE if getattr(args, name) is not None}
    steps = 0 if args.freeze_backbone else schedule.get("steps", bradley_terry.STEPS)
    quiet = args.quiet or args.json or args.freeze_backbone
    with Interrupt(quiet=args.quiet or args.json) as interrupt, Progress(steps, "reward model", quiet=quiet) as bar:
        return bradley_terry.fit(
            model,
            tokenizer,
            groups,
            freeze_backbone=args.freeze_backbone,
            pooling=args.pooling,
            loss=loss,
            seed=args.seed,
            max_tokens=args.max_tokens,
            micro_tokens=args.micro_tokens,
            autocast=resolve_autocast(_autocast(args), model),
            poll=interrupt.poll,
            observe=lambda step, value: bar.advance(note=f"loss {value:.4f}"),
            **schedule,
        )


def _save(
    args: argparse.Namespace, model: BradleyTerry, held_out: list[Group], hashes: dict[str, str], seconds: float
) -> dict[str, Any]:
    """Write the model and its manifest; what there is to say of it."""
    from dataclasses import replace

    import torch

    from prefloop.analysis.preference import reward_accuracy
    from prefloop.policies.pretrained import model_hash
    from prefloop.rewards import saved
    from prefloop.runs.manifest import manifest

    seen = reward_accuracy(model, held_out, seed=args.seed) if held_out else None
    model = replace(model, facts={**model.facts, **(seen.metrics() if seen else {})})
    saved.save(model, args.out)
    made_of = manifest(
        seeds={"run": args.seed},
        objective={"method": "bradley_terry", **{name: getattr(args, name) for name in LOSS}},
        data=hashes,
        model={"path": args.model, "sha256": model_hash(args.model)},
        threads=torch.get_num_threads(),
        notes=[str(seen)] if seen else [],
    )
    (args.out / "manifest.json").write_text(json.dumps(made_of, indent=2) + "\n", encoding="utf-8")
    told = {"model": str(args.out), "seconds": round(seconds, 1), "facts": dict(model.facts)}
    return {**told, "held_out": str(seen) if seen else None}


# ---- card and score -------------------------------------------------------------------------------------------------


def card(args: argparse.Namespace) -> int:
    """Measure a reward model on preferences it was not fitted to: card.json, a page and figures."""
    from prefloop.analysis.reward_card import as_record, reward_card
    from prefloop.report import reward_page
    from prefloop.rewards.encoding import comparison

    if args.out.exists() and not (args.out / reward_page.RECORD).is_file():
        from prefloop.rewards.saved import require_free

        require_free(args.out)
    found, model = _read(args, args.data), _model(args)
    groups, remarks = _unseen(model, found.groups, args.data)
    name = args.gold or (RATINGS if found.format == "rated" else None)
    known = None if name is None else _gold(args, name, groups, model)
    scored = model.score_groups(groups)
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
    found, model = _read(args, args.data), _model(args)
    scored = model.score_groups(found.groups)
    values = iter(scored.score.tolist())
    lines = [_line(group, [next(values) for _ in group.responses]) for group in found.groups if group.responses]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    mean, spread = float(scored.score.mean()), float(scored.score.std(correction=0))
    if args.json:
        told = {
            "file": str(args.out),
            "prompts": len(lines),
            "responses": len(scored.score),
            "mean": mean,
            "sd": spread,
        }
        print(json.dumps(told, ensure_ascii=False))
    elif not args.quiet:
        size = f"{len(scored.score):,} responses to {len(lines):,} prompts"
        print(f"{size}: mean score {mean:.3f}, standard deviation {spread:.3f}\nscores: {args.out}")
    return 0


def _line(group: Group, scores: list[float]) -> dict[str, Any]:
    prompt = [{"role": m.role, "content": m.content} for m in group.prompt]
    rated = {} if group.scores is None else {"ratings": list(group.scores)}
    return {"row": group.row, "prompt": prompt, "responses": list(group.responses), "scores": scores, **rated}


def _model(args: argparse.Namespace) -> RewardModel:
    """One reward model, or several of them, separated by commas, as one."""
    from prefloop.policies.causal_lm import resolve_autocast
    from prefloop.rewards import saved
    from prefloop.rewards.ensemble import Ensemble

    folders = args.model.split(",")
    if (len(folders) > 1) is (args.combine is None):
        what = "say how several reward models are combined" if len(folders) > 1 else "there is nothing to combine"
        raise UserError(what, where="--combine", fix="DIR1,DIR2 --combine mean, or min")
    from dataclasses import replace

    loaded = [saved.load(folder, micro_tokens=args.micro_tokens) for folder in folders]
    members = [replace(m, autocast=resolve_autocast(_autocast(args), m.backbone)) for m in loaded]
    return members[0] if args.combine is None else Ensemble(tuple(members), args.combine)


def _unseen(model: RewardModel, groups: list[Group], data: Path) -> tuple[list[Group], list[str]]:
    """The groups whose questions the model was not fitted to, and what must be said about it."""
    from prefloop.rewards.bradley_terry import digest

    unseen = [group for group in groups if digest(group) not in model.trained_on]
    if not unseen:
        fix = "give data of other questions; a training set split off its held-out part by --held-out split"
        raise DataError("the reward model was fitted to every question of these data", where=str(data), fix=fix)
    if not model.trained_on:
        return unseen, ["It is not known which questions the model was fitted to: see that these are others."]
    lost = len(groups) - len(unseen)
    return unseen, [f"{lost:,} of {len(groups):,} rows are left out: the model was fitted to their questions."] * (
        lost > 0
    )


def _gold(args: argparse.Namespace, name: str, groups: list[Group], model: RewardModel) -> list[float]:
    """A known reward of every response."""
    if name == RATINGS:
        if any(g.scores is None for g in groups):
            raise DataError("the data have no ratings", where="--gold ratings", fix="name a reward, such as length_min")
        return [rating for g in groups for rating in g.scores or ()]
    from prefloop.problems.text import TextProblem
    from prefloop.rewards import gold

    unlimited = 10**9
    problem = TextProblem(groups, model.tokenizer, max_prompt_tokens=unlimited, max_new_tokens=unlimited)
    options = dict(_option(text) for text in args.gold_option)
    scorer = gold.build(name, options, decode=problem.decode, decode_prompts=problem.decode_prompts)
    answered = [g for g in groups if g.responses]
    out: list[float] = []
    for start in range(0, len(answered), PORTION):
        batch = problem.batch_of(answered[start : start + PORTION])
        out += scorer(batch)[batch.present].tolist()
    return out


def _option(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        what = f"`{text}` is no option" if not equals else f"`{name}` must be a number, not {value!r}"
        raise UserError(what, where="--gold-option", fix="--gold-option target=20") from None


# ---- what they share ------------------------------------------------------------------------------------------------


def _read(args: argparse.Namespace, path: Path) -> Loaded:
    """The data, with the system message that was asked for; every row must be usable."""
    from dataclasses import replace

    from prefloop.data.formats import faulty, load_usable
    from prefloop.runs.build import with_system

    columns = dict(_column(text) for text in args.columns)
    found = load_usable(path, format=args.format, group_by=args.group_by, columns=columns, limit=args.limit)
    if found.faults:
        raise faulty(path, found)
    return replace(found, groups=with_system(args.system, found.groups))


def _column(text: str) -> tuple[str, str]:
    name, _, column = text.partition("=")
    if not name or not column:
        raise UserError(f"`{text}` is no column map", where="--columns", fix="--columns chosen=response")
    return name, column


def _size(groups: list[Group]) -> str:
    return f"{len(groups):,} rows of {len({g.key for g in groups}):,} questions"


def _autocast(args: argparse.Namespace) -> str | bool:
    return {"true": True, "false": False}.get(args.autocast, "auto")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _say(args: argparse.Namespace) -> Any:
    quiet = args.quiet or args.json
    return (lambda text: None) if quiet else (lambda text: print(text, flush=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prefloop reward", description=DESCRIPTION, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="train|card|score")
    for name, act in (("train", train), ("card", card), ("score", score)):
        words = (act.__doc__ or "").strip()
        own = verbs.add_parser(name, help=words, description=words, allow_abbrev=False)
        if name != "train":
            own.add_argument("model", metavar="DIR[,DIR]", help="reward model, or several as one with --combine")
        own.add_argument("data", type=Path, metavar="DATA", help=".jsonl, .json (both also .gz) or .parquet")
        {"train": _train_flags, "card": _card_flags, "score": _score_flags}[name](own)
        _shared_flags(own)
    return parser


def _train_flags(own: argparse.ArgumentParser) -> None:
    add = own.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the reward model")
    add("--model", default="smollm2", help="base model: local folder, hub name in the cache, or smollm2 (default)")
    add("--held-out", default="split", metavar="FILE", help="a file, `split` (default) or `none`")
    add("--held-out-share", type=float, default=0.2, metavar="X", help="of the questions, for `split` (default: 0.2)")
    add("--freeze-backbone", action="store_true", help="fit the head only: minutes instead of hours on a processor")
    add(
        "--pooling", choices=("last", "mean", "both"), default="last", help="states that the head reads (default: last)"
    )
    add("--steps", type=int, metavar="N", help="of training backbone and head together (default: 200)")
    add("--lr", type=float, metavar="X", help="learning rate of these steps (default: 1e-5)")
    add("--batch", type=int, metavar="N", help="pairs per step (default: 16)")
    add("--label-smoothing", type=float, default=0.0, metavar="E", help="share of preferences taken to be wrong")
    add("--rating-margin", type=float, default=0.0, metavar="M", help="lead asked for per unit of rating (Llama 2)")
    add("--ties", choices=("drop", "half"), default="drop", help="drop them, or half a preference either way")
    add("--centring", type=float, default=0.0, metavar="C", help="coefficient of (s_w + s_l)², say 0.01")
    add("--max-tokens", type=int, default=1024, metavar="N", help="longer ones lose the prompt's start (default: 1024)")


def _card_flags(own: argparse.ArgumentParser) -> None:
    add = own.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder for card.json, README.md and the figures")
    add("--gold", metavar="NAME", help="length_min, sentiment, module:function …, or ratings (default for rated data)")
    add("--gold-option", action="append", default=[], metavar="NAME=X", help="of the gold reward, such as target=20")
    add("--combine", choices=("mean", "min"), help="how several reward models are combined")


def _score_flags(own: argparse.ArgumentParser) -> None:
    own.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines: prompt, responses, scores")
    own.add_argument("--combine", choices=("mean", "min"), help="how several reward models are combined")


def _shared_flags(own: argparse.ArgumentParser) -> None:
    add = own.add_argument
    add("--format", default="auto", help="of the data (default: auto, by the columns)")
    add("--group-by", default="prompt", metavar="COLUMN", help="what makes a question (default: prompt)")
    add("--columns", action="append", default=[], metavar="OURS=THEIRS", help="column map, such as chosen=response")
    add("--limit", type=int, metavar="N", help="read only the first so many rows")
    add("--system", metavar="TEXT", help="system message before prompts that have none")
    add("--seed", type=int, default=0, help="of split, order and bootstrap (default: 0)")
    add("--autocast", choices=("auto", "true", "false"), default="auto", help="bfloat16 products (default: auto)")
    add("--micro-tokens", type=int, default=8192, metavar="N", help="tokens in one pass; bounds memory (default: 8192)")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add("--quiet", "-q", action="store_true", help="print nothing")
