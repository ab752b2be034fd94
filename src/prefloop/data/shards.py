"""The files that the name of a data set stands for: one, shards, a saved data set, or a data set of the hub."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError, excerpt
from prefloop.core.files import sha256
from prefloop.data.opening import PACKED

HUB = "hub:"
TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")  # these may be compressed
TABLES = (".parquet", ".arrow", ".feather")
KINDS = (*TEXTS, *TABLES)
SAVED, SPLITS = "state.json", "dataset_dict.json"  # files of `datasets.save_to_disk`
ABOUT = ("dataset_info.json", "dataset_infos.json", SAVED, SPLITS)  # they describe data, and are none
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
WILD = re.compile(r"[*?\[]")


def kind(path: Path) -> str:
    """The format of a file by its name, without the compression; empty if it is none of ours."""
    name = path.name.lower()
    plain = name.removesuffix(next((p for p in PACKED if name.endswith(p)), ""))
    found = Path(plain).suffix
    return found if found in (KINDS if plain == name else TEXTS) else ""


def files_of(name: str) -> tuple[Path, ...]:
    """The files that hold the rows, in order.

    Raises:
        DataError: there are none, or several kinds of files.
        UserError: a name of the hub that is not complete.
    """
    if name.startswith(HUB):
        return hub_files(name.removeprefix(HUB))
    path = Path(name)
    try:
        if path.is_dir():
            return _folder(path)
        if not path.is_file() and WILD.search(name):
            return _pattern(name)
        if path.exists() and not path.is_file():
            raise DataError("the data are no regular file", where=name, fix="save them as a file, and give its name")
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"no file can have this name: {excerpt(str(error))}", where=excerpt(name)) from None
    if not path.is_file():
        raise DataError("the data file does not exist", where=name, fix=_neighbours(path))
    _check_kinds(name, [path])
    return (path,)


def data_hash(name: str) -> str:
    """SHA-256 of a file; of the names and hashes of several; empty if there are none.

    Raises:
        DataError: see `files_of`.
    """
    paths = files_of(name)
    if len(paths) == 1:
        return sha256(paths[0])
    each = "".join(f"{path.name} {sha256(path)}\n" for path in paths)
    return hashlib.sha256(each.encode("utf-8", "surrogateescape")).hexdigest()


# ---- several files ------------------------------------------------------------------------------------------------


def _pattern(name: str) -> tuple[Path, ...]:
    found = sorted(Path(p) for p in glob.glob(name) if Path(p).is_file())
    if not found:
        raise DataError("no file has a name like this", where=name, fix=_neighbours(Path(name)))
    _check_kinds(name, found)
    return tuple(found)


def _folder(folder: Path) -> tuple[Path, ...]:
    if (folder / SAVED).is_file():
        return _saved(folder)
    if (folder / SPLITS).is_file():
        names = sorted(p.name for p in folder.iterdir() if (p / SAVED).is_file())
        what = f"the data set has the splits {_listed(names)}"
        raise DataError(what, where=str(folder), fix=f"name one: {folder / (names[0] if names else 'SPLIT')}")
    found = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.name not in ABOUT)
    data = [p for p in found if kind(p)]
    if not data:
        inner = sorted(p.name for p in folder.iterdir() if p.is_dir())
        fix = f"name one of its folders: {_listed(inner)}" if inner else f"use {', '.join(KINDS)}"
        raise DataError("the data file is a folder without data files", where=str(folder), fix=fix)
    _check_kinds(str(folder), data)
    _check_splits(folder, data)
    return tuple(data)


def _check_kinds(name: str, paths: Sequence[Path]) -> None:
    """Refuse files that are not all of one kind that can be read."""
    unknown = [p for p in paths if not kind(p)]
    if unknown:
        fix = f"use {', '.join(KINDS)}; {', '.join(TEXTS)} also with {', '.join(PACKED)}"
        raise DataError("unsupported file extension", where=str(unknown[0]), fix=fix)
    kinds = sorted({kind(p) for p in paths})
    if len(kinds) > 1:
        what = f"there are files of {len(kinds)} kinds: {', '.join(kinds)}"
        raise DataError(what, where=name, fix=f"choose one by a pattern, such as '{Path(name) / ('*' + kinds[0])}'")


def _check_splits(folder: Path, paths: Sequence[Path]) -> None:
    """Refuse files that are not the shards of one data set, by their names up to the number."""
    stems = sorted({re.split(r"[-_.]?\d", p.name, maxsplit=1)[0].split(".")[0] for p in paths})
    if len(stems) > 1:
        what = f"the folder has files of different names: {_listed(stems)}"
        fix = f"choose by a pattern, such as '{folder / (stems[0] + '*')}'; '{folder / '*'}' takes all"
        raise DataError(what, where=str(folder), fix=fix)


def _saved(folder: Path) -> tuple[Path, ...]:
    """The Arrow files of a folder written by `datasets.save_to_disk`."""
    try:
        state = json.loads((folder / SAVED).read_text(encoding="utf-8"))
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{SAVED} cannot be read: {type(error).__name__}", where=str(folder / SAVED)) from None
    paths = tuple(folder / Path(name).name for name in names)
    missing = [p for p in paths if not p.is_file()]
    if missing or not paths:
        what = "the saved data set has no files" if not paths else f"`{missing[0].name}` is missing"
        raise DataError(what, where=str(folder), fix="copy the folder again")
    return paths


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f", … ({len(names)})" if len(names) > 6 else "")


def _neighbours(path: Path) -> str:
    """Data files in the same folder."""
    folder = path.parent
    names = sorted(p.name for p in folder.glob("*") if kind(p)) if folder.is_dir() else []
    return f"{folder} has {_listed(names)}" if names else "check the path; it is relative to this folder"


# ---- the hub ------------------------------------------------------------------------------------------------------


def hub_files(name: str) -> tuple[Path, ...]:
    """The cached Arrow files of `owner/name[:config[:split]]`; downloads them if they are not there yet.

    Code of the hub is never run: `datasets` 4 and later cannot.

    Raises:
        DataError: `datasets` is not installed, there is no network, no such data set, or the split is not clear.
    """
    path, config, split = (*name.split(":", 2), "", "")[:3]
    where = HUB + name
    if path.count("/") != 1 or not all(path.split("/")):
        raise DataError("a data set of the hub has an owner and a name", where=where, fix="hub:owner/name:config:split")
    try:
        import datasets
    except ImportError:
        fix = "pip install 'prefloop[hub]', or save the data as Parquet"
        raise DataError("data sets of the hub need the package `datasets`", where=where, fix=fix) from None
    if int(str(datasets.__version__).split(".")[0]) < 4:
        what = f"`datasets` {datasets.__version__} may run code of the hub"
        raise DataError(what, where=where, fix="pip install 'datasets>=4'")
    try:
        found = datasets.load_dataset(path, config or None)
        splits = {str(key): value for key, value in dict(found).items()}
    except Exception as error:  # of many kinds: no network, no such name, no such configuration, no right to read
        raise DataError(f"the data set cannot be loaded: {_first(error)}", where=where, fix=_cure()) from error
    if split not in splits if split else len(splits) > 1:
        fix = f"hub:{path}:{config}:{next(iter(splits))}"
        raise DataError(f"the data set has the splits {_listed(sorted(splits))}: name one", where=where, fix=fix)
    chosen: Any = splits[split] if split else next(iter(splits.values()))
    return tuple(Path(entry["filename"]) for entry in chosen.cache_files)


def _first(error: Exception) -> str:
    return excerpt(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")


def _cure() -> str:
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0") or os.environ.get("HF_DATASETS_OFFLINE", "") not in (
        "",
        "0",
    ):
        return "HF_HUB_OFFLINE is set: unset it, or give a file"
    return "check the name (owner/name:config:split) and the network, or download the data and give the file"
