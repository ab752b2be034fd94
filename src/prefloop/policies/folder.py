"""Whether a folder holds a whole model: its files before loading, and what the loader made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError, excerpt
from prefloop.policies.cache import quiet

MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")  # no pickles, no code
COMPANIONS = (  # how a model reads images, video and sound, and how it generates
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "generation_config.json",
)
OLD_TEMPLATE = "chat_template.json"  # of older processors, which their tokenizer does not read
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
ADAPTER = "adapter_config.json"
POINTER = b"version https://git-lfs.github.com/spec"
AGAIN = "download it again"
# left in the files of some models, and not read by any: masks, rotary tables, heads that predict several tokens ahead
HARMLESS = re.compile(r"(inv_freq|masked_bias|attn\.bias|attention\.bias|position_ids)$|(^|\.)(mtp|nextn)\.")


Named = Callable[[str], bool]  # by the name of a weight


def _none(name: str) -> bool:
    return False


def check_files(folder: Path, what: str = "model") -> None:
    """Refuse a folder whose files are not those of a whole model, before anything is loaded.

    Args:
        what: the word for the model in messages, such as `reward model`.

    Raises:
        DataError: no configuration, no weights, pickled or quantised weights, an adapter, a Git LFS pointer, an
            incomplete download.
    """
    whole = (folder / "config.json").is_file()
    if (folder / ADAPTER).is_file():
        found = "holds an adapter beside a whole model" if whole else "holds an adapter only"
        fix = "model.adapter: merge, to train its merged weights, or continue, to train the adapter on"
        raise DataError(f"the {what} cannot be loaded: the folder {found}", where=str(folder), fix=fix)
    if not whole:
        fix = f"give the folder with config.json, *.safetensors and tokenizer files of a {what}"
        raise DataError(f"the {what} cannot be loaded: it has no config.json", where=str(folder), fix=fix)
    check_pointers(folder)
    config = read_json(folder / "config.json")
    _check_precision(config, folder, what)
    _check_weights(folder, what)


def check_pointers(folder: Path) -> None:
    """Refuse a folder cloned without Git LFS.

    Raises:
        DataError: a file is a pointer.
    """
    for file in sorted(file for pattern in MODEL_FILES for file in folder.glob(pattern)):
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(POINTER):
            what = f"{file.name} is a Git LFS pointer, not the file itself"
            raise DataError(what, where=str(file), fix="run `git lfs pull` in its repository, or download it again")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a model.

    Raises:
        DataError: the file is damaged.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file.name} is no JSON: {error}", where=str(file), fix=AGAIN) from error
    if not isinstance(values, dict):
        raise DataError(f"{file.name} is not a JSON object", where=str(file), fix=AGAIN)
    return values


def _check_precision(config: Mapping[str, Any], folder: Path, what: str) -> None:
    """Quantised weights have no gradient; loaded without their library they would be other numbers."""
    parts = [config, *(x for x in config.values() if isinstance(x, dict))]
    found = next((x for part in parts if isinstance(x := part.get("quantization_config"), dict)), None)
    files = ("quantize_config.json", "quant_config.json")  # of older quantisers
    if found is None and not any((folder / name).is_file() for name in files):
        return
    method = str((found or {}).get("quant_method", "by its quantize_config.json"))
    fix = f"use the {what} in float32, float16 or bfloat16"
    raise DataError(f"the weights of the {what} are quantised ({excerpt(method)})", where=str(folder), fix=fix)


def _check_weights(folder: Path, what: str) -> None:
    for index in sorted(folder.glob("*.safetensors.index.json")):
        named = set(read_json(index).get("weight_map", {}).values())
        missing = sorted(name for name in named if not (folder / name).is_file())
        if missing:
            lacks = f"{len(missing)} of {len(named)} files of weights are missing, the first is {missing[0]}"
            raise DataError(lacks, where=str(index), fix="download them again")
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        _check_whole(file)
    if not files:
        pickles = sorted(file.name for suffix in ("*.bin", "*.pt", "*.pth") for file in folder.glob(suffix))
        found = f"its weights are pickles ({pickles[0]}), which are never loaded" if pickles else "it has no weights"
        fix = "convert them to *.safetensors" if pickles else "download its *.safetensors files"
        raise DataError(f"the {what} cannot be loaded: {found}", where=str(folder), fix=fix)


def _check_whole(file: Path) -> None:
    """Compare the size of a safetensors file with its own header: length, then JSON with the places of tensors."""
    with file.open("rb") as opened:
        length, size = int.from_bytes(opened.read(8), "little"), file.stat().st_size
        if length > size:
            raise DataError(f"{file.name} is incomplete, or no safetensors file", where=str(file), fix=AGAIN)
        try:
            header = json.loads(opened.read(length))
            ends = [value["data_offsets"][1] for key, value in header.items() if key != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError, LookupError) as error:
            raise DataError(f"{file.name} is no safetensors file", where=str(file), fix=AGAIN) from error
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        raise DataError(f"{file.name} has {size:,} of {whole:,} bytes", where=str(file), fix=AGAIN)


def read_config(folder: Path, what: str = "model") -> Any:
    """The configuration of a model.

    Raises:
        DataError: it cannot be read, or its kind is unknown to transformers.
    """
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, **LOCAL)
    except Exception as error:  # a wrong value may raise anything
        raise unreadable(error, folder, what) from error


def read_model(
    kind: Any, folder: Path, what: str = "model", *, spare: Named = _none, new: Named = _none, **options: Any
) -> Any:
    """Load a model whose weights are all in its files, and nothing else is.

    Args:
        kind: one of the Auto classes of transformers.
        spare: whether a weight may be left over, such as the head of another task.
        new: whether a weight may be missing, such as a head that is to be trained.

    Raises:
        DataError: it cannot be read, weights would be made up or are of other shapes, or weights are left over.
    """
    try:
        with quiet():
            model, report = kind.from_pretrained(
                folder,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below
                **LOCAL,
                **options,
            )
    except Exception as error:  # damaged files may raise anything
        raise unreadable(error, folder, what) from error
    _check_report(report, folder, what, spare, new)
    return model.eval()


def _check_report(report: Mapping[str, Any], folder: Path, what: str, spare: Named, new: Named) -> None:
    missing = [name for name in sorted(report["missing_keys"]) if not new(name)]
    left = [name for name in sorted(report["unexpected_keys"]) if not spare(name)]
    changed = sorted(
        str(key[0]) if isinstance(key, Sequence | tuple) else str(key) for key in report["mismatched_keys"]
    )
    if missing:
        kind = "head" if any(name.startswith("score") for name in missing) else "weights"
        lacks = f"the {what} lacks its {kind}: {_few(missing)} would be newly initialised"
        raise DataError(lacks, where=str(folder), fix=f"give the folder of a whole {what}")
    if changed:
        raise DataError(f"weights have other shapes than the configuration: {_few(changed)}", where=str(folder))
    foreign = [name for name in left if not HARMLESS.search(name)]
    if foreign:
        more = f"the files hold weights that this {what} does not have: {_few(foreign)}"
        raise DataError(more, where=str(folder), fix="check that config.json belongs to these weights")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def read_tokenizer(folder: Path, what: str = "model") -> Any:
    """The tokenizer of a model, with the chat template of the model's processor if it has none of its own.

    Raises:
        DataError: it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # damaged files and missing libraries may raise anything
        raise unreadable(error, folder, f"tokenizer of the {what}") from error
    if not tokenizer.chat_template and (folder / OLD_TEMPLATE).is_file():
        tokenizer.chat_template = read_json(folder / OLD_TEMPLATE).get("chat_template")
    return tokenizer


def check_tokenizer(tokenizer: Any, rows: int, folder: Path, what: str = "model") -> None:
    """Refuse a tokenizer that makes ids for which the model has no embedding; a larger embedding is common.

    Special tokens beyond the embedding are accepted, since no text becomes one (as `<image>` of a text-only model).

    Args:
        rows: rows of the embedding.

    Raises:
        DataError: a token of a text, or the end of a sequence, has no embedding.
    """
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    known = max(len(tokenizer), 1 + max(tokenizer.added_tokens_decoder, default=-1))
    beyond = [i for i in range(rows, known) if i not in special]
    ends = [i for i in (tokenizer.eos_token_id,) if i is not None and i >= rows]
    if beyond or ends:
        token = tokenizer.convert_ids_to_tokens((beyond or ends)[0])
        raise DataError(
            f"the tokenizer is larger than the {what}: {token!r} has the id {(beyond or ends)[0]}, the embedding"
            f" {rows} rows",
            where=str(folder),
            fix="use the tokenizer that the weights were trained with, or resize the embedding",
        )


def unreadable(error: Exception, folder: Path, what: str) -> DataError:
    """What a library says on a model that it cannot load: the first line, without the path, which `where` gives."""
    said = str(error).strip() or type(error).__name__
    line = said.splitlines()[0].replace(str(folder), folder.name)
    return DataError(
        f"the {what} cannot be loaded: {line[:200]}", where=str(folder), fix="give a folder of a whole model"
    )
