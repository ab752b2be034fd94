"""`prefloop export RUN OUT`: a run's model as a plain Hugging Face folder with a model card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from prefloop.cli.options import Output, require, require_folder
from prefloop.core.errors import UserError
from prefloop.core.wrapping import wrapped
from prefloop.runs.schema import Flag

NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Write the model of a run as a plain Hugging Face folder with a model card.

    transformers and the engines that read its folders load it; an adapter is loaded by peft. Nothing is sent anywhere
    unless --push is given.
    """

    run: Annotated[str, Flag(positional=True, metavar="RUN")]
    """Run folder, or RUN/best."""
    out: Annotated[Path, Flag(positional=True, metavar="OUT")]
    """New folder."""
    merge: bool = False
    """The whole model, adapters merged into its weights: the default."""
    adapter: bool = False
    """The LoRA adapter alone, for peft."""
    base: Annotated[str, Flag(metavar="OWNER/NAME")] = ""
    """Name of the base model on the hub, for card and adapter (default: as in the run, if that is a hub name)."""
    license: Annotated[str, Flag(metavar="ID")] = ""
    """License of the base model, such as apache-2.0 (default: as its card states)."""
    push: Annotated[str, Flag(metavar="OWNER/NAME")] = ""
    """Then upload the folder to this new, private repository of the Hugging Face hub."""
    public: bool = False
    """Make that repository public."""

    def __post_init__(self) -> None:
        for flag in ("base", "push"):
            value = getattr(self, flag)
            require(not value or NAME.fullmatch(value) is not None, flag, value, "give OWNER/NAME")
        if self.merge and self.adapter:
            raise UserError("--merge and --adapter exclude each other", where="command line", fix="give one of them")
        if self.public and not self.push:
            raise UserError("--public needs --push", where="command line", fix="name the repository: --push OWNER/NAME")
        require_folder(self.out)


def run(options: Options) -> int:
    """Write the folder, and upload it if that is wanted.

    Raises:
        UserError, DataError: nothing was written; or it was written, and not uploaded.
    """
    from prefloop.policies.folder import check_files
    from prefloop.policies.pretrained import hub_name
    from prefloop.report.model_card import About, model_card
    from prefloop.runs import exported, hub
    from prefloop.runs.folder import read_manifest

    source = exported.source(options.run, adapter=options.adapter)
    exported.require_empty(options.out)
    check_files(source.model)
    path = str(read_manifest(source.run)["model"]["path"])
    base = options.base or hub_name(source.base or path)
    license = options.license or exported.license_of(path)
    name, place = Path(options.push or options.out.absolute()).name, options.push or str(options.out)
    card = model_card(source.run, About(name, place, options.adapter, base, license, source.model.name))
    exported.write(source, options.out, card, base=base)
    notes = _notes(options, source.base, base, license)
    address = hub.push(options.out, options.push, public=options.public) if options.push else None
    files = sorted(file.name for file in options.out.iterdir())
    record = {"folder": str(options.out), "files": files, "notes": notes, "pushed": address}
    what = "adapter" if options.adapter else "model"
    lines = [f"{what} and card: {options.out}", *notes, *([f"pushed: {address}"] if address else [])]
    options.show(lambda: record, lambda: print("\n".join(map(wrapped, lines))))
    return 0


def _notes(options: Options, named: str, base: str, license: str) -> list[str]:
    """What others would miss.

    Args:
        named: what the adapter's own file gives as its base model.
    """
    said = []
    if options.adapter and not base:
        said.append(f"the adapter names its base model as {named}, a folder of this machine: --base OWNER/NAME")
    if not license:
        said.append("the license of the base model is not known, and the card says so: --license ID")
    return said
