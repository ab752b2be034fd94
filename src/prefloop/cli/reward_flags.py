"""The flags of `prefloop reward`, and what its verbs make of those that they share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from prefloop.core.errors import DataError, UserError
from prefloop.rewards.bradley_terry.options import FitOptions, Pooling, Ties

if TYPE_CHECKING:
    from prefloop.data.formats import Loaded

DESCRIPTION = "Train a Bradley–Terry reward model on preferences, see what it is worth, score responses with it."
RATINGS = "ratings"  # as gold: what stands in the data


def require_sound(args: argparse.Namespace) -> None:
    """Mistakes in flags that the verbs share, found without reading anything.

    Raises:
        UserError: a seed, a limit or a size out of range, or a place that nothing can be written to.
    """
    if not 0 <= args.seed < 2**63:
        raise UserError(f"`seed` cannot be {args.seed}", where="--seed", fix="use a whole number from 0 to 2^63 - 1")
    require_positive(args, ("limit", "micro_tokens"))
    above = next(folder for folder in args.out.absolute().parents if folder.exists())
    if not above.is_dir():
        what = f"`{above}` is a file, so nothing can be put into it"
        raise UserError(what, where=f"--out {args.out}", fix="choose another folder")


def require_positive(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuse what is given and is not a finite number above 0.

    Raises:
        UserError: the first of these.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"`{name}` cannot be {value:g}", where=flag_of(name), fix="use a finite number above 0")


def gold_of(args: argparse.Namespace, format: str) -> str | None:
    """The gold reward by name: the one asked for, or the ratings of rated data.

    Raises:
        DataError: ratings of data that have none: the 1 and 0 of a preference are what the model was fitted to.
    """
    if args.gold == RATINGS and format != "rated":
        fix = "name a reward, such as length_min, or give rows with `responses` and `scores`"
        raise DataError(f"the data have no ratings: their format is `{format}`", where="--gold ratings", fix=fix)
    return args.gold or (RATINGS if format == "rated" else None)


def read_data(args: argparse.Namespace, path: Path) -> Loaded:
    """The data, with the system message that was asked for.

    Raises:
        UserError: a wrong format or column map.
        DataError: a file or row that cannot be used.
    """
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


def autocast_of(args: argparse.Namespace) -> str | bool:
    """What `resolve_autocast` takes."""
    return {"true": True, "false": False}.get(args.autocast, "auto")


def flag_of(name: str) -> str:
    """As it is typed."""
    return "--" + name.replace("_", "-")


def say_of(args: argparse.Namespace) -> Callable[[str], None]:
    """Prints, unless the user wants quiet or JSON."""
    quiet = args.quiet or args.json
    return (lambda text: None) if quiet else (lambda text: print(text, flush=True))


def parser(helps: Mapping[str, str]) -> argparse.ArgumentParser:
    """Of the three verbs, each with a sentence of help."""
    whole = argparse.ArgumentParser(prog="prefloop reward", description=DESCRIPTION, allow_abbrev=False)
    verbs = whole.add_subparsers(dest="verb", required=True, metavar="train|card|score")
    for name, words in helps.items():
        own = verbs.add_parser(name, help=words, description=words, allow_abbrev=False)
        if name != "train":
            own.add_argument("model", metavar="DIR[,DIR]", help="reward model, or several as one with --combine")
        own.add_argument("data", type=Path, metavar="DATA", help=".jsonl, .json (both also .gz) or .parquet")
        {"train": _train_flags, "card": _card_flags, "score": _score_flags}[name](own)
        _shared_flags(own)
    return whole


def _train_flags(own: argparse.ArgumentParser) -> None:
    add = own.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the reward model")
    add("--model", default="smollm2", help="base model: local folder, hub name in the cache, or smollm2 (default)")
    add("--held-out", default="split", metavar="FILE", help="a file, `split` (default) or `none`")
    add("--held-out-share", type=float, default=0.2, metavar="X", help="of the questions, for `split` (default: 0.2)")
    yes_or_no = argparse.BooleanOptionalAction
    add("--freeze-backbone", action=yes_or_no, help="fit only the head, in minutes (default)")
    add("--pooling", choices=get_args(Pooling), help=f"states that the head reads (default: {FitOptions.pooling})")
    add("--steps", type=int, metavar="N", help=f"of training backbone and head together (default: {FitOptions.steps})")
    add("--lr", type=float, metavar="X", help=f"learning rate of these steps (default: {FitOptions.lr:g})")
    add("--batch", type=int, metavar="N", help=f"pairs per step (default: {FitOptions.batch})")
    add("--label-smoothing", type=float, metavar="E", help="share of preferences taken to be wrong (default: 0)")
    add("--rating-margin", type=float, metavar="M", help="lead asked for per unit of rating (Llama 2; default: 0)")
    add("--ties", choices=get_args(Ties), help="drop them (default), or half a preference either way")
    add("--centring", type=float, metavar="C", help="coefficient of (s_w + s_l)², say 0.01 (default: 0)")
    most = FitOptions.max_tokens
    add("--max-tokens", type=int, metavar="N", help=f"longer ones lose the prompt's start (default: {most})")


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
    size = FitOptions.micro_tokens
    add(
        "--micro-tokens",
        type=int,
        default=size,
        metavar="N",
        help=f"tokens in one pass; bounds memory (default: {size})",
    )
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add("--quiet", "-q", action="store_true", help="print nothing")
