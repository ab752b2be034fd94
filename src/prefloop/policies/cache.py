"""Where models are kept on this machine, how a folder appears whole or not at all, and the hashes of weights."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEIGHTS_RECORD = "model.sha256"  # SHA-256 of the converted weights, beside them


def cache_root() -> Path:
    """Where converted models are kept: `$PREFLOOP_CACHE` or ~/.cache/prefloop."""
    return Path(os.environ.get("PREFLOOP_CACHE") or "~/.cache/prefloop").expanduser()


def file_hash(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def no_bars() -> Iterator[None]:
    """Without the progress bars of transformers, which are of no use for a second of work."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `folder`, which is empty or not there, in one step if the body succeeds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
