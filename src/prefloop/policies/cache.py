"""Where converted models are kept on this machine, and how their libraries are kept quiet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEIGHTS_RECORD = "model.sha256"  # SHA-256 of the converted weights, beside them


def cache_root() -> Path:
    """Where converted models are kept: `$PREFLOOP_CACHE` or ~/.cache/prefloop."""
    return Path(os.environ.get("PREFLOOP_CACHE") or "~/.cache/prefloop").expanduser()


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
