"""The cache of converted models on this machine, and quiet use of the libraries that load them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEIGHTS_RECORD = "model.sha256"  # SHA-256 of the converted weights, stored next to them


def cache_root() -> Path:
    """Folder of converted models: `$PREFLOOP_CACHE` or ~/.cache/prefloop."""
    return Path(os.environ.get("PREFLOOP_CACHE") or "~/.cache/prefloop").expanduser()


@contextmanager
def quiet() -> Iterator[None]:
    """Disable the progress bars, reports and warnings about the future of the libraries that load and save models: our
    own errors say what is wrong with a model."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
