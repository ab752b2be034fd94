"""The cache of converted models on this machine, and quiet use of the libraries that load them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEIGHTS_RECORD = "model.sha256"  # SHA-256 of the converted weights, stored next to them


def cache_root() -> Path:
    """Folder of converted models: `$PREFLOOP_CACHE` or ~/.cache/prefloop."""
    return Path(os.environ.get("PREFLOOP_CACHE") or "~/.cache/prefloop").expanduser()


@contextmanager
def no_bars() -> Iterator[None]:
    """Disable the progress bars of transformers, which are useless for a second of work."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
