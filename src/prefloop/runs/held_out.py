"""The held-out examples of a run, by its records: also of runs from before `data.split_seed`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError
from prefloop.core.files import digest
from prefloop.data.records import Group
from prefloop.runs.config import Config
from prefloop.runs.folder import CONFIG
from prefloop.worlds.text.spec import SPLIT

Record = Mapping[str, Any]


def recorded(groups: Sequence[Group]) -> dict[str, Any]:
    """What a manifest holds of them: their number, and a digest of texts, scores and order."""
    rows = [[[m.plain for m in g.prompt], [m.plain for m in g.answers], g.scores, g.key] for g in groups]
    return {"examples": len(groups), "digest": digest(rows)}


def split_seed(config: Record, manifest: Record) -> int:
    """The seed of the split; before it had one of its own, it was that of the run."""
    seeds, data = manifest.get("seeds", {}), config.get("data", {})
    return int(seeds.get("split", data.get("split_seed", config.get("seed", 0))))


def is_old_split(config: Record, manifest: Record) -> bool:
    """Whether the held-out examples were drawn with a seed of the run that is not the default of `data.split_seed`."""
    data = config.get("data", {})
    known = "split" in manifest.get("seeds", {}) or "split_seed" in data or "held_out" in manifest
    return data.get("held_out") == SPLIT and not known and config.get("seed", 0) != 0


def check(home: Path, config: Config, manifest: Record, groups: Sequence[Group]) -> None:
    """Refuse to continue a run with other held-out examples than it was started with: it may have trained on them.

    Raises:
        DataError: with both, and the key.
    """
    then, now = manifest.get("held_out"), recorded(groups)
    where = str(home)
    if then is not None and then != now:
        what = f"the {now['examples']} held-out examples are others than the {then['examples']} of the start"
        fix = "start a new run, or restore the `data` section of its config.yaml"
        raise DataError(what, where=where, fix=fix)
    own = config.data.split_seed
    before = split_seed({"seed": config.seed, "data": {}}, manifest)
    if then is None and config.data.held_out == SPLIT and own != before:
        what = f"the run was started with held-out examples drawn with the seed {before}; now data.split_seed is {own}"
        fix = f"write `split_seed: {before}` under `data` in {home / CONFIG}"
        raise DataError(f"{what}, which holds out others", where=where, fix=fix)


def are_same(a: tuple[Record, Record], b: tuple[Record, Record]) -> bool:
    """Whether two runs, each as its configuration and manifest, were evaluated on the same examples."""
    known = [manifest.get("held_out") for _, manifest in (a, b)]
    return known[0] == known[1] if all(known) else _asked(*a) == _asked(*b)


def _asked(config: Record, manifest: Record) -> tuple[Any, ...]:
    """What determines the held-out examples, of runs that did not record them."""
    data, hashes = config.get("data", {}), manifest.get("data", {})
    held_out = data.get("held_out")
    if held_out != SPLIT:
        return (hashes.get(held_out, held_out), data.get("limit"))
    share = data.get("held_out_share")
    return (hashes.get(data.get("train")), data.get("limit"), SPLIT, share, split_seed(config, manifest))
